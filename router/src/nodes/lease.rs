//! Leases: a node whose time is over is detached by itself.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use watari_config::{Desired, Document, Name};

use crate::actor::Actor;
use crate::brain::Brain;
use crate::events::now;
use crate::run::stopped;

/// The longest time between two looks: the clock may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// The pause after a change that failed.
const RETRY: Duration = Duration::from_secs(2);

/// Ends leases until `stop`.
pub async fn run(brain: Arc<Brain>, mut stop: watch::Receiver<bool>) {
    let mut head = brain.watch_desired();
    loop {
        let desired = head.borrow_and_update().desired.clone();
        let mut wait = until_next(&desired, now());
        if wait.is_zero() && !end(&brain).await {
            wait = RETRY;
        }
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(wait) => {}
            changed = head.changed() => if changed.is_err() { return },
        }
    }
}

/// The time until the next lease of this gateway ends, or until the next look.
fn until_next(desired: &Desired, now: Timestamp) -> Duration {
    let next = desired.nodes().map(|(_, node)| node.expires).min();
    let left = next.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO));
    left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY))
}

/// Detaches every node whose lease has ended; false when that failed.
async fn end(brain: &Arc<Brain>) -> bool {
    // Who has left is said by the change itself: between two looks another lease may end, or be renewed.
    let left = Arc::new(OnceLock::new());
    let left_there = left.clone();
    let change = brain.change(Actor::own("lease"), "lease ended", move |head| {
        let at = now();
        let _ = left_there.set(expired(&head.desired, at));
        Ok(without_expired(&head.desired, at))
    });
    match change.await {
        Ok(_) => {
            for name in left.get().into_iter().flatten() {
                brain.events().emit("lease-ended", format!("nodes.{name}"), "detached: its lease has ended");
            }
            true
        }
        Err(error) => {
            tracing::error!(%error, "a lease could not be ended");
            false
        }
    }
}

fn expired(desired: &Desired, now: Timestamp) -> Vec<Name> {
    desired.nodes().filter(|(_, node)| node.expires <= now).map(|(name, _)| name.clone()).collect()
}

fn without_expired(desired: &Desired, now: Timestamp) -> Document {
    let mut document = desired.document().clone();
    for name in expired(desired, now) {
        document.nodes.remove(&name);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::samples;

    #[test]
    fn a_node_leaves_at_the_end_of_its_lease_and_not_before() {
        let desired = samples::with_node(None, Some(samples::KEY));
        let end: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let before: Timestamp = "2026-01-01T23:59:59Z".parse().unwrap();
        assert_eq!(until_next(&desired, before), Duration::from_secs(1));
        assert_eq!(without_expired(&desired, before).nodes.len(), 1);
        assert_eq!(until_next(&desired, end), Duration::ZERO);
        assert_eq!(without_expired(&desired, end).nodes.len(), 0);
        assert_eq!(until_next(&samples::head().desired, end), LOOK_EVERY);
    }
}
