//! What a selected path looks like to one peer, or why it is not for it: RFC 4271 §5.1 and §9.1.3, RFC 1997,
//! RFC 4456 §8, RFC 4360 §6.

use std::net::IpAddr;

use crate::attrs::{NextHop, PathAttributes};
use crate::community::Community;
use crate::nlri::Key;
use crate::peer::PeerConfig;
use crate::rib::Path;
use crate::types::{Family, RouterId};

/// The attributes to send, `None` if we have no next hop of the family to give.
pub(super) fn rewrite(
    family: Family,
    path: &Path,
    to: &PeerConfig,
    router_id: RouterId,
) -> Option<PathAttributes> {
    let mut attrs = (*path.attrs).clone();
    attrs.next_hop = Some(next_hop(family, path, to)?);
    if to.is_internal() {
        attrs.local_pref = Some(attrs.local_pref.unwrap_or(PathAttributes::DEFAULT_LOCAL_PREF));
        if path.advertiser.internal {
            attrs.originator_id.get_or_insert(path.advertiser.router_id);
            attrs.cluster_list.insert(0, router_id.0);
        }
    } else {
        attrs.as_path = attrs.as_path.prepended(to.local_asn);
        attrs.local_pref = None;
        attrs.originator_id = None;
        attrs.cluster_list.clear();
        attrs.ext_communities.retain(|c| c.is_transitive());
        if !path.advertiser.local {
            attrs.med = None;
        }
    }
    Some(attrs)
}

/// Whether the path is for this peer at all.
pub(super) fn may_go(key: &Key, path: &Path, to: &PeerConfig) -> bool {
    let communities = &path.attrs.communities;
    let kept_inside = [Community::NO_EXPORT, Community::NO_EXPORT_SUBCONFED];
    if communities.contains(&Community::NO_ADVERTISE) {
        return false;
    }
    if !to.is_internal() && communities.iter().any(|c| kept_inside.contains(c)) {
        return false;
    }
    // RFC 4271 §9.2: internal routes do not go to internal peers, but for reflection (RFC 4456 §6).
    let reflected = path.advertiser.internal && to.is_internal();
    if reflected && !path.advertiser.client && !to.route_reflector_client {
        return false;
    }
    to.policy.export.accepts(key)
}

/// Our own address for external peers, for routes of our own, and where `next_hop_self` says so. The next hop
/// of an EVPN route is the tunnel endpoint and never changed (RFC 7432 §9, RFC 8365 §5.1.3).
fn next_hop(family: Family, path: &Path, to: &PeerConfig) -> Option<NextHop> {
    let keep = family == Family::L2vpnEvpn
        || (to.is_internal() && !to.next_hop_self)
        || (path.advertiser.local && to.is_internal());
    match path.attrs.next_hop {
        Some(next_hop) if keep => Some(next_hop),
        _ => own_next_hop(family, to),
    }
}

fn own_next_hop(family: Family, to: &PeerConfig) -> Option<NextHop> {
    match (family, to.local_addr) {
        (Family::L2vpnEvpn, addr) => Some(addr.into()),
        (Family::Ipv4Unicast, IpAddr::V4(addr)) => Some(NextHop::V4(addr)),
        (Family::Ipv6Unicast, IpAddr::V6(addr)) => Some(NextHop::V6(addr)),
        (Family::Ipv4Unicast, IpAddr::V6(_)) => to.next_hop_v4.map(NextHop::V4),
        (Family::Ipv6Unicast, IpAddr::V4(_)) => to.next_hop_v6.map(NextHop::V6),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::attrs::AsPath;
    use crate::community::ExtCommunity;
    use crate::nlri::NlriData;
    use crate::policy::{Filter, Policy};
    use crate::rib::Advertiser;
    use crate::speaker::Source;
    use crate::types::{Asn, InstanceId, PeerId};

    const OWN: RouterId = RouterId(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn path(internal: bool, attrs: PathAttributes) -> Path {
        let router_id = RouterId([10, 0, 0, 9].into());
        let address = [10, 0, 0, 9].into();
        let advertiser = Advertiser { local: false, internal, client: false, router_id, address };
        let source = Source::Peer(PeerId(9));
        Path {
            source,
            advertiser,
            attrs: Arc::new(attrs),
            data: NlriData::default(),
            stale: false,
            rejected: None,
        }
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
        let sent = rewrite(Family::Ipv4Unicast, &path(true, rich()), &to(65002), OWN).unwrap();
        assert_eq!(sent.as_path, AsPath::sequence([Asn(65001), Asn(65009)]));
        assert_eq!(sent.next_hop, Some(NextHop::V4([10, 0, 0, 1].into())));
        assert_eq!((sent.med, sent.local_pref, sent.originator_id), (None, None, None));
        assert!(sent.cluster_list.is_empty());
        assert_eq!(sent.ext_communities, [ExtCommunity::ENCAP_VXLAN]);
    }

    #[test]
    fn an_internal_peer_gets_the_path_as_it_is_with_a_local_preference() {
        let mut attrs = rich();
        attrs.local_pref = None;
        let sent = rewrite(Family::Ipv4Unicast, &path(false, attrs.clone()), &to(65001), OWN).unwrap();
        assert_eq!(sent, PathAttributes { local_pref: Some(100), ..attrs.clone() });
        let own = PeerConfig { next_hop_self: true, ..to(65001) };
        let sent = rewrite(Family::Ipv4Unicast, &path(false, attrs), &own, OWN).unwrap();
        assert_eq!(sent.next_hop, Some(NextHop::V4([10, 0, 0, 1].into())));
    }

    #[test]
    fn the_tunnel_endpoint_of_an_evpn_route_is_kept_towards_everybody() {
        for asn in [65001, 65002] {
            let own = PeerConfig { next_hop_self: true, ..to(asn) };
            let sent = rewrite(Family::L2vpnEvpn, &path(false, rich()), &own, OWN).unwrap();
            assert_eq!(sent.next_hop, Some(NextHop::V4([10, 0, 0, 9].into())));
        }
    }

    #[test]
    fn without_an_address_of_the_family_nothing_is_sent() {
        assert_eq!(rewrite(Family::Ipv6Unicast, &path(false, rich()), &to(65002), OWN), None);
    }

    /// RFC 1997; RFC 8212.
    #[test]
    fn well_known_communities_and_policy_are_obeyed() {
        let with = |c| path(false, PathAttributes { communities: vec![c], ..rich() });
        assert!(may_go(&key(), &with(Community(1)), &to(65002)));
        for (community, inside) in [
            (Community::NO_EXPORT, true),
            (Community::NO_EXPORT_SUBCONFED, true),
            (Community::NO_ADVERTISE, false),
        ] {
            assert!(!may_go(&key(), &with(community), &to(65002)));
            assert_eq!(may_go(&key(), &with(community), &to(65001)), inside);
        }
        let mut silent = to(65002);
        silent.policy.export = Filter::None;
        assert!(!may_go(&key(), &path(false, rich()), &silent));
    }
}
