//! Gateways, tunnels and MTU.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Check, PATH_MTU_PORT, PROBE_PORT, Unique, at, vxlan_overhead_bytes};
use crate::desired::{device, router_mac};
use crate::document::{DirectTunnel, Gateway, Tunnel, WireguardTunnel};
use crate::endpoint::{ENDPOINTS_MAX, Endpoints};
use crate::names::Name;
use crate::read::Path;

/// The smallest MTU of a link that carries IPv6 (RFC 8200 section 5).
const IPV6_MTU_MIN: u16 = 1280;
/// The largest weight of a tunnel in a bundle.
const WEIGHT_MAX: u8 = 100;

pub(super) fn check(check: &mut Check<'_>) {
    gateways(check);
    tunnels(check);
    device_names(check);
}

fn gateways(check: &mut Check<'_>) {
    let (mut vteps, mut macs, mut ids) = (Unique::new(), Unique::new(), Unique::new());
    for (name, gateway) in &check.document.gateways {
        let path = at("gateways").field(name.as_str());
        check.reference(&check.document.sites, "site", &gateway.site, &path.field("site"));
        let vtep = path.field("vtep");
        vtep_address(check, gateway, &vtep);
        identifier(check, gateway, &path.field("router_id"));
        if let Some(id) = gateway.bgp_identifier() {
            let field = path.field(if gateway.router_id.is_some() { "router_id" } else { "vtep" });
            ids.take(id, format!("BGP identifier {id}"), &field, &mut check.problems);
        }
        vteps.take(gateway.vtep, format!("VTEP {}", gateway.vtep), &vtep, &mut check.problems);
        macs.take(
            router_mac(gateway.vtep),
            "the router MAC made of this address",
            &vtep,
            &mut check.problems,
        );
        let mut seen = Unique::new();
        for (i, trunk) in gateway.trunks.iter().enumerate() {
            let here = path.field("trunks").index(i);
            seen.take(trunk, format!("device {trunk}"), &here, &mut check.problems);
            if gateway.uplink.as_ref() == Some(trunk) {
                check.add(&here, format!("device {trunk} is the uplink"));
            }
        }
    }
}

fn vtep_address(check: &mut Check<'_>, gateway: &Gateway, path: &Path) {
    let vtep = gateway.vtep;
    if vtep.is_unspecified() || vtep.is_multicast() || vtep.is_loopback() {
        check.add(path, "must be a unicast address other than loopback");
    }
    if let IpAddr::V6(v6) = vtep
        && (v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some())
    {
        check.add(path, "must be an IPv6 address that is neither link-local nor IPv4-mapped");
    }
    // Any two gateways may have a tunnel between them, and VXLAN joins two addresses of one family.
    let mut others = check.document.gateways.iter();
    if let Some((name, first)) = others.next()
        && first.vtep.is_ipv4() != vtep.is_ipv4()
    {
        check.add(path, format!("must be of the family of {}, the VTEP of gateway {name}", first.vtep));
    }
}

fn identifier(check: &mut Check<'_>, gateway: &Gateway, path: &Path) {
    match gateway.router_id {
        None if gateway.vtep.is_ipv6() => check.add(path, "is required where the VTEP is an IPv6 address"),
        Some(id) if id.is_unspecified() => check.add(path, "must not be 0.0.0.0 (RFC 6286)"),
        _ => {}
    }
}

fn tunnels(check: &mut Check<'_>) {
    for (name, tunnel) in &check.document.tunnels {
        let path = at("tunnels").field(name.as_str());
        let ends = path.field("between");
        if tunnel.between.len() != 2 || tunnel.between[0] == tunnel.between[1] {
            check.add(&ends, "must name two different gateways");
        }
        for (i, end) in tunnel.between.iter().enumerate() {
            check.reference(&check.document.gateways, "gateway", end, &ends.index(i));
        }
        match (&tunnel.wireguard, &tunnel.direct) {
            (Some(wireguard), None) => wireguard_tunnel(check, tunnel, wireguard, &path),
            (None, Some(direct)) => direct_tunnel(check, tunnel, direct, &path),
            _ => check.add(&path, "must have exactly one of wireguard and direct"),
        }
        mtu(check, name, tunnel);
        if !(1..=WEIGHT_MAX).contains(&tunnel.weight) {
            check.add(&path.field("weight"), format!("must be 1 to {WEIGHT_MAX}"));
        }
    }
    bundles(check);
    udp_ports(check);
}

