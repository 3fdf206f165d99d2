//! What the system really has, read back from it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

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
    /// Live traffic shows it; probes are rare meanwhile.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub by_traffic: bool,
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

/// One place where a WireGuard peer is reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EndpointHealth {
    /// Address and UDP port.
    pub endpoint: SocketAddr,
    /// Packets go there.
    pub in_use: bool,
    /// Measurements come back; none where nothing is measured: the kernel's engine, a far end that does not answer
    /// them, or a peer with one place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up: Option<bool>,
    /// Round-trip time in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// Share of measurements lost lately, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_percent: Option<f64>,
    /// The peer was heard from there, and the document does not name the place.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub roamed: bool,
}

impl EndpointHealth {
    /// The places of a peer of which only that in use is known.
    pub fn unmeasured(configured: &[SocketAddr], used: Option<SocketAddr>) -> Vec<Self> {
        let place = |endpoint, roamed| Self {
            endpoint,
            in_use: used == Some(endpoint),
            up: None,
            rtt_us: None,
            loss_percent: None,
            roamed,
        };
        let elsewhere = used.filter(|used| !configured.contains(used)).map(|used| place(used, true));
        configured.iter().map(|endpoint| place(*endpoint, false)).chain(elsewhere).collect()
    }
}

/// What is known of a DNS name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resolution {
    /// Its addresses at the last resolution that succeeded, in ascending order.
    pub addresses: Vec<IpAddr>,
    /// How old that one is, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
    /// Why the last one failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
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
    /// Where the peers of each WireGuard device are reached.
    pub endpoints: BTreeMap<String, Vec<EndpointHealth>>,
    /// DNS names that were asked for.
    pub names: BTreeMap<String, Resolution>,
    /// Whether the engine in user space makes overlays.
    pub overlays_possible: bool,
    /// WireGuard devices whose overlay has its TAP.
    pub overlays: BTreeSet<String>,
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
            endpoints: BTreeMap::new(),
            names: BTreeMap::new(),
            overlays_possible: false,
            overlays: BTreeSet::new(),
            beacons: BTreeMap::new(),
            loops: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }
}
