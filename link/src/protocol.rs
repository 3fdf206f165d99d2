//! The control protocol: what is said over the Unix socket of `watari-link`.
//!
//! Line-delimited JSON. Requests are strict: a field that the engine does not know is refused by name, because what is
//! asked for and not done would be missed. Answers and events are not: a later engine may say more than a client
//! understands, and is understood as far as that goes.
//! Every request line is a [`RequestFrame`], every answer a [`ResponseFrame`] with the same `id`,
//! in the order of the requests of that connection. After [`Request::Subscribe`] the same
//! connection also carries [`EventFrame`] lines, which have `event` in place of `id`.
//!
//! ```text
//! → {"id":1,"request":{"hello":{"protocol":1}}}
//! ← {"id":1,"ok":{"hello":{"protocol":1,"version":"0.1.0","pid":42,"started_at_ms":…}}}
//! → {"id":2,"request":{"set_device":{"name":"wtwg0", …}}}
//! ← {"id":2,"error":{"code":"invalid","field":"peers[0].public_key","message":"…"}}
//! ```
//!
//! All verbs are idempotent: a request that asks for what is already so changes nothing and says so.

mod bfd;
mod overlay;
mod path_mtu;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use bfd::{
    BFD_INTERVAL_MAX_US, BFD_INTERVAL_MIN_US, BFD_NAME_BYTES_MAX, BFD_SESSIONS_MAX, BfdAuthentication,
    BfdAuthenticationKind, BfdConfig, BfdHops, BfdSessionsConfig, BfdSessionsStatus, BfdState, BfdStatus,
};
pub use overlay::{OVERLAYS_MAX, OverlayConfig, OverlayStatus, OverlaysConfig, OverlaysStatus};
pub use path_mtu::{
    PATH_MTU_MIN, PATH_MTU_PORT_DEFAULT, PathMtuConfig, PathMtuPhase, PathMtuStatus, PathMtusConfig,
    PathMtusStatus,
};

use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// Version of this protocol. A server refuses a hello with another one.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest line either side accepts, in bytes without the newline.
pub const LINE_BYTES_MAX: usize = 4 << 20;
/// Most devices one engine runs.
pub const DEVICES_MAX: usize = 64;
/// Most peers of one device.
pub const PEERS_MAX: usize = 4096;
/// Most endpoints of one peer.
pub const ENDPOINTS_MAX: usize = 8;
/// Most allowed-ips of one device, over all its peers.
pub const ALLOWED_IPS_MAX: usize = 65_536;
/// Most probes of one engine.
pub const PROBES_MAX: usize = 1024;
/// Smallest MTU of a device, in bytes: IPv6 needs it (RFC 8200 §5).
pub const MTU_MIN: u16 = 1280;
/// Largest MTU of a device, in bytes: what fits one UDP datagram after sealing.
pub const MTU_MAX: u16 = 65_400;
/// Shortest probe interval, in milliseconds.
pub const PROBE_INTERVAL_MIN_MS: u32 = 10;
/// Longest probe interval, and longest `dead_after_ms`, in milliseconds.
pub const PROBE_TIME_MAX_MS: u32 = 60_000;
/// UDP port of path probes when nothing else is said.
pub const PROBE_PORT_DEFAULT: u16 = 4790;
/// Longest name of a probe, in bytes.
pub const PROBE_NAME_BYTES_MAX: usize = 128;
/// Most beacons of one engine: as many as a datapath has ports.
pub const BEACONS_MAX: usize = 4096;
/// Time between two beacons of one place, in milliseconds.
pub const BEACON_INTERVAL_MS: u32 = 200;
/// Most tags of a beacon's frame.
pub const BEACON_TAGS_MAX: usize = 2;
/// Longest link alias, in bytes (the kernel's `IFALIASZ` less its terminator).
pub const ALIAS_BYTES_MAX: usize = 255;
/// Longest name of a device, in bytes (the kernel's `IFNAMSIZ` less its terminator).
pub const DEVICE_NAME_BYTES_MAX: usize = 15;

/// One line from client to server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestFrame {
    /// Chosen by the client, repeated in the answer.
    pub id: u64,
    /// What is asked for.
    pub request: Request,
}

