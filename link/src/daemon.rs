//! The process: lock, state, socket, signals, end.
//!
//! One engine runs per socket: a lock file beside it, held as long as the process lives and freed
//! by the kernel however it ends. A successor that takes over ([`crate::handover`]) gets the lock and the socket
//! as they are. SIGTERM and SIGINT end it cleanly; the interfaces stay, for a
//! successor to take up, unless a client asked for their removal.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sd_notify::NotifyState;

use crate::control::{Control, Heirlooms};
pub use crate::engine::{EngineOptions, Offload};
use crate::events::EventHub;
use crate::handover::{TakeOverError, Taker};
use crate::lock;
use crate::protocol::{Hello, PROTOCOL_VERSION};
use crate::server::{Server, Stop};
use crate::state::StateFile;
use crate::uapi::Sockets;

/// How long to wait for the lock of an engine that is just ending.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(3);
const LOCK_POLL: Duration = Duration::from_millis(10);
/// How often moved endpoints are stored at most.
const STORE_PERIOD: Duration = Duration::from_secs(1);

/// Where an engine lives.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its control socket.
    pub socket: PathBuf,
    /// Its state file.
    pub state: PathBuf,
    /// How its devices work.
    pub engine: EngineOptions,
    /// Folder of the sockets that `wg(8)` finds the devices by; without one it does not.
    pub uapi: Option<PathBuf>,
    /// Take over from the engine that runs there, if one does.
    pub take_over: bool,
}

/// Why an engine did not run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another engine runs on this socket.
    #[error("another watari-link (pid {pid}) holds {}", path.display())]
    Locked {
        /// Of the lock file.
        path: PathBuf,
        /// As the lock file says.
        pid: String,
    },
    /// The engine that runs there did not hand over; it goes on.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    /// The system refused.
    #[error("{action}")]
    Io {
        /// What was tried.
        action: String,
        /// Its words.
        #[source]
        source: io::Error,
    },
}

fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> DaemonError {
    let action = action.into();
    move |source| DaemonError::Io { action, source }
}

/// Runs an engine until a signal or a client ends it.
///
/// # Errors
/// See [`DaemonError`].
pub fn run(options: &Options) -> Result<(), DaemonError> {
    // Before any thread is started, so that all inherit it.
    let signals = take_signals().map_err(failed("take signals"))?;
    let started_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let events = Arc::new(EventHub::default());
    let (control, own) = match take_over(options, &events)? {
        Some(taken) => taken,
        None => begin(options, &events)?,
    };
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|errno| failed("eventfd")(errno.into()))?;
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at_ms: u64::try_from(started_at.as_millis()).unwrap_or(u64::MAX),
    };
    let stop = Stop { wake, asked: Mutex::new(None) };
    let copies = || Ok(Heirlooms { listener: own.listener.try_clone()?, lock: own.lock.try_clone()? });
    let copies = copies().map_err(failed("copy descriptors"))?;
    let server = Arc::new(Server::new(hello, control, events, stop, copies));
    // The main process is the one that says so: after a handover another one than the unit began with.
    notify(&[NotifyState::MainPid(std::process::id()), NotifyState::Ready]);
    tracing::info!(socket = %options.socket.display(), "ready");
    let mut sockets = options.uapi.as_ref().map(|folder| Sockets::new(folder, Arc::clone(&server)));
    let result =
        serve(&server, &own.listener, &signals, sockets.as_mut()).map_err(failed("wait for clients"));
    notify(&[NotifyState::Stopping]);
    drop(sockets);
    let remove = *lock(&server.stop.asked) == Some(true);
    let mut control = lock(&server.control);
    if remove {
        control.remove_all();
    } else {
        control.store_endpoints();
    }
    if let Err(error) = fs::remove_file(&options.socket) {
        tracing::warn!(%error, "the socket stays");
    }
    tracing::info!(remove, "stopped");
    result
}

