//! The overlay of a device: VXLAN to and from VTEPs behind its peers crosses a TAP of its own, in which a super-packet inside
//! VXLAN is one frame.
//!
//! ```text
//!  TUN:  IP packets. VXLAN comes one packet at a time: kernels do not keep a super-packet whole in a tunnel in a tunnel.
//!  TAP:  virtio header │ Ethernet │ outer IP, UDP, VXLAN │ inner Ethernet │ inner IP …
//!        of the inner super-packet                        \── up to 64 KiB ──▶
//! ```
//!
//! The virtio header speaks of the packet inside. So the outer header is what a segment of the overlay is known by here:
//! who hands a frame in has written it (VNI, VTEPs, DSCP, source port), and the engine repeats it before every packet that the
//! frame stands for, with its lengths. What comes out on the wire is ordinary VXLAN in ordinary WireGuard.
//!
//! Inbound, packets of VXLAN to our VTEP are put together by what is inside and given to the TAP, once the caller says that it
//! takes them there ([`OverlayConfig::inbound`]). Everything else, and all of it until then, goes to the TUN.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::offers::{EngineOptions, Offload};
use super::offload::coalesce::Pieces;
use super::offload::virtio::{self, Partial};
use super::offload::vxlan::{self, ETHERNET_HEADER};
use super::tun::{self, Layer, Tun, TunOffers};
use super::{EngineError, Side, inner_address};
use crate::netdev;
use crate::protocol::OverlayConfig;

/// MTU of the TAP, in octets. Nothing is routed there: frames are handed to it, and their sizes are the caller's matter.
const TAP_MTU: u32 = 9216;

/// The header of every frame that is given to the TAP: from nobody to nobody, then the EtherType of the outer packet.
const LINK_V4: [u8; ETHERNET_HEADER] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x00];
const LINK_V6: [u8; ETHERNET_HEADER] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x86, 0xdd];

/// What crossed the TAP.
#[derive(Debug, Default)]
pub(super) struct Crossed {
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
}

/// The open TAP of an overlay.
#[derive(Debug)]
pub(super) struct Tap {
    tun: Tun,
    lost: AtomicBool,
    pub(super) crossed: Crossed,
}

/// An overlay in use.
#[derive(Debug)]
pub(super) struct Overlay {
    pub(super) config: OverlayConfig,
    pub(super) tap: Arc<Tap>,
}

impl Overlay {
    /// Makes the TAP, or adopts ours of that name and alias. It is persistent from then on.
    pub(super) fn open(config: &OverlayConfig, options: &EngineOptions) -> Result<Self, EngineError> {
        let (tun, _) = Tun::open(Layer::Ethernet, &config.tap, &config.alias, options)?;
        let system = |action| move |source| EngineError::system(action, &config.tap, source);
        if !tun.offers().tso {
            return Err(system("set offloads")(io::ErrorKind::Unsupported.into()));
        }
        // It has no addresses and no neighbours to ask for. A kernel without IPv6 has no such setting.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", config.tap), "1");
        netdev::set_mtu(tun.index(), TAP_MTU).map_err(system("set MTU"))?;
        netdev::set_up(tun.index()).map_err(system("bring up"))?;
        tun.set_persistent(true)?;
        Ok(Self { config: config.clone(), tap: Arc::new(Tap::of(tun)) })
    }

    /// Brings the interface up again if it is down: without it nothing crosses, and nobody else sees to it.
    pub(super) fn keep_up(&self) {
        let is_down = matches!(netdev::find(&self.config.tap), Ok(Some(link)) if link.index == self.tap.index() && !link.up);
        if is_down && let Err(error) = netdev::set_up(self.tap.index()) {
            tracing::debug!(tap = self.config.tap, %error, "the overlay's interface stays down");
        }
    }

    /// The overlay of a former process, by the descriptor of its TAP and the index of that. `None`: this one is not to use any, and
    /// lets it vanish.
    pub(super) fn take_up(
        config: OverlayConfig,
        file: File,
        index: u32,
        options: &EngineOptions,
    ) -> Option<Self> {
        let tun = Tun::take_up(file, &config.tap, (index, true), options);
        if !options.allows(Offload::OverlayTap) {
            if let Err(error) = tun.set_persistent(false) {
                tracing::warn!(tap = config.tap, %error, "the overlay's interface stays");
            }
            return None;
        }
        Some(Self { config, tap: Arc::new(Tap::of(tun)) })
    }

    /// Lets an interface of ours vanish that nobody is going to read. One that is not there, or not ours, stays as it is.
    pub(super) fn discard(config: &OverlayConfig, options: &EngineOptions) {
        if !matches!(netdev::find(&config.tap), Ok(Some(_))) {
            return;
        }
        let opened = Tun::open(Layer::Ethernet, &config.tap, &config.alias, options);
        if let Err(error) = opened.and_then(|(tun, _)| tun.set_persistent(false)) {
            tracing::warn!(tap = config.tap, %error, "the overlay's interface stays");
        }
    }

    /// Octets of the outer header of a packet that is to be given to the TAP: VXLAN to our VTEP. The packet has the length
    /// that its header says.
    pub(super) fn takes(&self, packet: &[u8]) -> Option<usize> {
        if !self.config.inbound {
            return None;
        }
        let outer = vxlan::outer_len(packet)?;
        let ours = vxlan::port(packet) == self.config.port
            && inner_address(packet, Side::Destination) == self.config.vtep;
        ours.then_some(outer)
    }
}

