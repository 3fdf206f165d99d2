//! How entries of an older form become entries of today's. Pure functions, one for each map and version.
//!
//! [`steps`] gives the way from a version to the one of [`watari_abi::layout::MAPS`]; a map without a way starts empty,
//! and the loader says so.

use watari_abi::{NeighLocal, layout::MapLayout};

/// An entry as it lies in a map.
type Entry = (Vec<u8>, Vec<u8>);
/// Makes an entry of the next version; `None` for one that has no meaning there.
type Convert = fn(&[u8], &[u8]) -> Option<Entry>;

/// One change of one map's form.
pub(crate) struct Migration {
    map: &'static str,
    /// The version that it starts from; it leads to the next one.
    from: u64,
    /// Bytes of key and value in that version.
    sizes: (usize, usize),
    convert: Convert,
}

/// All of them. Version 1 of every map is that of the first release, where VTEPs had four bytes.
const MIGRATIONS: &[Migration] = &[
    Migration { map: "config", from: 1, sizes: (4, 24), convert: config },
    Migration { map: "config", from: 2, sizes: (4, 36), convert: without_slot },
    Migration { map: "ports", from: 1, sizes: (8, 48), convert: port },
    Migration { map: "ports", from: 2, sizes: (8, 64), convert: without_slot },
    Migration { map: "vteps", from: 1, sizes: (8, 4), convert: tunnel_key },
    Migration { map: "mac_remote", from: 1, sizes: (12, 8), convert: mac_remote },
    Migration { map: "nb_local", from: 1, sizes: (20, 24), convert: neighbour },
    Migration { map: "nb_remote", from: 1, sizes: (20, 8), convert: same },
    Migration { map: "routes4", from: 1, sizes: (12, 36), convert: route },
    Migration { map: "routes6", from: 1, sizes: (24, 36), convert: route },
    Migration { map: "wires", from: 1, sizes: (4, 8), convert: wire },
    Migration { map: "flood_vteps", from: 1, sizes: (4, 516), convert: flood_vteps },
];

/// The way from `version`, whose keys and values have `sizes`, to `layout`; `None` if there is none. Equal versions of
/// equal sizes have an empty way.
pub(crate) fn steps(
    layout: &MapLayout,
    version: u64,
    sizes: (usize, usize),
) -> Option<Vec<&'static Migration>> {
    let mut way = Vec::new();
    for from in version..layout.version {
        way.push(MIGRATIONS.iter().find(|one| one.map == layout.name && one.from == from)?);
    }
    let expected = way.first().map_or((layout.key as usize, layout.value as usize), |first| first.sizes);
    (version <= layout.version && expected == sizes).then_some(way)
}

/// Takes an entry along the way.
pub(crate) fn convert(way: &[&Migration], key: &[u8], value: &[u8]) -> Option<Entry> {
    way.iter().try_fold((key.to_vec(), value.to_vec()), |(key, value), step| (step.convert)(&key, &value))
}

/// Four bytes of an IPv4 address as 16 of an IPv4-mapped one; zeros, which stand for none, stay zeros.
fn mapped(v4: &[u8]) -> [u8; 16] {
    let mut address = [0; 16];
    if v4 != [0; 4] {
        address[10..12].fill(0xff);
        address[12..].copy_from_slice(v4);
    }
    address
}

/// Device, port and padding, VTEP, two MACs: the padding became flags, where zero sends all through the VXLAN device.
fn config(key: &[u8], value: &[u8]) -> Option<Entry> {
    let new = [value.get(..8)?, &mapped(value.get(8..12)?), value.get(12..24)?].concat();
    Some((key.to_vec(), new))
}

/// Four numbers were added at the end; zeros for no tunnel and no guard.
fn port(key: &[u8], value: &[u8]) -> Option<Entry> {
    Some((key.to_vec(), [value, &[0; 16]].concat()))
}

/// A slot was added at the end; none until the loader gives them out.
fn without_slot(key: &[u8], value: &[u8]) -> Option<Entry> {
    Some((key.to_vec(), [value, &[0; 4]].concat()))
}

/// Flags were added; every wire was that of a `direct` tunnel.
fn wire(key: &[u8], value: &[u8]) -> Option<Entry> {
    Some((key.to_vec(), [value, &[0; 4]].concat()))
}

