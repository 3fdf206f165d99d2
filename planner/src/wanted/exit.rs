//! Exits: addresses of the gateway on a VLAN or interface, in the tenant's namespace.

use ipnet::IpNet;
use watari_config::desired::device;

use super::{Making, frames};
use crate::item::{Key, Ns, TenantRoute, Value};

impl Making<'_> {
    pub(super) fn exits(&mut self) {
        let exits: Vec<_> = self.desired.exits().collect();
        for (name, exit) in exits {
            let owner = format!("exits.{name}");
            let Some(wire) = frames(exit.vlan.as_ref(), exit.interface.as_ref()) else { continue };
            if !self.has_device(&owner, &wire.device) {
                continue;
            }
            let ns = self.tenant_ns(&exit.tenant);
            let (port_end, inner) = device::exit(name);
            let veth = Value::Veth {
                peer: inner.clone(),
                peer_ns: ns.clone(),
                mac: self.router_mac(),
                mac_end: inner.clone(),
                mtu: exit.mtu.get(),
            };
            self.want(&owner, Key::Veth(port_end.clone()), veth);
            self.loose_rp_filter(&owner, &ns, &inner);
            self.cross_connect(&owner, &wire, &port_end, &exit.addresses, None);
            self.exit_addresses(&owner, &ns, &inner, &exit.addresses, &exit.tenant);
        }
    }

    fn exit_addresses(
        &mut self,
        owner: &str,
        ns: &Ns,
        inner: &str,
        addresses: &[IpNet],
        tenant: &watari_config::Name,
    ) {
        let tenant = self.tenant_vni(tenant);
        for address in addresses {
            self.want(owner, Key::Address(ns.clone(), inner.to_owned(), *address), Value::Present);
            let subnet = Value::TenantRoute(TenantRoute::Exit);
            self.want(owner, Key::TenantRoute(tenant, address.trunc()), subnet);
            let own = Key::TenantRoute(tenant, IpNet::from(address.addr()));
            self.want(owner, own, Value::TenantRoute(TenantRoute::Own));
        }
    }
}
