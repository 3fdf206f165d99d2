//! Ends a trial whose time is over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Trial;
use crate::actor::Actor;
use crate::brain::{Brain, ChangeError};
use crate::events::now;
use crate::run::stopped;

/// The pause before a way back that failed is tried again, at first and at last.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Who goes back when nobody has confirmed.
fn nobody() -> Actor {
    Actor::own("trial")
}

fn why(trial: &Trial) -> String {
    format!("revision {} of {} was not confirmed", trial.revision, trial.who)
}

/// Goes back before anything is done for the desired state, where the daemon did not run when a trial ended. Where that
/// fails the daemon starts all the same, so that somebody can decide; [`run`] tries again.
pub async fn settle(brain: &Arc<Brain>) {
    let Some(trial) = brain.head().trial.clone().filter(|trial| trial.left(now()).is_zero()) else { return };
    if let Err(error) = brain.roll_back(nobody(), why(&trial), Some(trial.revision)).await {
        failed(brain, &trial, &error);
    }
}

fn failed(brain: &Brain, trial: &Trial, error: &ChangeError) {
    tracing::error!(%error, revision = trial.revision, "cannot go back from a trial");
    let message = format!("cannot go back from revision {}: {error}", trial.revision);
    brain.events().emit("error", format!("gateways.{}", brain.gateway()), message);
}

/// Watches until `stop`.
pub async fn run(brain: Arc<Brain>, mut stop: watch::Receiver<bool>) {
    let mut head = brain.watch_desired();
    // By the monotonic clock from when it is first seen: setting the wall clock neither shortens nor prolongs it.
    let mut end: Option<(u64, Instant)> = None;
    let mut pause = PAUSE;
    loop {
        let trial = head.borrow_and_update().trial.clone();
        end = match (&trial, end) {
            (None, _) => None,
            (Some(trial), Some((revision, end))) if revision == trial.revision => Some((revision, end)),
            (Some(trial), _) => Some((trial.revision, Instant::now() + trial.left(now()))),
        };
        let over = async {
            match end {
                Some((_, end)) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stopped(&mut stop) => return,
            changed = head.changed() => {
                if changed.is_err() {
                    return;
                }
                pause = PAUSE;
            }
            () = over => {
                let Some(trial) = trial else { continue };
                if let Err(error) = brain.roll_back(nobody(), why(&trial), Some(trial.revision)).await {
                    failed(&brain, &trial, &error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}
