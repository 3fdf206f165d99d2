//! The one place through which the desired state changes and is known.
//!
//! ```text
//!  change(actor, asked, f)  ─ f(document) ─ validate ─ commit ─▶ Head{revision, Desired} ─▶ reconcile loop
//!  preview(f)               ─ f(document) ─ validate ─ DryRun ─▶ reconcile loop ─▶ plan, nothing kept
//!  view() ◀── publish(View) ◀────────────────────────────────── reconcile loop
//! ```
//! Changes happen one after the other. A change is answered once it is on disk, and seen by nobody
//! before; a caller that goes away meanwhile changes nothing about that.

mod on_trial;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};
use utoipa::ToSchema;
use watari_bgp::Reset;
use watari_config::{Desired, Document, Name, Problem};

use crate::actor::{Actor, Forbidden};
use crate::events::{Events, now};
use crate::facts::ask_bgp::Question;
use crate::facts::hosts::Subject;
use crate::store::{Change, ObjectChange, Secrets, Store, StoreError, TrialStep, diff_trees, summary, tree};
use crate::trial::Trial;
use crate::view::View;

/// The most dry runs that wait for the reconcile loop.
const DRY_RUNS_MAX: usize = 8;
/// The most requests for what was learnt that wait for the task of the facts.
const ASKS_MAX: usize = 64;
/// How long the facts may take to say what was learnt.
const ASK_WAIT_MAX: Duration = Duration::from_secs(5);
/// The most orders that wait for the task of the facts.
const ORDERS_MAX: usize = 8;
/// How long an order waits for its answer.
const ORDER_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a dry run waits for its plan.
const DRY_RUN_WAIT_MAX: Duration = Duration::from_secs(20);

/// The desired state and the revision that made it.
#[derive(Clone, Debug)]
pub struct Head {
    /// The newest revision; 0 while nothing was ever stored.
    pub revision: u64,
    /// The desired state, validated, as seen from this gateway.
    pub desired: Arc<Desired>,
    /// What of it is on trial.
    pub trial: Option<Arc<Trial>>,
}

/// What is asked for with a change, beside the change itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What, in a few words: `apply`, `put segments.lab` …
    pub action: String,
    /// Why, in the words of whoever asks.
    pub reason: Option<String>,
    /// How long it is on trial; kept at once without it.
    pub trial: Option<SignedDuration>,
    /// It is to be proved before it can be confirmed.
    pub proving: bool,
}

impl<T: Into<String>> From<T> for Asked {
    fn from(action: T) -> Self {
        Self { action: action.into(), reason: None, trial: None, proving: false }
    }
}

/// What a change made.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Applied {
    /// The newest revision after it.
    pub revision: u64,
    /// The generation of the desired state after it.
    pub generation: u64,
    /// False when the document was already so; no revision was made then.
    pub changed: bool,
    /// The objects it changed.
    pub changes: Vec<ObjectChange>,
    /// Until when it has to be confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
}

/// What a change would make.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Preview {
    /// The revision it would start from.
    pub revision: u64,
    /// The objects it would change.
    pub changes: Vec<ObjectChange>,
    /// What this gateway would do for it.
    pub plan: Value,
}

/// Why a change was refused. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The document after it would not hold together.
    #[error("the document is not valid: {} problems", .0.len())]
    Invalid(Vec<Problem>),
    /// The object it is about does not exist.
    #[error("there is no {object}")]
    NotFound {
        /// The object, e.g. `segments.lab`.
        object: String,
    },
    /// It was made for another revision.
    #[error("the document is at revision {found}, not at {wanted}")]
    OtherRevision {
        /// The revision it was made for.
        wanted: u64,
        /// The newest one.
        found: u64,
    },
    /// It cannot be done now, for a reason that is not in the document.
    #[error("{0}")]
    Conflict(String),
    /// Another change is on trial.
    #[error("revision {} is on trial until {}: confirm it or go back first", .0.revision, .0.until)]
    OnTrial(Arc<Trial>),
    /// Nothing is on trial, or something else.
    #[error("{0}")]
    NoTrial(String),
    /// It concerns objects that are not the caller's.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No plan came from the reconcile loop.
    #[error("the reconcile loop gave no plan in time")]
    NoPlan,
}

/// A request for the plan of a document that is not stored.
#[derive(Debug)]
pub struct DryRun {
    /// The desired state to plan for.
    pub desired: Arc<Desired>,
    /// Where the plan goes.
    pub reply: oneshot::Sender<Value>,
}

/// Something to be done with what was learnt.
#[derive(Debug)]
pub enum Order {
    /// The freeze of a duplicate ends.
    Clear {
        /// What is frozen.
        subject: Subject,
        /// Where the answer goes: whether it was frozen.
        reply: oneshot::Sender<bool>,
    },
    /// A BGP neighbour begins anew.
    Reset {
        /// Its name.
        neighbour: String,
        /// How much of it.
        reset: Reset,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), NotReset>>,
    },
}

