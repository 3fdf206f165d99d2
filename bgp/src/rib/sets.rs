//! What paths say, interned: attributes, next hop and the part of an NLRI that belongs to the path, kept once for
//! every path that says the same. A set is a number; equal sets have equal numbers, so paths compare by number.
//!
//! A set is kept as octets (attributes as an internal neighbour with 4-octet AS numbers would get them) with what the
//! decision needs beside them. Values are made of the octets only for those who ask.
//!
//! ```text
//!   octets: next hop length 1 | next hop | data length 1 | data | attributes without NEXT_HOP and MP_REACH
//! ```

use std::hash::Hasher as _;
use std::net::IpAddr;
use std::sync::Arc;

use super::chunks::Chunks;
use super::index::{Index, Mix};
use crate::attrs::{NextHop, PathAttributes};
use crate::community::Community;
use crate::nlri::NlriData;
use crate::types::{Asn, Esi, Vni};
use crate::wire::{decode_attributes, encode_attributes};

/// The number of a set. 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SetId(u32);

impl SetId {
    /// No set.
    pub(crate) const NONE: SetId = SetId(0);
}

/// What the decision process and the export rules need of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rank {
    pub(crate) local_pref: u32,
    pub(crate) mobility_sequence: u32,
    pub(crate) med: u32,
    /// The neighbouring AS, 0 without one.
    pub(crate) neighbor: u32,
    pub(crate) originator: Option<u32>,
    pub(crate) hops: u16,
    pub(crate) cluster_len: u16,
    pub(crate) origin: u8,
    pub(crate) sticky: bool,
    pub(crate) no_advertise: bool,
    pub(crate) no_export: bool,
    pub(crate) has_next_hop: bool,
    /// The next hop is an IPv6 address.
    pub(crate) is_next_hop_v6: bool,
    /// OTC (RFC 9234); whatever its value, 0 included, it keeps a route from going up.
    pub(crate) otc: Option<Asn>,
}

impl Rank {
    pub(crate) fn of(attrs: &PathAttributes) -> Rank {
        let (sticky, mobility_sequence) = attrs.mac_mobility();
        let has = |community| attrs.communities.contains(&community);
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        Rank {
            // An external path has no LOCAL_PREF of its own (RFC 4271 §5.1.5).
            local_pref: attrs.local_pref.unwrap_or(PathAttributes::DEFAULT_LOCAL_PREF),
            mobility_sequence,
            // A missing MED is the lowest (RFC 4271 §9.1.2.2 c).
            med: attrs.med.unwrap_or(0),
            neighbor: attrs.as_path.neighbor().map_or(0, |asn| asn.0),
            originator: attrs.originator_id.map(|id| u32::from(id.0)),
            hops: short(attrs.as_path.hops()),
            cluster_len: short(attrs.cluster_list.len()),
            origin: attrs.origin as u8,
            sticky,
            no_advertise: has(Community::NO_ADVERTISE),
            // RFC 7999 §3.2: a blackhole stays inside as well.
            no_export: has(Community::NO_EXPORT)
                || has(Community::NO_EXPORT_SUBCONFED)
                || has(Community::BLACKHOLE),
            has_next_hop: attrs.next_hop.is_some(),
            is_next_hop_v6: attrs.next_hop.is_some_and(|n| n.addr().is_ipv6()),
            otc: attrs.otc,
        }
    }
}

#[derive(Debug)]
struct Set {
    octets: Box<[u8]>,
    /// Made when first asked for by somebody who keeps it.
    shared: Option<Arc<PathAttributes>>,
    refs: u32,
    rank: Rank,
}

/// All sets of one table, counted by their users.
#[derive(Debug)]
pub(crate) struct Sets {
    sets: Chunks<Set>,
    free: Vec<u32>,
    index: Index,
    seed: u64,
    scratch: Vec<u8>,
}

/// The parts of a set's octets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) next_hop: &'a [u8],
    pub(crate) data: &'a [u8],
    pub(crate) attributes: &'a [u8],
}

impl Sets {
    pub(crate) fn new(seed: u64) -> Sets {
        Sets { sets: Chunks::default(), free: Vec::new(), index: Index::default(), seed, scratch: Vec::new() }
    }

