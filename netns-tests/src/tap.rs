//! A wire between two namespaces that a program carries: a tap at each end, as a virtual machine's monitor has them.
//!
//! Frames are what the wire is made of here, so tags are seen inline. With offloads each frame travels behind a virtio
//! header (virtio 1.2 §5.1.6, 10 bytes without merged buffers) and may be a super-frame whose checksum is still to be
//! written; without them both kernels write whole frames, as for a program that knows nothing of such things.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::Ns;

/// `struct virtio_net_hdr`, without the number of merged buffers.
const HEADER_BYTES: usize = 10;
/// Where `gso_type` is in it; 0 is no super-frame.
const GSO_TYPE: usize = 1;
/// Two addresses; then the EtherType.
const ADDRESSES_BYTES: usize = 12;
/// A super-frame with everything before it.
const BUFFER_BYTES: usize = 70_000;
/// How soon a carrier notices that the wire is gone, in milliseconds.
const LOOK_MS: u16 = 50;

/// What has crossed in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crossed {
    /// Frames that the other end took.
    pub frames: u64,
    /// Those with an 802.1Q or 802.1ad tag.
    pub tagged: u64,
    /// Super-frames among them.
    pub aggregates: u64,
    /// The largest, in bytes, tag and Ethernet header included.
    pub largest: u64,
    /// Frames that the other end refused.
    pub refused: u64,
}

#[derive(Debug, Default)]
struct Counts {
    frames: AtomicU64,
    tagged: AtomicU64,
    aggregates: AtomicU64,
    largest: AtomicU64,
    refused: AtomicU64,
}

/// The wire and its two taps; both are gone when it is dropped.
#[derive(Debug)]
pub struct TapWire {
    counts: [Arc<Counts>; 2],
    end: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
}

impl TapWire {
    /// Interface `a.1` in namespace `a.0` to interface `b.1` in `b.0`, both up.
    ///
    /// # Errors
    /// When a name is taken, or the kernel has no taps.
    pub fn start(a: (&Ns, &str), b: (&Ns, &str), offloads: bool) -> Result<Self> {
        let (a_end, b_end) = (open(a, offloads)?, open(b, offloads)?);
        for (ns, name) in [a, b] {
            ns.ip(&format!("link set {name} up"))?;
        }
        let mut wire =
            Self { counts: [Arc::default(), Arc::default()], end: Arc::default(), carriers: vec![] };
        let ways = [(a_end.try_clone()?, b_end.try_clone()?), (b_end, a_end)];
        for ((from, to), counts) in ways.into_iter().zip(&wire.counts) {
            let (counts, end) = (Arc::clone(counts), Arc::clone(&wire.end));
            let header = if offloads { HEADER_BYTES } else { 0 };
            wire.carriers.push(std::thread::spawn(move || carry(from, to, header, &counts, &end)));
        }
        Ok(wire)
    }

    /// What went from the first end to the second, and what came back.
    #[must_use]
    pub fn crossed(&self) -> [Crossed; 2] {
        self.counts.each_ref().map(|counts| {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            Crossed {
                frames: read(&counts.frames),
                tagged: read(&counts.tagged),
                aggregates: read(&counts.aggregates),
                largest: read(&counts.largest),
                refused: read(&counts.refused),
            }
        })
    }
}

impl Drop for TapWire {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        for carrier in self.carriers.drain(..) {
            let _ = carrier.join();
        }
    }
}

/// A fresh tap in the namespace; it lives as long as the file.
fn open((ns, name): (&Ns, &str), offloads: bool) -> Result<File> {
    ensure!(name.len() < libc::IFNAMSIZ, "{name} is too long for an interface");
    ns.run(|| {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open("/dev/net/tun").context("/dev/net/tun")?;
        // SAFETY: all-zero is a valid ifreq.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let header = if offloads { libc::IFF_VNET_HDR } else { 0 };
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | header) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes an ifreq that lives through the call.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        ensure!(made == 0, "tap {name}: {}", std::io::Error::last_os_error());
        if offloads {
            let taken = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
            // SAFETY: TUNSETOFFLOAD takes a number.
            let set =
                unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(taken)) };
            ensure!(set == 0, "offloads of tap {name}: {}", std::io::Error::last_os_error());
        }
        Ok(file)
    })
}

/// Reads frames at one end and writes them at the other until the wire ends.
fn carry(mut from: File, mut to: File, header: usize, counts: &Counts, end: &AtomicBool) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while !end.load(Ordering::SeqCst) {
        let Ok(length) = from.read(&mut buffer) else {
            let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(LOOK_MS));
            continue;
        };
        let frame = &buffer[..length];
        if to.write(frame).is_ok_and(|written| written == length) {
            counts.note(frame, header);
        } else {
            counts.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Counts {
    fn note(&self, bytes: &[u8], header: usize) {
        let (before, frame) = bytes.split_at(header.min(bytes.len()));
        let tag = frame.get(ADDRESSES_BYTES..ADDRESSES_BYTES + 2);
        let tagged = matches!(tag, Some([0x81, 0x00] | [0x88, 0xa8]));
        let aggregate = before.get(GSO_TYPE).is_some_and(|kind| *kind != 0);
        self.frames.fetch_add(1, Ordering::Relaxed);
        self.tagged.fetch_add(u64::from(tagged), Ordering::Relaxed);
        self.aggregates.fetch_add(u64::from(aggregate), Ordering::Relaxed);
        self.largest.fetch_max(frame.len() as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_crosses_is_told_apart() {
        let counts = Counts::default();
        let frame = [&[0; ADDRESSES_BYTES][..], &[0x81, 0x00], &[0; 60]].concat();
        counts.note(&frame, 0);
        counts.note(&[&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], &frame, &[0; 40_000]].concat(), HEADER_BYTES);
        counts.note(&[&[0; 10][..], &[0; 60]].concat(), HEADER_BYTES);
        let read = [&counts.frames, &counts.tagged, &counts.aggregates, &counts.largest];
        assert_eq!(read.map(|count| count.load(Ordering::Relaxed)), [3, 2, 1, 40_074]);
    }
}
