//! Nodes of mode `l3`: a peer of the tenant's node-facing WireGuard device, and a virtual host of the segment.

use std::collections::BTreeMap;

use ipnet::IpNet;
use watari_config::Name;
use watari_config::desired::device;
use watari_config::document::{Dscp, Node};

use super::{Making, untagged};
use crate::item::{HookKind, Key, Ns, TenantRoute, Value, Wireguard, WireguardPeer};

/// MTU of the node-facing device in bytes: WireGuard over IPv6 on an Ethernet path of 1500.
pub const NODE_DEVICE_MTU: u16 = 1420;

impl Making<'_> {
    pub(super) fn nodes(&mut self) {
        let mut by_tenant: BTreeMap<&Name, Vec<(&Name, &Node)>> = BTreeMap::new();
        for (name, node) in self.desired.nodes() {
            let segment = &self.desired.document().segments[&node.segment];
            by_tenant.entry(&segment.tenant).or_default().push((name, node));
        }
        for (tenant, nodes) in by_tenant {
            self.node_device(tenant, &nodes);
            let device = device::node(tenant);
            for (name, node) in nodes {
                self.node(name, node, tenant, &device);
            }
        }
    }

    fn node_device(&mut self, tenant: &Name, nodes: &[(&Name, &Node)]) {
        let owner = format!("tenants.{tenant}");
        let device = device::node(tenant);
        let peers = nodes.iter().filter_map(|(_, node)| {
            let peer = WireguardPeer {
                endpoints: Vec::new(),
                allowed_ips: sorted(node.addresses.iter().map(|a| IpNet::from(*a))),
                keepalive_s: 0,
            };
            Some((node.public_key?, peer))
        });
        let value = Wireguard {
            own_key: self.observed.identity.wireguard_key,
            listen_port: self.tenant_object(tenant).node_port,
            mtu: NODE_DEVICE_MTU,
            dscp: Dscp::Fixed(0),
            peers: peers.collect(),
        };
        let port = Value::TenantPort { tenant: self.tenant_vni(tenant), nodes: true };
        self.want(&owner, Key::Wireguard(device.clone()), Value::Wireguard(value));
        // Without its program the device must lead nowhere: the gateway's own stack has no way back to a node.
        let closed = [("ipv4", "rp_filter", "1"), ("ipv6", "disable_ipv6", "1")];
        for (family, setting, text) in closed {
            let path = format!("net/{family}/conf/{device}/{setting}");
            self.want(&owner, Key::Sysctl(Ns::Root, path), Value::Setting(text.to_owned()));
        }
        self.want(&owner, Key::Port(untagged(&device)), port);
        self.want(&owner, Key::Hook(device, HookKind::Node), Value::Present);
    }

    /// Nothing of a node is there before it has enrolled: nobody may be answered in its name.
    fn node(&mut self, name: &Name, node: &Node, tenant: &Name, device: &str) {
        if node.public_key.is_none() {
            return;
        }
        let owner = format!("nodes.{name}");
        let vni = self.desired.document().segments[&node.segment].vni;
        let tenant = self.tenant_vni(tenant);
        let place = Value::StaticMac { at: untagged(device), node: true };
        self.want(&owner, Key::StaticMac(vni, node.mac), place);
        for address in &node.addresses {
            let entry = Value::Node { vni, mac: node.mac };
            self.want(&owner, Key::NodeEntry(device.to_owned(), *address), entry);
            let neighbour = Value::StaticNeighbour { mac: node.mac, own: false };
            self.want(&owner, Key::StaticNeighbour(vni, *address), neighbour);
            let route = Value::TenantRoute(TenantRoute::Node { device: device.to_owned() });
            self.want(&owner, Key::TenantRoute(tenant, IpNet::from(*address)), route);
        }
    }
}

fn sorted(nets: impl Iterator<Item = IpNet>) -> Vec<IpNet> {
    let mut nets: Vec<_> = nets.collect();
    nets.sort();
    nets
}
