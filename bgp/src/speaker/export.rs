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
