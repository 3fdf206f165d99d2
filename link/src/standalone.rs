//! `watari-link DEVICE`: one WireGuard interface that `wg(8)` and `wg-quick(8)` configure, as `wireguard-go DEVICE` is. Nothing
//! is stored: the interface lives as long as the process, and the process as long as the interface.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use crate::control::chain;
use crate::daemon::{EngineOptions, take_signals};
use crate::engine::{Engine, EngineError, LastEndpoints};
use crate::events::EventHub;
use crate::key::PrivateKey;
use crate::protocol::{DeviceConfig, Event, MTU_MAX, MTU_MIN, Refusal};
use crate::uapi::{Devices, Errno, Shown, Sockets, Wanted};
use crate::{lock, netdev, spawn, validate};

/// Mark of the interface.
const ALIAS: &str = "watari-link";
/// MTU until somebody sets another one, as wg-quick(8) does.
const MTU: u16 = 1420;
/// How long the interface may take to be there.
const START_MAX: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(10);
/// How often it is looked whether the interface is still there.
const LOOK: Duration = Duration::from_millis(100);

/// A device to be.
#[derive(Debug, Clone)]
pub struct Standalone {
    /// Name of its interface.
    pub interface: String,
    /// Folder of its socket.
    pub folder: PathBuf,
    /// How it works.
    pub engine: EngineOptions,
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum StandaloneError {
    /// It cannot have that name.
    #[error("{0}")]
    Name(Refusal),
    /// The system refused.
    #[error("{action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Its words.
        #[source]
        source: io::Error,
    },
    /// The device could not be made.
    #[error("{0}")]
    Device(String),
    /// It was started in the background and cannot be asked.
    #[error("interface {0} was not made; run it with --foreground to see why")]
    NoAnswer(String),
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> StandaloneError {
    move |source| StandaloneError::Io { action, source }
}

fn socket_of(folder: &Path, interface: &str) -> PathBuf {
    folder.join(format!("{interface}.sock"))
}

/// Runs the device in the background: returns when `wg(8)` can configure it. `command` runs it in the foreground.
///
/// # Errors
/// See [`StandaloneError`].
pub fn detach(standalone: &Standalone, command: &mut Command) -> Result<(), StandaloneError> {
    let interface = &standalone.interface;
    validate::device_name("interface", interface).map_err(StandaloneError::Name)?;
    if netdev::find(interface).map_err(failed("look at the interface"))?.is_some() {
        return Err(StandaloneError::Device(format!("interface {interface} exists")));
    }
    // An interface that was just deleted has a process that ends: not this one's to configure.
    let deadline = Instant::now() + START_MAX;
    while UnixStream::connect(socket_of(&standalone.folder, interface)).is_ok() {
        if Instant::now() >= deadline {
            return Err(StandaloneError::Device(format!("somebody else answers for {interface}")));
        }
        thread::sleep(START_POLL);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    spawn::start(command).map_err(failed("start in the background"))?;
    let deadline = Instant::now() + START_MAX;
    while UnixStream::connect(socket_of(&standalone.folder, interface)).is_err() {
        if Instant::now() >= deadline {
            return Err(StandaloneError::NoAnswer(interface.clone()));
        }
        thread::sleep(START_POLL);
    }
    Ok(())
}

/// Runs the device until its interface is deleted or a signal ends it.
///
/// # Errors
/// See [`StandaloneError`].
pub fn run(standalone: &Standalone) -> Result<(), StandaloneError> {
    let name = &standalone.interface;
    let signals = take_signals().map_err(failed("take signals"))?;
    let config = DeviceConfig {
        name: name.clone(),
        alias: ALIAS.to_owned(),
        private_key: PrivateKey::generate().map_err(failed("make a key"))?,
        listen_port: 0,
        mtu: MTU,
        dscp: crate::protocol::Dscp::default(),
        peers: Vec::new(),
    };
    validate::device(&config).map_err(StandaloneError::Name)?;
    let events = Arc::new(EventHub::default());
    let queue = events.subscribe();
    let device = |error: EngineError| StandaloneError::Device(chain(&error));
    let mut engine = Engine::new(events, standalone.engine.clone());
    engine.set(config.clone(), &LastEndpoints::new()).map_err(device)?;
    engine.let_go_with_process(name).map_err(device)?;
    let wanted = Wanted { config, has_key: false, mark: 0 };
    let only = Arc::new(Only(Mutex::new((engine, wanted))));
    let mut sockets = Sockets::new(&standalone.folder, only);
    let names = BTreeSet::from([name.clone()]);
    tracing::info!(interface = name, "ready");
    loop {
        sockets.sync(&names);
        if is_signalled(&signals).map_err(failed("wait for signals"))? {
            return Ok(());
        }
        if queue.try_iter().any(|event| matches!(event, Event::LinkLost { .. })) {
            tracing::info!(interface = name, "the interface was deleted");
            return Ok(());
        }
    }
}

fn is_signalled(signals: &SignalFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO)) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::Error::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The engine with its only device, and what the device is to be.
struct Only(Mutex<(Engine, Wanted)>);

impl Devices for Only {
    fn show(&self, name: &str) -> Result<Shown, Errno> {
        let only = lock(&self.0);
        let (engine, wanted) = &*only;
        let status = engine.list().into_iter().find(|device| device.name == name).ok_or(Errno::NODEV)?;
        let Wanted { config, has_key, mark } = wanted.clone();
        Ok(Shown { config, status, has_key, mark })
    }

    fn change(&self, name: &str, change: &dyn Fn(Wanted) -> Wanted) -> Result<(), Errno> {
        let mut only = lock(&self.0);
        let (engine, wanted) = &mut *only;
        let mut next = change(wanted.clone());
        if wanted.has_key && !next.has_key {
            next.config.private_key = PrivateKey::generate().map_err(|_| Errno::IO)?;
        }
        // The MTU is ip(8)'s to set; what it set is kept.
        let link = netdev::find(name).map_err(|_| Errno::IO)?.ok_or(Errno::NODEV)?;
        next.config.mtu = u16::try_from(link.mtu).unwrap_or(MTU_MAX).clamp(MTU_MIN, MTU_MAX);
        let refused = |refusal: Refusal| {
            tracing::warn!(interface = name, %refusal, "wg(8) asks for what cannot be");
            Errno::INVAL
        };
        validate::device(&next.config).map_err(refused)?;
        engine
            .set_mark(name, next.mark)
            .and_then(|()| engine.set(next.config.clone(), &LastEndpoints::new()))
            .map_err(|error| {
                tracing::warn!(interface = name, error = chain(&error), "not set");
                if matches!(error, EngineError::Bind { .. }) { Errno::ADDRINUSE } else { Errno::IO }
            })?;
        *wanted = next;
        Ok(())
    }
}
