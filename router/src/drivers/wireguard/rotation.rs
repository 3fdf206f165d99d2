//! Which of several places a peer of the kernel's WireGuard is tried at. The kernel has one endpoint for a peer and measures
//! nothing: while no packet crosses, the places are tried one after the other. Pure: time is an argument.

use std::time::Duration;

/// A place has so long in the first round: the session goes on there, and a probe comes back at once or not at all.
const TRY: Duration = Duration::from_millis(1_000);
/// So long in later rounds: a session has to be made, and initiations are 5 s apart.
const TRY_LONG: Duration = Duration::from_secs(6);

/// A path must be down for so long before its peer is moved: a probe that has just begun, as after a restart of its process,
/// has no answer yet and says down.
const SURE: Duration = Duration::from_millis(300);

/// Where one peer is tried.
#[derive(Debug, Default)]
pub(super) struct Rotation {
    place: usize,
    /// Since when no packet crosses.
    down: Option<Duration>,
    /// Moves since packets crossed last.
    moves: usize,
    moved: Option<Duration>,
}

impl Rotation {
    /// The place to move to now, if it is to be moved; `up`: packets cross.
    pub(super) fn next(&mut self, up: bool, places: usize, now: Duration) -> Option<usize> {
        if up {
            (self.moves, self.moved, self.down) = (0, None, None);
            return None;
        }
        if now.saturating_sub(*self.down.get_or_insert(now)) < SURE {
            return None;
        }
        let patience = if self.moves < places { TRY } else { TRY_LONG };
        if self.moved.is_some_and(|moved| now.saturating_sub(moved) < patience) {
            return None;
        }
        self.moved = Some(now);
        self.moves += 1;
        self.place = (self.place + 1) % places.max(1);
        Some(self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_tried_quickly_once_and_slowly_afterwards_until_packets_cross() {
        let mut rotation = Rotation::default();
        let ms = Duration::from_millis;
        assert_eq!(rotation.next(true, 3, ms(0)), None);
        let mut tried = Vec::new();
        for tick in 0..200 {
            let now = ms(10_000 + 100 * tick);
            tried.extend(rotation.next(false, 3, now).map(|place| (100 * tick, place)));
        }
        assert_eq!(tried, [(300, 1), (1_300, 2), (2_300, 0), (8_300, 1), (14_300, 2)]);
        assert_eq!(rotation.next(true, 3, ms(30_000)), None);
        assert_eq!(rotation.next(false, 3, ms(30_100)), None, "a probe that has just begun says so too");
        assert_eq!(rotation.next(false, 3, ms(30_400)), Some(0), "the next one");
    }
}
