//! Which peer owns an address: longest match over the allowed-ips of all peers of a device. Asked
//! twice per packet's life: for the destination on the way out, for the source on the way in.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

/// Prefixes of both families, each with its owner.
#[derive(Clone)]
pub(super) struct AllowedIps<T> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
}

impl<T> Default for AllowedIps<T> {
    fn default() -> Self {
        Self { v4: PrefixMap::new(), v6: PrefixMap::new() }
    }
}

impl<T> AllowedIps<T> {
    /// Gives a prefix to an owner; the former one is returned.
    pub(super) fn insert(&mut self, prefix: IpNet, owner: T) -> Option<T> {
        match prefix {
            IpNet::V4(prefix) => self.v4.insert(prefix.trunc(), owner),
            IpNet::V6(prefix) => self.v6.insert(prefix.trunc(), owner),
        }
    }

    /// The owner of the longest prefix that holds the address.
    pub(super) fn lookup(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).map(|(_, owner)| owner),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).map(|(_, owner)| owner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, u32)]) -> AllowedIps<u32> {
        let mut table = AllowedIps::default();
        for (prefix, owner) in entries {
            table.insert(prefix.parse().unwrap(), *owner);
        }
        table
    }

    fn find(table: &AllowedIps<u32>, address: &str) -> Option<u32> {
        table.lookup(address.parse().unwrap()).copied()
    }

    #[test]
    fn the_longest_match_wins() {
        let table = table(&[("0.0.0.0/0", 0), ("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.2.3/32", 3)]);
        assert_eq!(find(&table, "192.0.2.1"), Some(0));
        assert_eq!(find(&table, "10.9.9.9"), Some(1));
        assert_eq!(find(&table, "10.1.9.9"), Some(2));
        assert_eq!(find(&table, "10.1.2.3"), Some(3));
    }

    #[test]
    fn families_do_not_mix() {
        let table = table(&[("0.0.0.0/0", 4), ("2001:db8::/32", 6), ("2001:db8:1::/48", 7)]);
        assert_eq!(find(&table, "2001:db8:1::1"), Some(7));
        assert_eq!(find(&table, "2001:db8:2::1"), Some(6));
        assert_eq!(find(&table, "fd00::1"), None);
        assert_eq!(find(&table, "203.0.113.9"), Some(4));
    }

    #[test]
    fn host_bits_of_a_prefix_do_not_count() {
        let mut table = table(&[("10.1.2.3/24", 1)]);
        assert_eq!(find(&table, "10.1.2.200"), Some(1));
        assert_eq!(table.insert("10.1.2.9/24".parse().unwrap(), 2), Some(1));
        assert_eq!(find(&table, "10.1.2.200"), Some(2));
    }

    #[test]
    fn agrees_with_a_linear_search() {
        let entries: Vec<(String, u32)> = (0..200_u32)
            .map(|n| {
                let length = 8 + (n * 7) % 25;
                (format!("10.{}.{}.{}/{length}", n % 16, (n * 37) % 256, (n * 91) % 256), n)
            })
            .collect();
        let refs: Vec<(&str, u32)> = entries.iter().map(|(p, n)| (p.as_str(), *n)).collect();
        let table = table(&refs);
        for n in 0..2000_u32 {
            let address: IpAddr =
                format!("10.{}.{}.{}", n % 16, (n * 13) % 256, (n * 29) % 256).parse().unwrap();
            let longest = refs
                .iter()
                .map(|(prefix, _)| prefix.parse::<IpNet>().unwrap().trunc())
                .filter(|prefix| prefix.contains(&address))
                .map(|prefix| prefix.prefix_len())
                .max();
            let found = table
                .lookup(address)
                .map(|owner| refs[usize::try_from(*owner).unwrap()].0.parse::<IpNet>().unwrap().prefix_len());
            assert_eq!(found, longest, "{address}");
        }
    }
}
