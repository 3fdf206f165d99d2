//! The thread with the sockets of all probes. A socket belongs to one (device, local address): it
//! asks for our probes and answers those of the far side. It is bound to the device, so that a
//! probe can leave and arrive through no other; when the device or the address is missing the
//! socket is tried again every [`REOPEN`], and the probes on it are down meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::core::{AnswerBudget, Input, Moment, Output, Prober, Timing, nanos};
use super::wire::{Kind, LENGTH, Probe};
use crate::clock;
use crate::events::EventHub;
use crate::handover::{Fds, HandoverError, SentFds, SocketEstate};
use crate::protocol::{Event, ProbeConfig, ProbeStatus, ProbesConfig, ProbesStatus};
use crate::{lock, netdev};

/// How often a socket that is missing, or whose device may have been replaced, is looked at.
const REOPEN: Duration = Duration::from_millis(500);
/// Datagrams taken from one socket before the others are looked at.
const BATCH_MAX: usize = 64;
/// Probes ask for the class of network control (RFC 4594 §3.1).
const TOS_NETWORK_CONTROL: u32 = 0xc0;

/// A socket's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    device: String,
    local: IpAddr,
}

struct Opened {
    socket: Arc<UdpSocket>,
    /// Of the device when the socket was opened: a device made anew has another.
    device_index: u32,
}

struct Path {
    config: ProbeConfig,
    prober: Prober,
    budget: AnswerBudget,
    answered: u64,
    error: Option<String>,
}

impl Path {
    fn place(&self) -> Place {
        Place { device: self.config.device.clone(), local: self.config.local }
    }
}

struct Probes {
    port: u16,
    nonce: u64,
    paths: BTreeMap<String, Path>,
    sockets: BTreeMap<Place, Opened>,
    look_at_sockets: Moment,
    stop: bool,
}

/// Everything on its way to another process.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProbeEstate {
    port: u16,
    nonce: u64,
    paths: Vec<PathEstate>,
    sockets: Vec<SocketEstate>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PathEstate {
    config: ProbeConfig,
    prober: Prober,
    answered: u64,
    error: Option<String>,
}

struct Common {
    probes: Mutex<Probes>,
    wake: EventFd,
    events: Arc<EventHub>,
}

/// The running prober. Dropping it stops the thread.
pub(crate) struct ProbeShell {
    common: Arc<Common>,
    thread: Option<JoinHandle<()>>,
}

impl ProbeShell {
    /// Starts the thread, without probes.
    pub(crate) fn start(events: Arc<EventHub>) -> io::Result<Self> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        let probes = Probes {
            port: ProbesConfig::default().port,
            nonce: u64::from_ne_bytes(nonce),
            paths: BTreeMap::new(),
            sockets: BTreeMap::new(),
            look_at_sockets: Moment::ZERO,
            stop: false,
        };
        let mut shell = Self::with(probes, events)?;
        shell.resume()?;
        Ok(shell)
    }

    fn with(probes: Probes, events: Arc<EventHub>) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let common = Arc::new(Common { probes: Mutex::new(probes), wake, events });
        Ok(Self { common, thread: None })
    }

    /// What a former process handed over; [`ProbeShell::resume`] follows.
    pub(crate) fn take_up(
        estate: ProbeEstate,
        fds: &mut Fds,
        events: Arc<EventHub>,
    ) -> Result<Self, HandoverError> {
        let probes = Probes::take_up(estate, fds)?;
        Self::with(probes, events).map_err(|error| HandoverError::Channel("make an eventfd", error))
    }

    /// Ends the thread; everything else stays as it is.
    pub(crate) fn pause(&mut self) {
        lock(&self.common.probes).stop = true;
        self.common.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread wt-probes had panicked");
        }
    }

    /// Goes on after [`ProbeShell::pause`].
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        lock(&self.common.probes).stop = false;
        let seen = Arc::clone(&self.common);
        let run = move || run(&seen);
        self.thread = Some(thread::Builder::new().name("wt-probes".to_owned()).spawn(run)?);
        Ok(())
    }

    /// What a successor goes on with.
    pub(crate) fn estate(&self, fds: &mut SentFds) -> io::Result<ProbeEstate> {
        lock(&self.common.probes).estate(fds)
    }

    /// Makes the set of probes be as wanted (it was validated); an unchanged path keeps its state.
    pub(crate) fn set(&self, wanted: ProbesConfig) -> Vec<String> {
        let now = self.common.now();
        let touched = lock(&self.common.probes).set(wanted, now);
        self.common.wake();
        touched
    }

    /// Every path as it is.
    pub(crate) fn list(&self) -> ProbesStatus {
        let now = self.common.now();
        let probes = lock(&self.common.probes);
        ProbesStatus {
            port: probes.port,
            probes: probes.paths.values().map(|path| path.status(now)).collect(),
        }
    }
}

