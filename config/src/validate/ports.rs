//! Where frames come in: VLANs of trunks and whole interfaces, each for one object only, and what may come in there.

use std::collections::BTreeMap;

use super::{Check, Unique, at};
use crate::document::{Attachment, StaticHost, VlanPort};
use crate::guard::Guard;
use crate::names::{IfName, Mac, Name};
use crate::read::Path;
use crate::tags::Tags;

/// The most MACs and the most prefixes of one guard.
const GUARD_LIST_MAX: usize = 4096;
/// The most MACs, and the most prefixes, of all guards at one gateway.
const GUARD_SUM_MAX: usize = 65_536;
/// The most hosts pinned in one segment.
const STATIC_HOSTS_MAX: usize = 4096;

/// A place where frames come in: gateway, device, tags.
type Places = Unique<(Name, IfName, Tags)>;

pub(super) fn check(check: &mut Check<'_>) {
    places(check);
    guards(check);
    static_hosts(check);
}

/// Every use of tags of a device, at most one each.
fn places(check: &mut Check<'_>) {
    let mut taken = Places::new();
    let document = check.document;
    for (name, attachment) in &document.attachments {
        let path = at("attachments").field(name.as_str());
        let (vlan, interface) = (attachment.vlan.as_ref(), attachment.interface.as_ref());
        place(check, &mut taken, &attachment.gateway, vlan, interface, &path);
    }
    for (name, exit) in &document.exits {
        let path = at("exits").field(name.as_str());
        place(check, &mut taken, &exit.gateway, exit.vlan.as_ref(), exit.interface.as_ref(), &path);
    }
    for (name, tunnel) in &document.tunnels {
        for (gateway, end) in tunnel.direct.iter().flat_map(|d| &d.ends) {
            let path =
                at("tunnels").field(name.as_str()).field("direct").field("ends").field(gateway.as_str());
            place(check, &mut taken, gateway, Some(&end.vlan), None, &path);
        }
    }
}

fn place(
    check: &mut Check<'_>,
    taken: &mut Places,
    gateway: &Name,
    vlan: Option<&VlanPort>,
    interface: Option<&IfName>,
    path: &Path,
) {
    let owner = check.document.gateways.get(gateway);
    if let Some(vlan) = vlan {
        let here = path.field("vlan");
        if owner.is_some_and(|g| !g.trunks.contains(&vlan.trunk)) {
            check.add(&here.field("trunk"), format!("{} is no trunk of gateway {gateway}", vlan.trunk));
        }
        let tags = vlan.tags();
        let what = format!("{tags} of {}", vlan.trunk);
        let key = (gateway.clone(), vlan.trunk.clone(), tags);
        taken.take(key, what, &here.field("vid"), &mut check.problems);
    }
    if let Some(interface) = interface {
        let here = path.field("interface");
        if owner.is_some_and(|g| g.uplink.as_ref() == Some(interface)) {
            check.add(&here, format!("{interface} is the uplink of gateway {gateway}"));
        }
        let is_trunk = owner.is_some_and(|g| g.trunks.contains(interface));
        let what = if is_trunk { format!("untagged of {interface}") } else { format!("device {interface}") };
        let key = (gateway.clone(), interface.clone(), Tags::Untagged);
        taken.take(key, what, &here, &mut check.problems);
    }
}

fn guards(check: &mut Check<'_>) {
    let mut sums: BTreeMap<&Name, (usize, usize)> = BTreeMap::new();
    let document = check.document;
    for (name, attachment) in &document.attachments {
        let Some(guard) = &attachment.guard else { continue };
        let path = at("attachments").field(name.as_str()).field("guard");
        guard_macs(check, guard, &path);
        guard_addresses(check, guard, &path);
        let sum = sums.entry(&attachment.gateway).or_default();
        *sum = (sum.0 + guard.macs.len(), sum.1 + guard.addresses.len());
        for (field, length, sum) in
            [("macs", guard.macs.len(), sum.0), ("addresses", guard.addresses.len(), sum.1)]
        {
            let here = path.field(field);
            if length > GUARD_LIST_MAX {
                check.add(&here, format!("{length} entries; at most {GUARD_LIST_MAX} are possible"));
            }
            if sum > GUARD_SUM_MAX && sum - length <= GUARD_SUM_MAX {
                let gateway = &attachment.gateway;
                let message =
                    format!("with it the guards of {gateway} have {sum} {field}; at most {GUARD_SUM_MAX}");
                check.add(&here, message);
            }
        }
    }
}