/// The verbs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Who is there? The first request of a connection; others before it are refused.
    Hello(HelloRequest),
    /// Read back every device with its configuration and state. Answered by [`Answer::Devices`].
    ListDevices,
    /// Make a device be exactly so. Only what differs is touched. Answered by [`Answer::Changed`].
    SetDevice(DeviceConfig),
    /// Remove a device and its TUN interface. Answered by [`Answer::Changed`].
    RemoveDevice(DeviceName),
    /// Make the set of path probes be exactly so. Answered by [`Answer::Changed`].
    SetProbes(ProbesConfig),
    /// Read back every probe with its state. Answered by [`Answer::Probes`].
    ListProbes,
    /// Make the set of paths whose MTU is measured be exactly so. Answered by [`Answer::Changed`].
    SetPathMtus(PathMtusConfig),
    /// Read back every path whose MTU is measured. Answered by [`Answer::PathMtus`].
    ListPathMtus,
    /// Make the set of overlays be exactly so. Answered by [`Answer::Changed`].
    SetOverlays(OverlaysConfig),
    /// Read back every overlay with its state. Answered by [`Answer::Overlays`].
    ListOverlays,
    /// Make the set of beacons be exactly so. Answered by [`Answer::Changed`].
    SetBeacons(BeaconsConfig),
    /// Read back every beacon with its state. Answered by [`Answer::Beacons`].
    ListBeacons,
    /// Make the set of BFD sessions be exactly so. Answered by [`Answer::Changed`].
    SetBfd(BfdSessionsConfig),
    /// Read back every BFD session with its state. Answered by [`Answer::Bfd`].
    ListBfd,
    /// Send events on this connection from now on. Answered by [`Answer::Subscribed`].
    Subscribe,
    /// Hand everything over to the process that asks. Answered by [`Answer::TakingOver`]; what follows on the
    /// connection is between the two processes and no part of this protocol.
    TakeOver(TakeOverRequest),
    /// Stop the engine. Answered by [`Answer::Stopping`] before it does.
    Shutdown(ShutdownRequest),
}

/// First words of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloRequest {
    /// [`PROTOCOL_VERSION`] of the client.
    pub protocol: u32,
}

/// First words of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the server.
    pub protocol: u32,
    /// Version of the program.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started, in milliseconds since the Unix epoch, UTC.
    pub started_at_ms: u64,
}

/// A WireGuard device as it is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// Interface name, 1–15 bytes.
    pub name: String,
    /// Link alias of the interface. It marks the interface as ours: one of that name that exists
    /// already is adopted only if it carries this alias, and refused otherwise. 1–255 bytes.
    pub alias: String,
    /// Our private key on this device.
    pub private_key: PrivateKey,
    /// UDP port, IPv4 and IPv6. 0 takes any free one, and keeps it while the device lives.
    pub listen_port: u16,
    /// MTU of the interface in bytes, [`MTU_MIN`]..=[`MTU_MAX`].
    pub mtu: u16,
    /// DSCP of the outer packets.
    #[serde(default, skip_serializing_if = "Dscp::is_default")]
    pub dscp: Dscp,
    /// Peers in any order; each public key once.
    pub peers: Vec<PeerConfig>,
}

/// DSCP of outer packets (RFC 2983). That of what was inside stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dscp {
    /// That of the packet inside (uniform model, §4.1); 0 for messages without one.
    Inherit,
    /// The same for all, 0–63 (pipe model, §4).
    Fixed(u8),
}

impl Default for Dscp {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl Dscp {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A peer as it is wanted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerConfig {
    /// The peer's identity.
    pub public_key: PublicKey,
    /// Mixed into the handshake if present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared_key: Option<PresharedKey>,
    /// Where to reach it first. It may roam: authenticated packets move the endpoint, and sending
    /// the same configuration again does not move it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// Other places where it is reached, [`ENDPOINTS_MAX`] with the first. Each is measured, and the best is used. Only
    /// with `endpoint`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_endpoints: Vec<SocketAddr>,
    /// What may come from it, and what is sent to it: longest match over all peers of the device.
    /// One prefix belongs to one peer.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds of silence after which an empty packet is sent; 0 is never.
    #[serde(default)]
    pub keepalive_s: u16,
}

impl PeerConfig {
    /// Every place where it is reached, in the order of the configuration.
    pub fn endpoints(&self) -> Vec<SocketAddr> {
        self.endpoint.into_iter().chain(self.more_endpoints.iter().copied()).collect()
    }
}

/// Names one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceName {
    /// Interface name.
    pub name: String,
}

/// The set of probes as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbesConfig {
    /// UDP port of this engine's probes, both source and destination. Both ends of a path use the
    /// same one.
    #[serde(default = "probe_port_default")]
    pub port: u16,
    /// Each name once, each (device, local, remote) once.
    pub probes: Vec<ProbeConfig>,
}

