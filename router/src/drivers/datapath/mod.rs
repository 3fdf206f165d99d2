//! The datapath's own tables and programs, between the plan's names and the maps' numbers.
//!
//! Reading back turns an index into the name of its device. An entry of a device that is gone, or was made
//! anew under another index, reads back as `#<index>`: nobody wants it, so the next plan removes it.

mod guards;
mod large;
mod ports;
mod routes;
mod segments;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use watari_config::{Mac, Vni};
use watari_dataplane::abi::{ip_bytes, ip_from_bytes};
use watari_dataplane::{
    Config, Dataplane, FloodPorts, MacKey, MacStatic, NeighKey, NeighStatic, Node, NodeKey, Prefix, Remote,
    Tenant, TunnelKey, Wire, ensure_bpffs,
};
use watari_planner::item::{Key, Ns, PortAt, System, Value};
use watari_planner::{Action, Identity, Op};

use self::large::Large;
use self::ports::{hook, hook_kind, map_port, port_value};
pub(crate) use self::ports::{port_at, port_key};
use self::routes::map_route;
use self::segments::{config, gateway_value, segment, segment_value};
use super::netlink::{Netlink, Wakeup};
use super::wireguard::Engines;
use super::{DriverError, Drivers, Place};

/// Name of each device by index, and the reverse.
type Names = BTreeMap<u32, String>;
type Indices = BTreeMap<String, u32>;

/// The eBPF datapath of this gateway.
pub struct Datapath {
    /// Maps and programs; none for a look at a system that has none.
    maps: Option<Arc<Dataplane>>,
    large: Mutex<Large>,
}

impl Drivers {
    /// Opens what is there, for a look: loads, replaces, makes and starts nothing. What is not there is observed
    /// as missing; no op is to be applied.
    ///
    /// # Errors
    /// When a pin cannot be opened, or netlink is not to be had.
    pub async fn look(place: Place, identity: Identity, wakeup: Wakeup) -> Result<Self, DriverError> {
        let datapath = Datapath::look(&place.pins)?;
        let root = Netlink::connect(&Ns::Root, wakeup.clone()).await?;
        let engines = Engines::look(&place);
        let netlinks = BTreeMap::from([(Ns::Root, root)]);
        Ok(Self { place, identity, netlinks, datapath, engines, wakeup, indices: None })
    }
}

impl Datapath {
    /// Loads the datapath, or adopts the one that is pinned.
    ///
    /// # Errors
    /// When bpffs cannot be mounted, or the kernel refuses a program or map.
    pub fn open(pins: &Path) -> Result<Self, DriverError> {
        ensure_bpffs(pins)?;
        Ok(Self { maps: Some(Arc::new(Dataplane::open(pins)?)), large: Mutex::default() })
    }

    /// The datapath that is pinned, if [`Datapath::open`] would adopt it as it is; else one that has nothing.
    /// Loads and changes nothing.
    ///
    /// # Errors
    /// When a pin cannot be opened.
    pub fn look(pins: &Path) -> Result<Self, DriverError> {
        Ok(Self { maps: Dataplane::open_existing(pins)?.map(Arc::new), large: Mutex::default() })
    }

    /// Maps and programs.
    ///
    /// # Errors
    /// When none are loaded: after [`Datapath::look`] alone.
    pub fn maps(&self) -> Result<&Arc<Dataplane>, DriverError> {
        self.maps.as_ref().ok_or_else(|| DriverError::Missing { what: "the datapath".to_owned() })
    }