/// Takes over from a running engine, if that is wanted and one runs.
fn take_over(options: &Options, events: &Arc<EventHub>) -> Result<Option<(Control, Heirlooms)>, DaemonError> {
    if !options.take_over {
        return Ok(None);
    }
    let Some(taker) = Taker::ask(&options.socket)? else { return Ok(None) };
    let file = StateFile::new(&options.state);
    let (control, mut own) = Control::take_over(taker, file, events, options.engine.clone())?;
    let written = write_pid(&mut own.lock).map_err(failed("write the lock file"));
    written.inspect_err(|error| tracing::warn!(%error, "the lock file names another process")).ok();
    tracing::info!("took over from the former engine");
    Ok(Some((control, own)))
}

/// Starts from the state file.
fn begin(options: &Options, events: &Arc<EventHub>) -> Result<(Control, Heirlooms), DaemonError> {
    let lock = take_lock(&options.socket)?;
    let control = Control::restore(StateFile::new(&options.state), events, options.engine.clone())
        .map_err(failed("restore the state"))?;
    Ok((control, Heirlooms { listener: listen(&options.socket)?, lock }))
}

pub(crate) fn take_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(Signal::SIGINT);
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// The lock file of a socket: the same path with `.lock` appended. It holds the engine's pid.
pub fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// The file is locked as long as a copy of its descriptor is open, in this process or a successor.
fn take_lock(socket: &Path) -> Result<File, DaemonError> {
    let path = lock_path(socket);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed(format!("open {}", path.display())))?;
    let deadline = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                if Instant::now() >= deadline {
                    let mut pid = String::new();
                    let _ = file.read_to_string(&mut pid);
                    return Err(DaemonError::Locked { path, pid: pid.trim().to_owned() });
                }
                thread::sleep(LOCK_POLL);
            }
            Err(TryLockError::Error(error)) => {
                return Err(failed(format!("lock {}", path.display()))(error));
            }
        }
    }
    write_pid(&mut file).map_err(failed(format!("write {}", path.display())))?;
    Ok(file)
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// Binds the socket, which nobody but its owner may open. We hold the lock: a socket that is there
/// already is a dead engine's.
fn listen(path: &Path) -> Result<UnixListener, DaemonError> {
    bind_private(path).map_err(failed(format!("listen at {}", path.display())))
}

/// Binds a socket that nobody but its owner may open, in the place of what is there.
pub(crate) fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let absent = |result: io::Result<()>| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    absent(fs::remove_file(path))?;
    // Bound under another name and moved, so that it is never there with wider permissions, nor
    // before it listens.
    let mut next = path.as_os_str().to_owned();
    next.push(".next");
    let next = PathBuf::from(next);
    absent(fs::remove_file(&next))?;
    let listener = UnixListener::bind(&next)?;
    fs::set_permissions(&next, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    fs::rename(&next, path)?;
    Ok(listener)
}

/// Accepts until a signal or a client says stop; stores moved endpoints now and then.
fn serve(
    server: &Arc<Server>,
    listener: &UnixListener,
    signals: &SignalFd,
    mut sockets: Option<&mut Sockets<Server>>,
) -> io::Result<()> {
    let timeout = PollTimeout::try_from(STORE_PERIOD).unwrap_or(PollTimeout::MAX);
    loop {
        let readable = PollFlags::POLLIN;
        let mut fds = [
            PollFd::new(listener.as_fd(), readable),
            PollFd::new(signals.as_fd(), readable),
            PollFd::new(server.stop.wake.as_fd(), readable),
        ];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = fds.map(|fd| fd.any().unwrap_or(false));
        if ready[1] || ready[2] {
            return Ok(());
        }
        if ready[0] {
            match listener.accept() {
                Ok((stream, _)) => server.serve(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => tracing::warn!(%error, "accept"),
            }
        }
        let mut control = lock(&server.control);
        control.store_endpoints();
        control.mend_overlays();
        let names = control.device_names();
        drop(control);
        if let Some(sockets) = &mut sockets {
            sockets.sync(&names);
        }
    }
}

/// Tells the service manager, if there is one.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}
