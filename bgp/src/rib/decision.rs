//! The decision process, phase 2 (RFC 4271 §9.1.2): which of the paths of one key is selected, and why.
//!
//! Phase 1, the degree of preference, is LOCAL_PREF as received from an internal peer or 100. Before it come
//! two steps of our own, for reasons the RFCs give: a path of this router wins over any learnt one, and of
//! EVPN MAC routes with one key the sticky one, then the one with the higher mobility sequence (RFC 7432 §15).
//! Step f), the interior cost to the next hop, is equal for all: the underlay is one hop between gateways.

use std::fmt;
use std::net::IpAddr;

use super::sets::Rank;
use crate::types::{PathId, RouterId, address_order};

/// The step at which the selected path was the only one left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is no other.
    OnlyPath,
    /// Originated here.
    Local,
    /// EVPN: static MAC.
    Sticky,
    /// EVPN: higher mobility sequence.
    MobilitySequence,
    /// Higher LOCAL_PREF.
    LocalPref,
    /// a) shorter AS_PATH.
    AsPathLength,
    /// b) lower ORIGIN.
    Origin,
    /// c) lower MED among those of one neighbouring AS.
    Med,
    /// d) external over internal.
    External,
    /// f) lower identifier of the advertising speaker, or ORIGINATOR_ID (RFC 4456 §9).
    RouterId,
    /// Shorter CLUSTER_LIST (RFC 4456 §9).
    ClusterList,
    /// g) lower peer address.
    PeerAddress,
    /// Lower path identifier, of several paths of one neighbour (RFC 7911).
    PathId,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::OnlyPath => "only path",
            Reason::Local => "local",
            Reason::Sticky => "sticky MAC",
            Reason::MobilitySequence => "mobility sequence",
            Reason::LocalPref => "local preference",
            Reason::AsPathLength => "AS path length",
            Reason::Origin => "origin",
            Reason::Med => "MED",
            Reason::External => "external over internal",
            Reason::RouterId => "router id",
            Reason::ClusterList => "cluster list length",
            Reason::PeerAddress => "peer address",
            Reason::PathId => "path identifier",
        })
    }
}

/// What the decision knows of a path beside its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advertiser {
    /// This router.
    pub(crate) local: bool,
    /// An internal peer.
    pub(crate) internal: bool,
    /// A client of ours (RFC 4456).
    pub(crate) client: bool,
    /// The speaker's BGP Identifier.
    pub(crate) router_id: RouterId,
    /// The session's remote address.
    pub(crate) address: IpAddr,
}

/// One path that takes part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contender<'a> {
    /// Who advertised it.
    pub(crate) advertiser: &'a Advertiser,
    /// What its attributes come to.
    pub(crate) rank: &'a Rank,
    /// Its path identifier, 0 without one.
    pub(crate) id: PathId,
}

impl Contender<'_> {
    /// Whether it wins over `other`, where their MEDs do not matter; of two that no step tells apart, neither.
    pub(crate) fn beats(&self, other: &Contender<'_>) -> bool {
        let differ = STEPS.iter().find_map(|step| match step {
            Step::Lowest(_, rank) => Some(rank(self).cmp(&rank(other))).filter(|order| order.is_ne()),
            Step::Med => None,
        });
        differ.is_some_and(std::cmp::Ordering::is_lt)
    }
}

