//! What we tell the others: pure, from the desired state and what was learnt here.
//!
//! EVPN (instance 0): type 3 of each segment here; type 2 of each station learnt here, of each node, and of
//! our own probe addresses; type 5 of subnets, exits, static routes and what campus routers told us.
//! Unicast (instance of the tenant): the tenant's subnets and what other gateways told us, for campus routers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use watari_bgp::NeighbourFlags;
use watari_bgp::attrs::{NextHop, PathAttributes, PmsiTunnel};
use watari_bgp::community::ExtCommunity;
use watari_bgp::evpn::{EvpnKey, Imet, IpPrefix, MacIp};
use watari_bgp::nlri::{Key, Nlri};
use watari_bgp::types::{Esi, InstanceId, MacAddr};
use watari_config::document::Node;
use watari_config::{Desired, Name, Vni};

use super::fabric::{EVPN, Fabric, tenant_instance};
use super::hosts::{Address, Station};

/// Which route: its instance and key.
pub type Id = (InstanceId, Key);
/// Everything we originate.
pub type Originated = BTreeMap<Id, (Nlri, PathAttributes)>;

/// What was learnt and is to be told on.
#[derive(Clone, Debug, Default)]
pub struct Learnt {
    /// Stations to advertise with their sequence.
    pub stations: BTreeMap<Station, u32>,
    /// Addresses of stations, learnt here, with what their owners say of them.
    pub addresses: BTreeMap<Address, (MacAddr, NeighbourFlags)>,
    /// Prefixes that campus routers told us, by L3VNI.
    pub campus: BTreeSet<(Vni, IpNet)>,
    /// Prefixes that other gateways told us, by L3VNI.
    pub fabric: BTreeSet<(Vni, IpNet)>,
}

/// Everything that is to be originated.
pub fn originate(desired: &Desired, fabric: &Fabric, learnt: &Learnt) -> Originated {
    let mut out = Origination { fabric, originated: Originated::new() };
    for ((vni, mac), sequence) in &learnt.stations {
        out.station(*vni, *mac, None, Mobility::Moves(*sequence));
    }
    for ((vni, ip), (mac, flags)) in &learnt.addresses {
        if let Some(sequence) = learnt.stations.get(&(*vni, *mac)) {
            out.station(*vni, *mac, Some((*ip, *flags)), Mobility::Moves(*sequence));
        }
    }
    for (l3vni, prefix) in &learnt.campus {
        out.prefix(*l3vni, *prefix);
    }
    for (l3vni, prefix) in &learnt.fabric {
        out.unicast(*l3vni, *prefix);
    }
    let mut all = out.originated;
    // What is ours by the document stands, whatever was learnt of it.
    all.extend(own(desired, fabric));
    all
}

/// What is ours by the document, whatever is learnt.
pub fn own(desired: &Desired, fabric: &Fabric) -> Originated {
    let mut out = Origination { fabric, originated: Originated::new() };
    for (vni, l3vni) in &fabric.segments {
        out.broadcast(*vni, *l3vni);
    }
    own_stations(desired, fabric, &mut out);
    for (l3vni, prefix) in own_prefixes(desired) {
        out.prefix(l3vni, prefix);
        out.unicast(l3vni, prefix);
    }
    out.originated
}

/// The route of a station that was learnt here, or of one of its addresses; `None` where its segment is not here.
pub fn station_route(
    fabric: &Fabric,
    station: Station,
    bound: Option<(IpAddr, NeighbourFlags)>,
    sequence: u32,
) -> Option<(Nlri, PathAttributes)> {
    let mut out = Origination { fabric, originated: Originated::new() };
    out.station(station.0, station.1, bound, Mobility::Moves(sequence));
    Some(out.originated.pop_first()?.1)
}

/// The route of a prefix for the other gateways.
pub fn prefix_route(fabric: &Fabric, l3vni: Vni, prefix: IpNet) -> Option<(Nlri, PathAttributes)> {
    let mut out = Origination { fabric, originated: Originated::new() };
    out.prefix(l3vni, prefix);
    Some(out.originated.pop_first()?.1)
}

