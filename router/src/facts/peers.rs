//! Which BGP neighbours the desired state asks for: every gateway at the far end of a tunnel (EVPN), and the
//! campus and cloud routers on exits. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use watari_bgp::peer::{AddPath, GracefulRestartConfig, PathsSent, PeerConfig};
use watari_bgp::policy::{Filter, Policy, PrefixRule};
use watari_bgp::role::Role;
use watari_bgp::types::{Asn, Family, InstanceId, PeerId};
use watari_config::desired::device;
use watari_config::document::{self, Exit, Family as WantedFamily, Peer, PeerRole};
use watari_config::neighbour::NeighbourAddress;
use watari_config::{Desired, Name};

use super::fabric::{EVPN, tenant_instance};
use crate::bgp::{Neighbour, PeerSettings, Range};
use crate::drivers::namespace;

/// Seconds for which the far gateway shall keep our routes while we restart.
const FABRIC_RESTART_S: u16 = 300;
/// Milliseconds between two tries to connect to another gateway: its tunnel comes up at any moment.
const FABRIC_RETRY_MS: u64 = 1_000;
/// TTL of sessions between gateways: the far VTEP may be several hops away in the underlay.
const FABRIC_TTL: u8 = 64;

/// A neighbour's object: `gateways.NAME` for another gateway, `peers.NAME` for one of the document.
pub type Path = String;

/// Numbers that stay with their neighbours.
#[derive(Debug, Default)]
pub struct Numbers {
    ids: BTreeMap<Path, PeerId>,
    next: u32,
}

impl Numbers {
    /// The neighbour's number, a new one at the first time.
    fn of(&mut self, path: Path) -> PeerId {
        *self.ids.entry(path).or_insert_with(|| {
            self.next += 1;
            PeerId(self.next)
        })
    }

    /// All neighbours that have a number.
    pub fn names(&self) -> BTreeMap<PeerId, Path> {
        self.ids.iter().map(|(path, id)| (*id, path.clone())).collect()
    }

    /// The number of a neighbour that has one.
    pub fn id(&self, path: &str) -> Option<PeerId> {
        self.ids.get(path).copied()
    }

    /// The neighbour of a number.
    pub fn path(&self, id: PeerId) -> Option<&str> {
        self.ids.iter().find(|(_, i)| **i == id).map(|(p, _)| p.as_str())
    }

    /// How a neighbour is called: `peers.NAME`, and `peers.NAME@ADDRESS` if it came from a prefix.
    pub fn name(&self, neighbour: Neighbour) -> String {
        let path = self.path(neighbour.peer).unwrap_or("peer");
        neighbour.came_from.map_or_else(|| path.to_owned(), |address| name_of_one(path, address))
    }
}

/// How a neighbour is called that came from a prefix.
pub fn name_of_one(path: &str, address: IpAddr) -> String {
    format!("{path}@{address}")
}

/// All neighbours of this gateway.
pub fn neighbours(desired: &Desired, numbers: &mut Numbers) -> BTreeMap<PeerId, PeerSettings> {
    let Some(own) = desired.gateway() else { return BTreeMap::new() };
    let mut all = BTreeMap::new();
    let local = (own.vtep, Asn(own.asn.get()));
    for (_, _, far_name, far) in desired.tunnels() {
        let remote = (far.vtep, Asn(far.asn.get()));
        let mut config = PeerConfig::new(EVPN, local, remote);
        config.families = vec![Family::L2vpnEvpn];
        config.policy = Policy::accept_all();
        config.connect_retry_ms = FABRIC_RETRY_MS;
        config.graceful_restart =
            Some(GracefulRestartConfig { restart_time_s: FABRIC_RESTART_S, ..Default::default() });
        let settings = PeerSettings { ttl: FABRIC_TTL, ..PeerSettings::new(config, None) };
        all.insert(numbers.of(format!("gateways.{far_name}")), settings);
    }
    for (name, peer, exit) in desired.peers() {
        if let Some(settings) = campus(desired, own.asn.get(), peer, exit) {
            all.insert(numbers.of(format!("peers.{name}")), settings);
        }
    }
    all
}

/// Instances of tenants that only exchange routes.
pub fn exchanges(desired: &Desired) -> BTreeSet<InstanceId> {
    let tenants = desired.document().tenants.values().filter(|tenant| tenant.exchange_only);
    tenants.map(|tenant| tenant_instance(tenant.l3vni)).collect()
}

