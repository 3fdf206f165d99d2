//! The VXLAN device and veth pairs. Both carry our alias; one of the name without it is left alone.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;

use rtnetlink::{Handle, LinkUnspec, LinkVeth, LinkVxlan};
use watari_config::Mac;
use watari_planner::item::{Key, Ns, System, Value};
use watari_planner::{Action, Op};

use super::netlink::{Dump, Link, failed, gone_is_fine};
use super::{DriverError, Drivers, namespace};

/// Adds our VXLAN device and veth pairs to `system`, as they are.
pub fn observe(dumps: &BTreeMap<Ns, Dump>, alias: &str, system: &mut System) {
    for link in dumps[&Ns::Root].links.iter().filter(|l| l.alias.as_deref() == Some(alias)) {
        match link.kind.as_deref() {
            Some("vxlan") => {
                // One that is down, or whose UDP port cannot be told, reads back as no port at all.
                let port = link.vxlan_port.filter(|_| link.up).unwrap_or(0);
                let mtu = u16::try_from(link.mtu).unwrap_or(0);
                system.insert(Key::Vxlan(link.name.clone()), Value::Vxlan { port, mtu });
            }
            Some("veth") if !is_second_end(&link.name) => {
                system.insert(Key::Veth(link.name.clone()), veth(link, dumps));
            }
            _ => {}
        }
    }
}

/// Of a pair with both ends here (`wtd…`, `wtd…p`), the second is described by the first.
fn is_second_end(name: &str) -> bool {
    name.starts_with("wtd") && name.ends_with('p')
}

/// The pair as it is; where its other end is not found or one end is down, a pair that nobody wants.
fn veth(link: &Link, dumps: &BTreeMap<Ns, Dump>) -> Value {
    let other = if link.name.starts_with("wtd") {
        let name = format!("{}p", link.name);
        dumps[&Ns::Root].links.iter().find(|l| l.name == name).map(|l| (Ns::Root, l))
    } else {
        let inner = if link.name.starts_with("wtc") { "wt-core" } else { link.name.trim_end_matches('p') };
        let tenants = dumps.iter().filter(|(ns, _)| **ns != Ns::Root);
        // Both ends name the object they serve, except `wt-core`: that one carries its peer's name in its alias.
        let mark = format!("{}:{}", link.alias.as_deref().unwrap_or_default(), link.name);
        let mut ends = tenants.flat_map(|(ns, dump)| dump.links.iter().map(move |l| (ns.clone(), l)));
        ends.find(|(_, l)| l.name == inner && l.alias.as_deref() == Some(mark.as_str()))
    };
    let broken = Value::Veth {
        peer: String::new(),
        peer_ns: Ns::Root,
        mac: Mac::ANYCAST,
        mac_end: String::new(),
        mtu: 0,
    };
    let Some((peer_ns, peer)) = other else { return broken };
    let kernel_end = if peer_ns == Ns::Root { link } else { peer };
    let Some(mac) = kernel_end.mac.and_then(|m| Mac::new(m).ok()) else { return broken };
    if !link.up || !peer.up || link.mtu != peer.mtu {
        return broken;
    }
    Value::Veth {
        peer: peer.name.clone(),
        peer_ns,
        mac,
        mac_end: kernel_end.name.clone(),
        mtu: u16::try_from(link.mtu).unwrap_or(0),
    }
}

/// Makes, mends or removes a device.
///
/// # Errors
/// When a device of the name is not ours, or the kernel refuses.
pub async fn apply(drivers: &mut Drivers, op: &Op) -> Result<(), DriverError> {
    let alias = drivers.alias();
    let root = drivers.netlink(&Ns::Root).await?;
    let handle = root.handle.clone();
    let (Key::Vxlan(name) | Key::Veth(name)) = &op.key else { return Ok(()) };
    let existing = root.links().await?.into_iter().find(|l| l.name == *name);
    if let Some(link) = existing {
        if link.alias.as_deref() != Some(alias.as_str()) {
            return if op.action == Action::Remove {
                Ok(())
            } else {
                Err(DriverError::Foreign { what: format!("device {name}") })
            };
        }
        // What differs in more than a flag is made anew: these devices carry no state of their own.
        let gone = handle.link().del(link.index).execute().await;
        gone_is_fine(gone, format!("remove device {name}"))?;
    }
    match (&op.value, op.action) {
        (_, Action::Remove) => Ok(()),
        (Value::Vxlan { port, mtu }, _) => make_vxlan(&handle, name, *port, *mtu, &alias).await,
        (Value::Veth { .. }, _) => make_veth(drivers, &handle, name, &op.value, &alias).await,
        _ => Ok(()),
    }
}

async fn make_vxlan(handle: &Handle, name: &str, port: u16, mtu: u16, alias: &str) -> Result<(), DriverError> {
    let message = LinkVxlan::new(name, 0)
        .collect_metadata(true)
        .port(port)
        .learning(false)
        .udp_csum(false)
        .mtu(u32::from(mtu))
        .alias(alias)
        .up();
    let made = handle.link().add(message.build()).execute().await;
    made.map_err(failed(format!("make vxlan device {name} on UDP port {port}")))
}

async fn make_veth(
    drivers: &mut Drivers,
    handle: &Handle,
    name: &str,
    value: &Value,
    alias: &str,
) -> Result<(), DriverError> {
    let Value::Veth { peer, peer_ns, mac, mac_end, mtu } = value else { return Ok(()) };
    // The far end is made under a name of its own and gets its right one where it goes to: `wt-core` may
    // be there already in the gateway's namespace for a moment, for another tenant.
    let passing = format!("{}q", name.trim_end_matches('p'));
    let made = handle.link().add(LinkVeth::new(name, &passing).alias(alias).build()).execute().await;
    made.map_err(failed(format!("make veth {name}")))?;
    let root = drivers.netlink(&Ns::Root).await?;
    let (near, far) = (root.index(name).await?, root.index(&passing).await?);
    let set = |index: u32, end: &str| {
        let mut message = LinkUnspec::new_with_index(index).mtu(u32::from(*mtu));
        if end == mac_end {
            message = message.address(mac.octets().to_vec());
        }
        message
    };
    let near_message = set(near, name).alias(alias).up().build();
    handle.link().set(near_message).execute().await.map_err(failed(format!("set device {name}")))?;
    let inner_alias = if *peer_ns == Ns::Root { alias.to_owned() } else { format!("{alias}:{name}") };
    if let Ns::Tenant(tenant) = peer_ns {
        let file = std::fs::File::open(namespace::path(tenant))
            .map_err(|e| DriverError::system(format!("open namespace {tenant}"), e))?;
        let message = LinkUnspec::new_with_index(far)
            .name(peer.clone())
            .setns_by_fd(file.as_raw_fd())
            .build();
        let moved = handle.link().set(message).execute().await;
        moved.map_err(failed(format!("move the far end of {name} to namespace {tenant}")))?;
    } else {
        let message = LinkUnspec::new_with_index(far).name(peer.clone()).build();
        handle.link().set(message).execute().await.map_err(failed(format!("name device {peer}")))?;
    }
    let inside = drivers.netlink(peer_ns).await?;
    let index = inside.index(peer).await?;
    let message = set(index, peer).alias(inner_alias).up().build();
    let done = inside.handle.link().set(message).execute().await;
    done.map_err(failed(format!("set device {peer}{peer_ns}")))
}
