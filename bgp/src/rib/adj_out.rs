//! Adj-RIB-Out of one peer and family: what it was told, and which keys must be looked at again.
//!
//! A key that changes ten times while the peer reads slowly is one entry here: memory per peer is bounded by
//! the table, never by the number of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::attrs::PathAttributes;
use crate::nlri::{Key, Nlri, NlriData};

/// Attributes and data as on the wire.
pub(crate) type Sent = (Arc<PathAttributes>, NlriData);

#[derive(Debug, Default)]
pub(crate) struct AdjOut {
    sent: BTreeMap<Key, Sent>,
    pending: BTreeSet<Key>,
    /// The End-of-RIB is still to be sent, after everything pending.
    pub(crate) end_of_rib_due: bool,
}

/// What one round has to say: withdrawals, and announcements grouped by shared attributes.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) withdrawn: Vec<Nlri>,
    pub(crate) announced: Vec<(Arc<PathAttributes>, Vec<Nlri>)>,
}

impl AdjOut {
    /// Routes that the peer has.
    pub(crate) fn len(&self) -> usize {
        self.sent.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Sent)> {
        self.sent.iter()
    }

    /// These keys must be looked at again.
    pub(crate) fn touch<'a>(&mut self, keys: impl IntoIterator<Item = &'a Key>) {
        self.pending.extend(keys.into_iter().cloned());
    }

    /// Everything the peer has must be looked at again, and sent even if it is the same (RFC 2918).
    pub(crate) fn forget(&mut self) {
        let keys = std::mem::take(&mut self.sent).into_keys();
        self.pending.extend(keys);
    }

    /// Every key that the peer has.
    pub(crate) fn touch_sent(&mut self) {
        self.pending.extend(self.sent.keys().cloned());
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes up to `limit` pending keys, asks `wanted` for each, and notes what has to be said.
    pub(crate) fn round(&mut self, limit: usize, mut wanted: impl FnMut(&Key) -> Option<Sent>) -> Round {
        let mut round = Round::default();
        let mut groups: BTreeMap<*const PathAttributes, usize> = BTreeMap::new();
        for _ in 0..limit {
            let Some(key) = self.pending.pop_first() else { break };
            match wanted(&key) {
                None => {
                    if let Some((_, data)) = self.sent.remove(&key) {
                        round.withdrawn.push(Nlri { key, data });
                    }
                }
                Some(new) if self.sent.get(&key) == Some(&new) => {}
                Some((attrs, data)) => {
                    self.sent.insert(key.clone(), (Arc::clone(&attrs), data));
                    let at = *groups.entry(Arc::as_ptr(&attrs)).or_insert_with(|| {
                        round.announced.push((attrs, Vec::new()));
                        round.announced.len() - 1
                    });
                    round.announced[at].1.push(Nlri { key, data });
                }
            }
        }
        round
    }

    /// These could not be sent after all.
    pub(crate) fn unsend(&mut self, routes: &[Nlri]) {
        for route in routes {
            self.sent.remove(&route.key);
        }
    }
}
