//! From two OPENs to an agreement (RFC 4271 §6.2, RFC 5492 §3, RFC 6286 §2.2).

use crate::peer::{AddPath, Negotiated, PeerConfig, PeerGracefulRestart};
use crate::role::Role;
use crate::types::{Family, FamilySet, RouterId};
use crate::wire::{AddPathMode, Capability, GracefulRestart, Notification, Open};

/// Our side of the graceful restart capability at the moment an OPEN is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartFlags {
    /// R bit: we have just restarted.
    pub restarted: bool,
    /// F bit of every family: forwarding state was preserved.
    pub forwarding_preserved: bool,
}

/// The OPEN that offers what `config` wants.
pub(super) fn offer(config: &PeerConfig, router_id: RouterId, restart: RestartFlags) -> Open {
    let mut capabilities: Vec<Capability> = config
        .families
        .iter()
        .map(|family| {
            let (afi, safi) = family.afi_safi();
            Capability::MultiProtocol(afi, safi)
        })
        .collect();
    capabilities.push(Capability::RouteRefresh);
    capabilities.push(Capability::EnhancedRefresh);
    capabilities.push(Capability::ExtendedMessage);
    if offers_extended_next_hop(config) {
        capabilities.push(Capability::ExtendedNextHop(vec![IPV4_BY_IPV6]));
    }
    let several = add_path(config);
    if !several.is_empty() {
        capabilities.push(Capability::AddPath(several));
    }
    capabilities.extend(role(config).map(|role| Capability::Role(role.code())));
    capabilities.push(Capability::FourOctetAs(config.local_asn));
    if let Some(gr) = config.graceful_restart {
        let kept = |family: &Family| {
            let (afi, safi) = family.afi_safi();
            (afi, safi, restart.forwarding_preserved)
        };
        capabilities.push(Capability::GracefulRestart(GracefulRestart {
            restarted: restart.restarted,
            notification: true,
            restart_time_s: gr.restart_time_s.min(0x0fff),
            families: config.families.iter().map(kept).collect(),
        }));
    }
    Open { asn: config.local_asn, hold_time_s: config.hold_time_s, router_id, capabilities }
}

/// What both sides can do.
///
/// # Errors
/// The NOTIFICATION if the neighbour is not who it should be, or nothing is left to talk about.
pub(super) fn agree(config: &PeerConfig, local: RouterId, open: &Open) -> Result<Negotiated, Notification> {
    if open.asn != config.remote_asn {
        return Err(Notification::new(Notification::BAD_PEER_AS));
    }
    // Within one AS identifiers are unique; between two they need not be (RFC 6286).
    if config.is_internal() && open.router_id == local {
        return Err(Notification::new(Notification::BAD_IDENTIFIER));
    }
    let hold_time_s = config.hold_time_s.min(open.hold_time_s);
    // Of one that came by itself and vanished without a word nothing else would be missed.
    if config.dynamic.is_some() && hold_time_s == 0 {
        return Err(Notification::new(Notification::BAD_HOLD_TIME));
    }
    let remote_role = agree_on_roles(config, open)?;
    let families = common_families(config, open);
    if families.is_empty() {
        return Err(Notification::with_data(Notification::BAD_CAPABILITY, wanted(config)));
    }
    let has = |c: &Capability| open.capabilities.contains(c);
    let four_octet_as = open.capabilities.iter().any(|c| matches!(c, Capability::FourOctetAs(_)));
    Ok(Negotiated {
        remote_id: open.router_id,
        remote_asn: open.asn,
        hold_time_s,
        four_octet_as,
        route_refresh: has(&Capability::RouteRefresh),
        enhanced_refresh: has(&Capability::RouteRefresh) && has(&Capability::EnhancedRefresh),
        extended_next_hop: offers_extended_next_hop(config) && takes_extended_next_hop(open),
        add_path_received: add_path_families(config, open, |own, its| own.receive && its.sends()),
        add_path_sent: add_path_families(config, open, |own, its| own.send.is_some() && its.receives()),
        remote_role,
        extended_messages: has(&Capability::ExtendedMessage),
        graceful_restart: config.graceful_restart.and_then(|_| graceful_restart(open, &families)),
        families,
    })
}

/// IPv4 unicast with an IPv6 next hop, as the capability says it (RFC 8950 §4).
const IPV4_BY_IPV6: (u16, u16, u16) = (1, 1, 2);

/// Over an IPv4 session there is an IPv4 address for next hop.
fn offers_extended_next_hop(config: &PeerConfig) -> bool {
    config.local_addr.is_ipv6() && config.families.contains(&Family::Ipv4Unicast)
}

