//! The interfaces of a device: its TUN, and the TAP of its overlay if it has one. Each is persistent: when the engine ends, however it ends, the
//! interface stays with its addresses, routes and eBPF links, and a successor attaches to it.
//!
//! An interface of the wanted name that is no TUN, or that does not carry our alias, belongs to
//! somebody else: it is refused and not touched. A new interface becomes persistent only after it
//! carries the alias, so no crash leaves one behind that we would not know again.
//!
//! It is attached with a virtio header before every packet, so that super-packets and unfinished
//! checksums cross it ([`super::offload`]). What the kernel does not offer is not asked for again;
//! [`TunOffers`] says what it does.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread;
use std::time::{Duration, Instant};

use super::offers::{EngineOptions, Offload};
use super::offload::coalesce::{PARTS_MAX, Pieces};
use super::offload::virtio;
use crate::netdev;

/// How long to wait for the kernel to let go of the interface of a process that just died.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);
const BUSY_POLL: Duration = Duration::from_millis(10);

/// Packets or super-packets that wait in an interface that we made: a fifth of a second of 20,000 packets/s, while a successor takes over. The
/// kernel's own default is 500.
const QUEUE_LENGTH: u32 = 4_096;

/// Why there is no TUN.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunError {
    #[error("interface {0} exists and is not a TUN interface")]
    NotTun(String),
    #[error("interface {name} exists with alias {found:?}; ours would have {wanted:?}")]
    Foreign { name: String, found: String, wanted: String },
    #[error("interface {0} is in use by another process")]
    Busy(String),
    #[error("{action} for interface {name}")]
    System {
        action: &'static str,
        name: String,
        #[source]
        source: io::Error,
    },
}

mod ioctl {
    nix::ioctl_write_ptr_bad!(
        set_iff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(set_persist, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
    nix::ioctl_write_int_bad!(set_offload, nix::request_code_write!(b'T', 208, size_of::<libc::c_uint>()));
    nix::ioctl_write_ptr_bad!(
        set_header_size,
        nix::request_code_write!(b'T', 216, size_of::<libc::c_int>()),
        libc::c_int
    );
}

/// `TUN_F_*` of `linux/if_tun.h`.
const F_CHECKSUM: libc::c_int = 0x01;
const F_TSO: libc::c_int = 0x02 | 0x04;
/// CWR in the first segment of a super-packet only, which is what splitting does anyway.
const F_TSO_ECN: libc::c_int = 0x08;
const F_USO: libc::c_int = 0x20 | 0x40;

/// What the kernel gives on the interface, and we use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TunOffers {
    /// Every packet has a virtio header.
    pub(super) header: bool,
    pub(super) checksum: bool,
    pub(super) tso: bool,
    pub(super) uso: bool,
}

/// What crosses an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    /// IP packets: a TUN interface.
    Ip,
    /// Ethernet frames: a TAP interface.
    Ethernet,
}

impl Layer {
    fn flag(self) -> libc::c_int {
        match self {
            Self::Ip => libc::IFF_TUN,
            Self::Ethernet => libc::IFF_TAP,
        }
    }
}

/// An open interface: a virtio header and one packet or super-packet per read and write, never
/// blocking.
#[derive(Debug)]
pub(super) struct Tun {
    file: File,
    name: String,
    index: u32,
    offers: TunOffers,
}

impl Tun {
    /// Attaches to the interface of that name and alias, or makes it. Not yet persistent if made.
    /// True: it was made.
    pub(super) fn open(
        layer: Layer,
        name: &str,
        alias: &str,
        options: &EngineOptions,
    ) -> Result<(Self, bool), TunError> {
        let system = |action| {
            let name = name.to_owned();
            move |source| TunError::System { action, name, source }
        };
        let before = netdev::find(name).map_err(system("look up"))?;
        if let Some(link) = &before {
            if !link.is_tun {
                return Err(TunError::NotTun(name.to_owned()));
            }
            let found = link.alias.clone().unwrap_or_default();
            if found != alias {
                let (name, wanted) = (name.to_owned(), alias.to_owned());
                return Err(TunError::Foreign { name, found, wanted });
            }
        }
        let (file, header) = attach(layer, name, options.allows(Offload::TunHeader))?;
        let offers = set_offloads(&file, header, options).map_err(system("set offloads"))?;
        let link = netdev::find(name)
            .map_err(system("look up"))?
            .ok_or_else(|| system("look up")(io::ErrorKind::NotFound.into()))?;
        if before.is_none() {
            netdev::set_queue(link.index, QUEUE_LENGTH).map_err(system("set queue length"))?;
            netdev::set_alias(link.index, alias).map_err(system("set alias"))?;
        }
        tracing::debug!(device = name, ?offers, "TUN");
        Ok((Self { file, name: name.to_owned(), index: link.index, offers }, before.is_none()))
    }

