//! One session (RFC 5880 §6.8): state variables, timers, Poll Sequences. No clock, no socket, no
//! randomness: time and random bytes come in as arguments, packets and changes go out as data.
//!
//! ```text
//!                            UP, ADMIN DOWN, TIMER
//!                           ┌──────────┐
//!                           ▼          │ INIT                    (§6.2; what is over an arrow is the
//!           DOWN  ┌────────Down────────┐                         state in the received packet, TIMER
//!                 ▼                    ▼                         the end of the detection time)
//!               Init ──INIT, UP────▶  Up
//!                 ▲  ADMIN DOWN,       │ DOWN, ADMIN DOWN, TIMER
//!                 └─ TIMER ─▶ Down ◀───┘
//! ```
//!
//! Parameters reach the neighbour by a Poll Sequence (§6.5), and what would make it miss us meanwhile
//! is put into force only when that sequence has ended (§6.8.3). Unless the session is Up, at most one
//! packet a second is sent (slow start). Demand mode is never asked for, and honoured when the
//! neighbour asks (§6.6); echo is not offered: Required Min Echo RX Interval is 0.

use std::num::NonZeroU32;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Discard;
use super::auth::{self, Datagram, Sequence};
use super::wire::{Diagnostic, Packet, Received, State};
use crate::protocol::BfdAuthentication;

/// A moment, by a clock that only goes on ([`crate::clock::monotonic`]).
pub(crate) type Moment = Duration;

/// Least Desired Min TX Interval of a session that is not Up, in microseconds (§6.8.3).
const SLOW_START_US: u32 = 1_000_000;

/// How a session is to be. Intervals are microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Desired Min TX Interval once Up, not 0.
    pub(crate) desired_min_tx_us: u32,
    /// Required Min RX Interval; 0 asks the neighbour for no periodic packets.
    pub(crate) required_min_rx_us: u32,
    /// Detect Mult, not 0.
    pub(crate) detect_mult: u8,
    /// Say nothing until the neighbour does (§6.1).
    pub(crate) passive: bool,
    /// Hold the session in AdminDown (§6.8.16).
    pub(crate) admin_down: bool,
    /// Of every packet, both ways.
    pub(crate) authentication: Option<BfdAuthentication>,
}

/// What a session wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send these bytes.
    Send(Datagram),
    /// The state changed. `remote` is what the neighbour had said last: at the end of the detection time it is
    /// forgotten, but what follows from it (RFC 5882 §3.2, §4.3) is still to be decided.
    Change { from: State, to: State, diagnostic: Diagnostic, remote: Remote },
}

/// A Poll Sequence in progress (§6.5).
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Poll {
    /// A packet with P has left.
    asked: bool,
    /// Something else changed after that: another sequence follows this one.
    again: bool,
}

/// What the neighbour said last, as the variables of §6.8.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remote {
    /// bfd.RemoteDiscr: 0 while unknown.
    pub(crate) discriminator: u32,
    /// bfd.RemoteSessionState.
    pub(crate) state: State,
    pub(crate) diagnostic: Diagnostic,
    /// bfd.RemoteMinRxInterval.
    pub(crate) required_min_rx_us: u32,
    /// Its Desired Min TX Interval.
    pub(crate) desired_min_tx_us: u32,
    /// Its Detect Mult.
    pub(crate) detect_mult: u8,
    /// bfd.RemoteDemandMode.
    pub(crate) demand: bool,
    /// Its C bit.
    pub(crate) control_plane_independent: bool,
}

impl Remote {
    /// §6.8.1: as before the first packet.
    const UNKNOWN: Self = Self {
        discriminator: 0,
        state: State::Down,
        diagnostic: Diagnostic::NONE,
        required_min_rx_us: 1,
        desired_min_tx_us: 0,
        detect_mult: 0,
        demand: false,
        control_plane_independent: false,
    };
}

