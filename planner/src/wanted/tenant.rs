//! A tenant's namespace: the gateway's own IP stack in the tenant, with its addresses in each segment.
//!
//! ```text
//!   namespace wt-<gateway>.<tenant>                 gateway's namespace
//!     wt-core  10.10.0.1/32 (anycast)   ──veth──   wtc…  program `core`
//!              10.10.0.129/32 (own)
//!     10.10.0.0/24 via 169.254.0.1 dev wt-core onlink,  169.254.0.1 lladdr <anycast MAC> permanent
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use watari_config::desired::device;
use watari_config::document::{Flooding, Segment, Tenant};
use watari_config::{Name, Vni};

use super::{Making, place, untagged};
use crate::item::{HookKind, Key, Ns, TenantRoute, Value};

/// The next hop into the overlay: stands for the pipeline, which answers to the anycast MAC.
pub(crate) const OVERLAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// The same for IPv6.
pub(crate) const OVERLAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// MTU of the core port: the largest a segment can have.
const CORE_MTU: u16 = 9216;

impl Making<'_> {
    pub(super) fn tenant(&mut self, name: &Name, tenant: &Tenant) {
        let owner = format!("tenants.{name}");
        let ns = self.tenant_ns(name);
        let core = device::core(name);
        self.want(&owner, Key::Namespace(self.namespace(name)), Value::Present);
        let veth = Value::Veth {
            peer: device::CORE_INNER.to_owned(),
            peer_ns: ns.clone(),
            mac: self.router_mac(),
            mac_end: device::CORE_INNER.to_owned(),
            mtu: CORE_MTU,
        };
        self.want(&owner, Key::Veth(core.clone()), veth);
        self.namespace_settings(&owner, &ns);
        self.overlay_neighbours(&owner, &ns);
        let entry = Value::Tenant { core: core.clone(), core_mac: self.router_mac() };
        self.want(&owner, Key::TenantEntry(tenant.l3vni), entry);
        let plain = self.plain_devices(name);
        self.want(&owner, Key::SegmentEntry(tenant.l3vni), Value::L3Segment { plain });
        let port = Value::TenantPort { tenant: tenant.l3vni, nodes: false };
        self.want(&owner, Key::Port(untagged(&core)), port);
        self.want(&owner, Key::Hook(core, HookKind::Core), Value::Present);
        let segments: Vec<_> = self.desired.segments().filter(|(_, s)| s.tenant == *name).collect();
        for (segment_name, segment) in segments {
            self.segment(segment_name, segment, tenant.l3vni, &ns);
        }
    }

    /// Whether all devices behind which the tenant's hosts and nodes are here are veths.
    fn plain_devices(&self, tenant: &Name) -> bool {
        let segments = &self.desired.document().segments;
        let of_tenant = |segment: &Name| segments[segment].tenant == *tenant;
        let mut attachments = self.desired.attachments().filter(|(_, a)| of_tenant(&a.segment));
        let mut nodes = self.desired.nodes();
        let is_plain = |device: &str| self.observed.plain_devices.contains(device);
        attachments.all(|(_, a)| match (&a.vlan, &a.interface) {
            (Some(vlan), _) => is_plain(vlan.trunk.as_str()),
            (_, Some(interface)) => is_plain(interface.as_str()),
            _ => true,
        }) && !nodes.any(|(_, node)| of_tenant(&node.segment))
    }

    fn namespace_settings(&mut self, owner: &str, ns: &Ns) {
        let settings = [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            ("net/ipv4/conf/wt-core/send_redirects", "0"),
        ];
        for (path, text) in settings {
            self.want(owner, Key::Sysctl(ns.clone(), path.to_owned()), Value::Setting(text.to_owned()));
        }
        self.loose_rp_filter(owner, ns, device::CORE_INNER);
    }

    fn overlay_neighbours(&mut self, owner: &str, ns: &Ns) {
        let mac = Value::Neighbour(self.desired.document().fabric.anycast_mac);
        for ip in [IpAddr::V4(OVERLAY_V4), IpAddr::V6(OVERLAY_V6)] {
            self.want(owner, Key::Neighbour(ns.clone(), device::CORE_INNER.to_owned(), ip), mac.clone());
        }
    }

    fn segment(&mut self, name: &Name, segment: &Segment, tenant: Vni, ns: &Ns) {
        let owner = format!("segments.{name}");
        let entry = Value::L2Segment {
            tenant,
            mtu: segment.mtu.get(),
            flood_unknown: segment.unknown_unicast == Flooding::Flood,
            flood_broadcast: segment.broadcast == Flooding::Flood,
            flood_multicast: segment.multicast == Flooding::Flood,
            flood_rate: segment.flood_rate,
            plain: self.plain_devices(&segment.tenant),
        };
        self.want(&owner, Key::SegmentEntry(segment.vni), entry);
        let own = self.desired.probe_addresses(name);
        for subnet in &segment.subnets {
            self.subnet(&owner, segment, *subnet, &own, tenant, ns);
        }
        self.static_hosts(&owner, segment);
        let anycast_mac = self.desired.document().fabric.anycast_mac;
        let anycast = segment.gateway.iter().map(|a| (*a, anycast_mac));
        let own = own.iter().map(|a| (*a, self.router_mac()));
        for (ip, mac) in anycast.chain(own).collect::<Vec<_>>() {
            let host = IpNet::from(ip);
            self.want(&owner, Key::Address(ns.clone(), device::CORE_INNER.to_owned(), host), Value::Present);
            let neighbour = Value::StaticNeighbour { mac, own: true };
            self.want(&owner, Key::StaticNeighbour(segment.vni, ip), neighbour);
            self.want(&owner, Key::TenantRoute(tenant, host), Value::TenantRoute(TenantRoute::Own));
        }
    }

    /// Hosts that are pinned to attachments of this gateway.
    fn static_hosts(&mut self, owner: &str, segment: &Segment) {
        let attachments = &self.desired.document().attachments;
        for host in &segment.static_hosts {
            let attachment = &attachments[&host.attachment];
            let Some(at) = place(attachment).filter(|_| attachment.gateway == *self.desired.gateway_name())
            else {
                continue;
            };
            if !self.observed.devices.contains(&at.device) {
                continue;
            }
            self.want(owner, Key::StaticMac(segment.vni, host.mac), Value::StaticMac { at, node: false });
            for ip in &host.addresses {
                let neighbour = Value::StaticNeighbour { mac: host.mac, own: false };
                self.want(owner, Key::StaticNeighbour(segment.vni, *ip), neighbour);
            }
        }
    }

    fn subnet(
        &mut self,
        owner: &str,
        segment: &Segment,
        subnet: IpNet,
        own: &[IpAddr],
        tenant: Vni,
        ns: &Ns,
    ) {
        let Some(gateway) = segment.gateway.iter().find(|a| subnet.contains(*a)).copied() else { return };
        let via = if subnet.addr().is_ipv4() { IpAddr::V4(OVERLAY_V4) } else { IpAddr::V6(OVERLAY_V6) };
        let source = own.iter().find(|a| subnet.contains(*a)).copied().or(Some(gateway));
        let route = Value::Route { via: Some(via), source, metric: METRIC, mtu: None };
        self.want(owner, Key::Route(ns.clone(), subnet, device::CORE_INNER.to_owned()), route);
        // Questions are sent from the gateway's own address: the answer to the anycast one would go to
        // whichever gateway is nearest to the host.
        let sender = own.iter().find(|a| subnet.contains(*a)).copied().unwrap_or(gateway);
        let connected = TenantRoute::Connected { vni: segment.vni, gateway: sender };
        self.want(owner, Key::TenantRoute(tenant, subnet), Value::TenantRoute(connected));
    }
}

/// Metric of the routes of a plan where nothing competes.
pub(super) const METRIC: u32 = 100;