fn probe_port_default() -> u16 {
    PROBE_PORT_DEFAULT
}

impl Default for ProbesConfig {
    fn default() -> Self {
        Self { port: PROBE_PORT_DEFAULT, probes: Vec::new() }
    }
}

/// A path to watch, from our address to one of the far side through one device. The far side's
/// engine must watch the way back: a responder answers configured remotes only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeConfig {
    /// Chosen by the caller, unique, 1–128 bytes.
    pub name: String,
    /// Our address (the VTEP address). Same family as `remote`.
    pub local: IpAddr,
    /// The far side's.
    pub remote: IpAddr,
    /// Device the probes are bound to. It may come and go: the probe is down meanwhile.
    pub device: String,
    /// Time between probes in milliseconds, [`PROBE_INTERVAL_MIN_MS`]..=[`PROBE_TIME_MAX_MS`].
    pub interval_ms: u32,
    /// Without an answer for so long the path is down. At least twice the interval.
    pub dead_after_ms: u32,
}

/// The set of beacons as it is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconsConfig {
    /// Each (device, tags) once.
    pub beacons: Vec<BeaconConfig>,
}

/// A frame that is sent every [`BEACON_INTERVAL_MS`], so that whoever sees it elsewhere knows that the two places
/// are one broadcast domain. Its form is `watari_abi::beacon`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconConfig {
    /// Device it leaves by. It may come and go.
    pub device: String,
    /// Tags of the frame, the outer one first; [`BEACON_TAGS_MAX`] at most.
    #[serde(default)]
    pub tags: Vec<VlanTag>,
    /// Router's MAC of the gateway: an individual address.
    pub origin: [u8; 6],
    /// Segment that the place belongs to, 1–16777215.
    pub vni: u32,
    /// Which place of the gateway it is.
    pub port_id: u64,
    /// The place is blocked: said in the frame.
    #[serde(default)]
    pub blocked: bool,
}

/// A tag of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VlanTag {
    /// 33024 (0x8100, IEEE 802.1Q customer tag) or 34984 (0x88a8, service tag).
    pub tpid: u16,
    /// VLAN, 1–4094.
    pub vid: u16,
}

/// How to stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownRequest {
    /// False: interfaces and configuration stay, a successor takes them up. True: interfaces are
    /// deleted and the stored configuration is emptied.
    #[serde(default)]
    pub remove: bool,
}

/// Who wants to take over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOverRequest {
    /// [`HANDOVER_VERSION`](crate::HANDOVER_VERSION) of the successor.
    pub version: u32,
    /// Device and inode of its network namespace: an engine works in one, and so does its successor.
    pub netns: (u64, u64),
}

/// One answer line from server to client: either `ok` or `error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ResponseFrame {
    /// It was done, or read.
    Ok(OkFrame),
    /// It was refused, and nothing changed; or it failed.
    Error(ErrorFrame),
}

/// A good answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OkFrame {
    /// Of the request. 0 if the line had none.
    pub id: u64,
    /// What was asked for.
    pub ok: Answer,
}

/// A bad answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorFrame {
    /// Of the request. 0 if the line had none.
    pub id: u64,
    /// Why not.
    pub error: Refusal,
}

/// What a good answer holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// To [`Request::ListDevices`], ordered by name.
    Devices(Vec<DeviceStatus>),
    /// To [`Request::ListProbes`], ordered by name.
    Probes(ProbesStatus),
    /// To [`Request::ListPathMtus`], ordered by name.
    PathMtus(PathMtusStatus),
    /// To [`Request::ListOverlays`].
    Overlays(OverlaysStatus),
    /// To [`Request::ListBeacons`], ordered by device and tags.
    Beacons(Vec<BeaconStatus>),
    /// To [`Request::ListBfd`].
    Bfd(BfdSessionsStatus),
    /// To the verbs that change something.
    Changed(Changed),
    /// To [`Request::Subscribe`].
    Subscribed,
    /// To [`Request::TakeOver`].
    TakingOver,
    /// To [`Request::Shutdown`].
    Stopping,
}

/// What a change touched. Empty: it was so already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Paths of what was touched, such as `created`, `mtu`, `peers[<public key>].allowed_ips`.
    pub touched: Vec<String>,
}

/// Why a request was not fulfilled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct Refusal {
    /// What kind of reason.
    pub code: RefusalCode,
    /// Path of the field at fault inside the request's body, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// For people.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            Some(field) => write!(f, "{}: {field}: {}", self.code, self.message),
            None => write!(f, "{}: {}", self.code, self.message),
        }
    }
}

