//! One path's state out of probes and answers. No clock, no socket: time comes in as an argument,
//! what is to be sent goes out as data.
//!
//! A probe goes out every interval. *Up* needs [`UP_ANSWERS`] answers in a row; *down* comes when
//! there was none for `dead_after`. An answer shows that both directions carry packets: our request
//! got there and the answer got here. Round-trip time is smoothed as in RFC 6298 §2.
//!
//! Live traffic counts as proof ([`super::live`]): while packets of the tunnel come in and the far side does not complain
//! that ours do not, requests are [`REST`] times rarer, for the figures alone.
//!
//! If the prober itself was stopped (a suspended machine, a starved process) the silence is its
//! own: the path gets one `dead_after` of grace.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::delay::OneWay;
use super::live::{Live, REST};
use crate::protocol::{PROBE_LOSS_WINDOW, PathState};

/// Answers in a row after which a path is up.
pub(crate) const UP_ANSWERS: u32 = 2;
/// Probes remembered until their fate is known.
const HISTORY_MAX: usize = 2 * PROBE_LOSS_WINDOW as usize;

/// A moment, by a clock that only goes on ([`crate::clock::monotonic`]).
pub(crate) type Moment = Duration;

/// How a path is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timing {
    pub(crate) interval: Duration,
    pub(crate) dead_after: Duration,
}

/// What happens to a prober.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Time went on.
    Timer,
    /// An answer to the request with this number came; the far side's clock said this when it left.
    Answer { sequence: u64, answered_at_ns: u64 },
}

/// What a prober wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send a request with this number.
    Send { sequence: u64 },
    /// The path is now so.
    State(PathState),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Sent {
    sequence: u64,
    at: Moment,
    answered: bool,
}

/// The state of one path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Prober {
    timing: Timing,
    state: PathState,
    since: Moment,
    changes: u64,
    next_send: Moment,
    /// Silence counts from here: the last answer, or the end of a stop of our own.
    silent_since: Moment,
    last_answer: Option<Moment>,
    answers_in_row: u32,
    sequence: u64,
    history: VecDeque<Sent>,
    received: u64,
    rtt: Option<Rtt>,
    /// The delay towards the far side.
    out: OneWay,
    /// The delay from there to here.
    back: OneWay,
    #[serde(default)]
    live: Live,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Rtt {
    smoothed: Duration,
    deviation: Duration,
}

impl Prober {
    /// A path that is down until answers come; the first probe is due at once.
    pub(crate) fn new(timing: Timing, now: Moment) -> Self {
        Self {
            timing,
            state: PathState::Down,
            since: now,
            changes: 0,
            next_send: now,
            silent_since: now,
            last_answer: None,
            answers_in_row: 0,
            sequence: 0,
            history: VecDeque::with_capacity(HISTORY_MAX),
            received: 0,
            rtt: None,
            out: OneWay::default(),
            back: OneWay::default(),
            live: Live::default(),
        }
    }

    /// To be told before each [`Input::Timer`]: how many packets the device of the path has received in all; `None`: it
    /// cannot be said.
    pub(crate) fn counted(&mut self, now: Moment, packets: impl Into<Option<u64>>) {
        match packets.into() {
            Some(packets) => self.live.counted(now, packets),
            None => self.live.uncounted(),
        }
    }

    /// A request or an answer came on the path: to be told for each before what it says.
    pub(crate) fn probe_came(&mut self) {
        self.live.probe();
    }

    /// How long ago anything was received, for the far side.
    pub(crate) fn heard_age(&self, now: Moment) -> Option<Duration> {
        self.live.heard_age(now)
    }

    /// The far side said that it had heard us last so long ago.
    pub(crate) fn told(&mut self, now: Moment, age: Duration) {
        let Some(silent) = self.live.told(now, age, self.smoothed_rtt()) else { return };
        // What an answer has shown since stays shown.
        let silent = self.last_answer.map_or(silent, |answer| answer.max(silent));
        self.silent_since = self.silent_since.min(silent);
        self.next_send = self.next_send.min(now);
    }

    /// Traffic shows by itself that packets cross both ways.
    pub(crate) fn is_proven_by_traffic(&self, now: Moment) -> bool {
        self.proven(now).is_some()
    }

    fn proven(&self, now: Moment) -> Option<Moment> {
        let proof = self.live.proves(now, self.timing, self.smoothed_rtt(), self.last_answer);
        proof.filter(|_| self.state == PathState::Up)
    }

    fn smoothed_rtt(&self) -> Duration {
        self.rtt.map_or(Duration::ZERO, |rtt| rtt.smoothed)
    }

    /// Changes the timing and keeps everything else. A shorter patience begins now: what was asked at a slower pace has not
    /// had the time to be answered.
    pub(crate) fn retime(&mut self, timing: Timing, now: Moment) {
        if timing.dead_after < self.timing.dead_after {
            self.silent_since = now;
        }
        self.timing = timing;
        self.next_send = self.next_send.min(now + timing.interval);
    }

    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    /// When [`Input::Timer`] is due.
    pub(crate) fn next_deadline(&self) -> Moment {
        match self.state {
            PathState::Up => self.next_send.min(self.dead_at()),
            PathState::Down => self.next_send,
        }
    }

    fn dead_at(&self) -> Moment {
        self.silent_since + self.timing.dead_after
    }

    /// Takes what happened; returns what is to be done, in order.
    pub(crate) fn handle(&mut self, now: Moment, input: Input) -> Vec<Output> {
        match input {
            Input::Timer => self.on_timer(now),
            Input::Answer { sequence, answered_at_ns } => self.on_answer(now, sequence, answered_at_ns),
        }
    }

