//! The threads around the sessions. `wt-bfd` receives, keeps time and sends, and waits for nothing but
//! datagrams and its next deadline, which is a point in time and not a wait: what one packet takes
//! delays no other. `wt-bfd-sockets` ([`mend`]) opens the sockets.
//!
//! Datagrams are looked at before deadlines: a process that was stopped for a while reads what came
//! meanwhile before it takes the silence for the neighbour's.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU32;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;

use super::estate::BfdEstate;
use super::session::{Moment, Output};
use super::socket::{self, Opened, Sender};
use super::table::{Arrival, Entry, Table, settings};
use super::wire::{Received, State};
use super::{Drops, mend};
use crate::clock;
use crate::events::EventHub;
use crate::handover::{Fds, HandoverError, SentFds};
use crate::lock;
use crate::protocol::{BfdConfig, BfdSessionsConfig, BfdSessionsStatus, BfdState, BfdStatus, Event};

/// Datagrams taken from one socket before the others are looked at: more than its queue holds, because what waited there through
/// a stall of ours shows that a neighbour lives, and is read before a timer says otherwise.
const BATCH_MAX: usize = 2_048;
/// Octets of the longest datagram that can be one: Length has 8 bits.
const DATAGRAM_MAX: usize = 255;

/// Everything that the threads share.
#[derive(Debug)]
pub(super) struct Bfd {
    pub(super) table: Table,
    pub(super) senders: BTreeMap<String, Sender>,
    pub(super) ports: Arc<Vec<Arc<Opened>>>,
    pub(super) drops: Drops,
    pub(super) stop: bool,
}

pub(super) struct Common {
    pub(super) bfd: Mutex<Bfd>,
    /// Wakes `wt-bfd`.
    wake: EventFd,
    /// Wakes `wt-bfd-sockets`: true when it has to look at once.
    pub(super) look: (Mutex<bool>, Condvar),
    events: Arc<EventHub>,
}

/// The running sessions. Dropping it stops the threads.
pub(crate) struct BfdShell {
    common: Arc<Common>,
    threads: Vec<JoinHandle<()>>,
}

impl BfdShell {
    /// Starts the threads, without sessions.
    pub(crate) fn start(events: Arc<EventHub>) -> io::Result<Self> {
        let bfd = Bfd {
            table: Table::default(),
            senders: BTreeMap::new(),
            ports: Arc::new(Vec::new()),
            drops: Drops::default(),
            stop: false,
        };
        let mut shell = Self::with(bfd, events)?;
        shell.resume()?;
        Ok(shell)
    }

    fn with(bfd: Bfd, events: Arc<EventHub>) -> io::Result<Self> {
        let common = Arc::new(Common {
            bfd: Mutex::new(bfd),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            look: (Mutex::new(false), Condvar::new()),
            events,
        });
        Ok(Self { common, threads: Vec::new() })
    }

    /// The sessions of a former process; [`BfdShell::resume`] follows. For their neighbours nothing has happened.
    pub(crate) fn take_up(
        estate: BfdEstate,
        fds: &mut Fds,
        events: Arc<EventHub>,
    ) -> Result<Self, HandoverError> {
        let bfd = Bfd::take_up(estate, fds)?;
        Self::with(bfd, events).map_err(|error| HandoverError::Channel("make an eventfd", error))
    }

    /// Ends the threads; everything else stays as it is.
    pub(crate) fn pause(&mut self) {
        lock(&self.common.bfd).stop = true;
        self.common.wake();
        self.common.look_at_sockets();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a BFD thread had panicked");
            }
        }
    }

    /// Goes on after [`BfdShell::pause`].
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        lock(&self.common.bfd).stop = false;
        let (packets, sockets) = (Arc::clone(&self.common), Arc::clone(&self.common));
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        self.threads.push(named("wt-bfd").spawn(move || run(&packets))?);
        self.threads.push(named("wt-bfd-sockets").spawn(move || mend::run(&sockets))?);
        Ok(())
    }

    /// What a successor goes on with.
    pub(crate) fn estate(&self, fds: &mut SentFds) -> io::Result<BfdEstate> {
        lock(&self.common.bfd).estate(fds)
    }

    /// Makes the set of sessions be as wanted (it was validated); one with the same neighbour by the same
    /// way goes on.
    ///
    /// # Errors
    /// There are no random bytes to make a discriminator of.
    pub(crate) fn set(&self, wanted: BfdSessionsConfig) -> io::Result<Vec<String>> {
        let now = self.common.now();
        let touched = lock(&self.common.bfd).set(wanted, now, &self.common.events)?;
        self.common.wake();
        self.common.look_at_sockets();
        Ok(touched)
    }

    /// Every session as it is, without those that are leaving.
    pub(crate) fn list(&self) -> BfdSessionsStatus {
        let now = self.common.now();
        let bfd = lock(&self.common.bfd);
        let stay = bfd.table.entries.values().filter(|entry| entry.leaves_at.is_none());
        BfdSessionsStatus { sessions: stay.map(|e| status(e, now)).collect(), drops: bfd.drops.list() }
    }
}

