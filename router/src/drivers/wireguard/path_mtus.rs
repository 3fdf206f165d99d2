//! The measurements of what crosses the tunnels: what `watari-link` says of them, and what it is to measure.
//!
//! What was found stays in force until something else is: while the engine does not answer, while it searches again after a
//! restart of its own, while the path is dead. A size taken from nowhere would be a black hole, or too small for nothing.

use std::collections::BTreeMap;

use watari_link::protocol::{PathMtuConfig, PathMtuPhase as Phase, PathMtuStatus};
use watari_planner::item::{Key, Value};
use watari_planner::{Observed, PathMtu, PathMtuPhase};

/// All paths.
#[derive(Default)]
pub(super) struct PathMtus {
    /// As they are to be; `watari-link` takes them whole.
    configs: BTreeMap<String, PathMtuConfig>,
    changed: bool,
    /// What was found last, with the path it was found on.
    found: BTreeMap<String, (PathMtuConfig, PathMtu)>,
}

impl PathMtus {
    /// Adds what the engine says to `observed`.
    pub(super) fn observe(&mut self, paths: &[PathMtuStatus], observed: &mut Observed) {
        self.configs.clear();
        let mut before = std::mem::take(&mut self.found);
        for path in paths {
            let config = &path.config;
            let name = config.name.clone();
            let former = before.remove(&name).filter(|(former, _)| is_same(former, config));
            let seen = seen(path, former.and_then(|(_, found)| found.mtu));
            self.found.insert(name.clone(), (config.clone(), seen));
            let (local, remote, device, max) =
                (config.local, config.remote, config.device.clone(), config.max);
            observed.system.insert(Key::PathMtu(name.clone()), Value::PathMtu { local, remote, device, max });
            self.configs.insert(name, config.clone());
        }
        self.as_before(observed);
    }

    /// Adds what is known of the paths without asking.
    pub(super) fn as_before(&self, observed: &mut Observed) {
        for (name, (_, found)) in &self.found {
            if let Ok(tunnel) = name.parse() {
                observed.path_mtus.insert(tunnel, *found);
            }
        }
    }

    /// Notes what one is to be like.
    pub(super) fn apply(&mut self, name: &str, value: &Value, remove: bool) {
        self.changed = true;
        match value {
            Value::PathMtu { local, remote, device, max } if !remove => {
                let (name, device) = (name.to_owned(), device.clone());
                let config =
                    PathMtuConfig { name: name.clone(), local: *local, remote: *remote, device, max: *max };
                self.configs.insert(name, config);
            }
            _ => drop(self.configs.remove(name)),
        }
    }

    /// All of them, if one changed since the last call.
    pub(super) fn take_changed(&mut self) -> Option<Vec<PathMtuConfig>> {
        std::mem::take(&mut self.changed).then(|| self.configs.values().cloned().collect())
    }
}

/// Whether what was found on one holds for the other: only the bound may differ.
fn is_same(one: &PathMtuConfig, other: &PathMtuConfig) -> bool {
    one.local == other.local && one.remote == other.remote && one.device == other.device
}

fn seen(path: &PathMtuStatus, before: Option<u16>) -> PathMtu {
    PathMtu {
        phase: match path.phase {
            Phase::Silent => PathMtuPhase::Silent,
            Phase::Base | Phase::Search => PathMtuPhase::Searching,
            Phase::Complete => PathMtuPhase::Complete,
            Phase::Error => PathMtuPhase::Error,
        },
        mtu: path.mtu.or(before),
        far_mtu: path.far_mtu,
        breaks_at: path.breaks_at,
        black_holes: path.black_holes,
        since_s: path.since_ms / 1000,
    }
}

#[cfg(test)]
mod tests {
    use watari_planner::Identity;

    use super::*;

    fn status(max: u16, phase: Phase, mtu: Option<u16>) -> PathMtuStatus {
        PathMtuStatus {
            config: PathMtuConfig {
                name: "ab".to_owned(),
                local: "10.255.0.1".parse().unwrap(),
                remote: "10.255.0.2".parse().unwrap(),
                device: "wtwg0".to_owned(),
                max,
            },
            phase,
            mtu,
            far_mtu: None,
            breaks_at: None,
            since_ms: 0,
            changes: 0,
            black_holes: 0,
            sent: 0,
            answered: 0,
            error: None,
        }
    }

    fn told(paths: &mut PathMtus, statuses: &[PathMtuStatus]) -> Option<u16> {
        let key = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=".parse().unwrap();
        let mut observed = Observed::nothing(Identity { wireguard_key: key });
        paths.observe(statuses, &mut observed);
        observed.path_mtus.get(&"ab".parse().unwrap()).and_then(|path| path.mtu)
    }

    #[test]
    fn what_was_found_holds_until_something_else_is() {
        let mut paths = PathMtus::default();
        assert_eq!(told(&mut paths, &[status(1420, Phase::Complete, Some(1340))]), Some(1340));
        assert_eq!(told(&mut paths, &[status(1440, Phase::Silent, None)]), Some(1340), "restarted");
        assert_eq!(told(&mut paths, &[status(1440, Phase::Complete, Some(1400))]), Some(1400));
        let mut other = status(1440, Phase::Silent, None);
        other.config.device = "wtwg1".to_owned();
        assert_eq!(told(&mut paths, &[other]), None, "another path");
    }
}
