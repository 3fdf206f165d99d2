//! The VXLAN device and veth pairs. Both carry our alias; one of the name without it is left alone.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;

use rtnetlink::{LinkUnspec, LinkVeth, LinkVxlan};
use watari_config::Mac;
use watari_planner::item::{Key, Ns, System, Value};
use watari_planner::{Action, Op};

use super::netlink::{Dump, Link, Netlink, failed, gone_is_fine};
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
        let gone = root.handle.link().del(link.index).execute().await;
        gone_is_fine(gone, format!("remove device {name}"))?;
    }
    match (&op.value, op.action) {
        (_, Action::Remove) => Ok(()),
        (Value::Vxlan { port, mtu }, _) => make_vxlan(root, name, *port, *mtu, &alias).await,
        (Value::Veth { .. }, _) => make_veth(drivers, name, &op.value, &alias).await,
        _ => Ok(()),
    }
}

/// A device is made under a passing name and gets its own together with its mark: a kill in between leaves
/// nothing that carries our name without our mark. What an interrupted making left is removed first.
pub(super) async fn passing(netlink: &Netlink, names: &[&str]) -> Result<(), DriverError> {
    for link in netlink.links().await?.iter().filter(|l| names.contains(&l.name.as_str())) {
        let gone = netlink.handle.link().del(link.index).execute().await;
        gone_is_fine(gone, format!("remove device {}", link.name))?;
    }
    Ok(())
}

async fn make_vxlan(root: &Netlink, name: &str, port: u16, mtu: u16, alias: &str) -> Result<(), DriverError> {
    let unnamed = format!("{name}q");
    passing(root, &[&unnamed]).await?;
    let message = LinkVxlan::new(&unnamed, 0)
        .collect_metadata(true)
        .port(port)
        .learning(false)
        .udp_csum(false)
        .udp_zero_csum6_rx(true)
        .udp_zero_csum6_tx(true)
        .mtu(u32::from(mtu));
    let made = root.handle.link().add(message.build()).execute().await;
    made.map_err(failed(format!("make vxlan device {name} on UDP port {port}")))?;
    let index = root.index(&unnamed).await?;
    let message = LinkUnspec::new_with_index(index).name(name).alias(alias).up().build();
    root.handle.link().set(message).execute().await.map_err(failed(format!("name device {name}")))
}

async fn make_veth(drivers: &mut Drivers, name: &str, value: &Value, alias: &str) -> Result<(), DriverError> {
    let Value::Veth { peer, peer_ns, mac, mac_end, mtu } = value else { return Ok(()) };
    let stem = name.trim_end_matches('p');
    let (near, far) = (format!("{stem}r"), format!("{stem}q"));
    let end = |index: u32, name: &str, alias: String| {
        let message = LinkUnspec::new_with_index(index).name(name).alias(alias).mtu(u32::from(*mtu));
        if name == mac_end { message.address(mac.octets().to_vec()) } else { message }
    };
    let root = drivers.netlink(&Ns::Root).await?;
    passing(root, &[&near, &far]).await?;
    let made = root.handle.link().add(LinkVeth::new(&near, &far).build()).execute().await;
    made.map_err(failed(format!("make veth {name}")))?;
    let (near_index, far_index) = (root.index(&near).await?, root.index(&far).await?);
    let far_alias = if *peer_ns == Ns::Root { alias.to_owned() } else { format!("{alias}:{name}") };
    if let Ns::Tenant(tenant) = peer_ns {
        let file = std::fs::File::open(namespace::path(tenant))
            .map_err(|e| DriverError::system(format!("open namespace {tenant}"), e))?;
        let message = LinkUnspec::new_with_index(far_index).setns_by_fd(file.as_raw_fd()).build();
        let moved = root.handle.link().set(message).execute().await;
        moved.map_err(failed(format!("move the far end of {name} to namespace {tenant}")))?;
    }
    let inside = drivers.netlink(peer_ns).await?;
    let index = inside.index(&far).await?;
    let done = inside.handle.link().set(end(index, peer, far_alias).up().build()).execute().await;
    done.map_err(failed(format!("name device {peer}{peer_ns}")))?;
    let root = drivers.netlink(&Ns::Root).await?;
    let message = end(near_index, name, alias.to_owned()).up().build();
    root.handle.link().set(message).execute().await.map_err(failed(format!("name device {name}")))
}