/// Tunnels of one preference between the same gateways are a bundle, which the kernel's routing makes by flow; VXLAN over a
/// `direct` tunnel leaves by the programs, which know one way to a gateway.
fn bundles(check: &mut Check<'_>) {
    let mut first = BTreeMap::new();
    for (name, tunnel) in &check.document.tunnels {
        let mut ends: Vec<&Name> = tunnel.between.iter().collect();
        ends.sort_unstable();
        let Some(other) = first.insert((ends, tunnel.preference), (name, tunnel)) else { continue };
        let has_direct = tunnel.direct.is_some() || other.1.direct.is_some();
        if has_direct {
            let path = at("tunnels").field(name.as_str()).field("preference");
            let message = format!(
                "{} is that of tunnel {} as well: only WireGuard tunnels share traffic",
                tunnel.preference, other.0
            );
            check.add(&path, message);
        }
    }
}

fn wireguard_tunnel(check: &mut Check<'_>, tunnel: &Tunnel, wireguard: &WireguardTunnel, path: &Path) {
    let here = path.field("wireguard");
    only_ends(check, tunnel, wireguard.endpoints.keys(), &here.field("endpoints"));
    only_ends(check, tunnel, wireguard.listen_ports.keys(), &here.field("listen_ports"));
    if wireguard.endpoints.is_empty() {
        check.add(&here.field("endpoints"), "must have at least one gateway's endpoint");
    }
    for (gateway, places) in &wireguard.endpoints {
        endpoints(check, places, &here.field("endpoints").field(gateway.as_str()));
    }
    for end in &tunnel.between {
        let keyless = check.document.gateways.get(end).is_some_and(|g| g.wireguard_key.is_none());
        if keyless {
            let field = at("gateways").field(end.as_str()).field("wireguard_key");
            check.add(&field, format!("is required: {path} ends there; `watari facts` shows it"));
        }
    }
}

fn endpoints(check: &mut Check<'_>, places: &Endpoints, path: &Path) {
    if places.is_empty() || places.len() > ENDPOINTS_MAX {
        check.add(path, format!("must have 1 to {ENDPOINTS_MAX} places"));
    }
    let mut seen = Unique::new();
    for (i, endpoint) in places.iter().enumerate() {
        let field = if places.len() == 1 { path.clone() } else { path.index(i) };
        seen.take(endpoint, format!("{endpoint}"), &field, &mut check.problems);
        let impossible = |ip: IpAddr| ip.is_unspecified() || ip.is_multicast();
        if endpoint.port() == 0 || endpoint.ip().is_some_and(impossible) {
            check.add(&field, "must be a unicast address or a name, and a port other than 0");
        }
        let mut gateways = check.document.gateways.iter();
        if let Some((name, _)) = gateways.find(|(_, g)| Some(g.vtep) == endpoint.ip()) {
            check.add(&field, format!("is the VTEP of gateway {name}, which is reached through the tunnel"));
        }
    }
}

/// Sockets that listen on every address of a gateway leave the port to nobody else, and the other way round.
fn udp_ports(check: &mut Check<'_>) {
    let mut ports = Unique::new();
    let tenants: Vec<_> = check.document.tenants.iter().collect();
    let (vxlan, here) = (check.document.fabric.vxlan_port, at("fabric").field("vxlan_port"));
    let is_impossible = [0, PROBE_PORT, PATH_MTU_PORT].contains(&vxlan);
    if is_impossible {
        let message =
            format!("must not be 0, nor {PROBE_PORT} or {PATH_MTU_PORT}, which are those of the path probes");
        check.add(&here, message);
    }
    for gateway in check.document.gateways.keys() {
        for port in [PROBE_PORT, PATH_MTU_PORT] {
            ports.take((gateway.clone(), port), "", &at("path probes"), &mut check.problems);
        }
        if !is_impossible {
            ports.take((gateway.clone(), vxlan), "", &here, &mut check.problems);
        }
        for (tenant, spec) in &tenants {
            let path = at("tenants").field(tenant.as_str()).field("node_port");
            let key = (gateway.clone(), spec.node_port);
            ports.take(key, format!("UDP port {}", spec.node_port), &path, &mut check.problems);
        }
    }
    for (name, tunnel) in &check.document.tunnels {
        let Some(wireguard) = &tunnel.wireguard else {
            continue;
        };
        for gateway in &tunnel.between {
            let Some(port) = wireguard.listen_port(gateway) else {
                continue;
            };
            let path = at("tunnels").field(name.as_str()).field("wireguard").field("endpoints");
            let path = path.field(gateway.as_str());
            ports.take((gateway.clone(), port), format!("UDP port {port}"), &path, &mut check.problems);
        }
    }
}

