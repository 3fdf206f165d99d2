//! The tenants' route tables: longest match over both address families, one handle.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError},
};

use aya::{
    Pod,
    maps::{
        IterableMap as _, Map, MapData,
        lpm_trie::{Key, LpmTrie},
    },
};
use watari_abi::{Route, RouteKey4, RouteKey6};

use crate::{
    Error,
    batch::{self, Shape},
    table::{is_absent, limit_of, walk_failed},
};

/// Bits of the tenant in front of every prefix.
const TENANT_BITS: u32 = 32;

/// A prefix of a tenant, host bits zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// The tenant.
    pub tenant: u32,
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// A prefix; host bits of `address` are cleared.
    ///
    /// # Errors
    /// `length` exceeds 32 or 128.
    pub fn new(tenant: u32, address: IpAddr, length: u8) -> Result<Self, Error> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
            _ => return Err(Error::PrefixLength { address, length }),
        };
        Ok(Self { tenant, address, length })
    }
    /// The prefix of one address.
    #[must_use]
    pub fn host(tenant: u32, address: IpAddr) -> Self {
        Self { tenant, address, length: if address.is_ipv4() { 32 } else { 128 } }
    }
    /// Its address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }
    /// Its length in bits.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.address, self.length, self.tenant)
    }
}

type Trie<K> = LpmTrie<MapData, K, Route>;

/// The route tables of all tenants. Clones share them.
#[derive(Clone, Debug)]
pub struct Routes {
    v4: Arc<Mutex<Trie<RouteKey4>>>,
    v6: Arc<Mutex<Trie<RouteKey6>>>,
}

impl Routes {
    pub(crate) fn new(v4: Map, v6: Map) -> Result<Self, Error> {
        let v4 = LpmTrie::try_from(v4).map_err(|error| Error::map("routes4", "open", error))?;
        let v6 = LpmTrie::try_from(v6).map_err(|error| Error::map("routes6", "open", error))?;
        Ok(Self { v4: Arc::new(Mutex::new(v4)), v6: Arc::new(Mutex::new(v6)) })
    }

    /// Writes a route, whether or not there was one for exactly this prefix.
    ///
    /// # Errors
    /// [`Error::TableFull`], or the kernel refused.
    pub fn upsert(&self, prefix: &Prefix, route: &Route) -> Result<(), Error> {
        let (table, written) = match key(prefix) {
            AnyKey::V4(key) => ("routes4", lock(&self.v4).insert(&key, route, 0)),
            AnyKey::V6(key) => ("routes6", lock(&self.v6).insert(&key, route, 0)),
        };
        written.map_err(|error| Error::write(table, limit_of(table), error))
    }

    /// Removes the route of exactly this prefix. Returns whether it was there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self, prefix: &Prefix) -> Result<bool, Error> {
        let removed = match key(prefix) {
            AnyKey::V4(key) => lock(&self.v4).remove(&key),
            AnyKey::V6(key) => lock(&self.v6).remove(&key),
        };
        match removed {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(Error::map("routes", "remove", error)),
        }
    }

    /// Whether the route of exactly this prefix is this one. The kernel is asked for the longest match, so where the
    /// prefix itself has none, one of a shorter prefix that says the same is taken for it.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn holds(&self, prefix: &Prefix, route: &Route) -> Result<bool, Error> {
        Ok(self.longest(prefix)?.as_ref() == Some(route))
    }

    /// The longest match for an address of a tenant.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn lookup(&self, tenant: u32, address: IpAddr) -> Result<Option<Route>, Error> {
        self.longest(&Prefix::host(tenant, address))
    }

    /// The longest match of prefixes that are as long as this one or shorter.
    fn longest(&self, prefix: &Prefix) -> Result<Option<Route>, Error> {
        let found = match key(prefix) {
            AnyKey::V4(key) => lock(&self.v4).get(&key, 0),
            AnyKey::V6(key) => lock(&self.v6).get(&key, 0),
        };
        match found {
            Ok(route) => Ok(Some(route)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Error::map("routes", "look up", error)),
        }
    }

    /// The prefix of the longest match for an address of a tenant. The kernel does not tell it, so the whole table is
    /// read: for a trace, not for packets.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn longest_match(&self, tenant: u32, address: IpAddr) -> Result<Option<Prefix>, Error> {
        let mut entries = self.entries()?;
        entries.retain(|prefix, _| {
            prefix.tenant == tenant
                && Prefix::new(tenant, address, prefix.length).is_ok_and(|own| own.address == prefix.address)
        });
        Ok(entries.into_keys().max_by_key(Prefix::length))
    }

    /// All routes of all tenants, in order.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn entries(&self) -> Result<BTreeMap<Prefix, Route>, Error> {
        Ok(self.list()?.into_iter().collect())
    }

    /// All routes of all tenants, in no order: what [`Routes::entries`] costs without sorting. One may be told twice if
    /// others are removed meanwhile.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn list(&self) -> Result<Vec<(Prefix, Route)>, Error> {
        let mut all = walk("routes4", &lock(&self.v4), |data| (data.tenant, IpAddr::from(data.addr)))?;
        all.extend(walk("routes6", &lock(&self.v6), |data| (data.tenant, IpAddr::from(data.addr)))?);
        Ok(all)
    }
}

enum AnyKey {
    V4(Key<RouteKey4>),
    V6(Key<RouteKey6>),
}

fn key(prefix: &Prefix) -> AnyKey {
    let tenant = prefix.tenant.to_be_bytes();
    let length = TENANT_BITS + u32::from(prefix.length);
    match prefix.address {
        IpAddr::V4(v4) => AnyKey::V4(Key::new(length, RouteKey4 { tenant, addr: v4.octets() })),
        IpAddr::V6(v6) => AnyKey::V6(Key::new(length, RouteKey6 { tenant, addr: v6.octets() })),
    }
}

fn walk<K: Pod>(
    name: &'static str,
    trie: &Trie<K>,
    split: impl Fn(K) -> ([u8; 4], IpAddr),
) -> Result<Vec<(Prefix, Route)>, Error> {
    let shape = Shape::trie(size_of::<Key<K>>(), size_of::<Route>(), limit_of(name));
    let all = batch::entries::<Key<K>, Route>(trie.map().fd().as_fd(), shape);
    let prefix = |key: Key<K>| {
        let (tenant, address) = split(key.data());
        let length = key.prefix_len().saturating_sub(TENANT_BITS) as u8;
        Prefix { tenant: u32::from_be_bytes(tenant), address, length }
    };
    let all = all.map_err(|error| walk_failed(name, error))?;
    Ok(all.into_iter().map(|(key, route)| (prefix(key), route)).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared_and_lengths_checked() {
        let prefix = Prefix::new(1, "10.1.2.3".parse().unwrap(), 8).unwrap();
        assert_eq!(prefix.to_string(), "10.0.0.0/8@1");
        let prefix = Prefix::new(1, "2001:db8::1".parse().unwrap(), 0).unwrap();
        assert_eq!(prefix.to_string(), "::/0@1");
        assert!(Prefix::new(1, "10.0.0.0".parse().unwrap(), 33).is_err());
        assert_eq!(Prefix::host(2, "10.0.0.1".parse().unwrap()).length(), 32);
    }
}