/// Kinds of [`Refusal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The line is no request, or a field has the wrong type or name.
    Malformed,
    /// A field has a value that cannot be.
    Invalid,
    /// The client speaks another [`PROTOCOL_VERSION`], or did not say hello.
    Version,
    /// An interface of that name exists and is not ours. It was not touched.
    Foreign,
    /// A named limit of this module was reached.
    Limit,
    /// The system refused; the message has its words.
    System,
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::Version => "version",
            Self::Foreign => "foreign",
            Self::Limit => "limit",
            Self::System => "system",
        })
    }
}

/// A device as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Interface name.
    pub name: String,
    /// Link alias as configured.
    pub alias: String,
    /// Of the private key in use.
    pub public_key: PublicKey,
    /// UDP port as configured (0: any).
    pub listen_port: u16,
    /// UDP port in use; 0 if no socket could be bound.
    pub bound_port: u16,
    /// MTU as configured, bytes.
    pub mtu: u16,
    /// DSCP as configured.
    #[serde(default, skip_serializing_if = "Dscp::is_default")]
    pub dscp: Dscp,
    /// The interface as the kernel has it now; absent if it is gone (somebody deleted it):
    /// set the device again to have it back.
    pub link: Option<LinkStatus>,
    /// Offloads that the kernel gives and the engine uses.
    #[serde(default)]
    pub offloads: OffloadStatus,
    /// Peers, ordered by public key.
    pub peers: Vec<PeerStatus>,
    /// Packets dropped since the engine started, by reason, ordered by reason; zeroes left out.
    pub drops: Vec<DropCount>,
    /// The last thing that failed on this device, if it has not been mended since.
    pub error: Option<String>,
}

/// Which offloads of the kernel are in use on a device. One that is not is done by the engine, with
/// more system calls and more work for the same packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffloadStatus {
    /// Every packet of the interface has a virtio header. The other three of the interface need it.
    pub tun_header: bool,
    /// The kernel leaves checksums of outgoing packets to the engine, and believes it those of arriving ones.
    pub tun_checksum: bool,
    /// TCP super-packets of up to 64 KiB cross the interface whole.
    pub tun_tso: bool,
    /// UDP super-packets cross the interface whole.
    pub tun_uso: bool,
    /// Most datagrams that one system call sends (`UDP_SEGMENT`); 1: one by one.
    pub udp_segments_max: u16,
    /// One system call may receive several datagrams (`UDP_GRO`).
    pub udp_gro: bool,
}

/// What the kernel says about an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// Interface index.
    pub index: u32,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
}

/// How many packets one reason cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// Name of the reason, as `engine::DropReason` lists them.
    pub reason: String,
    /// Packets.
    pub packets: u64,
}

/// A peer as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The peer's identity.
    pub public_key: PublicKey,
    /// Fingerprint of the preshared key ([`PresharedKey::fingerprint`]), if there is one.
    pub preshared_key_fingerprint: Option<String>,
    /// Endpoint as configured.
    pub configured_endpoint: Option<SocketAddr>,
    /// The others as configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_endpoints: Vec<SocketAddr>,
    /// Endpoint in use: configured, or where the last authenticated packet came from.
    pub endpoint: Option<SocketAddr>,
    /// Every endpoint as measured, of a peer with several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measured: Vec<EndpointStatus>,
    /// As configured, ordered.
    pub allowed_ips: Vec<IpNet>,
    /// As configured, seconds.
    pub keepalive_s: u16,
    /// Handshakes completed since the engine started.
    pub handshakes: u64,
    /// Milliseconds since the last completed one.
    pub last_handshake_age_ms: Option<u64>,
    /// Bytes received from it: UDP payload that was authenticated.
    pub rx_bytes: u64,
    /// Bytes sent to it: UDP payload.
    pub tx_bytes: u64,
    /// The session in use, if there is one.
    pub session: Option<SessionStatus>,
}

/// One endpoint of a peer as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Where.
    pub endpoint: SocketAddr,
    /// As configured; false: the peer was heard from there.
    pub configured: bool,
    /// Packets go there.
    pub in_use: bool,
    /// Answers come from there; absent if none ever did, as with a far end that is no engine of ours.
    pub state: Option<PathState>,
    /// Smoothed round-trip time in microseconds; absent before the first answer.
    pub rtt_us: Option<u64>,
    /// Loss over the last [`PROBE_LOSS_WINDOW`] questions whose fate is known, in permille.
    pub loss_permille: u16,
    /// Milliseconds since the last answer; absent before the first.
    pub last_seen_ms: Option<u64>,
}

