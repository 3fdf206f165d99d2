//! Sends the probes of [`super::proof`]: before a change, to see what holds, and after it, until all of that holds again or
//! the time is over.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use serde_json::Value;
use tokio::time::Instant;
use watari_config::Desired;
use watari_planner::item::Ns;

use super::proof::{self, Echo, Probe, Verdict};
use crate::brain::Brain;
use crate::drivers::namespace;
use crate::nodes::echo;

/// Echo requests that are under way at a time.
const AT_A_TIME: usize = 64;
/// Health is known anew within a second of a change that cuts a path: what is seen before that is from before.
const SETTLE: Duration = Duration::from_millis(1500);
/// The pause before what failed is probed again.
const PAUSE: Duration = Duration::from_millis(300);

/// What holds before a change, for the objects of `desired`.
pub async fn before(brain: &Arc<Brain>, desired: &Desired) -> Vec<Probe> {
    let learnt = brain.learnt().await.unwrap_or(Value::Null);
    let up = proof::up(&brain.view().borrow());
    let echoes = proof::echoes(desired, &learnt).into_iter().map(Probe::Echo);
    let asked: Vec<Probe> = up.into_iter().chain(echoes).collect();
    all(brain, desired, 0, asked)
        .await
        .into_iter()
        .filter(|(_, result)| result.is_ok())
        .map(|(p, _)| p)
        .collect()
}

/// Whether `probes` hold at `generation`, within `limit` or, where many do not, a few seconds more.
pub async fn after(brain: &Arc<Brain>, probes: Vec<Probe>, generation: u64, limit: Duration) -> Verdict {
    let began = Instant::now();
    let deadline = began + limit;
    let (mut asked, mut verdict) = (probes, Verdict::default());
    let mut view = brain.view();
    // In vain, the states say which object is why.
    let _ = tokio::time::timeout_at(deadline, view.wait_for(|view| view.generation >= generation)).await;
    tokio::time::sleep(SETTLE).await;
    loop {
        // Nodes come and go meanwhile.
        let (desired, mut failed) = (brain.desired(), Vec::new());
        let mut now = Vec::with_capacity(asked.len());
        for probe in asked {
            match proof::renewed(&desired, &probe) {
                Some(probe) => now.push(probe),
                None => verdict.gone.push(probe),
            }
        }
        for (probe, result) in all(brain, &desired, generation, now).await {
            match result {
                Ok(()) => verdict.held.push(probe),
                Err(reason) => failed.push((probe, reason)),
            }
        }
        if failed.is_empty() || Instant::now() >= deadline {
            verdict.failed = failed;
            break;
        }
        asked = failed.into_iter().map(|(probe, _)| probe).collect();
        tokio::time::sleep_until((Instant::now() + PAUSE).min(deadline)).await;
    }
    verdict.ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    verdict
}

/// Every probe with its result.
async fn all(
    brain: &Arc<Brain>,
    desired: &Desired,
    generation: u64,
    probes: Vec<Probe>,
) -> Vec<(Probe, Result<(), String>)> {
    let one = |probe: Probe| async move {
        let result = match &probe {
            Probe::Up { object } => proof::is_up(&brain.view().borrow(), generation, object),
            Probe::Echo(echo) => send(desired, echo.clone()).await,
        };
        (probe, result)
    };
    futures::stream::iter(probes).map(one).buffer_unordered(AT_A_TIME).collect().await
}

async fn send(desired: &Desired, asked: Echo) -> Result<(), String> {
    let ns = Ns::Tenant(proof::namespace(desired, &asked.tenant));
    let work = move || namespace::inside(&ns, move || echo::probe(asked.source, asked.target, asked.bytes));
    let done = tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?;
    let answered = done.map_err(|e| format!("cannot enter the tenant's namespace: {e}"))?;
    answered.map(|_| ()).map_err(|e| e.to_string())
}
