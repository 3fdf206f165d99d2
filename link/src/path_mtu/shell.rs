//! The thread with the sockets of all padded probes. A socket belongs to one (device, local address): it asks for our paths and
//! answers the far side. Its packets are never fragmented, and go out at any size the device takes, whatever the kernel
//! has been told of the path (`IP_PMTUDISC_PROBE`). When the device or the address is missing the socket is tried again every
//! [`REOPEN`], and nothing is concluded meanwhile.

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

use super::core::{BASE_V4, BASE_V6, FLOOR_V4, Input, Moment, Output, Phase, Range, Search};
use super::wire::{Kind, LENGTH, SizeProbe, headers, smallest};
use crate::clock;
use crate::events::EventHub;
use crate::handover::{Fds, HandoverError, SentFds, SocketEstate};
use crate::lock;
use crate::protocol::{
    Event, MTU_MAX, PathMtuConfig, PathMtuPhase, PathMtuStatus, PathMtusConfig, PathMtusStatus,
};

/// How often a socket that is missing, or whose device may have been replaced, is looked at.
const REOPEN: Duration = Duration::from_millis(500);
/// Datagrams taken from one socket before the others are looked at.
const BATCH_MAX: usize = 64;
/// Answers to one far side in a second, and how many may come at once. A search takes fewer.
const ANSWERS_PER_SECOND: f64 = 250.0;
/// Longest datagram that is sent or taken.
const DATAGRAM_MAX: usize = MTU_MAX as usize;

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
    config: PathMtuConfig,
    search: Search,
    /// What the far side says that it found.
    far_mtu: Option<u16>,
    /// Answers that may still be given, and when that was.
    budget: (f64, Moment),
    answered: u64,
    error: Option<String>,
}

struct Paths {
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
pub(crate) struct PathMtuEstate {
    port: u16,
    nonce: u64,
    paths: Vec<PathEstate>,
    sockets: Vec<SocketEstate>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PathEstate {
    config: PathMtuConfig,
    search: Search,
    far_mtu: Option<u16>,
    answered: u64,
    error: Option<String>,
}

struct Common {
    paths: Mutex<Paths>,
    wake: EventFd,
    events: Arc<EventHub>,
}

/// The running measurement. Dropping it stops the thread.
pub(crate) struct PathMtuShell {
    common: Arc<Common>,
    thread: Option<JoinHandle<()>>,
}

impl PathMtuShell {
    /// Starts the thread, without paths.
    pub(crate) fn start(events: Arc<EventHub>) -> io::Result<Self> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
        let paths = Paths {
            port: PathMtusConfig::default().port,
            nonce: u64::from_ne_bytes(nonce),
            paths: BTreeMap::new(),
            sockets: BTreeMap::new(),
            look_at_sockets: Moment::ZERO,
            stop: false,
        };
        let mut shell = Self::with(paths, events)?;
        shell.resume()?;
        Ok(shell)
    }

    fn with(paths: Paths, events: Arc<EventHub>) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let common = Arc::new(Common { paths: Mutex::new(paths), wake, events });
        Ok(Self { common, thread: None })
    }

    /// What a former process handed over; [`PathMtuShell::resume`] follows.
    pub(crate) fn take_up(
        estate: PathMtuEstate,
        fds: &mut Fds,
        events: Arc<EventHub>,
    ) -> Result<Self, HandoverError> {
        let paths = Paths::take_up(estate, fds)?;
        Self::with(paths, events).map_err(|error| HandoverError::Channel("make an eventfd", error))
    }

