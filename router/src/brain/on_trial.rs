//! How a trial ends: it is confirmed, or its change goes back.

use std::sync::{Arc, PoisonError};

use watari_config::Document;

use super::{Applied, Asked, Brain, ChangeError, Head, blocking, permitted};
use crate::actor::Actor;
use crate::events::now;
use crate::store::{Note, StoreError, TrialStep};
use crate::trial::{Trial, way_back};

impl Brain {
    /// Keeps what is on trial. `wanted` is its revision, where whoever asks means a certain one.
    ///
    /// # Errors
    /// When nothing is on trial or something else, it is not the actor's to keep, or the store fails.
    pub async fn confirm(self: &Arc<Self>, actor: Actor, wanted: Option<u64>) -> Result<Trial, ChangeError> {
        let brain = self.clone();
        blocking(move || {
            let _alone = brain.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let head = brain.head();
            let (trial, earlier) = brain.on_trial(&head, wanted)?;
            permitted(&actor, &way_back(head.desired.document(), &earlier), head.desired.document())?;
            let summary = format!("revision {} is kept", trial.revision);
            brain.store.end_trial(&Note::done(&actor, "confirm", &summary, now()))?;
            brain.head.send_replace(Arc::new(Head { trial: None, ..Head::clone(&head) }));
            brain.events.emit("confirmed", "", format!("{summary}, by {actor}"));
            Ok(Trial::clone(&trial))
        })
        .await
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
            let (trial, earlier) = brain.on_trial(&head, wanted)?;
            let back = way_back(head.desired.document(), &earlier);
            let changes = permitted(&actor, head.desired.document(), &back)?;
            let action = format!("go back to {}", trial.back_to);
            let asked = Asked { action, reason: Some(why.clone()), trial: None };
            let made = brain.commit(&head, &actor, &asked, back, changes, TrialStep::End)?;
            let message = format!("back to revision {} as {}: {why}", trial.back_to, made.revision);
            brain.events.emit("rolled-back", "", message);
            Ok(made)
        })
        .await
    }

    /// What is on trial, with the document before it.
    fn on_trial(&self, head: &Head, wanted: Option<u64>) -> Result<(Arc<Trial>, Document), ChangeError> {
        let trial =
            head.trial.clone().ok_or_else(|| ChangeError::NoTrial("nothing is on trial".to_owned()))?;
        if wanted.is_some_and(|wanted| wanted != trial.revision) {
            let message =
                format!("revision {} is on trial, not {}", trial.revision, wanted.unwrap_or_default());
            return Err(ChangeError::NoTrial(message));
        }
        let earlier = match trial.back_to {
            0 => Document::default(),
            number => self.store.revision(number)?.map(|stored| stored.document).ok_or_else(|| {
                let (what, why) = (format!("revision {number}"), "it is not kept any more".to_owned());
                StoreError::Unreadable { what, why }
            })?,
        };
        Ok((trial, earlier))
    }
}
