//! What guards and pins refuse is told to the operator by attachment and reason: the first at once, and while it
//! goes on once a minute, so that a host that does not stop fills neither the log nor the ring of events.

use std::collections::BTreeMap;

use watari_dataplane::abi::{DropReason, ip_from_bytes};
use watari_dataplane::explain::Names as _;
use watari_dataplane::{Event, EventKind, PortKey};

use super::task::{Task, boot_time_ns};
use crate::explain::names::Called;

/// How long one reason at one attachment is not told again, in milliseconds.
const QUIET_MS: u64 = 60_000;
/// The most pairs of attachment and reason that are remembered; of those beyond nothing is told.
const REMEMBERED_MAX: usize = 4096;

/// What was told, and when.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<(PortKey, u8), Told>);

#[derive(Debug)]
struct Told {
    at_ms: u64,
    /// Refusals since, of which nothing was said.
    since: u64,
}

impl Refusals {
    /// Whether a refusal is to be told now, with how many there were since the last one that was.
    fn note(&mut self, now_ms: u64, port: PortKey, reason: DropReason) -> Option<u64> {
        let key = (port, reason as u8);
        if let Some(told) = self.0.get_mut(&key) {
            if now_ms.saturating_sub(told.at_ms) < QUIET_MS {
                told.since += 1;
                return None;
            }
            told.at_ms = now_ms;
            return Some(std::mem::take(&mut told.since));
        }
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, told| now_ms.saturating_sub(told.at_ms) < QUIET_MS);
        }
        let has_room = self.0.len() < REMEMBERED_MAX;
        has_room.then(|| {
            self.0.insert(key, Told { at_ms: now_ms, since: 0 });
            0
        })
    }
}

/// Why the datapath refused what an event tells of; `None` for an event of another kind.
pub(super) fn reason(kind: EventKind, event: &Event) -> Option<DropReason> {
    match kind {
        EventKind::MacLimit | EventKind::StormRate | EventKind::Guarded | EventKind::SourceRefused => {
            DropReason::from_u8(event.flags)
        }
        EventKind::NeighbourSpoofed => Some(DropReason::NeighbourSpoofed),
        _ => None,
    }
}

impl Task {
    /// An event of kind `refused` about the attachment, or about the place where there is none any more.
    pub(super) fn tell_refusal(&mut self, reason: DropReason, event: &Event) {
        let Some(since) = self.refusals.note(boot_time_ns() / 1_000_000, event.port, reason) else { return };
        let called = Called::new(&self.desired, &self.maps);
        let object = match called.attachment_at(event.port) {
            Some(name) => format!("attachments.{name}"),
            None => format!("vni {}, {}", event.vni, called.port(event.port)),
        };
        self.brain.events().emit("refused", object, sentence(reason, event, since));
    }
}

fn sentence(reason: DropReason, event: &Event, since: u64) -> String {
    let mac = event.mac.map(|byte| format!("{byte:02x}")).join(":");
    let ip = ip_from_bytes(event.ip);
    let claims = if event.ip == [0; 16] { String::new() } else { format!(" with {ip}") };
    // Events are fewer than packets: only the counter knows how many.
    let more = if since == 0 { "" } else { ", and others since it was last said" };
    format!("{}: {mac}{claims}{more}", reason.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_of_each_attachment_is_told_once_a_minute() {
        let mut refusals = Refusals::default();
        let (one, two) = (PortKey::untagged(1), PortKey::untagged(2));
        assert_eq!(refusals.note(0, one, DropReason::MacLimit), Some(0));
        assert_eq!(refusals.note(10, one, DropReason::MacLimit), None);
        assert_eq!(refusals.note(10, one, DropReason::StormRate), Some(0), "another reason");
        assert_eq!(refusals.note(10, two, DropReason::MacLimit), Some(0), "another attachment");
        assert_eq!(refusals.note(59_999, one, DropReason::MacLimit), None);
        assert_eq!(refusals.note(60_000, one, DropReason::MacLimit), Some(2));
        assert_eq!(refusals.note(60_001, one, DropReason::MacLimit), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_makes_room_by_time() {
        let mut refusals = Refusals::default();
        let port = |n: usize| PortKey::untagged(u32::try_from(n).unwrap());
        for n in 0..REMEMBERED_MAX {
            assert_eq!(refusals.note(0, port(n), DropReason::GuardMac), Some(0));
        }
        assert_eq!(refusals.note(1, port(REMEMBERED_MAX), DropReason::GuardMac), None, "no room");
        assert_eq!(refusals.note(QUIET_MS, port(REMEMBERED_MAX), DropReason::GuardMac), Some(0));
        assert_eq!(refusals.0.len(), 1);
    }

    #[test]
    fn a_refusal_in_words() {
        let event = Event { mac: [2, 0, 0, 0, 0, 0x66], ..Event::default() };
        assert_eq!(sentence(DropReason::MacLimit, &event, 0), "mac-limit: 02:00:00:00:00:66");
        let ip = watari_dataplane::ip_bytes("10.20.0.11".parse().unwrap());
        assert_eq!(
            sentence(DropReason::GuardIp, &Event { ip, ..event }, 3),
            "guard-ip: 02:00:00:00:00:66 with 10.20.0.11, and others since it was last said"
        );
    }
}
