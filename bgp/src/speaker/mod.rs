//! The speaker: many neighbours, many instances, one `Input` and one `Output`.
//!
//! One call works in three steps: the input changes sessions and tables; the tables decide every key that was
//! touched and tell what changed ([`Output::BestChanged`]); and each neighbour is sent the difference between
//! what it has and what it should have, as far as its credit goes. The files beside this one follow these
//! steps: `neighbors` and `receive`, `restart`, `advertise` with the rules in `export`.

mod advertise;
mod export;
mod io;
mod neighbor;
mod neighbors;
mod query;
mod receive;
mod restart;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::attrs::PathAttributes;
use crate::nlri::Nlri;
use crate::rib::{Advertiser, AttributePool, Path, Table};
use crate::time::Instant;
use crate::types::{Family, InstanceId, PeerId, RouterId};
use neighbor::Neighbor;
use restart::Restart;

pub use io::{Best, Input, Output, RestartConfig, Source};
pub use query::{Advertised, Candidate, Entry, PeerSummary, TableRow};

/// Octets of updates that may be under way to one neighbour before [`Input::Written`] must be heard.
pub const SEND_CREDIT: usize = 256 * 1024;

/// What concerns the whole speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Our BGP Identifier, also the cluster id when reflecting.
    pub router_id: RouterId,
    /// Seed of the timer jitter.
    pub seed: u64,
}

/// Many neighbours, many instances.
#[derive(Debug)]
pub struct Speaker {
    config: SpeakerConfig,
    neighbors: BTreeMap<PeerId, Neighbor>,
    tables: BTreeMap<(InstanceId, Family), Table>,
    pool: AttributePool,
    restart: Restart,
    /// Our addresses of all sessions, by instance: a next hop among them is this router.
    own_addrs: BTreeSet<(InstanceId, IpAddr)>,
    out: Vec<Output>,
}

impl Speaker {
    /// A speaker without neighbours and routes.
    pub fn new(config: SpeakerConfig) -> Speaker {
        Speaker {
            config,
            neighbors: BTreeMap::new(),
            tables: BTreeMap::new(),
            pool: AttributePool::new(),
            restart: Restart::default(),
            own_addrs: BTreeSet::new(),
            out: Vec::new(),
        }
    }

    /// Our BGP Identifier.
    pub fn router_id(&self) -> RouterId {
        self.config.router_id
    }

    /// Takes one input at the time `now`, which never goes back. Inputs about neighbours and connections that
    /// are not known are ignored: they may have crossed a removal.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Output> {
        match input {
            Input::AddPeer(peer, config) => self.add_peer(peer, *config, now),
            Input::UpdatePeer(peer, config) => self.update_peer(peer, *config, now),
            Input::RemovePeer(peer) => self.remove_peer(peer, now),
            Input::TcpConnected(peer, conn) => {
                self.refresh_restart_flags(peer);
                self.on_session(peer, now, |session, out| session.connected(conn, now, out));
            }
            Input::TcpAccepted(peer, conn) => {
                self.refresh_restart_flags(peer);
                self.on_session(peer, now, |session, out| session.accepted(conn, now, out));
            }
            Input::TcpFailed(peer) => {
                self.on_session(peer, now, |session, out| session.connect_failed(now, out))
            }
            Input::TcpClosed(peer, conn) => {
                self.on_session(peer, now, |session, out| session.closed(conn, now, out))
            }
            Input::Bytes(peer, conn, octets) => self.receive(peer, conn, &octets, now),
            Input::Written(peer, conn, octets) => self.written(peer, conn, octets, now),
            Input::PathDown { peer, forwarding_is_dead } => self.path_down(peer, forwarding_is_dead, now),
            Input::Originate { instance, nlri, attrs } => self.originate(instance, nlri, *attrs),
            Input::Withdraw { instance, key } => {
                if let Some(table) = self.tables.get_mut(&(instance, key.family())) {
                    table.remove(&key, Source::Local);
                }
            }
            Input::StartRestart(config) => self.start_restart(config, now),
            Input::LocalRoutesComplete => self.restart.local_routes_complete = true,
            Input::RequestRefresh(peer, family) => self.request_refresh(peer, family),
            Input::Shutdown { graceful } => self.shutdown(graceful, now),
            Input::Tick => self.tick(now),
        }
        self.settle(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due, `None` if nothing waits for time.
    pub fn next_deadline(&self) -> Option<Instant> {
        let neighbors = self.neighbors.values().filter_map(Neighbor::next_deadline);
        neighbors.chain(self.restart.deadline).min()
    }

    fn tick(&mut self, now: Instant) {
        let due = |n: &Neighbor| n.next_deadline().is_some_and(|d| d <= now);
        let peers: Vec<PeerId> = self.neighbors.iter().filter(|(_, n)| due(n)).map(|(p, _)| *p).collect();
        for peer in peers {
            self.on_session(peer, now, |session, out| session.tick(now, out));
            self.tick_restart(peer, now);
            self.tick_send_hold(peer, now);
        }
    }

    /// Decides, reports, advertises.
    fn settle(&mut self, now: Instant) {
        let done = self.end_deferral(now);
        for (&(instance, family), table) in &mut self.tables {
            let changes = table.decide();
            if changes.is_empty() {
                continue;
            }
            for neighbor in self.neighbors.values_mut().filter(|n| n.config.instance == instance) {
                if let Some(out) = neighbor.live.as_mut().and_then(|l| l.out.get_mut(&family)) {
                    out.touch(changes.iter().map(|(key, _)| key));
                }
            }
            self.out.extend(changes.into_iter().map(|(key, best)| Output::BestChanged {
                instance,
                key,
                best,
            }));
        }
        self.out.extend(done.into_iter().map(|(instance, family)| Output::SelectionDone(instance, family)));
        self.advertise_all(now);
    }

    fn originate(&mut self, instance: InstanceId, nlri: Nlri, attrs: PathAttributes) {
        let advertiser = Advertiser {
            local: true,
            internal: false,
            client: false,
            router_id: self.config.router_id,
            address: self.config.router_id.0.into(),
        };
        let attrs = self.pool.intern(attrs);
        let path =
            Path { source: Source::Local, advertiser, attrs, data: nlri.data, stale: false, rejected: None };
        self.table(instance, nlri.key.family()).insert(nlri.key, path);
    }

    /// The table, made when first asked for; while we restart it defers its selection.
    fn table(&mut self, instance: InstanceId, family: Family) -> &mut Table {
        let deferring = self.restart.deadline.is_some();
        self.tables.entry((instance, family)).or_insert_with(|| Table::new(deferring))
    }

    fn note_own_addresses(&mut self) {
        self.own_addrs = self.neighbors.values().map(|n| (n.config.instance, n.config.local_addr)).collect();
    }

    /// The tables of a neighbour's families.
    fn tables_of(&self, peer: PeerId) -> Vec<(InstanceId, Family)> {
        let Some(neighbor) = self.neighbors.get(&peer) else { return Vec::new() };
        let instance = neighbor.config.instance;
        Family::ALL.iter().map(|f| (instance, *f)).filter(|at| self.tables.contains_key(at)).collect()
    }
}