/// The VTEP is a part of the key.
fn tunnel_key(key: &[u8], value: &[u8]) -> Option<Entry> {
    Some(([key.get(..4)?, &mapped(key.get(4..8)?)].concat(), value.to_vec()))
}

/// VTEP, flags; the sequence was added and is filled by the syncer.
fn mac_remote(key: &[u8], value: &[u8]) -> Option<Entry> {
    let new = [&mapped(value.get(..4)?), value.get(4..8)?, &[0; 4]].concat();
    Some((key.to_vec(), new))
}

/// The padding behind the MAC became flags. How a neighbour advertised was not kept: it overrides, as most do.
fn neighbour(key: &[u8], value: &[u8]) -> Option<Entry> {
    let flags = NeighLocal::OVERRIDE.to_ne_bytes();
    Some((key.to_vec(), [value.get(..6)?, &flags, value.get(8..24)?].concat()))
}

/// A bit has got a meaning, and is not set in any entry; the syncer sets it.
fn same(key: &[u8], value: &[u8]) -> Option<Entry> {
    Some((key.to_vec(), value.to_vec()))
}

/// Kind, origin, MAC, VNI, then VTEP, device, gateway: the VTEP has moved behind the device.
fn route(key: &[u8], value: &[u8]) -> Option<Entry> {
    let [head, vtep, device, gateway] =
        [value.get(..12)?, value.get(12..16)?, value.get(16..20)?, value.get(20..36)?];
    Some((key.to_vec(), [head, device, &mapped(vtep), gateway].concat()))
}

/// A count and room for 128 VTEPs.
fn flood_vteps(key: &[u8], value: &[u8]) -> Option<Entry> {
    let mut new = value.get(..4)?.to_vec();
    value.get(4..516)?.chunks(4).for_each(|vtep| new.extend_from_slice(&mapped(vtep)));
    Some((key.to_vec(), new))
}

#[cfg(test)]
mod tests {
    use watari_abi::layout::MAPS;

    use super::*;

    #[test]
    fn every_way_ends_in_the_sizes_of_today() {
        for migration in MIGRATIONS {
            let layout = MAPS.iter().find(|map| map.name == migration.map).expect(migration.map);
            let way = steps(layout, migration.from, migration.sizes).expect(migration.map);
            let (key, value) =
                convert(&way, &vec![1; migration.sizes.0], &vec![1; migration.sizes.1]).unwrap();
            let sizes = (key.len() as u32, value.len() as u32);
            assert_eq!(sizes, (layout.key, layout.value), "{}", migration.map);
        }
    }

    #[test]
    fn every_version_has_a_way_from_the_first() {
        for layout in MAPS {
            for version in 1..layout.version {
                let found = MIGRATIONS.iter().any(|one| one.map == layout.name && one.from == version);
                assert!(found, "{} {version}", layout.name);
            }
        }
    }

    #[test]
    fn a_port_and_the_gateway_get_no_slot_and_lose_nothing() {
        for (map, size) in [("ports", 64), ("config", 36)] {
            let layout = MAPS.iter().find(|layout| layout.name == map).unwrap();
            let value: Vec<u8> = (1..=size).collect();
            let way = steps(layout, layout.version - 1, (layout.key as usize, value.len())).unwrap();
            let (key, new) = convert(&way, &[7; 8], &value).unwrap();
            assert_eq!((key, new), (vec![7; 8], [value, vec![0; 4]].concat()), "{map}");
        }
    }

    #[test]
    fn what_is_later_than_ours_or_of_other_sizes_has_no_way() {
        let layout = MAPS.iter().find(|map| map.name == "config").unwrap();
        assert!(steps(layout, layout.version + 1, (4, layout.value as usize)).is_none());
        assert!(steps(layout, 1, (4, 23)).is_none());
        assert!(steps(layout, layout.version, (4, layout.value as usize)).is_some_and(|way| way.is_empty()));
    }

    #[test]
    fn an_address_becomes_ipv4_mapped_and_none_stays_none() {
        let value: Vec<u8> = (1..=36).collect();
        let (_, new) = route(&[], &value).unwrap();
        assert_eq!(new[12..16], [17, 18, 19, 20]);
        assert_eq!(new[16..32], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 13, 14, 15, 16]);
        assert_eq!(new[32..], value[20..]);
        assert_eq!(mapped(&[0; 4]), [0; 16]);
    }
}
