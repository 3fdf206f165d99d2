//! What a selected path looks like to one peer, or why it is not for it: RFC 4271 §5.1 and §9.1.3, RFC 1997,
//! RFC 4456 §8, RFC 4360 §6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::decision::Advertiser;
use super::sets::{Parts, Rank, get_next_hop};
use crate::attrs::{NextHop, PathAttributes};
use crate::nlri::Key;
use crate::peer::{PathsSent, PeerConfig};
use crate::policy::Filter;
use crate::role::Role;
use crate::types::{Asn, Family, RouterId};
use crate::wire::{
    EncodeContext, decode_attributes, encode_attributes_for, put_next_hop, rewrite_attributes,
};

/// Everything that decides about what a neighbour is told. Neighbours with equal rules are told the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExportRules {
    internal: bool,
    client: bool,
    local_asn: Asn,
    local_addr: IpAddr,
    next_hop_self: bool,
    next_hop_v4: Option<Ipv4Addr>,
    next_hop_v6: Option<Ipv6Addr>,
    filter: Filter,
    /// Of unicast routes.
    role: Option<Role>,
    /// IPv4 routes may have IPv6 next hops (RFC 8950).
    extended_next_hop: bool,
    router_id: RouterId,
    pub(super) context: EncodeContext,
    /// Several paths of a route are told, with identifiers (RFC 7911).
    pub(super) several: Option<PathsSent>,
    /// Between two times that a route is told of, in milliseconds (RFC 4271 §9.2.1.1).
    pub(super) interval_ms: u64,
}

/// A set as it goes to a neighbour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exported {
    /// Of MP_REACH_NLRI; empty if it is the NEXT_HOP among the attributes.
    pub(super) next_hop: Vec<u8>,
    pub(super) attributes: Vec<u8>,
}

impl Exported {
    /// What the neighbour reads.
    pub(super) fn value(&self) -> PathAttributes {
        let attrs = decode_attributes(&self.attributes);
        let next_hop = get_next_hop(&self.next_hop).or(attrs.next_hop);
        PathAttributes { next_hop, ..attrs }
    }
}

impl ExportRules {
    pub(crate) fn new(
        to: &PeerConfig,
        router_id: RouterId,
        context: EncodeContext,
        extended_next_hop: bool,
    ) -> ExportRules {
        ExportRules {
            internal: to.is_internal(),
            client: to.route_reflector_client,
            local_asn: to.local_asn,
            local_addr: to.local_addr,
            next_hop_self: to.next_hop_self,
            next_hop_v4: to.next_hop_v4,
            next_hop_v6: to.next_hop_v6,
            filter: to.policy.export.clone(),
            role: to.role.filter(|_| !to.is_internal()),
            extended_next_hop,
            router_id,
            context,
            several: None,
            interval_ms: to.advertisement_interval_ms,
        }
    }

    /// The same for a family of which so many paths of a route are told.
    pub(crate) fn with_several(self, several: Option<PathsSent>) -> ExportRules {
        ExportRules { several, ..self }
    }

    /// Whether a path is for these neighbours at all.
    pub(super) fn may_go(
        &self,
        family: Family,
        key: impl FnOnce() -> Key,
        rank: &Rank,
        advertiser: &Advertiser,
    ) -> bool {
        if rank.no_advertise || (rank.no_export && !self.internal) {
            return false;
        }
        if self.role_for(family).is_some_and(|role| !role.may_send(rank.otc)) {
            return false;
        }
        // RFC 4271 §9.2: internal routes do not go to internal peers, but for reflection (RFC 4456 §6).
        let reflected = advertiser.internal && self.internal;
        if reflected && !advertiser.client && !self.client {
            return false;
        }
        let is_told = rank.has_next_hop && self.takes(family, rank.is_next_hop_v6);
        let has_next_hop =
            (is_told && self.keeps_next_hop(family, advertiser)) || self.own_next_hop(family).is_some();
        has_next_hop && (self.filter == Filter::All || self.filter.accepts(&key()))
    }

