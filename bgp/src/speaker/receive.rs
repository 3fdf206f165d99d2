//! From octets to paths: Adj-RIB-In and import (RFC 4271 §9, RFC 7606, RFC 8212, RFC 4456 §8).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Output, Source, Speaker};
use crate::attrs::{NextHop, PathAttributes};
use crate::community::Community;
use crate::evpn::EvpnKey;
use crate::nlri::{Key, Nlri, NlriData};
use crate::peer::PeerConfig;
use crate::rib::{Rejected, SetId};
use crate::time::Instant;
use crate::types::{ConnId, Esi, Family, InstanceId, MacAddr, PeerId, RouterId};
use crate::wire::{NlriIter, Notification, Update};

/// A longer AS_PATH is no route. One of 2-octet numbers that fits an extended message (RFC 8654) has twice the octets with
/// 4-octet ones (RFC 6793), which an attribute's length could not say.
const PATH_NUMBERS_MAX: usize = 16_000;

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
                self.fail(peer, conn, notification, now);
            }
        }
    }

    /// The session ends with an error; after too many paths it is left alone for as long as was asked for.
    fn fail(&mut self, peer: PeerId, conn: ConnId, notification: Notification, now: Instant) {
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let too_many = notification.within().is(Notification::MAX_PREFIXES);
        let wait_ms = neighbor.config.max_paths_restart_ms;
        self.on_session(peer, now, |session, out| {
            if too_many {
                session.reject(conn, notification, wait_ms, now, out);
            } else {
                session.fail(conn, notification, now, out);
            }
        });
    }

    fn update(&mut self, peer: PeerId, body: &[u8]) -> Result<(), Notification> {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return Ok(()) };
        let Some(live) = &neighbor.live else { return Ok(()) };
        let negotiated = live.negotiated.clone();
        let mut update = Update::decode_with_ids(
            body,
            &neighbor.parse_context(&negotiated),
            negotiated.add_path_received,
        )?;
        if update.treat_as_withdraw || update.discarded > 0 {
            neighbor.malformed_updates += 1;
        }
        if let Some(family) = update.end_of_rib() {
            self.on_end_of_rib(peer, family);
            return Ok(());
        }
        let carried = |family: Family| negotiated.families.contains(&family);
        let attrs = std::mem::take(&mut update.attrs);
        if attrs.as_path.numbers() > PATH_NUMBERS_MAX {
            update.treat_as_withdraw = true;
        }
        for nlri in [Some(update.withdrawn), update.unreach].into_iter().flatten() {
            if carried(nlri.family()) {
                self.forget_all(peer, nlri);
            }
        }
        let reach = update.reach.as_ref().map(|r| (r.nlri.family(), r.next_hop));
        if let Some((Family::Ipv4Unicast, NextHop::V6(_) | NextHop::V6LinkLocal(..))) = reach
            && !negotiated.extended_next_hop
        {
            return Err(Notification::new(Notification::OPTIONAL_ATTRIBUTE));
        }
        let base = (!update.announced.is_empty()).then(|| (update.announced, attrs.clone()));
        let multi_protocol = update
            .reach
            .map(|reach| (reach.nlri, PathAttributes { next_hop: Some(reach.next_hop), ..attrs }));
        for (nlri, mut attrs) in [base, multi_protocol].into_iter().flatten() {
            if !carried(nlri.family()) {
                continue;
            }
            self.mark_only_to_customer(peer, nlri.family(), &mut attrs);
            if update.treat_as_withdraw {
                self.forget_all(peer, nlri);
            } else {
                self.learn_all(peer, nlri, &attrs);
            }
        }
        self.enforce_limit(peer)
    }

    /// RFC 9234 §5, third rule of ingress; a leak stays as it came, and is rejected.
    fn mark_only_to_customer(&self, peer: PeerId, family: Family, attrs: &mut PathAttributes) {
        let Some(config) = self.neighbors.get(&peer).map(|n| &n.config) else { return };
        let Some(role) = config.unicast_role(family) else { return };
        attrs.otc = role.on_receive(attrs.otc, config.remote_asn).unwrap_or(attrs.otc);
    }

    fn learn_all(&mut self, peer: PeerId, routes: NlriIter<'_>, attrs: &PathAttributes) {
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let Some(live) = &neighbor.live else { return };
        let (config, advertiser) = (&neighbor.config, neighbor.advertiser(&live.negotiated));
        let Some(table) = self.tables.get_mut(&(config.instance, routes.family())) else { return };
        let judged = judge(config, self.config.router_id, &self.own_addrs, routes.family(), attrs);
        let rib = &mut table.rib;
        let source = rib.teller(Source::Peer(peer), advertiser);
        // Of routes with the same data the set is counted once for each.
        let mut last: Option<(NlriData, SetId)> = None;
        let mut left_out = 0;
        for (id, route) in routes.paths() {
            if !is_valid_prefix_route(&route, attrs) {
                rib.remove(&route.key, id, source);
                continue;
            }
            let rejected = judged.or_else(|| by_policy(config, &route.key));
            let set = match last {
                Some((data, set)) if data == route.data => {
                    rib.sets.retain(set);
                    set
                }
                _ => rib.sets.intern(attrs, &route.data),
            };
            if let Some((_, set)) = last.replace((route.data, set)) {
                rib.sets.release(set);
            }
            rib.sets.retain(set);
            left_out += u64::from(!rib.insert(&route.key, id, set, source, rejected));
        }
        if let Some((_, set)) = last {
            rib.sets.release(set);
        }
        if let Some(neighbor) = self.neighbors.get_mut(&peer) {
            neighbor.paths_left_out += left_out;
        }
    }

    fn forget_all(&mut self, peer: PeerId, routes: NlriIter<'_>) {
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let Some(table) = self.tables.get_mut(&(neighbor.config.instance, routes.family())) else { return };
        let Some(source) = table.rib.source_id(Source::Peer(peer)) else { return };
        routes.paths().for_each(|(id, route)| table.rib.remove(&route.key, id, source));
    }

    /// RFC 4271 §6.7, RFC 4486 §4: too many paths of a family end the session, with the family and the limit in the
    /// data; on the way there a warning is given, once until they are fewer again.
    fn enforce_limit(&mut self, peer: PeerId) -> Result<(), Notification> {
        let Some(neighbor) = self.neighbors.get(&peer) else { return Ok(()) };
        let (Some(limit), Some(live)) = (neighbor.config.max_paths, &neighbor.live) else { return Ok(()) };
        let percent = u64::from(neighbor.config.max_paths_warn_percent);
        let carried = Family::ALL.map(|family| live.negotiated.families.contains(&family));
        for (family, _) in Family::ALL.into_iter().zip(carried).filter(|(_, carried)| *carried) {
            let paths = self.paths_of(peer, family);
            if paths > limit as usize {
                let (afi, safi) = family.afi_safi();
                let mut data = afi.to_be_bytes().to_vec();
                data.push(safi);
                data.extend_from_slice(&limit.to_be_bytes());
                return Err(self.harden(peer, Notification::with_data(Notification::MAX_PREFIXES, data)));
            }
            let near = percent > 0 && paths as u64 * 100 >= u64::from(limit) * percent;
            self.note_limit(peer, family, near, (paths, limit));
        }
        Ok(())
    }

    fn note_limit(&mut self, peer: PeerId, family: Family, near: bool, (paths, limit): (usize, u32)) {
        let Some(live) = self.neighbors.get_mut(&peer).and_then(|n| n.live.as_mut()) else { return };
        if !near {
            live.near_limit.remove(&family);
        } else if live.near_limit.insert(family) {
            self.out.push(Output::NearLimit { peer, family, paths, limit });
        }
    }

    fn on_end_of_rib(&mut self, peer: PeerId, family: Family) {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return };
        let Some(live) = &mut neighbor.live else { return };
        if !live.negotiated.families.contains(&family) {
            return;
        }
        live.end_of_rib.insert(family);
        let resent = neighbor.resent.contains(&family);
        self.out.push(Output::EndOfRib(peer, family));
        if !resent {
            self.sweep_stale(peer, family);
        }
    }

    /// Import looks again at every path of the neighbour, and export at everything it was or could be sent.
    pub(super) fn reapply_policy(&mut self, peer: PeerId) {
        self.decide_all();
        let (router_id, own) = (self.config.router_id, &self.own_addrs);
        let Some(neighbor) = self.neighbors.get(&peer) else { return };
        let config = &neighbor.config;
        for family in Family::ALL {
            let Some(table) = self.tables.get_mut(&(config.instance, family)) else { continue };
            table.rib.set_client(Source::Peer(peer), config.route_reflector_client);
            table.rib.judge_again(Source::Peer(peer), |key, sets, path| {
                let attrs = sets.attributes(path.set);
                judge(config, router_id, own, family, &attrs).or_else(|| by_policy(config, key))
            });
            if let Some(rules) = neighbor.export_rules(router_id, family) {
                table.groups.change_rules(&mut table.rib, peer, rules);
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

/// RFC 9234 §5; roles are of external neighbours and unicast routes.
fn is_leak(config: &PeerConfig, family: Family, attrs: &PathAttributes) -> bool {
    let role = config.unicast_role(family);
    role.is_some_and(|role| role.on_receive(attrs.otc, config.remote_asn).is_err())
}

/// What is wrong with a path, whatever its key.
fn judge(
    config: &PeerConfig,
    router_id: RouterId,
    own: &BTreeSet<(InstanceId, IpAddr)>,
    family: Family,
    attrs: &PathAttributes,
) -> Option<Rejected> {
    if attrs.as_path.contains(config.local_asn) {
        return Some(Rejected::AsLoop);
    }
    if !config.accept_as_sets && attrs.as_path.has_set() {
        return Some(Rejected::AsSet);
    }
    if !config.accept_blackhole && attrs.communities.contains(&Community::BLACKHOLE) {
        return Some(Rejected::Blackhole);
    }
    if is_leak(config, family, attrs) {
        return Some(Rejected::RouteLeak);
    }
    if attrs.originator_id == Some(router_id) || attrs.cluster_list.contains(&router_id.0) {
        return Some(Rejected::ReflectionLoop);
    }
    let next_hop = attrs.next_hop.filter(|n| own.contains(&(config.instance, n.addr())));
    next_hop.map(|_| Rejected::NextHopSelf)
}

fn by_policy(config: &PeerConfig, key: &Key) -> Option<Rejected> {
    (!config.policy.import.accepts(key)).then_some(Rejected::Policy)
}