impl WireguardTunnel {
    /// The UDP port `gateway` listens on; none: any free one.
    pub fn listen_port(&self, gateway: &Name) -> Option<u16> {
        self.listen_ports.get(gateway).copied().or_else(|| {
            let first = self.endpoints.get(gateway)?.first()?;
            Some(first.port())
        })
    }
}

fn direct_tunnel(check: &mut Check<'_>, tunnel: &Tunnel, direct: &DirectTunnel, path: &Path) {
    let here = path.field("direct").field("ends");
    only_ends(check, tunnel, direct.ends.keys(), &here);
    for gateway in &tunnel.between {
        if !direct.ends.contains_key(gateway) {
            check.add(&here.field(gateway.as_str()), "is required");
        }
    }
    let addresses: Vec<&IpNet> = direct.ends.values().map(|e| &e.address).collect();
    if let [a, b] = addresses[..]
        && (a.trunc() != b.trunc() || a.addr() == b.addr())
    {
        check.add(&here, format!("{a} and {b} must be different addresses of one subnet"));
    }
    for (gateway, end) in &direct.ends {
        let field = here.field(gateway.as_str()).field("address");
        host_address(check, &end.address, &field);
        // The next hop on the way to a VTEP is of the VTEP's family.
        let vtep = check.document.gateways.get(gateway).map(|g| g.vtep);
        if let Some(vtep) = vtep.filter(|v| v.is_ipv4() != end.address.addr().is_ipv4()) {
            check.add(&field, format!("must be of the family of the VTEP, {vtep}"));
        }
    }
}

fn only_ends<'a>(check: &mut Check<'_>, tunnel: &Tunnel, keys: impl Iterator<Item = &'a Name>, path: &Path) {
    for key in keys.filter(|k| !tunnel.between.contains(k)) {
        check.add(&path.field(key.as_str()), "is not one of the gateways the tunnel is between");
    }
}

/// Notes a problem when `net` is a subnet's own or broadcast address instead of a host's.
pub(super) fn host_address(check: &mut Check<'_>, net: &IpNet, path: &Path) {
    let tiny = net.max_prefix_len() - net.prefix_len() < 2;
    let own = net.addr() == net.network() || (net.addr() == net.broadcast() && net.addr().is_ipv4());
    if !tiny && own {
        check.add(path, format!("{net} must be a host's address with its prefix length"));
    }
}

/// Over IPv4 whatever does not fit is fragmented outside where its sender cannot be told. Over IPv6 nothing is, so a tunnel
/// must carry what every link of a segment with IPv6 carries.
fn mtu(check: &mut Check<'_>, name: &Name, tunnel: &Tunnel) {
    let gateways = &check.document.gateways;
    let Some(vtep) = tunnel.between.iter().find_map(|end| gateways.get(end)).map(|g| g.vtep) else { return };
    if !vtep.is_ipv6() {
        return;
    }
    let six = |net: &IpNet| matches!(net, IpNet::V6(_));
    let inner_six = check.document.segments.values().any(|segment| segment.subnets.iter().any(six));
    let least = IPV6_MTU_MIN + if inner_six { vxlan_overhead_bytes(vtep) } else { 0 };
    if tunnel.mtu.bytes().is_some_and(|mtu| mtu.get() < least) {
        let path = at("tunnels").field(name.as_str()).field("mtu");
        check.add(&path, format!("must be {least} at least, as the VTEPs are IPv6 (RFC 8200 section 5)"));
    }
}

/// Device names are made of a hash of the object's name: two objects must not meet in one.
fn device_names(check: &mut Check<'_>) {
    let mut devices = Unique::new();
    let document = check.document;
    let tunnels = document.tunnels.keys().map(|n| ("tunnels", n, device::wireguard(n)));
    let exits = document.exits.keys().map(|n| ("exits", n, device::exit(n).0));
    let tenants = document.tenants.keys().map(|n| ("tenants", n, device::core(n)));
    for (kind, name, made) in tunnels.chain(exits).chain(tenants) {
        let path = at(kind).field(name.as_str());
        devices.take(made, "the device name made of this name", &path, &mut check.problems);
    }
}