    /// Ends the thread; everything else stays as it is.
    pub(crate) fn pause(&mut self) {
        lock(&self.common.paths).stop = true;
        self.common.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread wt-path-mtu had panicked");
        }
    }

    /// Goes on after [`PathMtuShell::pause`].
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        lock(&self.common.paths).stop = false;
        let seen = Arc::clone(&self.common);
        let run = move || run(&seen);
        self.thread = Some(thread::Builder::new().name("wt-path-mtu".to_owned()).spawn(run)?);
        Ok(())
    }

    /// What a successor goes on with.
    pub(crate) fn estate(&self, fds: &mut SentFds) -> io::Result<PathMtuEstate> {
        lock(&self.common.paths).estate(fds)
    }

    /// Makes the set of paths be as wanted (it was validated); an unchanged path keeps its state.
    pub(crate) fn set(&self, wanted: PathMtusConfig) -> Vec<String> {
        let now = self.common.now();
        let touched = lock(&self.common.paths).set(wanted, now, &self.common.events);
        self.common.wake();
        touched
    }

    /// Every path as it is.
    pub(crate) fn list(&self) -> PathMtusStatus {
        let now = self.common.now();
        let paths = lock(&self.common.paths);
        PathMtusStatus {
            port: paths.port,
            paths: paths.paths.values().map(|path| path.status(now)).collect(),
        }
    }
}

impl Drop for PathMtuShell {
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

type OpenSocket = (Place, Arc<UdpSocket>);

fn run(common: &Common) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    // Searches may have stood still until here: what has come meanwhile counts before the time does.
    let waiting = lock(&common.paths).open_sockets();
    for (place, socket) in &waiting {
        lock(&common.paths).drain(place, socket, common, &mut buffer);
    }
    loop {
        let (deadline, sockets) = {
            let mut paths = lock(&common.paths);
            if paths.stop {
                return;
            }
            let now = common.now();
            paths.mend_sockets(now);
            paths.on_timer(now, &common.events, &mut buffer);
            (paths.next_deadline(), paths.open_sockets())
        };
        // What arrived is looked at before the time is: a thread that was not let run has answers waiting.
        for (place, socket) in wait(common, &sockets, deadline.saturating_sub(common.now())) {
            lock(&common.paths).drain(place, socket, common, &mut buffer);
        }
    }
}

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

impl Paths {
    fn estate(&self, fds: &mut SentFds) -> io::Result<PathMtuEstate> {
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
        Ok(PathMtuEstate { port: self.port, nonce: self.nonce, paths, sockets })
    }

