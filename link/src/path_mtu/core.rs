//! What crosses one path in our direction: datagram packetization layer path MTU discovery (RFC 8899 §5) as a state machine. No
//! clock, no socket: time comes in as an argument, what is to be sent goes out as data. Sizes are those of IP packets, in bytes.
//!
//! ```text
//!   Silent ── an answer ──▶ Base ── 1200 crosses ──▶ Search ── nothing left between ──▶ Complete
//!     ▲                      │ 1200 does not           ▲                                 │ every 5 s one byte more:
//!     │                      └─▶ Search below (Error) ─┘◀── it crosses, or black hole ───┘ every 400 ms the size in use
//!     └── four rounds without any answer; what was found stays until something else is
//! ```
//!
//! Probes go in rounds. A round has some padded ones and, sent last, a small one that shows that the path lives and that
//! answers come back. A padded probe is *lost* only when a small one of its round was answered: a dead path has no MTU. A
//! size that was lost [`MAX_PROBES`] times in a row does not cross, nor does any larger one. A size that was answered
//! crosses, and so does any smaller one.
//!
//! The size in use is confirmed for ever, with traffic and without: whoever notices a black hole by a user's packets notices it
//! too late. At its first loss a few smaller sizes go out with the second try, so that the largest of them that crosses is
//! known in the moment when the size in use is given up.
//!
//! Where this leaves RFC 8899: several sizes at once (§5.3.2 suggests one after the other; an inter-cloud path has round trips of
//! 200 ms), a confirmation every 400 ms (§5.1.1 has no upper bound of how often), and a raise timer of 5 s instead of 600, because
//! it costs one packet. Messages of routers (packet too big) are not looked at: whoever forges one would be obeyed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::sizes;

/// A moment, by a clock that only goes on ([`crate::clock::monotonic`]).
pub(crate) type Moment = Duration;

/// Losses in a row after which a size does not cross (RFC 8899 §5.1.2, `MAX_PROBES`).
pub(crate) const MAX_PROBES: u8 = 3;
/// `BASE_PLPMTU` over IPv4, bytes (RFC 8899 §5.1.2).
pub(crate) const BASE_V4: u16 = 1200;
/// `BASE_PLPMTU` and `MIN_PLPMTU` over IPv6, bytes: every link of it carries that (RFC 8200 §5).
pub(crate) const BASE_V6: u16 = 1280;
/// `MIN_PLPMTU` over IPv4, bytes: what every host takes (RFC 1122 §3.3.2).
pub(crate) const FLOOR_V4: u16 = 576;
/// Time between two confirmations of the size in use (`CONFIRMATION_TIMER`).
pub(crate) const CONFIRMATION: Duration = Duration::from_millis(400);
/// Time between two tries of one byte more (`PMTU_RAISE_TIMER`).
pub(crate) const RAISE: Duration = Duration::from_secs(5);
/// Time between two questions to a far side that does not answer.
const SILENT_PERIOD: Duration = Duration::from_millis(500);
/// Rounds without any answer after which the far side is silent.
const QUIET_ROUNDS: u8 = 4;
/// Sizes of one round of the search.
const VOLLEY: usize = 4;
/// Smaller sizes tried when the size in use may not cross any more.
const FALLBACKS: usize = 6;
/// Probes whose answer is waited for, late as it may be.
const HISTORY_MAX: usize = 128;
/// Bounds of how long a round waits (`PROBE_TIMER`), and that before a round trip was seen.
const ROUND_MIN: Duration = Duration::from_millis(50);
const ROUND_MAX: Duration = Duration::from_secs(1);
const ROUND_FIRST: Duration = Duration::from_millis(300);
/// Added to what a round trip takes: a padded probe may be overtaken by the small one behind it.
const SLACK: Duration = Duration::from_millis(20);

/// Between which sizes is searched, in bytes: `floor` ≤ `base` ≤ `max`, or `max` < `base`, and then nothing above `max` is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    /// No probe is smaller, but for the one that shows life.
    pub(crate) floor: u16,
    /// What is tried first.
    pub(crate) base: u16,
    /// What the devices carry.
    pub(crate) max: u16,
}

