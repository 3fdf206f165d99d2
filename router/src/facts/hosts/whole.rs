//! A look at everything: what a table decides by definition, and what looks at changes must come to as well.

use super::*;

/// What follows from a look at all tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) advertise: BTreeMap<Station, u32>,
    pub(super) addresses: BTreeMap<Address, (MacAddr, NeighbourFlags)>,
    pub(super) forget: Vec<Station>,
    pub(super) forget_addresses: Vec<(Address, MacAddr)>,
    pub(super) notices: Vec<Notice>,
}

impl Hosts {
    /// Looks at everything.
    pub(super) fn decide(&mut self, now: Instant, seen: &Seen, claims: &Claims) -> Decision {
        self.look_at_all();
        let Change { forget, forget_addresses, notices, .. } =
            self.look(now, seen, claims, &mut Dirty::default());
        let (advertise, addresses) = (self.held.clone(), self.bound.clone());
        Decision { advertise, addresses, forget, forget_addresses, notices }
    }

    /// What two tables that decide alike have in common.
    pub(super) fn outcome(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let frozen: Vec<Subject> = self.duplicates().map(|d| d.subject).collect();
        (self.held.clone(), self.bound.clone(), self.pinned.clone(), frozen, self.frozen_at.clone())
    }
}