fn campus(desired: &Desired, asn: u32, peer: &Peer, exit: &Exit) -> Option<PeerSettings> {
    let local = peer.local(exit)?;
    let l3vni = desired.document().tenants[&exit.tenant].l3vni;
    let range = peer.address.prefix().map(|prefix| range(peer, prefix));
    let remote = match peer.address {
        NeighbourAddress::One(address) => address,
        NeighbourAddress::Prefix(prefix) => prefix.addr(),
    };
    let remote_asn = peer.asn.one().map_or(Asn(0), |one| Asn(one.get()));
    let mut config = PeerConfig::new(tenant_instance(l3vni), (local, Asn(asn)), (remote, remote_asn));
    config.families = peer.families().into_iter().map(family).collect();
    config.hold_time_s = peer.hold_time_s;
    config.passive = peer.passive;
    config.policy = Policy { import: filter(&peer.accept), export: filter(&peer.announce) };
    config.max_paths = Some(peer.prefixes_max);
    config.max_paths_warn_percent = peer.prefixes_warn_percent;
    config.max_paths_restart_ms = peer.prefixes_restart_s.map(|s| u64::from(s) * 1_000);
    config.connect_retry_ms = u64::from(peer.connect_retry_s) * 1_000;
    config.advertisement_interval_ms = u64::from(peer.advertisement_interval_s) * 1_000;
    config.role = peer.role.map(role);
    config.role_strict = peer.role_strict;
    config.accept_as_sets = peer.as_sets;
    config.accept_blackhole = peer.blackhole;
    config.add_path = several_paths(peer);
    config.admin_down = peer.disabled.then(|| peer.disabled_because.clone().unwrap_or_default());
    config.graceful_restart =
        Some(GracefulRestartConfig { restart_time_s: peer.restart_time_s, ..Default::default() });
    for address in &exit.addresses {
        match address.addr() {
            IpAddr::V4(v4) => config.next_hop_v4 = config.next_hop_v4.or(Some(v4)),
            IpAddr::V6(v6) => config.next_hop_v6 = config.next_hop_v6.or(Some(v6)),
        }
    }
    let netns = namespace::path(&device::namespace(desired.gateway_name(), &exit.tenant));
    let usual = PeerSettings::new(config, Some(netns));
    let ttl = peer.multihop_ttl.unwrap_or(usual.ttl);
    Some(PeerSettings { range, ttl, hops_max: peer.ttl_security_hops, ..usual })
}

/// Who may come from a prefix.
fn range(peer: &Peer, prefix: IpNet) -> Range {
    let asns = peer.asn.ranges().iter().map(|range| (Asn(range.first.get()), Asn(range.last.get())));
    Range { prefix, asns: asns.collect(), neighbours_max: usize::from(peer.neighbours_max) }
}

fn family(wanted: WantedFamily) -> Family {
    match wanted {
        WantedFamily::Ipv4 => Family::Ipv4Unicast,
        WantedFamily::Ipv6 => Family::Ipv6Unicast,
    }
}

fn several_paths(peer: &Peer) -> Vec<(Family, AddPath)> {
    let Some(wanted) = &peer.add_path else { return Vec::new() };
    let families = if wanted.families.is_empty() { peer.families() } else { wanted.families.clone() };
    let send = wanted.send.map(|send| match send {
        document::PathsSent::All => PathsSent::All,
        document::PathsSent::Best(limit) => PathsSent::Best(limit),
    });
    families.into_iter().map(|f| (family(f), AddPath { receive: wanted.receive, send })).collect()
}

fn role(wanted: PeerRole) -> Role {
    match wanted {
        PeerRole::Provider => Role::Provider,
        PeerRole::Customer => Role::Customer,
        PeerRole::Peer => Role::Peer,
        PeerRole::RouteServer => Role::RouteServer,
        PeerRole::RouteServerClient => Role::RouteServerClient,
    }
}

fn filter(prefixes: &[IpNet]) -> Filter {
    if prefixes.is_empty() {
        return Filter::None;
    }
    Filter::Prefixes(prefixes.iter().map(|net| PrefixRule::or_longer(*net)).collect())
}

/// How a next hop of a tenant is reached: the exit it is on, or the one to which the tenant's longest static route to it leads,
/// and the address there.
pub fn towards<'a>(desired: &'a Desired, tenant: &Name, next_hop: IpAddr) -> Option<(&'a Name, IpAddr)> {
    let on_exit = |address: IpAddr| {
        let mut exits = desired.exits().filter(|(_, exit)| exit.tenant == *tenant);
        let exit = exits.find(|(_, exit)| exit.addresses.iter().any(|net| net.contains(&address)));
        exit.map(|(name, _)| (name, address))
    };
    on_exit(next_hop).or_else(|| {
        let routes = desired.routes().map(|(_, route)| route);
        let here = routes.filter(|r| r.tenant.as_ref() == Some(tenant) && r.prefix.contains(&next_hop));
        on_exit(here.max_by_key(|route| route.prefix.prefix_len())?.via)
    })
}
