//! A neighbour: what was configured, and what was negotiated with it.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};

use crate::policy::Policy;
use crate::role::Role;
use crate::types::{Asn, Family, FamilySet, InstanceId, PeerId, RouterId};

/// A neighbour as configured. Intervals are milliseconds unless the name says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Whose tables it sees.
    pub instance: InstanceId,
    /// Its address.
    pub remote_addr: IpAddr,
    /// Our address of the session, and the next hop of what we announce in its family.
    pub local_addr: IpAddr,
    /// Its AS. Equal to `local_asn`: internal. 0 for a dynamic neighbour that has not said it.
    pub remote_asn: Asn,
    /// It came by itself, and goes when nothing is left of it.
    pub dynamic: Option<Dynamic>,
    /// Our AS towards it.
    pub local_asn: Asn,
    /// Families to offer.
    pub families: Vec<Family>,
    /// Proposed hold time in seconds: 0 (none) or 3..=65535.
    pub hold_time_s: u16,
    /// Wait before connecting again.
    pub connect_retry_ms: u64,
    /// Never connect, only accept.
    pub passive: bool,
    /// Graceful restart, `None` to not offer it.
    pub graceful_restart: Option<GracefulRestartConfig>,
    /// What passes in and out.
    pub policy: Policy,
    /// Route reflection: it is a client of ours (RFC 4456).
    pub route_reflector_client: bool,
    /// Announce ourselves as next hop of unicast routes to an internal peer too.
    pub next_hop_self: bool,
    /// Next hop for IPv6 unicast when `local_addr` is IPv4.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// Next hop for IPv4 unicast when `local_addr` is IPv6.
    pub next_hop_v4: Option<std::net::Ipv4Addr>,
    /// Most paths kept from it in one family; more end the session (RFC 4486 §4).
    pub max_paths: Option<u32>,
    /// At so many percent of `max_paths` a warning is given; 0 for none.
    pub max_paths_warn_percent: u8,
    /// How long it is left alone after it has sent more than `max_paths`; as after any error without it.
    pub max_paths_restart_ms: Option<u64>,
    /// What we are to it, `None` to not say it (RFC 9234). External neighbours only.
    pub role: Option<Role>,
    /// It must say its own role (RFC 9234 §4.2, strict mode).
    pub role_strict: bool,
    /// Paths with AS_SET or AS_CONFED_SET are taken (RFC 9774 would have them withdrawn).
    pub accept_as_sets: bool,
    /// Routes with the BLACKHOLE community are taken: both sides have agreed on that (RFC 7999 §3.3).
    pub accept_blackhole: bool,
    /// MinRouteAdvertisementIntervalTimer (RFC 4271 §9.2.1.1): between two messages about one route, 0 for none.
    pub advertisement_interval_ms: u64,
    /// Families with several paths of a route (RFC 7911); unicast only.
    pub add_path: Vec<(Family, AddPath)>,
    /// The operator keeps the session down; the text is told to the neighbour (RFC 9003), if there is one.
    pub admin_down: Option<String>,
}

/// One of the neighbours that may come from a prefix (RFC 4271 leaves them to the implementation). Nobody connects to it; its AS
/// is the one of its first established session, and it is removed by the speaker as soon as there is neither a connection
/// nor a kept path of it, and no rest that it has to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dynamic {
    /// Those that may come, numbered by the caller as if they were one peer.
    pub of: PeerId,
    /// ASes of which it may be: each the first and the last of a range.
    pub asns: Vec<(Asn, Asn)>,
}

impl Dynamic {
    /// Whether it may be of this AS.
    pub fn may_be_of(&self, asn: Asn) -> bool {
        self.asns.iter().any(|(first, last)| (*first..=*last).contains(&asn))
    }
}

/// Several paths of a route, towards one neighbour and of one family (RFC 7911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddPath {
    /// It may tell several.
    pub receive: bool,
    /// It is told several, `None` to tell the best one alone.
    pub send: Option<PathsSent>,
}

/// How many paths of a route a neighbour is told. Those that its export rules keep from it do not count, and of the rest it
/// is not told its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathsSent {
    /// All of them.
    All,
    /// So many, in the order in which the decision process prefers them.
    Best(u16),
}

/// Graceful restart towards one neighbour (RFC 4724, RFC 8538).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracefulRestartConfig {
    /// How long it should keep our routes while we are away, in seconds: 1..=4095.
    pub restart_time_s: u16,
    /// How long its routes are kept after it came back without an End-of-RIB.
    pub stale_time_ms: u64,
}

impl Default for GracefulRestartConfig {
    fn default() -> Self {
        Self { restart_time_s: 120, stale_time_ms: 360_000 }
    }
}

