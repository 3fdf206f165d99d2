//! Which attachments are blocked because they would close a loop. PURE: time is an argument.
//!
//! Every gateway sends a beacon from each of its attachments. One that is seen at an attachment proves that both
//! places are one broadcast domain outside the overlay, while the overlay joins them already: a loop. Of the two the
//! later one is blocked. All who hear each other agree on which that is, without talking: the order is total.
//!
//! ```text
//!   order: (since, Router's MAC, port id)
//!
//!   seen at an attachment                     verdict there
//!   an earlier one's beacon                   blocked, while it was seen within the hold
//!   its own beacon: the L2 behind reflects    blocked, likewise
//!   a later one's that says "I am blocked"    none: the loop is open
//!   a later one's that does not, for 3 s      blocked: it does not hear us, or nobody decides there
//!
//!   hold: 3 s, doubled up to 60 s whenever a released attachment is blocked again within a minute
//! ```
//! A verdict rests on what was seen at that very attachment and on nothing else: whoever forges beacons on one VLAN
//! blocks that VLAN, and no other's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use watari_config::{Mac, Name, Vni};

use crate::item::{Key, PortAt, System, Value};
use crate::observed::Observed;
use crate::wanted::{Item, Wanted};

/// How long a loop must not have been seen before an attachment is released.
pub const HOLD: Duration = Duration::from_secs(3);
/// The longest hold, and how soon after a release another block counts as flapping.
pub const HOLD_MAX: Duration = Duration::from_secs(60);
/// How long the later one may go on without saying that it is blocked before the earlier one is.
pub const YIELD_AFTER: Duration = Duration::from_secs(3);
/// A beacon that was not seen for so long is not seen *continuously*.
const GAP_MAX: Duration = Duration::from_secs(1);
/// Origins that are remembered at one attachment; of more, the earliest ones.
const HEARD_MAX: usize = 64;

/// The attachment of a gateway, by what its beacon says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LoopPeer {
    /// When it began to send, in ms of Unix time by its own clock.
    pub since_ms: u64,
    /// Router's MAC of its gateway.
    pub origin: Mac,
    /// Which attachment of that gateway: [`port_id`].
    pub port_id: u64,
    /// Its segment.
    pub vni: Vni,
}

impl LoopPeer {
    /// What decides who is earlier.
    fn order(&self) -> (u64, Mac, u64) {
        (self.since_ms, self.origin, self.port_id)
    }
}

/// An attachment of this gateway that is guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnPort {
    /// Its segment.
    pub vni: Vni,
    /// Since when its beacon has been sent; `None` while that is not known: it is later than all then.
    pub since_ms: Option<u64>,
    /// [`port_id`].
    pub port_id: u64,
}

/// What is known of a loop at an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The attachment is blocked; else it is the other that is, or should be.
    pub blocked: bool,
    /// With whom the loop is; `None` when it was found blocked at the start and nothing was seen since.
    pub with: Option<LoopPeer>,
    /// It is its own beacon that came back.
    pub reflected: bool,
    /// When that became so, by the clock of the caller.
    #[serde(skip)]
    pub since: Duration,
}

