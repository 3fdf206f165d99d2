//! The one table in which it is decided where a station is: learnt here, or claimed by another gateway.
//! Pure. RFC 7432 section 15.
//!
//! ```text
//!   learnt here ──▶ nobody claims it           advertise, sequence as before (0 at first)
//!                   another claims it, and it
//!                   is new here                it moved to us: advertise, sequence = theirs + 1
//!                   another claims it with a
//!                   newer sequence             it moved away: forget it here
//!                   the claim is sticky        never advertised; the programs drop its frames
//! ```

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use watari_bgp::evpn::mobility::{Claim, compare, local_sequence};
use watari_bgp::types::MacAddr;
use watari_config::Vni;

/// A station of a segment.
pub type Station = (Vni, MacAddr);

/// The stations that were learnt here, with the sequence each is advertised with.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    local: BTreeMap<Station, u32>,
    /// Sequences of stations that left, so that one that comes back is not older than itself.
    past: BTreeMap<Station, u32>,
}

/// The most stations that left and are remembered.
const PAST_MAX: usize = 65_536;

/// What follows from a look at the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Stations to advertise, each with its sequence.
    pub advertise: BTreeMap<Station, u32>,
    /// Stations that moved away: their local entries are to be removed.
    pub forget: Vec<Station>,
    /// Stations that are learnt here though another gateway pinned them.
    pub pinned_elsewhere: Vec<Station>,
}

impl Hosts {
    /// Decides for the stations `learnt` here now, and the best claim of another gateway to each.
    pub fn decide(
        &mut self,
        vtep: Ipv4Addr,
        learnt: &[Station],
        claims: &BTreeMap<Station, Claim>,
    ) -> Decision {
        let mut decision = Decision::default();
        let mut local = BTreeMap::new();
        for station in learnt {
            let claim = claims.get(station);
            let known = self.local.get(station).copied();
            if let (Some(sequence), Some(claim)) = (known, claim) {
                let own = Claim { sticky: false, sequence, vtep: IpAddr::V4(vtep) };
                if compare(claim, &own) == Ordering::Greater {
                    decision.forget.push(*station);
                    self.remember(*station, sequence);
                    continue;
                }
            }
            let last = known.or_else(|| self.past.get(station).copied());
            match local_sequence(claim, last) {
                Some(sequence) => {
                    local.insert(*station, sequence);
                    decision.advertise.insert(*station, sequence);
                }
                None => decision.pinned_elsewhere.push(*station),
            }
        }
        let gone: Vec<_> = self.local.iter().filter(|(s, _)| !local.contains_key(*s)).collect();
        for (station, sequence) in gone.into_iter().map(|(s, n)| (*s, *n)).collect::<Vec<_>>() {
            self.remember(station, sequence);
        }
        self.local = local;
        decision
    }

    fn remember(&mut self, station: Station, sequence: u32) {
        if self.past.len() < PAST_MAX || self.past.contains_key(&station) {
            self.past.insert(station, sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);

    fn station() -> Station {
        (Vni::new(1000).unwrap(), MacAddr([2, 0, 0, 0, 0, 1]))
    }

    fn claims(list: &[(Ipv4Addr, u32, bool)]) -> BTreeMap<Station, Claim> {
        let claim = |(vtep, sequence, sticky): &(Ipv4Addr, u32, bool)| {
            (station(), Claim { sticky: *sticky, sequence: *sequence, vtep: IpAddr::V4(*vtep) })
        };
        list.iter().map(claim).collect()
    }

    /// Two gateways that tell each other everything, and a station that is heard at one of them at a time.
    #[test]
    fn a_station_that_moves_to_and_fro_is_always_at_one_gateway() {
        let (mut a, mut b) = (Hosts::default(), Hosts::default());
        let (mut told_by_a, mut told_by_b) = (None, None);
        for step in 0..10_u32 {
            let at_a = step % 2 == 0;
            // Until it is told that the station moved away, the old gateway still has it in its table.
            for round in 0..3 {
                let has = |here: bool, advertised: Option<u32>| here || (round < 2 && advertised.is_some());
                let from_b = told_by_b.map(|n| (B, n, false));
                let heard = if has(at_a, told_by_a) { vec![station()] } else { vec![] };
                let of_a = a.decide(A, &heard, &claims(from_b.as_slice()));
                told_by_a = of_a.advertise.get(&station()).copied();
                let from_a = told_by_a.map(|n| (A, n, false));
                let heard = if has(!at_a, told_by_b) { vec![station()] } else { vec![] };
                let of_b = b.decide(B, &heard, &claims(from_a.as_slice()));
                told_by_b = of_b.advertise.get(&station()).copied();
            }
            assert_eq!(told_by_a.is_some(), at_a, "step {step}: {told_by_a:?} {told_by_b:?}");
            assert_eq!(told_by_b.is_some(), !at_a, "step {step}: {told_by_a:?} {told_by_b:?}");
        }
    }

    #[test]
    fn a_station_that_another_gateway_pinned_is_not_advertised() {
        let mut hosts = Hosts::default();
        let decision = hosts.decide(A, &[station()], &claims(&[(B, 0, true)]));
        assert!(decision.advertise.is_empty());
        assert_eq!(decision.pinned_elsewhere, [station()]);
    }

    #[test]
    fn of_two_with_one_sequence_the_lower_vtep_keeps_the_station() {
        let (mut a, mut b) = (Hosts::default(), Hosts::default());
        a.decide(A, &[station()], &BTreeMap::new());
        b.decide(B, &[station()], &BTreeMap::new());
        assert!(a.decide(A, &[station()], &claims(&[(B, 0, false)])).forget.is_empty());
        assert_eq!(b.decide(B, &[station()], &claims(&[(A, 0, false)])).forget, [station()]);
    }
}
