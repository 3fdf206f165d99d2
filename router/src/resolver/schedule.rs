//! When which DNS name is asked for, and what is known of it. Pure: time and chance are arguments.
//!
//! A name is asked for when it is first needed; again every [`REFRESH`], a fifth more or less so that many gateways do not
//! ask together; after [`RETRY`] doubled each time up to [`REFRESH`] when that failed; and every [`TROUBLE`] while no packet
//! crosses the tunnel that it leads to, because its far end may have moved. What was found once is kept until something else is
//! found: a resolver that is away moves nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use watari_planner::Resolution;

/// Between two resolutions that succeed.
const REFRESH: Duration = Duration::from_secs(60);
/// After the first one that failed.
const RETRY: Duration = Duration::from_secs(2);
/// While packets do not cross.
const TROUBLE: Duration = Duration::from_secs(5);
/// The most addresses that are kept of a name.
const ADDRESSES_MAX: usize = 16;

/// Time since the daemon began.
pub(super) type Moment = Duration;

#[derive(Debug, Default)]
struct Name {
    addresses: Vec<IpAddr>,
    found: Option<Moment>,
    error: Option<String>,
    failures: u32,
    /// When it was asked for last, and whether the answer is still to come.
    asked: Option<Moment>,
    is_asked: bool,
    next: Moment,
}

/// All names.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    names: BTreeMap<String, Name>,
}

impl Schedule {
    /// Takes the names that are needed, and those among them whose tunnels carry nothing; answers those to ask for now.
    pub(super) fn due(
        &mut self,
        needed: &BTreeSet<String>,
        in_trouble: &BTreeSet<String>,
        now: Moment,
    ) -> Vec<String> {
        self.names.retain(|name, _| needed.contains(name));
        let mut due = Vec::new();
        for host in needed {
            let name = self.names.entry(host.clone()).or_default();
            if name.is_asked {
                continue;
            }
            let soon = name.asked.map(|asked| asked + TROUBLE).filter(|_| in_trouble.contains(host));
            if now >= soon.map_or(name.next, |soon| soon.min(name.next)) {
                name.is_asked = true;
                name.asked = Some(now);
                due.push(host.clone());
            }
        }
        due
    }

    /// Takes what came of a question; `chance` is any number.
    pub(super) fn answered(
        &mut self,
        host: &str,
        answer: Result<Vec<IpAddr>, String>,
        now: Moment,
        chance: u64,
    ) {
        let Some(name) = self.names.get_mut(host) else { return };
        name.is_asked = false;
        match answer {
            Ok(mut addresses) if !addresses.is_empty() => {
                // Servers turn the order round from answer to answer: that is no change.
                addresses.sort_unstable();
                addresses.dedup();
                addresses.truncate(ADDRESSES_MAX);
                (name.addresses, name.found, name.error, name.failures) = (addresses, Some(now), None, 0);
                name.next = now + jittered(REFRESH, chance);
            }
            other => {
                name.error = Some(other.err().unwrap_or_else(|| "it has no address".to_owned()));
                let wait = RETRY.saturating_mul(1 << name.failures.min(16)).min(REFRESH);
                name.failures = name.failures.saturating_add(1);
                name.next = now + jittered(wait, chance);
            }
        }
    }

    /// What is known at this moment.
    pub(super) fn known(&self, now: Moment) -> BTreeMap<String, Resolution> {
        let resolution = |name: &Name| Resolution {
            addresses: name.addresses.clone(),
            age_s: name.found.map(|found| now.saturating_sub(found).as_secs()),
            error: name.error.clone(),
        };
        self.names.iter().map(|(host, name)| (host.clone(), resolution(name))).collect()
    }
}

/// Four to six fifths of it.
fn jittered(wait: Duration, chance: u64) -> Duration {
    let thousandths = u32::try_from(chance % 401).unwrap_or(200);
    wait * (800 + thousandths) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn found(addresses: &[&str]) -> Result<Vec<IpAddr>, String> {
        Ok(addresses.iter().map(|address| address.parse().expect("an address")).collect())
    }

    #[test]
    fn a_name_is_asked_for_once_and_again_after_a_minute_more_or_less() {
        let (mut schedule, needed, well) = (Schedule::default(), set(&["a.example"]), BTreeSet::new());
        assert_eq!(schedule.due(&needed, &well, s(0)), ["a.example"]);
        assert!(schedule.due(&needed, &well, s(100)).is_empty(), "the answer is still to come");
        for (chance, soonest) in [(0, 48), (200, 60), (400, 72)] {
            schedule.answered("a.example", found(&["192.0.2.7"]), s(100), chance);
            assert!(schedule.due(&needed, &well, s(100 + soonest - 1)).is_empty());
            assert_eq!(schedule.due(&needed, &well, s(100 + soonest)), ["a.example"]);
        }
    }

    #[test]
    fn a_failure_keeps_what_was_found_and_is_tried_again_later_and_later() {
        let (mut schedule, needed, well) = (Schedule::default(), set(&["a.example"]), BTreeSet::new());
        schedule.due(&needed, &well, s(0));
        schedule.answered("a.example", found(&["2001:db8::7", "192.0.2.7", "192.0.2.7"]), s(1), 200);
        let mut now = s(61);
        for wait in [2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(schedule.due(&needed, &well, now), ["a.example"]);
            schedule.answered("a.example", Err("no server".to_owned()), now, 200);
            assert!(schedule.due(&needed, &well, now + s(wait - 1)).is_empty(), "{wait}");
            now += s(wait);
        }
        let known = &schedule.known(s(1_001))["a.example"];
        assert_eq!(known.addresses.len(), 2);
        assert_eq!((known.age_s, known.error.as_deref()), (Some(1_000), Some("no server")));
    }

    #[test]
    fn a_name_whose_tunnel_carries_nothing_is_asked_for_more_often() {
        let (mut schedule, needed) = (Schedule::default(), set(&["a.example", "b.example"]));
        schedule.due(&needed, &BTreeSet::new(), s(0));
        for host in ["a.example", "b.example"] {
            schedule.answered(host, found(&["192.0.2.7"]), s(0), 200);
        }
        let trouble = set(&["b.example"]);
        assert!(schedule.due(&needed, &trouble, s(4)).is_empty());
        assert_eq!(schedule.due(&needed, &trouble, s(5)), ["b.example"]);
    }

    #[test]
    fn the_order_of_an_answer_is_no_change_and_a_name_that_nobody_needs_is_forgotten() {
        let (mut schedule, needed) = (Schedule::default(), set(&["a.example"]));
        schedule.due(&needed, &BTreeSet::new(), s(0));
        schedule.answered("a.example", found(&["192.0.2.8", "192.0.2.7"]), s(0), 0);
        let first = schedule.known(s(0));
        schedule.answered("a.example", found(&["192.0.2.7", "192.0.2.8"]), s(0), 0);
        assert_eq!(schedule.known(s(0)), first);
        schedule.due(&BTreeSet::new(), &BTreeSet::new(), s(1));
        assert!(schedule.known(s(1)).is_empty());
    }
}
