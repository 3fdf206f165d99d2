//! Graceful restart in both roles (RFC 4724, RFC 8538).
//!
//! *We restart*: selection in every table waits until all neighbours have been heard out or the deferral
//! timer ran; then best paths are reported, and only then updates and End-of-RIB go out (§4.1).
//! *A neighbour restarts*: its paths stay, marked stale, until it has sent its End-of-RIB, or for the time it
//! asked for (§4.2).

use super::{RestartConfig, Source, Speaker};
use crate::peer::Negotiated;
use crate::rib::Path;
use crate::session::DownReason;
use crate::time::Instant;
use crate::types::{Family, InstanceId, PeerId};
use crate::wire::Notification;

/// A restart of ours.
#[derive(Debug, Default)]
pub(super) struct Restart {
    /// The end of the selection deferral; `None` when no table defers any more.
    pub(super) deadline: Option<Instant>,
    pub(super) forwarding_preserved: bool,
    pub(super) local_routes_complete: bool,
}

/// How long a neighbour's stale paths are kept after its return if it does not say otherwise.
const STALE_TIME_DEFAULT_MS: u64 = 360_000;

impl Speaker {
    pub(super) fn start_restart(&mut self, config: RestartConfig, now: Instant) {
        self.restart = Restart {
            deadline: Some(now + config.selection_deferral_ms),
            forwarding_preserved: config.forwarding_preserved,
            local_routes_complete: false,
        };
        for table in self.tables.values_mut() {
            table.deferring = true;
        }
    }

    pub(super) fn refresh_restart_flags(&mut self, peer: PeerId) {
        let restarting = self.restart.deadline.is_some();
        if let Some(neighbor) = self.neighbors.get_mut(&peer) {
            neighbor.set_restart_flags(restarting, self.restart.forwarding_preserved);
        }
    }

    /// Ends the deferral of every table whose neighbours have all been heard out. Returns those tables.
    pub(super) fn end_deferral(&mut self, now: Instant) -> Vec<(InstanceId, Family)> {
        let Some(deadline) = self.restart.deadline else { return Vec::new() };
        let expired = deadline <= now;
        let mut done = Vec::new();
        for (&(instance, family), table) in self.tables.iter_mut().filter(|(_, t)| t.deferring) {
            let mut waiting = self.neighbors.values().filter(|n| n.config.instance == instance);
            if expired || self.restart.local_routes_complete && waiting.all(|n| n.is_heard_out(family)) {
                table.deferring = false;
                done.push((instance, family));
            }
        }
        let all_done = !self.tables.is_empty() && self.tables.values().all(|t| !t.deferring);
        if expired || all_done {
            self.restart.deadline = None;
        }
        done
    }

    /// The session of a neighbour ended: its paths become stale or leave.
    pub(super) fn on_peer_away(
        &mut self,
        peer: PeerId,
        negotiated: &Negotiated,
        reason: &DownReason,
        now: Instant,
    ) {
        let gr = negotiated.graceful_restart.as_ref().filter(|gr| is_graceful(reason, gr.notification));
        let tables = self.tables_of(peer);
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        neighbor.stale.clear();
        // What was stale because it had not been sent again yet is kept as all the rest.
        let refreshing = std::mem::take(&mut neighbor.resent);
        neighbor.stale_deadline = None;
        for (instance, family) in tables {
            let Some(table) = self.tables.get_mut(&(instance, family)) else { continue };
            let kept = gr.is_some_and(|gr| gr.forwarding_preserved(family).is_some());
            if kept {
                if refreshing.contains(&family) {
                    table.rib.set_stale(Source::Peer(peer), false);
                }
                neighbor.stale.insert(family);
                table.rib.mark_stale(Source::Peer(peer));
            } else {
                table.rib.remove_where(Source::Peer(peer), |_| true);
            }
        }
        let wait_ms = gr.map(|gr| u64::from(gr.restart_time_s) * 1_000);
        neighbor.restart_deadline = wait_ms.filter(|_| !neighbor.stale.is_empty()).map(|ms| now + ms);
    }

