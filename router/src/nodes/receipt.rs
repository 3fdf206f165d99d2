//! The receipt of a node: each stage of its attach with its time, and what the probes found. A pure state
//! machine; the time is an argument.
//!
//! ```text
//!   asked ─▶ enrolled ─▶ applied ─▶ handshake ─▶ announced ─▶ probes ─▶ ready
//!                 └────────── within PROVE_LIMIT, or failed with the reason ──┘
//! ```
//! Receipts live in memory. After a restart of the daemon they are derived: `asked` is what was stored, a
//! node that had enrolled is proved anew, and the times are those of the new proof.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;
use watari_config::Name;

/// How long after its enrolment a node may take until it is ready.
pub const PROVE_LIMIT: SignedDuration = SignedDuration::from_mins(5);

/// How far an attach has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReceiptState {
    /// The node has not enrolled yet.
    Waiting,
    /// It has enrolled; the gateways are being told.
    Applying,
    /// Probes are on their way.
    Probing,
    /// Every probe came back.
    Ready,
    /// Some probe did not come back in time.
    Failed,
}

/// A stage of an attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StageName {
    /// Somebody asked for it.
    Asked,
    /// The node came with its token and its key.
    Enrolled,
    /// The plan of that change was carried out at this gateway.
    Applied,
    /// The node's WireGuard has shaken hands.
    Handshake,
    /// The other gateways were told where it is.
    Announced,
    /// Every probe came back.
    Ready,
}

/// When a stage was reached.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Stage {
    /// Which.
    pub stage: StageName,
    /// When, UTC; absent when that was before the daemon started.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// Milliseconds since the stage before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
}

/// One probe: an echo from a gateway's own address to the node and back.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Probe {
    /// The gateway that sends it.
    #[schema(value_type = String)]
    pub gateway: Name,
    /// The node's address.
    #[schema(value_type = String)]
    pub target: IpAddr,
    /// Size of the IP packet in bytes; it may not be fragmented.
    pub bytes: u16,
    /// It came back.
    pub ok: bool,
    /// When it came back, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Option<Timestamp>,
    /// Round-trip time in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// How often it was tried.
    pub tries: u32,
    /// Why the last try failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Probe {
    /// A probe that was not sent yet.
    pub fn new(gateway: Name, target: IpAddr, bytes: u16) -> Self {
        Self { gateway, target, bytes, ok: false, at: None, rtt_us: None, tries: 0, reason: None }
    }

    fn same_as(&self, other: &Self) -> bool {
        (&self.gateway, self.target, self.bytes) == (&other.gateway, other.target, other.bytes)
    }
}

/// What this gateway sees of a node that has enrolled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Everything it needs here is in place.
    pub applied: bool,
    /// Its WireGuard has shaken hands.
    pub handshake: bool,
    /// The other gateways were told.
    pub announced: bool,
}

/// The proof of an attach.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Receipt {
    /// The node.
    #[schema(value_type = String)]
    pub node: Name,
    /// How far it has come.
    pub state: ReceiptState,
    /// Every probe came back.
    pub ready: bool,
    /// What is waited for, or what failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// True when the daemon was restarted since the node was asked for: times before that are not known.
    pub derived: bool,
    /// Milliseconds from enrolment to ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_ms: Option<u64>,
    /// The stages reached, in order.
    pub stages: Vec<Stage>,
    /// The probes.
    pub probes: Vec<Probe>,
    /// When the proof began: at the enrolment, or at the first look after a restart.
    #[serde(skip)]
    began: Option<Timestamp>,
}

impl Receipt {
    /// The receipt of a node that was just asked for.
    pub fn asked(node: Name, at: Timestamp) -> Self {
        let asked = Stage { stage: StageName::Asked, at: Some(at), took_ms: None };
        Self {
            node,
            state: ReceiptState::Waiting,
            ready: false,
            reason: Some("the node has not enrolled yet".to_owned()),
            derived: false,
            ready_ms: None,
            stages: vec![asked],
            probes: Vec::new(),
            began: None,
        }
    }

    /// The receipt of a node that was there when the daemon started at `now`.
    pub fn derived(node: Name, asked: Timestamp, has_enrolled: bool, now: Timestamp) -> Self {
        let mut receipt = Self { derived: true, ..Self::asked(node, asked) };
        if has_enrolled {
            receipt.stages.push(Stage { stage: StageName::Enrolled, at: None, took_ms: None });
            receipt.state = ReceiptState::Applying;
            receipt.began = Some(now);
        }
        receipt
    }