/// The index of the selected path and the step that decided; `None` if there is none.
pub(crate) fn select(paths: &[Contender<'_>]) -> Option<(usize, Reason)> {
    match paths {
        [] => return None,
        [_] => return Some((0, Reason::OnlyPath)),
        _ => {}
    }
    let mut left: Vec<usize> = (0..paths.len()).collect();
    for step in STEPS {
        step.keep(paths, &mut left);
        if let [winner] = left[..] {
            return Some((winner, step.reason()));
        }
    }
    // Two paths from one address and identifier cannot be told apart: the first one stays.
    left.first().map(|winner| (*winner, Reason::PathId))
}

type Weight = fn(&Contender<'_>) -> u128;

#[derive(Clone, Copy)]
enum Step {
    /// Keep those with the lowest rank.
    Lowest(Reason, Weight),
    /// Keep those not beaten by a lower MED of the same neighbouring AS.
    Med,
}

const STEPS: [Step; 12] = [
    Step::Lowest(Reason::Local, |c| u128::from(!c.advertiser.local)),
    Step::Lowest(Reason::Sticky, |c| u128::from(!c.rank.sticky)),
    Step::Lowest(Reason::MobilitySequence, |c| u128::from(u32::MAX - c.rank.mobility_sequence)),
    Step::Lowest(Reason::LocalPref, |c| u128::from(u32::MAX - c.rank.local_pref)),
    Step::Lowest(Reason::AsPathLength, |c| u128::from(c.rank.hops)),
    Step::Lowest(Reason::Origin, |c| u128::from(c.rank.origin)),
    Step::Med,
    Step::Lowest(Reason::External, |c| u128::from(c.advertiser.internal)),
    Step::Lowest(Reason::RouterId, |c| u128::from(identifier(c))),
    Step::Lowest(Reason::ClusterList, |c| u128::from(c.rank.cluster_len)),
    Step::Lowest(Reason::PeerAddress, |c| {
        let (version, number) = address_order(c.advertiser.address);
        // IPv4 sorts before IPv6; an IPv6 address as a number is larger than any IPv4 one but those of ::/96.
        if version == 4 { number } else { number.max(1 << 32) }
    }),
    Step::Lowest(Reason::PathId, |c| u128::from(c.id.0)),
];

impl Step {
    const fn reason(self) -> Reason {
        match self {
            Step::Lowest(reason, _) => reason,
            Step::Med => Reason::Med,
        }
    }

    fn keep(self, paths: &[Contender<'_>], left: &mut Vec<usize>) {
        match self {
            Step::Lowest(_, rank) => {
                let lowest = left.iter().map(|i| rank(&paths[*i])).min();
                left.retain(|i| Some(rank(&paths[*i])) == lowest);
            }
            Step::Med => {
                let before = left.clone();
                left.retain(|i| !before.iter().any(|j| beaten_by_med(&paths[*i], &paths[*j])));
            }
        }
    }
}

/// RFC 4456 §9: ORIGINATOR_ID stands for the identifier.
fn identifier(c: &Contender<'_>) -> u32 {
    c.rank.originator.unwrap_or(u32::from(c.advertiser.router_id.0))
}

fn beaten_by_med(a: &Contender<'_>, b: &Contender<'_>) -> bool {
    a.rank.neighbor == b.rank.neighbor && b.rank.med < a.rank.med
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::{AsPath, Origin, PathAttributes};
    use crate::community::ExtCommunity;
    use crate::types::Asn;

    struct Candidate {
        advertiser: Advertiser,
        attrs: PathAttributes,
        id: PathId,
    }

    /// An external path of AS 65000+n by neighbour 10.0.0.n.
    fn external(n: u8) -> Candidate {
        let advertiser = Advertiser {
            local: false,
            internal: false,
            client: false,
            router_id: RouterId([10, 0, 0, n].into()),
            address: [10, 0, 0, n].into(),
        };
        let as_path = AsPath::sequence([Asn(65000 + u32::from(n))]);
        let attrs = PathAttributes { as_path, ..PathAttributes::default() };
        Candidate { advertiser, attrs, id: PathId::default() }
    }

    fn winner(candidates: &[Candidate]) -> (usize, Reason) {
        let ranks: Vec<Rank> = candidates.iter().map(|c| Rank::of(&c.attrs)).collect();
        let path = |(c, rank)| {
            let Candidate { advertiser, id, .. } = c as &Candidate;
            Contender { advertiser, rank, id: *id }
        };
        let paths: Vec<_> = candidates.iter().zip(&ranks).map(path).collect();
        let (winner, reason) = select(&paths).expect("a path");
        if let [a, b] = paths[..]
            && reason != Reason::Med
        {
            assert_eq!((a.beats(&b), b.beats(&a)), (winner == 0, winner == 1), "{reason}");
        }
        (winner, reason)
    }

    /// Each step decides when everything before it is equal and everything after it is against.
    #[test]
    fn every_step_comes_before_the_next() {
        type Prefer = fn(&mut Candidate, bool);
        let steps: [(Reason, Prefer); 12] = [
            (Reason::Local, |c, good| c.advertiser.local = good),
            (Reason::Sticky, |c, good| {
                c.attrs.ext_communities = vec![ExtCommunity::mac_mobility(good, 0)];
            }),
            (Reason::MobilitySequence, |c, good| {
                let sticky = c.attrs.mac_mobility().0;
                c.attrs.ext_communities = vec![ExtCommunity::mac_mobility(sticky, u32::from(good))];
            }),
            (Reason::LocalPref, |c, good| c.attrs.local_pref = Some(if good { 200 } else { 50 })),
            (Reason::AsPathLength, |c, good| {
                c.attrs.as_path = AsPath::sequence(vec![Asn(65000); if good { 1 } else { 2 }]);
            }),
            (Reason::Origin, |c, good| c.attrs.origin = if good { Origin::Igp } else { Origin::Egp }),
            (Reason::Med, |c, good| c.attrs.med = Some(u32::from(!good))),
            (Reason::External, |c, good| c.advertiser.internal = !good),
            (Reason::RouterId, |c, good| {
                c.attrs.originator_id = Some(RouterId([1, 1, 1, 2 - u8::from(good)].into()))
            }),
            (Reason::ClusterList, |c, good| {
                c.attrs.cluster_list = vec![[1, 1, 1, 1].into(); if good { 0 } else { 1 }];
            }),
            (Reason::PeerAddress, |c, good| c.advertiser.address = [10, 0, 9, 2 - u8::from(good)].into()),
            (Reason::PathId, |c, good| c.id = PathId(2 - u32::from(good))),
        ];
        for deciding in 0..steps.len() {
            let (mut a, mut b) = (external(1), external(1));
            for (n, (_, prefer)) in steps.iter().enumerate() {
                prefer(&mut a, n == deciding);
                prefer(&mut b, n > deciding);
            }
            assert_eq!(winner(&[b, a]), (1, steps[deciding].0));
        }
    }

    /// §9.1.2.2 c: MEDs of different neighbouring ASes are not compared.
    #[test]
    fn med_counts_within_one_neighbouring_as_only() {
        let with_med = |n, asn, med| {
            let mut c = external(n);
            c.attrs.as_path = AsPath::sequence([Asn(asn)]);
            c.attrs.med = Some(med);
            c
        };
        assert_eq!(winner(&[with_med(1, 100, 50), with_med(2, 200, 10)]), (0, Reason::RouterId));
        assert_eq!(winner(&[with_med(1, 100, 50), with_med(2, 100, 10)]), (1, Reason::Med));
        // The well-known trap: whatever the order of arrival, the same path wins.
        let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        for order in orders {
            let paths: Vec<_> = order
                .iter()
                .map(|i| match i {
                    0 => with_med(1, 100, 10),
                    1 => with_med(2, 100, 5),
                    _ => with_med(3, 200, 0),
                })
                .collect();
            let (index, _) = winner(&paths);
            assert_eq!(paths[index].attrs.med, Some(5), "{order:?}");
        }
    }

    /// RFC 4271 §9.1.2.2 a, RFC 5065 §5.3.
    #[test]
    fn a_set_counts_as_one_hop_and_a_confederation_as_none() {
        use crate::attrs::AsSegment::{ConfedSequence, Sequence, Set};
        let path = AsPath(vec![
            ConfedSequence(vec![Asn(1), Asn(2)]),
            Sequence(vec![Asn(3), Asn(4)]),
            Set(vec![Asn(5), Asn(6), Asn(7)]),
        ]);
        assert_eq!(path.hops(), 3);
        assert_eq!(path.neighbor(), Some(Asn(3)));
    }

    #[test]
    fn an_ipv4_peer_address_is_lower_than_an_ipv6_one() {
        let (mut a, mut b) = (external(1), external(1));
        a.advertiser.address = "2001:db8::1".parse().unwrap();
        b.advertiser.address = "203.0.113.1".parse().unwrap();
        assert_eq!(winner(&[a, b]), (1, Reason::PeerAddress));
    }
}