fn takes_extended_next_hop(open: &Open) -> bool {
    let mut capabilities = open.capabilities.iter();
    capabilities.any(|c| matches!(c, Capability::ExtendedNextHop(triples) if triples.contains(&IPV4_BY_IPV6)))
}

/// What to say of several paths: families that are carried, and of which something is to be said (RFC 7911 §4).
fn add_path(config: &PeerConfig) -> Vec<(u16, u8, AddPathMode)> {
    let mode = |family: Family| {
        let AddPath { receive, send } = config.add_path(family);
        let mode = match (receive, send.is_some()) {
            (true, true) => AddPathMode::Both,
            (true, false) => AddPathMode::Receive,
            (false, true) => AddPathMode::Send,
            (false, false) => return None,
        };
        let (afi, safi) = family.afi_safi();
        Some((afi, safi, mode))
    };
    config.families.iter().filter_map(|family| mode(*family)).collect()
}

/// The families that both can do. Of a family that is said several times, the last one counts.
fn add_path_families(
    config: &PeerConfig,
    open: &Open,
    agree: impl Fn(AddPath, AddPathMode) -> bool,
) -> FamilySet {
    let said = |family: Family| {
        let all = open.capabilities.iter().filter_map(|c| match c {
            Capability::AddPath(families) => Some(families),
            _ => None,
        });
        let mut of_it = all.flatten().filter(|(afi, safi, _)| (*afi, *safi) == family.afi_safi());
        of_it.next_back().map(|(_, _, mode)| *mode)
    };
    let carried = common_families(config, open).into_iter();
    carried.filter(|family| said(*family).is_some_and(|its| agree(config.add_path(*family), its))).collect()
}

/// The role to say; within one AS there is none (RFC 9234 §4.1).
fn role(config: &PeerConfig) -> Option<Role> {
    config.role.filter(|_| !config.is_internal())
}

/// The neighbour's role, if both say one (RFC 9234 §4.2).
fn agree_on_roles(config: &PeerConfig, open: &Open) -> Result<Option<u8>, Notification> {
    let Some(own) = role(config) else { return Ok(None) };
    let mut said = open.capabilities.iter().filter_map(|c| match c {
        Capability::Role(role) => Some(*role),
        _ => None,
    });
    let mismatch = || Err(Notification::new(Notification::ROLE_MISMATCH));
    match said.next() {
        None if config.role_strict => mismatch(),
        None => Ok(None),
        // Said several times it must be the same each time.
        Some(role) if own.fits(role) && said.all(|again| again == role) => Ok(Some(role)),
        Some(_) => mismatch(),
    }
}

/// Without any multiprotocol capability a speaker carries IPv4 unicast alone (RFC 4760 §8).
fn common_families(config: &PeerConfig, open: &Open) -> Vec<Family> {
    let offered = open.capabilities.iter().filter_map(|c| match c {
        Capability::MultiProtocol(afi, safi) => Some((*afi, *safi)),
        _ => None,
    });
    let plain = offered.clone().next().is_none();
    let mut families: Vec<Family> = config
        .families
        .iter()
        .copied()
        .filter(
            |f| if plain { *f == Family::Ipv4Unicast } else { offered.clone().any(|o| o == f.afi_safi()) },
        )
        .collect();
    families.sort_unstable();
    families.dedup();
    families
}

/// The capabilities that we miss, as RFC 5492 §3 wants them told.
fn wanted(config: &PeerConfig) -> Vec<u8> {
    let mut data = Vec::new();
    for family in &config.families {
        let (afi, safi) = family.afi_safi();
        let [a0, a1] = afi.to_be_bytes();
        data.extend_from_slice(&[1, 4, a0, a1, 0, safi]);
    }
    data
}

fn graceful_restart(open: &Open, families: &[Family]) -> Option<PeerGracefulRestart> {
    let gr = open.capabilities.iter().find_map(|c| match c {
        Capability::GracefulRestart(gr) => Some(gr),
        _ => None,
    })?;
    let known = |(afi, safi, kept): &(u16, u8, bool)| {
        Family::from_afi_safi(*afi, *safi).filter(|f| families.contains(f)).map(|f| (f, *kept))
    };
    Some(PeerGracefulRestart {
        restarted: gr.restarted,
        notification: gr.notification,
        restart_time_s: gr.restart_time_s,
        families: gr.families.iter().filter_map(known).collect(),
    })
}
