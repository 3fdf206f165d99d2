//! The daemon from its first check to its clean end.
//!
//! ```text
//!  bootstrap file ─ kernel, capabilities ─ lock ─ store ─ keys ─ brain ─ listeners open ─ reconcile loop ─ READY
//!  SIGTERM, SIGINT ─ STOPPING ─ requests finish ─ loop ends ─ store closes          (the dataplane stays)
//! ```
//! Ending tears nothing down: what is pinned and in the kernel goes on without us, and the next start
//! adopts it. [`cleanup`] is what removes it.

pub mod host;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use sd_notify::NotifyState;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use watari_config::{Bootstrap, Document, Problem};

use crate::access::token::Policy;
use crate::access::tokens::Tokens;
use crate::api::auth::Token;
use crate::api::serve::{ListenError, Listeners};
use crate::api::{self, Api};
use crate::brain::{Brain, ChangeError};
use crate::reconcile;
use crate::store::{RedbStore, Secrets, SecretsError, Store, StoreError};
use crate::trial;
use host::{HostError, Lock};

/// The most bytes of a bootstrap file.
const BOOTSTRAP_BYTES_MAX: u64 = 64 << 10;
/// How long each part of the daemon may take to end.
const END_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often refusals are written into the audit log.
const REFUSALS_EVERY: Duration = Duration::from_secs(1);
/// How often it is written when tokens were used last.
const USES_EVERY: Duration = Duration::from_secs(60);

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The bootstrap file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The bootstrap file is wrong.
    #[error("{} is wrong:\n{}", path.display(), Lines(problems))]
    Bootstrap {
        /// The file.
        path: PathBuf,
        /// Every problem in it.
        problems: Vec<Problem>,
    },
    /// The machine is not fit for it.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys cannot be had.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The stored document is not valid for this version.
    #[error("the stored document is not valid for this version:\n{}", Lines(.0))]
    Document(Vec<Problem>),
    /// A listener cannot be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The dataplane cannot be had.
    #[error("{doing}: {source}")]
    Dataplane {
        /// What was being done.
        doing: &'static str,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The runtime or a signal handler cannot be had.
    #[error("the runtime: {0}")]
    Runtime(#[from] std::io::Error),
    /// A task that the daemon cannot do without ended although nobody asked it to.
    #[error("a part that the daemon cannot do without ended by itself")]
    LoopEnded,
}

/// Problems, one a line.
struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            write!(f, "{}  {problem}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

/// Waits until `stop` becomes true, or the daemon is gone.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Reads the bootstrap file.
///
/// # Errors
/// Every problem in it.
pub fn bootstrap(path: &Path) -> Result<Bootstrap, RunError> {
    let file = |source| RunError::File { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(file)?.len();
    if size > BOOTSTRAP_BYTES_MAX {
        return Err(file(std::io::Error::other(format!("larger than {BOOTSTRAP_BYTES_MAX} bytes"))));
    }
    let text = std::fs::read_to_string(path).map_err(file)?;
    Bootstrap::parse(&text).map_err(|problems| RunError::Bootstrap { path: path.to_owned(), problems })
}

/// Runs the daemon of the bootstrap file at `config` until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or a part it cannot do without ends.
pub fn run(config: &Path) -> Result<(), RunError> {
    let bootstrap = Arc::new(bootstrap(config)?);
    host::check()?;
    let _lock = Lock::take(Path::new(&bootstrap.run_dir))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let ended = runtime.block_on(serve(bootstrap));
    runtime.shutdown_timeout(END_WAIT_MAX);
    ended
}

/// Says what a start would do: the plan for the stored document. Changes nothing.
///
/// # Errors
/// When the plan cannot be made, among others because the daemon runs: `watari plan` asks it.
pub fn dry_run(config: &Path) -> Result<Value, RunError> {
    let bootstrap = bootstrap(config)?;
    host::check()?;
    let gateway = bootstrap.gateway.as_str();
    let state_dir = Path::new(&bootstrap.state_dir);
    let store: Arc<dyn Store> = match RedbStore::exists(state_dir)? {
        true => Arc::new(RedbStore::open(state_dir, gateway)?),
        false => Arc::new(RedbStore::in_memory(gateway)?),
    };
    let brain = brain(&bootstrap, store)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let plan = runtime.block_on(reconcile::preview(&brain, &bootstrap));
    let plan = plan.map_err(|e| RunError::Dataplane { doing: "looking at the system", source: e.into() })?;
    Ok(serde_json::to_value(plan).unwrap_or(Value::Null))
}

/// Removes everything that the gateway of the bootstrap file at `config` ever made in the kernel. The store stays.
///
/// # Errors
/// When the daemon runs, or something could not be removed.
pub fn cleanup(config: &Path) -> Result<(), RunError> {
    let bootstrap = bootstrap(config)?;
    host::check()?;
    let _lock = Lock::take(Path::new(&bootstrap.run_dir))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let removed = runtime.block_on(reconcile::cleanup(&bootstrap));
    removed.map_err(|e| RunError::Dataplane { doing: "cleaning up", source: e.into() })
}

fn brain(bootstrap: &Bootstrap, store: Arc<dyn Store>) -> Result<Arc<Brain>, RunError> {
    let secrets = Secrets::load(store.as_ref(), bootstrap.gateway.as_str())?;
    Brain::new(bootstrap.gateway.clone(), store, secrets).map_err(refused)
}

/// Why the stored document cannot be worked with.
fn refused(error: ChangeError) -> RunError {
    match error {
        ChangeError::Invalid(problems) => RunError::Document(problems),
        ChangeError::Store(error) => error.into(),
        other => RunError::Dataplane { doing: "reading the stored document", source: other.into() },
    }
}

async fn serve(bootstrap: Arc<Bootstrap>) -> Result<(), RunError> {
    let store = RedbStore::open(Path::new(&bootstrap.state_dir), bootstrap.gateway.as_str())?;
    let brain = brain(&bootstrap, Arc::new(store))?;
    trial::watch::settle(&brain).await;
    let (stopper, stop) = watch::channel(false);
    let (mut terminated, mut interrupted) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listeners = Listeners::open(Path::new(&bootstrap.run_dir), &bootstrap.api, brain.secrets()).await?;
    let api = Arc::new(Api {
        brain: brain.clone(),
        token: bootstrap.api.token.as_deref().map(Token::of),
        tokens: Arc::new(Tokens::load(brain.store().clone(), policy(&bootstrap))?),
        ledger: Arc::default(),
        own_uid: nix::unistd::geteuid().as_raw(),
        stop: stop.clone(),
    });
    let spawned = reconcile::spawn(brain.clone(), bootstrap.clone(), stop.clone()).await;
    let reconcile::Running { task: mut reconciling, maps } =
        spawned.map_err(|e| RunError::Dataplane { doing: "opening the dataplane", source: e.into() })?;
    // Dropped at the end of this function, it ends what has not ended by itself.
    let (routes, mut nodes) = crate::nodes::start(&brain, &bootstrap, &maps, &stop);
    let explaining = crate::explain::start(&brain, &maps, &stop, &mut nodes);
    let router = api::router(api.clone(), vec![routes, explaining]);
    let mut serving = tokio::spawn(listeners.serve(router, stop.clone()));
    let writing = tokio::spawn(write_access(api, stop.clone()));
    let mut trials = tokio::spawn(trial::watch::run(brain.clone(), stop.clone()));
    tokio::spawn(watchdog(stop));
    notify(NotifyState::Ready);
    let generation = brain.desired().generation();
    brain.events().emit("started", "", format!("gateway {} at generation {generation}", bootstrap.gateway));
    let ended = tokio::select! {
        _ = terminated.recv() => Ok(()),
        _ = interrupted.recv() => Ok(()),
        _ = &mut reconciling => Err(RunError::LoopEnded),
        _ = &mut serving => Err(RunError::LoopEnded),
        _ = &mut trials => Err(RunError::LoopEnded),
        Some(_) = nodes.join_next() => Err(RunError::LoopEnded),
    };
    notify(NotifyState::Stopping);
    tracing::info!("ending; what forwards packets stays");
    let _ = stopper.send(true);
    if ended.is_ok() {
        let _ = tokio::time::timeout(END_WAIT_MAX, serving).await;
        let _ = tokio::time::timeout(END_WAIT_MAX, writing).await;
        let _ = tokio::time::timeout(END_WAIT_MAX, reconciling).await;
    }
    ended
}

/// How long tokens live.
fn policy(bootstrap: &Bootstrap) -> Policy {
    let signed = |length: watari_config::names::Duration| {
        SignedDuration::from_secs(i64::try_from(length.seconds()).unwrap_or(i64::MAX))
    };
    Policy { life: signed(bootstrap.api.token_life), life_max: signed(bootstrap.api.token_life_max) }
}

/// Writes refusals and last uses now and then, and once more at the end.
async fn write_access(api: Arc<Api>, mut stop: watch::Receiver<bool>) {
    let (mut refusals, mut uses) = (tokio::time::interval(REFUSALS_EVERY), tokio::time::interval(USES_EVERY));
    loop {
        let (mut with_uses, mut ends) = (false, false);
        tokio::select! {
            _ = refusals.tick() => {}
            _ = uses.tick() => with_uses = true,
            () = stopped(&mut stop) => (with_uses, ends) = (true, true),
        }
        if let Err(error) = api::audit::write_waiting(&api).await {
            tracing::error!(%error, "refusals could not be written into the audit log");
        }
        if with_uses {
            let tokens = api.tokens.clone();
            let written = tokio::task::spawn_blocking(move || tokens.write_uses()).await;
            if let Ok(Err(error)) = written {
                tracing::error!(%error, "the last uses of tokens could not be written");
            }
        }
        if ends {
            return;
        }
    }
}

/// Tells the service manager, if there is one.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "no service manager hears us");
    }
}

/// Tells the service manager that the runtime turns, twice in each interval it asks for.
async fn watchdog(mut stop: watch::Receiver<bool>) {
    let Some(interval) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval(interval / 2);
    loop {
        tokio::select! {
            _ = tick.tick() => notify(NotifyState::Watchdog),
            () = stopped(&mut stop) => return,
        }
    }
}

/// The document of a file, whole and valid, without any daemon.
///
/// # Errors
/// Every problem in it.
pub fn validate(text: &str) -> Result<Document, Vec<Problem>> {
    watari_config::read_document(&watari_config::parse_text(text)?)
}
