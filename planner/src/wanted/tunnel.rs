//! Tunnels to other gateways. Each has a device, a route to the far VTEP with a metric by preference
//! and health, a guard that binds the VTEP to the device, a probe, and a measurement of what crosses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use watari_config::desired::device;
use watari_config::document::{DirectTunnel, Encapsulation, Gateway, Tunnel, WireguardTunnel};
use watari_config::endpoint::{ENDPOINTS_MAX, Endpoint, Endpoints};
use watari_config::validate::vxlan_overhead_bytes;
use watari_config::{Desired, Name, WgKey};

use super::{Making, untagged};
use crate::item::{BundleMember, HookKind, Key, Ns, PortAt, Value, Wireguard, WireguardPeer};
use crate::observed::Engine;
use crate::path_mtu::{bound, carried};

/// Added to the metric of a tunnel through which no probe comes back: any that is up goes before it.
const METRIC_DOWN: u32 = 10_000_000;
/// Between tunnels of one preference and those of the next; as many tunnels may be in a bundle.
const METRIC_STEP: u32 = 64;
/// Bundles go before any single tunnel: theirs is 1.
const METRIC_FIRST: u32 = 2;

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

    /// What crosses to each far gateway: what fits into the tunnels that carry the traffic, those of the lowest preference
    /// among those that are up. While none is up, what fits into any of them.
    fn remotes(&mut self) {
        let mut tunnels = BTreeMap::<IpAddr, Vec<(&Name, &Tunnel)>>::new();
        for (name, tunnel, _, far) in self.desired.tunnels() {
            tunnels.entry(far.vtep).or_default().push((name, tunnel));
        }
        for (vtep, tunnels) in tunnels {
            let is_up = |name: &Name| self.observed.tunnels.get(name).is_some_and(|t| t.up);
            let best = tunnels.iter().filter(|(name, _)| is_up(name)).map(|(_, t)| t.preference).min();
            let carries = |(name, tunnel): &&(&Name, &Tunnel)| {
                best.is_none_or(|best| best == tunnel.preference && is_up(name))
            };
            let carried = |name, tunnel| carried(self.desired, self.observed, name, tunnel);
            let narrowest = tunnels.iter().filter(carries).min_by_key(|(name, t)| carried(name, t));
            let Some((name, tunnel)) = narrowest else { continue };
            let carried = carried(name, tunnel);
            let owner = format!("tunnels.{name}");
            let mtu = carried.saturating_sub(vxlan_overhead_bytes(vtep));
            self.want(&owner, Key::Remote(vtep), Value::Remote { mtu, spoke: false });
            let members: Vec<_> = tunnels.into_iter().filter(|(_, t)| best == Some(t.preference)).collect();
            if members.len() > 1 {
                self.bundle(&owner, vtep, &members, carried);
            }
        }
    }

    /// Tunnels of one preference share the traffic to a VTEP by flow, those that are up. The bundle stays while any of them is,
    /// so that the flows of one that comes back return to it at rest.
    fn bundle(&mut self, owner: &str, vtep: IpAddr, tunnels: &[(&Name, &Tunnel)], mtu: u16) {
        let is_up = |name: &Name| self.observed.tunnels.get(name).is_some_and(|t| t.up);
        let up = tunnels.iter().filter(|(name, _)| is_up(name));
        let members = up.map(|(name, tunnel)| {
            (device::wireguard(name), BundleMember { via: None, weight: tunnel.weight })
        });
        let value =
            Value::Bundle { members: members.collect(), source: Some(self.gateway.vtep), mtu: Some(mtu) };
        self.want(owner, Key::Bundle(IpNet::from(vtep)), value);
        // The kernel chooses by ports too: VXLAN's source port is made of the flow inside (RFC 7348 section 5).
        let family = if vtep.is_ipv4() { "ipv4" } else { "ipv6" };
        let path = format!("net/{family}/fib_multipath_hash_policy");
        self.want(owner, Key::Sysctl(Ns::Root, path), Value::Setting("1".to_owned()));
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
        let key = far.wireguard_key?;
        let mut allowed_ips: Vec<IpNet> = behind(self.desired, far.vtep).map(|(_, prefix)| prefix).collect();
        let endpoints = self.endpoints(&device, &key, wireguard.endpoints.get(far_name), &allowed_ips);
        // As they are observed.
        allowed_ips.sort_unstable();
        let peer = WireguardPeer { endpoints, allowed_ips, keepalive_s: wireguard.keepalive_s };
        let value = Wireguard {
            own_key: self.observed.identity.wireguard_key,
            listen_port: wireguard.listen_port(self.desired.gateway_name()).unwrap_or(0),
            mtu: self.bound(name, tunnel),
            dscp: wireguard.dscp,
            peers: BTreeMap::from([(key, peer)]),
        };
        self.want(owner, Key::Wireguard(device.clone()), Value::Wireguard(value));
        // Reverse-path filtering, loose too, drops what comes in by a device without an address when the way back
        // leads through another tunnel.
        let own = IpNet::from(self.gateway.vtep);
        self.want(owner, Key::Address(Ns::Root, device.clone(), own), Value::Present);
        self.overlay(owner, name, &device);
        Some((device, None))
    }

    /// The addresses of the places of a peer, in the order of the document. A name that nobody has resolved since the
    /// daemon started leaves the peer where it is. Nothing in `behind` is a place: packets to it would go into the tunnel that
    /// they are to carry, whatever a name's answer says.
    fn endpoints(
        &mut self,
        device: &str,
        key: &WgKey,
        places: Option<&Endpoints>,
        behind: &[IpNet],
    ) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        let mut is_open = false;
        for place in places.iter().flat_map(|places| places.iter()) {
            match place {
                Endpoint::Address(address) => found.push(*address),
                Endpoint::Named { host, port } => {
                    self.wanted.names.insert(host.clone());
                    let resolved = self.observed.names.get(host).filter(|name| !name.addresses.is_empty());
                    is_open |= resolved.is_none();
                    let addresses = resolved.into_iter().flat_map(|name| &name.addresses);
                    let hosts = addresses.map(IpAddr::to_canonical).filter(is_host);
                    found.extend(hosts.map(|ip| SocketAddr::new(ip, *port)));
                }
            }
        }
        if is_open
            && let Some(Value::Wireguard(present)) =
                self.observed.system.get(&Key::Wireguard(device.to_owned()))
            && let Some(peer) = present.peers.get(key)
        {
            found.extend(&peer.endpoints);
        }
        let is_vtep = |ip| self.desired.document().gateways.values().any(|gateway| gateway.vtep == ip);
        let mut seen = BTreeSet::new();
        let is_behind = |ip| behind.iter().any(|prefix| prefix.contains(&ip));
        found.retain(|place| seen.insert(*place) && !is_vtep(place.ip()) && !is_behind(place.ip()));
        found.truncate(ENDPOINTS_MAX);
        found
    }

    /// Flat L2 over WireGuard in user space goes to the engine whole, super-frames and all, by a TAP of its own. Until that is
    /// there, and where there is none, VXLAN goes through the WireGuard device as through any other.
    fn overlay(&mut self, owner: &str, name: &Name, device: &str) {
        let fabric = &self.desired.document().fabric;
        let in_user_space = match self.observed.engines.get(device) {
            Some(engine) => *engine == Engine::User,
            // An engine that does not answer for a moment is not taken its overlay from.
            None => self.observed.system.contains_key(&Key::Overlay(device.to_owned())),
        };
        let own_encap = fabric.encapsulation == Encapsulation::Auto;
        if !(in_user_space && own_encap && self.observed.overlays_possible) || self.shares_flows(name) {
            return;
        }
        let tap = device::overlay(name);
        let (vtep, port) = (self.gateway.vtep, fabric.vxlan_port);
        self.want(owner, Key::Overlay(device.to_owned()), Value::Overlay { tap: tap.clone(), vtep, port });
        if !self.observed.overlays.contains(device) {
            return;
        }
        self.want(owner, Key::Wire(device.to_owned()), Value::EngineWire(tap.clone()));
        let tunnel = device.to_owned();
        self.want(owner, Key::Port(untagged(&tap)), Value::EnginePort { tunnel });
        self.want(owner, Key::Hook(tap, HookKind::Interface), Value::Present);
        self.want(owner, Key::OverlayInbound(device.to_owned()), Value::Present);
    }

    /// Whether another tunnel of the same preference leads to the same gateway: the kernel spreads the flows of such a bundle by
    /// VXLAN's source port, where the programs would ask once for a pair of hosts.
    fn shares_flows(&self, name: &Name) -> bool {
        let tunnels: Vec<_> = self.desired.tunnels().collect();
        let Some((_, own, own_far, _)) = tunnels.iter().find(|(tunnel, ..)| *tunnel == name) else {
            return false;
        };
        tunnels.iter().any(|(other, tunnel, far, _)| {
            *other != name && far == own_far && tunnel.preference == own.preference
        })
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
        // Metrics of different tunnels to one gateway differ, so that each keeps a route of its own for its probe; in a
        // bundle the one of the first name goes before, where the bundle does not.
        let before = self.desired.tunnels().filter(|(other, t, _, gateway)| {
            gateway.vtep == far.vtep && t.preference == tunnel.preference && *other < name
        });
        let rank = u32::try_from(before.count()).unwrap_or(0);
        let metric = u32::from(tunnel.preference) * METRIC_STEP + rank.min(METRIC_STEP - 1) + METRIC_FIRST;
        let metric = metric + if up { 0 } else { METRIC_DOWN };
        let mtu = Some(carried(self.desired, self.observed, name, tunnel));
        let route = Value::Route { via, source: Some(local), metric, mtu };
        for (route_name, prefix) in behind(self.desired, far.vtep) {
            let owner = route_name.map_or_else(|| owner.to_owned(), |route| format!("routes.{route}"));
            self.want(&owner, Key::Route(Ns::Root, prefix, device.to_owned()), route.clone());
        }
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

/// Whether another machine can have the address. What blocks a name answers with others, which an engine refuses.
fn is_host(ip: &IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback()
}

/// What lies behind the far gateway of this VTEP: the VTEP itself, and the prefixes of our own underlay routes through
/// it, with their names.
fn behind(desired: &Desired, vtep: IpAddr) -> impl Iterator<Item = (Option<&Name>, IpNet)> {
    let through = desired.routes().filter(move |(_, r)| r.tenant.is_none() && r.via == vtep);
    let routed = through.map(|(name, route)| (Some(name), route.prefix));
    std::iter::once((None, IpNet::from(vtep))).chain(routed)
}
