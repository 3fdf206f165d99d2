//! The places where one WireGuard peer is reached, measured one by one, and the one of them that is used. Pure: time comes
//! in as an argument, what is to be sent goes out as data.
//!
//! Every place is asked ([`crate::wg::Echo`]) and has a [`Prober`]: the one in use every [`IN_USE`], so that its death is
//! noticed in well under a second, the others every [`STANDBY`]. A far end that has never answered from any place is no
//! engine of ours; it is asked every [`STRANGER`] only, and nothing is concluded but by WireGuard's own means (an
//! authentic message from elsewhere moves the peer, initiations go to every place when nothing comes back).
//!
//! ```text
//!   heard from elsewhere ─┐                     ┌─▶ Ask{place, sequence}
//!   answers ──────────────┼─▶ Endpoints ────────┤
//!   time ─────────────────┘   Prober per place  └─▶ Use(place)
//! ```
//!
//! When it moves:
//! - the place in use is dead and another lives: at once, to the best;
//! - another is better by a fifth and [`MARGIN`], without a break for [`SETTLE`]: then, and not again within [`SETTLE`];
//!   one that died lately has to prove itself twice as long for each time;
//! - a message came from elsewhere and the place in use does not answer: at once, there (roaming). While it does answer,
//!   what comes from elsewhere is the far side's own choice of a way back, or a new place that is measured first.

use std::net::SocketAddr;
use std::time::Duration;

use crate::probe::core::{Input as ProbeInput, Moment, Output as ProbeOutput, Prober, Timing};
use crate::protocol::PathState;

/// Pace of the place in use, and how long it may be silent.
const IN_USE: Timing =
    Timing { interval: Duration::from_millis(100), dead_after: Duration::from_millis(500) };
/// The same of the others.
const STANDBY: Timing = Timing { interval: Duration::from_secs(1), dead_after: Duration::from_secs(3) };
/// The same of all, where none has ever answered within [`INTRODUCTION`].
const STRANGER: Timing = Timing { interval: Duration::from_secs(10), dead_after: Duration::from_secs(25) };
/// How long answers are waited for before a far end is taken for a stranger.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// What a better place has to be better by, besides a fifth.
const MARGIN: Duration = Duration::from_millis(2);
/// What a lost answer in a thousand costs a place.
const PER_PERMILLE: Duration = Duration::from_micros(300);
/// How long a better place has to be better.
const SETTLE: Duration = Duration::from_secs(10);
/// Deaths that count: each doubles what a place has to prove, and is forgotten after [`FORGIVEN`] alive.
const DEATHS_MAX: u32 = 5;
const FORGIVEN: Duration = Duration::from_secs(300);

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Time went on.
    Timer,
    /// An answer to this question of ours came.
    Answer {
        /// Our number for the place.
        place: u32,
        /// Our number for the question.
        sequence: u64,
    },
    /// An authentic message of the peer came from there.
    Heard(SocketAddr),
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// Ask a place.
    Ask { to: SocketAddr, place: u32, sequence: u64 },
    /// Send everything there from now on.
    Use(SocketAddr),
}

/// One place as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Measured {
    pub(crate) at: SocketAddr,
    pub(crate) configured: bool,
    /// `None`: it has never answered.
    pub(crate) alive: Option<bool>,
    pub(crate) rtt: Option<Duration>,
    pub(crate) loss_permille: u16,
    pub(crate) last_answer: Option<Moment>,
}

struct Place {
    at: SocketAddr,
    number: u32,
    configured: bool,
    prober: Prober,
    /// How often it died lately, and when last.
    deaths: u32,
    died: Moment,
    /// Since when it is better than the one in use.
    better_since: Option<Moment>,
}

/// All places of a peer.
pub(crate) struct Endpoints {
    places: Vec<Place>,
    used: SocketAddr,
    moved: Moment,
    began: Moment,
    next_number: u32,
}

impl Endpoints {
    /// The places of the configuration, of which `used` (not necessarily one of them) is in use.
    pub(crate) fn new(configured: &[SocketAddr], used: SocketAddr, now: Moment) -> Self {
        let mut endpoints = Self { places: Vec::new(), used, moved: now, began: now, next_number: 0 };
        endpoints.configure(configured, used, now);
        endpoints
    }

    /// Takes another list; places that stay keep what was measured.
    pub(crate) fn configure(&mut self, configured: &[SocketAddr], used: SocketAddr, now: Moment) {
        self.places.retain(|place| configured.contains(&place.at) || place.at == used);
        for place in &mut self.places {
            place.configured = configured.contains(&place.at);
        }
        for at in configured {
            if self.place(*at).is_none() {
                self.add(*at, true, now);
            }
        }
        self.used = used;
        self.turn_to(used, now);
    }

    /// When [`Input::Timer`] is due.
    pub(crate) fn next_deadline(&self) -> Moment {
        self.places.iter().map(|place| place.prober.next_deadline()).min().unwrap_or(Moment::MAX)
    }

