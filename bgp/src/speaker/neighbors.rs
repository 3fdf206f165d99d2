//! Neighbours come, change and go; what their machines ask for is done here.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::neighbor::{Live, Neighbor, PATIENCE_MS};
use super::{Output, Reset, Source, Speaker};
use crate::peer::{Negotiated, PeerConfig};
use crate::session::{Action, DownReason, Session, State};
use crate::time::Instant;
use crate::types::{Asn, ConnId, Family, PeerId};
use crate::wire::{Notification, RouteRefresh};

impl Speaker {
    pub(super) fn add_peer(&mut self, peer: PeerId, config: PeerConfig, now: Instant) {
        if self.neighbors.contains_key(&peer) {
            self.update_peer(peer, config, now);
            return;
        }
        for family in &config.families {
            self.table(config.instance, *family);
        }
        let seed = self.config.seed ^ u64::from(peer.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let neighbor = Neighbor::new(config, self.config.router_id, seed, now);
        self.neighbors.insert(peer, neighbor);
        self.note_own_addresses();
        self.on_session(peer, now, |session, out| session.start(now, out));
    }

    /// Touches only what changed: policy is applied to the paths that are there, what the neighbour was sent
    /// is looked at again, and only what both sides had agreed on needs a new session.
    pub(super) fn update_peer(&mut self, peer: PeerId, config: PeerConfig, now: Instant) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else {
            self.add_peer(peer, config, now);
            return;
        };
        let mut config = config;
        let known = neighbor.config.remote_asn;
        if config.remote_asn == Asn(0) && config.dynamic.as_ref().is_some_and(|d| d.may_be_of(known)) {
            config.remote_asn = known;
        }
        if neighbor.config == config {
            return;
        }
        let old = &neighbor.config;
        let elsewhere = old.instance != config.instance
            || old.remote_addr != config.remote_addr
            || old.remote_asn != config.remote_asn
            || old.local_asn != config.local_asn;
        if elsewhere {
            self.remove_peer(peer, now);
            if config.dynamic.is_some() {
                self.out.push(Output::PeerGone(peer));
            } else {
                self.add_peer(peer, config, now);
            }
        } else if config.admin_down.is_some() {
            self.take_down(peer, config, now);
        } else if old.admin_down.is_some() || old.needs_new_session(&config) {
            self.renew_session(peer, config, now);
        } else {
            neighbor.config = config.clone();
            neighbor.session.set_config(config);
            self.reapply_policy(peer);
        }
    }

    fn renew_session(&mut self, peer: PeerId, config: PeerConfig, now: Instant) {
        let reason = Notification::new(Notification::CONFIG_CHANGE);
        self.on_session(peer, now, |session, out| session.stop(Some(reason), out));
        for family in &config.families {
            self.table(config.instance, *family);
        }
        if let Some(neighbor) = self.neighbors.get_mut(&peer) {
            let left: Vec<Family> =
                neighbor.stale.iter().copied().filter(|f| !config.families.contains(f)).collect();
            let seed = self.config.seed ^ now.as_millis();
            neighbor.session = Session::new(config.clone(), self.config.router_id, seed);
            neighbor.config = config;
            for family in left {
                self.sweep_stale(peer, family);
            }
            self.note_own_addresses();
        }
        self.on_session(peer, now, |session, out| session.start(now, out));
    }

    /// The operator wants the session down: the peer is told why (RFC 9003), and its routes leave at once.
    fn take_down(&mut self, peer: PeerId, config: PeerConfig, now: Instant) {
        let message = config.admin_down.clone().unwrap_or_default();
        let notification = Notification::new(Notification::ADMIN_SHUTDOWN).with_message(&message);
        let notification = self.harden(peer, notification);
        let mut is_up = true;
        self.on_session(peer, now, |session, out| {
            is_up = session.state() != State::Idle || session.next_deadline().is_some();
            session.set_config(config.clone());
            if is_up {
                session.stop(Some(notification), out);
            }
        });
        self.forget_peer(peer);
        if let Some(neighbor) = self.neighbors.get_mut(&peer) {
            neighbor.config = config;
        }
        self.note_own_addresses();
    }

    /// Every path of the peer leaves, kept ones too.
    fn forget_peer(&mut self, peer: PeerId) {
        for at in self.tables_of(peer) {
            if let Some(table) = self.tables.get_mut(&at) {
                table.rib.remove_where(Source::Peer(peer), |_| true);
            }
        }
        self.may_be_gone = true;
        if let Some(neighbor) = self.neighbors.get_mut(&peer) {
            neighbor.stale.clear();
            neighbor.resent.clear();
            (neighbor.stale_deadline, neighbor.restart_deadline) = (None, None);
        }
    }

