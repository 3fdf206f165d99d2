//! Tenants, segments, attachments, exits, peers and routes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::underlay::host_address;
use super::{Check, Unique, at};
use crate::document::{Bfd, Document, Exit, Family, Peer, Route, Segment};
use crate::endpoint::Endpoint;
use crate::names::Name;
use crate::read::Path;

pub(super) fn check(check: &mut Check<'_>) {
    vnis(check);
    for (name, segment) in &check.document.segments {
        segment_fields(check, segment, &at("segments").field(name.as_str()));
    }
    overlaps(check);
    attachments(check);
    exits(check);
    peers(check);
    routes(check);
}

fn vnis(check: &mut Check<'_>) {
    let mut vnis = Unique::new();
    for (name, tenant) in &check.document.tenants {
        let path = at("tenants").field(name.as_str()).field("l3vni");
        vnis.take(tenant.l3vni, format!("VNI {}", tenant.l3vni), &path, &mut check.problems);
    }
    for (name, segment) in &check.document.segments {
        let path = at("segments").field(name.as_str()).field("vni");
        vnis.take(segment.vni, format!("VNI {}", segment.vni), &path, &mut check.problems);
    }
}

fn segment_fields(check: &mut Check<'_>, segment: &Segment, path: &Path) {
    check.reference(&check.document.tenants, "tenant", &segment.tenant, &path.field("tenant"));
    if segment.subnets.is_empty() {
        check.add(&path.field("subnets"), "must have at least one subnet");
    }
    for (i, net) in segment.subnets.iter().enumerate() {
        let here = path.field("subnets").index(i);
        if *net != net.trunc() {
            check
                .add(&here, format!("{net} has bits set beyond its prefix length; meant is {}", net.trunc()));
        }
        if segment.subnets[..i].iter().any(|n| same_family(n, net)) {
            check.add(&here, "is the second subnet of its family; a segment has at most one of each");
        }
        if segment.gateway.iter().filter(|a| net.contains(*a)).count() != 1 {
            check.add(&path.field("gateway"), format!("must have one address in {net}"));
        }
        if matches!(net, IpNet::V6(_)) && segment.mtu.get() < 1280 {
            check.add(&path.field("mtu"), "must be 1280 at least: the segment has IPv6 (RFC 8200 section 5)");
        }
    }
    for (i, address) in segment.gateway.iter().enumerate() {
        let here = path.field("gateway").index(i);
        match segment.subnets.iter().find(|n| n.contains(address)) {
            None => check.add(&here, format!("{address} is in none of the subnets")),
            Some(net) if net.network() == *address || (address.is_ipv4() && net.broadcast() == *address) => {
                check.add(&here, format!("{address} is no host's address of {net}"));
            }
            Some(_) => {}
        }
    }
    if !(10..=1_000_000).contains(&segment.mac_age_s) {
        check.add(&path.field("mac_age_s"), "must be from 10 to 1000000 (IEEE 802.1Q section 8.8.3)");
    }
    if segment.flood_rate == 0 {
        check.add(&path.field("flood_rate"), "must be 1 at least: without broadcast no host finds another");
    }
}

fn same_family(a: &IpNet, b: &IpNet) -> bool {
    matches!((a, b), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)))
}

/// No two subnets of one tenant may overlap, those of its exits included; tenants may repeat each other.
fn overlaps(check: &mut Check<'_>) {
    let document = check.document;
    let mut nets: Vec<(&Name, IpNet, Path)> = Vec::new();
    for (name, segment) in &document.segments {
        let path = at("segments").field(name.as_str()).field("subnets");
        nets.extend(segment.subnets.iter().enumerate().map(|(i, n)| (&segment.tenant, *n, path.index(i))));
    }
    for (name, exit) in &document.exits {
        let path = at("exits").field(name.as_str()).field("addresses");
        nets.extend(exit.addresses.iter().enumerate().map(|(i, n)| (&exit.tenant, n.trunc(), path.index(i))));
    }
    for (i, (tenant, net, path)) in nets.iter().enumerate() {
        for (other_tenant, other, first) in &nets[..i] {
            if tenant == other_tenant && (net.contains(other) || other.contains(net)) {
                check.add(path, format!("{net} overlaps {other} of {first} in tenant {tenant}"));
            }
        }
    }
}

fn attachments(check: &mut Check<'_>) {
    for (name, attachment) in &check.document.attachments {
        let path = at("attachments").field(name.as_str());
        check.reference(&check.document.gateways, "gateway", &attachment.gateway, &path.field("gateway"));
        check.reference(&check.document.segments, "segment", &attachment.segment, &path.field("segment"));
        if attachment.vlan.is_some() == attachment.interface.is_some() {
            check.add(&path, "must have exactly one of vlan and interface");
        }
    }
}

fn exits(check: &mut Check<'_>) {
    for (name, exit) in &check.document.exits {
        let path = at("exits").field(name.as_str());
        check.reference(&check.document.gateways, "gateway", &exit.gateway, &path.field("gateway"));
        check.reference(&check.document.tenants, "tenant", &exit.tenant, &path.field("tenant"));
        if exit.vlan.is_some() == exit.interface.is_some() {
            check.add(&path, "must have exactly one of vlan and interface");
        }
        if exit.addresses.is_empty() {
            check.add(&path.field("addresses"), "must have at least one address");
        }
        for (i, net) in exit.addresses.iter().enumerate() {
            host_address(check, net, &path.field("addresses").index(i));
        }
    }
}