    fn on_timer(&mut self, now: Moment) -> Vec<Output> {
        let mut outputs = Vec::new();
        if now >= self.next_deadline() + self.timing.dead_after / 2 {
            self.silent_since = now;
        }
        let proven = self.proven(now);
        if let Some(proof) = proven {
            self.silent_since = self.silent_since.max(proof);
        }
        if now >= self.dead_at() {
            self.answers_in_row = 0;
            if self.state == PathState::Up {
                outputs.push(self.turn(PathState::Down, now));
            }
        }
        if now >= self.next_send {
            let last = self.history.back().map(|sent| sent.at);
            if proven.is_some() && last.is_some_and(|last| now < last + self.timing.interval * REST) {
                self.keep_rhythm(now);
            } else {
                outputs.push(self.send(now));
            }
        }
        outputs
    }

    /// The rhythm is kept; after a stop of our own the probes missed are not made up for.
    fn keep_rhythm(&mut self, now: Moment) {
        self.next_send = (self.next_send + self.timing.interval).max(now + self.timing.interval / 2);
    }

    fn send(&mut self, now: Moment) -> Output {
        self.sequence += 1;
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(Sent { sequence: self.sequence, at: now, answered: false });
        self.keep_rhythm(now);
        Output::Send { sequence: self.sequence }
    }

    fn on_answer(&mut self, now: Moment, sequence: u64, answered_at_ns: u64) -> Vec<Output> {
        let Some(sent) = self.unanswered(sequence) else { return Vec::new() };
        sent.answered = true;
        let (asked_at, sample) = (sent.at, now.saturating_sub(sent.at));
        self.out.take(nanos(asked_at), answered_at_ns);
        self.back.take(answered_at_ns, nanos(now));
        self.received += 1;
        self.rtt = Some(Rtt::after(self.rtt, sample));
        self.last_answer = Some(now);
        self.silent_since = now;
        self.answers_in_row = self.answers_in_row.saturating_add(1);
        if self.state == PathState::Down && self.answers_in_row >= UP_ANSWERS {
            return vec![self.turn(PathState::Up, now)];
        }
        Vec::new()
    }

    /// The probe with that number, if it is remembered and was not answered before.
    fn unanswered(&mut self, sequence: u64) -> Option<&mut Sent> {
        let first = self.history.front()?.sequence;
        let position = usize::try_from(sequence.checked_sub(first)?).ok()?;
        self.history.get_mut(position).filter(|sent| !sent.answered)
    }

    fn turn(&mut self, state: PathState, now: Moment) -> Output {
        self.state = state;
        self.since = now;
        self.changes += 1;
        Output::State(state)
    }

    pub(crate) fn state(&self) -> PathState {
        self.state
    }

    /// Since when the path is in its state.
    pub(crate) fn since(&self) -> Moment {
        self.since
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sequence
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    pub(crate) fn last_answer(&self) -> Option<Moment> {
        self.last_answer
    }

    /// Smoothed round-trip time and its deviation.
    pub(crate) fn rtt(&self) -> Option<(Duration, Duration)> {
        self.rtt.map(|rtt| (rtt.smoothed, rtt.deviation))
    }

    /// The delay of each direction: towards the far side, and from there.
    pub(crate) fn one_way(&self) -> (&OneWay, &OneWay) {
        (&self.out, &self.back)
    }

    /// Loss in permille over the last [`PROBE_LOSS_WINDOW`] probes that were answered or are too
    /// old for it.
    pub(crate) fn loss_permille(&self, now: Moment) -> u16 {
        let patience = self.timing.dead_after.min(self.timing.interval * PROBE_LOSS_WINDOW);
        let known = self
            .history
            .iter()
            .rev()
            .filter(|sent| sent.answered || now.saturating_sub(sent.at) >= patience)
            .take(PROBE_LOSS_WINDOW as usize);
        let (mut total, mut lost) = (0_u32, 0_u32);
        for sent in known {
            total += 1;
            lost += u32::from(!sent.answered);
        }
        (lost * 1000).checked_div(total).map_or(0, |permille| u16::try_from(permille).unwrap_or(1000))
    }
}

/// A moment as it stands in a probe.
pub(crate) fn nanos(moment: Moment) -> u64 {
    u64::try_from(moment.as_nanos()).unwrap_or(u64::MAX)
}

impl Rtt {
    /// RFC 6298 §2.2 and §2.3, with alpha 1/8 and beta 1/4.
    fn after(former: Option<Self>, sample: Duration) -> Self {
        match former {
            None => Self { smoothed: sample, deviation: sample / 2 },
            Some(former) => Self {
                deviation: former.deviation * 3 / 4 + former.smoothed.abs_diff(sample) / 4,
                smoothed: former.smoothed * 7 / 8 + sample / 8,
            },
        }
    }
}

/// Bounds the answers given to one remote: a token bucket in time as an argument.
#[derive(Debug)]
pub(crate) struct AnswerBudget {
    tokens: f64,
    updated: Moment,
}

/// Answers per second to one remote, and how many may come at once.
pub(crate) const ANSWERS_PER_SECOND: f64 = 250.0;

impl AnswerBudget {
    pub(crate) fn new(now: Moment) -> Self {
        Self { tokens: ANSWERS_PER_SECOND, updated: now }
    }

    /// True if one more answer may be given now.
    pub(crate) fn take(&mut self, now: Moment) -> bool {
        let elapsed = now.saturating_sub(self.updated).as_secs_f64();
        self.updated = now;
        self.tokens = (self.tokens + elapsed * ANSWERS_PER_SECOND).min(ANSWERS_PER_SECOND);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