    /// The attributes to send, `None` if we have no next hop of the family to give.
    pub(super) fn export(
        &self,
        family: Family,
        parts: Parts<'_>,
        advertiser: &Advertiser,
    ) -> Option<Exported> {
        let kept = get_next_hop(parts.next_hop)
            .filter(|n| self.keeps_next_hop(family, advertiser) && self.takes(family, n.addr().is_ipv6()));
        let next_hop = kept.or_else(|| self.own_next_hop(family))?;
        let mut exported = Exported::default();
        let base = match (family, next_hop) {
            (Family::Ipv4Unicast, NextHop::V4(v4)) => Some(v4),
            _ => {
                put_next_hop(Some(next_hop), &mut exported.next_hop);
                None
            }
        };
        // What most sessions are: attributes are copied as they stand.
        let role = self.role_for(family);
        if !self.internal && self.context.four_octet_as && role.is_none() {
            let keep_med = advertiser.local;
            let out = &mut exported.attributes;
            if rewrite_attributes(parts.attributes, self.local_asn, base, keep_med, out) {
                return Some(exported);
            }
            out.clear();
        }
        let mut attrs = self.rewrite(decode_attributes(parts.attributes), advertiser);
        if let Some(role) = role {
            attrs.otc = role.on_send(attrs.otc, self.local_asn);
        }
        let attrs = PathAttributes { next_hop: Some(next_hop), ..attrs };
        encode_attributes_for(&attrs, base.is_some(), self.context.four_octet_as, &mut exported.attributes);
        Some(exported)
    }

    /// RFC 9234 §5: roles are about unicast routes.
    fn role_for(&self, family: Family) -> Option<Role> {
        self.role.filter(|_| family != Family::L2vpnEvpn)
    }

    /// Whether a next hop of this kind can be told.
    const fn takes(&self, family: Family, is_ipv6: bool) -> bool {
        !is_ipv6 || self.extended_next_hop || !matches!(family, Family::Ipv4Unicast)
    }

    /// Everything but the next hop.
    fn rewrite(&self, mut attrs: PathAttributes, advertiser: &Advertiser) -> PathAttributes {
        if self.internal {
            attrs.local_pref = Some(attrs.local_pref.unwrap_or(PathAttributes::DEFAULT_LOCAL_PREF));
            if advertiser.internal {
                attrs.originator_id.get_or_insert(advertiser.router_id);
                attrs.cluster_list.insert(0, self.router_id.0);
            }
        } else {
            attrs.as_path = attrs.as_path.prepended(self.local_asn);
            attrs.local_pref = None;
            attrs.originator_id = None;
            attrs.cluster_list.clear();
            attrs.ext_communities.retain(|c| c.is_transitive());
            if !advertiser.local {
                attrs.med = None;
            }
        }
        attrs
    }

    /// Our own address for external peers, for routes of our own, and where `next_hop_self` says so. The next hop
    /// of an EVPN route is the tunnel endpoint and never changed (RFC 7432 §9, RFC 8365 §5.1.3).
    fn keeps_next_hop(&self, family: Family, advertiser: &Advertiser) -> bool {
        family == Family::L2vpnEvpn || (self.internal && (!self.next_hop_self || advertiser.local))
    }