    /// The peer is told that its routes end here (a hard reset where a soft one would keep ours), and its
    /// routes leave at once.
    pub(super) fn remove_peer(&mut self, peer: PeerId, now: Instant) {
        let notification = Notification::new(Notification::DECONFIGURED);
        let notification = self.harden(peer, notification);
        self.on_session(peer, now, |session, out| session.stop(Some(notification), out));
        self.forget_peer(peer);
        self.neighbors.remove(&peer);
        self.note_own_addresses();
    }

    /// Dynamic neighbours of which nothing is left are known no longer.
    pub(super) fn dismiss(&mut self, now: Instant) {
        if !std::mem::take(&mut self.may_be_gone) {
            return;
        }
        let gone = self.neighbors.iter().filter(|(_, neighbor)| neighbor.is_gone());
        for peer in gone.map(|(peer, _)| *peer).collect::<Vec<_>>() {
            self.remove_peer(peer, now);
            self.out.push(Output::PeerGone(peer));
        }
    }

    /// RFC 5882 §4.3.2: what BFD has found ends an established session. During a restart of the peer, when its
    /// BFD shares the fate of its control plane, it says nothing that is not known.
    pub(super) fn path_down(&mut self, peer: PeerId, forwarding_is_dead: bool, now: Instant) {
        let notification = self.harden(peer, Notification::new(Notification::BFD_DOWN));
        self.on_session(peer, now, |session, out| session.path_down(notification, now, out));
        if forwarding_is_dead {
            let stale = self.neighbors.get(&peer).map(|n| n.stale.clone()).unwrap_or_default();
            for family in stale {
                self.sweep_stale(peer, family);
            }
        }
    }

    /// Wraps into a hard reset for a peer that would else keep our routes (RFC 8538 §3).
    pub(super) fn harden(&self, peer: PeerId, notification: Notification) -> Notification {
        let live = self.neighbors.get(&peer).and_then(|n| n.live.as_ref());
        let graceful = live.and_then(|l| l.negotiated.graceful_restart.as_ref());
        if graceful.is_some_and(|gr| gr.notification) { notification.into_hard_reset() } else { notification }
    }

