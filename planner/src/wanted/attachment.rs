//! Attachments: a VLAN of a trunk or a whole interface becomes a port of its segment, with a beacon of the loop guard.

use std::collections::BTreeMap;

use watari_config::Vni;
use watari_config::document::Attachment;

use super::{Making, untagged};
use crate::item::{HookKind, Key, PortAt, Value};
use crate::loops::port_id;

/// Where an attachment is, and the program that belongs there.
pub fn place(attachment: &Attachment) -> Option<(PortAt, HookKind)> {
    match (&attachment.vlan, &attachment.interface) {
        (Some(vlan), _) => {
            Some((PortAt { device: vlan.trunk.to_string(), vid: Some(vlan.vid) }, HookKind::Trunk))
        }
        (_, Some(interface)) => Some((untagged(interface.as_str()), HookKind::Interface)),
        _ => None,
    }
}

impl Making<'_> {
    pub(super) fn attachments(&mut self) {
        let mut ports: BTreeMap<Vni, Vec<PortAt>> = BTreeMap::new();
        let attachments: Vec<_> = self.desired.attachments().collect();
        for (name, attachment) in attachments {
            let owner = format!("attachments.{name}");
            let Some((at, hook)) = place(attachment) else { continue };
            if !self.has_device(&owner, &at.device) {
                continue;
            }
            let segment = &self.desired.document().segments[&attachment.segment];
            let (tenant, vni) = (self.tenant_vni(&segment.tenant), segment.vni);
            let looped = self.observed.loops.get(&at).is_some_and(|verdict| verdict.blocked);
            let blocked = attachment.loop_guard && looped;
            self.want(&owner, Key::Port(at.clone()), Value::SegmentPort { tenant, vni, blocked });
            self.want(&owner, Key::Hook(at.device.clone(), hook), Value::Present);
            if attachment.loop_guard {
                let port_id = port_id(self.desired.gateway_name(), &at);
                let beacon = Value::Beacon { origin: self.router_mac(), vni, port_id, blocked };
                self.want(&owner, Key::Beacon(at.clone()), beacon);
            }
            let list = ports.entry(vni).or_default();
            if !blocked {
                list.push(at);
            }
        }
        for (vni, mut list) in ports {
            list.sort();
            let segment = self.desired.document().segments.iter().find(|(_, s)| s.vni == vni);
            let owner = segment.map_or_else(String::new, |(name, _)| format!("segments.{name}"));
            self.want(&owner, Key::FloodPorts(vni), Value::Ports(list));
        }
    }
}
