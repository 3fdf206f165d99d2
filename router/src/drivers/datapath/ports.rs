//! Ports: devices with their tags, what stands behind them, and the programs that watch them.

use std::net::{Ipv4Addr, Ipv6Addr};

use watari_config::{Tags, Tpid, Vid};
use watari_dataplane::{Hook, Port, PortKey, PortKind};
use watari_planner::item::{HookKind, PortAt, PortGuard, Value};

use super::segments::flood_burst;
use super::{Indices, Names, index, mac, name, vni};
use crate::drivers::DriverError;

/// The port of a key, with the name of its device.
pub(crate) fn port_at(names: &Names, key: PortKey) -> PortAt {
    PortAt { device: name(names, key.ifindex), tags: tags(key.outer, key.inner) }
}

/// The key of a port.
pub(crate) fn port_key(indices: &Indices, at: &PortAt) -> Result<PortKey, DriverError> {
    let ifindex = index(indices, &at.device)?;
    let (outer, inner) = match at.tags {
        Tags::Untagged => (0, 0),
        Tags::Single(tpid, vid) => (outer(tpid, vid), 0),
        Tags::Double(tpid, vid, inner) => (outer(tpid, vid), inner.get()),
    };
    Ok(PortKey { ifindex, outer, inner })
}

fn outer(tpid: Tpid, vid: Vid) -> u16 {
    match tpid {
        Tpid::Dot1q => vid.get(),
        Tpid::Dot1ad => vid.get() | PortKey::S_TAG,
    }
}

/// What a map holds came out of a plan, so the ids are in range.
fn tags(outer: u16, inner: u16) -> Tags {
    let tpid = if outer & PortKey::S_TAG == 0 { Tpid::Dot1q } else { Tpid::Dot1ad };
    match (Vid::new(outer & !PortKey::S_TAG), Vid::new(inner)) {
        (Err(_), _) => Tags::Untagged,
        (Ok(vid), Err(_)) => Tags::Single(tpid, vid),
        (Ok(vid), Ok(inner)) => Tags::Double(tpid, vid, inner),
    }
}

pub(super) fn port_value(port: &Port, names: &Names) -> Value {
    match PortKind::from_u8(port.kind) {
        Some(PortKind::Segment) => Value::SegmentPort {
            tenant: vni(port.tenant),
            vni: vni(port.vni),
            blocked: port.flags & Port::BLOCKED != 0,
            near: port.flags & Port::NEAR != 0,
            guard: guard(port),
        },
        Some(PortKind::Core) => Value::TenantPort { tenant: vni(port.tenant), nodes: false },
        Some(PortKind::Node) => Value::TenantPort { tenant: vni(port.tenant), nodes: true },
        _ if port.flags & Port::ENGINE != 0 => Value::EnginePort { tunnel: name(names, port.tunnel_ifindex) },
        _ => {
            let answer = (port.answer_mac != [0; 6]).then(|| {
                let v4 = (port.answer_v4 != [0; 4]).then(|| Ipv4Addr::from(port.answer_v4));
                let v6 = (port.answer_v6 != [0; 16]).then(|| Ipv6Addr::from(port.answer_v6));
                (mac(port.answer_mac), v4, v6)
            });
            let is_tunnel = port.flags & Port::TUNNEL != 0;
            let tunnel = is_tunnel.then(|| name(names, port.tunnel_ifindex));
            Value::CrossPort { peer: port_at(names, port.peer), answer, tunnel }
        }
    }
}

pub(super) fn map_port(value: &Value, indices: &Indices) -> Result<Port, DriverError> {
    Ok(match value {
        Value::SegmentPort { tenant, vni, blocked, near, guard } => {
            let mut port = Port::segment(tenant.get(), vni.get());
            if *blocked {
                port.flags |= Port::BLOCKED;
            }
            if *near {
                port.flags |= Port::NEAR;
            }
            set_guard(&mut port, guard);
            port
        }
        Value::TenantPort { tenant, nodes: false } => Port::core(tenant.get()),
        Value::TenantPort { tenant, nodes: true } => Port::node(tenant.get()),
        Value::EnginePort { tunnel } => Port::engine(index(indices, tunnel)?),
        Value::CrossPort { peer, answer, tunnel } => {
            let mut port = Port::cross(port_key(indices, peer)?);
            if let Some(kernel_end) = tunnel {
                port.flags |= Port::TUNNEL;
                port.tunnel_ifindex = index(indices, kernel_end)?;
            }
            if let Some((mac, v4, v6)) = answer {
                port.answer_mac = mac.octets();
                port.answer_v4 = v4.map_or([0; 4], |a| a.octets());
                port.answer_v6 = v6.map_or([0; 16], |a| a.octets());
            }
            port
        }
        _ => Port::default(),
    })
}

/// What a port's guard checks.
fn guard(port: &Port) -> PortGuard {
    let has = |flag| port.guard & flag != 0;
    // An entry whose burst is not the one that goes with its rate is to be written again.
    let whole = port.storm_burst == flood_burst(port.storm_rate);
    PortGuard {
        macs: has(Port::GUARD_MAC),
        addresses: has(Port::GUARD_IP),
        no_dhcp_server: has(Port::GUARD_DHCP),
        no_router: has(Port::GUARD_ROUTER),
        macs_max: if has(Port::GUARD_LIMIT) { port.macs_max } else { 0 },
        storm_rate: if has(Port::GUARD_STORM) && whole { port.storm_rate } else { 0 },
    }
}

fn set_guard(port: &mut Port, guard: &PortGuard) {
    let flags = [
        (guard.macs, Port::GUARD_MAC),
        (guard.addresses, Port::GUARD_IP),
        (guard.no_dhcp_server, Port::GUARD_DHCP),
        (guard.no_router, Port::GUARD_ROUTER),
        (guard.macs_max > 0, Port::GUARD_LIMIT),
        (guard.storm_rate > 0, Port::GUARD_STORM),
    ];
    port.guard = flags.iter().filter(|(wanted, _)| *wanted).fold(0, |all, (_, flag)| all | flag);
    port.macs_max = guard.macs_max;
    if guard.storm_rate > 0 {
        (port.storm_rate, port.storm_burst) = (guard.storm_rate, flood_burst(guard.storm_rate));
    }
}

pub(super) fn hook(kind: HookKind) -> Hook {
    match kind {
        HookKind::Trunk => Hook::Trunk,
        HookKind::Interface => Hook::Interface,
        HookKind::Core => Hook::Core,
        HookKind::Cross => Hook::Cross,
        HookKind::Node => Hook::Node,
        HookKind::Tunnel => Hook::Tunnel,
        HookKind::Uplink => Hook::Uplink,
        HookKind::Vxlan => Hook::Vxlan,
    }
}

pub(super) fn hook_kind(hook: Hook) -> HookKind {
    match hook {
        Hook::Trunk => HookKind::Trunk,
        Hook::Interface => HookKind::Interface,
        Hook::Core => HookKind::Core,
        Hook::Cross => HookKind::Cross,
        Hook::Node => HookKind::Node,
        Hook::Tunnel => HookKind::Tunnel,
        Hook::Uplink => HookKind::Uplink,
        Hook::Vxlan => HookKind::Vxlan,
    }
}
