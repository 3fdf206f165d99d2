//! MAC mobility (RFC 7432 §15): which advertisement of one station counts, with which sequence a gateway
//! that has just learnt the station locally advertises it, and when a station that moves too often is taken
//! for a duplicate.
//!
//! Advertisements of one MAC by different gateways carry different route distinguishers, so they do not
//! compete in the RIB: they meet in the segment they are imported into. The rules are pure functions and
//! values, so that whoever keeps that table asks them; time is an argument.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::net::IpAddr;

use crate::attrs::PathAttributes;
use crate::time::Instant;

/// One gateway's claim to a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Static: must not move (RFC 7432 §15.2).
    pub sticky: bool,
    /// Mobility sequence number.
    pub sequence: u32,
    /// The claiming gateway's VTEP.
    pub vtep: IpAddr,
}

impl Claim {
    /// The claim of a received type 2 route; `None` without a next hop.
    pub fn from_attributes(attrs: &PathAttributes) -> Option<Claim> {
        let (sticky, sequence) = attrs.mac_mobility();
        Some(Claim { sticky, sequence, vtep: attrs.next_hop?.addr() })
    }
}

/// `Greater` if `a` wins over `b`: sticky first, then the higher sequence, then the lower VTEP address
/// (RFC 7432 §15.1). Sequences are compared as plain numbers: the RFC knows no wrapping.
pub fn compare(a: &Claim, b: &Claim) -> Ordering {
    a.sticky
        .cmp(&b.sticky)
        .then(a.sequence.cmp(&b.sequence))
        .then_with(|| crate::types::address_order(b.vtep).cmp(&crate::types::address_order(a.vtep)))
}

/// The sequence with which a station learnt locally is advertised, given the best remote claim to it and the
/// sequence this gateway last used for it (RFC 7432 §15: one more than the remote one).
///
/// `None` if the station must not be advertised: the remote claim is sticky, or it has the last sequence
/// there is, above which nobody can say that the station has moved. Without a claim, numbers begin anew
/// after the last one.
pub fn local_sequence(remote: Option<&Claim>, last_local: Option<u32>) -> Option<u32> {
    match remote {
        Some(claim) if claim.sticky => None,
        Some(claim) => match last_local {
            Some(own) if own > claim.sequence => Some(own),
            _ => claim.sequence.checked_add(1),
        },
        None => Some(last_local.filter(|own| *own < u32::MAX).unwrap_or(0)),
    }
}

/// When moves are too many, and for how long the station then stays frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DampingLimits {
    /// That many moves make a duplicate (N of RFC 7432 §15.1); at least 1.
    pub moves: usize,
    /// Within that many milliseconds (M of RFC 7432 §15.1).
    pub within_ms: u64,
    /// Milliseconds for which the first freeze lasts; each further one lasts twice as long as the one before.
    pub back_off_ms: u64,
    /// Milliseconds that no freeze exceeds.
    pub back_off_max_ms: u64,
}

impl Default for DampingLimits {
    /// 5 moves within 180 s (RFC 7432 §15.1). The RFC leaves it open what ends a freeze besides an operator: here
    /// 9 minutes, doubled up to 72.
    fn default() -> Self {
        let minute_ms = 60_000;
        Self {
            moves: 5,
            within_ms: 3 * minute_ms,
            back_off_ms: 9 * minute_ms,
            back_off_max_ms: 72 * minute_ms,
        }
    }
}

/// The moves of one station (RFC 7432 §15.1) or address (RFC 9161 §3.7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damping {
    /// The newest moves, oldest first; never more than make a duplicate.
    recent: VecDeque<Instant>,
    /// Until when it is frozen.
    until: Option<Instant>,
    /// Freezes so far.
    freezes: u32,
    /// When the last freeze ended.
    thawed: Option<Instant>,
}