    /// RFC 7313 §4: what is not sent again before the end is told, or in as long as a restart may take, has gone.
    /// Before the first End-of-RIB a beginning says nothing.
    pub(super) fn on_refresh_begin(&mut self, peer: PeerId, family: Family, now: Instant) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let Some(live) = &neighbor.live else { return };
        if live.negotiated.graceful_restart.is_some() && !live.end_of_rib.contains(&family) {
            return;
        }
        let Some(table) = self.tables.get_mut(&(neighbor.config.instance, family)) else { return };
        table.rib.set_stale(Source::Peer(peer), true);
        neighbor.stale.insert(family);
        neighbor.resent.insert(family);
        let configured = neighbor.config.graceful_restart.map(|gr| gr.stale_time_ms);
        neighbor.stale_deadline = Some(now + configured.unwrap_or(STALE_TIME_DEFAULT_MS));
    }

    /// The end of what [`Speaker::on_refresh_begin`] began; an end without a beginning says nothing.
    pub(super) fn on_refresh_end(&mut self, peer: PeerId, family: Family) {
        if self.neighbors.get(&peer).is_some_and(|n| n.resent.contains(&family)) {
            self.sweep_stale(peer, family);
        }
    }

    /// The neighbour is established again: families whose forwarding it did not preserve are swept at once.
    pub(super) fn on_peer_back(&mut self, peer: PeerId, now: Instant) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        neighbor.restart_deadline = None;
        let Some(live) = &neighbor.live else { return };
        let gr = live.negotiated.graceful_restart.as_ref();
        let lost = |f: &Family| gr.and_then(|gr| gr.forwarding_preserved(*f)) != Some(true);
        let swept: Vec<Family> = neighbor.stale.iter().copied().filter(lost).collect();
        if neighbor.stale.len() > swept.len() {
            let configured = neighbor.config.graceful_restart.map(|gr| gr.stale_time_ms);
            neighbor.stale_deadline = Some(now + configured.unwrap_or(STALE_TIME_DEFAULT_MS));
        }
        for family in swept {
            self.sweep_stale(peer, family);
        }
    }

    pub(super) fn tick_restart(&mut self, peer: PeerId, now: Instant) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        if let Some(live) = &mut neighbor.live {
            live.patience = live.patience.filter(|p| *p > now);
        }
        let over =
            [neighbor.restart_deadline, neighbor.stale_deadline].into_iter().flatten().any(|d| d <= now);
        if over {
            for family in neighbor.stale.clone() {
                self.sweep_stale(peer, family);
            }
        }
    }

    /// Removes the neighbour's stale paths of a family.
    pub(super) fn sweep_stale(&mut self, peer: PeerId, family: Family) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        neighbor.resent.remove(&family);
        self.may_be_gone = true;
        if !neighbor.stale.remove(&family) {
            return;
        }
        if neighbor.stale.is_empty() {
            (neighbor.stale_deadline, neighbor.restart_deadline) = (None, None);
        }
        if let Some(table) = self.tables.get_mut(&(neighbor.config.instance, family)) {
            table.rib.remove_where(Source::Peer(peer), Path::is_stale);
        }
    }
}

/// RFC 4724 §4.2: a lost connection. RFC 8538 §4: with the N bit on both sides also a NOTIFICATION in either
/// direction, unless it is a hard reset.
fn is_graceful(reason: &DownReason, notification_bit: bool) -> bool {
    match reason {
        DownReason::ConnectionLost | DownReason::Replaced => true,
        DownReason::Sent(n) | DownReason::Received(n) => notification_bit && !n.is(Notification::HARD_RESET),
        DownReason::ConnectFailed | DownReason::GracefulShutdown => false,
    }
}