    fn take_up(estate: PathMtuEstate, fds: &mut Fds) -> Result<Self, HandoverError> {
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

    fn set(&mut self, wanted: PathMtusConfig, now: Moment, events: &EventHub) -> Vec<String> {
        let mut touched = Vec::new();
        if wanted.port != self.port {
            self.port = wanted.port;
            self.sockets.clear();
            touched.push("port".to_owned());
        }
        let mut former = std::mem::take(&mut self.paths);
        for config in wanted.paths {
            let name = config.name.clone();
            let found = former.remove(&name);
            let what = if found.is_some() { "replaced" } else { "added" };
            let kept =
                found.and_then(|mut path| path.change(&config, now, events, &mut touched).then_some(path));
            let path = kept.unwrap_or_else(|| {
                touched.push(format!("paths[{name}].{what}"));
                Path::new(config, now)
            });
            self.paths.insert(name, path);
        }
        touched.extend(former.keys().map(|name| format!("paths[{name}].removed")));
        self.look_at_sockets = now;
        touched
    }

    /// Opens what is wanted and not open, closes what is not wanted or not of this device any more.
    fn mend_sockets(&mut self, now: Moment) {
        if now < self.look_at_sockets {
            return;
        }
        self.look_at_sockets = now + REOPEN;
        let wanted: Vec<Place> = self.paths.values().map(Path::place).collect();
        self.sockets.retain(|place, opened| {
            wanted.contains(place) && device_index(&place.device).ok() == Some(opened.device_index)
        });
        for path in self.paths.values_mut() {
            let place = path.place();
            if self.sockets.contains_key(&place) {
                continue;
            }
            match open(&place, self.port) {
                Ok(opened) => {
                    path.error = None;
                    self.sockets.insert(place, opened);
                }
                Err(error) => path.error = Some(format!("open a socket for padded probes: {error}")),
            }
        }
    }

    fn on_timer(&mut self, now: Moment, events: &EventHub, buffer: &mut [u8]) {
        for path in self.paths.values_mut() {
            if path.search.next_deadline() <= now {
                let socket = self.sockets.get(&path.place()).map(|opened| &*opened.socket);
                let way = Way { socket, port: self.port, nonce: self.nonce, events };
                path.feed(now, Input::Timer, &way, buffer);
            }
        }
    }

    fn next_deadline(&self) -> Moment {
        let timers = self.paths.values().map(|path| path.search.next_deadline());
        timers.min().unwrap_or(Moment::MAX).min(self.look_at_sockets)
    }

    fn open_sockets(&self) -> Vec<OpenSocket> {
        self.sockets.iter().map(|(place, open)| (place.clone(), Arc::clone(&open.socket))).collect()
    }

    fn drain(&mut self, place: &Place, socket: &UdpSocket, common: &Common, buffer: &mut [u8]) {
        for _ in 0..BATCH_MAX {
            match socket.recv_from(buffer) {
                Ok((length, from)) => {
                    if let Some(probe) = SizeProbe::decode(&buffer[..length]) {
                        self.receive(place, socket, (probe, length), from, common, buffer);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => tracing::trace!(%error, "socket of padded probes"),
            }
        }
    }

    fn receive(
        &mut self,
        place: &Place,
        socket: &UdpSocket,
        (probe, length): (SizeProbe, usize),
        from: SocketAddr,
        common: &Common,
        buffer: &mut [u8],
    ) {
        if from.port() != self.port {
            return;
        }
        let path =
            self.paths.values_mut().find(|path| path.config.remote == from.ip() && path.place() == *place);
        let Some(path) = path else { return };
        let now = common.now();
        match probe.kind {
            Kind::Request => {
                let arrived = u16::try_from(length).unwrap_or(u16::MAX).saturating_add(headers(from.ip()));
                if arrived == probe.size && path.may_answer(now) {
                    path.hear(probe.mtu);
                    let mtu = path.search.mtu().unwrap_or(0);
                    let answer = SizeProbe { kind: Kind::Answer, mtu, ..probe }.encode();
                    path.answered += u64::from(socket.send_to(&answer, from).is_ok());
                }
            }
            Kind::Answer if probe.nonce == self.nonce => {
                path.hear(probe.mtu);
                let way =
                    Way { socket: Some(socket), port: self.port, nonce: self.nonce, events: &common.events };
                path.feed(now, Input::Answer { sequence: probe.sequence }, &way, buffer);
            }
            Kind::Answer => {}
        }
    }
}

/// What a path needs to send.
struct Way<'a> {
    socket: Option<&'a UdpSocket>,
    port: u16,
    nonce: u64,
    events: &'a EventHub,
}

impl Path {
    fn estate(&self) -> PathEstate {
        PathEstate {
            config: self.config.clone(),
            search: self.search.clone(),
            far_mtu: self.far_mtu,
            answered: self.answered,
            error: self.error.clone(),
        }
    }

    fn take_up(estate: PathEstate, now: Moment) -> Self {
        Self {
            config: estate.config,
            search: estate.search,
            far_mtu: estate.far_mtu,
            budget: (ANSWERS_PER_SECOND, now),
            answered: estate.answered,
            error: estate.error,
        }
    }

    fn new(config: PathMtuConfig, now: Moment) -> Self {
        Self {
            search: Search::new(range(&config), now),
            config,
            far_mtu: None,
            budget: (ANSWERS_PER_SECOND, now),
            answered: 0,
            error: None,
        }
    }

    fn place(&self) -> Place {
        Place { device: self.config.device.clone(), local: self.config.local }
    }

    /// True if this path goes on under the configuration: only its bound may differ.
    fn change(
        &mut self,
        config: &PathMtuConfig,
        now: Moment,
        events: &EventHub,
        touched: &mut Vec<String>,
    ) -> bool {
        let mut other = self.config.clone();
        other.max = config.max;
        if other != *config {
            return false;
        }
        if self.config.max != config.max {
            touched.push(format!("paths[{}].max", config.name));
            self.config = other;
            for output in self.search.set_range(range(config), now) {
                if let Output::Found(mtu) = output {
                    self.announce(mtu, events);
                }
            }
        }
        true
    }

    /// Takes what happened, and does what follows from it.
    fn feed(&mut self, now: Moment, input: Input, way: &Way<'_>, buffer: &mut [u8]) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for output in self.search.handle(now, input) {
                match output {
                    Output::Found(mtu) => self.announce(mtu, way.events),
                    Output::Send { sequence, size } => {
                        if self.ask(sequence, size, way, buffer) == Sent::TooBig {
                            inputs.push(Input::Refused { sequence });
                        }
                    }
                }
            }
        }
    }

