//! What the system really has, read back from it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use watari_config::{Name, WgKey};

use crate::item::{Key, PortAt, System};
use crate::loops::Verdict;
use crate::path_mtu::PathMtu;

/// What this gateway is, apart from what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Public half of its WireGuard key.
    pub wireguard_key: WgKey,
}

/// What runs a WireGuard device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// The kernel.
    Kernel,
    /// `watari-link`, in user space.
    User,
}

/// How a tunnel is, by its probes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TunnelHealth {
    /// Packets cross to the far side and back.
    pub up: bool,
    /// Round-trip time in microseconds.
    pub rtt_us: Option<u64>,
    /// Share of probes lost lately, in percent.
    pub loss_percent: Option<f64>,
    /// Jitter towards the far side in microseconds (RFC 3550 section 6.4.1).
    pub jitter_out_us: Option<u64>,
    /// Jitter from there to here.
    pub jitter_in_us: Option<u64>,
    /// How much longer than the best of late a packet takes towards the far side, in microseconds.
    pub delay_change_out_us: Option<u64>,
    /// The same from there to here.
    pub delay_change_in_us: Option<u64>,
}

/// How a BFD session is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BfdHealth {
    /// `up`, `init`, `down` or `admin_down` (RFC 5880 section 6.2).
    pub state: &'static str,
    /// Why it is in that state, e.g. `control_detection_time_expired`.
    pub diagnostic: String,
    /// Seconds since the state changed.
    pub since_s: u64,
    /// How often the state changed.
    pub changes: u64,
    /// Milliseconds without a packet after which the neighbour is missed; 0 while it is not heard.
    pub detection_ms: u64,
    /// The neighbour's BFD outlives its control plane (its C bit, RFC 5882 section 4.3).
    pub neighbour_outlives_control_plane: bool,
    /// What keeps it from sending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Why an item could not be made or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// What the system said.
    pub message: String,
    /// Seconds until the next try.
    pub retry_s: u64,
}

/// Everything that was read back, at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Observed {
    /// What this gateway is.
    pub identity: Identity,
    /// Items that carry our mark, or live in maps and namespaces of ours.
    #[serde(skip)]
    pub system: System,
    /// All devices of the gateway's namespace, ours and others'.
    pub devices: BTreeSet<String>,
    /// Those among them that take an aggregate which the programs have decapsulated: veth.
    pub plain_devices: BTreeSet<String>,
    /// Veths without a queue whose other end is in another namespace: containers and guests of the gateway's own machine.
    pub near_devices: BTreeSet<String>,
    /// MTU of each device of the gateway's namespace, bytes.
    #[serde(skip)]
    pub device_mtus: BTreeMap<String, u32>,
    /// Tunnels by their probes.
    pub tunnels: BTreeMap<Name, TunnelHealth>,
    /// What crosses each tunnel, as measured.
    pub path_mtus: BTreeMap<Name, PathMtu>,
    /// BFD sessions, by the path of the object that each watches.
    pub bfd: BTreeMap<String, BfdHealth>,
    /// Seconds since the last handshake with each WireGuard peer, by device and key.
    pub handshakes: BTreeMap<String, BTreeMap<String, Option<u64>>>,
    /// What runs each WireGuard device.
    pub engines: BTreeMap<String, Engine>,
    /// Since when the beacon of each attachment has been sent, in ms of Unix time.
    #[serde(skip)]
    pub beacons: BTreeMap<PortAt, u64>,
    /// Attachments at which there is a loop, as the loop guard decided.
    #[serde(skip)]
    pub loops: BTreeMap<PortAt, Verdict>,
    /// What went wrong at the last try.
    #[serde(skip)]
    pub failures: BTreeMap<Key, Failure>,
}

impl Observed {
    /// Nothing yet.
    pub fn nothing(identity: Identity) -> Self {
        Self {
            identity,
            system: System::new(),
            devices: BTreeSet::new(),
            plain_devices: BTreeSet::new(),
            near_devices: BTreeSet::new(),
            device_mtus: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            path_mtus: BTreeMap::new(),
            bfd: BTreeMap::new(),
            handshakes: BTreeMap::new(),
            engines: BTreeMap::new(),
            beacons: BTreeMap::new(),
            loops: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }
}
