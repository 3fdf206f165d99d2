//! Starting an engine that outlives its starter, for machines without systemd (with it, the engine
//! is a unit of its own).
//!
//! The engine gets a session of its own (setsid, then a second fork so that it never regains a
//! terminal and belongs to init), no standard input, and a log file. It runs in the network
//! namespace of the calling thread. A lock beside the socket keeps a second engine away.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
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
    /// The engine that ran before still runs.
    #[error("the watari-link with pid {pid} was not replaced and goes on; see {}", log.display())]
    NotReplaced {
        /// Of the engine that runs.
        pid: u32,
        /// Log of the one that was to replace it.
        log: PathBuf,
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
    wait_for_hello(socket, log, |_| true)
}

/// Has `binary` take over if the engine at `socket` runs another program, because an update has put another file in its place. `None`: it
/// runs that very program, or it cannot be told.
///
/// # Errors
/// As [`upgrade`]; the engine that ran goes on then.
pub fn renew(binary: &Path, socket: &Path, state: &Path) -> Result<Option<Hello>, SpawnError> {
    let pid = Client::connect(socket).map_err(SpawnError::Unusable)?.hello().pid;
    let identity = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    // The program of a process is found here also when its file is gone.
    let runs = identity(Path::new(&format!("/proc/{pid}/exe")));
    if runs.is_none() || identity(binary).is_none_or(|installed| runs == Some(installed)) {
        return Ok(None);
    }
    upgrade(binary, socket, state, &[]).map(Some)
}

/// Has `binary` take over from the engine that runs at `socket`: started detached with `--take-over` and `arguments`
/// besides, it gets descriptors and sessions, and the former engine ends. Returns when the successor answers,
/// after [`START_TIMEOUT`] at most.
///
/// Its log goes where that of [`spawn_detached`] does; under a service manager to the caller's standard error.
///
/// # Errors
/// [`SpawnError::Unusable`]: no engine runs there. [`SpawnError::NotReplaced`]: the one that ran still does, and
/// nothing was lost.
pub fn upgrade(
    binary: &Path,
    socket: &Path,
    state: &Path,
    arguments: &[OsString],
) -> Result<Hello, SpawnError> {
    let former = Client::connect(socket).map_err(SpawnError::Unusable)?.hello().pid;
    let log = log_path(state);
    let mut command = Command::new(binary);
    command.arg("--take-over").arg("--socket").arg(socket).arg("--state").arg(state).args(arguments);
    command.stdin(Stdio::null()).current_dir("/");
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        let open = || OpenOptions::new().create(true).append(true).mode(0o600).open(&log);
        let file = open().map_err(|source| SpawnError::Log { path: log.clone(), source })?;
        command.stdout(Stdio::null()).stderr(file);
    }
    start(&mut command).map_err(|source| SpawnError::Start { path: binary.to_owned(), source })?;
    wait_for_hello(socket, log, |hello| hello.pid != former)
}

/// Where a detached engine with this state file logs: the same path with `.log` appended.
pub fn log_path(state: &Path) -> PathBuf {
    let mut path = state.as_os_str().to_owned();
    path.push(".log");
    path.into()
}

/// Starts a command that outlives us: in a session of its own, a child of init.
pub(crate) fn start(command: &mut Command) -> io::Result<()> {
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

fn wait_for_hello(socket: &Path, log: PathBuf, wanted: impl Fn(&Hello) -> bool) -> Result<Hello, SpawnError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match Client::connect(socket) {
            Ok(client) if wanted(client.hello()) => return Ok(client.hello().clone()),
            Ok(client) if Instant::now() >= deadline => {
                return Err(SpawnError::NotReplaced { pid: client.hello().pid, log });
            }
            Ok(_) => std::thread::sleep(START_POLL),
            Err(error) if may_pass(&error) && Instant::now() < deadline => {
                std::thread::sleep(START_POLL);
            }
            Err(source) => return Err(SpawnError::NoAnswer { log, source }),
        }
    }
}

/// An engine that is not there yet, or that ends while another one begins.
fn may_pass(error: &ClientError) -> bool {
    matches!(error, ClientError::NotRunning { .. } | ClientError::Closed | ClientError::Io(_))
}
