//! Neighbours that come by themselves from a prefix: who may, which number one gets, and what holds for it.
//!
//! The speaker knows each as a peer of its own, from its first connection until nothing is left of it; it says so itself
//! ([`Output::PeerGone`](watari_bgp::Output::PeerGone)), and the number is then given to the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use watari_bgp::peer::{self, PeerConfig};
use watari_bgp::{Asn, PeerId};

use super::PeerSettings;
use super::listen::{Keys, Place};
use super::password;

/// The first number of those that come by themselves: those that are set have lower ones.
const FIRST: u32 = 1 << 31;

/// What becomes of somebody who may come.
pub(super) enum Admission {
    /// It is a neighbour.
    Taken(PeerId, Box<PeerSettings>),
    /// There are too many of this peer; told once until there are fewer.
    Full(PeerId),
    /// There still are.
    FullStill,
}

/// Peers that are prefixes.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    ranges: BTreeMap<PeerId, PeerSettings>,
    /// Those of which it was said that there is no room.
    full: BTreeSet<PeerId>,
}

/// Where the neighbour's connections come to.
pub(super) fn place_of(settings: &PeerSettings) -> Place {
    let local = SocketAddr::new(settings.config.local_addr, settings.port);
    Place { netns: settings.netns.clone(), local }
}

/// Where to listen, and whose segments must be signed there.
pub(super) fn places(peers: &BTreeMap<PeerId, PeerSettings>) -> BTreeMap<Place, Keys> {
    let mut places: BTreeMap<Place, Keys> = BTreeMap::new();
    for settings in peers.values() {
        let keys = places.entry(place_of(settings)).or_default();
        let host = || password::host(settings.config.remote_addr);
        let remote = settings.range.as_ref().map_or_else(host, |range| range.prefix);
        keys.extend(settings.password.clone().map(|key| (remote, key)));
    }
    places
}

/// What holds for a neighbour that came, if it may; of which AS it is, is left to its OPEN.
fn for_one(of: PeerId, settings: &PeerSettings, remote: IpAddr) -> Option<PeerSettings> {
    let range = settings.range.as_ref().filter(|range| range.prefix.contains(&remote))?;
    let dynamic = Some(peer::Dynamic { of, asns: range.asns.clone() });
    let config = PeerConfig {
        remote_addr: remote,
        remote_asn: Asn(0),
        passive: true,
        dynamic,
        ..settings.config.clone()
    };
    Some(PeerSettings { config, range: None, ..settings.clone() })
}

impl Dynamic {
    /// Takes the prefixes out of what is wanted, and adds the neighbours among `present` that came from one and may stay.
    pub(super) fn set(
        &mut self,
        wanted: BTreeMap<PeerId, PeerSettings>,
        present: &BTreeMap<PeerId, PeerSettings>,
    ) -> BTreeMap<PeerId, PeerSettings> {
        let (ranges, mut wanted): (BTreeMap<_, _>, BTreeMap<_, _>) =
            wanted.into_iter().partition(|(_, settings)| settings.range.is_some());
        let set: BTreeSet<(Place, IpAddr)> =
            wanted.values().map(|s| (place_of(s), s.config.remote_addr)).collect();
        for (peer, settings) in present {
            let (remote, dynamic) = (settings.config.remote_addr, &settings.config.dynamic);
            let of = dynamic.as_ref().and_then(|dynamic| ranges.get_key_value(&dynamic.of));
            let stays = of.and_then(|(of, range)| for_one(*of, range, remote));
            let stays = stays.filter(|settings| !set.contains(&(place_of(settings), remote)));
            wanted.extend(stays.map(|settings| (*peer, settings)));
        }
        self.full.retain(|of| ranges.contains_key(of));
        self.ranges = ranges;
        wanted
    }

    /// What becomes of somebody who is no peer; `None` if it may not come. Of several prefixes the longest one counts.
    pub(super) fn admit(
        &mut self,
        place: &Place,
        remote: IpAddr,
        peers: &BTreeMap<PeerId, PeerSettings>,
    ) -> Option<Admission> {
        let here = self.ranges.iter().filter(|(_, s)| place_of(s) == *place && s.config.admin_down.is_none());
        let fits = here.filter_map(|(of, s)| Some((s.range.as_ref()?, *of, for_one(*of, s, remote)?)));
        let (range, of, settings) = fits.max_by_key(|(range, _, _)| range.prefix.prefix_len())?;
        let is_of = |s: &&PeerSettings| s.config.dynamic.as_ref().is_some_and(|d| d.of == of);
        if peers.values().filter(is_of).count() >= range.neighbours_max {
            let is_told = !self.full.insert(of);
            return Some(if is_told { Admission::FullStill } else { Admission::Full(of) });
        }
        self.full.remove(&of);
        let free = (FIRST..).map(PeerId).find(|peer| !peers.contains_key(peer))?;
        Some(Admission::Taken(free, Box::new(settings)))
    }
}
