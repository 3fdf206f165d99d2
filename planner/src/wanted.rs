//! Which items the objects of a gateway need. One file for each kind of object.

mod attachment;
mod exit;
mod gateway;
mod node;
mod peer;
mod route;
mod tenant;
mod tunnel;

use std::collections::{BTreeMap, BTreeSet};

use watari_config::document::{Attachment, Gateway, Tenant, VlanPort};
use watari_config::{Desired, IfName, Mac, Name, Vni};

pub use node::NODE_DEVICE_MTU;

use crate::item::{HookKind, Key, Ns, PortAt, Value};
use crate::observed::Observed;

/// An item and the object that wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it shall be.
    pub value: Value,
    /// Path of the object, e.g. `tunnels.ab`.
    pub owner: String,
}

/// All items that are wanted, and what stands in the way of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Items by key.
    pub items: BTreeMap<Key, Item>,
    /// Objects that cannot be realised for now, each with the reason; their items are left out.
    pub blocked: BTreeMap<String, String>,
    /// DNS names whose addresses are needed.
    pub names: BTreeSet<String>,
}

/// Everything that `desired` needs on this gateway. Without a gateway object of its own it needs nothing.
pub fn wanted(desired: &Desired, observed: &Observed) -> Wanted {
    let mut wanted = Wanted::default();
    let Some(gateway) = desired.gateway() else { return wanted };
    let mut making = Making { desired, observed, gateway, wanted: &mut wanted };
    making.gateway();
    for (name, tenant) in desired.tenants() {
        making.tenant(name, tenant);
    }
    making.tunnels();
    making.attachments();
    making.exits();
    making.peers();
    making.routes();
    making.nodes();
    wanted
}

/// The work in progress.
struct Making<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    gateway: &'a Gateway,
    wanted: &'a mut Wanted,
}

impl Making<'_> {
    fn want(&mut self, owner: &str, key: Key, value: Value) {
        self.wanted.items.insert(key, Item { value, owner: owner.to_owned() });
    }

    /// Notes that `owner` cannot be realised.
    fn block(&mut self, owner: &str, reason: impl Into<String>) {
        self.wanted.blocked.insert(owner.to_owned(), reason.into());
    }

    /// The program that watches the operator's device `device`. A trunk has one for all that it carries, untagged
    /// frames too.
    fn hook(&self, device: &str) -> HookKind {
        let is_trunk = self.gateway.trunks.iter().any(|trunk| trunk.as_str() == device);
        if is_trunk { HookKind::Trunk } else { HookKind::Interface }
    }

    /// Whether the operator's device is there; notes it for `owner` when not.
    fn has_device(&mut self, owner: &str, device: &str) -> bool {
        let there = self.observed.devices.contains(device);
        if !there {
            self.block(owner, format!("device {device} does not exist"));
        }
        there
    }

    fn router_mac(&self) -> Mac {
        watari_config::desired::router_mac(self.gateway.vtep)
    }

    /// The namespace of a tenant on this gateway.
    fn namespace(&self, tenant: &Name) -> String {
        watari_config::desired::device::namespace(self.desired.gateway_name(), tenant)
    }

    fn tenant_ns(&self, tenant: &Name) -> Ns {
        Ns::Tenant(self.namespace(tenant))
    }

    fn tenant_object(&self, tenant: &Name) -> &Tenant {
        &self.desired.document().tenants[tenant]
    }

    fn tenant_vni(&self, tenant: &Name) -> Vni {
        self.tenant_object(tenant).l3vni
    }

    /// Loose reverse-path filtering on a device of ours: with two tunnels to one gateway, packets
    /// come in by either.
    fn loose_rp_filter(&mut self, owner: &str, ns: &Ns, device: &str) {
        let path = format!("net/ipv4/conf/{device}/rp_filter");
        self.want(owner, Key::Sysctl(ns.clone(), path), Value::Setting("2".to_owned()));
    }
}

/// Where an attachment is.
pub fn place(attachment: &Attachment) -> Option<PortAt> {
    frames(attachment.vlan.as_ref(), attachment.interface.as_ref())
}

/// Where the frames of an attachment or exit are.
fn frames(vlan: Option<&VlanPort>, interface: Option<&IfName>) -> Option<PortAt> {
    vlan.map(PortAt::vlan).or_else(|| interface.map(|device| PortAt::untagged(device.as_str())))
}

/// A device, untagged.
fn untagged(device: &str) -> PortAt {
    PortAt::untagged(device)
}