/// One session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Session {
    settings: Settings,
    /// bfd.SessionState.
    state: State,
    since: Moment,
    changes: u64,
    /// bfd.LocalDiscr.
    local_discriminator: NonZeroU32,
    /// bfd.LocalDiag.
    diagnostic: Diagnostic,
    remote: Remote,
    /// Desired Min TX Interval that our own sending goes by.
    tx_in_force_us: u32,
    /// Desired Min TX Interval that is told.
    tx_told_us: u32,
    /// Required Min RX Interval that detection goes by.
    rx_in_force_us: u32,
    poll: Option<Poll>,
    sequence: Sequence,
    /// The last packet of the neighbour; `None` once the detection time is over.
    heard: Option<Moment>,
    /// When the neighbour's sequence numbers are forgotten (§6.8.1, bfd.AuthSeqKnown).
    forget_sequence_at: Option<Moment>,
    /// When the last periodic packet was due, and the random number that shortens the wait for the next.
    last_sent: Option<Moment>,
    jitter: u32,
    sent: u64,
    received: u64,
}

impl Session {
    /// A session that is Down (or AdminDown, if so set); its first packet is due at once.
    pub(crate) fn new(
        settings: Settings,
        local_discriminator: NonZeroU32,
        first_sequence: u32,
        now: Moment,
    ) -> Self {
        let down = if settings.admin_down { State::AdminDown } else { State::Down };
        let tx = settings.desired_min_tx_us.max(SLOW_START_US);
        Self {
            state: down,
            since: now,
            changes: 0,
            local_discriminator,
            diagnostic: if settings.admin_down {
                Diagnostic::ADMINISTRATIVELY_DOWN
            } else {
                Diagnostic::NONE
            },
            remote: Remote::UNKNOWN,
            tx_in_force_us: tx,
            tx_told_us: tx,
            rx_in_force_us: settings.required_min_rx_us,
            poll: None,
            sequence: Sequence { transmitted: first_sequence, received: None },
            heard: None,
            forget_sequence_at: None,
            last_sent: None,
            jitter: 0,
            sent: 0,
            received: 0,
            settings,
        }
    }

    /// Takes another configuration over; the session goes on (§6.8.3, §6.8.12, §6.8.16).
    pub(crate) fn configure(&mut self, settings: Settings, now: Moment, random: u32) -> Vec<Output> {
        let former = std::mem::replace(&mut self.settings, settings);
        let mut outputs = Vec::new();
        if former.authentication != self.settings.authentication {
            self.sequence.received = None;
        }
        if former.admin_down != self.settings.admin_down {
            let (state, diagnostic) = match self.settings.admin_down {
                true => (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN),
                false => (State::Down, Diagnostic::NONE),
            };
            self.turn(state, diagnostic, now, &mut outputs);
        }
        if former.required_min_rx_us != self.settings.required_min_rx_us {
            // Reduced while Up, the former value detects until the neighbour has heard of it.
            if self.state != State::Up || self.settings.required_min_rx_us > self.rx_in_force_us {
                self.rx_in_force_us = self.settings.required_min_rx_us;
            }
            self.begin_poll();
        }
        self.adjust_tx();
        if !outputs.is_empty() {
            self.send_now(now, random, &mut outputs);
        }
        outputs
    }