/// A WireGuard session as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// Our index in it, as seen on the wire.
    pub local_index: u32,
    /// Milliseconds since its keys were made.
    pub age_ms: u64,
}

/// All probes as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbesStatus {
    /// UDP port in use.
    pub port: u16,
    /// Ordered by name.
    pub probes: Vec<ProbeStatus>,
}

/// A probe as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeStatus {
    /// As configured.
    pub config: ProbeConfig,
    /// Up means: our probes reach the far side and its answers reach us.
    pub state: PathState,
    /// Milliseconds since `state` changed.
    pub since_ms: u64,
    /// How often `state` changed since the probe was set.
    pub changes: u64,
    /// Live traffic shows that packets cross both ways; requests are rare meanwhile.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_traffic: bool,
    /// Smoothed round-trip time in microseconds (RFC 6298 §2); absent before the first answer.
    pub rtt_us: Option<u64>,
    /// Smoothed deviation of it in microseconds.
    pub rtt_var_us: Option<u64>,
    /// Jitter towards the far side in microseconds (RFC 3550 §6.4.1); absent before the second answer, as the
    /// following three.
    pub jitter_out_us: Option<u64>,
    /// Jitter from there to here.
    pub jitter_in_us: Option<u64>,
    /// How much longer than the best of late the last probe took towards the far side, in microseconds.
    pub delay_change_out_us: Option<u64>,
    /// How much longer than the best of late the last answer took to us.
    pub delay_change_in_us: Option<u64>,
    /// Loss over the last [`PROBE_LOSS_WINDOW`] probes whose fate is known, in permille.
    pub loss_permille: u16,
    /// Probes sent.
    pub sent: u64,
    /// Answers received.
    pub received: u64,
    /// Milliseconds since the last answer; absent before the first.
    pub last_seen_ms: Option<u64>,
    /// Requests of the far side answered for it.
    pub answered: u64,
    /// What keeps it from sending (no such device, no such address), if anything does.
    pub error: Option<String>,
}

/// A beacon as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeaconStatus {
    /// As configured.
    pub config: BeaconConfig,
    /// Since when this place has been sending for this segment, in milliseconds since the Unix epoch, UTC. It outlives
    /// the process.
    pub since_ms: u64,
    /// Frames sent since the engine started.
    pub sent: u64,
    /// Frames that could not be sent since the engine started.
    pub failed: u64,
    /// Why the last one could not be sent (no such device, device down), if it could not.
    pub error: Option<String>,
}

/// Probes over which loss is measured.
pub const PROBE_LOSS_WINDOW: u32 = 128;

/// State of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathState {
    /// Answers cross.
    Up,
    /// They do not, or did not yet.
    Down,
}

/// One event line from server to client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFrame {
    /// What happened.
    pub event: Event,
}

/// What may happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A path came up or went down.
    Probe {
        /// Of the probe.
        name: String,
        /// What it is now.
        state: PathState,
    },
    /// A BFD session changed its state.
    Bfd {
        /// Of the session.
        name: String,
        /// What it was.
        former: BfdState,
        /// What it is now.
        state: BfdState,
        /// Why.
        diagnostic: String,
        /// What the neighbour had said last of its end: AdminDown is no failure of the path (RFC 5882 §3.2).
        remote_state: BfdState,
        /// Its C bit: set, the path is dead; clear, it may be its control plane alone (RFC 5882 §4.3).
        remote_control_plane_independent: bool,
    },
    /// What crosses a path is another size.
    PathMtu {
        /// Of the path.
        name: String,
        /// Largest IP packet that crosses from now on, bytes.
        mtu: u16,
    },
    /// A handshake was completed.
    Handshake {
        /// Of the device.
        device: String,
        /// With whom.
        public_key: PublicKey,
        /// Where it is.
        endpoint: SocketAddr,
    },
    /// A peer is now somewhere else.
    Roamed {
        /// Of the device.
        device: String,
        /// Who.
        public_key: PublicKey,
        /// Where it is now.
        endpoint: SocketAddr,
    },
    /// The interface of a device vanished.
    LinkLost {
        /// Of the device.
        device: String,
    },
    /// This subscriber was too slow: read everything again.
    Missed {
        /// Events not delivered.
        count: u64,
    },
}
