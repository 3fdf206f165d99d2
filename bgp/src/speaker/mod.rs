//! The speaker: many neighbours, many instances, one `Input` and one `Output`.
//!
//! One call works in three steps: the input changes sessions and tables; the tables decide every key that was
//! touched and tell what changed ([`Output::BestChanged`]); and each neighbour is sent the difference between
//! what it has and what it should have, as far as its credit goes. The files beside this one follow these
//! steps: `neighbors` and `receive`, `restart`, `advertise`.
//!
//! A shell that has more inputs waiting gives them by [`Speaker::push`]: the second and third step are taken when it
//! asks for them ([`Speaker::settle`]), or [`SETTLE_MS`] after the first change. So a best path that changes several
//! times while input is waiting is told once.

mod advertise;
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
use crate::rib::{Advertiser, Table};
use crate::time::Instant;
use crate::types::{Family, InstanceId, PathId, PeerId, RouterId};
use neighbor::Neighbor;
use restart::Restart;

pub use crate::rib::Octets;
pub use io::{Best, Input, Output, Reset, RestartConfig, Source};
pub use query::{Advertised, Candidate, Entry, Page, PeerSummary, TableRow};

/// Octets of updates that may be under way to one neighbour before [`Input::Written`] must be heard.
pub const SEND_CREDIT: usize = 256 * 1024;

/// The longest time in milliseconds that a change waits for others, as long as input is waiting.
pub const SETTLE_MS: u64 = 100;

/// How long routes without paths keep their place, in milliseconds.
const RECLAIM_MS: u64 = 1_000;

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
    restart: Restart,
    /// Our addresses of all sessions, by instance: a next hop among them is this router.
    own_addrs: BTreeSet<(InstanceId, IpAddr)>,
    /// Instances whose best paths nobody wants to know.
    silent: BTreeSet<InstanceId>,
    /// When routes without paths are looked at.
    reclaim_at: Option<Instant>,
    /// Since when there are inputs that have not been settled.
    unsettled_since: Option<Instant>,
    /// A dynamic neighbour may have gone.
    may_be_gone: bool,
    out: Vec<Output>,
}

impl Speaker {
    /// A speaker without neighbours and routes.
    pub fn new(config: SpeakerConfig) -> Speaker {
        Speaker {
            config,
            neighbors: BTreeMap::new(),
            tables: BTreeMap::new(),
            restart: Restart::default(),
            own_addrs: BTreeSet::new(),
            silent: BTreeSet::new(),
            reclaim_at: None,
            unsettled_since: None,
            may_be_gone: false,
            out: Vec::new(),
        }
    }

    /// Our BGP Identifier.
    pub fn router_id(&self) -> RouterId {
        self.config.router_id
    }

    /// Takes one input at the time `now`, which never goes back, and does all that follows from it. Inputs about
    /// neighbours and connections that are not known are ignored: they may have crossed a removal.
    pub fn handle(&mut self, input: Input, now: Instant) -> Vec<Output> {
        self.take(input, now);
        self.settle_now(now);
        std::mem::take(&mut self.out)
    }

    /// Takes one of several inputs that are waiting; what follows from them is done by [`Speaker::settle`], or here if
    /// the first of them was taken [`SETTLE_MS`] ago.
    pub fn push(&mut self, input: Input, now: Instant) -> Vec<Output> {
        let written = matches!(input, Input::Written(..));
        self.take(input, now);
        let since = *self.unsettled_since.get_or_insert(now);
        if now.millis_since(since) >= SETTLE_MS {
            self.settle_now(now);
        } else if written {
            self.advertise_all(now);
        }
        std::mem::take(&mut self.out)
    }

