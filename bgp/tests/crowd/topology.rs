//! Autonomous systems drawn by lot, of one router or several, and who speaks with whom.
//!
//! ```text
//!   AS 1 ── the oldest have the most customers          mesh: 2 or 3 routers, each with each
//!   │  ╲        ─── up (customer → provider)            star: one reflects for 3 to 5 others
//!   AS 2 ─ AS 3   ─ peer, free (no roles)
//! ```

use super::Dice;

/// A router.
#[derive(Clone, Debug)]
pub struct Router {
    /// Its AS.
    pub asn: u32,
    /// The low part of its BGP identifier, unlike any other's.
    pub id: u32,
}

/// What two routers are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// External: the first is the second's customer.
    Up,
    /// External: both tell each other their own and their customers' routes.
    Peer,
    /// External, without roles: everything is told.
    Free,
    /// Internal.
    Mesh,
    /// Internal: the first reflects, the second is its client.
    Star,
}

/// Two routers that speak with each other.
#[derive(Clone, Debug)]
pub struct Link {
    /// Who.
    pub ends: [usize; 2],
    /// As what.
    pub kind: Kind,
}

/// Routers and their sessions.
#[derive(Clone, Debug)]
pub struct Topology {
    /// By their number.
    pub routers: Vec<Router>,
    /// No two between the same two routers.
    pub links: Vec<Link>,
}

impl Topology {
    /// So many routers in autonomous systems of which every one can reach every other; with roles or without.
    pub fn draw(routers: usize, with_roles: bool, dice: &mut Dice) -> Topology {
        let mut topology = Topology { routers: Vec::new(), links: Vec::new() };
        let mut systems: Vec<Vec<usize>> = Vec::new();
        while topology.routers.len() < routers {
            let system = topology.system(systems.len() as u32 + 1, routers, dice);
            let kind = if with_roles { Kind::Up } else { Kind::Free };
            if !systems.is_empty() {
                for _ in 0..1 + dice.roll(2) {
                    // The older ones are chosen more often.
                    let provider = dice.pick(systems.len()).min(dice.pick(systems.len()));
                    topology.join(&system, &systems[provider], kind, dice);
                }
            }
            systems.push(system);
        }
        for _ in 0..systems.len() / 3 {
            let (a, b) = (dice.pick(systems.len()), dice.pick(systems.len()));
            let kind = if with_roles && dice.roll(5) > 0 { Kind::Peer } else { Kind::Free };
            if a != b {
                topology.join(&systems[a], &systems[b], kind, dice);
            }
        }
        topology
    }

    fn system(&mut self, number: u32, limit: usize, dice: &mut Dice) -> Vec<usize> {
        let size = match dice.roll(10) {
            0..=5 => 1,
            6..=7 => 2 + dice.pick(2),
            _ => 4 + dice.pick(3),
        };
        let first = self.routers.len();
        let last = (first + size).min(limit);
        for _ in first..last {
            // A random order of identifiers: the high part is drawn, the low one makes it unlike all others.
            let id = ((dice.roll(1 << 11) as u32) << 13) + self.routers.len() as u32 + 1;
            self.routers.push(Router { asn: 64_999 + number, id });
        }
        for a in first..last {
            for b in a + 1..last {
                let kind = if size > 3 { Kind::Star } else { Kind::Mesh };
                if kind == Kind::Mesh || a == first {
                    self.links.push(Link { ends: [a, b], kind });
                }
            }
        }
        (first..last).collect()
    }

    fn join(&mut self, from: &[usize], to: &[usize], kind: Kind, dice: &mut Dice) {
        let ends = [from[dice.pick(from.len())], to[dice.pick(to.len())]];
        let known = |link: &Link| link.ends == ends || link.ends == [ends[1], ends[0]];
        if !self.links.iter().any(known) {
            self.links.push(Link { ends, kind });
        }
    }
}