/// A stable number of an attachment: 64-bit FNV-1a of gateway, device and tags.
pub fn port_id(gateway: &Name, at: &PortAt) -> u64 {
    let text = format!("{gateway}\0{at}");
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The attachments that are guarded: those from which a beacon is wanted.
pub fn guarded(wanted: &Wanted, observed: &Observed) -> BTreeMap<PortAt, OwnPort> {
    let beacon = |(key, item): (&Key, &Item)| match (key, &item.value) {
        (Key::Beacon(at), Value::Beacon { vni, port_id, .. }) => {
            let since_ms = observed.beacons.get(at).copied();
            Some((at.clone(), OwnPort { vni: *vni, since_ms, port_id: *port_id }))
        }
        _ => None,
    };
    wanted.items.iter().filter_map(beacon).collect()
}

/// Whether an attachment is blocked in what was read back. Where the datapath knows nothing of it (its tables were
/// made anew), its beacon does.
pub fn is_found_blocked(system: &System, at: &PortAt) -> bool {
    match system.get(&Key::Port(at.clone())) {
        Some(Value::SegmentPort { blocked, .. }) => *blocked,
        _ => matches!(system.get(&Key::Beacon(at.clone())), Some(Value::Beacon { blocked: true, .. })),
    }
}

/// The verdicts that what was read back speaks of, for a look without a loop guard.
pub fn found(system: &System) -> BTreeMap<PortAt, Verdict> {
    let verdict = Verdict { blocked: true, with: None, reflected: false, since: Duration::ZERO };
    let blocked = system.keys().filter_map(|key| match key {
        Key::Port(at) if is_found_blocked(system, at) => Some((at.clone(), verdict)),
        _ => None,
    });
    blocked.collect()
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    peer: LoopPeer,
    last: Duration,
    /// Since when it has been saying that it is not blocked; `None` when it says that it is.
    open_since: Option<Duration>,
}

impl Heard {
    /// It should have blocked itself and did not.
    fn is_deaf(&self) -> bool {
        self.open_since.is_some_and(|since| self.last.saturating_sub(since) >= YIELD_AFTER)
    }
}

#[derive(Clone, Debug)]
struct Port {
    own: OwnPort,
    heard: BTreeMap<(Mac, u64), Heard>,
    /// It was found blocked at this time, nobody knows by whom.
    found_blocked: Option<Duration>,
    hold: Duration,
    released: Option<Duration>,
    verdict: Option<Verdict>,
}

/// The loop guard of one gateway.
#[derive(Clone, Debug, Default)]
pub struct Loops {
    /// Router's MAC of this gateway.
    own: Option<Mac>,
    ports: BTreeMap<PortAt, Port>,
}

impl Loops {
    /// Says which attachments are guarded now. Those of `found_blocked` that are not known yet count as blocked by
    /// something seen at `now`: so a restart opens nothing. True when a verdict changed.
    pub fn set_ports(
        &mut self,
        own: Mac,
        ports: BTreeMap<PortAt, OwnPort>,
        found_blocked: impl Fn(&PortAt) -> bool,
        now: Duration,
    ) -> bool {
        self.own = Some(own);
        let lost = self.ports.iter().filter(|(at, _)| !ports.contains_key(*at));
        let mut changed = lost.filter(|(_, port)| port.verdict.is_some()).count() > 0;
        self.ports.retain(|at, _| ports.contains_key(at));
        for (at, own_port) in ports {
            let port = self.ports.entry(at).or_insert_with_key(|at| Port {
                own: own_port,
                heard: BTreeMap::new(),
                found_blocked: found_blocked(at).then_some(now),
                hold: HOLD,
                released: None,
                verdict: None,
            });
            port.own = own_port;
            changed |= port.decide(own, now);
        }
        changed
    }

    /// Notes a beacon of `peer` that came in by `at`; `is_blocked` is what it says of itself. True when a verdict
    /// changed.
    pub fn seen(&mut self, at: &PortAt, peer: LoopPeer, is_blocked: bool, now: Duration) -> bool {
        let Some(own) = self.own else { return false };
        // An attachment of ours that is no more: a late echo.
        if peer.origin == own && !self.ports.values().any(|port| port.own.port_id == peer.port_id) {
            return false;
        }
        let Some(port) = self.ports.get_mut(at) else { return false };
        port.hear(peer, is_blocked, now);
        port.decide(own, now)
    }

    /// Lets time pass. True when a verdict changed.
    pub fn tick(&mut self, now: Duration) -> bool {
        let Some(own) = self.own else { return false };
        self.ports.values_mut().fold(false, |changed, port| port.decide(own, now) | changed)
    }

    /// Segments with a verdict that is younger than `age`: what moved there, the loop moved.
    pub fn unsettled(&self, now: Duration, age: Duration) -> BTreeSet<Vni> {
        let young = |port: &&Port| port.verdict.is_some_and(|v| now.saturating_sub(v.since) < age);
        self.ports.values().filter(young).map(|port| port.own.vni).collect()
    }

    /// Every attachment at which there is a loop.
    pub fn verdicts(&self) -> BTreeMap<PortAt, Verdict> {
        let looped = self.ports.iter().filter_map(|(at, port)| Some((at.clone(), port.verdict?)));
        looped.collect()
    }
}

impl Port {
    fn hear(&mut self, peer: LoopPeer, is_blocked: bool, now: Duration) {
        let key = (peer.origin, peer.port_id);
        // Who made us yield goes on doing so for the hold: what it says is lost now and then.
        let gap = |h: &Heard| if h.is_deaf() { self.hold } else { GAP_MAX };
        let before = self.heard.get(&key).filter(|h| now.saturating_sub(h.last) <= gap(h));
        let open_since = before.and_then(|h| h.open_since);
        let open_since = (!is_blocked).then(|| open_since.unwrap_or(now));
        self.heard.insert(key, Heard { peer, last: now, open_since });
        if self.heard.len() > HEARD_MAX
            && let Some(latest) = self.heard.values().max_by_key(|h| h.peer.order()).map(|h| h.peer)
        {
            self.heard.remove(&(latest.origin, latest.port_id));
        }
    }

    /// Comes to a verdict; true when it is another one than before.
    fn decide(&mut self, own: Mac, now: Duration) -> bool {
        self.heard.retain(|_, heard| now.saturating_sub(heard.last) < HOLD_MAX);
        let was_blocked = self.verdict.is_some_and(|v| v.blocked);
        // Before a block only what is fresh counts; once blocked, the hold.
        let patience = if was_blocked { self.hold } else { HOLD };
        let fresh = |last: Duration| now.saturating_sub(last) < patience;
        self.found_blocked = self.found_blocked.filter(|last| fresh(*last));
        let peers = || self.heard.values().filter(|h| fresh(h.last));
        let blocking = peers().filter(|h| self.is_blocked_by(h, own)).map(|h| h.peer).min();
        let blocked = blocking.is_some() || self.found_blocked.is_some();
        let with = blocking.or_else(|| peers().map(|h| h.peer).min().filter(|_| !blocked));
        if blocked && !was_blocked {
            let flaps = self.released.is_some_and(|at| now.saturating_sub(at) < HOLD_MAX);
            self.hold = if flaps { (self.hold * 2).min(HOLD_MAX) } else { HOLD };
        }
        if was_blocked && !blocked {
            self.released = Some(now);
        }
        let reflected = with.is_some_and(|peer| peer.origin == own && peer.port_id == self.own.port_id);
        let before = self.verdict;
        let since = before.filter(|v| v.blocked == blocked).map_or(now, |v| v.since);
        let found = blocked || with.is_some();
        self.verdict = found.then_some(Verdict { blocked, with, reflected, since });
        self.verdict != before
    }

    fn is_blocked_by(&self, heard: &Heard, own: Mac) -> bool {
        let (since_ms, port_id) = (self.own.since_ms.unwrap_or(u64::MAX), self.own.port_id);
        let here = (since_ms, own, port_id);
        let reflected = (heard.peer.origin, heard.peer.port_id) == (own, port_id);
        reflected || heard.peer.order() < here || heard.is_deaf()
    }
}