/// Why a BGP neighbour does not begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReset {
    /// There is none of that name.
    #[error("there is no such neighbour")]
    Unknown,
    /// There is nothing to tell or to ask.
    #[error("the session is not established")]
    NotEstablished,
    /// RFC 2918 is not for it.
    #[error("the neighbour cannot be asked for its routes again (RFC 2918)")]
    NoRefresh,
    /// The document keeps it down.
    #[error("the neighbour is disabled")]
    Disabled,
}

/// A request for what was learnt.
#[derive(Debug)]
pub struct Ask {
    /// Of BGP; everything without one.
    pub question: Option<Question>,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Value>,
}

/// The desired state, the view, the events and the secrets of this gateway.
pub struct Brain {
    gateway: Name,
    store: Arc<dyn Store>,
    secrets: Secrets,
    events: Events,
    /// Held while a change is made: from reading the head to publishing the new one.
    changing: Mutex<()>,
    /// Held while a change is proved: two would take each other for their cause.
    proving: Semaphore,
    head: watch::Sender<Arc<Head>>,
    view: watch::Sender<Arc<View>>,
    dry_runs: mpsc::Sender<DryRun>,
    dry_runs_out: Mutex<Option<mpsc::Receiver<DryRun>>>,
    orders: mpsc::Sender<Order>,
    orders_out: Mutex<Option<mpsc::Receiver<Order>>>,
    asks: mpsc::Sender<Ask>,
    asks_out: Mutex<Option<mpsc::Receiver<Ask>>>,
}

impl Brain {
    /// A brain for `gateway` that starts from the newest revision in `store`.
    ///
    /// # Errors
    /// When the store fails, or keeps a document that this version finds invalid.
    pub fn new(gateway: Name, store: Arc<dyn Store>, secrets: Secrets) -> Result<Arc<Self>, ChangeError> {
        let (revision, generation, document) = match store.head()? {
            Some(s) => (s.revision.revision, s.revision.generation, s.document),
            None => (0, 0, Document::default()),
        };
        let desired = Desired::new(document, gateway.clone(), generation).map_err(ChangeError::Invalid)?;
        let trial = store.trial()?.map(Arc::new);
        let (dry_runs, out) = mpsc::channel(DRY_RUNS_MAX);
        let (orders, orders_out) = mpsc::channel(ORDERS_MAX);
        let (asks, asks_out) = mpsc::channel(ASKS_MAX);
        Ok(Arc::new(Self {
            gateway,
            store,
            secrets,
            events: Events::default(),
            changing: Mutex::new(()),
            proving: Semaphore::new(1),
            head: watch::Sender::new(Arc::new(Head { revision, desired: Arc::new(desired), trial })),
            view: watch::Sender::new(Arc::new(View::unseen())),
            dry_runs,
            dry_runs_out: Mutex::new(Some(out)),
            orders,
            orders_out: Mutex::new(Some(orders_out)),
            asks,
            asks_out: Mutex::new(Some(asks_out)),
        }))
    }

    /// The name of this gateway.
    pub fn gateway(&self) -> &Name {
        &self.gateway
    }

    /// The desired state now.
    pub fn desired(&self) -> Arc<Desired> {
        self.head.borrow().desired.clone()
    }

    /// The desired state now, with its revision.
    pub fn head(&self) -> Arc<Head> {
        self.head.borrow().clone()
    }

    /// The desired state now and whenever it changes.
    pub fn watch_desired(&self) -> watch::Receiver<Arc<Head>> {
        self.head.subscribe()
    }

    /// What the reconcile loop last published, now and whenever it changes.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Publishes what the reconcile loop saw.
    pub fn publish(&self, view: View) {
        self.view.send_replace(Arc::new(view));
    }

