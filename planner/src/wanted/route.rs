//! Static routes, of a tenant through one of its exits or of the underlay. One whose next hop is the VTEP of a gateway
//! at the end of a tunnel is made with the tunnel ([`super::tunnel`]): it goes the way the VTEP itself goes.

use watari_config::desired::device;
use watari_config::document::Route;

use super::Making;
use super::tenant::METRIC;
use crate::item::{Key, Ns, TenantRoute, Value};

impl Making<'_> {
    pub(super) fn routes(&mut self) {
        let tunnelled = |via| self.desired.tunnels().any(|(.., far)| far.vtep == via);
        let own = |route: &Route| route.tenant.is_some() || !tunnelled(route.via);
        let routes: Vec<_> = self.desired.routes().filter(|(_, route)| own(route)).collect();
        for (name, route) in routes {
            let owner = format!("routes.{name}");
            match &route.tenant {
                Some(tenant) => self.tenant_route(&owner, tenant, route),
                None => {
                    let value =
                        Value::Route { via: Some(route.via), source: None, metric: METRIC, mtu: None };
                    // The kernel finds the device of an underlay route by its next hop.
                    self.want(&owner, Key::Route(Ns::Root, route.prefix, String::new()), value);
                }
            }
        }
    }

    fn tenant_route(&mut self, owner: &str, tenant: &watari_config::Name, route: &Route) {
        let exit = self
            .desired
            .exits()
            .find(|(_, e)| e.tenant == *tenant && e.addresses.iter().any(|n| n.contains(&route.via)));
        let Some((exit, _)) = exit else { return };
        let inner = device::exit(exit).1;
        let value = Value::Route { via: Some(route.via), source: None, metric: METRIC, mtu: None };
        self.want(owner, Key::Route(self.tenant_ns(tenant), route.prefix, inner), value);
        let key = Key::TenantRoute(self.tenant_vni(tenant), route.prefix);
        self.want(owner, key, Value::TenantRoute(TenantRoute::Exit));
    }
}