impl Drop for BfdShell {
    fn drop(&mut self) {
        self.pause();
    }
}

impl Common {
    fn now(&self) -> Moment {
        clock::monotonic()
    }

    pub(super) fn wake(&self) {
        // A full eventfd is readable as well, which is all that is wanted.
        let _ = self.wake.write(1);
    }

    fn look_at_sockets(&self) {
        *lock(&self.look.0) = true;
        self.look.1.notify_one();
    }
}

/// The thread of packets and time.
fn run(common: &Common) {
    // Sessions may have stood still until here: what has come meanwhile counts before the time does.
    let mut ready: Vec<Arc<Opened>> = lock(&common.bfd).ports.to_vec();
    loop {
        let (deadline, ports) = {
            let mut bfd = lock(&common.bfd);
            if bfd.stop {
                return;
            }
            for opened in ready {
                bfd.drain(&opened, common);
            }
            bfd.on_timer(common.now(), &common.events);
            (bfd.table.next_deadline(), Arc::clone(&bfd.ports))
        };
        ready = wait(common, &ports, deadline);
    }
}

/// Waits for datagrams, a change, or the deadline; returns the sockets with datagrams.
fn wait(common: &Common, ports: &[Arc<Opened>], deadline: Option<Moment>) -> Vec<Arc<Opened>> {
    let timeout = deadline.map(|at| TimeSpec::from_duration(at.saturating_sub(common.now())));
    let mut fds = vec![PollFd::new(common.wake.as_fd(), PollFlags::POLLIN)];
    fds.extend(ports.iter().map(|opened| PollFd::new(opened.socket.as_fd(), PollFlags::POLLIN)));
    if let Err(error) = ppoll(&mut fds, timeout, None) {
        if error != nix::Error::EINTR {
            tracing::error!(%error, "poll");
        }
        return Vec::new();
    }
    if fds[0].any().unwrap_or(false) {
        let _ = common.wake.read();
    }
    let ready = fds[1..].iter().map(|fd| fd.any().unwrap_or(false));
    ports.iter().zip(ready).filter(|(_, ready)| *ready).map(|(opened, _)| Arc::clone(opened)).collect()
}

impl Bfd {
    fn set(&mut self, wanted: BfdSessionsConfig, now: Moment, events: &EventHub) -> io::Result<Vec<String>> {
        let mut touched = Vec::new();
        let mut former: Vec<String> = self.table.entries.keys().cloned().collect();
        for config in wanted.sessions {
            former.retain(|name| *name != config.name);
            self.set_one(config, now, events, &mut touched)?;
        }
        for name in former {
            self.let_go(&name, now, events, &mut touched)?;
        }
        Ok(touched)
    }

    fn set_one(
        &mut self,
        config: BfdConfig,
        now: Moment,
        events: &EventHub,
        touched: &mut Vec<String>,
    ) -> io::Result<()> {
        let name = config.name.clone();
        match self.table.entries.get_mut(&name) {
            Some(entry) if entry.is_same_path(&config) => {
                let leaving = entry.leaves_at.take().is_some();
                if entry.config != config || leaving {
                    touched.push(format!("sessions[{name}].{}", if leaving { "added" } else { "changed" }));
                    let outputs = entry.session.configure(settings(&config), now, random()?);
                    entry.config = config;
                    self.perform(&name, outputs, events);
                }
            }
            found => {
                touched
                    .push(format!("sessions[{name}].{}", if found.is_some() { "replaced" } else { "added" }));
                let discriminator = self.discriminator()?;
                self.senders.remove(&name);
                self.table.insert(Entry::new(config, discriminator, random()?, now));
            }
        }
        self.table.reschedule(&name);
        Ok(())
    }