/// The route of a prefix for campus routers; the session's own address becomes its next hop.
pub fn unicast_route(prefix: IpNet) -> (Nlri, PathAttributes) {
    (Nlri::from(prefix), PathAttributes::default())
}

/// Which route [`station_route`] is.
pub fn station_id(fabric: &Fabric, station: Station, ip: Option<IpAddr>) -> Id {
    (EVPN, Key::Evpn(EvpnKey::MacIp { rd: fabric.rd(station.0), tag: 0, mac: station.1, ip }))
}

/// Which route [`prefix_route`] is.
pub fn prefix_id(fabric: &Fabric, l3vni: Vni, prefix: IpNet) -> Id {
    (EVPN, Key::Evpn(EvpnKey::IpPrefix { rd: fabric.rd(l3vni), tag: 0, prefix }))
}

/// Which route [`unicast_route`] is.
pub fn unicast_id(l3vni: Vni, prefix: IpNet) -> Id {
    (tenant_instance(l3vni), Key::prefix(prefix))
}

/// Our probe addresses, the hosts pinned to attachments here, and the nodes that have enrolled: pinned, because the
/// plan put them there.
fn own_stations(desired: &Desired, fabric: &Fabric, out: &mut Origination<'_>) {
    for (name, segment) in desired.segments() {
        for ip in desired.probe_addresses(name) {
            // It is the address of a router, in a segment or out of it.
            let flags = NeighbourFlags { router: true, is_override: true, immutable: true };
            out.station(segment.vni, fabric.router_mac, Some((ip, flags)), Mobility::Pinned);
        }
    }
    for (segment, host) in desired.static_hosts() {
        let (mac, vni) = (MacAddr(host.mac.octets()), segment.vni);
        out.station(vni, mac, None, Mobility::Pinned);
        for ip in &host.addresses {
            let flags = NeighbourFlags { router: false, is_override: true, immutable: true };
            out.station(vni, mac, Some((*ip, flags)), Mobility::Pinned);
        }
    }
    for (_, node) in desired.nodes().filter(|(_, n)| n.public_key.is_some()) {
        node_stations(desired, node, out);
    }
}

fn node_stations(desired: &Desired, node: &Node, out: &mut Origination<'_>) {
    let vni = desired.document().segments[&node.segment].vni;
    for ip in &node.addresses {
        let flags = NeighbourFlags { router: false, is_override: true, immutable: true };
        out.station(vni, MacAddr(node.mac.octets()), Some((*ip, flags)), Mobility::Pinned);
    }
}

/// The stations that the document pins here: hosts of attachments and nodes.
pub fn pinned_stations(desired: &Desired) -> BTreeSet<Station> {
    let hosts = desired.static_hosts().map(|(segment, host)| (segment.vni, MacAddr(host.mac.octets())));
    let enrolled = desired.nodes().filter(|(_, n)| n.public_key.is_some());
    let vni = |node: &Node| desired.document().segments[&node.segment].vni;
    let nodes = enrolled.map(|(_, node)| (vni(node), MacAddr(node.mac.octets())));
    hosts.chain(nodes).collect()
}

/// The nodes that have enrolled and of which every address is among what was `told`.
pub fn announced_nodes(desired: &Desired, fabric: &Fabric, told: &Originated) -> Vec<Name> {
    let is_told = |node: &Node| {
        let mut wanted = Origination { fabric, originated: Originated::new() };
        node_stations(desired, node, &mut wanted);
        wanted.originated.keys().all(|key| told.contains_key(key))
    };
    let enrolled = desired.nodes().filter(|(_, n)| n.public_key.is_some());
    enrolled.filter(|(_, node)| is_told(node)).map(|(name, _)| name.clone()).collect()
}

/// Prefixes of each tenant that are ours by the document.
pub fn own_prefixes(desired: &Desired) -> BTreeSet<(Vni, IpNet)> {
    let tenants = &desired.document().tenants;
    let segments =
        desired.segments().flat_map(|(_, s)| s.subnets.iter().map(|n| (tenants[&s.tenant].l3vni, *n)));
    let exits =
        desired.exits().flat_map(|(_, e)| e.addresses.iter().map(|n| (tenants[&e.tenant].l3vni, n.trunc())));
    let routes = desired.routes().filter_map(|(_, r)| Some((tenants[r.tenant.as_ref()?].l3vni, r.prefix)));
    segments.chain(exits).chain(routes).collect()
}

