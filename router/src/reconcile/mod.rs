//! The reconcile loop: observe, plan, carry out, observe again, publish.
//!
//! ```text
//!   a change of the desired state ─┐
//!   netlink: somebody touched ours ─┼─▶ turn ─▶ View{plan, status, facts}, events
//!   watari-link: a tunnel came or went ─┤
//!   the loop guard: another verdict ─┤
//!   every 0.75 s (bpf says nothing) ─┘
//! ```
//! A turn that finds nothing to do costs a dump. An op that fails is tried again later and later, and the
//! others go on meanwhile. Ending the loop leaves everything as it is: packets do not need it.

mod retry;
mod turn;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use watari_config::{Bootstrap, Desired};
use watari_dataplane::Dataplane;
use watari_planner::{Identity, Plan};

use crate::brain::{Brain, DryRun};
use crate::drivers::{DriverError, Drivers, Place};
use crate::facts::Board;
use crate::loops::LoopGuard;
use turn::Turns;

/// How often the system is looked at where nothing rings: a bpf link that is detached rings nowhere.
/// Often enough for a repair within a second; each look costs time that packets could have.
const LOOK_EVERY: Duration = Duration::from_millis(750);
/// How long a ringing is left to gather its companions.
const GATHER: Duration = Duration::from_millis(20);

/// Where the drivers of this gateway find their things.
pub fn place(bootstrap: &Bootstrap) -> Place {
    let run_dir = Path::new(&bootstrap.run_dir);
    let beside = || {
        let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("watari"));
        own.with_file_name("watari-link")
    };
    Place {
        gateway: bootstrap.gateway.clone(),
        pins: Path::new("/sys/fs/bpf").join(format!("wt-{}", bootstrap.gateway)),
        link_socket: run_dir.join("link.sock"),
        link_state: Path::new(&bootstrap.state_dir).join("link.state"),
        link_binary: bootstrap.link_binary.as_ref().map_or_else(beside, PathBuf::from),
        kernel_wireguard: bootstrap.wireguard_engine == "auto",
    }
}

/// The loop, and the datapath that it has opened.
pub struct Running {
    /// Ends with the loop.
    pub task: JoinHandle<()>,
    /// Maps and programs.
    pub maps: Arc<Dataplane>,
}

/// Opens the drivers and starts the loop; it ends when `stop` becomes true and leaves everything as it is.
///
/// # Errors
/// When the kernel refuses the datapath or netlink: the daemon cannot do its work then.
pub async fn spawn(
    brain: Arc<Brain>,
    bootstrap: Arc<Bootstrap>,
    stop: watch::Receiver<bool>,
) -> Result<Running, DriverError> {
    let place = place(&bootstrap);
    let wakeup = Arc::new(Notify::new());
    let secrets = brain.secrets();
    let identity = Identity { wireguard_key: secrets.wireguard_public() };
    let drivers = Drivers::open(place.clone(), secrets.wireguard_private(), identity, wakeup.clone()).await?;
    let board = Board::default();
    let maps = drivers.datapath.maps()?.clone();
    let guard = Arc::new(LoopGuard::new(wakeup.clone()));
    let paths = crate::link_watch::spawn(place.link_socket, wakeup.clone());
    let mut facts = crate::facts::spawn(
        brain.clone(),
        maps.clone(),
        board.clone(),
        guard.clone(),
        paths,
        Path::new(&bootstrap.run_dir),
        stop.clone(),
    )?;
    let turns = Turns::new(brain.clone(), drivers, board, guard, wakeup.clone());
    let task = tokio::spawn(async move {
        tokio::select! {
            () = run(brain, turns, wakeup, stop) => {
                // What was learnt is kept in the tables; its task ends by the same signal.
                let _ = facts.await;
            }
            // Without it, or without BGP, which ends it, nothing is learnt any more: the daemon ends, to be started
            // anew.
            ended = &mut facts => tracing::info!(?ended, "the task of the facts has ended"),
        }
    });
    Ok(Running { task, maps })
}

async fn run(brain: Arc<Brain>, mut turns: Turns, wakeup: Arc<Notify>, mut stop: watch::Receiver<bool>) {
    let mut head = brain.watch_desired();
    let Some(mut dry_runs) = brain.take_dry_runs() else { return };
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = crate::run::stopped(&mut stop) => return,
            Some(DryRun { desired, reply }) = dry_runs.recv() => {
                // A caller that went away wants no answer.
                let _ = reply.send(turns.preview(&desired).await);
                continue;
            }
            changed = head.changed() => if changed.is_err() { return },
            () = wakeup.notified() => tokio::time::sleep(GATHER).await,
            _ = tick.tick() => {}
        }
        let desired: Arc<Desired> = head.borrow_and_update().desired.clone();
        turns.turn(&desired).await;
    }
}

/// The plan for the stored document, made without a running daemon. Nothing is changed, loaded or started.
///
/// # Errors
/// When the system cannot be read.
pub async fn preview(brain: &Brain, bootstrap: &Bootstrap) -> Result<Plan, DriverError> {
    let wakeup = Arc::new(Notify::new());
    let secrets = brain.secrets();
    let identity = Identity { wireguard_key: secrets.wireguard_public() };
    let mut drivers = Drivers::look(place(bootstrap), identity, wakeup).await?;
    let desired = brain.desired();
    let mut observed = drivers.observe().await?;
    let wanted = watari_planner::wanted::wanted(&desired, &observed);
    drivers.observe_settings(&wanted, &mut observed);
    observed.loops = watari_planner::loops::found(&observed.system);
    Ok(watari_planner::plan(&desired, &observed))
}

/// Removes everything that carries the mark of this gateway, `watari-link` included. The daemon must not run.
///
/// # Errors
/// The first thing that could not be removed.
pub async fn cleanup(bootstrap: &Bootstrap) -> Result<(), DriverError> {
    let place = place(bootstrap);
    let wakeup = Arc::new(Notify::new());
    // No device is made with this key: everything is removed.
    let nobody = watari_config::WgKey::new([1; 32]).expect("not zero");
    let identity = Identity { wireguard_key: nobody };
    Drivers::open(place, [1; 32], identity, wakeup).await?.remove_everything().await
}
