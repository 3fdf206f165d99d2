//! The part of the protocol that is about overlays: VXLAN that crosses a device by an interface of its own, in which a
//! super-packet inside VXLAN stays whole.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::LinkStatus;

/// Most overlays of one engine: one for each device.
pub const OVERLAYS_MAX: usize = super::DEVICES_MAX;

/// The set of overlays as it is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlaysConfig {
    /// Each device once, each TAP once.
    pub overlays: Vec<OverlayConfig>,
}

impl OverlaysConfig {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.overlays.is_empty()
    }
}

/// The overlay of one device. A frame that is handed to the TAP is `Ethernet │ outer IP, UDP, VXLAN │ inner Ethernet frame`,
/// where the virtio header speaks of the packet inside; the outer Ethernet header means nothing. It leaves as the packets of VXLAN
/// that it stands for, to the peer whose allowed-ips have the outer destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlayConfig {
    /// The device. It may come later: the overlay is there once the device is.
    pub device: String,
    /// Name of the TAP, 1–15 bytes.
    pub tap: String,
    /// Link alias of the TAP, as that of a device.
    pub alias: String,
    /// Our VTEP address: what VXLAN that goes to the TAP is addressed to.
    pub vtep: IpAddr,
    /// UDP port of VXLAN.
    pub port: u16,
    /// VXLAN that arrives for `vtep` goes to the TAP, in the same form; else to the device's own interface, as everything
    /// else does. To be set once somebody takes it there.
    #[serde(default)]
    pub inbound: bool,
}

/// All overlays as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlaysStatus {
    /// Whether the engine makes overlays at all; not where it was started without an offload that they need.
    pub possible: bool,
    /// Ordered by device. One whose device is not there is left out.
    pub overlays: Vec<OverlayStatus>,
}

/// An overlay as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlayStatus {
    /// As configured.
    pub config: OverlayConfig,
    /// The TAP as the kernel has it; absent if it is not there: what is in its way is `error`, and it is tried again every
    /// second.
    pub link: Option<LinkStatus>,
    /// UDP super-packets cross it whole, as those of TCP do in any case.
    pub uso: bool,
    /// Frames taken from the TAP.
    pub reads: u64,
    /// Their bytes, with virtio and Ethernet headers. Many more than MTU for each read: super-packets arrive whole.
    pub read_bytes: u64,
    /// Frames given to the TAP.
    pub writes: u64,
    /// Their bytes.
    pub written_bytes: u64,
    /// Why the TAP is not there.
    pub error: Option<String>,
}
