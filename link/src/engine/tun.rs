//! The TUN interface of a device. It is persistent: when the engine ends, however it ends, the
//! interface stays with its addresses, routes and eBPF links, and a successor attaches to it.
//!
//! An interface of the wanted name that is no TUN, or that does not carry our alias, belongs to
//! somebody else: it is refused and not touched. A new interface becomes persistent only after it
//! carries the alias, so no crash leaves one behind that we would not know again.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::thread;
use std::time::{Duration, Instant};

use crate::netdev;

/// How long to wait for the kernel to let go of the interface of a process that just died.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);
const BUSY_POLL: Duration = Duration::from_millis(10);

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
}

/// An open TUN interface: packets without any header before them, one per read and write, never
/// blocking.
#[derive(Debug)]
pub(super) struct Tun {
    file: File,
    name: String,
    index: u32,
}

impl Tun {
    /// Attaches to the interface of that name and alias, or makes it. Not yet persistent if made.
    /// True: it was made.
    pub(super) fn open(name: &str, alias: &str) -> Result<(Self, bool), TunError> {
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
        let file = attach(name)?;
        let link = netdev::find(name)
            .map_err(system("look up"))?
            .ok_or_else(|| system("look up")(io::ErrorKind::NotFound.into()))?;
        if before.is_none() {
            netdev::set_alias(link.index, alias).map_err(system("set alias"))?;
        }
        Ok((Self { file, name: name.to_owned(), index: link.index }, before.is_none()))
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

    /// Takes one packet that the kernel routed here; `WouldBlock` if there is none.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Gives one packet to the kernel, as if it had arrived on the interface.
    pub(super) fn send(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// True if the error of a read means that the interface was deleted.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
}

fn attach(name: &str) -> Result<File, TunError> {
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
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags =
        i16::try_from(flags).map_err(|_| system("attach", io::ErrorKind::InvalidInput.into()))?;
    let deadline = Instant::now() + BUSY_WAIT_MAX;
    loop {
        // SAFETY: the descriptor is open and the request outlives the call.
        match unsafe { ioctl::set_iff(file.as_raw_fd(), &raw const request) } {
            Ok(_) => return Ok(file),
            Err(nix::Error::EBUSY) if Instant::now() < deadline => thread::sleep(BUSY_POLL),
            Err(nix::Error::EBUSY) => return Err(TunError::Busy(name.to_owned())),
            Err(nix::Error::EINVAL) => return Err(TunError::NotTun(name.to_owned())),
            Err(errno) => return Err(system("attach", errno.into())),
        }
    }
}