    /// Takes a packet that was found to be for this session (§6.8.6, from the authentication on).
    ///
    /// # Errors
    /// The reason why it is discarded; the session is then as before.
    pub(crate) fn receive(
        &mut self,
        received: &Received<'_>,
        now: Moment,
        random: u32,
    ) -> Result<Vec<Output>, Discard> {
        if self.forget_sequence_at.is_some_and(|at| now >= at) {
            self.sequence.received = None;
        }
        auth::verify(received, self.settings.authentication.as_ref(), &mut self.sequence)?;
        let packet = &received.packet;
        self.received += 1;
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            required_min_rx_us: packet.required_min_rx_us,
            desired_min_tx_us: packet.desired_min_tx_us,
            detect_mult: packet.detect_mult,
            demand: packet.demand,
            control_plane_independent: packet.control_plane_independent,
        };
        self.forget_sequence_at = Some(now + 2 * self.detection_time());
        if packet.is_final {
            self.end_poll();
        }
        self.heard = Some(now);
        // §6.8.6 discards the packet here: it moves nothing, and is not answered.
        if self.state == State::AdminDown {
            return Ok(Vec::new());
        }
        let mut outputs = Vec::new();
        self.follow(packet.state, now, &mut outputs);
        if packet.poll {
            // The answer carries the change as well, if there was one.
            outputs.push(Output::Send(self.packet(true)));
        } else if !outputs.is_empty() {
            self.send_now(now, random, &mut outputs);
        }
        Ok(outputs)
    }

    /// The state machine of §6.2 and §6.8.6.
    fn follow(&mut self, remote: State, now: Moment, outputs: &mut Vec<Output>) {
        let signaled = Diagnostic::NEIGHBOR_SIGNALED_DOWN;
        match (self.state, remote) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.turn(State::Down, signaled, now, outputs);
            }
            (State::Down, State::Down) => self.turn(State::Init, Diagnostic::NONE, now, outputs),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.turn(State::Up, Diagnostic::NONE, now, outputs);
            }
            _ => {}
        }
    }

    /// Time went on: a packet may be due, the detection time may be over.
    pub(crate) fn on_timer(&mut self, now: Moment, random: u32) -> Vec<Output> {
        let mut outputs = Vec::new();
        if self.detected_at().is_some_and(|at| now >= at) {
            self.heard = None;
            let expired = Diagnostic::DETECTION_TIME_EXPIRED;
            let lost = matches!(self.state, State::Init | State::Up);
            if lost {
                self.turn(State::Down, expired, now, &mut outputs);
            }
            // §6.8.1: of a neighbour that is silent for a detection time nothing is known.
            self.remote = Remote::UNKNOWN;
            self.poll = None;
            if lost {
                self.send_now(now, random, &mut outputs);
            }
        }
        if let Some(due) = self.send_due()
            && now >= due
        {
            // The rhythm is kept by what was due; after a stop of our own it begins anew.
            let late = now.saturating_sub(due) > self.interval() / 4;
            self.last_sent = Some(if late { now } else { due });
            self.jitter = random;
            outputs.push(Output::Send(self.packet(false)));
        }
        outputs
    }

    /// A way to the neighbour is there (again): what is due goes out without waiting for a packet that
    /// could not leave.
    pub(crate) fn path_opened(&mut self) {
        self.last_sent = None;
    }

    /// When [`Session::on_timer`] is due; `None` if only a packet can wake the session.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        [self.send_due(), self.detected_at()].into_iter().flatten().min()
    }

    /// §6.8.4: Detect Mult of the neighbour, times the interval that both agreed on for its sending.
    pub(crate) fn detection_time(&self) -> Duration {
        let agreed = self.rx_in_force_us.max(self.remote.desired_min_tx_us);
        micros(agreed) * u32::from(self.remote.detect_mult)
    }

    fn detected_at(&self) -> Option<Moment> {
        self.heard.map(|heard| heard + self.detection_time())
    }

    /// The agreed interval of our own sending (§6.8.2), without jitter.
    pub(crate) fn interval(&self) -> Duration {
        micros(self.tx_in_force_us.max(self.remote.required_min_rx_us))
    }

    /// When the next periodic packet is due, if any may be sent (§6.8.7).
    fn send_due(&self) -> Option<Moment> {
        let unknown = self.remote.discriminator == 0;
        let both_up = self.state == State::Up && self.remote.state == State::Up;
        let silent = (self.settings.passive && unknown)
            || self.remote.required_min_rx_us == 0
            || (self.remote.demand && both_up && self.poll.is_none());
        if silent {
            return None;
        }
        Some(self.last_sent.map_or(Moment::ZERO, |last| last + self.jittered()))
    }

    /// §6.8.7: reduced by 0 to 25 %, by 10 to 25 % when a single lost packet would be too many.
    fn jittered(&self) -> Duration {
        let least = if self.settings.detect_mult == 1 { 100 } else { 0 };
        self.interval() * (1000 - least - self.jitter % (251 - least)) / 1000
    }

    /// Sends between periodic packets, because the contents changed (§6.8.7), unless nothing may be
    /// sent at all.
    fn send_now(&mut self, now: Moment, random: u32, outputs: &mut Vec<Output>) {
        if self.send_due().is_some() {
            self.last_sent = Some(now);
            self.jitter = random;
            outputs.push(Output::Send(self.packet(false)));
        }
    }

    fn turn(&mut self, to: State, diagnostic: Diagnostic, now: Moment, outputs: &mut Vec<Output>) {
        let from = std::mem::replace(&mut self.state, to);
        self.diagnostic = diagnostic;
        self.since = now;
        self.changes += 1;
        if to != State::Up {
            // What was asked of the neighbour while Up is void; all of it is in force at once.
            self.poll = None;
            self.rx_in_force_us = self.settings.required_min_rx_us;
        }
        self.adjust_tx();
        outputs.push(Output::Change { from, to, diagnostic, remote: self.remote });
    }

    /// §6.8.3: what is told, and what is in force, of Desired Min TX Interval.
    fn adjust_tx(&mut self) {
        let up = self.state == State::Up;
        let wanted = self.settings.desired_min_tx_us;
        let wanted = if up { wanted } else { wanted.max(SLOW_START_US) };
        if wanted == self.tx_told_us {
            return;
        }
        self.tx_told_us = wanted;
        if !up || wanted < self.tx_in_force_us {
            self.tx_in_force_us = wanted;
        }
        self.begin_poll();
    }

    /// A neighbour that is not known cannot be asked, and hears it with the first packet anyway.
    fn begin_poll(&mut self) {
        if self.remote.discriminator == 0 {
            return;
        }
        match &mut self.poll {
            Some(poll) => poll.again |= poll.asked,
            None => self.poll = Some(Poll::default()),
        }
    }

    fn end_poll(&mut self) {
        match self.poll {
            Some(Poll { asked: true, again: true }) => self.poll = Some(Poll::default()),
            Some(Poll { asked: true, again: false }) => {
                self.poll = None;
                self.tx_in_force_us = self.tx_told_us;
                self.rx_in_force_us = self.settings.required_min_rx_us;
            }
            _ => {}
        }
    }

    /// §6.8.7: the contents of a packet.
    fn packet(&mut self, is_final: bool) -> Datagram {
        let poll = !is_final && self.poll.is_some();
        if let Some(asked) = self.poll.as_mut().filter(|_| poll) {
            asked.asked = true;
        }
        self.sent += 1;
        let packet = Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll,
            is_final,
            control_plane_independent: true,
            demand: false,
            detect_mult: self.settings.detect_mult,
            my_discriminator: self.local_discriminator.get(),
            your_discriminator: self.remote.discriminator,
            desired_min_tx_us: self.tx_told_us,
            required_min_rx_us: self.settings.required_min_rx_us,
            required_min_echo_rx_us: 0,
        };
        auth::seal(&packet, self.settings.authentication.as_ref(), &mut self.sequence)
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Since when it is in its state.
    pub(crate) fn since(&self) -> Moment {
        self.since
    }

    /// How often the state changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Why the state changed last.
    pub(crate) fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    pub(crate) fn local_discriminator(&self) -> NonZeroU32 {
        self.local_discriminator
    }

    /// What the neighbour said last.
    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Packets sent, and packets received that were not discarded for their authentication.
    pub(crate) fn packets(&self) -> (u64, u64) {
        (self.sent, self.received)
    }
}

fn micros(us: u32) -> Duration {
    Duration::from_micros(us.into())
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
