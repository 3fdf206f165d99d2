//! Every packet that the engine drops has a reason, and every reason is counted per device.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::DropCount;

/// Why a packet ended here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum DropReason {
    /// Out: neither IPv4 nor IPv6.
    NotIp,
    /// Out: no peer has the destination in its allowed-ips.
    NoPeer,
    /// Out: a super-packet whose headers contradict each other, or of a kind that was not asked for.
    MalformedSuper,
    /// Out: too much waits for a session with the peer already, or it came to none.
    NoSession,
    /// Out: the peer's endpoint is not known.
    NoEndpoint,
    /// Out: the UDP socket refused it.
    SendFailed,
    /// In: no WireGuard message.
    Malformed,
    /// In: a handshake message whose MAC is not made for our key.
    BadMac,
    /// In: a handshake message under load without a cookie; a cookie was sent instead.
    UnderLoad,
    /// In: a handshake of somebody who is no peer.
    UnknownPeer,
    /// In: a message for a session we do not have.
    UnknownSession,
    /// In: not authentic, replayed, or too old.
    Refused,
    /// In: authentic, and inside is no IP packet.
    MalformedInside,
    /// In: the network met congestion, and the packet inside has no way to tell (RFC 6040 §4.2).
    Congestion,
    /// In: the source address is not in the peer's allowed-ips.
    SourceNotAllowed,
    /// In: the interface refused it (down or gone).
    TunRefused,
    /// Out: a frame of the overlay's interface that is no VXLAN with an IP packet inside.
    NotVxlan,
    /// Out: inside VXLAN, and with its outer header longer than the device's MTU.
    TooBig,
}

const REASONS: [(DropReason, &str); 18] = [
    (DropReason::NotIp, "not_ip"),
    (DropReason::NoPeer, "no_peer"),
    (DropReason::MalformedSuper, "malformed_super"),
    (DropReason::NoSession, "no_session"),
    (DropReason::NoEndpoint, "no_endpoint"),
    (DropReason::SendFailed, "send_failed"),
    (DropReason::Malformed, "malformed"),
    (DropReason::BadMac, "bad_mac"),
    (DropReason::UnderLoad, "under_load"),
    (DropReason::UnknownPeer, "unknown_peer"),
    (DropReason::UnknownSession, "unknown_session"),
    (DropReason::Refused, "refused"),
    (DropReason::MalformedInside, "malformed_inside"),
    (DropReason::Congestion, "congestion"),
    (DropReason::SourceNotAllowed, "source_not_allowed"),
    (DropReason::TunRefused, "tun_refused"),
    (DropReason::NotVxlan, "not_vxlan"),
    (DropReason::TooBig, "too_big"),
];

/// One counter per reason.
#[derive(Debug, Default)]
pub(super) struct DropCounters([AtomicU64; REASONS.len()]);

impl DropCounters {
    pub(super) fn count(&self, reason: DropReason, packets: u64) {
        self.0[reason as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// Goes on from what a former process counted.
    pub(super) fn restore(&self, counts: &[DropCount]) {
        for count in counts {
            if let Some((reason, _)) = REASONS.iter().find(|(_, name)| *name == count.reason) {
                self.count(*reason, count.packets);
            }
        }
    }

    /// What was dropped so far, ordered by the reason's name, zeroes left out.
    pub(super) fn read(&self) -> Vec<DropCount> {
        let mut counts: Vec<DropCount> = REASONS
            .iter()
            .map(|(reason, name)| DropCount {
                reason: (*name).to_owned(),
                packets: self.0[*reason as usize].load(Ordering::Relaxed),
            })
            .filter(|count| count.packets > 0)
            .collect();
        counts.sort_by(|a, b| a.reason.cmp(&b.reason));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        for (position, (reason, name)) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, position, "{name}");
            let counters = DropCounters::default();
            counters.count(*reason, 1);
            let read = counters.read();
            let successor = DropCounters::default();
            successor.restore(&read);
            assert_eq!(successor.read(), read);
            assert_eq!(read, [DropCount { reason: (*name).to_owned(), packets: 1 }]);
        }
    }
}