    /// Does what follows from the inputs so far: no other one is waiting.
    pub fn settle(&mut self, now: Instant) -> Vec<Output> {
        self.settle_now(now);
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, input: Input, now: Instant) {
        match input {
            Input::AddPeer(peer, config) => self.add_peer(peer, *config, now),
            Input::UpdatePeer(peer, config) => self.update_peer(peer, *config, now),
            Input::RemovePeer(peer) => self.remove_peer(peer, now),
            Input::TcpConnected(peer, conn) => {
                self.refresh_restart_flags(peer);
                self.on_session(peer, now, |session, out| session.connected(conn, now, out));
            }
            Input::TcpAccepted(peer, conn) => {
                if let Some(neighbor) = self.neighbors.get_mut(&peer) {
                    neighbor.has_come = true;
                }
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
            Input::Originate { instance, nlri, attrs } => self.originate(instance, &nlri, &attrs),
            Input::Withdraw { instance, key } => {
                if let Some(table) = self.tables.get_mut(&(instance, key.family())) {
                    let source = table.rib.source_id(Source::Local);
                    source.into_iter().for_each(|source| table.rib.remove(&key, PathId::default(), source));
                }
            }
            Input::Report { instance, report } => self.set_report(instance, report),
            Input::StartRestart(config) => self.start_restart(config, now),
            Input::LocalRoutesComplete => self.restart.local_routes_complete = true,
            Input::RequestRefresh(peer, family) => self.request_refresh(peer, family),
            Input::Reset(peer, reset) => self.reset(peer, reset, now),
            Input::Shutdown { graceful } => self.shutdown(graceful, now),
            Input::Tick => self.tick(now),
        }
    }

    /// When [`Input::Tick`] is due, `None` if nothing waits for time.
    pub fn next_deadline(&self) -> Option<Instant> {
        let neighbors = self.neighbors.values().filter_map(Neighbor::next_deadline);
        let groups = self.tables.values().filter_map(|table| table.groups.next_deadline());
        let settle = self.unsettled_since.map(|since| since + SETTLE_MS);
        let own = [self.restart.deadline, settle, self.reclaim_at].into_iter().flatten();
        neighbors.chain(groups).chain(own).min()
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
    fn settle_now(&mut self, now: Instant) {
        self.unsettled_since = None;
        self.dismiss(now);
        let done = self.end_deferral(now);
        self.decide_all();
        self.out.extend(done.into_iter().map(|(instance, family)| Output::SelectionDone(instance, family)));
        self.advertise_all(now);
        self.reclaim(now);
    }

    /// Frees what routes without paths take, some time after there were many: they may come again, or all may go.
    fn reclaim(&mut self, now: Instant) {
        if self.reclaim_at.is_some_and(|at| at <= now) {
            self.reclaim_at = None;
            self.tables.values_mut().for_each(Table::reclaim);
        } else if self.reclaim_at.is_none() && self.tables.values().any(Table::has_ghosts) {
            self.reclaim_at = Some(now + RECLAIM_MS);
        }
    }

    /// Decides and reports.
    fn decide_all(&mut self) {
        let mut changed = Vec::new();
        for (&(instance, _), table) in &mut self.tables {
            changed.clear();
            table.decide(&mut changed);
            if self.silent.contains(&instance) {
                continue;
            }
            self.out.extend(changed.iter().map(|at| {
                let (key, best) = (table.rib.key(*at), table.rib.best(*at));
                Output::BestChanged { instance, key, best }
            }));
        }
    }

    fn set_report(&mut self, instance: InstanceId, report: bool) {
        // What is still undecided is reported as long as anything of the instance is.
        self.decide_all();
        let changed = if report { self.silent.remove(&instance) } else { self.silent.insert(instance) };
        if !changed {
            return;
        }
        for (_, table) in
            self.tables.iter_mut().filter(|((of, _), table)| *of == instance && !table.deferring)
        {
            for (key, at) in table.rib.page(None, usize::MAX) {
                let best = table.rib.best(at).filter(|_| report);
                self.out.push(Output::BestChanged { instance, key, best });
            }
        }
    }

    fn originate(&mut self, instance: InstanceId, nlri: &Nlri, attrs: &PathAttributes) {
        let advertiser = Advertiser {
            local: true,
            internal: false,
            client: false,
            router_id: self.config.router_id,
            address: self.config.router_id.0.into(),
        };
        let rib = &mut self.table(instance, nlri.key.family()).rib;
        let source = rib.teller(Source::Local, advertiser);
        let set = rib.sets.intern(attrs, &nlri.data);
        rib.insert(&nlri.key, PathId::default(), set, source, None);
    }

    /// The table, made when first asked for; while we restart it defers its selection.
    fn table(&mut self, instance: InstanceId, family: Family) -> &mut Table {
        let (deferring, seed) = (self.restart.deadline.is_some(), self.config.seed);
        self.tables.entry((instance, family)).or_insert_with(|| Table::new(family, deferring, seed))
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
