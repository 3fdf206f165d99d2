//! MAC mobility (RFC 7432 §15): which advertisement of one station counts, and with which sequence a gateway
//! that has just learnt the station locally advertises it.
//!
//! Advertisements of one MAC by different gateways carry different route distinguishers, so they do not
//! compete in the RIB: they meet in the segment they are imported into. The rules are pure functions, so that
//! whoever keeps that table asks them.

use std::cmp::Ordering;
use std::net::IpAddr;

use crate::attrs::PathAttributes;

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
/// (RFC 7432 §15.1).
pub fn compare(a: &Claim, b: &Claim) -> Ordering {
    a.sticky
        .cmp(&b.sticky)
        .then(a.sequence.cmp(&b.sequence))
        .then_with(|| crate::types::address_order(b.vtep).cmp(&crate::types::address_order(a.vtep)))
}

/// The sequence with which a station learnt locally is advertised, given the best remote claim to it and the
/// sequence this gateway last used for it (RFC 7432 §15: one more than the remote one).
///
/// `None` if the remote claim is sticky: the station must not be advertised, and the move is an alarm.
pub fn local_sequence(remote: Option<&Claim>, last_local: Option<u32>) -> Option<u32> {
    match remote {
        Some(claim) if claim.sticky => None,
        Some(claim) => match last_local {
            Some(own) if own > claim.sequence => Some(own),
            _ => Some(claim.sequence.saturating_add(1)),
        },
        None => Some(last_local.unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(sticky: bool, sequence: u32, last: u8) -> Claim {
        Claim { sticky, sequence, vtep: [10, 255, 0, last].into() }
    }

    /// RFC 7432 §15.1 and §15.2.
    #[test]
    fn sticky_then_higher_sequence_then_lower_vtep() {
        assert_eq!(compare(&claim(true, 0, 2), &claim(false, 9, 1)), Ordering::Greater);
        assert_eq!(compare(&claim(false, 2, 2), &claim(false, 1, 1)), Ordering::Greater);
        assert_eq!(compare(&claim(false, 1, 1), &claim(false, 1, 2)), Ordering::Greater);
        assert_eq!(compare(&claim(false, 1, 1), &claim(false, 1, 1)), Ordering::Equal);
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
}