impl Drop for ProbeShell {
    fn drop(&mut self) {
        self.pause();
    }
}

impl Common {
    fn now(&self) -> Moment {
        clock::monotonic()
    }

    fn wake(&self) {
        // A full eventfd is readable as well, which is all that is wanted.
        let _ = self.wake.write(1);
    }
}

fn run(common: &Common) {
    // Paths may have stood still until here: what has come meanwhile counts before the time does.
    let waiting = lock(&common.probes).open_sockets();
    for (place, socket) in &waiting {
        lock(&common.probes).drain(place, socket, common);
    }
    loop {
        let (deadline, sockets) = {
            let mut probes = lock(&common.probes);
            if probes.stop {
                return;
            }
            let now = common.now();
            probes.mend_sockets(now);
            probes.on_timer(now, &common.events);
            (probes.next_deadline(), probes.open_sockets())
        };
        let timeout = deadline.saturating_sub(common.now());
        for (place, socket) in wait(common, &sockets, timeout) {
            lock(&common.probes).drain(place, socket, common);
        }
    }
}

type OpenSocket = (Place, Arc<UdpSocket>);

/// Waits for datagrams, a change, or the deadline; returns the sockets with datagrams.
fn wait<'a>(common: &Common, sockets: &'a [OpenSocket], timeout: Duration) -> Vec<&'a OpenSocket> {
    // Rounded up: a timer that is looked at early is only looked at again.
    let timeout = PollTimeout::try_from(timeout + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    let mut fds = vec![PollFd::new(common.wake.as_fd(), PollFlags::POLLIN)];
    fds.extend(sockets.iter().map(|(_, socket)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
    if let Err(error) = poll(&mut fds, timeout) {
        if error != nix::Error::EINTR {
            tracing::error!(%error, "poll");
        }
        return Vec::new();
    }
    if fds[0].any().unwrap_or(false) {
        let _ = common.wake.read();
    }
    let ready = fds[1..].iter().map(|fd| fd.any().unwrap_or(false));
    sockets.iter().zip(ready).filter(|(_, ready)| *ready).map(|(socket, _)| socket).collect()
}

impl Probes {
    fn estate(&self, fds: &mut SentFds) -> io::Result<ProbeEstate> {
        let sockets = self.sockets.iter().map(|(place, opened)| {
            let (device, local) = (place.device.clone(), place.local);
            Ok(SocketEstate {
                device,
                local,
                device_index: opened.device_index,
                fd: fds.put(&*opened.socket)?,
            })
        });
        let sockets = sockets.collect::<io::Result<_>>()?;
        let paths = self.paths.values().map(Path::estate).collect();
        Ok(ProbeEstate { port: self.port, nonce: self.nonce, paths, sockets })
    }

    fn take_up(estate: ProbeEstate, fds: &mut Fds) -> Result<Self, HandoverError> {
        let mut sockets = BTreeMap::new();
        for SocketEstate { device, local, device_index, fd } in estate.sockets {
            let socket = Arc::new(UdpSocket::from(fds.take(fd)?));
            sockets.insert(Place { device, local }, Opened { socket, device_index });
        }
        let now = clock::monotonic();
        let paths = estate.paths.into_iter().map(|path| (path.config.name.clone(), Path::take_up(path, now)));
        let (port, nonce, paths) = (estate.port, estate.nonce, paths.collect());
        Ok(Self { port, nonce, paths, sockets, look_at_sockets: now, stop: false })
    }

    fn set(&mut self, wanted: ProbesConfig, now: Moment) -> Vec<String> {
        let mut touched = Vec::new();
        if wanted.port != self.port {
            self.port = wanted.port;
            self.sockets.clear();
            touched.push("port".to_owned());
        }
        let mut former = std::mem::take(&mut self.paths);
        for config in wanted.probes {
            let name = config.name.clone();
            let found = former.remove(&name);
            let what = if found.is_some() { "replaced" } else { "added" };
            let kept = found.and_then(|mut path| path.change(&config, now, &mut touched).then_some(path));
            let path = kept.unwrap_or_else(|| {
                touched.push(format!("probes[{name}].{what}"));
                Path::new(config, now)
            });
            self.paths.insert(name, path);
        }
        touched.extend(former.keys().map(|name| format!("probes[{name}].removed")));
        self.look_at_sockets = now;
        touched
    }

    /// Opens what is wanted and not open, closes what is not wanted or not of this device any more.
    fn mend_sockets(&mut self, now: Moment) {
        if now < self.look_at_sockets {
            return;
        }
        self.look_at_sockets = now + REOPEN;
        let mut wanted: BTreeMap<Place, Result<(), String>> =
            self.paths.values().map(|path| (path.place(), Ok(()))).collect();
        self.sockets.retain(|place, opened| {
            wanted.contains_key(place) && device_index(&place.device).ok() == Some(opened.device_index)
        });
        for (place, result) in &mut wanted {
            if self.sockets.contains_key(place) {
                continue;
            }
            match open(place, self.port) {
                Ok(opened) => {
                    self.sockets.insert(place.clone(), opened);
                }
                Err(error) => *result = Err(error.to_string()),
            }
        }
        for path in self.paths.values_mut() {
            match &wanted[&path.place()] {
                Err(error) => path.error = Some(error.clone()),
                // What sending ran into is cleared by the next good sending.
                Ok(()) if path.error.as_deref().is_some_and(is_opening_error) => path.error = None,
                Ok(()) => {}
            }
        }
    }

    fn on_timer(&mut self, now: Moment, events: &EventHub) {
        let (nonce, port) = (self.nonce, self.port);
        for path in self.paths.values_mut() {
            if path.prober.next_deadline() > now {
                continue;
            }
            let socket = self.sockets.get(&path.place());
            let index = socket.map(|opened| opened.device_index);
            path.prober.counted(now, index.and_then(|index| netdev::received_packets(index).ok()));
            for output in path.prober.handle(now, Input::Timer) {
                match output {
                    Output::State(state) => path.announce(state, events),
                    Output::Send { sequence } => {
                        if let Some(opened) = socket {
                            path.ask(&opened.socket, port, nonce, sequence, now);
                        }
                    }
                }
            }
        }
    }

    fn next_deadline(&self) -> Moment {
        let timers = self.paths.values().map(|path| path.prober.next_deadline());
        timers.min().unwrap_or(Moment::MAX).min(self.look_at_sockets)
    }

    fn open_sockets(&self) -> Vec<OpenSocket> {
        self.sockets.iter().map(|(place, open)| (place.clone(), Arc::clone(&open.socket))).collect()
    }

    fn drain(&mut self, place: &Place, socket: &UdpSocket, common: &Common) {
        let mut buffer = [0; LENGTH + 1];
        for _ in 0..BATCH_MAX {
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    if let Some(probe) = Probe::decode(&buffer[..length]) {
                        self.receive(place, socket, probe, from, common);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => tracing::trace!(%error, "probe socket"),
            }
        }
    }

    fn receive(
        &mut self,
        place: &Place,
        socket: &UdpSocket,
        probe: Probe,
        from: SocketAddr,
        common: &Common,
    ) {
        if from.port() != self.port {
            return;
        }
        let path = self.paths.values_mut().find(|path| {
            path.config.remote == from.ip()
                && path.config.local == place.local
                && path.config.device == place.device
        });
        let Some(path) = path else { return };
        path.prober.probe_came();
        let now = common.now();
        match probe.kind {
            Kind::Request => {
                if let Some(age) = probe.heard_age() {
                    path.prober.told(now, age);
                }
                if path.budget.take(now) {
                    let answer = probe.answer(nanos(now)).encode();
                    path.answered += u64::from(socket.send_to(&answer, from).is_ok());
                }
            }
            Kind::Answer if probe.nonce == self.nonce => {
                let input = Input::Answer { sequence: probe.sequence, answered_at_ns: probe.answered_at_ns };
                for output in path.prober.handle(now, input) {
                    if let Output::State(state) = output {
                        path.announce(state, &common.events);
                    }
                }
            }
            Kind::Answer => {}
        }
    }
}

const OPENING: &str = "open a probe socket: ";

fn is_opening_error(error: &str) -> bool {
    error.starts_with(OPENING)
}

impl Path {
    fn estate(&self) -> PathEstate {
        PathEstate {
            config: self.config.clone(),
            prober: self.prober.clone(),
            answered: self.answered,
            error: self.error.clone(),
        }
    }

    fn take_up(estate: PathEstate, now: Moment) -> Self {
        Self {
            config: estate.config,
            prober: estate.prober,
            budget: AnswerBudget::new(now),
            answered: estate.answered,
            error: estate.error,
        }
    }

    fn new(config: ProbeConfig, now: Moment) -> Self {
        Self {
            prober: Prober::new(timing(&config), now),
            config,
            budget: AnswerBudget::new(now),
            answered: 0,
            error: None,
        }
    }

    /// True if this path goes on under the configuration: only its timing may differ.
    fn change(&mut self, config: &ProbeConfig, now: Moment, touched: &mut Vec<String>) -> bool {
        let same_path = self.config.local == config.local
            && self.config.remote == config.remote
            && self.config.device == config.device;
        if !same_path {
            return false;
        }
        if self.config != *config {
            touched.push(format!("probes[{}].timing", config.name));
            self.prober.retime(timing(config), now);
            self.config = config.clone();
        }
        true
    }

    fn ask(&mut self, socket: &UdpSocket, port: u16, nonce: u64, sequence: u64, now: Moment) {
        let asked_at_ns = nanos(now);
        let answered_at_ns = self.prober.heard_age(now).map_or(0, |age| nanos(age).saturating_add(1));
        let probe = Probe { kind: Kind::Request, nonce, sequence, asked_at_ns, answered_at_ns };
        let to = SocketAddr::new(self.config.remote, port);
        self.error = socket.send_to(&probe.encode(), to).err().map(|error| error.to_string());
    }

    fn announce(&self, state: crate::protocol::PathState, events: &EventHub) {
        tracing::info!(probe = self.config.name, ?state, "path");
        events.publish(&Event::Probe { name: self.config.name.clone(), state });
    }

    fn status(&self, now: Moment) -> ProbeStatus {
        let rtt = self.prober.rtt();
        let (out, back) = self.prober.one_way();
        ProbeStatus {
            config: self.config.clone(),
            state: self.prober.state(),
            since_ms: millis(now.saturating_sub(self.prober.since())),
            changes: self.prober.changes(),
            by_traffic: self.prober.is_proven_by_traffic(now),
            rtt_us: rtt.map(|(smoothed, _)| micros(smoothed)),
            rtt_var_us: rtt.map(|(_, deviation)| micros(deviation)),
            jitter_out_us: out.jitter_us(),
            jitter_in_us: back.jitter_us(),
            delay_change_out_us: out.change_us(),
            delay_change_in_us: back.change_us(),
            loss_permille: self.prober.loss_permille(now),
            sent: self.prober.sent(),
            received: self.prober.received(),
            last_seen_ms: self.prober.last_answer().map(|at| millis(now.saturating_sub(at))),
            answered: self.answered,
            error: self.error.clone(),
        }
    }
}

fn timing(config: &ProbeConfig) -> Timing {
    Timing {
        interval: Duration::from_millis(config.interval_ms.into()),
        dead_after: Duration::from_millis(config.dead_after_ms.into()),
    }
}

fn device_index(device: &str) -> nix::Result<u32> {
    nix::net::if_::if_nametoindex(device)
}

fn open(place: &Place, port: u16) -> io::Result<Opened> {
    let context = |error: io::Error| io::Error::new(error.kind(), format!("{OPENING}{error}"));
    let device_index = device_index(&place.device).map_err(|errno| context(errno.into()))?;
    let socket = bind(place, port).map_err(context)?;
    Ok(Opened { socket: Arc::new(socket), device_index })
}

fn bind(place: &Place, port: u16) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(place.local, port);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(place.device.as_bytes()))?;
    if address.is_ipv4() {
        socket.set_tos_v4(TOS_NETWORK_CONTROL)?;
    } else {
        socket.set_tclass_v6(TOS_NETWORK_CONTROL)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    tracing::debug!(fd = socket.as_raw_fd(), ?place, "probe socket");
    Ok(socket.into())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
