//! Changes that come back by themselves: a change *on trial* holds until its end, and is kept only if somebody confirms it,
//! or probes prove it, before that. It is what saves an operator who has cut the own path to the gateway.
//!
//! ```text
//!  apply --confirm 60s ─▶ revision 8 on trial ─┬─ confirm ──▶ it is kept
//!                         (in the store, with  ├─ rollback ─▶ revision 9 = 7
//!                          where it goes back) └─ 60 s over, the daemon killed or not ─▶ revision 9 = 7
//!  apply --prove 20s ───▶ what held before? ─▶ on trial ─▶ does it hold? ── yes ─▶ kept
//!                                                                        └─ no ──▶ revision 9 = 7, the answer names what
//! ```
//! * [`Trial`], [`way_back`]: pure. [`proof`]: what is probed, and what came of it; pure.
//! * [`probes`]: sends them. [`watch`]: ends a trial whose time is over.
//!
//! While a change is on trial no other is made, but for nodes, which come and go: what goes back is the document before
//! the trial with the nodes of that moment.

pub mod probes;
pub mod proof;
pub mod watch;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use watari_config::{Document, Name, validate};

/// The shortest trial, seconds.
pub const TRIAL_S_MIN: u32 = 5;
/// The longest trial, seconds.
pub const TRIAL_S_MAX: u32 = 3600;

/// A change that holds until its end, and is kept only if it is confirmed before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Trial {
    /// The revision that is on trial.
    pub revision: u64,
    /// The revision whose document comes back; 0 for the empty one that a gateway begins with.
    pub back_to: u64,
    /// Who made the change.
    pub who: String,
    /// When it was made, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// When it goes back, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
    /// It is being proved: until the verdict is there, nobody can confirm it.
    #[serde(default)]
    pub proving: bool,
}

impl Trial {
    /// What is left of it at `now`; never more than its whole length, whatever was done to the clock meanwhile.
    pub fn left(&self, now: Timestamp) -> Duration {
        let whole = self.until.duration_since(self.since).max(SignedDuration::ZERO);
        let left = self.until.duration_since(now).clamp(SignedDuration::ZERO, whole);
        left.unsigned_abs()
    }
}

/// The document `earlier` with the nodes of `now`: machines came and went while the change was on trial. Those for which
/// there is no place in it are left out.
pub fn way_back(now: &Document, earlier: &Document) -> Document {
    let with = |keep: &dyn Fn(&Name) -> bool| {
        let nodes =
            now.nodes.iter().filter(|(name, _)| keep(name)).map(|(n, node)| (n.clone(), node.clone()));
        Document { nodes: nodes.collect(), ..earlier.clone() }
    };
    let all = with(&|_| true);
    if validate(&all).is_ok() {
        return all;
    }
    let fitting: Vec<&Name> =
        now.nodes.keys().filter(|one| validate(&with(&|name| name == *one)).is_ok()).collect();
    let fitting = with(&|name| fitting.contains(&name));
    if validate(&fitting).is_ok() {
        return fitting;
    }
    // Two of them want the same: those that were there before the trial stay, as they were.
    let mut as_before = earlier.clone();
    as_before.nodes.retain(|name, _| now.nodes.contains_key(name));
    as_before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::samples;

    fn trial(since: i64, until: i64) -> Trial {
        let at = |second| Timestamp::from_second(second).unwrap();
        Trial {
            revision: 8,
            back_to: 7,
            who: "alice".to_owned(),
            since: at(since),
            until: at(until),
            proving: false,
        }
    }

    #[test]
    fn a_trial_never_lasts_longer_than_it_was_meant_to() {
        let left = |now| trial(1000, 1060).left(Timestamp::from_second(now).unwrap()).as_secs();
        assert_eq!((left(1000), left(1059), left(1060), left(5000)), (60, 1, 0, 0));
        assert_eq!(left(10), 60, "the clock was set back");
    }

    #[test]
    fn the_nodes_of_now_go_back_where_there_is_a_place_for_them() {
        let now = samples::with_node(None, Some(samples::KEY)).document().clone();
        let mut earlier = now.clone();
        earlier.nodes.clear();
        assert_eq!(way_back(&now, &earlier).nodes.len(), 1, "it was attached meanwhile");
        let segment = now.nodes.values().next().unwrap().segment.clone();
        earlier.segments.remove(&segment);
        earlier.attachments.retain(|_, a| a.segment != segment);
        earlier.pools.retain(|_, p| p.segment != segment);
        let back = way_back(&now, &earlier);
        assert!(back.nodes.is_empty(), "its segment is no more");
        assert_eq!(back.segments, earlier.segments);
    }

    #[test]
    fn a_node_that_left_meanwhile_does_not_come_back() {
        let earlier = samples::with_node(None, Some(samples::KEY)).document().clone();
        let mut now = earlier.clone();
        now.nodes.clear();
        assert!(way_back(&now, &earlier).nodes.is_empty());
    }
}