    /// A session that is taken out says so for a detection time.
    fn let_go(
        &mut self,
        name: &str,
        now: Moment,
        events: &EventHub,
        touched: &mut Vec<String>,
    ) -> io::Result<()> {
        let Some(entry) = self.table.entries.get_mut(name) else { return Ok(()) };
        if entry.leaves_at.is_some() {
            return Ok(());
        }
        touched.push(format!("sessions[{name}].removed"));
        let admin_down = BfdConfig { admin_down: true, ..entry.config.clone() };
        let outputs = entry.session.configure(settings(&admin_down), now, random()?);
        entry.leaves_at = Some(now + entry.session.interval() * u32::from(entry.config.detect_mult));
        entry.config = admin_down;
        self.perform(name, outputs, events);
        self.table.reschedule(name);
        Ok(())
    }

    /// A discriminator that no session has, not to be guessed (RFC 5880 §9).
    fn discriminator(&self) -> io::Result<NonZeroU32> {
        loop {
            if let Some(number) = NonZeroU32::new(random()?).filter(|n| !self.table.has(n.get())) {
                return Ok(number);
            }
        }
    }

    fn on_timer(&mut self, now: Moment, events: &EventHub) {
        for name in self.table.due(now) {
            let Some(entry) = self.table.entries.get_mut(&name) else { continue };
            if entry.leaves_at.is_some_and(|at| now >= at) {
                self.table.remove(&name);
                self.senders.remove(&name);
                continue;
            }
            let outputs = entry.session.on_timer(now, random().unwrap_or(0));
            self.perform(&name, outputs, events);
            self.table.reschedule(&name);
        }
    }

    fn drain(&mut self, opened: &Opened, common: &Common) {
        let mut buffer = [0; DATAGRAM_MAX];
        for _ in 0..BATCH_MAX {
            match socket::receive(&opened.socket, &opened.port, &mut buffer) {
                Ok(Some((length, arrival))) => self.take(&buffer[..length], &arrival, common),
                Ok(None) => return,
                Err(error) => {
                    tracing::trace!(%error, "BFD socket");
                    return;
                }
            }
        }
    }

    fn take(&mut self, datagram: &[u8], arrival: &Arrival, common: &Common) {
        let now = common.now();
        let outcome = Received::decode(datagram).and_then(|received| {
            let entry = self.table.find(&received.packet, arrival)?;
            let outputs = entry.session.receive(&received, now, random().unwrap_or(0))?;
            Ok((entry.config.name.clone(), outputs))
        });
        match outcome {
            Ok((name, outputs)) => {
                self.perform(&name, outputs, &common.events);
                self.table.reschedule(&name);
            }
            Err(reason) => self.drops.count(reason),
        }
    }

    fn perform(&mut self, name: &str, outputs: Vec<Output>, events: &EventHub) {
        let Some(entry) = self.table.entries.get_mut(name) else { return };
        for output in outputs {
            match output {
                Output::Send(datagram) => {
                    if let Some(sender) = self.senders.get(name) {
                        let sent = sender.send(datagram.bytes());
                        entry.send_error = sent.err().map(|error| format!("send: {error}"));
                    }
                }
                Output::Change { from, to, diagnostic, remote } => {
                    let diagnostic = diagnostic.name().to_owned();
                    tracing::info!(session = name, ?from, ?to, diagnostic, "BFD");
                    events.publish(&Event::Bfd {
                        name: name.to_owned(),
                        former: shown(from),
                        state: shown(to),
                        diagnostic,
                        remote_state: shown(remote.state),
                        remote_control_plane_independent: remote.control_plane_independent,
                    });
                }
            }
        }
    }
}

fn status(entry: &Entry, now: Moment) -> BfdStatus {
    let session = &entry.session;
    let remote = session.remote();
    let (sent, received) = session.packets();
    BfdStatus {
        config: BfdConfig { authentication: None, ..entry.config.clone() },
        authentication: entry.config.authentication.as_ref().map(|a| a.kind),
        state: shown(session.state()),
        since_ms: u64::try_from(now.saturating_sub(session.since()).as_millis()).unwrap_or(u64::MAX),
        changes: session.changes(),
        diagnostic: session.diagnostic().name().to_owned(),
        local_discriminator: session.local_discriminator().get(),
        remote_discriminator: remote.discriminator,
        remote_state: shown(remote.state),
        remote_diagnostic: remote.diagnostic.name().to_owned(),
        remote_control_plane_independent: remote.control_plane_independent,
        interval_us: micros(session.interval()),
        detection_time_us: micros(session.detection_time()),
        sent,
        received,
        error: entry.open_error.clone().or_else(|| entry.send_error.clone()),
    }
}

fn shown(state: State) -> BfdState {
    match state {
        State::AdminDown => BfdState::AdminDown,
        State::Down => BfdState::Down,
        State::Init => BfdState::Init,
        State::Up => BfdState::Up,
    }
}

pub(super) fn random() -> io::Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(u32::from_ne_bytes(bytes))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