fn peers(check: &mut Check<'_>) {
    let mut taken = Unique::new();
    for (name, peer) in &check.document.peers {
        let path = at("peers").field(name.as_str());
        if peer.hold_time_s != 0 && peer.hold_time_s < 3 {
            check.add(&path.field("hold_time_s"), "must be 0 or 3 at least (RFC 4271 section 4.2)");
        }
        if peer.restart_time_s == 0 || peer.restart_time_s > 4095 {
            check.add(&path.field("restart_time_s"), "must be from 1 to 4095 (RFC 4724 section 3)");
        }
        peer_limits(check, peer, &path);
        several_paths(check, peer, &path.field("add_path"));
        if let Some(bfd) = &peer.bfd {
            bfd_times(check, bfd, &path.field("bfd"));
        }
        if !check.reference(&check.document.exits, "exit", &peer.exit, &path.field("exit")) {
            continue;
        }
        let exit = &check.document.exits[&peer.exit];
        let key = (&peer.exit, peer.address);
        taken.take(key, format!("neighbour {}", peer.address), &path.field("address"), &mut check.problems);
        peer_place(check, peer, exit, &path);
        let own = check.document.gateways.get(&exit.gateway).map(|g| g.asn);
        if peer.role.is_some() && own.is_some_and(|own| peer.asn.contains(own)) {
            check.add(&path.field("role"), "is for neighbours of another AS (RFC 9234 section 4.1)");
        }
        for family in peer.families() {
            // IPv4 goes over an IPv6 next hop as well (RFC 8950).
            if family == Family::Ipv4 && !peer.address.is_ipv4() {
                continue;
            }
            let has = exit.addresses.iter().any(|n| matches!(n, IpNet::V4(_)) == (family == Family::Ipv4));
            if !has {
                let message =
                    format!("exit {} has no address of family {family:?} for the next hop", peer.exit);
                check.add(&path.field("families"), message);
            }
        }
    }
}

/// The most neighbours of a prefix at a time.
const NEIGHBOURS_MAX: u16 = 1_024;

/// Where the neighbour is, and which AS it is of.
fn peer_place(check: &mut Check<'_>, peer: &Peer, exit: &Exit, path: &Path) {
    let here = path.field("address");
    if exit.addresses.iter().any(|own| peer.address.one() == Some(own.addr())) {
        check.add(&here, "is the gateway's own address");
    }
    let is_near = exit.addresses.iter().any(|net| peer.address.is_within(net));
    if !is_near && !peer.is_far() {
        let message = format!("is on no subnet of exit {}; one further away needs multihop_ttl", peer.exit);
        check.add(&here, message);
    } else if peer.local(exit).is_none() {
        check.add(&here, format!("exit {} has no address of its family", peer.exit));
    }
    if !is_near && peer.bfd.is_some() {
        check.add(&path.field("bfd"), "is for a neighbour on the link (RFC 5881)");
    }
    let own = |source: &IpAddr| exit.addresses.iter().any(|net| net.addr() == *source);
    match peer.source {
        Some(source) if !own(&source) => {
            check.add(&path.field("source"), format!("is no address of exit {}", peer.exit));
        }
        Some(source) if source.is_ipv4() != peer.address.is_ipv4() => {
            check.add(&path.field("source"), "must be of the neighbour's family");
        }
        _ => {}
    }
    let Some(prefix) = peer.address.prefix() else {
        if peer.asn.one().is_none() {
            check.add(&path.field("asn"), "must be one number: there is one neighbour");
        }
        return;
    };
    if prefix != prefix.trunc() {
        check.add(&here, format!("has bits set beyond its prefix length; meant is {}", prefix.trunc()));
    }
    if !(1..=NEIGHBOURS_MAX).contains(&peer.neighbours_max) {
        check.add(&path.field("neighbours_max"), format!("must be from 1 to {NEIGHBOURS_MAX}"));
    }
    if peer.hold_time_s == 0 {
        check.add(&path.field("hold_time_s"), "must be 3 at least: one that comes by itself must be missed");
    }
    if peer.bfd.is_some() {
        check.add(&path.field("bfd"), "is for one neighbour, not for a prefix");
    }
    let lonely = |(_, other): &(&Name, &Peer)| {
        let is_within = other.exit == peer.exit && other.address.is_within(&prefix);
        is_within && other.password.is_none() && peer.password.is_some()
    };
    if let Some((name, other)) = check.document.peers.iter().find(lonely) {
        let message =
            format!("is for all who come from {prefix}, and peers.{name} ({}) has none", other.address);
        check.add(&path.field("password"), message);
    }
}

