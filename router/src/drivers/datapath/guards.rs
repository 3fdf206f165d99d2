//! Tables of the attachments' guards: the MACs and prefixes that each may use.

use ipnet::IpNet;
use watari_config::Mac;
use watari_dataplane::{Dataplane, GuardIp, GuardMacKey, GuardPrefix, PortBucketKey, PortKey};
use watari_planner::item::{Key, PortAt, System, Value};

use super::ports::{port_at, port_key};
use super::{Indices, Names, mac};
use crate::drivers::DriverError;

/// Adds every entry to `system`.
///
/// # Errors
/// When a map cannot be read.
pub(super) fn observe(maps: &Dataplane, names: &Names, system: &mut System) -> Result<(), DriverError> {
    for key in maps.guard_macs.entries()?.into_keys() {
        system.insert(Key::GuardMac(port_at(names, key.port), mac(key.mac)), Value::Present);
    }
    for (prefix, entry) in maps.guard_ips.entries()? {
        if let Ok(net) = IpNet::new(prefix.address, prefix.length) {
            let bound = (entry.mac != [0; 6]).then(|| mac(entry.mac));
            system.insert(Key::GuardIp(port_at(names, prefix.port), net), Value::GuardIp { mac: bound });
        }
    }
    Ok(())
}

/// Writes an entry.
///
/// # Errors
/// When the device is missing or the table is full.
pub(super) fn write(
    maps: &Dataplane,
    key: &Key,
    value: &Value,
    indices: &Indices,
) -> Result<(), DriverError> {
    match (key, value) {
        (Key::GuardMac(at, mac), _) => maps.guard_macs.upsert(&mac_key(indices, at, *mac)?, &1)?,
        (Key::GuardIp(at, net), Value::GuardIp { mac }) => {
            let entry = GuardIp { mac: mac.map_or([0; 6], Mac::octets), pad: 0 };
            maps.guard_ips.upsert(&prefix(port_key(indices, at)?, net), &entry)?;
        }
        _ => {}
    }
    Ok(())
}

/// Removes an entry.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn remove(maps: &Dataplane, key: &Key, indices: &Indices) -> Result<(), DriverError> {
    match key {
        Key::GuardMac(at, mac) => {
            let Ok(key) = mac_key(indices, at, *mac) else { return Ok(()) };
            maps.guard_macs.remove(&key)?;
        }
        Key::GuardIp(at, net) => {
            let Ok(port) = port_key(indices, at) else { return Ok(()) };
            maps.guard_ips.remove(&prefix(port, net))?;
        }
        _ => {}
    }
    Ok(())
}

/// Removes what the programs counted of a port that is gone.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn forget(maps: &Dataplane, port: PortKey) -> Result<(), DriverError> {
    maps.port_macs.remove(&port)?;
    for kind in [PortBucketKey::STORM, PortBucketKey::ERRORS] {
        maps.port_buckets.remove(&PortBucketKey { port, kind })?;
    }
    Ok(())
}

fn mac_key(indices: &Indices, at: &PortAt, mac: Mac) -> Result<GuardMacKey, DriverError> {
    Ok(GuardMacKey { port: port_key(indices, at)?, mac: mac.octets(), pad: 0 })
}

fn prefix(port: PortKey, net: &IpNet) -> GuardPrefix {
    GuardPrefix { port, address: net.addr(), length: net.prefix_len() }
}
