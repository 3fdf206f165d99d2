//! The task that carries facts to and fro: it wakes when BGP, the datapath or the operator has news, takes them by
//! key, and carries what is dirty ([`super::settle`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use watari_bgp::Reset;
use watari_bgp::evpn::mobility::DampingLimits;
use watari_bgp::nlri::Key;
use watari_bgp::speaker::{Best, RestartConfig, Source, SpeakerConfig};
use watari_bgp::types::{Family, InstanceId, MacAddr, RouterId};
use watari_config::{Desired, Name, Vni};
use watari_dataplane::abi::ip_from_bytes;
use watari_dataplane::{Dataplane, Event, EventKind, Events as RingEvents, Prefix};

use super::Board;
use super::ask_bgp::{self, Question};
use super::fabric::{EVPN, Fabric};
use super::freezes::Freezes;
use super::hosts::Hosts;
use super::import::{Changed, Imported, Routes, TenantPrefix, import};
use super::kernel::KernelRoutes;
use super::local::{Age, Local};
use super::originate::pinned_stations;
use super::passwords::Passwords;
use super::peers::{Numbers, exchanges, neighbours};
use super::refused::{self, Refusals};
use super::tables::{Kept, MayRemove};
use super::told::Told;
use crate::bgp::{Batch, Bgp, PeerSettings, Updates};
use crate::brain::{Brain, NotReset, Order};
use crate::drivers::DriverError;
use crate::link_watch::PathDown;
use crate::loops::LoopGuard;
use crate::pace::Pace;

/// How often the neighbours are looked at, and what is small is pinned up.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The share of a core that a walk of what the programs learnt may take: one part in so many.
const WALK_SHARE: u32 = 500;
/// The same for the comparison of our tables with what they should hold.
const COMPARE_SHARE: u32 = 1000;
/// The same for the count of all entries.
const FILL_SHARE: u32 = 2000;
/// The same for routes in the kernel, of which most of the time is waited for.
const KERNEL_SHARE: u32 = 100;
/// How long peers may take to tell everything again after our restart (RFC 4724 section 4.1).
pub(super) const SELECTION_DEFERRAL: Duration = Duration::from_secs(60);
/// How long after our restart neighbours that come by themselves may take until they are known again: BIRD and FRR connect again
/// after some seconds.
pub(super) const RETURN: Duration = Duration::from_secs(15);
/// Events taken from the ring in one go.
const RING_BATCH_MAX: usize = 512;

/// What wakes the task.
pub(super) struct Sources {
    pub(super) stop: watch::Receiver<bool>,
    pub(super) updates: Updates,
    pub(super) ring: AsyncFd<RingEvents>,
    /// What BFD found.
    pub(super) paths: mpsc::Receiver<PathDown>,
}