/// Where the search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// No answer comes: the path is dead, or the far side does not answer probes of this kind.
    Silent,
    /// Whether the base crosses.
    Base,
    /// What is the largest that crosses.
    Search,
    /// It is known.
    Complete,
    /// Answers come, but not even the smallest size crosses.
    Error,
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Time went on.
    Timer,
    /// The probe with this number was answered.
    Answer {
        /// As in [`Output::Send`].
        sequence: u64,
    },
    /// Our own device does not take the probe with this number, for its size.
    Refused {
        /// As in [`Output::Send`].
        sequence: u64,
    },
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Send a probe.
    Send {
        /// Its number.
        sequence: u64,
        /// Size of its IP packet, bytes; none: as small as a probe can be.
        size: Option<u16>,
    },
    /// This is what crosses from now on, bytes.
    Found(u16),
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Sent {
    sequence: u64,
    at: Moment,
    size: Option<u16>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Fate {
    Unknown,
    Answered,
    Refused,
}

/// Probes that were sent together, by their numbers.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Round {
    first: u64,
    last: u64,
    deadline: Moment,
}

/// The search over one path.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Search {
    range: Range,
    phase: Phase,
    /// What is announced.
    mtu: Option<u16>,
    changes: u64,
    black_holes: u64,
    since: Moment,
    /// The largest size of which an answer says that it crosses.
    low: Option<u16>,
    /// The smallest size that does not cross, or one more than the largest to be tried.
    high: u16,
    /// Losses in a row of sizes between the two, and of the one in use.
    losses: BTreeMap<u16, u8>,
    /// Sizes answered since the one in use is in doubt.
    crossed: Vec<u16>,
    round: Option<Round>,
    next_round: Moment,
    raise_at: Moment,
    quiet: u8,
    sequence: u64,
    history: VecDeque<Sent>,
    rtt: Option<(Duration, Duration)>,
}

impl Search {
    /// Nothing is known; the first probe is due at once.
    pub(crate) fn new(range: Range, now: Moment) -> Self {
        Self {
            range,
            phase: Phase::Silent,
            mtu: None,
            changes: 0,
            black_holes: 0,
            since: now,
            low: None,
            high: range.max.saturating_add(1),
            losses: BTreeMap::new(),
            crossed: Vec::new(),
            round: None,
            next_round: now,
            raise_at: now,
            quiet: 0,
            sequence: 0,
            history: VecDeque::with_capacity(HISTORY_MAX),
            rtt: None,
        }
    }

    /// Another range: what was found stays as far as it fits, and the rest is searched at once.
    pub(crate) fn set_range(&mut self, range: Range, now: Moment) -> Vec<Output> {
        let mut outputs = Vec::new();
        if range == self.range {
            return outputs;
        }
        let grows = range.max > self.range.max;
        self.range = range;
        let end = range.max.saturating_add(1);
        self.high = if grows { end } else { self.high.min(end) };
        self.low = self.low.map(|low| low.min(range.max));
        self.losses.clear();
        if let Some(mtu) = self.mtu.filter(|mtu| *mtu > range.max) {
            let fits = self.low.unwrap_or(range.max).min(mtu);
            self.announce(fits, now, &mut outputs);
        }
        if self.phase == Phase::Complete {
            self.phase = Phase::Search;
        }
        self.next_round = now;
        outputs
    }

    /// When [`Input::Timer`] is due.
    pub(crate) fn next_deadline(&self) -> Moment {
        self.round.map_or(self.next_round, |round| round.deadline)
    }