    /// The set of these values, used once more.
    pub(crate) fn intern(&mut self, attrs: &PathAttributes, data: &NlriData) -> SetId {
        let mut octets = std::mem::take(&mut self.scratch);
        octets.clear();
        put_set(attrs, data, &mut octets);
        let hash = hash(&octets, self.seed);
        let known = self.index.find(hash, |at| *self.sets.get(at).octets == *octets);
        let at = known.unwrap_or_else(|| self.add(hash, &octets, Rank::of(attrs)));
        self.sets.get_mut(at).refs += 1;
        self.scratch = octets;
        SetId(at + 1)
    }

    fn add(&mut self, hash: u64, octets: &[u8], rank: Rank) -> u32 {
        let set = Set { octets: octets.into(), shared: None, refs: 0, rank };
        let at = match self.free.pop() {
            Some(at) => {
                *self.sets.get_mut(at) = set;
                at
            }
            None => {
                self.sets.push(set);
                self.sets.len() - 1
            }
        };
        if self.index.has_room() {
            self.index.insert(hash, at);
        } else {
            let (sets, seed) = (&self.sets, self.seed);
            // The one that was just added has no user yet.
            let used = sets.iter().zip(0..).filter(|(set, n)| set.refs > 0 || *n == at);
            self.index.lay_out(sets.len() as usize, used.map(|(set, n)| (self::hash(&set.octets, seed), n)));
        }
        at
    }

    /// One more user.
    pub(crate) fn retain(&mut self, id: SetId) {
        if id != SetId::NONE {
            self.sets.get_mut(id.0 - 1).refs += 1;
        }
    }

    /// One user less; the last one's set is gone.
    pub(crate) fn release(&mut self, id: SetId) {
        if id == SetId::NONE {
            return;
        }
        let at = id.0 - 1;
        let set = self.sets.get_mut(at);
        set.refs -= 1;
        if set.refs == 0 {
            let octets = std::mem::take(&mut set.octets);
            set.shared = None;
            self.index.remove(hash(&octets, self.seed), at);
            self.free.push(at);
        }
    }

    pub(crate) fn rank(&self, id: SetId) -> &Rank {
        &self.sets.get(id.0 - 1).rank
    }

    pub(crate) fn parts(&self, id: SetId) -> Parts<'_> {
        parts(&self.sets.get(id.0 - 1).octets)
    }

    pub(crate) fn data(&self, id: SetId) -> NlriData {
        get_data(self.parts(id).data)
    }

    /// The attributes, for a moment or from those who keep them.
    pub(crate) fn attributes(&self, id: SetId) -> Arc<PathAttributes> {
        let set = self.sets.get(id.0 - 1);
        set.shared.clone().unwrap_or_else(|| Arc::new(value(&set.octets)))
    }

    /// The attributes for somebody who keeps them, with all others who do.
    pub(crate) fn shared(&mut self, id: SetId) -> Arc<PathAttributes> {
        let set = self.sets.get_mut(id.0 - 1);
        Arc::clone(set.shared.get_or_insert_with(|| Arc::new(value(&set.octets))))
    }

    /// Sets in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.sets.len() as usize - self.free.len()
    }
}

fn hash(octets: &[u8], seed: u64) -> u64 {
    let mut mix = Mix::new(seed);
    mix.write(octets);
    mix.finish()
}

fn parts(octets: &[u8]) -> Parts<'_> {
    let cut = |octets: &'_ [u8]| -> (usize, usize) {
        let len = octets.first().map_or(0, |len| usize::from(*len));
        (1, 1 + len)
    };
    let (from, to) = cut(octets);
    let (next_hop, rest) = (&octets[from..to], &octets[to..]);
    let (from, to) = cut(rest);
    Parts { next_hop, data: &rest[from..to], attributes: &rest[to..] }
}

fn value(octets: &[u8]) -> PathAttributes {
    let parts = parts(octets);
    PathAttributes { next_hop: get_next_hop(parts.next_hop), ..decode_attributes(parts.attributes) }
}

