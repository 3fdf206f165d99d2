//! What everybody should know once nothing changes any more, computed without a message being sent.
//!
//! Shorter AS paths win before anything that depends on who is asked, so the answer can be filled in by length: whoever
//! can be told a path of n numbers chose among those of n - 1, which are all known. Within a length an external path
//! goes before an internal one, then the lowest identifier (RFC 4271 §9.1.2.2; ORIGINATOR_ID plays no part,
//! since whoever hears of a reflector hears of no one else). Of what goes up or sideways only what is one's
//! own or came from below is told (RFC 9234), of what is internal nothing but by a reflector (RFC 4456).

use super::topology::{Kind, Topology};

/// How a router came to know a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Own,
    External,
    /// From a router that learnt it itself.
    Internal,
    /// From a reflector that did not.
    Reflected,
}

/// What a router should know of a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The AS path.
    pub path: Vec<u32>,
    /// Who told it; nobody of what is one's own.
    pub via: Option<usize>,
    how: How,
    /// It has gone up only: it may go on up, and sideways.
    rising: bool,
}

/// A neighbour as a router sees it.
#[derive(Clone, Copy)]
struct Neighbour {
    number: usize,
    kind: Kind,
    /// It comes first in the link: it is the customer, or the reflector.
    is_first: bool,
}

/// Who can speak with whom.
pub struct Model<'a> {
    topology: &'a Topology,
    neighbours: Vec<Vec<Neighbour>>,
}

impl Model<'_> {
    /// Of the routers that are alive, and the links that are.
    pub fn new<'a>(
        topology: &'a Topology,
        alive: impl Fn(usize) -> bool,
        connected: impl Fn([usize; 2]) -> bool,
    ) -> Model<'a> {
        let mut neighbours = vec![Vec::new(); topology.routers.len()];
        for link in &topology.links {
            let [a, b] = link.ends;
            if alive(a) && alive(b) && connected(link.ends) {
                neighbours[a].push(Neighbour { number: b, kind: link.kind, is_first: false });
                neighbours[b].push(Neighbour { number: a, kind: link.kind, is_first: true });
            }
        }
        Model { topology, neighbours }
    }

    /// What every router knows of a prefix that these originate.
    pub fn solve(&self, owners: impl Iterator<Item = usize>) -> Vec<Option<Known>> {
        let mut known = vec![None; self.topology.routers.len()];
        let own = Known { path: Vec::new(), via: None, how: How::Own, rising: true };
        let mut latest: Vec<usize> = owners.collect();
        for owner in &latest {
            known[*owner] = Some(own.clone());
        }
        for length in 0.. {
            if length > 0 {
                latest =
                    self.spread(&latest, &mut known, |from, to, now| self.told_externally(from, to, now));
            }
            let learnt =
                self.spread(&latest, &mut known, |from, to, now| self.told_internally(from, to, now));
            let reflected = self.spread(&learnt, &mut known, |from, to, now| self.reflected(from, to, now));
            latest.extend(learnt);
            latest.extend(reflected);
            if latest.is_empty() {
                break;
            }
        }
        known
    }

    /// All who can be told something by one of `from` and know nothing yet, each by the lowest identifier.
    fn spread(
        &self,
        from: &[usize],
        known: &mut [Option<Known>],
        tell: impl Fn(usize, Neighbour, &Known) -> Option<Known>,
    ) -> Vec<usize> {
        let mut told = std::collections::BTreeMap::new();
        for teller in from {
            let Some(now) = &known[*teller] else { continue };
            let id = self.topology.routers[*teller].id;
            for to in self.neighbours[*teller].iter().filter(|to| known[to.number].is_none()) {
                if let Some(new) = tell(*teller, *to, now) {
                    let best = told.entry(to.number).or_insert_with(|| (id, new.clone()));
                    if id < best.0 {
                        *best = (id, new);
                    }
                }
            }
        }
        let heard = told.keys().copied().collect();
        told.into_iter().for_each(|(to, (_, new))| known[to] = Some(new));
        heard
    }

    fn told_externally(&self, from: usize, to: Neighbour, now: &Known) -> Option<Known> {
        let asn = |router: usize| self.topology.routers[router].asn;
        let (goes_down, falls) = match to.kind {
            Kind::Up => (to.is_first, to.is_first),
            Kind::Peer => (false, true),
            Kind::Free => (true, false),
            Kind::Mesh | Kind::Star => return None,
        };
        let path: Vec<u32> = std::iter::once(asn(from)).chain(now.path.iter().copied()).collect();
        if path.contains(&asn(to.number)) || !(now.rising || goes_down) {
            return None;
        }
        Some(Known { path, via: Some(from), how: How::External, rising: now.rising && !falls })
    }

    fn told_internally(&self, from: usize, to: Neighbour, now: &Known) -> Option<Known> {
        let internal = matches!(to.kind, Kind::Mesh | Kind::Star);
        let learnt = matches!(now.how, How::Own | How::External);
        (internal && learnt).then(|| Known { via: Some(from), how: How::Internal, ..now.clone() })
    }

    fn reflected(&self, from: usize, to: Neighbour, now: &Known) -> Option<Known> {
        let is_reflector = to.kind == Kind::Star && !to.is_first;
        (is_reflector && now.how == How::Internal).then(|| Known {
            via: Some(from),
            how: How::Reflected,
            ..now.clone()
        })
    }
}
