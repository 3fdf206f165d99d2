//! Addresses and MACs for a new node: pure arithmetic over the document, so that the same document
//! always answers the same, and two gateways with slices of their own never answer alike.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::desired::{Desired, probe_addresses};
use crate::document::Document;
use crate::names::{Mac, Name, fnv1a};

/// The most nodes one gateway serves.
pub const NODES_MAX: usize = 4096;
/// The most addresses of a slice that are looked at for a free one.
const SLICE_STEPS_MAX: u32 = 1 << 16;

/// Why no address could be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// The gateway owns no slice of the segment.
    #[error("gateway {gateway} has no slice of a pool of segment {segment}")]
    NoSlice {
        /// The gateway.
        gateway: Name,
        /// The segment.
        segment: Name,
    },
    /// Every address of the slice is in use.
    #[error("slice {slice} has no free address")]
    Exhausted {
        /// The slice.
        slice: IpNet,
    },
}

/// Free addresses for a node in `segment`, one out of the first slice of each family.
///
/// # Errors
/// When the gateway has no slice there, or one of them is exhausted.
pub fn node_addresses(desired: &Desired, segment: &Name) -> Result<Vec<IpAddr>, AllocateError> {
    let taken = taken(desired.document(), segment);
    let mut slices: Vec<IpNet> = Vec::new();
    for slice in desired.own_slices(segment) {
        if !slices.iter().any(|s| is_v4(s) == is_v4(&slice)) {
            slices.push(slice);
        }
    }
    if slices.is_empty() {
        let gateway = desired.gateway_name().clone();
        return Err(AllocateError::NoSlice { gateway, segment: segment.clone() });
    }
    slices.sort();
    slices.iter().map(|slice| free(slice, &taken)).collect()
}

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

fn taken(document: &Document, segment: &Name) -> BTreeSet<IpAddr> {
    let nodes = document.nodes.values().filter(|n| n.segment == *segment);
    let mut taken: BTreeSet<IpAddr> = nodes.flat_map(|n| n.addresses.iter().copied()).collect();
    if let Some(s) = document.segments.get(segment) {
        taken.extend(s.gateway.iter().copied());
        taken.extend(s.subnets.iter().flat_map(|net| [net.network(), net.broadcast()]));
    }
    for gateway in document.gateways.keys() {
        taken.extend(probe_addresses(document, gateway, segment));
    }
    taken
}

/// The lowest address of a slice is left out, as with probe addresses: it may be the subnet's own.
fn free(slice: &IpNet, taken: &BTreeSet<IpAddr>) -> Result<IpAddr, AllocateError> {
    let mut hosts: Box<dyn Iterator<Item = IpAddr>> = match slice {
        IpNet::V4(net) => {
            let (low, high) = (u32::from(net.network()), u32::from(net.broadcast()));
            Box::new((low + 1..=high).map(|a| IpAddr::V4(a.into())))
        }
        IpNet::V6(net) => {
            let (low, high) = (u128::from(net.network()), u128::from(net.broadcast()));
            Box::new((low + 1..=high).map(|a| IpAddr::V6(a.into())))
        }
    };
    hosts
        .by_ref()
        .take(SLICE_STEPS_MAX as usize)
        .find(|a| !taken.contains(a))
        .ok_or(AllocateError::Exhausted { slice: *slice })
}

/// The MAC under which the hosts of the segment see the node: locally administered, from its name and
/// first address, stepped on where another node has it.
pub fn node_mac(document: &Document, name: &Name, addresses: &[IpAddr]) -> Mac {
    let seed = format!("{name}/{}", addresses.first().map(ToString::to_string).unwrap_or_default());
    let mut hash = fnv1a(seed.as_bytes());
    loop {
        let [a, b, c, d] = hash.to_be_bytes();
        let mac = Mac::new([0x02, 0x57 ^ 0x10, a, b, c, d]).expect("an individual address");
        if !document.nodes.values().any(|n| n.mac == mac) {
            return mac;
        }
        hash = hash.wrapping_add(1);
    }
}
