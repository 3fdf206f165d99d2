//! Raw frames over AF_PACKET: putting one on an interface, and seeing which ones arrive.
//!
//! The kernel takes an 802.1Q tag out of a received frame before we see it and tells it beside the bytes
//! (`PACKET_AUXDATA`); [`Capture`] puts it back, so a frame looks as it did on the wire.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{Ns, wait_until};

/// How many frames a capture keeps; later ones are only counted.
const KEPT_MAX: usize = 1000;
const SNAP_BYTES: usize = 65_536;
/// `struct tpacket_auxdata` (linux/if_packet.h): seven fields in 20 bytes.
const AUXDATA_BYTES: usize = 20;

fn packet_socket(ns: &Ns, interface: &str) -> Result<OwnedFd> {
    ns.run(|| {
        let index =
            nix::net::if_::if_nametoindex(interface).with_context(|| format!("no interface {interface}"))?;
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket(2); the descriptor becomes ours at once.
        let socket = unsafe {
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            let fd = libc::socket(libc::AF_PACKET, kind, i32::from(protocol));
            ensure!(fd >= 0, "packet socket: {}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: all-zero is a valid sockaddr_ll; bind(2) with its true size.
        let bound = unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = protocol;
            address.sll_ifindex = index as i32;
            let length = size_of::<libc::sockaddr_ll>() as u32;
            libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length)
        };
        ensure!(bound == 0, "bind to {interface}: {}", std::io::Error::last_os_error());
        Ok(socket)
    })
}

/// Sends one Ethernet frame out of an interface, as it is.
///
/// # Errors
/// When the interface is missing or the kernel refuses the frame.
pub fn inject(ns: &Ns, interface: &str, frame: &[u8]) -> Result<()> {
    Injector::open(ns, interface)?.send(frame)
}

/// Sends many: opening a packet socket and closing it takes milliseconds.
#[derive(Debug)]
pub struct Injector {
    socket: OwnedFd,
    interface: String,
}

impl Injector {
    /// For frames out of this interface.
    ///
    /// # Errors
    /// When the interface is missing.
    pub fn open(ns: &Ns, interface: &str) -> Result<Self> {
        Ok(Self { socket: packet_socket(ns, interface)?, interface: interface.to_owned() })
    }

    /// Sends one Ethernet frame, as it is.
    ///
    /// # Errors
    /// When the kernel refuses the frame.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        // SAFETY: send(2) from a live slice.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        ensure!(
            usize::try_from(sent) == Ok(frame.len()),
            "send a frame on {}: {}",
            self.interface,
            std::io::Error::last_os_error()
        );
        Ok(())
    }
}

/// A frame as it was on the wire, tag included.
pub type Frame = Vec<u8>;

#[derive(Debug, Default)]
struct Seen {
    count: u64,
    frames: Vec<Frame>,
}

/// Watches an interface for frames that match, until dropped. Only received frames are seen, not those
/// sent by this machine.
#[derive(Debug)]
pub struct Capture {
    seen: Arc<Mutex<Seen>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts watching; frames sent after this returns are seen.
    ///
    /// # Errors
    /// When the interface is missing.
    pub fn start(ns: &Ns, interface: &str, wanted: impl Fn(&[u8]) -> bool + Send + 'static) -> Result<Self> {
        let socket = packet_socket(ns, interface)?;
        prepare_capture(&socket)?;
        let (seen, end) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let (into, stop) = (Arc::clone(&seen), Arc::clone(&end));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let Some(frame) = receive(&socket).filter(|frame| wanted(frame)) else { continue };
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                seen.count += 1;
                if seen.frames.len() < KEPT_MAX {
                    seen.frames.push(frame);
                }
            }
        });
        Ok(Self { seen, end, thread: Some(thread) })
    }

    /// How many matched so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// The first thousand that matched.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).frames.clone()
    }

    /// Waits for at least one that matches; the first.
    ///
    /// # Errors
    /// When none comes within `limit`.
    pub fn first(&self, limit: Duration) -> Result<Frame> {
        wait_until(limit, "a matching frame", || self.frames().into_iter().next())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn prepare_capture(socket: &OwnedFd) -> Result<()> {
    let one: libc::c_int = 1;
    let buffer: libc::c_int = 8 << 20;
    let poll = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
    set(socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &one)?;
    set(socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &one)?;
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &buffer)?;
    set(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &poll)
}

fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> Result<()> {
    let length = size_of::<T>() as u32;
    // SAFETY: setsockopt(2) with a live value of the type the option wants.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const *value).cast(), length) };
    ensure!(done == 0, "socket option {option}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// One frame, its tag put back; `None` when none came in time.
fn receive(socket: &OwnedFd) -> Option<Frame> {
    let mut buffer = vec![0_u8; SNAP_BYTES];
    let mut control = [0_u64; 16];
    // SAFETY: recvmsg(2) into live buffers of the sizes given; the control messages are walked with the
    // C library's own macros, which stay within msg_controllen.
    unsafe {
        let mut io = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut io;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0);
        buffer.truncate(usize::try_from(length).ok()?);
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(current) = header.as_ref() {
            if (current.cmsg_level, current.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
                let data = std::slice::from_raw_parts(libc::CMSG_DATA(header), AUXDATA_BYTES);
                put_tag_back(&mut buffer, data);
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Some(buffer)
}

/// Fields of `struct tpacket_auxdata` by offset: status at 0, the tag at 16, its ethertype at 18.
fn put_tag_back(frame: &mut Frame, auxdata: &[u8]) {
    let status = u32::from_ne_bytes([auxdata[0], auxdata[1], auxdata[2], auxdata[3]]);
    if status & libc::TP_STATUS_VLAN_VALID == 0 || frame.len() < 12 {
        return;
    }
    let tci = u16::from_ne_bytes([auxdata[16], auxdata[17]]);
    let told = u16::from_ne_bytes([auxdata[18], auxdata[19]]);
    let tpid = if status & libc::TP_STATUS_VLAN_TPID_VALID == 0 { 0x8100 } else { told };
    let tag = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
    frame.splice(12..12, tag);
}

/// The VLAN of a frame, if it is tagged with 802.1Q.
#[must_use]
pub fn vid(frame: &[u8]) -> Option<u16> {
    let tag = frame.get(12..16)?;
    (tag[..2] == [0x81, 0x00]).then(|| u16::from_be_bytes([tag[2], tag[3]]) & 0x0fff)
}

/// Building frames by hand, checksums right: what a spoofer sends.
pub mod build {
    use std::net::Ipv4Addr;

    /// An Ethernet frame.
    #[must_use]
    pub fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
        [&to[..], &from[..], &ethertype.to_be_bytes(), payload].concat()
    }

    /// An IPv4 packet with a TTL of 64 (RFC 791 §3.1).
    #[must_use]
    pub fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + payload.len()).expect("a packet of at most 64 KiB");
        let mut header = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0];
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header.extend(from.octets());
        header.extend(to.octets());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [header, payload.to_vec()].concat()
    }

    /// A UDP datagram without a checksum (RFC 768: zero means none).
    #[must_use]
    pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).expect("a datagram of at most 64 KiB");
        let header = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
        [header, payload.to_vec()].concat()
    }

    /// A VXLAN header (RFC 7348 §5) before an inner frame.
    #[must_use]
    pub fn vxlan(vni: u32, frame: &[u8]) -> Vec<u8> {
        [&[0x08, 0, 0, 0][..], &(vni << 8).to_be_bytes(), frame].concat()
    }

    /// An ICMP echo request (RFC 792).
    #[must_use]
    pub fn icmp_echo(id: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
        let numbers = [id.to_be_bytes(), sequence.to_be_bytes()].concat();
        let mut message = [&[8, 0, 0, 0][..], &numbers, payload].concat();
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }

    /// The Internet checksum (RFC 1071).
    #[must_use]
    pub fn checksum(bytes: &[u8]) -> u16 {
        let words = bytes
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}
