//! Beacons of the loop guard, between the plan's items and what `watari-link` is told.

use watari_config::{Mac, Tags, Tpid, Vid, Vni};
use watari_link::protocol::{BeaconConfig, BeaconStatus, VlanTag};
use watari_planner::item::{PortAt, Value};

fn tpid(tag: &VlanTag) -> Option<Tpid> {
    [Tpid::Dot1q, Tpid::Dot1ad].into_iter().find(|tpid| tpid.ethertype() == tag.tpid)
}

/// What `watari-link` is to be told for an item.
pub(super) fn config(at: &PortAt, value: &Value) -> Option<BeaconConfig> {
    let Value::Beacon { origin, vni, port_id, blocked } = value else { return None };
    let tags = at.tags.list();
    Some(BeaconConfig {
        device: at.device.clone(),
        tags: tags.iter().map(|(tpid, vid)| VlanTag { tpid: tpid.ethertype(), vid: vid.get() }).collect(),
        origin: origin.octets(),
        vni: vni.get(),
        port_id: *port_id,
        blocked: *blocked,
    })
}

/// The item that a beacon is. One that no plan could have made reads as another place's, which nobody wants.
pub(super) fn item(beacon: &BeaconStatus) -> Option<(PortAt, Value)> {
    let BeaconConfig { device, tags, origin, vni, port_id, blocked } = &beacon.config;
    let tags = match tags.as_slice() {
        [] => Tags::Untagged,
        [tag] => Tags::Single(tpid(tag)?, Vid::new(tag.vid).ok()?),
        [outer, inner] if tpid(inner)? == Tpid::Dot1q => {
            Tags::Double(tpid(outer)?, Vid::new(outer.vid).ok()?, Vid::new(inner.vid).ok()?)
        }
        _ => return None,
    };
    let value = Value::Beacon {
        origin: Mac::new(*origin).ok()?,
        vni: Vni::new(*vni).ok()?,
        port_id: *port_id,
        blocked: *blocked,
    };
    Some((PortAt { device: device.clone(), tags }, value))
}
