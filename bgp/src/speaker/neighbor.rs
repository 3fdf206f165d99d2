//! One neighbour as the speaker keeps it: configuration, machine, what it was sent, and its restart.

use std::collections::BTreeSet;

use crate::peer::{Negotiated, PeerConfig};
use crate::rib::{Advertiser, ExportRules};
use crate::session::{DownReason, RestartFlags, Session};
use crate::time::Instant;
use crate::types::{ConnId, Family, RouterId};
use crate::wire::{EncodeContext, ParseContext};

/// How long a neighbour that has just restarted too is waited for. RFC 4724 §4.1 would not wait at all, lest two
/// wait for each other; but there are speakers that set the R bit for minutes and send everything at once.
pub(super) const PATIENCE_MS: u64 = 3_000;
/// RFC 9687 §4: the larger of 8 minutes and twice the hold time.
const SEND_HOLD_MS: u64 = 480_000;

/// The established session.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) conn: ConnId,
    pub(super) negotiated: Negotiated,
    /// Octets given out and not reported written.
    pub(super) unsent: usize,
    /// When something was last reported written, or nothing was waiting.
    pub(super) progress_at: Instant,
    /// Families whose End-of-RIB came.
    pub(super) end_of_rib: BTreeSet<Family>,
    /// Families with so many paths that a warning was given.
    pub(super) near_limit: BTreeSet<Family>,
    /// We both have just restarted: until then its End-of-RIB is waited for all the same.
    pub(super) patience: Option<Instant>,
}

/// The neighbour.
#[derive(Debug)]
pub(super) struct Neighbor {
    pub(super) config: PeerConfig,
    pub(super) session: Session,
    pub(super) live: Option<Live>,
    /// Its routes are kept although it is away, until then (RFC 4724 §4.2).
    pub(super) restart_deadline: Option<Instant>,
    /// It is back; what it has not sent again by then is removed.
    pub(super) stale_deadline: Option<Instant>,
    /// Families with stale paths.
    pub(super) stale: BTreeSet<Family>,
    /// Of these, families that it has begun to send again (RFC 7313 §4).
    pub(super) resent: BTreeSet<Family>,
    /// It has connected.
    pub(super) has_come: bool,
    /// It was established in this life of the daemon.
    pub(super) was_up: bool,
    pub(super) malformed_updates: u64,
    /// Paths that were not kept, because there were too many of their route.
    pub(super) paths_left_out: u64,
    pub(super) since: Instant,
    pub(super) last_down: Option<DownReason>,
}

impl Neighbor {
    pub(super) fn new(config: PeerConfig, router_id: RouterId, seed: u64, now: Instant) -> Neighbor {
        Neighbor {
            session: Session::new(config.clone(), router_id, seed),
            config,
            live: None,
            restart_deadline: None,
            stale_deadline: None,
            stale: BTreeSet::new(),
            resent: BTreeSet::new(),
            has_come: false,
            was_up: false,
            malformed_updates: 0,
            paths_left_out: 0,
            since: now,
            last_down: None,
        }
    }

    /// R and F bits of the next OPEN. A session lost without a restart of ours leaves our forwarding as it was.
    pub(super) fn set_restart_flags(&mut self, restarting: bool, forwarding_preserved: bool) {
        let forwarding_preserved = forwarding_preserved || self.was_up;
        let restarted = restarting && !self.was_up;
        self.session.set_restart_flags(RestartFlags { restarted, forwarding_preserved });
    }

    /// Whether it is a dynamic neighbour of which nothing is left.
    pub(super) fn is_gone(&self) -> bool {
        self.config.dynamic.is_some() && self.has_come && self.session.is_forsaken() && self.stale.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let patience = self.live.as_ref().and_then(|l| l.patience);
        let restart = [self.restart_deadline, self.stale_deadline, patience];
        let session = [self.session.next_deadline(), self.send_hold_deadline()];
        restart.into_iter().chain(session).flatten().min()
    }

    /// RFC 9687: when a peer that does not read is given up.
    pub(super) fn send_hold_deadline(&self) -> Option<Instant> {
        let live = self.live.as_ref().filter(|l| l.unsent > 0)?;
        let hold_ms = u64::from(live.negotiated.hold_time_s) * 1_000;
        (hold_ms != 0).then(|| live.progress_at + SEND_HOLD_MS.max(2 * hold_ms))
    }

    pub(super) fn advertiser(&self, negotiated: &Negotiated) -> Advertiser {
        Advertiser {
            local: false,
            internal: self.config.is_internal(),
            client: self.config.route_reflector_client,
            router_id: negotiated.remote_id,
            address: self.config.remote_addr,
        }
    }

    /// What it is told of a family, once it is established.
    pub(super) fn export_rules(&self, router_id: RouterId, family: Family) -> Option<ExportRules> {
        let live = self.live.as_ref()?;
        let extended = live.negotiated.extended_next_hop;
        let several = self.config.add_path(family).send;
        let several = several.filter(|_| live.negotiated.add_path_sent.contains(family));
        let rules = ExportRules::new(&self.config, router_id, live.encode_context(), extended);
        Some(rules.with_several(several))
    }

    pub(super) fn parse_context(&self, negotiated: &Negotiated) -> ParseContext {
        ParseContext {
            internal: self.config.is_internal(),
            peer_asn: self.config.remote_asn,
            four_octet_as: negotiated.four_octet_as,
        }
    }

    /// Whether selection of `family` need not wait for it after a restart of ours: its End-of-RIB came, or it
    /// restarts itself and time is up, or it does not do graceful restart (RFC 4724 §4.1).
    pub(super) fn is_heard_out(&self, family: Family) -> bool {
        if !self.config.families.contains(&family) {
            return true;
        }
        // Nobody waits for one that is kept down.
        let Some(live) = &self.live else { return self.config.admin_down.is_some() };
        if !live.negotiated.families.contains(&family) || live.end_of_rib.contains(&family) {
            return true;
        }
        match &live.negotiated.graceful_restart {
            None => true,
            Some(gr) => gr.restarted && live.patience.is_none(),
        }
    }
}

impl Live {
    pub(super) fn encode_context(&self) -> EncodeContext {
        EncodeContext {
            four_octet_as: self.negotiated.four_octet_as,
            message_limit: self.negotiated.message_limit(),
        }
    }
}
