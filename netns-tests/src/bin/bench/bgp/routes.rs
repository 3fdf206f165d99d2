//! The routes of a row of the table: numbered prefixes in sets that share their attributes, and who should win.
//!
//! Route number `n` is the prefix whose place is `n × FACTOR mod 2^20`: neighbours in number lie apart in address,
//! as they do in a real table. Fifteen numbers in a row share one set of attributes. Where several feeders announce
//! the same routes, one of them has a shorter AS path than the others: feeder `set mod feeders`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use watari_bgp::wire::{EncodeContext, STANDARD_LIMIT, encode_announce, encode_withdraw};
use watari_bgp::{AsPath, Asn, Community, Family, NextHop, Nlri, PathAttributes};

/// Routes that share their attributes.
const SET: u32 = 15;
/// Places are numbers below two to the power of this.
const PLACE_BITS: u32 = 20;
const PLACES: u32 = 1 << PLACE_BITS;
/// Odd, so that every place is taken once, and its inverse modulo 2^32.
const FACTOR: u32 = 0x9e37_79b1;
const INVERSE: u32 = inverse(FACTOR);
/// AS number of the first feeder; the others follow.
pub(crate) const FEEDER_ASN: u32 = 64_600;
const CONTEXT: EncodeContext = EncodeContext { four_octet_as: true, message_limit: STANDARD_LIMIT };

/// Newton's iteration: each step doubles the bits that are right.
const fn inverse(odd: u32) -> u32 {
    let mut x = odd;
    let mut step = 0;
    while step < 5 {
        x = x.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(x)));
        step += 1;
    }
    x
}

/// What a row announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Routes {
    /// /48 of IPv6 instead of /24 of IPv4.
    pub(crate) ipv6: bool,
    /// Prefixes, at most 2^20.
    pub(crate) count: u32,
    /// How many announce all of them.
    pub(crate) feeders: u32,
}

impl Routes {
    pub(crate) const fn family(&self) -> Family {
        if self.ipv6 { Family::Ipv6Unicast } else { Family::Ipv4Unicast }
    }

    fn prefix(&self, number: u32) -> IpNet {
        let place = number.wrapping_mul(FACTOR) % PLACES;
        if self.ipv6 {
            let address = (0x2a00_u128 << 112) | (u128::from(place) << 80);
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(address), 48))
        } else {
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(0x1000_0000 + (place << 8)), 24))
        }
    }

    /// The number of a prefix as it stands in an NLRI field, without its length octet.
    pub(crate) fn number(&self, octets: &[u8]) -> Option<u32> {
        let place = match (self.ipv6, octets) {
            (false, [a @ 0x10..=0x1f, b, c]) => u32::from_be_bytes([0, a & 0x0f, *b, *c]),
            (true, [0x2a, 0, a, b, c, d]) => u32::from_be_bytes([*a, *b, *c, *d]),
            _ => return None,
        };
        let number = place.wrapping_mul(INVERSE) % PLACES;
        (number < self.count).then_some(number)
    }

    /// The AS number of the feeder whose path should win.
    pub(crate) const fn winner(&self, number: u32) -> u32 {
        FEEDER_ASN + number / SET % self.feeders
    }

    /// All UPDATEs of a feeder, one after the other.
    pub(crate) fn announced(&self, feeder: u32, next_hop: IpAddr) -> Result<Vec<u8>> {
        let mut stream = Vec::new();
        for set in 0..self.count.div_ceil(SET) {
            let attributes = self.attributes(feeder, set, next_hop);
            let routes: Vec<Nlri> = self.members(set).map(|n| self.prefix(n).into()).collect();
            for message in encode_announce(self.family(), &attributes, &routes, &CONTEXT)? {
                stream.extend_from_slice(&message);
            }
        }
        Ok(stream)
    }

    /// The UPDATEs that withdraw everything, as many routes in each as were announced together.
    pub(crate) fn withdrawn(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        for set in 0..self.count.div_ceil(SET) {
            let routes: Vec<Nlri> = self.members(set).map(|n| self.prefix(n).into()).collect();
            for message in encode_withdraw(self.family(), &routes, &CONTEXT) {
                stream.extend_from_slice(&message);
            }
        }
        stream
    }

    fn members(&self, set: u32) -> std::ops::Range<u32> {
        set * SET..((set + 1) * SET).min(self.count)
    }

    fn attributes(&self, feeder: u32, set: u32, next_hop: IpAddr) -> PathAttributes {
        let transit = Asn(3_000 + set % 211);
        // Sets differ by their origin and a community; losers have one or more hops in between.
        let detour = if set % self.feeders == feeder { 0 } else { 1 + (feeder + set) % 3 };
        let detour = (0..detour).map(|hop| Asn(7_000 + hop));
        let path = [Asn(FEEDER_ASN + feeder), transit].into_iter().chain(detour).chain([Asn(100_000 + set)]);
        PathAttributes {
            as_path: AsPath::sequence(path),
            next_hop: Some(NextHop::from(next_hop)),
            communities: vec![Community(3_000 << 16 | 100), Community(3_000 << 16 | (set & 0xffff))],
            ..PathAttributes::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_tells_its_number() {
        for ipv6 in [false, true] {
            let routes = Routes { ipv6, count: PLACES, feeders: 1 };
            for number in [0, 1, 14, 15, 99_999, PLACES - 1] {
                let octets = match routes.prefix(number) {
                    IpNet::V4(net) => net.addr().octets()[..3].to_vec(),
                    IpNet::V6(net) => net.addr().octets()[..6].to_vec(),
                };
                assert_eq!(routes.number(&octets), Some(number), "{}", routes.prefix(number));
            }
            assert_eq!(routes.number(&[10, 0, 0]), None);
        }
    }

    #[test]
    fn the_winner_has_the_shortest_path() {
        let routes = Routes { ipv6: false, count: 1_000, feeders: 10 };
        let hops = |feeder, set| routes.attributes(feeder, set, [10, 0, 0, 1].into()).as_path.hops();
        for set in 0..60 {
            let best = (0..10).min_by_key(|feeder| hops(*feeder, set)).unwrap();
            let shortest = (0..10).filter(|feeder| hops(*feeder, set) == hops(best, set)).count();
            assert_eq!((FEEDER_ASN + best, shortest), (routes.winner(set * SET), 1));
        }
    }
}