fn guard_macs(check: &mut Check<'_>, guard: &Guard, path: &Path) {
    let mut taken = Unique::new();
    for (i, mac) in guard.macs.iter().enumerate() {
        taken.take(*mac, format!("MAC {mac}"), &path.field("macs").index(i), &mut check.problems);
    }
    let (limit, listed) = (guard.macs_max as usize, guard.macs.len());
    if limit != 0 && limit < listed {
        check
            .add(&path.field("macs_max"), format!("{limit} is less than the {listed} MACs that are allowed"));
    }
}

fn guard_addresses(check: &mut Check<'_>, guard: &Guard, path: &Path) {
    let mut taken = Unique::new();
    for (i, address) in guard.addresses.iter().enumerate() {
        let here = path.field("addresses").index(i);
        let (net, meant) = (address.prefix, address.prefix.trunc());
        if net != meant {
            check.add(&here, format!("{net} has bits set beyond its prefix length; meant is {meant}"));
        }
        taken.take(meant, format!("prefix {meant}"), &here, &mut check.problems);
        if let Some(mac) = address.mac.filter(|m| !guard.macs.is_empty() && !guard.macs.contains(m)) {
            check.add(&here, format!("MAC {mac} is not among macs, so nobody could use {meant}"));
        }
    }
}

fn static_hosts(check: &mut Check<'_>) {
    let document = check.document;
    for (name, segment) in &document.segments {
        let path = at("segments").field(name.as_str()).field("static_hosts");
        let count = segment.static_hosts.len();
        if count > STATIC_HOSTS_MAX {
            check.add(&path, format!("{count} hosts; at most {STATIC_HOSTS_MAX} are possible"));
        }
        let (mut macs, mut addresses) = (Unique::new(), Unique::new());
        let nodes = document.nodes.iter().filter(|(_, n)| n.segment == *name);
        for (node, object) in nodes {
            macs.take(object.mac, "", &at("nodes").field(node.as_str()), &mut check.problems);
        }
        for (i, host) in segment.static_hosts.iter().enumerate() {
            let here = path.index(i);
            macs.take(host.mac, format!("MAC {}", host.mac), &here.field("mac"), &mut check.problems);
            for (j, address) in host.addresses.iter().enumerate() {
                let what = format!("address {address}");
                addresses.take(*address, what, &here.field("addresses").index(j), &mut check.problems);
            }
            static_host(check, name, host, &here);
        }
    }
}

fn static_host(check: &mut Check<'_>, segment: &Name, host: &StaticHost, path: &Path) {
    let document = check.document;
    let object = &document.segments[segment];
    for (i, address) in host.addresses.iter().enumerate() {
        let here = path.field("addresses").index(i);
        let mut pools = document.pools.values().filter(|p| p.segment == *segment);
        if !object.subnets.iter().any(|net| net.contains(address)) {
            check.add(&here, format!("{address} is in no subnet of segment {segment}"));
        } else if object.gateway.contains(address) {
            check.add(&here, format!("{address} is a gateway's own address"));
        } else if pools.any(|p| p.slices.values().flatten().any(|slice| slice.contains(address))) {
            check.add(&here, format!("{address} is in a slice of a pool, which gateways allocate to nodes"));
        }
    }
    let here = path.field("attachment");
    if !check.reference(&document.attachments, "attachment", &host.attachment, &here) {
        return;
    }
    let attachment = &document.attachments[&host.attachment];
    if attachment.segment != *segment {
        check.add(&here, format!("{} is an attachment of segment {}", host.attachment, attachment.segment));
    }
    may_send(check, attachment, host.mac, path);
}

/// A host that its own attachment's guard would not let through is a mistake.
fn may_send(check: &mut Check<'_>, attachment: &Attachment, mac: Mac, path: &Path) {
    let guarded = attachment.guard.as_ref().is_some_and(|g| !g.macs.is_empty() && !g.macs.contains(&mac));
    if guarded {
        check.add(&path.field("mac"), format!("{mac} is not among the macs of its attachment's guard"));
    }
}