    /// Drives one machine and does what it asks for.
    pub(super) fn on_session(
        &mut self,
        peer: PeerId,
        now: Instant,
        drive: impl FnOnce(&mut Session, &mut Vec<Action>),
    ) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let mut actions = Vec::new();
        drive(&mut neighbor.session, &mut actions);
        self.perform(peer, actions, now);
    }

    pub(super) fn perform(&mut self, peer: PeerId, actions: Vec<Action>, now: Instant) {
        for action in actions {
            match action {
                Action::Connect => self.out.push(Output::Connect(peer)),
                Action::Close(conn) => self.out.push(Output::Close(peer, conn)),
                Action::Send(conn, octets) => self.send(peer, conn, octets, now),
                Action::State { old, new, reason } => {
                    self.may_be_gone = true;
                    if let Some(neighbor) = self.neighbors.get_mut(&peer) {
                        neighbor.since = now;
                        neighbor.last_down = reason.clone().or(neighbor.last_down.take());
                    }
                    self.out.push(Output::PeerState { peer, old, new, reason });
                }
                Action::Up(conn, negotiated) => self.on_up(peer, conn, negotiated, now),
                Action::Down(reason) => self.on_down(peer, &reason, now),
                Action::Refresh(request) => self.on_refresh(peer, request, now),
            }
        }
    }

    /// Hands octets out and keeps account of them.
    pub(super) fn send(&mut self, peer: PeerId, conn: ConnId, octets: Vec<u8>, now: Instant) {
        let live = self.neighbors.get_mut(&peer).and_then(|n| n.live.as_mut());
        if let Some(live) = live.filter(|l| l.conn == conn) {
            if live.unsent == 0 {
                live.progress_at = now;
            }
            live.unsent += octets.len();
        }
        self.out.push(Output::Send(peer, conn, Arc::new(octets)));
    }

    pub(super) fn written(&mut self, peer: PeerId, conn: ConnId, octets: usize, now: Instant) {
        let live = self.neighbors.get_mut(&peer).and_then(|n| n.live.as_mut());
        if let Some(live) = live.filter(|l| l.conn == conn) {
            live.unsent = live.unsent.saturating_sub(octets);
            live.progress_at = now;
        }
    }

    pub(super) fn tick_send_hold(&mut self, peer: PeerId, now: Instant) {
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let stuck = neighbor.send_hold_deadline().is_some_and(|d| d <= now);
        if let Some(conn) = neighbor.live.as_ref().filter(|_| stuck).map(|l| l.conn) {
            let reason = Notification::new(Notification::SEND_HOLD_TIMER_EXPIRED);
            self.on_session(peer, now, |session, out| session.abandon(conn, reason, now, out));
        }
    }

    fn on_up(&mut self, peer: PeerId, conn: ConnId, negotiated: Negotiated, now: Instant) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let restarted = negotiated.graceful_restart.as_ref().is_some_and(|gr| gr.restarted);
        let patience = restarted.then(|| now + PATIENCE_MS);
        neighbor.was_up = true;
        neighbor.config.remote_asn = negotiated.remote_asn;
        (neighbor.malformed_updates, neighbor.paths_left_out) = (0, 0);
        neighbor.live = Some(Live {
            conn,
            negotiated,
            unsent: 0,
            progress_at: now,
            end_of_rib: BTreeSet::new(),
            near_limit: BTreeSet::new(),
            patience,
        });
        self.join_groups(peer);
        self.on_peer_back(peer, now);
    }

    /// It takes its place among those who are told the same.
    fn join_groups(&mut self, peer: PeerId) {
        self.decide_all();
        let router_id = self.config.router_id;
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let families = neighbor.live.iter().flat_map(|live| &live.negotiated.families);
        for family in families {
            let Some(rules) = neighbor.export_rules(router_id, *family) else { continue };
            let Some(table) = self.tables.get_mut(&(neighbor.config.instance, *family)) else { continue };
            table.groups.join(&mut table.rib, peer, rules);
        }
    }

    fn on_down(&mut self, peer: PeerId, reason: &DownReason, now: Instant) {
        let Some(live) = self.neighbors.get_mut(&peer).and_then(|n| n.live.take()) else { return };
        for at in self.tables_of(peer) {
            if let Some(table) = self.tables.get_mut(&at) {
                table.groups.leave(&mut table.rib, peer);
            }
        }
        self.on_peer_away(peer, &live.negotiated, reason, now);
    }

    /// RFC 2918 §4 and RFC 7313 §4; other subtypes, and those that were not agreed on, are ignored.
    fn on_refresh(&mut self, peer: PeerId, request: RouteRefresh, now: Instant) {
        let Some(family) = Family::from_afi_safi(request.afi, request.safi) else { return };
        let live = self.neighbors.get(&peer).and_then(|n| n.live.as_ref());
        let Some(live) = live.filter(|l| l.negotiated.families.contains(&family)) else { return };
        let (instance, enhanced) = (self.neighbors[&peer].config.instance, live.negotiated.enhanced_refresh);
        match request.subtype {
            RouteRefresh::REQUEST => {
                if let Some(table) = self.tables.get_mut(&(instance, family)) {
                    table.groups.refresh(peer, enhanced);
                }
            }
            RouteRefresh::BEGIN if enhanced => self.on_refresh_begin(peer, family, now),
            RouteRefresh::END if enhanced => self.on_refresh_end(peer, family),
            _ => {}
        }
    }

    pub(super) fn request_refresh(&mut self, peer: PeerId, family: Family) {
        let live = self.neighbors.get(&peer).and_then(|n| n.live.as_ref());
        let Some(live) = live.filter(|l| l.negotiated.route_refresh) else { return };
        let request = RouteRefresh::of(family, RouteRefresh::REQUEST);
        self.out.push(Output::Send(peer, live.conn, Arc::new(request.encode())));
    }

    pub(super) fn reset(&mut self, peer: PeerId, reset: Reset, now: Instant) {
        if reset == Reset::Hard {
            let reason = Notification::new(Notification::ADMIN_RESET);
            self.on_session(peer, now, |session, out| session.reset(reason, now, out));
            return;
        }
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let Some(negotiated) = neighbor.live.as_ref().map(|live| live.negotiated.clone()) else { return };
        let instance = neighbor.config.instance;
        for family in negotiated.families {
            if reset == Reset::SoftIn {
                self.request_refresh(peer, family);
            } else if let Some(table) = self.tables.get_mut(&(instance, family)) {
                table.groups.refresh(peer, negotiated.enhanced_refresh);
            }
        }
    }

    pub(super) fn shutdown(&mut self, graceful: bool, now: Instant) {
        let peers: Vec<PeerId> = self.neighbors.keys().copied().collect();
        for peer in peers {
            let live = self.neighbors.get(&peer).and_then(|n| n.live.as_ref());
            let kept = live.is_some_and(|l| l.negotiated.graceful_restart.is_some());
            let notification = (!graceful || !kept)
                .then(|| self.harden(peer, Notification::new(Notification::ADMIN_SHUTDOWN)));
            self.on_session(peer, now, |session, out| session.stop(notification, out));
        }
    }
}
