//! The task that carries facts to and fro: it wakes when BGP, the datapath or the operator has news, and
//! looks at everything again every second, because an event is a hint and the table is the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use watari_bgp::evpn::mobility::DampingLimits;
use watari_bgp::nlri::Key;
use watari_bgp::speaker::{RestartConfig, Source, SpeakerConfig};
use watari_bgp::types::{Family, InstanceId, MacAddr, RouterId};
use watari_config::{Desired, Vni};
use watari_dataplane::{Dataplane, EventKind, Events as RingEvents};

use super::fabric::{EVPN, Fabric};
use super::hosts::{Decision, Hosts, Notice, Subject};
use super::import::{Imported, Routes, import};
use super::kernel::KernelRoutes;
use super::originate::{Learnt, Originated, announced_nodes, originate, pinned_stations};
use super::peers::{Numbers, neighbours};
use super::tables::{self, MayRemove};
use super::{Board, show};
use crate::bgp::{Batch, Bgp, LocalChange, PeerSettings, Updates};
use crate::brain::Brain;
use crate::drivers::DriverError;
use crate::loops::LoopGuard;

/// How often everything is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long peers may take to tell everything again after our restart (RFC 4724 section 4.1).
const SELECTION_DEFERRAL: Duration = Duration::from_secs(60);
/// Events taken from the ring in one go.
const RING_BATCH_MAX: usize = 512;

/// What wakes the task.
pub(super) struct Sources {
    pub(super) stop: watch::Receiver<bool>,
    pub(super) updates: Updates,
    pub(super) ring: AsyncFd<RingEvents>,
}

/// The facts of this gateway.
pub(super) struct Task {
    brain: Arc<Brain>,
    maps: Arc<Dataplane>,
    board: Board,
    guard: Arc<LoopGuard>,
    bgp: Bgp,
    /// Best routes by instance.
    best: BTreeMap<InstanceId, Routes>,
    hosts: Hosts,
    originated: Originated,
    numbers: Numbers,
    peers: BTreeMap<watari_bgp::types::PeerId, PeerSettings>,
    kernel: KernelRoutes,
    /// Tables with neighbours that are still to be told again after our restart; empty when nothing is stale.
    awaiting: BTreeSet<(InstanceId, Family)>,
    started: Instant,
    is_restart: bool,
    told_local: bool,
    last_error: Option<String>,
    /// Tables that are full and were said to be.
    full: BTreeSet<&'static str>,
}

/// The speaker's configuration for this gateway.
pub(super) fn speaker_config(desired: &Desired) -> Option<SpeakerConfig> {
    let identifier = desired.gateway()?.bgp_identifier()?;
    let mut seed = [0; 8];
    // Jitter need not be unpredictable: without randomness it is only less even.
    let _ = getrandom::fill(&mut seed);
    Some(SpeakerConfig { router_id: RouterId(identifier), seed: u64::from_ne_bytes(seed) })
}

impl Task {
    pub(super) async fn new(
        brain: Arc<Brain>,
        maps: Arc<Dataplane>,
        board: Board,
        guard: Arc<LoopGuard>,
        bgp: Bgp,
        is_restart: bool,
    ) -> Self {
        if is_restart {
            let restart = RestartConfig {
                forwarding_preserved: true,
                selection_deferral_ms: SELECTION_DEFERRAL.as_millis() as u64,
            };
            let _ = bgp.start_restart(restart).await;
        }
        Self {
            brain,
            maps,
            board,
            guard,
            bgp,
            best: BTreeMap::new(),
            hosts: Hosts::new(Ipv4Addr::UNSPECIFIED.into(), DampingLimits::default()),
            originated: Originated::new(),
            numbers: Numbers::default(),
            peers: BTreeMap::new(),
            kernel: KernelRoutes::default(),
            awaiting: BTreeSet::new(),
            started: Instant::now(),
            is_restart,
            told_local: false,
            last_error: None,
            full: BTreeSet::new(),
        }
    }

