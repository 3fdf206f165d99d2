//! What can be asked of the speaker; nothing here changes anything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::attrs::PathAttributes;
use crate::nlri::{Key, NlriData};
use crate::peer::Negotiated;
use crate::rib::{Path, PathCounts, Reason, RejectReason, Rib, Table, told_as};
use crate::session::{DownReason, State};
use crate::time::Instant;
use crate::types::{Asn, Family, InstanceId, PathId, PeerId};

use super::Speaker;
use super::io::{Best, Source};
use super::neighbor::Neighbor;

/// A neighbour at a glance.
#[derive(Clone, Debug)]
pub struct PeerSummary {
    /// The peer.
    pub peer: PeerId,
    /// Whose tables it sees.
    pub instance: InstanceId,
    /// Its address.
    pub remote_addr: IpAddr,
    /// Its AS; 0 where it has not said it.
    pub remote_asn: Asn,
    /// Of a dynamic neighbour: those that may come, as one peer.
    pub dynamic_of: Option<PeerId>,
    /// The operator keeps it down.
    pub disabled: bool,
    /// Session state.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Why it last went down.
    pub last_down: Option<DownReason>,
    /// What was negotiated, when established.
    pub negotiated: Option<Negotiated>,
    /// Paths received and kept, rejected ones included.
    pub received: usize,
    /// Of these, rejected.
    pub rejected: usize,
    /// Of these, stale.
    pub stale: usize,
    /// Routes advertised to it.
    pub advertised: usize,
    /// Messages received, since the session was established.
    pub messages_in: u64,
    /// Messages sent, since the session was established.
    pub messages_out: u64,
    /// UPDATEs treated as withdrawals or with a discarded attribute (RFC 7606).
    pub malformed_updates: u64,
    /// Paths that were not kept because there were too many of their route, since the session was established.
    pub paths_left_out: u64,
}

/// A path of a key.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Where it came from.
    pub source: Source,
    /// Which of its neighbour's paths of the route it is (RFC 7911); 0 without an identifier.
    pub path_id: PathId,
    /// Under which identifier it goes to neighbours that are told several paths.
    pub told_as: PathId,
    /// Attributes.
    pub attrs: Arc<PathAttributes>,
    /// Labels, ESI and gateway of an EVPN route.
    pub data: NlriData,
    /// Kept while its peer restarts.
    pub stale: bool,
    /// Why it does not take part in the decision.
    pub rejected: Option<RejectReason>,
    /// The step of the decision at which it lost against the selected path, of those that took part.
    pub lost_at: Option<Reason>,
}

/// Everything known about one key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// All paths.
    pub candidates: Vec<Candidate>,
    /// Index of the selected one.
    pub best: Option<usize>,
    /// What made it win.
    pub reason: Option<Reason>,
}

/// A route as advertised to a peer.
#[derive(Clone, Debug)]
pub struct Advertised {
    /// The key.
    pub key: Key,
    /// With which path identifier, if with any (RFC 7911).
    pub path_id: Option<PathId>,
    /// Attributes as on the wire.
    pub attrs: Arc<PathAttributes>,
    /// Labels, ESI and gateway of an EVPN route.
    pub data: NlriData,
}

/// A row of a table dump.
#[derive(Clone, Debug)]
pub struct TableRow {
    /// The key.
    pub key: Key,
    /// The selected path.
    pub best: Best,
    /// How many paths there are.
    pub candidates: usize,
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// The family.
    pub family: Family,
    /// From the first key after this one.
    pub after: Option<&'a Key>,
    /// At most so many.
    pub limit: usize,
}

impl Page<'_> {
    /// The part that is wanted, in key order; of the rest no more than the part's size is kept meanwhile.
    fn cut<T>(&self, rows: impl Iterator<Item = (Key, T)>) -> Vec<(Key, T)> {
        let mut first: BTreeMap<Key, T> = BTreeMap::new();
        for (key, value) in rows.filter(|(key, _)| self.after.is_none_or(|after| key > after)) {
            if first.len() < self.limit || first.last_key_value().is_some_and(|(last, _)| key < *last) {
                first.insert(key, value);
                if first.len() > self.limit {
                    first.pop_last();
                }
            }
        }
        first.into_iter().collect()
    }
}

impl Speaker {
    /// Every neighbour.
    pub fn peers(&self) -> Vec<PeerSummary> {
        self.neighbors.iter().map(|(peer, neighbor)| self.summary(*peer, neighbor)).collect()
    }