impl Tap {
    fn of(tun: Tun) -> Self {
        Self { tun, lost: AtomicBool::new(false), crossed: Crossed::default() }
    }

    /// Interface index.
    pub(super) fn index(&self) -> u32 {
        self.tun.index()
    }

    /// What the kernel gives on it.
    pub(super) fn offers(&self) -> TunOffers {
        self.tun.offers()
    }

    /// Whether it was deleted.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.tun.as_fd()
    }

    /// Whether the interface outlives this process.
    pub(super) fn set_persistent(&self, persistent: bool) -> Result<(), EngineError> {
        Ok(self.tun.set_persistent(persistent)?)
    }

    /// Takes one frame, as [`Tun::receive`] takes a packet. Behind [`ETHERNET_HEADER`] octets that mean nothing lie a virtio
    /// header and the packet, whose outer header fits its length; the result is the length of both. `None`: it is no packet of
    /// the overlay. An interface that was deleted has nothing any more.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let length = self.tun.receive(buffer).inspect_err(|error| {
            if tun::is_gone(error) {
                self.lost.store(true, Ordering::Release);
            }
        })?;
        self.crossed.reads.fetch_add(1, Ordering::Relaxed);
        self.crossed.read_bytes.fetch_add(length as u64, Ordering::Relaxed);
        Ok(take_off_link(&mut buffer[..length]))
    }

    /// Gives one packet or super-packet of VXLAN to the kernel, as [`Tun::send`] does.
    pub(super) fn send(
        &self,
        header: virtio::Header,
        buffer: &[u8],
        mut pieces: Pieces<'_>,
    ) -> io::Result<()> {
        let whole = pieces;
        let first = pieces.next().and_then(|(at, _)| buffer.get(at)).map_or(0, |first| first >> 4);
        let link = if first == 6 { &LINK_V6 } else { &LINK_V4 };
        let written = self.tun.send(moved(header, ETHERNET_HEADER), link, buffer, whole)?;
        self.crossed.writes.fetch_add(1, Ordering::Relaxed);
        self.crossed.written_bytes.fetch_add(written as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// A virtio header of a packet that now stands behind so many octets more.
fn moved(header: virtio::Header, by: usize) -> virtio::Header {
    let by = u16::try_from(by).unwrap_or_default();
    let further = |at: u16| if at > 0 { at.saturating_add(by) } else { 0 };
    let partial = header.partial.map(|partial| Partial { start: further(partial.start), ..partial });
    virtio::Header { headers: further(header.headers), partial, ..header }
}

/// Takes the link-layer header off a frame with its virtio header: both are moved behind it in place.
fn take_off_link(read: &mut [u8]) -> Option<usize> {
    let header = virtio::Header::parse(read)?;
    let link = u16::try_from(ETHERNET_HEADER).unwrap_or_default();
    let partial = match header.partial {
        Some(partial) => Some(Partial { start: partial.start.checked_sub(link)?, ..partial }),
        None => None,
    };
    let header = virtio::Header { headers: header.headers.saturating_sub(link), partial, ..header };
    let packet = read.get_mut(virtio::HEADER + ETHERNET_HEADER..)?;
    vxlan::outer_len(packet)?;
    vxlan::fit(packet, 0);
    read[ETHERNET_HEADER..ETHERNET_HEADER + virtio::HEADER].copy_from_slice(&header.to_bytes());
    Some(read.len() - ETHERNET_HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::offload::properties::PacketSpec;
    use crate::engine::offload::virtio::Gso;
    use crate::engine::offload::vxlan::tests::around;

    #[test]
    fn a_frame_loses_its_link_layer_and_its_header_speaks_of_the_packet() {
        let packet = around(&PacketSpec::default().build(), false, 100);
        let partial = Some(Partial { start: 14 + 50 + 20, offset: 16 });
        let header = virtio::Header { gso: Gso::Tcp4, segment: 60, headers: 104, partial, valid: false };
        let mut read = [&header.to_bytes()[..], &LINK_V4, &packet].concat();
        // What a kernel leaves there that has cut the frame up: the length of the whole.
        read[virtio::HEADER + ETHERNET_HEADER + 2] ^= 0x40;
        assert_eq!(take_off_link(&mut read), Some(virtio::HEADER + packet.len()));
        let (found, rest) = read[ETHERNET_HEADER..].split_at(virtio::HEADER);
        let found = virtio::Header::parse(found).unwrap();
        assert_eq!(found.partial, Some(Partial { start: 70, offset: 16 }));
        assert_eq!((found.gso, found.segment, found.headers), (Gso::Tcp4, 60, 90));
        assert_eq!(rest, packet);
        assert_eq!(moved(found, ETHERNET_HEADER), header);
    }

    #[test]
    fn other_frames_are_none_of_the_overlay() {
        let plain = PacketSpec::default().build();
        let mut read = [&virtio::Header::PLAIN.to_bytes()[..], &LINK_V4, &plain].concat();
        assert_eq!(take_off_link(&mut read), None);
        for length in 0..virtio::HEADER + ETHERNET_HEADER + 51 {
            let packet = around(&plain, false, 100);
            let mut read = [&virtio::Header::PLAIN.to_bytes()[..], &LINK_V4, &packet].concat();
            assert_eq!(take_off_link(&mut read[..length]), None, "{length} octets");
        }
    }
}
