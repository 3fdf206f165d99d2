//! The entry about the gateway, and those about VNIs.

use watari_config::Vni;
use watari_dataplane::abi::{ip_bytes, ip_from_bytes};
use watari_dataplane::{Config, Segment, SegmentKind};
use watari_planner::item::Value;

use super::{Indices, Names, index, mac, name, vni};
use crate::drivers::DriverError;

/// How many flooded frames may come at once: a tenth of a second's worth, 32 at least.
pub(super) fn flood_burst(rate: u32) -> u32 {
    (rate / 10).max(32)
}

pub(super) fn gateway_value(config: &Config, names: &Names) -> Value {
    Value::Gateway {
        vxlan: name(names, config.vxlan_ifindex),
        vxlan_port: config.vxlan_port,
        vtep: ip_from_bytes(config.local_vtep),
        anycast_mac: mac(config.anycast_mac),
        router_mac: mac(config.router_mac),
        dscp: (config.dscp != Config::DSCP_INNER).then_some(config.dscp),
        own_encap: config.flags & Config::OWN_ENCAP != 0,
    }
}

/// The entry about the gateway.
pub(super) fn config(value: &Value, indices: &Indices) -> Result<Option<Config>, DriverError> {
    let Value::Gateway { vxlan, vxlan_port, vtep, anycast_mac, router_mac, dscp, own_encap } = value else {
        return Ok(None);
    };
    Ok(Some(Config {
        vxlan_ifindex: index(indices, vxlan)?,
        vxlan_port: *vxlan_port,
        flags: if *own_encap { Config::OWN_ENCAP } else { 0 },
        dscp: dscp.unwrap_or(Config::DSCP_INNER),
        local_vtep: ip_bytes(*vtep),
        anycast_mac: anycast_mac.octets(),
        router_mac: router_mac.octets(),
        vxlan_slot: 0,
    }))
}

pub(super) fn segment_value(segment: &Segment) -> Value {
    let plain = segment.flags & Segment::PLAIN_DEVICES != 0;
    if segment.kind == SegmentKind::L3 as u8 {
        return Value::L3Segment { plain };
    }
    // An entry whose burst is not the one that goes with its rate is to be written again.
    let whole = segment.flood_burst == flood_burst(segment.flood_rate);
    Value::L2Segment {
        tenant: vni(segment.tenant),
        mtu: segment.mtu,
        flood_unknown: segment.flags & Segment::FLOOD_UNKNOWN != 0,
        flood_broadcast: segment.flags & Segment::FLOOD_BROADCAST != 0,
        flood_multicast: segment.flags & Segment::FLOOD_MULTICAST != 0,
        flood_rate: if whole { segment.flood_rate } else { 0 },
        plain,
    }
}

pub(super) fn segment(number: Vni, value: &Value) -> Option<Segment> {
    let (mut segment, plain) = match value {
        Value::L3Segment { plain } => (Segment::l3(number.get()), *plain),
        Value::L2Segment {
            tenant,
            mtu,
            flood_unknown,
            flood_broadcast,
            flood_multicast,
            flood_rate,
            plain,
        } => {
            let mut segment = Segment::l2(tenant.get(), *flood_rate, flood_burst(*flood_rate));
            segment.mtu = *mtu;
            segment.flags = [
                (*flood_unknown, Segment::FLOOD_UNKNOWN),
                (*flood_broadcast, Segment::FLOOD_BROADCAST),
                (*flood_multicast, Segment::FLOOD_MULTICAST),
            ]
            .into_iter()
            .filter(|(wanted, _)| *wanted)
            .fold(0, |flags, (_, flag)| flags | flag);
            (segment, *plain)
        }
        _ => return None,
    };
    if plain {
        segment.flags |= Segment::PLAIN_DEVICES;
    }
    Some(segment)
}
