//! What the gateway itself needs: the VXLAN device with the VTEP address, and the guard on the uplink.

use ipnet::IpNet;
use watari_config::desired::device;
use watari_config::document::{Dscp, Encapsulation};

use super::Making;
use crate::item::{HookKind, Key, Ns, Value};

/// The VXLAN device takes whatever fits the underlay: each segment has its own MTU.
const VXLAN_MTU: u16 = 9216;

/// Metric of the route that is taken when no tunnel has one: above that of any tunnel, up or down.
const METRIC_LAST: u32 = 100_000_000;

impl Making<'_> {
    pub(super) fn gateway(&mut self) {
        let owner = format!("gateways.{}", self.desired.gateway_name());
        let fabric = self.desired.document().fabric.clone();
        let vxlan = device::vxlan(fabric.vxlan_port);
        let vtep = self.gateway.vtep;
        self.want(
            &owner,
            Key::Vxlan(vxlan.clone()),
            Value::Vxlan { port: fabric.vxlan_port, mtu: VXLAN_MTU },
        );
        let address = IpNet::from(vtep);
        self.want(&owner, Key::Address(Ns::Root, vxlan.clone(), address), Value::Present);
        self.last_routes(&owner, &vxlan);
        // The programs ask the kernel for the way to a VTEP as if this device forwarded. It never does: its
        // program takes everything that arrives there.
        for (family, setting, text) in
            [("ipv4", "forwarding", "1"), ("ipv6", "forwarding", "1"), ("ipv6", "accept_ra", "0")]
        {
            let path = format!("net/{family}/conf/{vxlan}/{setting}");
            self.want(&owner, Key::Sysctl(Ns::Root, path), Value::Setting(text.to_owned()));
        }
        let entry = Value::Gateway {
            vxlan: vxlan.clone(),
            vxlan_port: fabric.vxlan_port,
            vtep,
            anycast_mac: fabric.anycast_mac,
            router_mac: self.router_mac(),
            dscp: match fabric.dscp {
                Dscp::Inherit => None,
                Dscp::Fixed(dscp) => Some(dscp),
            },
            own_encap: fabric.encapsulation == Encapsulation::Auto,
        };
        self.want(&owner, Key::GatewayEntry, entry);
        self.want(&owner, Key::Hook(vxlan, HookKind::Vxlan), Value::Present);
        if let Some(uplink) = self.gateway.uplink.clone()
            && self.has_device(&owner, uplink.as_str())
        {
            self.want(&owner, Key::Hook(uplink.to_string(), HookKind::Uplink), Value::Present);
        }
        let mismatch = self.gateway.wireguard_key.is_some_and(|k| k != self.observed.identity.wireguard_key);
        if mismatch {
            let own = self.observed.identity.wireguard_key;
            self.block(&owner, format!("wireguard_key is not this gateway's; its own is {own}"));
        }
    }

    /// The way to a far VTEP when no tunnel's route is there: into the VXLAN device, where the kernel drops it.
    /// Without it the default route would take over, and tenants' frames would leave the uplink in clear.
    fn last_routes(&mut self, owner: &str, vxlan: &str) {
        let gateways = &self.desired.document().gateways;
        let far = gateways.iter().filter(|(name, _)| *name != self.desired.gateway_name());
        for vtep in far.map(|(_, gateway)| gateway.vtep).collect::<Vec<_>>() {
            let prefix = IpNet::from(vtep);
            let value =
                Value::Route { via: None, source: Some(self.gateway.vtep), metric: METRIC_LAST, mtu: None };
            self.want(owner, Key::Route(Ns::Root, prefix, vxlan.to_owned()), value);
        }
    }
}