    /// When the node was asked for: tells it from one of the same name before.
    pub fn asked_at(&self) -> Option<Timestamp> {
        self.stages.first().and_then(|s| s.at)
    }

    /// The node has enrolled. Said again, it changes nothing.
    pub fn enrolled(&mut self, at: Timestamp) {
        if self.state == ReceiptState::Waiting {
            self.reach(StageName::Enrolled, at);
            self.state = ReceiptState::Applying;
            self.began = Some(at);
        }
    }

    /// The token was not used in time: nobody can become this node any more.
    pub fn token_expired(&mut self) {
        if self.state == ReceiptState::Waiting {
            self.state = ReceiptState::Failed;
            self.reason = Some("its token has expired unused; detach it and ask anew".to_owned());
        }
    }

    /// What is seen of it at `now`. Stages are reached in order; a stage seen early counts when its turn comes.
    pub fn see(&mut self, seen: Seen, now: Timestamp) {
        if self.state != ReceiptState::Applying {
            return;
        }
        let turns = [
            (StageName::Applied, seen.applied, "this gateway has not carried out the plan yet"),
            (StageName::Handshake, seen.handshake, "no WireGuard handshake yet"),
            (StageName::Announced, seen.announced, "the other gateways are not told yet"),
        ];
        for (stage, is_so, waiting) in turns {
            if self.has(stage) {
                continue;
            }
            if !is_so {
                self.reason = Some(waiting.to_owned());
                return self.give_up(now);
            }
            self.reach(stage, now);
        }
        self.state = ReceiptState::Probing;
        self.reason = Some("probes are on their way".to_owned());
    }

    /// The probes that are to be done. Those that came back before stay; others that are no longer wanted go.
    pub fn expect(&mut self, wanted: Vec<Probe>) {
        if self.state != ReceiptState::Probing {
            return;
        }
        let before = std::mem::take(&mut self.probes);
        let known = |w: Probe| before.iter().find(|p| p.same_as(&w)).cloned().unwrap_or(w);
        self.probes = wanted.into_iter().map(known).collect();
    }

    /// The probes that have not come back yet; none unless the receipt is at its probes.
    pub fn missing(&self) -> Vec<Probe> {
        let probing = self.state == ReceiptState::Probing;
        self.probes.iter().filter(|p| probing && !p.ok).cloned().collect()
    }

    /// A probe came back after `Ok(µs)`, or did not.
    pub fn probed(&mut self, probe: &Probe, result: Result<u64, String>, now: Timestamp) {
        if self.state != ReceiptState::Probing {
            return;
        }
        let Some(kept) = self.probes.iter_mut().find(|p| p.same_as(probe)) else { return };
        kept.tries += 1;
        match result {
            Ok(rtt_us) => {
                (kept.ok, kept.at, kept.rtt_us, kept.reason) = (true, Some(now), Some(rtt_us), None);
            }
            Err(reason) => {
                self.reason =
                    Some(format!("{} bytes from {} to {}: {reason}", kept.bytes, kept.gateway, kept.target));
                kept.reason = Some(reason);
            }
        }
        if self.probes.iter().all(|p| p.ok) {
            self.reach(StageName::Ready, now);
            (self.state, self.ready, self.reason) = (ReceiptState::Ready, true, None);
            self.ready_ms = self.began.map(|began| millis(began, now));
        } else {
            self.give_up(now);
        }
    }

    fn give_up(&mut self, now: Timestamp) {
        if self.began.is_some_and(|began| now.duration_since(began) >= PROVE_LIMIT) {
            self.state = ReceiptState::Failed;
        }
    }

    fn has(&self, stage: StageName) -> bool {
        self.stages.iter().any(|s| s.stage == stage)
    }

    fn reach(&mut self, stage: StageName, at: Timestamp) {
        let took_ms = self.stages.last().and_then(|s| s.at).map(|before| millis(before, at));
        self.stages.push(Stage { stage, at: Some(at), took_ms });
    }
}