    /// Every place as it is at this moment.
    pub(crate) fn measured(&self, now: Moment) -> impl Iterator<Item = Measured> + '_ {
        self.places.iter().map(move |place| Measured {
            at: place.at,
            configured: place.configured,
            alive: place.prober.last_answer().map(|_| place.is_alive()),
            rtt: place.prober.rtt().map(|(smoothed, _)| smoothed),
            loss_permille: place.prober.loss_permille(now),
            last_answer: place.prober.last_answer(),
        })
    }

    /// Takes what happened; returns what is to be done, in order.
    pub(crate) fn handle(&mut self, now: Moment, input: Input) -> Vec<Output> {
        let mut outputs = Vec::new();
        match input {
            Input::Timer => self.on_timer(now, &mut outputs),
            Input::Answer { place, sequence } => {
                if let Some(place) = self.places.iter_mut().find(|known| known.number == place) {
                    // The far clock is not asked for: each direction by itself is measured inside the tunnel.
                    let answer = ProbeInput::Answer { sequence, answered_at_ns: 0 };
                    place.prober.handle(now, answer);
                }
            }
            Input::Heard(from) => self.on_heard(now, from, &mut outputs),
        }
        self.judge(now, &mut outputs);
        outputs
    }

    fn on_timer(&mut self, now: Moment, outputs: &mut Vec<Output>) {
        for place in &mut self.places {
            if place.prober.next_deadline() > now {
                continue;
            }
            for output in place.prober.handle(now, ProbeInput::Timer) {
                match output {
                    ProbeOutput::Send { sequence } => {
                        outputs.push(Output::Ask { to: place.at, place: place.number, sequence });
                    }
                    ProbeOutput::State(PathState::Down) => place.die(now),
                    ProbeOutput::State(PathState::Up) => {}
                }
            }
        }
        self.pace(now);
    }

    fn on_heard(&mut self, now: Moment, from: SocketAddr, outputs: &mut Vec<Output>) {
        if from == self.used {
            return;
        }
        if self.place(from).is_none() {
            let used = self.used;
            self.places.retain(|place| place.configured || place.at == used);
            self.add(from, false, now);
        }
        if !self.place(self.used).is_some_and(Place::is_alive) {
            self.use_it(from, now, outputs);
        }
    }

    /// Moves if there is a reason to.
    fn judge(&mut self, now: Moment, outputs: &mut Vec<Output>) {
        let best = self.places.iter().filter(|place| place.is_alive()).min_by_key(|place| place.cost(now));
        let Some(best) = best.map(|place| place.at) else { return };
        let Some(current) = self.place(self.used).filter(|place| place.is_alive()) else {
            return self.use_it(best, now, outputs);
        };
        let cost = current.cost(now);
        let mut to = None;
        for place in self.places.iter_mut().filter(|place| place.at != self.used) {
            let is_better = place.is_alive() && place.cost(now) + (cost / 5).max(MARGIN) < cost;
            if !is_better {
                place.better_since = None;
                continue;
            }
            let since = *place.better_since.get_or_insert(now);
            let proven = now.saturating_sub(since) >= place.trial(now);
            if proven && now.saturating_sub(self.moved) >= SETTLE && place.at == best {
                to = Some(best);
            }
        }
        if let Some(to) = to {
            self.use_it(to, now, outputs);
        }
    }

    fn use_it(&mut self, at: SocketAddr, now: Moment, outputs: &mut Vec<Output>) {
        self.used = at;
        self.moved = now;
        self.turn_to(at, now);
        outputs.push(Output::Use(at));
    }

    fn turn_to(&mut self, at: SocketAddr, now: Moment) {
        if self.place(at).is_none() {
            self.add(at, false, now);
        }
        for place in &mut self.places {
            place.better_since = None;
        }
        self.pace(now);
    }

    /// Gives every place its pace.
    fn pace(&mut self, now: Moment) {
        let known = self.places.iter().any(|place| place.prober.last_answer().is_some());
        let stranger = !known && now.saturating_sub(self.began) >= INTRODUCTION;
        for place in &mut self.places {
            let timing = match stranger {
                true => STRANGER,
                // One that was heard from and is not in the document may be the only one left.
                false if place.at == self.used || !place.configured => IN_USE,
                false => STANDBY,
            };
            if place.prober.timing() != timing {
                place.prober.retime(timing, now);
            }
        }
    }

    fn place(&self, at: SocketAddr) -> Option<&Place> {
        self.places.iter().find(|place| place.at == at)
    }

    fn add(&mut self, at: SocketAddr, configured: bool, now: Moment) {
        self.next_number += 1;
        let (number, prober) = (self.next_number, Prober::new(STANDBY, now));
        self.places.push(Place { at, number, configured, prober, deaths: 0, died: now, better_since: None });
    }
}

impl Place {
    fn is_alive(&self) -> bool {
        self.prober.state() == PathState::Up
    }

    fn die(&mut self, now: Moment) {
        self.deaths = if now.saturating_sub(self.died) >= FORGIVEN { 1 } else { self.deaths + 1 };
        self.deaths = self.deaths.min(DEATHS_MAX);
        self.died = now;
    }

    /// How long it has to be better.
    fn trial(&self, now: Moment) -> Duration {
        let is_forgiven = now.saturating_sub(self.died) >= FORGIVEN;
        SETTLE * (1 << if is_forgiven { 0 } else { self.deaths })
    }

    /// The lower one is better: round trip, its deviation, and what loss costs.
    fn cost(&self, now: Moment) -> Duration {
        let (smoothed, deviation) = self.prober.rtt().unwrap_or((Duration::MAX / 4, Duration::ZERO));
        smoothed + deviation + PER_PERMILLE * u32::from(self.prober.loss_permille(now))
    }
}

#[cfg(test)]
#[path = "simulation.rs"]
mod tests;
