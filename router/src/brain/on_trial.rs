//! How a trial ends: it is confirmed, or its change goes back.

use std::sync::{Arc, PoisonError};

use watari_config::Document;

use super::{Applied, Asked, Brain, ChangeError, Head, blocking, permitted};
use crate::actor::{Actor, Forbidden};
use crate::events::now;
use crate::store::{Note, StoreError, TrialStep, diff};
use crate::trial::{Trial, way_back};

impl Brain {
    /// Keeps what is on trial. `wanted` is its revision, where whoever asks means a certain one.
    ///
    /// # Errors
    /// When nothing is on trial or something else, it is still being proved, it is not the actor's to keep, or the store fails.
    pub async fn confirm(self: &Arc<Self>, actor: Actor, wanted: Option<u64>) -> Result<Trial, ChangeError> {
        let brain = self.clone();
        blocking(move || {
            let _alone = brain.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let head = brain.head();
            let trial = on_trial(&head, wanted)?;
            if trial.proving {
                return Err(ChangeError::Conflict(format!(
                    "revision {} is still being proved",
                    trial.revision
                )));
            }
            brain.check_decider(&actor, &head, &trial)?;
            brain.keep(&actor, &head, &trial, "confirm")?;
            Ok(Trial::clone(&trial))
        })
        .await
    }

    /// What is on trial was proved: it is kept, or, `still_on_trial`, may be confirmed from now on.
    ///
    /// # Errors
    /// When `revision` is not on trial any more, or the store fails.
    pub async fn proved(
        self: &Arc<Self>,
        actor: Actor,
        revision: u64,
        still_on_trial: bool,
    ) -> Result<(), ChangeError> {
        let brain = self.clone();
        blocking(move || {
            let _alone = brain.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let head = brain.head();
            let trial = on_trial(&head, Some(revision))?;
            if !still_on_trial {
                return brain.keep(&actor, &head, &trial, "prove");
            }
            let waiting = Trial { proving: false, ..Trial::clone(&trial) };
            let note = Note::done(&actor, "prove", format!("revision {revision} may be confirmed"), now());
            brain.store.decide_trial(&TrialStep::Begin(waiting.clone()), &note)?;
            brain.head.send_replace(Arc::new(Head { trial: Some(Arc::new(waiting)), ..Head::clone(&head) }));
            Ok(())
        })
        .await
    }

    fn keep(&self, actor: &Actor, head: &Head, trial: &Trial, action: &str) -> Result<(), ChangeError> {
        let summary = format!("revision {} is kept", trial.revision);
        self.store.decide_trial(&TrialStep::End, &Note::done(actor, action, &summary, now()))?;
        self.head.send_replace(Arc::new(Head { trial: None, ..head.clone() }));
        self.events.emit("confirmed", "", format!("{summary}, by {actor}"));
        Ok(())
    }

    /// Goes back to before what is on trial, as a new revision; `why` stands in it. `wanted` is the revision on trial,
    /// where whoever asks means a certain one.
    ///
    /// # Errors
    /// When nothing is on trial or something else, it is not the actor's to undo, or the store fails.
    pub async fn roll_back(
        self: &Arc<Self>,
        actor: Actor,
        why: String,
        wanted: Option<u64>,
    ) -> Result<Applied, ChangeError> {
        let brain = self.clone();
        blocking(move || {
            let _alone = brain.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let head = brain.head();
            let trial = on_trial(&head, wanted)?;
            brain.check_decider(&actor, &head, &trial)?;
            let now = head.desired.document();
            let back = way_back(now, &brain.before(&trial)?);
            let changes = diff(now, &back);
            let action = format!("go back to {}", trial.back_to);
            let asked = Asked { reason: Some(why.clone()), ..Asked::from(action) };
            let made = brain.commit(&head, &actor, &asked, back, changes, TrialStep::End)?;
            let message = format!("back to revision {} as {}: {why}", trial.back_to, made.revision);
            brain.events.emit("rolled-back", "", message);
            Ok(made)
        })
        .await
    }

    /// Who could have made a change may decide about it; the refusal does not say what is in it.
    fn check_decider(&self, actor: &Actor, head: &Head, trial: &Trial) -> Result<(), ChangeError> {
        // What cannot be read must not keep an administrator from deciding.
        if actor.scope.is_all() {
            return Ok(());
        }
        let now = head.desired.document();
        let refused = || ChangeError::Forbidden(Forbidden::Tenants { actor: Box::new(actor.clone()) });
        permitted(actor, &way_back(now, &self.before(trial)?), now).map(|_| ()).map_err(|_| refused())
    }

    /// The document before the trial.
    fn before(&self, trial: &Trial) -> Result<Document, ChangeError> {
        if trial.back_to == 0 {
            return Ok(Document::default());
        }
        let kept = self.store.revision(trial.back_to)?.map(|stored| stored.document);
        let (what, why) = (format!("revision {}", trial.back_to), "it is not kept any more".to_owned());
        kept.ok_or(ChangeError::Store(StoreError::Unreadable { what, why }))
    }
}

/// What is on trial.
fn on_trial(head: &Head, wanted: Option<u64>) -> Result<Arc<Trial>, ChangeError> {
    let trial = head.trial.clone().ok_or_else(|| ChangeError::NoTrial("nothing is on trial".to_owned()))?;
    match wanted {
        Some(wanted) if wanted != trial.revision => {
            let message = format!("revision {} is on trial, not {wanted}", trial.revision);
            Err(ChangeError::NoTrial(message))
        }
        _ => Ok(trial),
    }
}
