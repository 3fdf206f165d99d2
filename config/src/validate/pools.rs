//! Pools with their slices, and nodes.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Check, Unique, at};
use crate::document::{Node, Pool};
use crate::names::Name;
use crate::read::Path;

pub(super) fn check(check: &mut Check<'_>) {
    for (name, pool) in &check.document.pools {
        pool_fields(check, pool, &at("pools").field(name.as_str()));
    }
    slice_overlaps(check);
    nodes(check);
}

fn pool_fields(check: &mut Check<'_>, pool: &Pool, path: &Path) {
    if !check.reference(&check.document.segments, "segment", &pool.segment, &path.field("segment")) {
        return;
    }
    let segment = &check.document.segments[&pool.segment];
    for (gateway, slices) in &pool.slices {
        let here = path.field("slices").field(gateway.as_str());
        check.reference(&check.document.gateways, "gateway", gateway, &here);
        for (i, slice) in slices.iter().enumerate() {
            let here = here.index(i);
            if *slice != slice.trunc() {
                check.add(
                    &here,
                    format!("{slice} has bits set beyond its prefix length; meant is {}", slice.trunc()),
                );
            }
            if !segment.subnets.iter().any(|net| net.contains(slice)) {
                check.add(&here, format!("{slice} is in no subnet of segment {}", pool.segment));
            }
            if slice.max_prefix_len() - slice.prefix_len() < 2 {
                check.add(&here, format!("{slice} has fewer than four addresses"));
            }
            for address in segment.gateway.iter().filter(|a| slice.contains(*a)) {
                check.add(&here, format!("{slice} contains the segment's gateway address {address}"));
            }
        }
    }
}

/// No two slices of one segment may overlap, whatever pool and gateway they belong to.
fn slice_overlaps(check: &mut Check<'_>) {
    let mut all: Vec<(&Name, IpNet, Path)> = Vec::new();
    for (name, pool) in &check.document.pools {
        for (gateway, slices) in &pool.slices {
            let path = at("pools").field(name.as_str()).field("slices").field(gateway.as_str());
            all.extend(slices.iter().enumerate().map(|(i, s)| (&pool.segment, *s, path.index(i))));
        }
    }
    for (i, (segment, slice, path)) in all.iter().enumerate() {
        for (other_segment, other, first) in &all[..i] {
            if segment == other_segment && (slice.contains(other) || other.contains(slice)) {
                check.add(path, format!("{slice} overlaps {other} of {first}"));
            }
        }
    }
}

fn nodes(check: &mut Check<'_>) {
    let (mut addresses, mut macs, mut keys) = (Unique::new(), Unique::new(), Unique::new());
    for (name, node) in &check.document.nodes {
        let path = at("nodes").field(name.as_str());
        check.reference(&check.document.gateways, "gateway", &node.gateway, &path.field("gateway"));
        if !check.reference(&check.document.segments, "segment", &node.segment, &path.field("segment")) {
            continue;
        }
        node_addresses(check, node, &path);
        for address in &node.addresses {
            let here = path.field("addresses");
            let tenant = &check.document.segments[&node.segment].tenant;
            addresses.take((tenant, *address), format!("address {address}"), &here, &mut check.problems);
        }
        macs.take(node.mac, format!("MAC {}", node.mac), &path.field("mac"), &mut check.problems);
        if let Some(key) = node.public_key {
            keys.take(key, "this WireGuard key", &path.field("public_key"), &mut check.problems);
        }
        if node.expires <= node.created {
            check.add(&path.field("expires"), "must be after created");
        }
    }
}

fn node_addresses(check: &mut Check<'_>, node: &Node, path: &Path) {
    let segment = &check.document.segments[&node.segment];
    let here = path.field("addresses");
    if node.addresses.is_empty() {
        check.add(&here, "must have at least one address");
    }
    for (i, address) in node.addresses.iter().enumerate() {
        let here = here.index(i);
        if !segment.subnets.iter().any(|net| net.contains(address)) {
            check.add(&here, format!("{address} is in no subnet of segment {}", node.segment));
        }
        if segment.gateway.contains(address) || is_probe_address(check, node, *address) {
            check.add(&here, format!("{address} is a gateway's own address"));
        }
    }
}

fn is_probe_address(check: &Check<'_>, node: &Node, address: IpAddr) -> bool {
    let mut gateways = check.document.gateways.keys();
    gateways.any(|g| crate::desired::probe_addresses(check.document, g, &node.segment).contains(&address))
}