impl Damping {
    /// Notes a move. `true` if it is the one that makes a duplicate: the move must not be told to anybody, and
    /// none that follows until it has thawed. Moves of a frozen one are not counted.
    pub fn moved(&mut self, now: Instant, limits: &DampingLimits) -> bool {
        if self.is_frozen() {
            return false;
        }
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|first| now.millis_since(*first) > limits.within_ms) {
            self.recent.pop_front();
        }
        if self.recent.len() < limits.moves {
            return false;
        }
        let doubled = limits.back_off_ms.saturating_mul(1_u64.checked_shl(self.freezes).unwrap_or(u64::MAX));
        self.until = Some(now + doubled.min(limits.back_off_max_ms));
        self.freezes = self.freezes.saturating_add(1);
        self.recent.clear();
        true
    }

    /// Whether it is frozen.
    pub fn is_frozen(&self) -> bool {
        self.until.is_some()
    }

    /// Until when it is frozen.
    pub fn frozen_until(&self) -> Option<Instant> {
        self.until
    }

    /// How often it was frozen, this time included.
    pub fn freezes(&self) -> u32 {
        self.freezes
    }

    /// One that is frozen until `until`, for the `freezes`th time: what an earlier run of the same router had found.
    pub fn of_freeze(until: Instant, freezes: u32) -> Self {
        Self { until: Some(until), freezes, ..Self::default() }
    }

    /// Ends a freeze whose time is over. `true` if one has ended.
    pub fn thaw(&mut self, now: Instant) -> bool {
        let is_over = self.until.is_some_and(|until| now >= until);
        if is_over {
            self.until = None;
            self.thawed = Some(now);
        }
        is_over
    }

    /// Whether nothing of it needs to be remembered: it is not frozen, has not moved for as long as moves
    /// count, and the last freeze is so long ago that the next one is a first one.
    pub fn is_calm(&self, now: Instant, limits: &DampingLimits) -> bool {
        let is_over = |since: Option<&Instant>, ms: u64| since.is_none_or(|t| now.millis_since(*t) > ms);
        !self.is_frozen()
            && is_over(self.recent.back(), limits.within_ms)
            && is_over(self.thawed.as_ref(), limits.back_off_max_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(sticky: bool, sequence: u32, last: u8) -> Claim {
        Claim { sticky, sequence, vtep: [10, 255, 0, last].into() }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    /// RFC 7432 §15.1 and §15.2.
    #[test]
    fn sticky_then_higher_sequence_then_lower_vtep() {
        assert_eq!(compare(&claim(true, 0, 2), &claim(false, 9, 1)), Ordering::Greater);
        assert_eq!(compare(&claim(false, 2, 2), &claim(false, 1, 1)), Ordering::Greater);
        assert_eq!(compare(&claim(false, 1, 1), &claim(false, 1, 2)), Ordering::Greater);
        assert_eq!(compare(&claim(false, 1, 1), &claim(false, 1, 1)), Ordering::Equal);
        assert_eq!(
            compare(&claim(false, u32::MAX, 2), &claim(false, 0, 1)),
            Ordering::Greater,
            "no wrapping"
        );
        let v6 = |last| Claim {
            vtep: std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).into(),
            ..claim(false, 1, 1)
        };
        assert_eq!(compare(&v6(1), &v6(2)), Ordering::Greater);
    }

    /// RFC 7432 §15.
    #[test]
    fn a_station_that_came_to_us_is_advertised_with_one_more() {
        assert_eq!(local_sequence(None, None), Some(0));
        assert_eq!(local_sequence(Some(&claim(false, 0, 1)), None), Some(1));
        assert_eq!(local_sequence(Some(&claim(false, 4, 1)), Some(3)), Some(5));
        assert_eq!(local_sequence(Some(&claim(false, 4, 1)), Some(5)), Some(5), "already ours");
        assert_eq!(local_sequence(None, Some(5)), Some(5), "the number is not used again");
        assert_eq!(local_sequence(Some(&claim(true, 0, 1)), Some(5)), None, "it must not move");
    }

    #[test]
    fn after_the_last_number_nobody_moves_until_nobody_claims() {
        assert_eq!(local_sequence(Some(&claim(false, u32::MAX, 1)), Some(7)), None);
        assert_eq!(local_sequence(Some(&claim(false, u32::MAX - 1, 1)), None), Some(u32::MAX));
        assert_eq!(local_sequence(None, Some(u32::MAX)), Some(0));
    }

    /// RFC 7432 §15.1: N = 5 within M = 180 s.
    #[test]
    fn the_fifth_move_within_three_minutes_freezes() {
        let limits = DampingLimits::default();
        let mut damping = Damping::default();
        let frozen: Vec<bool> = [0, 45, 90, 135, 180].map(|s| damping.moved(at(s), &limits)).into();
        assert_eq!(frozen, [false, false, false, false, true]);
        assert_eq!(damping.frozen_until(), Some(at(180 + 540)));
        let mut slower = Damping::default();
        assert!((0..100).all(|n| !slower.moved(at(n * 46), &limits)), "four in any 180 s are none");
    }

    #[test]
    fn each_freeze_lasts_twice_as_long_up_to_the_longest() {
        let limits = DampingLimits::default();
        let (mut damping, mut now, mut lasted) = (Damping::default(), at(0), Vec::new());
        for _ in 0..70 {
            while !damping.moved(now, &limits) {}
            assert!(!damping.moved(now, &limits), "a frozen one is frozen once");
            let until = damping.frozen_until().unwrap();
            assert!(!damping.thaw(now + (until.millis_since(now) - 1)));
            lasted.push(until.millis_since(now) / 60_000);
            now = until;
            assert!(damping.thaw(now) && !damping.is_frozen());
        }
        assert_eq!(lasted[..5], [9, 18, 36, 72, 72]);
        assert_eq!(lasted[69], 72);
    }

    #[test]
    fn what_has_been_calm_for_long_starts_anew() {
        let limits = DampingLimits::default();
        let mut damping = Damping::default();
        damping.moved(at(0), &limits);
        assert!(!damping.is_calm(at(180), &limits) && damping.is_calm(at(181), &limits));
        while !damping.moved(at(200), &limits) {}
        assert!(!damping.is_calm(at(100_000), &limits), "frozen until somebody looks");
        assert!(damping.thaw(at(740)));
        assert!(!damping.is_calm(at(740 + 72 * 60), &limits) && damping.is_calm(at(741 + 72 * 60), &limits));
    }
}