fn put_set(attrs: &PathAttributes, data: &NlriData, out: &mut Vec<u8>) {
    let at = out.len();
    out.push(0);
    match attrs.next_hop {
        None => {}
        Some(NextHop::V4(v4)) => out.extend_from_slice(&v4.octets()),
        Some(NextHop::V6(v6)) => out.extend_from_slice(&v6.octets()),
        Some(NextHop::V6LinkLocal(v6, link_local)) => {
            out.extend_from_slice(&v6.octets());
            out.extend_from_slice(&link_local.octets());
        }
    }
    out[at] = (out.len() - at - 1) as u8;
    put_data(data, out);
    encode_attributes(attrs, out);
}

/// A next hop by the length of its octets.
pub(super) fn get_next_hop(octets: &[u8]) -> Option<NextHop> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).ok().map(|v4| NextHop::V4(v4.into())),
        16 => <[u8; 16]>::try_from(octets).ok().map(|v6| NextHop::V6(v6.into())),
        32 => {
            let (v6, link_local) = octets.split_at(16);
            let address = |half: &[u8]| <[u8; 16]>::try_from(half).ok().map(std::net::Ipv6Addr::from);
            Some(NextHop::V6LinkLocal(address(v6)?, address(link_local)?))
        }
        _ => None,
    }
}

fn put_data(data: &NlriData, out: &mut Vec<u8>) {
    let at = out.len();
    out.push(0);
    if *data == NlriData::default() {
        return;
    }
    out.extend_from_slice(&data.esi.0);
    out.extend_from_slice(&data.label1.get().to_be_bytes());
    // A label has 24 bits: the octet above them tells whether there is one.
    let label2 = data.label2.map_or(0, |label| label.get() | 1 << 24);
    out.extend_from_slice(&label2.to_be_bytes());
    match data.gateway {
        None => {}
        Some(IpAddr::V4(v4)) => out.extend_from_slice(&v4.octets()),
        Some(IpAddr::V6(v6)) => out.extend_from_slice(&v6.octets()),
    }
    out[at] = (out.len() - at - 1) as u8;
}

fn get_data(octets: &[u8]) -> NlriData {
    let Some((esi, rest)) = octets.split_first_chunk::<10>() else { return NlriData::default() };
    let Some((label1, rest)) = rest.split_first_chunk::<4>() else { return NlriData::default() };
    let Some((label2, gateway)) = rest.split_first_chunk::<4>() else { return NlriData::default() };
    let label = |value: u32| Vni::new(value & Vni::MAX);
    let label2 = u32::from_be_bytes(*label2);
    NlriData {
        esi: Esi(*esi),
        label1: label(u32::from_be_bytes(*label1)).unwrap_or_default(),
        label2: label(label2).filter(|_| label2 >> 24 != 0),
        gateway: get_next_hop(gateway).map(|n| n.addr()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(med: u32) -> PathAttributes {
        PathAttributes { med: Some(med), ..PathAttributes::default() }
    }

    #[test]
    fn equal_sets_share_and_unused_ones_are_gone() {
        let mut sets = Sets::new(3);
        let kept = sets.intern(&attrs(0), &NlriData::default());
        assert_eq!(kept, sets.intern(&attrs(0), &NlriData::default()));
        for med in 1..10_000 {
            let id = sets.intern(&attrs(med), &NlriData::default());
            assert_eq!(sets.attributes(id).med, Some(med));
            sets.release(id);
        }
        assert_eq!((sets.len(), sets.sets.len()), (1, 2));
        sets.release(kept);
        assert_eq!(*sets.attributes(kept), attrs(0));
        sets.release(kept);
        assert_eq!(sets.len(), 0);
    }

    #[test]
    fn data_are_part_of_a_set() {
        let mut sets = Sets::new(3);
        let label = |n| NlriData { label1: Vni::new(n).unwrap(), ..NlriData::default() };
        let full = NlriData {
            esi: Esi([7; 10]),
            label1: Vni::new(Vni::MAX).unwrap(),
            label2: Vni::new(0),
            gateway: Some("2001:db8::1".parse().unwrap()),
        };
        let datas = [NlriData::default(), label(5), label(6), full, NlriData { gateway: None, ..full }];
        let ids = datas.map(|data| sets.intern(&attrs(1), &data));
        assert_eq!(sets.len(), datas.len());
        assert_eq!(ids.map(|id| sets.data(id)), datas);
    }
}