    /// Removes programs, maps and pins.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove(self) -> Result<(), DriverError> {
        let Some(maps) = self.maps else { return Ok(()) };
        match Arc::into_inner(maps) {
            Some(maps) => Ok(maps.remove()?),
            // Somebody still reads: whoever removes everything is alone.
            None => Err(DriverError::Foreign { what: "a reader of the datapath".to_owned() }),
        }
    }

    /// Adds every entry of the plan's tables and every program on a device to `system`.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn observe(&self, names: &Names, system: &mut System) -> Result<(), DriverError> {
        let Some(maps) = self.maps.as_deref() else { return Ok(()) };
        let config = maps.config()?;
        if config != Config::default() {
            system.insert(Key::GatewayEntry, gateway_value(&config, names));
        }
        for (number, tenant) in maps.tenants.entries()? {
            let core = name(names, tenant.core_ifindex);
            let value = Value::Tenant { core, core_mac: mac(tenant.core_mac) };
            system.insert(Key::TenantEntry(vni(number)), value);
        }
        for (number, segment) in maps.segments.entries()? {
            system.insert(Key::SegmentEntry(vni(number)), segment_value(&segment));
        }
        for key in maps.vteps.entries()?.into_keys() {
            let vtep = ip_from_bytes(key.vtep);
            system.insert(Key::TunnelVtep(name(names, key.ifindex), vtep), Value::Present);
        }
        for (vtep, remote) in maps.remotes.entries()? {
            let value = Value::Remote { mtu: remote.mtu, spoke: remote.flags & Remote::SPOKE != 0 };
            system.insert(Key::Remote(ip_from_bytes(vtep)), value);
        }
        for (ifindex, wire) in maps.wires.entries()? {
            let value = if wire.flags & Wire::ENGINE != 0 {
                Value::EngineWire(name(names, wire.port.ifindex))
            } else {
                Value::Wire(port_at(names, wire.port))
            };
            system.insert(Key::Wire(name(names, ifindex)), value);
        }
        self.large().observe(maps, names, system)?;
        observe_ports(maps, names, system)
    }

    /// Writes or removes one entry, or puts a program on a device or takes it off.
    ///
    /// # Errors
    /// When a device is missing, a table is full, or the kernel refuses.
    pub fn apply(&self, op: &Op, indices: &Indices) -> Result<(), DriverError> {
        self.large().forget();
        if op.action == Action::Remove { self.remove_item(op, indices) } else { self.write_item(op, indices) }
    }

    fn large(&self) -> std::sync::MutexGuard<'_, Large> {
        self.large.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove_item(&self, op: &Op, indices: &Indices) -> Result<(), DriverError> {
        let maps = self.maps()?;
        let gone = |device: &str| index(indices, device).ok();
        match &op.key {
            Key::GatewayEntry => maps.set_config(&Config::default())?,
            Key::TenantEntry(vni) => drop(maps.tenants.remove(&vni.get())?),
            Key::SegmentEntry(vni) => {
                maps.segments.remove(&vni.get())?;
                maps.buckets.remove(&vni.get())?;
            }
            Key::TunnelVtep(device, vtep) => {
                let Some(ifindex) = gone(device) else { return Ok(()) };
                maps.vteps.remove(&TunnelKey { ifindex, vtep: ip_bytes(*vtep) })?;
            }
            Key::Remote(vtep) => drop(maps.remotes.remove(&ip_bytes(*vtep))?),
            Key::Wire(device) => {
                let Some(ifindex) = gone(device) else { return Ok(()) };
                maps.wires.remove(&ifindex)?;
            }
            Key::NodeEntry(device, ip) => {
                let Some(ifindex) = gone(device) else { return Ok(()) };
                maps.nodes.remove(&NodeKey { ifindex, ip: ip_bytes(*ip) })?;
            }
            Key::StaticMac(vni, mac) => drop(maps.mac_static.remove(&MacKey::new(vni.get(), mac.octets()))?),
            Key::StaticNeighbour(vni, ip) => drop(maps.nb_static.remove(&NeighKey::new(vni.get(), *ip))?),
            Key::TenantRoute(tenant, net) => drop(maps.routes.remove(&prefix(*tenant, net)?)?),
            Key::Port(at) => {
                let Ok(key) = port_key(indices, at) else { return Ok(()) };
                maps.ports.remove(&key)?;
                maps.stats.forget_port(&key)?;
                guards::forget(maps, key)?;
            }
            key @ (Key::GuardMac(..) | Key::GuardIp(..)) => guards::remove(maps, key, indices)?,
            Key::FloodPorts(vni) => drop(maps.flood_ports.remove(&vni.get())?),
            Key::Hook(device, kind) => {
                let Some(ifindex) = gone(device) else { return Ok(()) };
                maps.detach(ifindex, hook(*kind))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn write_item(&self, op: &Op, indices: &Indices) -> Result<(), DriverError> {
        let maps = self.maps()?;
        match (&op.key, &op.value) {
            (Key::GatewayEntry, value) => {
                if let Some(config) = config(value, indices)? {
                    maps.set_config(&config)?;
                }
            }
            (Key::TenantEntry(vni), Value::Tenant { core, core_mac }) => {
                let core_ifindex = index(indices, core)?;
                let tenant = Tenant { core_ifindex, l3vni: vni.get(), core_mac: core_mac.octets(), pad: 0 };
                maps.tenants.upsert(&vni.get(), &tenant)?;
            }
            (Key::SegmentEntry(vni), value) => {
                if let Some(segment) = segment(*vni, value) {
                    maps.segments.upsert(&vni.get(), &segment)?;
                }
            }
            (Key::TunnelVtep(device, vtep), _) => {
                let key = TunnelKey { ifindex: index(indices, device)?, vtep: ip_bytes(*vtep) };
                maps.vteps.upsert(&key, &1)?;
            }
            (Key::Remote(vtep), Value::Remote { mtu, spoke }) => {
                let flags = if *spoke { Remote::SPOKE } else { 0 };
                maps.remotes.upsert(&ip_bytes(*vtep), &Remote { mtu: *mtu, flags, pad: 0 })?;
            }
            (Key::Wire(device), Value::Wire(at)) => {
                maps.wires.upsert(&index(indices, device)?, &Wire::direct(port_key(indices, at)?))?;
            }
            (Key::Wire(device), Value::EngineWire(tap)) => {
                maps.wires.upsert(&index(indices, device)?, &Wire::engine(index(indices, tap)?))?;
            }
            (Key::NodeEntry(device, ip), Value::Node { vni, mac }) => {
                let key = NodeKey { ifindex: index(indices, device)?, ip: ip_bytes(*ip) };
                maps.nodes.upsert(&key, &Node { vni: vni.get(), mac: mac.octets(), pad: 0 })?;
            }
            (Key::StaticMac(vni, mac), Value::StaticMac { at, node }) => {
                let port = port_key(indices, at)?;
                let key = MacKey::new(vni.get(), mac.octets());
                maps.mac_static.upsert(&key, &MacStatic { port, is_node: u32::from(*node) })?;
            }
            (Key::StaticNeighbour(vni, ip), Value::StaticNeighbour { mac, own }) => {
                let flags = if *own { NeighStatic::OWN } else { 0 };
                maps.nb_static
                    .upsert(&NeighKey::new(vni.get(), *ip), &NeighStatic { mac: mac.octets(), flags })?;
            }
            (Key::TenantRoute(tenant, net), Value::TenantRoute(route)) => {
                maps.routes.upsert(&prefix(*tenant, net)?, &map_route(route, indices)?)?;
            }
            (Key::Port(at), value) => {
                maps.ports.upsert(&port_key(indices, at)?, &map_port(value, indices)?)?;
            }
            (key @ (Key::GuardMac(..) | Key::GuardIp(..)), value) => {
                guards::write(maps, key, value, indices)?
            }
            (Key::FloodPorts(vni), Value::Ports(list)) => self.write_flood_ports(*vni, list, indices)?,
            (Key::Hook(device, kind), _) => {
                maps.forget_dead_links()?;
                maps.attach(index(indices, device)?, hook(*kind))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn write_flood_ports(&self, vni: Vni, list: &[PortAt], indices: &Indices) -> Result<(), DriverError> {
        let keys = list.iter().map(|at| port_key(indices, at)).collect::<Result<Vec<_>, _>>()?;
        let flood = FloodPorts::new(&keys).ok_or_else(|| DriverError::Limit {
            what: format!("number of attachments of VNI {vni}"),
            limit: watari_dataplane::abi::plan::FLOOD_PORTS_MAX,
        })?;
        Ok(self.maps()?.flood_ports.upsert(&vni.get(), &flood)?)
    }
}

fn observe_ports(maps: &Dataplane, names: &Names, system: &mut System) -> Result<(), DriverError> {
    for (key, port) in maps.ports.entries()? {
        system.insert(Key::Port(port_at(names, key)), port_value(&port, names));
    }
    for (number, flood) in maps.flood_ports.entries()? {
        let mut ports: Vec<_> = flood.as_slice().iter().map(|k| port_at(names, *k)).collect();
        ports.sort();
        system.insert(Key::FloodPorts(vni(number)), Value::Ports(ports));
    }
    for attachment in maps.attachments()? {
        let device = name(names, attachment.ifindex);
        system.insert(Key::Hook(device, hook_kind(attachment.hook)), Value::Present);
    }
    Ok(())
}

/// The device's name; `#<index>` of one that is gone.
pub(super) fn name(names: &Names, index: u32) -> String {
    names.get(&index).cloned().unwrap_or_else(|| format!("#{index}"))
}

/// The index of a device as [`name`] wrote it.
pub(super) fn index(indices: &Indices, device: &str) -> Result<u32, DriverError> {
    let stale = device.strip_prefix('#').and_then(|digits| digits.parse().ok());
    stale
        .or_else(|| indices.get(device).copied())
        .ok_or_else(|| DriverError::Missing { what: format!("device {device}") })
}

/// What a map holds came out of a plan, so it is in range; anything else reads as the highest VNI, which goes.
pub(super) fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap_or_else(|_| Vni::new((1 << 24) - 1).expect("in range"))
}

pub(super) fn mac(octets: [u8; 6]) -> Mac {
    Mac::new(octets).unwrap_or(Mac::ANYCAST)
}

fn prefix(tenant: Vni, net: &IpNet) -> Result<Prefix, DriverError> {
    Ok(Prefix::new(tenant.get(), net.addr(), net.prefix_len())?)
}