fn millis(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Seen = Seen { applied: true, handshake: true, announced: true };

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_767_225_600_000 + ms).unwrap()
    }

    fn probes() -> Vec<Probe> {
        let probe = |gateway: &str, bytes| {
            Probe::new(gateway.parse().unwrap(), "10.10.0.130".parse().unwrap(), bytes)
        };
        vec![probe("gw-a", 84), probe("gw-a", 1370), probe("gw-b", 1370)]
    }

    fn probing() -> Receipt {
        let mut receipt = Receipt::asked("gpu-1".parse().unwrap(), at(0));
        receipt.enrolled(at(1000));
        receipt.see(ALL, at(1100));
        receipt.expect(probes());
        receipt
    }

    #[test]
    fn the_stages_come_in_order_and_with_their_times() {
        let mut receipt = Receipt::asked("gpu-1".parse().unwrap(), at(0));
        receipt.see(ALL, at(10));
        assert_eq!(receipt.stages.len(), 1, "nothing is applied before the enrolment");
        receipt.enrolled(at(1000));
        receipt.enrolled(at(2000));
        receipt.see(Seen { handshake: true, ..Seen::default() }, at(2100));
        assert_eq!(receipt.stages.len(), 2, "a handshake does not overtake the plan");
        receipt.see(Seen { applied: true, handshake: true, announced: false }, at(2200));
        assert_eq!(receipt.state, ReceiptState::Applying);
        receipt.see(ALL, at(2500));
        assert_eq!(receipt.state, ReceiptState::Probing);
        let took: Vec<_> = receipt.stages.iter().map(|s| s.took_ms).collect();
        assert_eq!(took, [None, Some(1000), Some(1200), Some(0), Some(300)]);
    }

    #[test]
    fn ready_is_said_when_the_last_probe_is_back_and_not_before() {
        let mut receipt = probing();
        for (i, probe) in probes().iter().enumerate() {
            assert!(!receipt.ready, "after {i} probes");
            receipt.probed(probe, Ok(700), at(1200 + i as i64));
        }
        assert_eq!((receipt.ready, receipt.state), (true, ReceiptState::Ready));
        assert_eq!((receipt.ready_ms, receipt.reason), (Some(202), None));
    }

    #[test]
    fn a_probe_that_fails_is_tried_until_the_limit() {
        let mut receipt = probing();
        let lost = &probes()[2];
        receipt.probed(lost, Err("no answer".to_owned()), at(2000));
        assert_eq!((receipt.state, receipt.missing().len()), (ReceiptState::Probing, 3));
        assert!(receipt.reason.as_ref().unwrap().contains("1370 bytes from gw-b"), "{receipt:?}");
        receipt.probed(lost, Err("no answer".to_owned()), at(1000 + 300_000));
        assert_eq!((receipt.state, receipt.ready), (ReceiptState::Failed, false));
        assert_eq!(receipt.missing(), []);
        receipt.probed(lost, Ok(1), at(400_000));
        assert!(!receipt.ready, "what has failed stays so");
    }

    #[test]
    fn a_node_without_handshake_fails_in_the_end() {
        let mut receipt = Receipt::asked("gpu-1".parse().unwrap(), at(0));
        receipt.enrolled(at(0));
        receipt.see(Seen { applied: true, ..Seen::default() }, at(299_999));
        assert_eq!(receipt.state, ReceiptState::Applying);
        receipt.see(Seen { applied: true, ..Seen::default() }, at(300_000));
        assert_eq!(receipt.state, ReceiptState::Failed);
        assert!(receipt.reason.unwrap().contains("handshake"));
    }

    #[test]
    fn a_token_that_expired_unused_is_said() {
        let mut receipt = Receipt::asked("gpu-1".parse().unwrap(), at(0));
        receipt.token_expired();
        assert_eq!(receipt.state, ReceiptState::Failed);
        let mut joined = probing();
        joined.token_expired();
        assert_eq!(joined.state, ReceiptState::Probing, "a used token does not matter any more");
    }

    #[test]
    fn a_derived_receipt_says_so_and_is_proved_anew() {
        let mut receipt = Receipt::derived("gpu-1".parse().unwrap(), at(0), true, at(9000));
        assert_eq!((receipt.derived, receipt.stages[1].at), (true, None));
        receipt.see(ALL, at(9100));
        receipt.expect(probes());
        assert_eq!(receipt.missing().len(), 3);
    }

    #[test]
    fn what_came_back_is_kept_when_the_probes_change() {
        let mut receipt = probing();
        receipt.probed(&probes()[0], Ok(5), at(1200));
        receipt.expect(probes()[..2].to_vec());
        assert_eq!(receipt.missing().len(), 1);
        assert_eq!(receipt.probes[0].rtt_us, Some(5));
    }
}
