//! The keys of a table, packed and numbered: 5 octets for a prefix of IPv4, 17 for one of IPv6.

use std::hash::{Hash as _, Hasher as _};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::chunks::Chunks;
use super::index::Mix;
use crate::evpn::EvpnKey;
use crate::nlri::Key;
use crate::types::Family;

/// Address and length.
type Packed4 = [u8; 5];
type Packed6 = [u8; 17];

#[derive(Debug)]
pub(super) enum Keys {
    V4(Chunks<Packed4>),
    V6(Chunks<Packed6>),
    Evpn(Chunks<EvpnKey>),
}

fn pack4(net: &Ipv4Net) -> Packed4 {
    let [a, b, c, d] = net.addr().octets();
    [a, b, c, d, net.prefix_len()]
}

fn pack6(net: &Ipv6Net) -> Packed6 {
    let mut packed = [0; 17];
    packed[..16].copy_from_slice(&net.addr().octets());
    packed[16] = net.prefix_len();
    packed
}

fn hash4(packed: Packed4, seed: u64) -> u64 {
    let [a, b, c, d, len] = packed;
    let mut mix = Mix::new(seed);
    mix.write_u64(u64::from_le_bytes([a, b, c, d, len, 0, 0, 0]));
    mix.finish()
}

fn hash6(packed: &Packed6, seed: u64) -> u64 {
    let mut mix = Mix::new(seed);
    mix.write(packed);
    mix.finish()
}

fn hash_evpn(key: &EvpnKey, seed: u64) -> u64 {
    let mut mix = Mix::new(seed);
    key.hash(&mut mix);
    mix.finish()
}

/// Keys of another family never meet a table: what this says of them does not matter.
const STRANGER: u64 = 0;

impl Keys {
    pub(super) fn new(family: Family) -> Keys {
        match family {
            Family::Ipv4Unicast => Keys::V4(Chunks::default()),
            Family::Ipv6Unicast => Keys::V6(Chunks::default()),
            Family::L2vpnEvpn => Keys::Evpn(Chunks::default()),
        }
    }

    pub(super) fn hash(&self, key: &Key, seed: u64) -> u64 {
        match (self, key) {
            (Keys::V4(_), Key::Prefix(IpNet::V4(net))) => hash4(pack4(net), seed),
            (Keys::V6(_), Key::Prefix(IpNet::V6(net))) => hash6(&pack6(net), seed),
            (Keys::Evpn(_), Key::Evpn(key)) => hash_evpn(key, seed),
            _ => STRANGER,
        }
    }

    pub(super) fn hash_at(&self, at: u32, seed: u64) -> u64 {
        match self {
            Keys::V4(keys) => hash4(*keys.get(at), seed),
            Keys::V6(keys) => hash6(keys.get(at), seed),
            Keys::Evpn(keys) => hash_evpn(keys.get(at), seed),
        }
    }

    pub(super) fn is(&self, at: u32, key: &Key) -> bool {
        match (self, key) {
            (Keys::V4(keys), Key::Prefix(IpNet::V4(net))) => *keys.get(at) == pack4(net),
            (Keys::V6(keys), Key::Prefix(IpNet::V6(net))) => *keys.get(at) == pack6(net),
            (Keys::Evpn(keys), Key::Evpn(key)) => keys.get(at) == key,
            _ => false,
        }
    }

    /// Puts a key at a number that there is, or at the next one. A key of another family has no place.
    pub(super) fn put(&mut self, at: u32, key: &Key) -> bool {
        fn put<T>(keys: &mut Chunks<T>, at: u32, key: T) -> bool {
            if at < keys.len() {
                *keys.get_mut(at) = key;
            } else {
                keys.push(key);
            }
            true
        }
        match (self, key) {
            (Keys::V4(keys), Key::Prefix(IpNet::V4(net))) => put(keys, at, pack4(net)),
            (Keys::V6(keys), Key::Prefix(IpNet::V6(net))) => put(keys, at, pack6(net)),
            (Keys::Evpn(keys), Key::Evpn(key)) => put(keys, at, key.clone()),
            _ => false,
        }
    }

    pub(super) fn key(&self, at: u32) -> Key {
        match self {
            Keys::V4(keys) => {
                let [a, b, c, d, len] = *keys.get(at);
                Key::Prefix(IpNet::V4(Ipv4Net::new_assert([a, b, c, d].into(), len)))
            }
            Keys::V6(keys) => {
                let (address, len) = keys.get(at).split_at(16);
                let address: [u8; 16] = address.try_into().unwrap_or_default();
                Key::Prefix(IpNet::V6(Ipv6Net::new_assert(address.into(), len[0])))
            }
            Keys::Evpn(keys) => Key::Evpn(keys.get(at).clone()),
        }
    }

    /// Appends the NLRI of a prefix (RFC 4271 §4.3); nothing and `false` for a key that needs more than itself.
    pub(super) fn put_prefix(&self, at: u32, out: &mut Vec<u8>) -> bool {
        let (len, address): (u8, &[u8]) = match self {
            Keys::V4(keys) => {
                let key = keys.get(at);
                (key[4], &key[..4])
            }
            Keys::V6(keys) => {
                let key = keys.get(at);
                (key[16], &key[..16])
            }
            Keys::Evpn(_) => return false,
        };
        out.push(len);
        out.extend_from_slice(&address[..usize::from(len).div_ceil(8)]);
        true
    }
}
