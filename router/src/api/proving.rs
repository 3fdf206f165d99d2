//! A change that must prove itself: what held before it holds after it, or it goes back.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use watari_config::Document;

use super::problem::{FieldError, Problem};
use crate::access::scope::Scope;
use crate::actor::Actor;
use crate::brain::{Applied, Asked, Brain, ChangeError, Head};
use crate::store::tree;
use crate::trial::probes;
use crate::trial::proof::{Failed, Proof};

/// What a trial lasts longer than its proof: in it the last probes end, and the verdict is written down.
const MARGIN: SignedDuration = SignedDuration::from_secs(30);
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
    let _alone = brain.prove_alone()?;
    let before = brain.desired();
    let holds = probes::before(brain, &before).await;
    let proof_takes = SignedDuration::try_from(wanted.within).unwrap_or(SignedDuration::MAX);
    let trial = wanted.confirm.unwrap_or_default().max(proof_takes.saturating_add(MARGIN));
    let made =
        brain.change(actor.clone(), Asked { trial: Some(trial), proving: true, ..asked }, edit).await?;
    let Some(revision) = made.trial.as_ref().map(|trial| trial.revision) else {
        // Nothing has changed, or nothing but nodes while another change is on trial.
        return Ok((made, Proof::default()));
    };
    let verdict = probes::after(brain, holds, made.generation, wanted.within).await;
    let trees = [tree(before.document()), tree(brain.desired().document())];
    let scope = actor.scope.clone();
    let proof = verdict.told(|object| {
        let named = object.split_once('.');
        scope.is_all()
            || named.is_some_and(|(kind, name)| trees.iter().any(|tree| scope.sees(tree, kind, name)))
    });
    if verdict.failed.is_empty() {
        let decided = brain.proved(actor, revision, wanted.confirm.is_some()).await;
        decided.map_err(|error| overtaken(error, revision))?;
        let trial = brain.head().trial.as_deref().filter(|trial| trial.revision == revision).cloned();
        return Ok((Applied { trial, ..made }, proof));
    }
    let broken: Vec<&str> = verdict.failed.iter().map(|(probe, _)| probe.object()).collect();
    let why = format!("revision {revision} was not proved: {}", broken.join(", "));
    // The gateway goes back, whoever asked for the change: not all that one may change may be changed back by oneself.
    let gateway = Actor { scope: Scope::All, ..actor };
    let back = brain.roll_back(gateway, why, Some(revision)).await;
    let back = back.map_err(|error| Problem { errors: wrong(&proof), ..overtaken(error, revision) })?;
    // Whether it came in time is in the status; the refusal is the same.
    let _ = brain.wait_applied(back.generation, BACK_WAIT_MAX).await;
    Err(refusal(&proof, revision, back.revision))
}

/// The trial had ended before the verdict was there.
fn overtaken(error: ChangeError, revision: u64) -> Problem {
    match error {
        ChangeError::NoTrial(_) => {
            let detail = format!(
                "the trial of revision {revision} ended before its proof: `watari revisions` has how"
            );
            Problem::not_proved().with_detail(detail)
        }
        other => other.into(),
    }
}

fn wrong(proof: &Proof) -> Vec<FieldError> {
    let one = |failed: &Failed| {
        let probe = failed.probe.strip_prefix(&format!("{}: ", failed.object)).unwrap_or(&failed.probe);
        let error = FieldError::new(failed.object.clone(), format!("{probe}: {}", failed.reason));
        FieldError { pointer: None, ..error }
    };
    proof.failed.iter().map(one).collect()
}

fn refusal(proof: &Proof, revision: u64, back: u64) -> Problem {
    let hidden = if proof.failed.is_empty() { "; what does not hold is not the caller's to see" } else { "" };
    let detail =
        format!("revision {revision} was not proved; the gateway went back, as revision {back}{hidden}");
    Problem { errors: wrong(proof), ..Problem::not_proved().with_detail(detail) }
}