fn peer_limits(check: &mut Check<'_>, peer: &Peer, path: &Path) {
    if peer.prefixes_warn_percent > 100 {
        check.add(&path.field("prefixes_warn_percent"), "must be from 0 to 100");
    }
    if peer.prefixes_restart_s == Some(0) {
        check.add(&path.field("prefixes_restart_s"), "must be 1 at least");
    }
    if peer.connect_retry_s == 0 {
        check.add(&path.field("connect_retry_s"), "must be 1 at least");
    }
    if peer.ttl_security_hops == Some(0) {
        check.add(&path.field("ttl_security_hops"), "must be from 1 to 255");
    }
    if peer.advertisement_interval_s > 600 {
        check.add(&path.field("advertisement_interval_s"), "must be from 0 to 600");
    }
    if peer.multihop_ttl.is_some_and(|ttl| ttl < 2) {
        check.add(&path.field("multihop_ttl"), "must be from 2 to 255");
    }
    if peer.multihop_ttl.is_some() && peer.ttl_security_hops.is_some() {
        check.add(&path.field("multihop_ttl"), "is 255 with ttl_security_hops (RFC 5082): say one of them");
    }
    if peer.role_strict && peer.role.is_none() {
        check.add(&path.field("role_strict"), "asks for a role, and there is none");
    }
    if peer.disabled_because.as_ref().is_some_and(|text| text.len() > 255) {
        check.add(&path.field("disabled_because"), "must be at most 255 bytes long (RFC 9003 section 2)");
    }
    if peer.disabled_because.is_some() && !peer.disabled {
        check.add(&path.field("disabled_because"), "is for a neighbour that is disabled");
    }
}

fn several_paths(check: &mut Check<'_>, peer: &Peer, path: &Path) {
    let Some(add_path) = &peer.add_path else { return };
    let carried = peer.families();
    for (i, family) in add_path.families.iter().enumerate() {
        if !carried.contains(family) {
            check.add(&path.field("families").index(i), "is not exchanged with this neighbour");
        }
    }
    if !add_path.receive && add_path.send.is_none() {
        check.add(path, "neither receives nor sends several paths");
    }
}

fn bfd_times(check: &mut Check<'_>, bfd: &Bfd, path: &Path) {
    if !(10..=60_000).contains(&bfd.interval_ms) {
        check.add(&path.field("interval_ms"), "must be from 10 to 60000");
    }
    if bfd.multiplier == 0 {
        check.add(&path.field("multiplier"), "must be 1 at least (RFC 5880 section 6.8.6)");
    }
}

/// An address that must not lie behind the gateway that an underlay route leads through: the outer packets of the
/// tunnels to it would go into them. Also its VTEP, whose route every tunnel has already. A default route holds every
/// address that the far gateway may have or get, by a name or by calling from there.
fn outer_address_behind(document: &Document, route: &Route) -> Option<IpAddr> {
    let (far, gateway) = document.gateways.iter().find(|(_, gateway)| gateway.vtep == route.via)?;
    let tunnels = document.tunnels.values().filter(|tunnel| tunnel.between.contains(far));
    let wireguards = tunnels.filter_map(|tunnel| tunnel.wireguard.as_ref());
    let endpoints = wireguards.filter_map(|wireguard| wireguard.endpoints.get(far));
    let mut endpoints = endpoints.flat_map(|several| several.iter().filter_map(Endpoint::ip));
    let mut tunnels = document.tunnels.values().filter(|tunnel| tunnel.between.contains(far));
    let is_default = route.prefix.prefix_len() == 0 && tunnels.any(|tunnel| tunnel.wireguard.is_some());
    let own = (is_default || route.prefix == IpNet::from(gateway.vtep)).then_some(gateway.vtep);
    own.or_else(|| endpoints.find(|outer| route.prefix.contains(outer)))
}

fn routes(check: &mut Check<'_>) {
    let mut taken = Unique::new();
    for (name, route) in &check.document.routes {
        let path = at("routes").field(name.as_str());
        check.reference(&check.document.gateways, "gateway", &route.gateway, &path.field("gateway"));
        if let Some(tenant) = &route.tenant {
            check.reference(&check.document.tenants, "tenant", tenant, &path.field("tenant"));
            let mut exits = check.document.exits.values();
            let on_exit = exits.any(|e| {
                e.tenant == *tenant
                    && e.gateway == route.gateway
                    && e.addresses.iter().any(|n| n.contains(&route.via))
            });
            if !on_exit {
                check
                    .add(&path.field("via"), format!("{} is on no exit of tenant {tenant} there", route.via));
            }
        }
        if route.prefix != route.prefix.trunc() {
            check.add(&path.field("prefix"), format!("meant is {}", route.prefix.trunc()));
        }
        if route.tenant.is_none()
            && let Some(outer) = outer_address_behind(check.document, route)
        {
            let problem = format!("holds {outer}, which is how {} itself is reached", route.via);
            check.add(&path.field("prefix"), problem);
        }
        if route.prefix.addr().is_ipv4() != route.via.is_ipv4() {
            check.add(&path.field("via"), "must be of the prefix's family");
        }
        let key = (&route.gateway, &route.tenant, route.prefix);
        taken.take(key, format!("prefix {}", route.prefix), &path.field("prefix"), &mut check.problems);
    }
}