    /// Runs until `stop`; then closes the sessions so that the peers keep our routes.
    pub(super) async fn run(mut self, mut sources: Sources) {
        let mut head = self.brain.watch_desired();
        let Some(mut clears) = self.brain.take_clears() else { return };
        let mut tick = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                biased;
                () = crate::run::stopped(&mut sources.stop) => break,
                batch = sources.updates.next() => match batch {
                    Some(batch) => self.take(batch),
                    None => break,
                },
                ready = sources.ring.readable_mut() => if let Ok(mut ready) = ready {
                    let has_news = self.drain(ready.get_inner_mut());
                    ready.clear_ready();
                    if !has_news {
                        continue;
                    }
                },
                changed = head.changed() => if changed.is_err() { break },
                // Who was learnt on an attachment that is blocked now is forgotten at once.
                () = self.guard.cut.notified() => {}
                Some(clear) = clears.recv() => {
                    let was_frozen = self.hosts.clear(clear.subject);
                    // A caller that went away wants no answer.
                    let _ = clear.reply.send(was_frozen);
                }
                _ = tick.tick() => {}
            }
            let desired = head.borrow_and_update().desired.clone();
            let done = self.turn(&desired).await;
            self.note(done);
        }
        let _ = self.bgp.shutdown(true).await;
    }

    /// Takes what the speaker has to tell.
    fn take(&mut self, batch: Batch) {
        for ((instance, key), best) in batch.best {
            let routes = self.best.entry(instance).or_default();
            match best {
                Some(best) => drop(routes.insert(key, best)),
                None => drop(routes.remove(&key)),
            }
        }
        for change in batch.peers {
            let path = self.numbers.path(change.peer).unwrap_or("peer").to_owned();
            let reason = change.reason.map(|r| format!(": {r}")).unwrap_or_default();
            tracing::info!(path, old = ?change.old, new = ?change.new, reason, "bgp session");
            if change.new == watari_bgp::State::Established || change.old == watari_bgp::State::Established {
                let message = format!("{:?} -> {:?}{reason}", change.old, change.new);
                self.brain.events().emit("bgp", path, message);
            }
        }
        for (instance, family) in batch.selection_done {
            tracing::info!(?instance, ?family, "best paths are selected after the restart");
            self.awaiting.remove(&(instance, family));
        }
    }

    /// Takes the datapath's events; what an operator should know becomes an event of the gateway. False when the tables
    /// need no look: beacons come as long as a loop lasts.
    fn drain(&mut self, ring: &mut RingEvents) -> bool {
        let mut has_news = false;
        for _ in 0..RING_BATCH_MAX {
            let Some(event) = ring.take() else { return has_news };
            let Some(kind) = EventKind::from_u8(event.kind) else { continue };
            if kind == EventKind::Beacon {
                self.guard.seen(&event);
                continue;
            }
            has_news = true;
            if let (EventKind::MacMoved, Ok(vni)) = (kind, Vni::new(event.vni)) {
                self.hosts.port_moved((vni, MacAddr(event.mac)));
            }
            let worth_telling = matches!(
                kind,
                EventKind::MacTableFull
                    | EventKind::NeighbourTableFull
                    | EventKind::NeighbourSpoofed
                    | EventKind::OwnMacSeen
            );
            if worth_telling {
                self.brain.events().emit("datapath", format!("vni {}", event.vni), kind.name());
            }
        }
        has_news
    }

    async fn turn(&mut self, desired: &Desired) -> Result<(), DriverError> {
        self.guard.unsettled().into_iter().for_each(|vni| self.hosts.forgive(vni));
        self.set_peers(desired).await;
        let Some(fabric) = Fabric::new(desired) else {
            let nothing = Imported::default();
            let all = MayRemove { evpn: true, unicast: true };
            return tables::write(&self.maps, &nothing, &Decision::default(), &BTreeSet::new(), all);
        };
        let may_remove = self.may_remove();
        let now_ns = boot_time_ns();
        let now = watari_bgp::Instant::from_millis(now_ns / 1_000_000);
        let mut seen = tables::read_local(&self.maps, &fabric.ages_ns, &self.guard.take_parted(), now_ns)?;
        let empty = Routes::new();
        let imported = import(&fabric, self.best.get(&EVPN).unwrap_or(&empty));
        seen.pinned = pinned_stations(desired);
        self.hosts.set_vtep(fabric.vtep);
        let decision = self.hosts.decide(now, &seen, &imported.claims);
        tables::forget(&self.maps, &decision)?;
        self.tell_notices(&decision.notices);
        let [kept_campus, kept_fabric] = tables::kept(&self.maps, may_remove)?;
        let learnt = Learnt {
            stations: decision.advertise.clone(),
            addresses: decision.addresses.clone(),
            campus: self.campus(&fabric).union(&kept_campus).copied().collect(),
            fabric: imported.prefixes.keys().chain(&kept_fabric).copied().collect(),
        };
        self.tell(originate(desired, &fabric, &learnt)).await;
        // What could not be written keeps nothing else from its place, and the facts from nobody.
        let written = tables::write(&self.maps, &imported, &decision, &learnt.campus, may_remove);
        let routed = self.kernel.sync(desired, &fabric.tenants, &self.best, &imported, may_remove).await;
        let shown = show::Shown {
            desired,
            seen: &seen,
            maps: &self.maps,
            learnt: &learnt,
            imported: &imported,
            best: &self.best,
            hosts: &self.hosts,
            now,
        };
        let mut facts = show::facts(&shown);
        facts["announced"] = serde_json::json!(announced_nodes(desired, &fabric, &self.originated));
        show::bgp(&mut facts, &self.bgp, &self.numbers, self.is_restart, !self.awaiting.is_empty()).await;
        self.board.write(facts);
        self.tell_full_tables();
        written.and(routed)
    }

    /// Tells an operator what was frozen, freed or pinned elsewhere.
    fn tell_notices(&self, notices: &[Notice]) {
        let object = |subject: &Subject| format!("duplicates.{}.{subject}", subject.vni());
        for notice in notices {
            match notice {
                Notice::Frozen(subject) => {
                    let found = self.hosts.duplicates().find(|d| d.subject == *subject);
                    let reason = found.map(|d| show::reason(&d)).unwrap_or_default();
                    self.brain.events().emit("duplicate", object(subject), reason);
                }
                Notice::Thawed(subject) => {
                    self.brain.events().emit("duplicate", object(subject), "free again, by time");
                }
                Notice::Pinned(subject, vtep) => {
                    let message = format!("learnt here, pinned by gateway {vtep}: not advertised");
                    self.brain.events().emit("pinned", object(subject), message);
                }
                Notice::PinnedTwice(subject, vtep) => {
                    let message = format!("pinned here and by gateway {vtep}");
                    self.brain.events().emit("pinned", object(subject), message);
                }
            }
        }
    }

    fn may_remove(&mut self) -> MayRemove {
        if self.started.elapsed() > SELECTION_DEFERRAL {
            self.awaiting.clear();
        }
        let is_evpn = |(_, family): &(InstanceId, Family)| *family == Family::L2vpnEvpn;
        MayRemove { evpn: !self.awaiting.iter().any(is_evpn), unicast: self.awaiting.iter().all(is_evpn) }
    }

    async fn set_peers(&mut self, desired: &Desired) {
        let mut wanted = neighbours(desired, &mut self.numbers);
        // A session can only live where its namespace is: the plan makes that, a moment later.
        wanted.retain(|_, peer| peer.netns.as_ref().is_none_or(|path| path.exists()));
        if self.is_restart && !self.told_local {
            let tables = wanted.values().map(|p| &p.config);
            let tables = tables.flat_map(|c| c.families.iter().map(|f| (c.instance, *f)));
            self.awaiting = tables.collect();
        }
        if wanted != self.peers {
            let _ = self.bgp.set_peers(wanted.clone()).await;
            self.peers = wanted;
        }
    }

    /// Prefixes that campus routers told us.
    fn campus(&self, fabric: &Fabric) -> BTreeSet<(Vni, ipnet::IpNet)> {
        let mut campus = BTreeSet::new();
        for l3vni in fabric.tenants.keys() {
            let Some(routes) = self.best.get(&InstanceId(l3vni.get())) else { continue };
            let learnt = routes.iter().filter(|(_, best)| best.source != Source::Local);
            campus.extend(learnt.filter_map(|(key, _)| Some((*l3vni, key.as_prefix()?))));
        }
        campus
    }

    /// Tells the speaker what changed of our own routes.
    async fn tell(&mut self, wanted: Originated) {
        let mut changes = Vec::new();
        for (id, (nlri, attrs)) in &wanted {
            if self.originated.get(id) != Some(&(nlri.clone(), attrs.clone())) {
                changes.push(LocalChange::Originate(id.0, nlri.clone(), Box::new(attrs.clone())));
            }
        }
        let gone: Vec<(InstanceId, Key)> =
            self.originated.keys().filter(|id| !wanted.contains_key(*id)).cloned().collect();
        changes.extend(gone.into_iter().map(|(instance, key)| LocalChange::Withdraw(instance, key)));
        if !changes.is_empty() && self.bgp.apply(changes).await.is_ok() {
            self.originated = wanted;
        }
        if self.is_restart && !std::mem::replace(&mut self.told_local, true) {
            let _ = self.bgp.local_routes_complete().await;
        }
    }

    /// An event for each table of the datapath that has become full, whoever fills it, or has room again.
    fn tell_full_tables(&mut self) {
        let Ok(levels) = self.maps.fill_levels() else { return };
        for level in levels {
            let (table, limit) = (level.map, level.limit);
            let is_full = level.entries >= limit;
            if is_full && self.full.insert(table) {
                let message = format!("table {table} is full: its limit is {limit} entries");
                self.brain.events().emit("table-full", "datapath", message);
            } else if !is_full && self.full.remove(table) {
                self.brain.events().emit("recovered", "datapath", format!("table {table} has room again"));
            }
        }
    }

    /// Says what went wrong, once.
    fn note(&mut self, done: Result<(), DriverError>) {
        let message = done.err().map(|e| e.to_string());
        if let Some(message) = message.as_ref().filter(|m| self.last_error.as_ref() != Some(*m)) {
            tracing::warn!(%message, "facts could not be written");
            self.brain.events().emit("failed", "facts", message.clone());
        }
        self.last_error = message;
    }
}

/// The clock of the datapath's tables: it also runs while the machine sleeps.
fn boot_time_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}
