//! Beacons of the loop guard, between the plan's items and what `watari-link` is told.

use watari_config::{Mac, Vid, Vni};
use watari_link::protocol::{BeaconConfig, BeaconStatus, VlanTag};
use watari_planner::item::{PortAt, Value};

/// Ethernet type of a customer tag (IEEE 802.1Q section 9.6).
const TPID_CUSTOMER: u16 = 0x8100;

/// What `watari-link` is to be told for an item.
pub(super) fn config(at: &PortAt, value: &Value) -> Option<BeaconConfig> {
    let Value::Beacon { origin, vni, port_id, blocked } = value else { return None };
    let tags = at.vid.map(|vid| VlanTag { tpid: TPID_CUSTOMER, vid: vid.get() });
    Some(BeaconConfig {
        device: at.device.clone(),
        tags: tags.into_iter().collect(),
        origin: origin.octets(),
        vni: vni.get(),
        port_id: *port_id,
        blocked: *blocked,
    })
}

/// The item that a beacon is. One that no plan could have made reads as another place's, which nobody wants.
pub(super) fn item(beacon: &BeaconStatus) -> Option<(PortAt, Value)> {
    let BeaconConfig { device, tags, origin, vni, port_id, blocked } = &beacon.config;
    let vid = match tags.as_slice() {
        [] => None,
        [tag] if tag.tpid == TPID_CUSTOMER => Some(Vid::new(tag.vid).ok()?),
        _ => return None,
    };
    let value = Value::Beacon {
        origin: Mac::new(*origin).ok()?,
        vni: Vni::new(*vni).ok()?,
        port_id: *port_id,
        blocked: *blocked,
    };
    Some((PortAt { device: device.clone(), vid }, value))
}
