//! Attachments: a VLAN of a trunk or a whole interface becomes a port of its segment.

use std::collections::BTreeMap;

use watari_config::Vni;

use super::{Making, untagged};
use crate::item::{HookKind, Key, PortAt, Value};

impl Making<'_> {
    pub(super) fn attachments(&mut self) {
        let mut ports: BTreeMap<Vni, Vec<PortAt>> = BTreeMap::new();
        let attachments: Vec<_> = self.desired.attachments().collect();
        for (name, attachment) in attachments {
            let owner = format!("attachments.{name}");
            let (at, hook) = match (&attachment.vlan, &attachment.interface) {
                (Some(vlan), _) => {
                    (PortAt { device: vlan.trunk.to_string(), vid: Some(vlan.vid) }, HookKind::Trunk)
                }
                (_, Some(interface)) => (untagged(interface.as_str()), HookKind::Interface),
                _ => continue,
            };
            if !self.has_device(&owner, &at.device) {
                continue;
            }
            let segment = &self.desired.document().segments[&attachment.segment];
            let tenant = self.tenant_vni(&segment.tenant);
            self.want(&owner, Key::Port(at.clone()), Value::SegmentPort { tenant, vni: segment.vni });
            self.want(&owner, Key::Hook(at.device.clone(), hook), Value::Present);
            ports.entry(segment.vni).or_default().push(at);
        }
        for (vni, mut list) in ports {
            list.sort();
            let segment = self.desired.document().segments.iter().find(|(_, s)| s.vni == vni);
            let owner = segment.map_or_else(String::new, |(name, _)| format!("segments.{name}"));
            self.want(&owner, Key::FloodPorts(vni), Value::Ports(list));
        }
    }
}
