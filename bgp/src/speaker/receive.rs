//! From octets to paths: Adj-RIB-In and import (RFC 4271 §9, RFC 7606, RFC 8212, RFC 4456 §8).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::neighbor::Neighbor;
use super::{Output, Source, Speaker};
use crate::attrs::PathAttributes;
use crate::evpn::EvpnKey;
use crate::nlri::{Key, Nlri};
use crate::peer::PeerConfig;
use crate::rib::{Path, RejectReason};
use crate::time::Instant;
use crate::types::{ConnId, Esi, Family, InstanceId, MacAddr, PeerId, RouterId};
use crate::wire::{Notification, Update};

impl Speaker {
    pub(super) fn receive(&mut self, peer: PeerId, conn: ConnId, octets: &[u8], now: Instant) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        neighbor.session.receive(conn, octets);
        loop {
            let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
            let mut actions = Vec::new();
            let update = neighbor.session.next_update(conn, now, &mut actions);
            self.perform(peer, actions, now);
            let Some(body) = update else { return };
            if let Err(notification) = self.update(peer, &body) {
                self.on_session(peer, now, |session, out| session.fail(conn, notification, now, out));
            }
        }
    }

    fn update(&mut self, peer: PeerId, body: &[u8]) -> Result<(), Notification> {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return Ok(()) };
        let Some(live) = &neighbor.live else { return Ok(()) };
        let negotiated = live.negotiated.clone();
        let mut update = Update::decode(body, &neighbor.parse_context(&negotiated))?;
        if update.treat_as_withdraw || update.discarded > 0 {
            neighbor.malformed_updates += 1;
        }
        if let Some(family) = update.end_of_rib() {
            self.on_end_of_rib(peer, family);
            return Ok(());
        }
        let carried = |family: Family| negotiated.families.contains(&family);
        let attrs = std::mem::take(&mut update.attrs);
        for nlri in [Some(update.withdrawn), update.unreach].into_iter().flatten() {
            if carried(nlri.family()) {
                nlri.flatten().for_each(|route| self.forget(peer, &route.key));
            }
        }
        let base = (!update.announced.is_empty()).then(|| (update.announced, attrs.clone()));
        let multi_protocol = update
            .reach
            .map(|reach| (reach.nlri, PathAttributes { next_hop: Some(reach.next_hop), ..attrs }));
        for (nlri, attrs) in [base, multi_protocol].into_iter().flatten() {
            if !carried(nlri.family()) {
                continue;
            }
            if update.treat_as_withdraw {
                nlri.flatten().for_each(|route| self.forget(peer, &route.key));
            } else {
                self.learn_all(peer, nlri.flatten(), attrs);
            }
        }
        self.enforce_limit(peer)
    }

    fn learn_all(&mut self, peer: PeerId, routes: impl Iterator<Item = Nlri>, attrs: PathAttributes) {
        let attrs = self.pool.intern(attrs);
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let Some(live) = &neighbor.live else { return };
        let advertiser = neighbor.advertiser(&live.negotiated);
        let config = neighbor.config.clone();
        for route in routes {
            if !is_valid_prefix_route(&route, &attrs) {
                self.forget(peer, &route.key);
                continue;
            }
            let rejected = judge(&config, self.config.router_id, &self.own_addrs, &route.key, &attrs);
            let path = Path {
                source: Source::Peer(peer),
                advertiser,
                attrs: Arc::clone(&attrs),
                data: route.data,
                stale: false,
                rejected,
            };
            self.table(config.instance, route.key.family()).insert(route.key, path);
        }
    }

    fn forget(&mut self, peer: PeerId, key: &Key) {
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        if let Some(table) = self.tables.get_mut(&(neighbor.config.instance, key.family())) {
            table.remove(key, Source::Peer(peer));
        }
    }

    /// RFC 4486 §4: the data names the family and the limit.
    fn enforce_limit(&self, peer: PeerId) -> Result<(), Notification> {
        let Some(neighbor) = self.neighbors.get(&peer) else { return Ok(()) };
        match neighbor.config.max_paths {
            Some(limit) if self.counts(peer, neighbor).paths > limit as usize => {
                let (afi, safi) = neighbor.config.families.first().map_or((1, 1), |f| f.afi_safi());
                let mut data = afi.to_be_bytes().to_vec();
                data.push(safi);
                data.extend_from_slice(&limit.to_be_bytes());
                Err(self.harden(peer, Notification::with_data(Notification::MAX_PREFIXES, data)))
            }
            _ => Ok(()),
        }
    }

    fn on_end_of_rib(&mut self, peer: PeerId, family: Family) {
        let Some(live) = self.neighbors.get_mut(&peer).and_then(|n| n.live.as_mut()) else { return };
        if !live.negotiated.families.contains(&family) {
            return;
        }
        live.end_of_rib.insert(family);
        self.out.push(Output::EndOfRib(peer, family));
        self.sweep_stale(peer, family);
    }

    /// Import looks again at every path of the neighbour, and export at everything it was or could be sent.
    pub(super) fn reapply_policy(&mut self, peer: PeerId) {
        let (router_id, own) = (self.config.router_id, &self.own_addrs);
        let Some(Neighbor { config, live, .. }) = self.neighbors.get_mut(&peer) else { return };
        for family in Family::ALL {
            let Some(table) = self.tables.get_mut(&(config.instance, family)) else { continue };
            table.for_each_of(Source::Peer(peer), |key, path| {
                let rejected = judge(config, router_id, own, key, &path.attrs);
                let client = config.route_reflector_client;
                let changed = rejected != path.rejected || client != path.advertiser.client;
                path.rejected = rejected;
                path.advertiser.client = client;
                changed
            });
            if let Some(out) = live.as_mut().and_then(|l| l.out.get_mut(&family)) {
                out.touch_sent();
                out.touch(table.selected());
            }
        }
    }
}

/// RFC 9136 §3.2: two overlay indexes contradict each other, a group address is no router's MAC, and a route
/// that names nothing leads nowhere. Such routes are treated as withdrawn.
fn is_valid_prefix_route(route: &Nlri, attrs: &PathAttributes) -> bool {
    let Key::Evpn(EvpnKey::IpPrefix { .. }) = &route.key else { return true };
    let router_mac = attrs.router_mac().unwrap_or_default();
    let (segment, gateway) = (route.data.esi != Esi::ZERO, route.data.gateway.is_some());
    let names_something =
        segment || gateway || router_mac != MacAddr::default() || route.data.label1.get() != 0;
    !(segment && gateway) && router_mac.0[0] & 1 == 0 && names_something
}

fn judge(
    config: &PeerConfig,
    router_id: RouterId,
    own: &BTreeSet<(InstanceId, IpAddr)>,
    key: &Key,
    attrs: &PathAttributes,
) -> Option<RejectReason> {
    if attrs.as_path.contains(config.local_asn) {
        return Some(RejectReason::AsLoop(config.local_asn));
    }
    if attrs.originator_id == Some(router_id) || attrs.cluster_list.contains(&router_id.0) {
        return Some(RejectReason::ReflectionLoop);
    }
    if attrs.next_hop.is_some_and(|n| own.contains(&(config.instance, n.addr()))) {
        return Some(RejectReason::NextHopSelf);
    }
    (!config.policy.import.accepts(key)).then_some(RejectReason::Policy)
}
