//! Which offloads of the kernel may be used. By default all are, and each that the kernel does not
//! have is done here instead; one that a driver gets wrong can be left out by the operator
//! (`watari-link --without`).

use std::fmt;

/// An offload of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Offload {
    /// The virtio header before every packet of the TUN interface. The other three of the interface
    /// need it.
    TunHeader,
    /// Checksums of the interface's packets are left to us, and those of arriving ones are vouched for.
    TunChecksum,
    /// TCP super-packets cross the interface whole.
    TunTso,
    /// UDP super-packets cross the interface whole.
    TunUso,
    /// Several datagrams of one size are sent by one system call (`UDP_SEGMENT`).
    UdpSegment,
    /// Several datagrams of one size are received by one system call (`UDP_GRO`).
    UdpGro,
    /// VXLAN crosses an interface of its own, super-packets inside it whole. It needs the virtio header, checksums and TCP
    /// super-packets.
    OverlayTap,
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TunHeader => "tun-header",
            Self::TunChecksum => "tun-checksum",
            Self::TunTso => "tun-tso",
            Self::TunUso => "tun-uso",
            Self::UdpSegment => "udp-segment",
            Self::UdpGro => "udp-gro",
            Self::OverlayTap => "overlay-tap",
        })
    }
}

/// How an engine works.
#[derive(Debug, Clone, Default)]
pub struct EngineOptions {
    /// Offloads that are not to be used.
    pub without: Vec<Offload>,
    /// Threads for each direction of a device; `None`: one for each core, 4 at most.
    pub threads: Option<usize>,
}

/// Most threads for one direction of one device.
pub(super) const THREADS_MAX: usize = 4;

impl EngineOptions {
    /// True if the offload may be used, as far as the operator is concerned.
    pub(super) fn allows(&self, offload: Offload) -> bool {
        let needs: &[Offload] = match offload {
            Offload::TunChecksum => &[Offload::TunHeader],
            Offload::TunTso | Offload::TunUso => &[Offload::TunHeader, Offload::TunChecksum],
            Offload::OverlayTap => &[Offload::TunHeader, Offload::TunChecksum, Offload::TunTso],
            Offload::TunHeader | Offload::UdpSegment | Offload::UdpGro => &[],
        };
        ![offload].iter().chain(needs).any(|needed| self.without.contains(needed))
    }

    /// Threads for each direction of a device: at least one.
    pub(super) fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or_else(cores).clamp(1, THREADS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_another_goes_with_it() {
        let options = EngineOptions { without: vec![Offload::TunChecksum], threads: Some(0) };
        assert!(options.allows(Offload::TunHeader) && options.allows(Offload::UdpGro));
        for gone in [Offload::TunChecksum, Offload::TunTso, Offload::TunUso, Offload::OverlayTap] {
            assert!(!options.allows(gone), "{gone}");
        }
        assert_eq!(options.threads(), 1);
    }
}
