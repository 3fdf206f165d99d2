//! The agent as a process: running it, starting it detached, stopping it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::signal::{Signal, kill};
use tokio::signal::unix::{SignalKind, signal};
use tracing::warn;

use super::state::{Identity, StateDir};
use super::{Node, NodeError};
use crate::agent::{Agent, AgentOptions, call_local};
use crate::measure;

/// How long a new agent may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long an agent may take to stop before it is killed, and again afterwards.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks of the agent at the configuration.
const KEEP_INTERVAL: Duration = Duration::from_secs(2);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

/// The options of the agent of a node.
pub(super) fn agent_options(dir: &StateDir, identity: &Identity) -> AgentOptions {
    let reply = &identity.reply;
    let mut allowed = reply.prefixes.clone();
    allowed.extend(reply.agent.controllers.iter().copied().map(IpNet::from));
    allowed.extend(&reply.addresses);
    AgentOptions {
        node: reply.node.clone(),
        lease_expires: reply.lease_expires.clone(),
        addresses: reply.addresses.iter().map(IpNet::addr).collect(),
        port: reply.agent.port,
        controllers: reply.agent.controllers.clone(),
        measure_port: measure::PORT_DEFAULT,
        measure_allowed: allowed,
        socket: Some(dir.agent_socket()),
    }
}

/// Is the agent, until a signal to end comes, and keeps the node's configuration as it should be.
pub(super) async fn run(node: Node) -> Result<(), NodeError> {
    let Some(_held) = node.dir.hold_agent()? else {
        return Err(NodeError::AgentRuns { state: node.dir.path().to_owned() });
    };
    let agent = Agent::bind(&agent_options(&node.dir, &node.identity))?;
    let handler = |kind| signal(kind).map_err(|source| NodeError::System { what: "handle signals", source });
    let (mut terminate, mut interrupt) =
        (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    agent
        .serve(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = keep(node) => {}
            }
        })
        .await;
    Ok(())
}

/// Makes the configuration so again and again; whoever deletes a route of ours, or kills the engine,
/// finds it back. Never ends by itself.
async fn keep(node: Node) {
    let mut failed = false;
    loop {
        tokio::time::sleep(KEEP_INTERVAL).await;
        let node = node.clone();
        match tokio::task::spawn_blocking(move || node.repair()).await {
            Ok(Ok(())) => failed = false,
            Ok(Err(error)) if !failed => {
                warn!(%error, "the configuration cannot be kept");
                failed = true;
            }
            Ok(Err(_)) => {}
            Err(error) => warn!(%error, "the configuration cannot be kept"),
        }
    }
}

/// Makes sure that an agent runs and answers: starts this very program as one, in a session of its
/// own, in the network namespace of the calling thread.
pub(super) fn ensure(dir: &StateDir) -> Result<(), NodeError> {
    if dir.agent_process()?.is_none() {
        start(dir).map_err(|source| NodeError::System { what: "start the agent", source })?;
    }
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match call_local(&dir.agent_socket()) {
            Ok(_) => return Ok(()),
            Err(source) if Instant::now() >= deadline => {
                return Err(NodeError::AgentSilent { log: dir.agent_log(), source });
            }
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

fn start(dir: &StateDir) -> io::Result<()> {
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(dir.agent_log())?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("agent").arg("--state").arg(std::path::absolute(dir.path())?);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir("/");
    // SAFETY: between fork and exec only setsid, fork and _exit are called; all three are
    // async-signal-safe, and nothing is allocated.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::fork() {
                -1 => Err(io::Error::last_os_error()),
                0 => Ok(()),
                _ => libc::_exit(0),
            }
        });
    }
    // The child is the one between the two forks and is gone at once.
    command.spawn()?.wait()?;
    Ok(())
}

/// Stops the agent; true when one ran.
pub(super) fn stop(dir: &StateDir) -> Result<bool, NodeError> {
    if dir.agent_process()?.is_none() {
        return Ok(false);
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let deadline = Instant::now() + STOP_LIMIT;
        let mut told = false;
        while let Some(process) = dir.agent_process()? {
            if let (Some(pid), false) = (process, told) {
                // That it is gone already is what was wanted.
                told = kill(pid, signal).is_ok();
            }
            if Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(POLL);
        }
        if dir.agent_process()?.is_none() {
            return Ok(true);
        }
    }
    Err(NodeError::AgentRuns { state: dir.path().to_owned() })
}