    /// Takes what happened; returns what is to be done, in order.
    pub(crate) fn handle(&mut self, now: Moment, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Timer => {}
            Input::Answer { sequence } => self.on_answer(now, sequence, &mut outputs),
            Input::Refused { sequence } => self.on_refused(now, sequence, &mut outputs),
        }
        self.conclude(now, &mut outputs);
        self.settle(now, &mut outputs);
        if self.round.is_none() && now >= self.next_round {
            self.start_round(now, &mut outputs);
        }
        outputs
    }

    fn on_answer(&mut self, now: Moment, sequence: u64, outputs: &mut Vec<Output>) {
        let Some(sent) = self.unanswered(sequence) else { return };
        sent.fate = Fate::Answered;
        let (size, sample) = (sent.size, now.saturating_sub(sent.at));
        self.rtt = Some(smooth(self.rtt, sample));
        self.quiet = 0;
        if self.phase == Phase::Silent {
            self.phase = if self.mtu.is_some() { Phase::Complete } else { Phase::Base };
            (self.round, self.next_round) = (None, now);
        }
        if let Some(size) = size {
            self.crosses(size, now, outputs);
        }
    }

    /// The probe with that number, if it is remembered and was not answered before.
    fn unanswered(&mut self, sequence: u64) -> Option<&mut Sent> {
        let first = self.history.front()?.sequence;
        let position = usize::try_from(sequence.checked_sub(first)?).ok()?;
        self.history.get_mut(position).filter(|sent| sent.fate == Fate::Unknown)
    }

    fn on_refused(&mut self, now: Moment, sequence: u64, outputs: &mut Vec<Output>) {
        let Some(sent) = self.unanswered(sequence) else { return };
        sent.fate = Fate::Refused;
        // The size in use is given up with its round, when it is known which smaller one crosses instead.
        if let Some(size) = sent.size.filter(|size| self.mtu.is_none_or(|mtu| *size > mtu)) {
            self.fails(size, now, outputs);
        }
    }

    fn crosses(&mut self, size: u16, now: Moment, outputs: &mut Vec<Output>) {
        if size > self.range.max {
            return;
        }
        self.losses.retain(|other, _| *other > size);
        match self.mtu {
            Some(mtu) if size < mtu && self.is_in_doubt() => return self.crossed.push(size),
            Some(mtu) if size >= mtu => self.crossed.clear(),
            _ => {}
        }
        self.low = Some(self.low.map_or(size, |low| low.max(size)));
        if size >= self.high {
            // What did not cross does so again: everything above is open.
            self.high = self.range.max.saturating_add(1);
            (self.phase, self.next_round) = (Phase::Search, now);
        }
        let is_raised = self.phase == Phase::Complete && self.mtu.is_some_and(|mtu| size > mtu);
        if is_raised {
            // The path was silent while the search was under way.
            self.next_round = now;
        }
        if is_raised || matches!(self.phase, Phase::Base | Phase::Error) {
            self.phase = Phase::Search;
        }
        // Less than the base was announced for want of anything better.
        if self.mtu.is_some_and(|mtu| mtu < self.range.base && mtu < size) {
            self.announce(size, now, outputs);
        }
    }

    fn is_in_doubt(&self) -> bool {
        self.mtu.is_some_and(|mtu| self.losses.contains_key(&mtu))
    }

    /// Looks at a round that is over: every probe answered, or time up.
    fn conclude(&mut self, now: Moment, outputs: &mut Vec<Output>) {
        let Some(round) = self.round else { return };
        let sent: Vec<Sent> = self
            .history
            .iter()
            .filter(|s| (round.first..=round.last).contains(&s.sequence))
            .copied()
            .collect();
        if now < round.deadline && sent.iter().any(|probe| probe.fate == Fate::Unknown) {
            return;
        }
        self.round = None;
        if !sent.iter().any(|probe| probe.fate == Fate::Answered) {
            return self.hears_nothing(now);
        }
        // The small one goes last: if it was not answered, nothing can be said of the others.
        let lives = sent.iter().any(|probe| probe.size.is_none() && probe.fate == Fate::Answered);
        for probe in sent.iter().filter(|_| lives) {
            let Some(size) = probe.size else { continue };
            match probe.fate {
                Fate::Unknown => self.loses(size, 1, now, outputs),
                // No chance: once more, for what crosses instead to be asked for.
                Fate::Refused => self.loses(size, MAX_PROBES - 1, now, outputs),
                Fate::Answered => {}
            }
        }
        if self.is_in_doubt() {
            self.next_round = now;
        }
    }

    fn hears_nothing(&mut self, now: Moment) {
        self.quiet = self.quiet.saturating_add(1);
        self.next_round = now;
        if self.quiet >= QUIET_ROUNDS {
            self.phase = Phase::Silent;
            self.losses.clear();
            self.crossed.clear();
            self.next_round = now + SILENT_PERIOD;
        }
    }

    fn loses(&mut self, size: u16, times: u8, now: Moment, outputs: &mut Vec<Output>) {
        let is_open = size < self.high && self.low.is_none_or(|low| size > low);
        if !is_open && self.mtu != Some(size) {
            return;
        }
        let losses = self.losses.entry(size).or_insert(0);
        *losses = losses.saturating_add(times);
        if *losses >= MAX_PROBES {
            self.fails(size, now, outputs);
        }
    }

    /// This size does not cross, and none above it does.
    fn fails(&mut self, size: u16, now: Moment, outputs: &mut Vec<Output>) {
        self.high = self.high.min(size);
        self.losses.retain(|other, _| *other < size);
        if self.low.is_some_and(|low| low >= size) {
            self.low = self.crossed.iter().copied().filter(|crossed| *crossed < size).max();
        }
        if self.mtu.is_some_and(|mtu| mtu >= size) {
            self.black_holes += 1;
            // RFC 8899 §4.3: down to the base, if nothing better is known to cross.
            let least = if size > self.range.base { self.range.base } else { self.range.floor };
            self.announce(self.low.unwrap_or(least), now, outputs);
            self.phase = if self.low.is_some() { Phase::Search } else { Phase::Base };
            self.next_round = now;
        }
        self.crossed.clear();
        if self.phase == Phase::Base && self.high <= self.range.base {
            self.phase = Phase::Search;
        }
    }

    /// Whether the search is over, and with what.
    fn settle(&mut self, now: Moment, outputs: &mut Vec<Output>) {
        if self.phase != Phase::Search {
            return;
        }
        match self.low {
            Some(low) if low + 1 >= self.high => {
                self.phase = Phase::Complete;
                self.raise_at = now + RAISE;
                if self.mtu != Some(low) {
                    self.announce(low, now, outputs);
                }
            }
            None if self.high <= self.range.floor => {
                self.phase = Phase::Error;
                self.high = self.range.max.saturating_add(1);
                self.raise_at = now + RAISE;
            }
            _ => {}
        }
    }

    fn announce(&mut self, mtu: u16, now: Moment, outputs: &mut Vec<Output>) {
        if self.mtu != Some(mtu) {
            self.mtu = Some(mtu);
            self.since = now;
            self.changes += 1;
            outputs.push(Output::Found(mtu));
        }
    }

    fn start_round(&mut self, now: Moment, outputs: &mut Vec<Output>) {
        let first = self.sequence + 1;
        for size in self.sizes_to_try(now) {
            outputs.push(self.send(Some(size), now));
        }
        outputs.push(self.send(None, now));
        let wait = self.round_wait();
        self.round = Some(Round { first, last: self.sequence, deadline: now + wait });
        self.next_round = match self.phase {
            Phase::Silent => now + SILENT_PERIOD,
            Phase::Complete if !self.is_in_doubt() => now + CONFIRMATION,
            Phase::Error => now + SILENT_PERIOD,
            _ => now,
        };
    }

    /// How long answers of a round are waited for: RFC 6298 §2.3 for the round trip, and some slack.
    fn round_wait(&self) -> Duration {
        match self.rtt {
            Some((smoothed, deviation)) => (smoothed + deviation * 4 + SLACK).clamp(ROUND_MIN, ROUND_MAX),
            None => ROUND_FIRST,
        }
    }

    fn sizes_to_try(&mut self, now: Moment) -> Vec<u16> {
        let below = self.range.floor.saturating_sub(1);
        let mut sizes = Vec::new();
        match self.phase {
            Phase::Silent => {}
            Phase::Base => sizes.push(self.range.base.min(self.high.saturating_sub(1)).max(self.range.floor)),
            Phase::Error => sizes.push(self.range.floor),
            Phase::Search => {
                let low = self.low.unwrap_or(below);
                let open = self.losses.keys().copied().filter(|size| *size > low && *size < self.high);
                // Lost ones first, the smallest of them: if it does not cross, no other does.
                sizes = open.take(VOLLEY / 2).collect();
                if sizes.is_empty() {
                    sizes = sizes::between(low, self.high, VOLLEY);
                }
            }
            Phase::Complete => {
                if now >= self.raise_at && self.mtu.is_some_and(|mtu| mtu < self.range.max) {
                    self.raise_at = now + RAISE;
                    sizes.extend(self.mtu.map(|mtu| mtu + 1));
                }
            }
        }
        if let Some(mtu) = self.mtu.filter(|_| matches!(self.phase, Phase::Search | Phase::Complete)) {
            if self.is_in_doubt() && self.crossed.is_empty() {
                sizes.extend(sizes::between(below, mtu, FALLBACKS));
                sizes.push(self.range.floor.min(mtu));
            }
            sizes.push(mtu);
        }
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    fn send(&mut self, size: Option<u16>, now: Moment) -> Output {
        self.sequence += 1;
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(Sent { sequence: self.sequence, at: now, size, fate: Fate::Unknown });
        Output::Send { sequence: self.sequence, size }
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// The largest IP packet that crosses, in bytes; none before anything was found.
    pub(crate) fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// The smallest size that was found not to cross; none if the largest of the range does.
    pub(crate) fn breaks_at(&self) -> Option<u16> {
        Some(self.high).filter(|high| *high <= self.range.max && self.phase != Phase::Silent)
    }

    /// Since when [`Search::mtu`] is what it is.
    pub(crate) fn since(&self) -> Moment {
        self.since
    }

    /// How often [`Search::mtu`] changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// How often the size in use no longer crossed.
    pub(crate) fn black_holes(&self) -> u64 {
        self.black_holes
    }

    /// Probes sent.
    pub(crate) fn sent(&self) -> u64 {
        self.sequence
    }
}

/// RFC 6298 §2.2 and §2.3.
fn smooth(former: Option<(Duration, Duration)>, sample: Duration) -> (Duration, Duration) {
    match former {
        None => (sample, sample / 2),
        Some((smoothed, deviation)) => {
            (smoothed * 7 / 8 + sample / 8, deviation * 3 / 4 + smoothed.abs_diff(sample) / 4)
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