enum Mobility {
    Moves(u32),
    Pinned,
}

struct Origination<'a> {
    fabric: &'a Fabric,
    originated: Originated,
}

impl Origination<'_> {
    fn evpn(&mut self, nlri: Nlri, communities: Vec<ExtCommunity>, pmsi: Option<PmsiTunnel>) {
        let attrs = PathAttributes {
            next_hop: Some(NextHop::from(self.fabric.vtep)),
            ext_communities: communities,
            pmsi_tunnel: pmsi,
            ..PathAttributes::default()
        };
        self.originated.insert((EVPN, nlri.key.clone()), (nlri, attrs));
    }

    fn target(&self, vni: Vni) -> ExtCommunity {
        self.fabric.route_target(vni).community()
    }

    fn broadcast(&mut self, vni: Vni, _l3vni: Vni) {
        let originator = self.fabric.vtep;
        let route = Imet { rd: self.fabric.rd(vni), tag: 0, originator };
        let Some(label) = bgp_vni(vni) else { return };
        let pmsi = PmsiTunnel::ingress_replication(label, originator);
        self.evpn(route.into(), vec![self.target(vni), ExtCommunity::ENCAP_VXLAN], Some(pmsi));
    }

    /// A station; with an address it can be routed to as well (RFC 9135 section 5.1).
    fn station(
        &mut self,
        vni: Vni,
        mac: MacAddr,
        bound: Option<(IpAddr, NeighbourFlags)>,
        mobility: Mobility,
    ) {
        let Some(l3vni) = self.fabric.segments.get(&vni).copied() else { return };
        let Some(label) = bgp_vni(vni) else { return };
        let ip = bound.map(|(ip, _)| ip);
        let routed = ip.and_then(|_| bgp_vni(l3vni));
        let route =
            MacIp { rd: self.fabric.rd(vni), esi: Esi::ZERO, tag: 0, mac, ip, vni: label, l3_vni: routed };
        let mut communities = vec![self.target(vni), ExtCommunity::ENCAP_VXLAN];
        if routed.is_some() {
            communities.push(self.target(l3vni));
            communities.push(ExtCommunity::router_mac(self.fabric.router_mac));
        }
        // R and O are of IPv6 only (RFC 9047 section 2). Of an owner who was heard, but said neither, nothing is told: the
        // others then say of it what nearly every host says of itself.
        if let Some((ip, mut flags)) = bound {
            flags.router &= ip.is_ipv6();
            flags.is_override &= ip.is_ipv6();
            if flags != NeighbourFlags::default() {
                communities.push(ExtCommunity::arp_nd(flags));
            }
        }
        match mobility {
            Mobility::Pinned => communities.push(ExtCommunity::mac_mobility(true, 0)),
            Mobility::Moves(0) => {}
            Mobility::Moves(sequence) => communities.push(ExtCommunity::mac_mobility(false, sequence)),
        }
        self.evpn(route.into(), communities, None);
    }

    /// A prefix in the interface-less model (RFC 9136 section 4.4.1), always with the Router's MAC.
    fn prefix(&mut self, l3vni: Vni, prefix: IpNet) {
        let Some(label) = bgp_vni(l3vni) else { return };
        let rd = self.fabric.rd(l3vni);
        let route = IpPrefix { rd, esi: Esi::ZERO, tag: 0, prefix, gateway: None, l3_vni: label };
        let communities = vec![
            self.target(l3vni),
            ExtCommunity::ENCAP_VXLAN,
            ExtCommunity::router_mac(self.fabric.router_mac),
        ];
        self.evpn(route.into(), communities, None);
    }

    fn unicast(&mut self, l3vni: Vni, prefix: IpNet) {
        self.originated.insert(unicast_id(l3vni, prefix), unicast_route(prefix));
    }
}

fn bgp_vni(vni: Vni) -> Option<watari_bgp::types::Vni> {
    watari_bgp::types::Vni::new(vni.get())
}
