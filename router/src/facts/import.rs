//! What the others told us, as entries of our tables. Pure: a function of the best routes.
//!
//! An EVPN route counts where its route target is that of a segment or tenant present here. Routes of one
//! station or prefix by several gateways have different distinguishers; they meet here and one wins.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use watari_bgp::evpn::EvpnKey;
use watari_bgp::evpn::mobility::Claim;
use watari_bgp::nlri::Key;
use watari_bgp::speaker::{Best, Source};
use watari_bgp::types::MacAddr;
use watari_config::Vni;

use super::fabric::{Fabric, target_vni};
use super::hosts::{Claims, Told};

/// Best routes of the fabric, our own included, by key.
pub type Routes = BTreeMap<Key, Best>;

/// A prefix behind another gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The gateway.
    pub vtep: IpAddr,
    /// VNI to send with: the one it told us.
    pub l3vni: Vni,
    /// Its Router's MAC.
    pub router_mac: MacAddr,
}

/// What other gateways told us about the segments and tenants here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The winning claim to each station and address.
    pub claims: Claims,
    /// Gateways that want the broadcast of a segment.
    pub flood: BTreeMap<Vni, BTreeSet<IpAddr>>,
    /// Prefixes by L3VNI of the tenant.
    pub prefixes: BTreeMap<(Vni, IpNet), Remote>,
}

/// Sorts out the routes of other gateways.
pub fn import(fabric: &Fabric, routes: &Routes) -> Imported {
    let mut imported = Imported::default();
    let mut stations: Vec<Told> = Vec::new();
    for (key, best) in routes {
        let (Some(evpn), Some(vtep)) = (key.as_evpn(), vtep(fabric, best)) else { continue };
        match evpn {
            EvpnKey::MacIp { mac, ip, .. } => {
                let Some(claim) = Claim::from_attributes(&best.attrs) else { continue };
                let flags = best.attrs.neighbour_flags();
                let here = targets(best).filter(|v| fabric.segments.contains_key(v));
                stations.extend(here.map(|vni| Told { station: (vni, *mac), ip: *ip, claim, flags }));
            }
            EvpnKey::Imet { .. } => {
                for vni in targets(best).filter(|v| fabric.segments.contains_key(v)) {
                    let to = best.attrs.pmsi_tunnel.as_ref().and_then(|p| p.endpoint());
                    let to = to.unwrap_or(vtep);
                    if !fabric.far.contains(&to) {
                        continue;
                    }
                    imported.flood.entry(vni).or_default().insert(to);
                }
            }
            EvpnKey::IpPrefix { prefix, .. } => prefix_route(fabric, best, vtep, *prefix, &mut imported),
            EvpnKey::EthernetAd { .. } | EvpnKey::EthernetSegment { .. } => {}
        }
    }
    imported.claims = Claims::of(&stations);
    imported
}

/// The gateway a route of somebody else leads to: one that a tunnel leads to. Nobody is believed about others.
fn vtep(fabric: &Fabric, best: &Best) -> Option<IpAddr> {
    match (best.source, best.next_hop()?) {
        (Source::Peer(_), vtep) if fabric.far.contains(&vtep) => Some(vtep),
        _ => None,
    }
}

fn targets(best: &Best) -> impl Iterator<Item = Vni> + '_ {
    best.attrs.route_targets().filter_map(target_vni)
}

fn prefix_route(fabric: &Fabric, best: &Best, vtep: IpAddr, prefix: IpNet, imported: &mut Imported) {
    // Without a Router's MAC a routed packet cannot be addressed (RFC 9136 section 4.4.1).
    let Some(router_mac) = best.attrs.router_mac() else { return };
    let Ok(label) = Vni::new(best.data.label1.get()) else { return };
    for l3vni in targets(best).filter(|v| fabric.tenants.contains_key(v)) {
        let remote = Remote { vtep, l3vni: label, router_mac };
        let slot = imported.prefixes.entry((l3vni, prefix)).or_insert(remote);
        // Several gateways with one prefix: the lowest address, so that every look answers alike.
        if vtep < slot.vtep {
            *slot = remote;
        }
    }
}
