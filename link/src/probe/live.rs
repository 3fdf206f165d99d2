//! Whether traffic itself shows that packets cross in both directions, so that probes may rest. Pure.
//!
//! *From there to here*: the device of the tunnel has received something since the last look. What a WireGuard device
//! receives was authenticated; what the device of a `direct` tunnel receives came from a VLAN that is trusted.
//!
//! *From here to there* nobody knows here but by being told. Every request says how long ago its sender has received
//! anything; a far end that does not hear us is idle in that direction, so it asks at full pace, and because packets cross from
//! there to here, its complaint arrives. No complaint while traffic comes in therefore means that ours gets there. That this is
//! no accident (a far prober that has died cannot complain) is shown by the answers to the rare requests that still go out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::core::{Moment, Timing};

/// Requests are so much rarer while traffic proves the path.
pub(crate) const REST: u32 = 10;
/// A far end has missed us if it has heard nothing for so long, and the round trip.
const MISSED: Duration = Duration::from_millis(150);
/// A complaint dates the silence back by this at most: on a long way complaints about a pause are late.
const DATED_BACK: Duration = Duration::from_millis(300);

/// What is known of the traffic of one path.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Live {
    /// What the device has received, at the last look.
    packets: Option<u64>,
    /// The last look that found more than the one before.
    heard: Option<Moment>,
    /// Requests and answers among it.
    probes: u64,
    /// The most that there ever was besides them, and the look that found it.
    others: u64,
    flowed: Option<Moment>,
    /// When the far side said last what it hears, and how long ago that was.
    told: Option<(Moment, Duration)>,
}

impl Live {
    /// The device has received so many packets in all.
    pub(crate) fn counted(&mut self, now: Moment, packets: u64) {
        let others = packets.saturating_sub(self.probes);
        if let Some(before) = self.packets {
            self.heard = if before == packets { self.heard } else { Some(now) };
            // A probe that was counted and is not read yet is none of them after it was.
            self.flowed = if others > self.others { Some(now) } else { self.flowed };
        }
        self.others = self.others.max(others);
        self.packets = Some(packets);
    }

    /// A request or an answer came: no live traffic, though heard.
    pub(crate) fn probe(&mut self) {
        self.probes += 1;
    }

    /// The device cannot be counted.
    pub(crate) fn uncounted(&mut self) {
        (self.packets, self.heard, self.flowed) = (None, None, None);
        (self.probes, self.others) = (0, 0);
    }

    /// How long ago something was received; `None`: nobody has counted it.
    pub(crate) fn heard_age(&self, now: Moment) -> Option<Duration> {
        self.heard.map(|heard| now.saturating_sub(heard))
    }

    /// The far side said that it had heard us last so long ago. If that is a complaint: since when the way there is
    /// silent.
    pub(crate) fn told(&mut self, now: Moment, age: Duration, rtt: Duration) -> Option<Moment> {
        self.told = Some((now, age));
        (age > MISSED + rtt).then(|| now.saturating_sub(age.min(DATED_BACK)))
    }

    /// The last moment at which traffic showed that packets cross both ways, if it still does. `last_answer` is that of a
    /// request.
    pub(crate) fn proves(
        &self,
        now: Moment,
        timing: Timing,
        rtt: Duration,
        last_answer: Option<Moment>,
    ) -> Option<Moment> {
        let flowed = self.flowed?;
        let (told, age) = self.told?;
        // One lost request or answer among the rare ones is no reason.
        let rare = timing.interval * (2 * REST + REST / 2) + rtt;
        let is_recent = |at: Moment, limit: Duration| now.saturating_sub(at) <= limit;
        let flows = is_recent(flowed, timing.interval * 3 / 2);
        let heard_there = is_recent(told, rare) && age <= MISSED + rtt;
        let answers = last_answer.is_some_and(|at| is_recent(at, rare));
        (flows && heard_there && answers).then_some(flowed)
    }
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