    /// Dynamic neighbours: each with those that may come, as one peer, and its address.
    pub fn dynamic_peers(&self) -> impl Iterator<Item = (PeerId, PeerId, IpAddr)> {
        let dynamic = |n: &Neighbor| Some((n.config.dynamic.as_ref()?.of, n.config.remote_addr));
        self.neighbors
            .iter()
            .filter_map(move |(peer, n)| dynamic(n).map(|(of, address)| (*peer, of, address)))
    }

    /// One neighbour.
    pub fn peer(&self, peer: PeerId) -> Option<PeerSummary> {
        self.neighbors.get(&peer).map(|neighbor| self.summary(peer, neighbor))
    }

    /// The selected paths of a table in key order, from the first key after `after`, at most `limit`.
    pub fn table_rows(
        &self,
        instance: InstanceId,
        family: Family,
        after: Option<&Key>,
        limit: usize,
    ) -> Vec<TableRow> {
        let Some(table) = self.tables.get(&(instance, family)) else { return Vec::new() };
        let rib = &table.rib;
        let row = |(key, at): (Key, u32)| TableRow {
            key,
            best: best(rib, rib.selected(at)),
            candidates: rib.paths(at).len(),
        };
        rib.page(after, limit).into_iter().map(row).collect()
    }

    /// Everything known about one key.
    pub fn entry(&self, instance: InstanceId, key: &Key) -> Option<Entry> {
        let rib = &self.tables.get(&(instance, key.family()))?.rib;
        let at = rib.find(key).filter(|at| !rib.paths(*at).is_empty())?;
        Some(Entry {
            key: key.clone(),
            candidates: (0..).zip(rib.paths(at)).map(|(i, path)| self.contender(rib, at, i, *path)).collect(),
            best: rib.selected(at).is_some().then_some(0),
            reason: rib.reason(at),
        })
    }

    fn candidate(&self, rib: &Rib, at: u32, path: Path) -> Candidate {
        let Best { attrs, data, source, stale } = best(rib, path);
        let local_asn = match source {
            Source::Peer(peer) => self.neighbors.get(&peer).map(|n| n.config.local_asn),
            Source::Local => None,
        };
        let rejected = path.rejected().map(|rejected| rejected.reason(local_asn.unwrap_or_default()));
        let (path_id, told_as) = (rib.path_id(at, path), told_as(path.source()));
        Candidate { source, path_id, told_as, attrs, data, stale, rejected, lost_at: None }
    }

    fn contender(&self, rib: &Rib, at: u32, index: usize, path: Path) -> Candidate {
        Candidate { lost_at: rib.lost_at(at, index), ..self.candidate(rib, at, path) }
    }

    /// A page of what a neighbour sent of a family, rejected paths included or alone: in key order, from the first key
    /// after `after`, at most `limit` keys with all its paths of each.
    pub fn received_page(&self, peer: PeerId, page: &Page<'_>, rejected_only: bool) -> Vec<(Key, Candidate)> {
        let Some(neighbor) = self.neighbors.get(&peer) else { return Vec::new() };
        let Some(table) = self.tables.get(&(neighbor.config.instance, page.family)) else {
            return Vec::new();
        };
        let rib = &table.rib;
        let is_wanted =
            |p: &Path| rib.source_of(*p) == Source::Peer(peer) && (!rejected_only || p.rejected().is_some());
        let told = rib.occupied().filter(|at| rib.paths(*at).iter().any(is_wanted));
        let rows = page.cut(told.map(|at| (rib.key(at), at))).into_iter();
        rows.flat_map(|(key, at)| {
            let paths = (0..).zip(rib.paths(at)).filter(|(_, path)| is_wanted(path));
            paths.map(move |(index, path)| (key.clone(), self.contender(rib, at, index, *path)))
        })
        .collect()
    }

    /// A page of what a neighbour was sent of a family, in key order; of every key on it all paths.
    pub fn advertised_page(&self, peer: PeerId, page: &Page<'_>) -> Vec<Advertised> {
        let Some(neighbor) = self.neighbors.get(&peer) else { return Vec::new() };
        let Some(table) = self.tables.get(&(neighbor.config.instance, page.family)) else {
            return Vec::new();
        };
        let rib = &table.rib;
        let told = table.groups.advertised(rib, peer);
        let mut by_route: BTreeMap<u32, Vec<Path>> = BTreeMap::new();
        told.into_iter().for_each(|(at, path)| by_route.entry(at).or_default().push(path));
        let rows = page.cut(by_route.into_iter().map(|(at, paths)| (rib.key(at), paths)));
        let rows = rows.into_iter().flat_map(|(key, paths)| paths.into_iter().map(move |p| (key.clone(), p)));
        rows.map(|(key, path)| told_row(table, peer, key, path)).collect()
    }