/// The facts of this gateway.
pub(super) struct Task {
    pub(super) brain: Arc<Brain>,
    pub(super) maps: Arc<Dataplane>,
    pub(super) board: Board,
    pub(super) guard: Arc<LoopGuard>,
    pub(super) bgp: Bgp,
    pub(super) desired: Arc<Desired>,
    pub(super) fabric: Option<Arc<Fabric>>,
    /// The desired state has changed since our own routes were last told whole.
    pub(super) is_plan_new: bool,
    /// Best routes of others by instance.
    pub(super) best: BTreeMap<InstanceId, Routes>,
    pub(super) imported: Imported,
    pub(super) campus: BTreeSet<TenantPrefix>,
    pub(super) kept: Kept,
    pub(super) local: Local,
    pub(super) hosts: Hosts,
    pub(super) freezes: Freezes,
    /// What is dirty.
    pub(super) changed: Changed,
    /// Prefixes of which the plan has routes, when the tables were last compared.
    pub(super) plans: BTreeSet<Prefix>,
    pub(super) told: Told,
    pub(super) announced: Vec<Name>,
    pub(super) numbers: Numbers,
    pub(super) peers: BTreeMap<watari_bgp::types::PeerId, PeerSettings>,
    /// Instances whose routes are for their peers alone.
    pub(super) exchanges: BTreeSet<InstanceId>,
    pub(super) passwords: Passwords,
    pub(super) kernel: KernelRoutes,
    /// Tables with neighbours that are still to be told again after our restart; empty when nothing is stale.
    pub(super) awaiting: BTreeSet<(InstanceId, Family)>,
    pub(super) may_remove: MayRemove,
    pub(super) walk: Pace,
    pub(super) compare: Pace,
    pub(super) kernel_sync: Pace,
    pub(super) started: Instant,
    pub(super) is_restart: bool,
    pub(super) told_local: bool,
    pub(super) last_error: Option<String>,
    pub(super) fill: Pace,
    /// Tables that are full and were said to be.
    pub(super) full: BTreeSet<&'static str>,
    pub(super) refusals: Refusals,
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
        mut freezes: Freezes,
        is_restart: bool,
    ) -> Self {
        let mut hosts = Hosts::new(Ipv4Addr::UNSPECIFIED.into(), DampingLimits::default());
        if is_restart {
            freezes.read().into_iter().for_each(|freeze| hosts.restore(freeze));
        }
        if is_restart {
            let restart = RestartConfig {
                forwarding_preserved: true,
                selection_deferral_ms: SELECTION_DEFERRAL.as_millis() as u64,
            };
            let _ = bgp.start_restart(restart).await;
        }
        Self {
            desired: brain.desired(),
            brain,
            maps,
            board,
            guard,
            bgp,
            fabric: None,
            is_plan_new: true,
            best: BTreeMap::new(),
            imported: Imported::default(),
            campus: BTreeSet::new(),
            kept: Kept::default(),
            local: Local::default(),
            hosts,
            freezes,
            changed: Changed::default(),
            plans: BTreeSet::new(),
            told: Told::default(),
            announced: Vec::new(),
            numbers: Numbers::default(),
            peers: BTreeMap::new(),
            exchanges: BTreeSet::new(),
            passwords: Passwords::default(),
            kernel: KernelRoutes::default(),
            awaiting: BTreeSet::new(),
            may_remove: MayRemove::ALL,
            walk: Pace::new(WALK_SHARE),
            compare: Pace::new(COMPARE_SHARE),
            kernel_sync: Pace::new(KERNEL_SHARE),
            started: Instant::now(),
            is_restart,
            told_local: false,
            last_error: None,
            fill: Pace::new(FILL_SHARE),
            full: BTreeSet::new(),
            refusals: Refusals::default(),
        }
    }

    /// Runs until `stop`; then closes the sessions so that the peers keep our routes.
    pub(super) async fn run(mut self, mut sources: Sources) {
        let mut head = self.brain.watch_desired();
        let Some(mut orders) = self.brain.take_orders() else { return };
        let Some(mut asks) = self.brain.take_asks() else { return };
        let mut tick = tokio::time::interval(LOOK_EVERY);
        head.mark_changed();
        loop {
            let mut read = Ok(());
            tokio::select! {
                biased;
                () = crate::run::stopped(&mut sources.stop) => break,
                changed = head.changed() => match changed {
                    Ok(()) => {
                        let desired = head.borrow_and_update().desired.clone();
                        self.plan(desired).await;
                    }
                    Err(_) => break,
                },
                // Before what the lost session leads to.
                Some(down) = sources.paths.recv() => {
                    self.path_down(down).await;
                    continue;
                }
                batch = sources.updates.next() => match batch {
                    Some(batch) => self.take(batch),
                    None => break,
                },
                ready = sources.ring.readable_mut() => if let Ok(mut ready) = ready {
                    let (has_news, is_empty, hints) = self.drain(ready.get_inner_mut());
                    if is_empty {
                        ready.clear_ready();
                    }
                    if !has_news {
                        continue;
                    }
                    read = hints;
                },
                // Who was learnt on an attachment that is blocked now is forgotten at once.
                () = self.guard.cut.notified() => self.walk.hurry(),
                // A caller that went away wants no answer.
                Some(order) = orders.recv() => match order {
                    Order::Clear { subject, reply } => drop(reply.send(self.hosts.clear(subject))),
                    Order::Reset { neighbour, reset, reply } => {
                        let _ = reply.send(self.reset(neighbour, reset).await);
                        continue;
                    }
                },
                Some(ask) = asks.recv() => {
                    let answer = match ask.question {
                        None => self.facts().await,
                        Some(question) => self.ask_bgp(question).await,
                    };
                    let _ = ask.reply.send(answer);
                    continue;
                }
                _ = tick.tick() => {
                    self.set_peers().await;
                    self.pin_up().await;
                    self.tell_full_tables();
                }
                () = tokio::time::sleep_until(self.due().into()) => {}
            }
            let settled = self.settle().await;
            self.note(read.and(settled));
        }
        let _ = self.bgp.shutdown(true).await;
    }

    /// When the next of the tables is to be walked.
    fn due(&self) -> Instant {
        self.walk.due().min(self.compare.due()).min(self.kernel_sync.due())
    }

    /// Takes a new desired state. Where it means another fabric, everything that was told is read anew.
    async fn plan(&mut self, desired: Arc<Desired>) {
        self.desired = desired;
        self.is_plan_new = true;
        self.kernel_sync.hurry();
        self.local.pin(pinned_stations(&self.desired), &mut self.changed.hosts);
        let fabric = Fabric::new(&self.desired).map(Arc::new);
        if fabric != self.fabric {
            self.fabric = fabric;
            self.imported = Imported::default();
            self.campus.clear();
            if let Some(fabric) = &self.fabric {
                self.imported = self.best.get(&EVPN).map_or_else(Imported::default, |r| import(fabric, r));
                for l3vni in fabric.tenants.keys() {
                    let routes = self.best.get(&InstanceId(l3vni.get())).into_iter().flatten();
                    self.campus.extend(routes.filter_map(|(key, _)| Some((*l3vni, key.as_prefix()?))));
                }
                self.hosts.set_vtep(fabric.vtep);
            }
            self.hosts.look_at_all();
            self.walk.hurry();
            self.compare.hurry();
        }
        self.set_peers().await;
    }

    /// Takes what the speaker has to tell.
    fn take(&mut self, batch: Batch) {
        for ((instance, key), best) in batch.best {
            // Of our own routes there is nothing to learn.
            self.replace(instance, key, best.filter(|b| b.source != Source::Local));
        }
        for change in batch.peers {
            let path = self.numbers.name(change.neighbour);
            let reason = change.reason.map(|r| format!(": {r}")).unwrap_or_default();
            tracing::info!(path, old = ?change.old, new = ?change.new, reason, "bgp session");
            if change.new == watari_bgp::State::Established || change.old == watari_bgp::State::Established {
                let message = format!("{:?} -> {:?}{reason}", change.old, change.new);
                self.brain.events().emit("bgp", path, message);
            }
        }
        for (peer, address) in batch.full {
            let path = self.numbers.path(peer).unwrap_or("peer").to_owned();
            let message = format!("{address} is turned away: there are as many neighbours as there may be");
            tracing::warn!(path, message);
            self.brain.events().emit("bgp", path, message);
        }
        for ((neighbour, family), (paths, limit)) in batch.near_limits {
            let path = self.numbers.name(neighbour);
            tracing::warn!(path, %family, paths, limit, "many prefixes");
            self.brain.events().emit("bgp", path, format!("{paths} of at most {limit} prefixes of {family}"));
        }
        for (instance, family) in batch.selection_done {
            tracing::info!(?instance, ?family, "best paths are selected after the restart");
            self.awaiting.remove(&(instance, family));
        }
    }

    /// The session with a neighbour behind a dead path ends.
    async fn path_down(&mut self, down: PathDown) {
        let PathDown { path, forwarding_is_dead } = down;
        let Some(peer) = self.numbers.id(&path) else { return };
        self.brain.events().emit("bfd", path, "the path is down");
        let _ = self.bgp.path_down(peer, forwarding_is_dead).await;
    }

    fn replace(&mut self, instance: InstanceId, key: Key, best: Option<Best>) {
        let routes = self.best.entry(instance).or_default();
        let old = match best.clone() {
            Some(best) => routes.insert(key.clone(), best),
            None => routes.remove(&key),
        };
        let Some(fabric) = self.fabric.as_deref() else { return };
        if instance == EVPN {
            return self.imported.replace(fabric, &key, old.as_ref(), best.as_ref(), &mut self.changed);
        }
        let l3vni = Vni::new(instance.0).ok().filter(|l3vni| fabric.tenants.contains_key(l3vni));
        let Some(prefix) = l3vni.zip(key.as_prefix()).filter(|_| old != best) else { return };
        match best {
            Some(_) => self.campus.insert(prefix),
            None => self.campus.remove(&prefix),
        };
        self.changed.prefixes.insert(prefix);
    }

    /// Takes the datapath's events: hints what to read; what an operator should know becomes an event of the gateway.
    /// Answers whether there was anything to settle (beacons come as long as a loop lasts, and what was refused has
    /// changed nothing), and whether that was all.
    fn drain(&mut self, ring: &mut RingEvents) -> (bool, bool, Result<(), DriverError>) {
        let (mut has_news, mut read) = (false, Ok(()));
        for _ in 0..RING_BATCH_MAX {
            let Some(event) = ring.take() else { return (has_news, true, read) };
            let Some(kind) = EventKind::from_u8(event.kind) else { continue };
            if kind == EventKind::Beacon {
                self.guard.seen(&event);
                continue;
            }
            if let Some(reason) = refused::reason(kind, &event) {
                self.tell_refusal(reason, &event);
                continue;
            }
            has_news = true;
            read = read.and(self.hint(kind, &event));
            let worth_telling = matches!(
                kind,
                EventKind::MacTableFull | EventKind::NeighbourTableFull | EventKind::OwnMacSeen
            );
            if worth_telling {
                self.brain.events().emit("datapath", format!("vni {}", event.vni), kind.name());
            }
        }
        (has_news, false, read)
    }

    /// Reads the entry that an event is about.
    fn hint(&mut self, kind: EventKind, event: &Event) -> Result<(), DriverError> {
        let (Ok(vni), Some(fabric)) = (Vni::new(event.vni), self.fabric.clone()) else { return Ok(()) };
        let parted = BTreeSet::new();
        let age = Age { ages_ns: &fabric.ages_ns, now_ns: boot_time_ns(), parted: &parted };
        let (station, dirty) = ((vni, MacAddr(event.mac)), &mut self.changed.hosts);
        match kind {
            EventKind::MacNew | EventKind::MacMoved => {
                if kind == EventKind::MacMoved {
                    self.hosts.port_moved(station);
                }
                self.local.read_station(&self.maps, age, station, dirty)
            }
            EventKind::NeighbourNew => {
                self.local.read_address(&self.maps, age, (vni, ip_from_bytes(event.ip)), dirty)
            }
            _ => Ok(()),
        }
    }

    async fn set_peers(&mut self) {
        let mut wanted = neighbours(&self.desired, &mut self.numbers);
        // A session can only live where its namespace is: the plan makes that, a moment later.
        wanted.retain(|_, peer| peer.netns.as_ref().is_none_or(|path| path.exists()));
        for (path, reason) in self.passwords.fill(&self.desired, &self.numbers, &mut wanted) {
            tracing::warn!(path, reason, "a neighbour waits");
            self.brain.events().emit("failed", path, reason);
        }
        if self.is_restart && !self.told_local {
            let tables = wanted.values().map(|p| &p.config);
            let tables = tables.flat_map(|c| c.families.iter().map(|f| (c.instance, *f)));
            self.awaiting = tables.collect();
        }
        let exchanges = exchanges(&self.desired);
        for instance in exchanges.symmetric_difference(&self.exchanges) {
            let _ = self.bgp.report(*instance, !exchanges.contains(instance)).await;
        }
        self.exchanges = exchanges;
        if wanted != self.peers {
            let _ = self.bgp.set_peers(wanted.clone()).await;
            self.peers = wanted;
        }
    }

    /// What the speaker answers; null where what was asked for does not exist.
    async fn ask_bgp(&self, question: Question) -> Value {
        let names = self.numbers.names();
        let answer =
            self.bgp.query(move |speaker, now| ask_bgp::answer(speaker, now, &names, &question)).await;
        answer.ok().flatten().unwrap_or(Value::Null)
    }

    /// Lets a neighbour begin anew.
    async fn reset(&self, neighbour: String, reset: Reset) -> Result<(), NotReset> {
        let names = self.numbers.names();
        let asked = self.bgp.query(move |speaker, _| ask_bgp::find(speaker, &names, &neighbour)).await;
        let peer = asked.ok().flatten().ok_or(NotReset::Unknown)?;
        ask_bgp::may_reset(&peer, reset)?;
        self.bgp.reset(peer.peer, reset).await.map_err(|_| NotReset::Unknown)
    }

    /// Says what went wrong, once.
    fn note(&mut self, done: Result<bool, DriverError>) {
        let message = match done {
            Ok(false) => return,
            Ok(true) => None,
            Err(error) => Some(error.to_string()),
        };
        if let Some(message) = message.as_ref().filter(|m| self.last_error.as_ref() != Some(*m)) {
            tracing::warn!(%message, "facts could not be written");
            self.brain.events().emit("failed", "facts", message.clone());
        }
        self.last_error = message;
    }
}

/// The clock of the datapath's tables: it also runs while the machine sleeps.
pub(super) fn boot_time_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}
