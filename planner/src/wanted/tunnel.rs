//! Tunnels to other gateways. Each has a device, a route to the far VTEP with a metric by preference
//! and health, a guard that binds the VTEP to the device, a probe, and a measurement of what crosses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use watari_config::Name;
use watari_config::desired::device;
use watari_config::document::{DirectTunnel, Gateway, Tunnel, WireguardTunnel};
use watari_config::validate::vxlan_overhead_bytes;

use super::{Making, untagged};
use crate::item::{HookKind, Key, Ns, PortAt, Value, Wireguard, WireguardPeer};
use crate::path_mtu::{bound, carried};

/// Added to the metric of a tunnel through which no probe comes back: any that is up goes before it.
const METRIC_DOWN: u32 = 100_000;

impl Making<'_> {
    pub(super) fn tunnels(&mut self) {
        let tunnels: Vec<_> = self.desired.tunnels().collect();
        for (name, tunnel, far_name, far) in tunnels {
            let owner = format!("tunnels.{name}");
            let made = match (&tunnel.wireguard, &tunnel.direct) {
                (Some(wireguard), _) => self.wireguard(&owner, name, tunnel, wireguard, far_name, far),
                (_, Some(direct)) => self.direct(&owner, name, tunnel, direct, far_name),
                _ => None,
            };
            if let Some((device, via)) = made {
                self.tunnel_device(&owner, name, tunnel, far, &device, via);
            }
        }
        self.remotes();
    }

    /// What crosses to each far gateway: what fits into the tunnel that carries the traffic, that is the one with the
    /// lowest preference among those that are up. While none is up, what fits into any of them.
    fn remotes(&mut self) {
        let mut tunnels = BTreeMap::<IpAddr, Vec<(&Name, &Tunnel)>>::new();
        for (name, tunnel, _, far) in self.desired.tunnels() {
            tunnels.entry(far.vtep).or_default().push((name, tunnel));
        }
        for (vtep, tunnels) in tunnels {
            let is_up = |name: &Name| self.observed.tunnels.get(name).is_some_and(|t| t.up);
            let up = tunnels.iter().filter(|(name, _)| is_up(name));
            let carried = |name, tunnel| carried(self.desired, self.observed, name, tunnel);
            let carrying = up.min_by_key(|(name, tunnel)| (tunnel.preference, carried(name, tunnel)));
            let smallest = tunnels.iter().min_by_key(|(name, tunnel)| carried(name, tunnel));
            let Some((name, tunnel)) = carrying.or(smallest) else { continue };
            let mtu = carried(name, tunnel).saturating_sub(vxlan_overhead_bytes(vtep));
            let owner = format!("tunnels.{name}");
            self.want(&owner, Key::Remote(vtep), Value::Remote { mtu, spoke: false });
        }
    }

    fn wireguard(
        &mut self,
        owner: &str,
        name: &Name,
        tunnel: &Tunnel,
        wireguard: &WireguardTunnel,
        far_name: &Name,
        far: &Gateway,
    ) -> Option<(String, Option<IpAddr>)> {
        let device = device::wireguard(name);
        let peer = WireguardPeer {
            endpoint: wireguard.endpoints.get(far_name).copied(),
            allowed_ips: vec![IpNet::from(far.vtep)],
            keepalive_s: wireguard.keepalive_s,
        };
        let value = Wireguard {
            own_key: self.observed.identity.wireguard_key,
            listen_port: wireguard.listen_port(self.desired.gateway_name()).unwrap_or(0),
            mtu: self.bound(name, tunnel),
            peers: BTreeMap::from([(far.wireguard_key?, peer)]),
        };
        self.want(owner, Key::Wireguard(device.clone()), Value::Wireguard(value));
        // Reverse-path filtering, loose too, drops what comes in by a device without an address when the way back
        // leads through another tunnel.
        let own = IpNet::from(self.gateway.vtep);
        self.want(owner, Key::Address(Ns::Root, device.clone(), own), Value::Present);
        Some((device, None))
    }

    fn direct(
        &mut self,
        owner: &str,
        name: &Name,
        tunnel: &Tunnel,
        direct: &DirectTunnel,
        far_name: &Name,
    ) -> Option<(String, Option<IpAddr>)> {
        let end = direct.ends.get(self.desired.gateway_name())?;
        let far_end = direct.ends.get(far_name)?;
        if !self.has_device(owner, end.vlan.trunk.as_str()) {
            return None;
        }
        let (kernel_end, port_end) = device::direct(name);
        let veth = Value::Veth {
            peer: port_end.clone(),
            peer_ns: Ns::Root,
            mac: self.router_mac(),
            mac_end: kernel_end.clone(),
            mtu: self.bound(name, tunnel),
        };
        self.want(owner, Key::Veth(kernel_end.clone()), veth);
        self.want(owner, Key::Address(Ns::Root, kernel_end.clone(), end.address), Value::Present);
        // A router on the L2VPN's VLAN must not become the gateway's default router.
        for setting in ["accept_ra", "autoconf"] {
            let path = format!("net/ipv6/conf/{kernel_end}/{setting}");
            self.want(owner, Key::Sysctl(Ns::Root, path), Value::Setting("0".to_owned()));
        }
        let wire = PortAt::vlan(&end.vlan);
        self.cross_connect(owner, &wire, &port_end, &[end.address], Some(&kernel_end));
        self.want(owner, Key::Wire(kernel_end.clone()), Value::Wire(wire));
        Some((kernel_end, Some(far_end.address.addr())))
    }

    /// Joins a VLAN or interface with the eBPF end of a veth; questions for `addresses` are answered on the wire.
    pub(super) fn cross_connect(
        &mut self,
        owner: &str,
        wire: &PortAt,
        port_end: &str,
        addresses: &[IpNet],
        tunnel: Option<&str>,
    ) {
        let v4 = addresses.iter().find_map(|n| if let IpAddr::V4(a) = n.addr() { Some(a) } else { None });
        let v6 = addresses.iter().find_map(|n| if let IpAddr::V6(a) = n.addr() { Some(a) } else { None });
        let answer = Some((self.router_mac(), v4, v6));
        let towards_kernel =
            Value::CrossPort { peer: untagged(port_end), answer, tunnel: tunnel.map(str::to_owned) };
        self.want(owner, Key::Port(wire.clone()), towards_kernel);
        let towards_wire = Value::CrossPort { peer: wire.clone(), answer: None, tunnel: None };
        self.want(owner, Key::Port(untagged(port_end)), towards_wire);
        self.want(owner, Key::Hook(wire.device.clone(), self.hook(&wire.device)), Value::Present);
        self.want(owner, Key::Hook(port_end.to_owned(), HookKind::Cross), Value::Present);
    }

    fn tunnel_device(
        &mut self,
        owner: &str,
        name: &Name,
        tunnel: &Tunnel,
        far: &Gateway,
        device: &str,
        via: Option<IpAddr>,
    ) {
        let local = self.gateway.vtep;
        let up = self.observed.tunnels.get(name).is_some_and(|t| t.up);
        // Metrics of different tunnels to one gateway differ, so that each keeps a route of its own for its probe.
        let metric = u32::from(tunnel.preference) + 1 + if up { 0 } else { METRIC_DOWN };
        let mtu = Some(carried(self.desired, self.observed, name, tunnel));
        let route = Value::Route { via, source: Some(local), metric, mtu };
        let prefix = IpNet::from(far.vtep);
        self.want(owner, Key::Route(Ns::Root, prefix, device.to_owned()), route);
        self.loose_rp_filter(owner, &Ns::Root, device);
        self.want(owner, Key::TunnelVtep(device.to_owned(), far.vtep), Value::Present);
        self.want(owner, Key::Hook(device.to_owned(), HookKind::Tunnel), Value::Present);
        let probe = Value::Probe { local, remote: far.vtep, device: device.to_owned() };
        self.want(owner, Key::Probe(name.to_string()), probe);
        let (remote, max) = (far.vtep, self.bound(name, tunnel));
        let path_mtu = Value::PathMtu { local, remote, device: device.to_owned(), max };
        self.want(owner, Key::PathMtu(name.to_string()), path_mtu);
    }

    /// MTU of a tunnel's device: the largest packet that is tried.
    fn bound(&self, name: &Name, tunnel: &Tunnel) -> u16 {
        bound(self.desired, self.observed, name, tunnel).bytes
    }
}
