//! Sending the difference (RFC 4271 §9.1.3 and §9.2): the groups of each table pack what changed, and every neighbour is
//! given what was packed for it as far as its credit goes.

use super::{Output, SEND_CREDIT, Speaker};
use crate::time::Instant;
use crate::types::{Family, PeerId};

impl Speaker {
    pub(super) fn advertise_all(&mut self, now: Instant) {
        loop {
            let mut done = false;
            for table in self.tables.values_mut().filter(|table| !table.deferring) {
                done |= table.groups.advance(&mut table.rib, now);
            }
            let peers: Vec<PeerId> =
                self.neighbors.iter().filter(|(_, n)| n.live.is_some()).map(|(p, _)| *p).collect();
            for peer in peers {
                done |= self.hand_out(peer, now);
            }
            if !done {
                return;
            }
        }
    }

    /// Gives a neighbour what was packed for it; whether there was anything.
    fn hand_out(&mut self, peer: PeerId, now: Instant) -> bool {
        let Some(neighbor) = self.neighbors.get_mut(&peer) else { return false };
        let Some(live) = &mut neighbor.live else { return false };
        let mut done = false;
        for family in Family::ALL {
            let Some(table) = self.tables.get_mut(&(neighbor.config.instance, family)) else { continue };
            let Some(member) = table.groups.member(peer) else { continue };
            while live.unsent < SEND_CREDIT {
                let Some((octets, messages)) = member.take() else { break };
                neighbor.session.count_sent(messages);
                if live.unsent == 0 {
                    live.progress_at = now;
                }
                live.unsent += octets.len();
                self.out.push(Output::Send(peer, live.conn, octets));
                done = true;
            }
        }
        done
    }
}