    /// What happened.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The gateway's keys.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// Revisions, journal and audit. Its calls block on the disk: use [`Brain::with_store`] from async code.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The requests for dry runs, for the reconcile loop; the second call answers `None`.
    pub fn take_dry_runs(&self) -> Option<mpsc::Receiver<DryRun>> {
        self.dry_runs_out.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The orders for the task of the facts; the second call answers `None`.
    pub fn take_orders(&self) -> Option<mpsc::Receiver<Order>> {
        self.orders_out.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The requests for what was learnt, for the task of the facts; the second call answers `None`.
    pub fn take_asks(&self) -> Option<mpsc::Receiver<Ask>> {
        self.asks_out.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What was learnt: stations, neighbours, routes, and the counters of the datapath. `None` if nothing is being
    /// learnt yet, or the facts do not answer in time.
    pub async fn learnt(&self) -> Option<Value> {
        self.ask(None).await
    }

    /// An answer of the BGP speaker, null where what was asked for does not exist. `None` if it does not run yet, or does
    /// not answer in time.
    pub async fn ask_bgp(&self, question: Question) -> Option<Value> {
        self.ask(Some(question)).await
    }

    async fn ask(&self, question: Option<Question>) -> Option<Value> {
        let is_taken = self.asks_out.lock().unwrap_or_else(PoisonError::into_inner).is_none();
        if !is_taken {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        self.asks.try_send(Ask { question, reply }).ok()?;
        tokio::time::timeout(ASK_WAIT_MAX, answer).await.ok()?.ok()
    }

    /// Ends the freeze of a duplicate. `Some(false)` if it is not frozen; `None` if the facts do not answer.
    pub async fn clear_duplicate(&self, actor: &Actor, subject: Subject) -> Option<bool> {
        let (reply, answer) = oneshot::channel();
        self.orders.try_send(Order::Clear { subject, reply }).ok()?;
        let was_frozen = tokio::time::timeout(ORDER_WAIT_MAX, answer).await.ok()?.ok()?;
        if was_frozen {
            let object = format!("duplicates.{}.{subject}", subject.vni());
            self.events.emit("duplicate", object, format!("cleared by {actor}"));
        }
        Some(was_frozen)
    }

    /// Lets a BGP neighbour begin anew, or says why not; `None` if the facts do not answer.
    pub async fn reset_neighbour(
        &self,
        actor: &Actor,
        neighbour: &str,
        reset: Reset,
    ) -> Option<Result<(), NotReset>> {
        let (reply, answer) = oneshot::channel();
        self.orders.try_send(Order::Reset { neighbour: neighbour.to_owned(), reset, reply }).ok()?;
        let done = tokio::time::timeout(ORDER_WAIT_MAX, answer).await.ok()?.ok()?;
        if done.is_ok() {
            self.events.emit("bgp", neighbour, format!("{} by {actor}", reset_name(reset)));
        }
        Some(done)
    }

    /// Changes the document: `f` makes the new one out of the newest. `f` runs on a thread that may block, with all other changes waiting.
    ///
    /// # Errors
    /// What `f` answers, every problem of the new document, or a failure of the store; nothing changed then.
    pub async fn change<F>(
        self: &Arc<Self>,
        actor: Actor,
        asked: impl Into<Asked>,
        f: F,
    ) -> Result<Applied, ChangeError>
    where
        F: FnOnce(&Head) -> Result<Document, ChangeError> + Send + 'static,
    {
        let (brain, asked) = (self.clone(), asked.into());
        blocking(move || brain.change_now(&actor, &asked, f)).await
    }

    fn change_now<F>(&self, actor: &Actor, asked: &Asked, f: F) -> Result<Applied, ChangeError>
    where
        F: FnOnce(&Head) -> Result<Document, ChangeError>,
    {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let head = self.head();
        let document = f(&head)?;
        let changes = permitted(actor, head.desired.document(), &document)?;
        let step = match (&head.trial, asked.trial) {
            (Some(trial), _) if !changes.iter().all(is_of_node) => {
                return Err(ChangeError::OnTrial(trial.clone()));
            }
            (None, Some(length)) => TrialStep::Begin(trial_of(&head, actor, asked.proving, length)),
            _ => TrialStep::Stay,
        };
        self.commit(&head, actor, asked, document, changes, step)
    }

    /// Validates, stores and publishes. Whoever calls holds `changing`.
    fn commit(
        &self,
        head: &Head,
        actor: &Actor,
        asked: &Asked,
        document: Document,
        changes: Vec<ObjectChange>,
        step: TrialStep,
    ) -> Result<Applied, ChangeError> {
        let generation = head.desired.generation() + 1;
        let desired =
            Desired::new(document, self.gateway.clone(), generation).map_err(ChangeError::Invalid)?;
        if changes.is_empty() && step != TrialStep::End {
            let generation = head.desired.generation();
            return Ok(Applied { revision: head.revision, generation, changed: false, changes, trial: None });
        }
        let stored = self.store.commit(&Change {
            base: head.revision,
            document: desired.document(),
            changes: changes.clone(),
            actor,
            action: &asked.action,
            reason: asked.reason.as_deref(),
            trial: step.clone(),
            at: now(),
        })?;
        debug_assert_eq!(stored.generation, generation, "one store, one writer");
        let revision = stored.revision;
        let trial = match &step {
            TrialStep::Stay => head.trial.clone(),
            TrialStep::Begin(trial) => Some(Arc::new(trial.clone())),
            TrialStep::End => None,
        };
        self.head.send_replace(Arc::new(Head { revision, desired: Arc::new(desired), trial }));
        let mut message = format!("revision {revision} by {actor}: {}", summary(&changes));
        let begun = match step {
            TrialStep::Begin(trial) => Some(trial),
            _ => None,
        };
        if let Some(trial) = &begun {
            message.push_str(&format!("; on trial until {}", trial.until));
        }
        self.events.emit("changed", "", message);
        Ok(Applied { revision, generation, changed: true, changes, trial: begun })
    }

    /// The right to prove a change, until it is dropped.
    ///
    /// # Errors
    /// When another change is on trial, or being proved.
    pub fn prove_alone(&self) -> Result<SemaphorePermit<'_>, ChangeError> {
        if let Some(trial) = &self.head().trial {
            return Err(ChangeError::OnTrial(trial.clone()));
        }
        self.proving
            .try_acquire()
            .map_err(|_| ChangeError::Conflict("another change is being proved".to_owned()))
    }

    /// What the same change by `actor` would do; nothing is kept.
    ///
    /// # Errors
    /// As [`Brain::change`], and [`ChangeError::NoPlan`] when the reconcile loop does not answer.
    pub async fn preview<F>(self: &Arc<Self>, actor: Actor, f: F) -> Result<Preview, ChangeError>
    where
        F: FnOnce(&Head) -> Result<Document, ChangeError> + Send + 'static,
    {
        let head = self.head();
        let (before, gateway) = (head.clone(), self.gateway.clone());
        let (changes, desired) = blocking(move || {
            let document = f(&before)?;
            let changes = permitted(&actor, before.desired.document(), &document)?;
            let generation = before.desired.generation() + u64::from(!changes.is_empty());
            let desired = Desired::new(document, gateway, generation).map_err(ChangeError::Invalid)?;
            Ok::<_, ChangeError>((changes, desired))
        })
        .await?;
        let plan = self.dry_run(desired).await?;
        Ok(Preview { revision: head.revision, changes, plan })
    }

    /// The plan for `desired`, from the reconcile loop.
    ///
    /// # Errors
    /// [`ChangeError::NoPlan`] when it does not answer in time.
    pub async fn dry_run(&self, desired: Desired) -> Result<Value, ChangeError> {
        let (reply, plan) = oneshot::channel();
        let request = DryRun { desired: Arc::new(desired), reply };
        self.dry_runs.try_send(request).map_err(|_| ChangeError::NoPlan)?;
        match tokio::time::timeout(DRY_RUN_WAIT_MAX, plan).await {
            Ok(Ok(plan)) => Ok(plan),
            _ => Err(ChangeError::NoPlan),
        }
    }

    /// Waits until the system is as desired at `generation` or a later one.
    ///
    /// # Errors
    /// The newest view, when that did not happen within `limit`.
    pub async fn wait_applied(&self, generation: u64, limit: Duration) -> Result<Arc<View>, Arc<View>> {
        let mut view = self.view();
        let reached = view.wait_for(|v| v.settled && v.generation >= generation);
        let reached = match tokio::time::timeout(limit, reached).await {
            Ok(Ok(view)) => Some(view.clone()),
            _ => None,
        };
        reached.ok_or_else(|| self.view.borrow().clone())
    }

    /// Reads from the store on a thread that may block.
    ///
    /// # Errors
    /// What `f` answers.
    pub async fn with_store<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    {
        let store = self.store.clone();
        blocking(move || f(store.as_ref())).await
    }
}

/// The trial of the change that `actor` makes of `head`.
fn trial_of(head: &Head, actor: &Actor, proving: bool, length: SignedDuration) -> Trial {
    let (since, who) = (now(), actor.name.clone());
    let until = since.checked_add(length).unwrap_or(Timestamp::MAX);
    Trial { revision: head.revision + 1, back_to: head.revision, who, since, until, proving }
}

/// Machines come and go while a change is on trial.
fn is_of_node(change: &ObjectChange) -> bool {
    change.object.starts_with("nodes.")
}

/// How a reset is called.
pub const fn reset_name(reset: Reset) -> &'static str {
    match reset {
        Reset::Hard => "reset",
        Reset::SoftIn => "soft reset in",
        Reset::SoftOut => "soft reset out",
    }
}

/// What `actor` would change; refused where something of it is not the actor's.
fn permitted(actor: &Actor, before: &Document, after: &Document) -> Result<Vec<ObjectChange>, ChangeError> {
    let (before, after) = (tree(before), tree(after));
    let changes = diff_trees(&before, &after);
    actor.scope.check(&before, &after, &changes).map_err(Forbidden::Objects)?;
    Ok(changes)
}

/// Runs `f` on a thread that may block, to its end even when the caller goes away.
async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(f).await {
        Ok(value) => value,
        // The closure panicked, or the runtime is going down: there is nothing to answer.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => std::future::pending().await,
    }
}