    fn ask(&mut self, sequence: u64, size: Option<u16>, way: &Way<'_>, buffer: &mut [u8]) -> Sent {
        let Some(socket) = way.socket else { return Sent::Not };
        let remote = self.config.remote;
        let size = size.unwrap_or(0).max(smallest(remote));
        let mtu = self.search.mtu().unwrap_or(0);
        let probe = SizeProbe { kind: Kind::Request, size, nonce: way.nonce, sequence, mtu };
        let datagram = &mut buffer[..usize::from(size - headers(remote))];
        datagram.fill(0);
        datagram[..LENGTH].copy_from_slice(&probe.encode());
        match socket.send_to(datagram, SocketAddr::new(remote, way.port)) {
            Ok(_) => {
                self.error = None;
                Sent::Went
            }
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Sent::TooBig,
            Err(error) => {
                self.error = Some(error.to_string());
                Sent::Not
            }
        }
    }

    /// Notes what the far side found for its direction.
    fn hear(&mut self, mtu: u16) {
        self.far_mtu = Some(mtu).filter(|mtu| *mtu != 0);
    }

    /// A token bucket: true if one more answer may be given.
    fn may_answer(&mut self, now: Moment) -> bool {
        let (tokens, updated) = self.budget;
        let earned = now.saturating_sub(updated).as_secs_f64() * ANSWERS_PER_SECOND;
        let tokens = (tokens + earned).min(ANSWERS_PER_SECOND);
        let may = tokens >= 1.0;
        self.budget = (if may { tokens - 1.0 } else { tokens }, now);
        may
    }

    fn announce(&self, mtu: u16, events: &EventHub) {
        tracing::info!(path = self.config.name, mtu, "path MTU");
        events.publish(&Event::PathMtu { name: self.config.name.clone(), mtu });
    }

    fn status(&self, now: Moment) -> PathMtuStatus {
        let phase = match self.search.phase() {
            Phase::Silent => PathMtuPhase::Silent,
            Phase::Base => PathMtuPhase::Base,
            Phase::Search => PathMtuPhase::Search,
            Phase::Complete => PathMtuPhase::Complete,
            Phase::Error => PathMtuPhase::Error,
        };
        let since = now.saturating_sub(self.search.since());
        PathMtuStatus {
            config: self.config.clone(),
            phase,
            mtu: self.search.mtu(),
            far_mtu: self.far_mtu,
            breaks_at: self.search.breaks_at(),
            since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            changes: self.search.changes(),
            black_holes: self.search.black_holes(),
            sent: self.search.sent(),
            answered: self.answered,
            error: self.error.clone(),
        }
    }
}

#[derive(PartialEq, Eq)]
enum Sent {
    Went,
    /// The device does not take that size.
    TooBig,
    Not,
}

fn range(config: &PathMtuConfig) -> Range {
    let (floor, base) = if config.remote.is_ipv4() { (FLOOR_V4, BASE_V4) } else { (BASE_V6, BASE_V6) };
    Range { floor, base, max: config.max }
}

fn device_index(device: &str) -> nix::Result<u32> {
    nix::net::if_::if_nametoindex(device)
}

fn open(place: &Place, port: u16) -> io::Result<Opened> {
    let device_index = device_index(&place.device).map_err(io::Error::from)?;
    let address = SocketAddr::new(place.local, port);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(place.device.as_bytes()))?;
    keep_whole(&socket, address.is_ipv4())?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(Opened { socket: Arc::new(socket.into()), device_index })
}

/// Packets of this socket are never fragmented, here or on their way, and are sent whatever the path is said to carry.
fn keep_whole(socket: &Socket, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 {
        return set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE);
    }
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
    set(socket, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
}

fn set(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: `value` is an int that outlives the call, and `length` is its size.
    let failed =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if failed < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
