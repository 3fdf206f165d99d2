//! Routes of tenants that the plan writes.

use watari_dataplane::abi::ip_from_bytes;
use watari_dataplane::{Route, RouteKind, RouteOrigin};
use watari_planner::item::{TenantRoute, Value};

use super::{Indices, Names, index, name, vni};
use crate::drivers::DriverError;

pub(super) fn route_value(route: &Route, names: &Names) -> Value {
    let route = match RouteKind::from_u8(route.kind) {
        Some(RouteKind::Own) => TenantRoute::Own,
        Some(RouteKind::Connected) => {
            TenantRoute::Connected { vni: vni(route.vni), gateway: ip_from_bytes(route.gateway) }
        }
        Some(RouteKind::Node) => TenantRoute::Node { device: name(names, route.ifindex) },
        _ => TenantRoute::Exit,
    };
    Value::TenantRoute(route)
}

pub(super) fn map_route(route: &TenantRoute, indices: &Indices) -> Result<Route, DriverError> {
    Ok(match route {
        TenantRoute::Own => Route::own(),
        TenantRoute::Connected { vni, gateway } => Route::connected(vni.get(), *gateway),
        TenantRoute::Exit => Route::exit(RouteOrigin::Plan),
        TenantRoute::Node { device } => Route::node(index(indices, device)?),
    })
}
