//! The plan's tables that may be large. A look at the system comes more than once a second, and a walk of these costs more than
//! all else in it; so they are walked as often as a thousandth of a core allows, at every look while they are small
//! and once a minute at the least, and what was read then stands in between. A walk follows at once when we have written,
//! when a device has come, gone or changed its name, and when a route turns out to be another one.

use std::time::Duration;

use ipnet::IpNet;
use watari_dataplane::abi::ip_from_bytes;
use watari_dataplane::{Dataplane, NeighStatic, Prefix, Route, RouteOrigin};
use watari_planner::item::{Key, System, Value};

use super::ports::port_at;
use super::routes::route_value;
use super::{Names, guards, mac, name, vni};
use crate::drivers::DriverError;
use crate::pace::{Pace, timed};

/// The share of a core that walks may take: one part in so many.
const SHARE: u32 = 1000;
/// Less than the time between two looks.
const LEAST: Duration = Duration::from_millis(400);
/// Routes that are looked up at each look. There, the plan is not the only writer.
const ROUTES_CHECKED: usize = 256;

/// What they held when they were last walked.
#[derive(Debug)]
pub(super) struct Large {
    pace: Pace,
    is_known: bool,
    names: Names,
    items: System,
    /// The plan's routes among the items, as the table has them.
    routes: Vec<(Prefix, Route)>,
    /// The route that is looked up next.
    next: usize,
}

impl Default for Large {
    fn default() -> Self {
        Self {
            pace: Pace::at_least(LEAST, SHARE),
            is_known: false,
            names: Names::new(),
            items: System::new(),
            routes: Vec::new(),
            next: 0,
        }
    }
}

impl Large {
    /// Makes the next look a walk.
    pub(super) fn forget(&mut self) {
        self.is_known = false;
    }

    /// Adds every entry to `system`.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(super) fn observe(
        &mut self,
        maps: &Dataplane,
        names: &Names,
        system: &mut System,
    ) -> Result<(), DriverError> {
        self.is_known &= !self.pace.is_due() && self.names == *names && self.routes_stand(maps)?;
        if !self.is_known {
            let (read, cost) = timed(|| self.read(maps, names));
            self.pace.done(cost);
            read?;
            self.is_known = true;
        }
        system.extend(self.items.iter().map(|(key, value)| (key.clone(), value.clone())));
        Ok(())
    }

    /// Looks some of the routes up.
    fn routes_stand(&mut self, maps: &Dataplane) -> Result<bool, DriverError> {
        let count = self.routes.len();
        for _ in 0..count.min(ROUTES_CHECKED) {
            self.next = (self.next + 1) % count;
            let (prefix, route) = &self.routes[self.next];
            if !maps.routes.holds(prefix, route)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read(&mut self, maps: &Dataplane, names: &Names) -> Result<(), DriverError> {
        let mut items = System::new();
        for (key, node) in maps.nodes.entries()? {
            let value = Value::Node { vni: vni(node.vni), mac: mac(node.mac) };
            items.insert(Key::NodeEntry(name(names, key.ifindex), ip_from_bytes(key.ip)), value);
        }
        for (key, entry) in maps.mac_static.entries()? {
            let value = Value::StaticMac { at: port_at(names, entry.port), node: entry.is_node != 0 };
            items.insert(Key::StaticMac(vni(key.vni), mac(key.mac)), value);
        }
        for (key, entry) in maps.nb_static.entries()? {
            let own = entry.flags & NeighStatic::OWN != 0;
            let value = Value::StaticNeighbour { mac: mac(entry.mac), own };
            items.insert(Key::StaticNeighbour(vni(key.vni), ip_from_bytes(key.ip)), value);
        }
        let mut routes = maps.routes.list()?;
        routes.retain(|(_, route)| route.origin == RouteOrigin::Plan as u8);
        for (prefix, route) in &routes {
            if let Ok(net) = IpNet::new(prefix.address(), prefix.length()) {
                items.insert(Key::TenantRoute(vni(prefix.tenant), net), route_value(route, names));
            }
        }
        guards::observe(maps, names, &mut items)?;
        (self.items, self.routes) = (items, routes);
        self.names.clone_from(names);
        Ok(())
    }
}