    /// The interface of a former process, by its descriptor, its index, and whether it was attached with a header.
    pub(super) fn take_up(
        file: File,
        name: &str,
        (index, header): (u32, bool),
        options: &EngineOptions,
    ) -> Self {
        // What a deleted interface offers is nothing; its lane notices.
        let offers =
            set_offloads(&file, header, options).unwrap_or(TunOffers { header, ..TunOffers::default() });
        tracing::debug!(device = name, ?offers, "TUN taken over");
        Self { file, name: name.to_owned(), index, offers }
    }

    /// Whether the interface outlives this process.
    pub(super) fn set_persistent(&self, persistent: bool) -> Result<(), TunError> {
        // SAFETY: the descriptor is an attached TUN; the argument is a plain integer.
        unsafe { ioctl::set_persist(self.file.as_raw_fd(), i32::from(persistent)) }.map_err(|errno| {
            TunError::System { action: "make persistent", name: self.name.clone(), source: errno.into() }
        })?;
        Ok(())
    }

    /// Interface index.
    pub(super) fn index(&self) -> u32 {
        self.index
    }

    /// What the kernel gives on it.
    pub(super) fn offers(&self) -> TunOffers {
        self.offers
    }

    /// Takes one packet or super-packet that the kernel routed here, behind its virtio header: the
    /// result is the length of both. `WouldBlock` if there is none.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.offers.header {
            return (&self.file).read(buffer);
        }
        let (header, packet) = buffer.split_at_mut(virtio::HEADER);
        header.fill(0);
        Ok(virtio::HEADER + (&self.file).read(packet)?)
    }

    /// Gives one packet or super-packet to the kernel, as if it had arrived on the interface. Its
    /// pieces lie in `buffer`, behind `link`, the link-layer header of a TAP. Without headers on the interface it must be a
    /// plain packet.
    pub(super) fn send(
        &self,
        header: virtio::Header,
        link: &[u8],
        buffer: &[u8],
        pieces: Pieces<'_>,
    ) -> io::Result<usize> {
        let header = header.to_bytes();
        let mut slices = [IoSlice::new(&[]); PARTS_MAX + 2];
        let mut count = 0;
        if self.offers.header {
            slices[0] = IoSlice::new(&header);
            count = 1;
        }
        if !link.is_empty() {
            slices[count] = IoSlice::new(link);
            count += 1;
        }
        for ((at, length), slice) in pieces.zip(&mut slices[count..]) {
            *slice = IoSlice::new(&buffer[at..at + length]);
            count += 1;
        }
        (&self.file).write_vectored(&slices[..count])
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// True if the error of a read means that the interface was deleted.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
}

/// Asks for what may be used, and for less where the kernel refuses. A persistent interface keeps
/// what its former engine asked for: what is not wanted is taken back.
fn set_offloads(file: &File, header: bool, options: &EngineOptions) -> io::Result<TunOffers> {
    if header {
        let size = libc::c_int::try_from(virtio::HEADER).unwrap_or_default();
        // SAFETY: the descriptor is an attached TUN; the kernel reads one int.
        unsafe { ioctl::set_header_size(file.as_raw_fd(), &raw const size) }?;
    }
    let allowed = |offload, flags| if header && options.allows(offload) { flags } else { 0 };
    let checksum = allowed(Offload::TunChecksum, F_CHECKSUM);
    let tso = allowed(Offload::TunTso, F_TSO | F_TSO_ECN);
    let uso = allowed(Offload::TunUso, F_USO);
    for wanted in [checksum | tso | uso, checksum | tso, checksum, 0] {
        // SAFETY: the descriptor is an attached TUN; the argument is a plain integer.
        match unsafe { ioctl::set_offload(file.as_raw_fd(), wanted) } {
            Ok(_) => {
                let has = |flags| wanted & flags == flags && flags != 0;
                return Ok(TunOffers { header, checksum: has(F_CHECKSUM), tso: has(F_TSO), uso: has(F_USO) });
            }
            Err(nix::Error::EINVAL) if wanted != 0 => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::ErrorKind::InvalidInput.into())
}

/// Attaches; the second is whether packets have a virtio header.
fn attach(layer: Layer, name: &str, header: bool) -> Result<(File, bool), TunError> {
    let system = |action, source| TunError::System { action, name: name.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(|source| system("open /dev/net/tun", source))?;
    // SAFETY: ifreq is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = from.cast_signed();
    }
    let deadline = Instant::now() + BUSY_WAIT_MAX;
    loop {
        let flags = layer.flag() | libc::IFF_NO_PI | if header { libc::IFF_VNET_HDR } else { 0 };
        request.ifr_ifru.ifru_flags =
            i16::try_from(flags).map_err(|_| system("attach", io::ErrorKind::InvalidInput.into()))?;
        // SAFETY: the descriptor is open and the request outlives the call.
        match unsafe { ioctl::set_iff(file.as_raw_fd(), &raw const request) } {
            Ok(_) => return Ok((file, header)),
            Err(nix::Error::EBUSY) if Instant::now() < deadline => thread::sleep(BUSY_POLL),
            Err(nix::Error::EBUSY) => return Err(TunError::Busy(name.to_owned())),
            Err(nix::Error::EINVAL) => return Err(TunError::NotTun(name.to_owned())),
            Err(errno) => return Err(system("attach", errno.into())),
        }
    }
}
