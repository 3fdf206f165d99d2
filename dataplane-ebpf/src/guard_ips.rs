//! Which addresses guarded attachments may use: longest match per attachment.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::fd::AsFd as _,
    sync::{Arc, Mutex},
};

use aya::maps::{
    IterableMap as _, Map, MapData,
    lpm_trie::{Key, LpmTrie},
};
use watari_abi::{GuardIp, GuardIpKey, PortKey, ip_bytes, ip_from_bytes};

use crate::{
    Error,
    batch::{self, Shape},
    dataplane::lock,
    epoch::Epoch,
    table::{is_absent, limit_of, walk_failed},
};

/// Bits of the port in front of every prefix.
const PORT_BITS: u32 = 64;
/// Bits of an IPv4-mapped address before the IPv4 one.
const MAPPED_BITS: u8 = 96;
const NAME: &str = "guard_ips";

/// A prefix of an attachment, host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuardPrefix {
    /// The attachment.
    pub port: PortKey,
    /// The prefix.
    pub address: IpAddr,
    /// Its length in bits.
    pub length: u8,
}

/// The prefixes of all guarded attachments. Clones share them.
#[derive(Clone, Debug)]
pub struct GuardIps {
    map: Arc<Mutex<LpmTrie<MapData, GuardIpKey, GuardIp>>>,
    epoch: Epoch,
}

impl GuardIps {
    pub(crate) fn new(map: Map, epoch: &Epoch) -> Result<Self, Error> {
        let map = LpmTrie::try_from(map).map_err(|error| Error::map(NAME, "open", error))?;
        Ok(Self { map: Arc::new(Mutex::new(map)), epoch: epoch.clone() })
    }

    /// Allows a prefix, whether or not it was.
    ///
    /// # Errors
    /// [`Error::TableFull`], or the kernel refused.
    pub fn upsert(&self, prefix: &GuardPrefix, value: &GuardIp) -> Result<(), Error> {
        lock(&self.map)
            .insert(&key(prefix), value, 0)
            .map_err(|error| Error::write(NAME, limit_of(NAME), error))?;
        self.epoch.begin()
    }

    /// Allows a prefix no longer. Returns whether it was.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self, prefix: &GuardPrefix) -> Result<bool, Error> {
        match lock(&self.map).remove(&key(prefix)) {
            Ok(()) => self.epoch.begin().map(|()| true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(Error::map(NAME, "remove", error)),
        }
    }

    /// All prefixes, in order.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn entries(&self) -> Result<BTreeMap<GuardPrefix, GuardIp>, Error> {
        let shape = Shape::trie(size_of::<Key<GuardIpKey>>(), size_of::<GuardIp>(), limit_of(NAME));
        let map = lock(&self.map);
        let all = batch::entries::<Key<GuardIpKey>, GuardIp>(map.map().fd().as_fd(), shape);
        let all = all.map_err(|error| walk_failed(NAME, error))?;
        Ok(all.into_iter().map(|(key, value)| (prefix(&key), value)).collect())
    }
}

fn key(prefix: &GuardPrefix) -> Key<GuardIpKey> {
    let mapped = if prefix.address.is_ipv4() { MAPPED_BITS } else { 0 };
    let bits = PORT_BITS + u32::from(mapped) + u32::from(prefix.length);
    Key::new(bits, GuardIpKey { port: prefix.port, ip: ip_bytes(prefix.address) })
}

fn prefix(key: &Key<GuardIpKey>) -> GuardPrefix {
    let (data, bits) = (key.data(), key.prefix_len().saturating_sub(PORT_BITS) as u8);
    let address = ip_from_bytes(data.ip);
    let length = if address.is_ipv4() { bits.saturating_sub(MAPPED_BITS) } else { bits };
    GuardPrefix { port: data.port, address, length }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_both_families_come_back() {
        for (address, length) in [("10.0.0.0", 8), ("192.0.2.1", 32), ("fd00::", 16), ("::", 0)] {
            let wanted = GuardPrefix { port: PortKey::vlan(3, 7), address: address.parse().unwrap(), length };
            assert_eq!(prefix(&key(&wanted)), wanted);
        }
    }
}
