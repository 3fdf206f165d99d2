//! Sending the difference (RFC 4271 §9.1.3 and §9.2): for every pending key what a neighbour should have is
//! compared with what it has; what differs is packed into as few messages as possible.

use std::collections::HashMap;
use std::sync::Arc;

use super::export::{may_go, rewrite};
use super::neighbor::Neighbor;
use super::{Output, SEND_CREDIT, Source, Speaker};
use crate::attrs::PathAttributes;
use crate::rib::{AdjOut, Round, Sent};
use crate::time::Instant;
use crate::types::{Family, PeerId};
use crate::wire::{EncodeContext, encode_announce, encode_end_of_rib, encode_withdraw};

/// What the rewritten attributes of a path depend on, for one neighbour and family.
type Rewrite = (*const PathAttributes, Source);

/// Keys looked at before credit is looked at again.
const ROUND_KEYS: usize = 4_096;

impl Speaker {
    pub(super) fn advertise_all(&mut self, now: Instant) {
        let peers: Vec<PeerId> =
            self.neighbors.iter().filter(|(_, n)| n.live.is_some()).map(|(p, _)| *p).collect();
        for peer in peers {
            for family in Family::ALL {
                while self.advertise_round(peer, family, now) {}
            }
        }
    }

    /// One round of one neighbour and family; whether there may be more to do.
    fn advertise_round(&mut self, peer: PeerId, family: Family, now: Instant) -> bool {
        let Some(Neighbor { config, live: Some(live), session, .. }) = self.neighbors.get_mut(&peer) else {
            return false;
        };
        let Some(table) = self.tables.get(&(config.instance, family)).filter(|t| !t.deferring) else {
            return false;
        };
        let context = live.encode_context();
        let Some(out) = live.out.get_mut(&family).filter(|_| live.unsent < SEND_CREDIT) else { return false };
        let mut octets = Vec::new();
        let mut messages = 0;
        if out.has_pending() {
            let router_id = self.config.router_id;
            let pool = &mut self.pool;
            let mut rewritten: HashMap<Rewrite, Option<Arc<PathAttributes>>> = HashMap::new();
            let round = out.round(ROUND_KEYS, |key| -> Option<Sent> {
                let path = table.get(key)?.best()?;
                if path.source == Source::Peer(peer) || !may_go(key, path, config) {
                    return None;
                }
                let attrs = rewritten.entry((Arc::as_ptr(&path.attrs), path.source)).or_insert_with(|| {
                    rewrite(family, path, config, router_id).map(|attrs| pool.intern(attrs))
                });
                Some((attrs.clone()?, path.data))
            });
            messages += put_round(family, out, &round, &context, &mut octets);
        }
        let more = out.has_pending();
        if !more && std::mem::take(&mut out.end_of_rib_due) {
            octets.extend_from_slice(&encode_end_of_rib(family));
            messages += 1;
        }
        session.count_sent(messages);
        if !octets.is_empty() {
            if live.unsent == 0 {
                live.progress_at = now;
            }
            live.unsent += octets.len();
            self.out.push(Output::Send(peer, live.conn, octets));
        }
        more
    }
}

/// Encodes a round; what cannot be encoded is withdrawn instead. Returns the number of messages.
fn put_round(
    family: Family,
    out: &mut AdjOut,
    round: &Round,
    context: &EncodeContext,
    octets: &mut Vec<u8>,
) -> u64 {
    let mut messages = encode_withdraw(family, &round.withdrawn, context);
    for (attrs, routes) in &round.announced {
        match encode_announce(family, attrs, routes, context) {
            Ok(announcements) => messages.extend(announcements),
            Err(_) => {
                out.unsend(routes);
                messages.extend(encode_withdraw(family, routes, context));
            }
        }
    }
    messages.iter().for_each(|message| octets.extend_from_slice(message));
    messages.len() as u64
}
