//! Starting an engine that outlives its starter, for machines without systemd (with it, the engine
//! is a unit of its own).
//!
//! The engine gets a session of its own (setsid, then a second fork so that it never regains a
//! terminal and belongs to init), no standard input, and a log file. It runs in the network
//! namespace of the calling thread. A lock beside the socket keeps a second engine away.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::client::{Client, ClientError};
use crate::protocol::Hello;

/// How long a new engine may take until it answers.
pub const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two looks whether it does.
const START_POLL: Duration = Duration::from_millis(10);

/// Why no engine runs now.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The log file cannot be opened.
    #[error("log file {}", path.display())]
    Log {
        /// Of the log file.
        path: PathBuf,
        /// What open said.
        #[source]
        source: io::Error,
    },
    /// The program cannot be started.
    #[error("start {}", path.display())]
    Start {
        /// Of the program.
        path: PathBuf,
        /// What fork or exec said.
        #[source]
        source: io::Error,
    },
    /// It was started and does not answer.
    #[error("watari-link was started and does not answer; its log is {}", log.display())]
    NoAnswer {
        /// Of the log file.
        log: PathBuf,
        /// The last try.
        #[source]
        source: ClientError,
    },
    /// One runs that cannot be talked to (another protocol version, or hung).
    #[error("a watari-link runs at the socket that cannot be used")]
    Unusable(#[source] ClientError),
}

/// Makes sure that an engine answers at `socket`: returns the hello of the one that runs, or starts
/// `binary` detached and waits until it answers, [`START_TIMEOUT`] at most.
///
/// Its log goes to [`log_path`]`(state)`, appended.
///
/// # Errors
/// See [`SpawnError`].
pub fn spawn_detached(binary: &Path, socket: &Path, state: &Path) -> Result<Hello, SpawnError> {
    match Client::connect(socket) {
        Ok(client) => return Ok(client.hello().clone()),
        Err(error) if error.is_not_running() => {}
        Err(error) => return Err(SpawnError::Unusable(error)),
    }
    let log = log_path(state);
    let open = || -> io::Result<(File, File)> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&log)?;
        Ok((file.try_clone()?, file))
    };
    let (stdout, stderr) = open().map_err(|source| SpawnError::Log { path: log.clone(), source })?;
    let mut command = Command::new(binary);
    command.arg("--socket").arg(socket).arg("--state").arg(state);
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).current_dir("/");
    start(&mut command).map_err(|source| SpawnError::Start { path: binary.to_owned(), source })?;
    wait_for_hello(socket, log)
}

/// Where a detached engine with this state file logs: the same path with `.log` appended.
pub fn log_path(state: &Path) -> PathBuf {
    let mut path = state.as_os_str().to_owned();
    path.push(".log");
    path.into()
}

fn start(command: &mut Command) -> io::Result<()> {
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

fn wait_for_hello(socket: &Path, log: PathBuf) -> Result<Hello, SpawnError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match Client::connect(socket) {
            Ok(client) => return Ok(client.hello().clone()),
            Err(error) if error.is_not_running() && Instant::now() < deadline => {
                std::thread::sleep(START_POLL);
            }
            Err(source) => return Err(SpawnError::NoAnswer { log, source }),
        }
    }
}