impl PeerConfig {
    /// A neighbour with the usual timers, both unicast families of none: set `families` and `policy`.
    pub fn new(instance: InstanceId, local: (IpAddr, Asn), remote: (IpAddr, Asn)) -> PeerConfig {
        let internal = local.1 == remote.1;
        PeerConfig {
            instance,
            remote_addr: remote.0,
            local_addr: local.0,
            remote_asn: remote.1,
            local_asn: local.1,
            dynamic: None,
            families: Vec::new(),
            hold_time_s: 90,
            connect_retry_ms: 5_000,
            passive: false,
            graceful_restart: Some(GracefulRestartConfig::default()),
            policy: if internal { Policy::accept_all() } else { Policy::default() },
            route_reflector_client: false,
            next_hop_self: false,
            next_hop_v6: None,
            next_hop_v4: None,
            max_paths: None,
            max_paths_warn_percent: 0,
            max_paths_restart_ms: None,
            role: None,
            role_strict: false,
            accept_as_sets: false,
            accept_blackhole: false,
            advertisement_interval_ms: 0,
            add_path: Vec::new(),
            admin_down: None,
        }
    }

    /// Whether it is in our AS.
    pub fn is_internal(&self) -> bool {
        self.remote_asn == self.local_asn
    }

    /// What holds for one that says it is of this AS: of a dynamic neighbour that has not said so before it is taken.
    pub(crate) fn as_said(&self, asn: Asn) -> Cow<'_, PeerConfig> {
        let is_open = self.remote_asn == Asn(0) && self.dynamic.as_ref().is_some_and(|d| d.may_be_of(asn));
        if is_open { Cow::Owned(PeerConfig { remote_asn: asn, ..self.clone() }) } else { Cow::Borrowed(self) }
    }

    /// Our role for routes of `family`: external neighbours and unicast only (RFC 9234 §5).
    pub fn unicast_role(&self, family: Family) -> Option<Role> {
        self.role.filter(|_| family != Family::L2vpnEvpn && !self.is_internal())
    }

    /// What was configured of several paths of a unicast family.
    pub fn add_path(&self, family: Family) -> AddPath {
        let configured = self.add_path.iter().find(|(f, _)| *f == family && *f != Family::L2vpnEvpn);
        configured.map_or_else(AddPath::default, |(_, add_path)| *add_path)
    }

    /// What the add-path capability says of every family: whether it receives, and sends.
    fn add_path_offer(&self) -> [(bool, bool); 3] {
        Family::ALL.map(|family| {
            let AddPath { receive, send } = self.add_path(family);
            (receive, send.is_some())
        })
    }

    /// Whether going from `self` to `new` needs a new session; everything else is applied in place.
    pub fn needs_new_session(&self, new: &PeerConfig) -> bool {
        self.instance != new.instance
            || self.remote_addr != new.remote_addr
            || self.local_addr != new.local_addr
            || self.remote_asn != new.remote_asn
            || self.local_asn != new.local_asn
            || self.families != new.families
            || self.hold_time_s != new.hold_time_s
            || self.graceful_restart != new.graceful_restart
            || self.role != new.role
            || self.add_path_offer() != new.add_path_offer()
            || (new.role_strict && !self.role_strict)
    }
}

/// What both sides of an established session agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Its BGP Identifier.
    pub remote_id: RouterId,
    /// Its AS.
    pub remote_asn: Asn,
    /// Families that both offered.
    pub families: Vec<Family>,
    /// The smaller of both hold times in seconds, 0 for none.
    pub hold_time_s: u16,
    /// AS numbers have 4 octets on the wire (RFC 6793).
    pub four_octet_as: bool,
    /// It understands ROUTE-REFRESH (RFC 2918).
    pub route_refresh: bool,
    /// Messages up to 65,535 octets (RFC 8654).
    pub extended_messages: bool,
    /// It marks beginning and end of what it sends again, and understands ours (RFC 7313).
    pub enhanced_refresh: bool,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    pub extended_next_hop: bool,
    /// Families of which it tells several paths: its routes have path identifiers (RFC 7911 §3).
    pub add_path_received: FamilySet,
    /// Families of which it takes several paths.
    pub add_path_sent: FamilySet,
    /// What it says it is to us (RFC 9234 §4.1).
    pub remote_role: Option<u8>,
    /// Its graceful restart capability, if both sent one.
    pub graceful_restart: Option<PeerGracefulRestart>,
}

impl Negotiated {
    /// The longest message that may be sent.
    pub const fn message_limit(&self) -> usize {
        if self.extended_messages { 65_535 } else { 4_096 }
    }
}

/// A neighbour's graceful restart capability (RFC 4724 §3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerGracefulRestart {
    /// R bit: it has just restarted.
    pub restarted: bool,
    /// N bit: graceful also after NOTIFICATION and hold timer expiry (RFC 8538).
    pub notification: bool,
    /// How long to wait for it, in seconds.
    pub restart_time_s: u16,
    /// Families with its F bit: forwarding state preserved.
    pub families: Vec<(Family, bool)>,
}

impl PeerGracefulRestart {
    /// The F bit of `family`; `None` if the family is not in the capability.
    pub fn forwarding_preserved(&self, family: Family) -> Option<bool> {
        self.families.iter().find(|(f, _)| *f == family).map(|(_, kept)| *kept)
    }
}