    /// What a neighbour was sent of a family, in key order.
    pub fn advertised(&self, peer: PeerId, family: Family) -> Vec<Advertised> {
        let Some(neighbor) = self.neighbors.get(&peer) else { return Vec::new() };
        let Some(table) = self.tables.get(&(neighbor.config.instance, family)) else { return Vec::new() };
        let rib = &table.rib;
        let row = |(at, path): (u32, Path)| told_row(table, peer, rib.key(at), path);
        let mut rows: Vec<Advertised> = table.groups.advertised(rib, peer).into_iter().map(row).collect();
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        rows
    }

    /// What a neighbour sent of a family, rejected paths included, in key order.
    pub fn received(&self, peer: PeerId, family: Family) -> Vec<(Key, Candidate)> {
        let Some(neighbor) = self.neighbors.get(&peer) else { return Vec::new() };
        let Some(table) = self.tables.get(&(neighbor.config.instance, family)) else { return Vec::new() };
        let rib = &table.rib;
        let mine = |path: &&Path| rib.source_of(**path) == Source::Peer(peer);
        let told =
            rib.occupied().flat_map(|at| rib.paths(at).iter().filter(mine).map(move |path| (at, path)));
        let mut rows: Vec<_> = told.map(|(at, path)| (rib.key(at), self.candidate(rib, at, *path))).collect();
        rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        rows
    }

    /// Whether any table still defers its selection after a restart of ours.
    pub fn is_restarting(&self) -> bool {
        self.tables.values().any(|t| t.deferring)
    }

    /// How many paths of a family a neighbour has.
    pub(super) fn paths_of(&self, peer: PeerId, family: Family) -> usize {
        let Some(neighbor) = self.neighbors.get(&peer) else { return 0 };
        let table = self.tables.get(&(neighbor.config.instance, family));
        table.map_or(0, |t| t.rib.counts(Source::Peer(peer)).paths)
    }

    /// How many paths of a neighbour there are.
    pub(super) fn counts(&self, peer: PeerId, neighbor: &Neighbor) -> PathCounts {
        let mut sum = PathCounts::default();
        for family in Family::ALL {
            if let Some(table) = self.tables.get(&(neighbor.config.instance, family)) {
                sum += table.rib.counts(Source::Peer(peer));
            }
        }
        sum
    }

    fn advertised_len(&self, peer: PeerId, neighbor: &Neighbor) -> usize {
        let tables = Family::ALL.iter().filter_map(|f| self.tables.get(&(neighbor.config.instance, *f)));
        tables.map(|table| table.groups.advertised_len(&table.rib, peer)).sum()
    }

    fn summary(&self, peer: PeerId, neighbor: &Neighbor) -> PeerSummary {
        let counts = self.counts(peer, neighbor);
        let live = neighbor.live.as_ref();
        let (messages_in, messages_out) = neighbor.session.messages;
        PeerSummary {
            peer,
            instance: neighbor.config.instance,
            remote_addr: neighbor.config.remote_addr,
            remote_asn: neighbor.config.remote_asn,
            dynamic_of: neighbor.config.dynamic.as_ref().map(|dynamic| dynamic.of),
            disabled: neighbor.config.admin_down.is_some(),
            state: neighbor.session.state(),
            since: neighbor.since,
            last_down: neighbor.last_down.clone(),
            negotiated: live.map(|l| l.negotiated.clone()),
            received: counts.paths,
            rejected: counts.rejected,
            stale: counts.stale,
            advertised: self.advertised_len(peer, neighbor),
            messages_in,
            messages_out,
            malformed_updates: neighbor.malformed_updates,
            paths_left_out: neighbor.paths_left_out,
        }
    }
}

fn told_row(table: &Table, peer: PeerId, key: Key, path: Path) -> Advertised {
    Advertised {
        key,
        path_id: table.groups.is_told_several(peer).then(|| told_as(path.source())),
        attrs: Arc::new(table.groups.attributes(&table.rib, peer, path)),
        data: table.rib.sets.data(path.set),
    }
}

fn best(rib: &Rib, path: Path) -> Best {
    Best {
        attrs: rib.sets.attributes(path.set),
        data: rib.sets.data(path.set),
        source: rib.source_of(path),
        stale: path.is_stale(),
    }
}
