//! Attachments: a VLAN of a trunk or a whole interface becomes a port of its segment, with a beacon of the loop guard.

use std::collections::BTreeMap;

use watari_config::Vni;
use watari_config::document::Permit;
use watari_config::guard::{Guard, GuardAddress};

use super::{Making, place};
use crate::item::{Key, PortAt, PortGuard, Value};
use crate::loops::port_id;

impl Making<'_> {
    pub(super) fn attachments(&mut self) {
        let mut ports: BTreeMap<Vni, Vec<PortAt>> = BTreeMap::new();
        let attachments: Vec<_> = self.desired.attachments().collect();
        for (name, attachment) in attachments {
            let owner = format!("attachments.{name}");
            let Some(at) = place(attachment) else { continue };
            if !self.has_device(&owner, &at.device) {
                continue;
            }
            let segment = &self.desired.document().segments[&attachment.segment];
            let (tenant, vni) = (self.tenant_vni(&segment.tenant), segment.vni);
            let looped = self.observed.loops.get(&at).is_some_and(|verdict| verdict.blocked);
            let blocked = attachment.loop_guard && looped;
            let guard = self.guard(&owner, &at, attachment.guard.as_ref());
            let near = self.observed.near_devices.contains(&at.device);
            self.want(
                &owner,
                Key::Port(at.clone()),
                Value::SegmentPort { tenant, vni, blocked, near, guard },
            );
            self.want(&owner, Key::Hook(at.device.clone(), self.hook(&at.device)), Value::Present);
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

    /// The tables of a guard, and what the port is to be told of them.
    fn guard(&mut self, owner: &str, at: &PortAt, guard: Option<&Guard>) -> PortGuard {
        let Some(guard) = guard else { return PortGuard::default() };
        for mac in &guard.macs {
            self.want(owner, Key::GuardMac(at.clone(), *mac), Value::Present);
        }
        for GuardAddress { prefix, mac } in &guard.addresses {
            self.want(owner, Key::GuardIp(at.clone(), *prefix), Value::GuardIp { mac: *mac });
        }
        PortGuard {
            macs: !guard.macs.is_empty(),
            addresses: !guard.addresses.is_empty(),
            no_dhcp_server: guard.dhcp_server == Permit::Deny,
            no_router: guard.routers == Permit::Deny,
            macs_max: guard.macs_max,
            storm_rate: guard.storm_rate,
        }
    }
}
