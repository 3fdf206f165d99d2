//! What the packet threads of a device look at: an immutable [`Plane`] that is replaced whole when
//! the configuration changes. A lane keeps its own reference and looks at one number per batch
//! to see whether there is a newer one.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use super::allowed_ips::AllowedIps;
use super::drops::{DropCounters, DropReason};
use super::overlay::Overlay;
use super::peer::Peer;
use super::tun::Tun;
use super::udp::UdpPair;
use crate::clock;
use crate::events::EventHub;
use crate::key::{PrivateKey, PublicKey};
use crate::protocol::{Dscp, Event};
use crate::wg;

/// Who we are on a device.
pub(super) struct Identity {
    pub(super) keys: Arc<wg::Identity>,
    /// Judges every handshake message once, before it is known whose it is.
    pub(super) gate: Mutex<wg::Gate>,
    /// Octets that wait for a session at all peers together.
    pub(super) held_bytes: Arc<AtomicUsize>,
}

impl Identity {
    pub(super) fn new(key: &PrivateKey) -> Self {
        let keys = Arc::new(wg::Identity::new(key));
        let gate = Mutex::new(wg::Gate::new(keys.public_key()));
        Self { keys, gate, held_bytes: Arc::default() }
    }
}

/// A device as its packet threads see it.
pub(super) struct Plane {
    pub(super) identity: Arc<Identity>,
    pub(super) peers: BTreeMap<PublicKey, Arc<Peer>>,
    pub(super) by_index: HashMap<u32, Arc<Peer>>,
    pub(super) allowed: AllowedIps<Arc<Peer>>,
    pub(super) tun: Arc<Tun>,
    pub(super) overlay: Option<Arc<Overlay>>,
    pub(super) udp: Arc<UdpPair>,
    /// Of the interface, in octets: nothing is padded beyond it.
    pub(super) mtu: usize,
    /// Of outer packets.
    pub(super) dscp: Dscp,
}

impl Plane {
    /// The same once more, for one that differs in a part.
    pub(super) fn again(&self) -> Self {
        Self {
            identity: Arc::clone(&self.identity),
            peers: self.peers.clone(),
            by_index: self.by_index.clone(),
            allowed: self.allowed.clone(),
            tun: Arc::clone(&self.tun),
            overlay: self.overlay.clone(),
            udp: Arc::clone(&self.udp),
            mtu: self.mtu,
            dscp: self.dscp,
        }
    }
}

/// What the threads of a device share, besides the plane of the moment.
pub(super) struct Shared {
    name: String,
    plane: RwLock<Arc<Plane>>,
    generation: AtomicU64,
    pub(super) drops: DropCounters,
    clock_ms: AtomicU64,
    events: Arc<EventHub>,
    /// Set when an endpoint moved, for whoever stores endpoints.
    moved: Arc<AtomicBool>,
    /// There is a core for a second thread in a lane.
    pub(super) helpers: AtomicBool,
    /// Set when the interface was deleted under us.
    pub(super) link_lost: AtomicBool,
    pub(super) error: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn new(name: String, plane: Plane, events: Arc<EventHub>, moved: Arc<AtomicBool>) -> Self {
        Self {
            name,
            plane: RwLock::new(Arc::new(plane)),
            generation: AtomicU64::new(0),
            drops: DropCounters::default(),
            clock_ms: AtomicU64::new(clock::boot_ms()),
            events,
            moved,
            helpers: AtomicBool::new(false),
            link_lost: AtomicBool::new(false),
            error: Mutex::new(None),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn plane(&self) -> Arc<Plane> {
        Arc::clone(&self.plane.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    pub(super) fn replace_plane(&self, plane: Plane) {
        *self.plane.write().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(plane);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Sets the coarse clock; called by the timer thread.
    pub(super) fn advance_clock(&self) {
        self.clock_ms.store(clock::boot_ms(), Ordering::Relaxed);
    }

    /// The coarse clock: milliseconds since the machine started, as of the last tick. It goes on while the machine is suspended: the far
    /// side's does.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock_ms.load(Ordering::Relaxed)
    }

    /// Time since the machine started, exactly.
    pub(super) fn elapsed(&self) -> Duration {
        clock::monotonic()
    }

    pub(super) fn publish(&self, event: &Event) {
        self.events.publish(event);
    }
}

/// One thread's reference to the plane.
pub(super) struct View {
    shared: Arc<Shared>,
    generation: u64,
    plane: Arc<Plane>,
}

impl View {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let generation = shared.generation.load(Ordering::Acquire);
        let plane = shared.plane();
        Self { shared, generation, plane }
    }

    /// The plane of this moment, with what else handling a packet may use.
    pub(super) fn context(&mut self) -> Context<'_> {
        self.look();
        Context { shared: &self.shared, plane: &self.plane }
    }

    /// The plane of this moment.
    pub(super) fn plane(&mut self) -> Arc<Plane> {
        self.look();
        Arc::clone(&self.plane)
    }

    fn look(&mut self) {
        let generation = self.shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.plane = self.shared.plane();
            self.generation = generation;
        }
    }
}

/// What handling one packet may use.
pub(super) struct Context<'a> {
    pub(super) shared: &'a Shared,
    pub(super) plane: &'a Plane,
}

impl Context<'_> {
    pub(super) fn device(&self) -> &str {
        &self.shared.name
    }

    /// The coarse clock of the device.
    pub(super) fn now_ms(&self) -> u64 {
        self.shared.now_ms()
    }

    /// Time since the machine started, exactly.
    pub(super) fn elapsed(&self) -> Duration {
        self.shared.elapsed()
    }

    pub(super) fn drop_packet(&self, reason: DropReason) {
        self.shared.drops.count(reason, 1);
    }

    pub(super) fn drop_packets(&self, reason: DropReason, packets: usize) {
        self.shared.drops.count(reason, packets as u64);
    }

    pub(super) fn publish(&self, event: &Event) {
        self.shared.events.publish(event);
    }

    pub(super) fn endpoint_moved(&self) {
        self.shared.moved.store(true, Ordering::Release);
    }
}
