//! BFD sessions, between the plan's items and what `watari-link` is told.

use std::path::Path;

use watari_link::protocol::{BfdConfig, BfdHops, BfdState, BfdStatus};
use watari_planner::BfdHealth;
use watari_planner::item::{Ns, Value};

use crate::drivers::namespace;

/// What `watari-link` is to be told for an item.
pub(super) fn config(name: &str, value: &Value) -> Option<BfdConfig> {
    let Value::Bfd { ns, device, local, remote, interval_ms, multiplier } = value else { return None };
    let netns = match ns {
        Ns::Root => None,
        Ns::Tenant(tenant) => Some(namespace::path(tenant).to_string_lossy().into_owned()),
    };
    Some(BfdConfig {
        name: name.to_owned(),
        netns,
        device: Some(device.clone()),
        local: Some(*local),
        remote: *remote,
        hops: BfdHops::Single,
        desired_min_tx_us: interval_ms.saturating_mul(1_000),
        required_min_rx_us: interval_ms.saturating_mul(1_000),
        detect_mult: *multiplier,
        passive: false,
        admin_down: false,
        authentication: None,
    })
}

/// The item that a session is. One that no plan could have made is none, and is replaced.
pub(super) fn item(session: &BfdStatus) -> Option<Value> {
    let found = &session.config;
    let ns = match &found.netns {
        None => Ns::Root,
        Some(path) => Ns::Tenant(Path::new(path).file_name()?.to_str()?.to_owned()),
    };
    let value = Value::Bfd {
        ns,
        device: found.device.clone()?,
        local: found.local?,
        remote: found.remote,
        interval_ms: found.desired_min_tx_us / 1_000,
        multiplier: found.detect_mult,
    };
    (config(&found.name, &value).as_ref() == Some(found) && session.authentication.is_none()).then_some(value)
}

/// How it is.
pub(super) fn health(session: &BfdStatus) -> BfdHealth {
    BfdHealth {
        state: match session.state {
            BfdState::AdminDown => "admin_down",
            BfdState::Down => "down",
            BfdState::Init => "init",
            BfdState::Up => "up",
        },
        diagnostic: session.diagnostic.clone(),
        since_s: session.since_ms / 1_000,
        changes: session.changes,
        detection_ms: session.detection_time_us / 1_000,
        neighbour_outlives_control_plane: session.remote_control_plane_independent,
        error: session.error.clone(),
    }
}