    fn own_next_hop(&self, family: Family) -> Option<NextHop> {
        match (family, self.local_addr) {
            (Family::L2vpnEvpn, addr) => Some(addr.into()),
            (Family::Ipv4Unicast, IpAddr::V4(addr)) => Some(NextHop::V4(addr)),
            (Family::Ipv6Unicast, IpAddr::V6(addr)) => Some(NextHop::V6(addr)),
            (Family::Ipv4Unicast, IpAddr::V6(addr)) => {
                let v6 = self.extended_next_hop.then_some(NextHop::V6(addr));
                self.next_hop_v4.map(NextHop::V4).or(v6)
            }
            (Family::Ipv6Unicast, IpAddr::V4(_)) => self.next_hop_v6.map(NextHop::V6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sets::Sets;
    use super::*;
    use crate::attrs::AsPath;
    use crate::community::{Community, ExtCommunity};
    use crate::nlri::NlriData;
    use crate::policy::Policy;
    use crate::types::InstanceId;

    const OWN: RouterId = RouterId(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn advertiser(internal: bool) -> Advertiser {
        let (router_id, address) = (RouterId([10, 0, 0, 9].into()), [10, 0, 0, 9].into());
        Advertiser { local: false, internal, client: false, router_id, address }
    }

    fn rules(to: &PeerConfig) -> ExportRules {
        // Over IPv6, RFC 8950 has been agreed on.
        let extended = to.local_addr.is_ipv6();
        ExportRules::new(to, OWN, EncodeContext { four_octet_as: true, message_limit: 4_096 }, extended)
    }

    /// By way of a set; what a neighbour reads.
    fn sent(
        family: Family,
        internal: bool,
        attrs: &PathAttributes,
        to: &PeerConfig,
    ) -> Option<PathAttributes> {
        let mut sets = Sets::new(0);
        let id = sets.intern(attrs, &NlriData::default());
        let exported = rules(to).export(family, sets.parts(id), &advertiser(internal))?;
        Some(exported.value())
    }

    fn goes(attrs: &PathAttributes, to: &PeerConfig) -> bool {
        rules(to).may_go(Family::Ipv4Unicast, key, &Rank::of(attrs), &advertiser(false))
    }

    fn rich() -> PathAttributes {
        PathAttributes {
            as_path: AsPath::sequence([Asn(65009)]),
            next_hop: Some(NextHop::V4([10, 0, 0, 9].into())),
            med: Some(7),
            local_pref: Some(300),
            originator_id: Some(RouterId([10, 0, 0, 8].into())),
            cluster_list: vec![[10, 0, 0, 7].into()],
            ext_communities: vec![ExtCommunity::ENCAP_VXLAN, ExtCommunity([0x43, 0, 0, 0, 0, 0, 0, 1])],
            ..PathAttributes::default()
        }
    }

    fn to(remote_asn: u32) -> PeerConfig {
        let ends = (([10, 0, 0, 1].into(), Asn(65001)), ([10, 0, 0, 2].into(), Asn(remote_asn)));
        PeerConfig { policy: Policy::accept_all(), ..PeerConfig::new(InstanceId(0), ends.0, ends.1) }
    }

    fn key() -> Key {
        Key::prefix("198.51.100.0/24".parse().unwrap())
    }

    /// RFC 4271 §5.1.3, §5.1.4, §5.1.5; RFC 4456 §8; RFC 4360 §6.
    #[test]
    fn what_is_for_inside_stays_inside() {
        let got = sent(Family::Ipv4Unicast, true, &rich(), &to(65002)).unwrap();
        assert_eq!(got.as_path, AsPath::sequence([Asn(65001), Asn(65009)]));
        assert_eq!(got.next_hop, Some(NextHop::V4([10, 0, 0, 1].into())));
        assert_eq!((got.med, got.local_pref, got.originator_id), (None, None, None));
        assert!(got.cluster_list.is_empty());
        assert_eq!(got.ext_communities, [ExtCommunity::ENCAP_VXLAN]);
    }

    #[test]
    fn an_internal_peer_gets_the_path_as_it_is_with_a_local_preference() {
        let mut attrs = rich();
        attrs.local_pref = None;
        let got = sent(Family::Ipv4Unicast, false, &attrs, &to(65001)).unwrap();
        assert_eq!(got, PathAttributes { local_pref: Some(100), ..attrs.clone() });
        let own = PeerConfig { next_hop_self: true, ..to(65001) };
        let got = sent(Family::Ipv4Unicast, false, &attrs, &own).unwrap();
        assert_eq!(got.next_hop, Some(NextHop::V4([10, 0, 0, 1].into())));
    }

    #[test]
    fn the_tunnel_endpoint_of_an_evpn_route_is_kept_towards_everybody() {
        for asn in [65001, 65002] {
            let own = PeerConfig { next_hop_self: true, ..to(asn) };
            let got = sent(Family::L2vpnEvpn, false, &rich(), &own).unwrap();
            assert_eq!(got.next_hop, Some(NextHop::V4([10, 0, 0, 9].into())));
        }
    }

    #[test]
    fn without_an_address_of_the_family_nothing_is_sent() {
        assert_eq!(sent(Family::Ipv6Unicast, false, &rich(), &to(65002)), None);
    }

    /// RFC 1997; RFC 8212.
    #[test]
    fn well_known_communities_and_policy_are_obeyed() {
        let with = |c| PathAttributes { communities: vec![c], ..rich() };
        assert!(goes(&with(Community(1)), &to(65002)));
        for (community, inside) in [
            (Community::NO_EXPORT, true),
            (Community::NO_EXPORT_SUBCONFED, true),
            (Community::NO_ADVERTISE, false),
        ] {
            assert!(!goes(&with(community), &to(65002)));
            assert_eq!(goes(&with(community), &to(65001)), inside);
        }
        let mut silent = to(65002);
        silent.policy.export = Filter::None;
        assert!(!goes(&rich(), &silent));
    }

    /// RFC 9234 §5: OTC is set on what does not go up, and what has it goes down only; RFC 7999 §3.2.
    #[test]
    fn otc_and_blackhole_are_obeyed() {
        let as_role = |role| PeerConfig { role: Some(role), ..to(65002) };
        let marked = PathAttributes { otc: Some(Asn(65009)), ..rich() };
        let of_nobody = PathAttributes { otc: Some(Asn(0)), ..rich() };
        for (role, passes, sets) in
            [(Role::Provider, true, true), (Role::Peer, false, true), (Role::Customer, false, false)]
        {
            assert_eq!(goes(&marked, &as_role(role)), passes, "{role}");
            assert_eq!(goes(&of_nobody, &as_role(role)), passes, "{role}");
            let got = sent(Family::Ipv4Unicast, false, &rich(), &as_role(role)).unwrap();
            assert_eq!(got.otc, sets.then_some(Asn(65001)), "{role}");
        }
        assert!(goes(&marked, &to(65002)), "without a role nobody looks at it");
        let inside = PeerConfig { role: Some(Role::Peer), ..to(65001) };
        assert!(goes(&marked, &inside), "roles are of external neighbours");
        let dropped = PathAttributes { communities: vec![Community::BLACKHOLE], ..rich() };
        assert!(!goes(&dropped, &to(65002)) && goes(&dropped, &to(65001)));
    }

    /// RFC 8950 §3: an IPv6 next hop for those who agreed, and for nobody else.
    #[test]
    fn an_ipv4_route_has_an_ipv6_next_hop_where_that_was_agreed_on() {
        let v6: Ipv6Addr = "2001:db8::1".parse().unwrap();
        let over_v6 = |asn| PeerConfig { local_addr: v6.into(), ..to(asn) };
        let next_hop = |attrs: &PathAttributes, to: &PeerConfig| {
            sent(Family::Ipv4Unicast, false, attrs, to).and_then(|a| a.next_hop)
        };
        assert_eq!(next_hop(&rich(), &over_v6(65002)), Some(NextHop::V6(v6)));
        let own_v4 = PeerConfig { next_hop_v4: Some([10, 0, 0, 1].into()), ..over_v6(65002) };
        assert_eq!(next_hop(&rich(), &own_v4), Some(NextHop::V4([10, 0, 0, 1].into())));
        // Passed on inside an AS: to those alone who can read it.
        let kept = PathAttributes { next_hop: Some(NextHop::V6(v6)), ..rich() };
        assert_eq!(next_hop(&kept, &over_v6(65001)), Some(NextHop::V6(v6)));
        assert_eq!(next_hop(&kept, &to(65001)), Some(NextHop::V4([10, 0, 0, 1].into())));
    }
}
