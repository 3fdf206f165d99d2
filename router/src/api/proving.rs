//! A change that must prove itself: what held before it holds after it, or it goes back.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use watari_config::Document;

use super::problem::{FieldError, Problem};
use crate::actor::Actor;
use crate::brain::{Applied, Asked, Brain, ChangeError, Head};
use crate::trial::probes;
use crate::trial::proof::Proof;

/// What a trial lasts longer than its proof: in it the verdict is written down.
const MARGIN: SignedDuration = SignedDuration::from_secs(15);
/// How long the former state may take to come back, before the refusal is answered.
const BACK_WAIT_MAX: Duration = Duration::from_secs(10);

/// How a change is to be proved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proving {
    /// How long it may take.
    pub(super) within: Duration,
    /// It stays on trial for so long all the same, until somebody confirms it.
    pub(super) confirm: Option<SignedDuration>,
}

/// Makes the change on trial, and keeps it only if it is proved. The verdict does not need the caller: who cuts the own
/// path to the gateway gets none of it, but what was proved stays.
pub(super) async fn prove<F>(
    brain: &Arc<Brain>,
    actor: Actor,
    asked: Asked,
    wanted: Proving,
    edit: F,
) -> Result<(Applied, Proof), Problem>
where
    F: FnOnce(&Head) -> Result<Document, ChangeError> + Send + 'static,
{
    let brain = brain.clone();
    let decided = tokio::spawn(async move { decide(&brain, actor, asked, wanted, edit).await });
    decided.await.unwrap_or_else(|error| Err(Problem::internal().with_detail(error.to_string())))
}

async fn decide<F>(
    brain: &Arc<Brain>,
    actor: Actor,
    asked: Asked,
    wanted: Proving,
    edit: F,
) -> Result<(Applied, Proof), Problem>
where
    F: FnOnce(&Head) -> Result<Document, ChangeError> + Send + 'static,
{
    let holds = probes::before(brain, &brain.desired()).await;
    let proof_takes = SignedDuration::try_from(wanted.within).unwrap_or(SignedDuration::MAX);
    let trial = wanted.confirm.unwrap_or_default().max(proof_takes.saturating_add(MARGIN));
    let mut made = brain.change(actor.clone(), Asked { trial: Some(trial), ..asked }, edit).await?;
    let Some(revision) = made.trial.as_ref().map(|trial| trial.revision) else {
        // Nothing has changed, or nothing but nodes while another change is on trial.
        return Ok((made, Proof::default()));
    };
    let proof = probes::after(brain, holds, made.generation, wanted.within).await;
    if proof.failed.is_empty() {
        if wanted.confirm.is_none() {
            brain.confirm(actor, Some(revision)).await?;
            made.trial = None;
        }
        return Ok((made, proof));
    }
    let broken: Vec<&str> = proof.failed.iter().map(|failed| failed.object.as_str()).collect();
    let why = format!("revision {revision} was not proved: {}", broken.join(", "));
    let back = brain.roll_back(actor, why.clone(), Some(revision)).await?;
    // Whether it came in time is in the status; the refusal is the same.
    let _ = brain.wait_applied(back.generation, BACK_WAIT_MAX).await;
    let detail = format!("{why}; the gateway went back, as revision {}", back.revision);
    let errors = proof.failed.into_iter().map(|failed| {
        let probe = failed.probe.strip_prefix(&format!("{}: ", failed.object)).unwrap_or(&failed.probe);
        let message = format!("{probe}: {}", failed.reason);
        FieldError::new(failed.object, message)
    });
    let problem = Problem { errors: errors.collect(), ..Problem::not_proved().with_detail(detail) };
    Err(problem.without_pointers())
}
