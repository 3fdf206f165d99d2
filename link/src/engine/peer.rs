//! One peer: the protocol's machine ([`crate::wg::Peer`]) and what is around it — where the peer is, what
//! waits for a session, what is known of the path to it.
//!
//! Packet threads take a session and counters by the batch; the machine is locked for handshakes, for the
//! first message of a session, for packets without one, and by the clock. What it wants sent is
//! sent after its lock is given back.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use super::drops::DropReason;
use super::estate::{HeldRead, PeerEstate};
use super::offload::ecn;
use super::outbound::OutBatch;
use super::plane::{Context, Identity, Shared};
use super::several::Several;
use super::udp::{PathHint, Run, Way};
use crate::key::{PresharedKey, PublicKey};
use crate::lock;
use crate::protocol::{Event, PeerConfig, PeerStatus, SessionStatus};
use crate::wg::limits::KEEPALIVE_TIMEOUT_MS;
use crate::wg::{self, Input, Now, Output, Session, Sessions, Traffic};

/// Most packets or super-packets that wait for a session, and their octets together. What waits longest
/// goes first.
const HELD_MAX: usize = 256;
const HELD_BYTES_MAX: usize = 1 << 20;
/// Octets that wait at all peers of a device together.
const HELD_DEVICE_BYTES_MAX: usize = 64 << 20;
/// Time between two lines in the log about a peer that moves, in ms.
const ROAMED_AGAIN_MS: u64 = 1_000;

/// One peer of a device.
pub(super) struct Peer {
    public_key: PublicKey,
    preshared_key: Option<PresharedKey>,
    /// 24 bits; the session indices of this peer begin with them.
    index: u32,
    places: RwLock<Places>,
    several: Several,
    sessions: Arc<Sessions>,
    traffic: Arc<Traffic>,
    machine: Mutex<wg::Peer>,
    held: Mutex<Held>,
    /// Something is held; what comes later has to wait for it.
    holding: AtomicBool,
    path: PathHint,
    /// A call was under way when it was taken up.
    interrupted: AtomicBool,
    /// When it was last logged that it moved, on the device's clock.
    roamed_ms: AtomicU64,
}

/// Where the peer is.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    configured: Option<SocketAddr>,
    /// In use: configured, chosen among several, or where the last authenticated message came from.
    current: Option<Way>,
}

/// What waits for a session, as it was read from the interface.
struct Held {
    reads: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Octets that wait at all peers of the device.
    device_bytes: Arc<AtomicUsize>,
}

impl Held {
    fn new(device_bytes: &Arc<AtomicUsize>) -> Self {
        Self { reads: VecDeque::new(), bytes: 0, device_bytes: Arc::clone(device_bytes) }
    }

    fn push(&mut self, read: &[u8]) {
        self.bytes += read.len();
        self.device_bytes.fetch_add(read.len(), Ordering::Relaxed);
        self.reads.push_back(read.to_vec());
    }

    fn is_too_much(&self) -> bool {
        self.reads.len() > HELD_MAX
            || self.bytes > HELD_BYTES_MAX
            || self.device_bytes.load(Ordering::Relaxed) > HELD_DEVICE_BYTES_MAX
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let read = self.reads.pop_front()?;
        self.bytes -= read.len();
        self.device_bytes.fetch_sub(read.len(), Ordering::Relaxed);
        Some(read)
    }

    /// Takes everything out.
    fn take(&mut self) -> VecDeque<Vec<u8>> {
        self.device_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
        std::mem::take(&mut self.reads)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.take();
    }
}

impl Peer {
    /// A peer without a session. `last_endpoint` is where it was when a former engine knew it.
    pub(super) fn new(
        identity: &Identity,
        index: u32,
        config: &PeerConfig,
        last_endpoint: Option<SocketAddr>,
        nonce: u64,
    ) -> Self {
        let own = Arc::clone(&identity.keys);
        let mut machine = wg::Peer::new(own, config.public_key, config.preshared_key.as_ref(), index);
        machine.set_keepalive(config.keepalive_s);
        Self {
            public_key: config.public_key,
            preshared_key: config.preshared_key.clone(),
            index,
            places: RwLock::new(Places {
                configured: config.endpoint,
                current: last_endpoint.or(config.endpoint).map(Way::to),
            }),
            several: Several::new(identity, config, nonce),
            sessions: Arc::clone(machine.sessions()),
            traffic: Arc::clone(machine.traffic()),
            machine: Mutex::new(machine),
            held: Mutex::new(Held::new(&identity.held_bytes)),
            holding: AtomicBool::new(false),
            path: PathHint::default(),
            interrupted: AtomicBool::new(false),
            roamed_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn index(&self) -> u32 {
        self.index
    }

    pub(super) fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// True if this peer can go on under the configuration: neither identity nor secret differ.
    pub(super) fn serves(&self, config: &PeerConfig) -> bool {
        self.public_key == config.public_key && self.preshared_key == config.preshared_key
    }

    /// Where it is, if known.
    pub(super) fn endpoint(&self) -> Option<SocketAddr> {
        self.places().current.map(|way| way.to)
    }

    fn way(&self) -> Option<Way> {
        self.places().current
    }

    fn places(&self) -> Places {
        *self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_places(&self, change: impl FnOnce(&mut Places)) {
        change(&mut self.places.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes newly configured endpoints. The peer moves to the first of them, unless it is at one of them already, or is
    /// elsewhere by its own doing and the first is the same as before.
    pub(super) fn configure_endpoints(&self, context: &Context<'_>, config: &PeerConfig) {
        let endpoints = config.endpoints();
        let former = self.several.configured();
        let is_at = |list: &[SocketAddr], way: Way| list.contains(&way.to);
        self.set_places(|places| {
            places.configured = config.endpoint;
            let stays = places.current.is_some_and(|way| {
                is_at(&endpoints, way) || (!is_at(&former, way) && former.first() == endpoints.first())
            });
            if !stays {
                places.current = config.endpoint.map(Way::to).or(places.current);
            }
        });
        self.several.configure(context, endpoints, self.endpoint());
        self.path.forget();
    }

    /// Seconds; 0 is never.
    pub(super) fn configure_keepalive(&self, seconds: u16) {
        lock(&self.machine).set_keepalive(seconds);
    }

    /// Takes out what a successor goes on with; what waits for a session waits there.
    pub(super) fn hand_over(&self, now_ms: u64) -> PeerEstate {
        let machine = lock(&self.machine).hand_over(now(now_ms));
        let held = lock(&self.held).take().into_iter().map(HeldRead).collect();
        PeerEstate { endpoint: self.endpoint(), machine, held }
    }

    /// Goes on with what a former owner handed over; [`Peer::resume`] follows when threads run.
    pub(super) fn take_up(&self, estate: PeerEstate, now_ms: u64) -> Result<(), wg::HandoverError> {
        let calling = lock(&self.machine).take_up(&estate.machine, now(now_ms))?;
        self.set_places(|places| places.current = estate.endpoint.map(Way::to).or(places.current));
        let mut held = lock(&self.held);
        estate.held.iter().for_each(|read| held.push(&read.0));
        self.holding.store(!held.reads.is_empty(), Ordering::Release);
        self.interrupted.store(calling, Ordering::Release);
        Ok(())
    }

    /// Makes a call again that was under way when the peer was taken up, and sees to what waits.
    pub(super) fn resume(self: &Arc<Self>, context: &Context<'_>) {
        if self.interrupted.swap(false, Ordering::AcqRel) {
            self.call(context);
        }
        if self.holding.load(Ordering::Acquire) {
            self.hold(context, std::iter::empty());
        }
    }

    /// What opens messages for this index of the peer.
    pub(super) fn opening(&self, local_index: u32, context: &Context<'_>) -> Option<Arc<Session>> {
        self.sessions.opening(local_index, context.now_ms())
    }

    /// The session that a batch is sealed with and the first of so many counters. `None`: the packets have to
    /// be held.
    pub(super) fn sending(&self, context: &Context<'_>, messages: u64) -> Option<(Arc<Session>, u64)> {
        // What was held leaves first; whoever sends it has the lock.
        if self.holding.load(Ordering::Acquire) && !lock(&self.held).reads.is_empty() {
            return None;
        }
        self.take_counters(context, messages)
    }

    /// As [`Peer::sending`], for what was held.
    pub(super) fn take_counters(&self, context: &Context<'_>, messages: u64) -> Option<(Arc<Session>, u64)> {
        let session = self.sessions.sealing(context.now_ms())?;
        let counter = session.take_counters(messages)?;
        Some((session, counter))
    }

    /// Keeps packets until there is a session, and asks for one.
    pub(super) fn hold<'a>(self: &Arc<Self>, context: &Context<'_>, reads: impl Iterator<Item = &'a [u8]>) {
        let mut held = lock(&self.held);
        for read in reads {
            held.push(read);
            while held.is_too_much() && held.pop().is_some() {
                context.drop_packet(DropReason::NoSession);
            }
        }
        self.holding.store(true, Ordering::Release);
        if self.sessions.sealing(context.now_ms()).is_some() {
            // It came while the packets were on their way here.
            self.send_held(context, &mut held);
        } else {
            drop(held);
            self.drive(context, Input::Want, None);
        }
    }

    fn send_held(self: &Arc<Self>, context: &Context<'_>, held: &mut Held) {
        let reads = held.take();
        if !reads.is_empty() {
            OutBatch::new().send_held(context, self, reads.into_iter());
        }
        self.holding.store(false, Ordering::Release);
    }

    /// Sends sealed messages of one size, the last of which may be shorter.
    pub(super) fn send_run(&self, context: &Context<'_>, bytes: &[u8], segment: usize, tos: u8) {
        let messages = bytes.len().div_ceil(segment);
        let Some(way) = self.way() else {
            return context.drop_packets(DropReason::NoEndpoint, messages);
        };
        let run = Run { bytes, segment, way, tos };
        if let Err((lost, error)) = context.plane.udp.send_run(&run, &self.path) {
            tracing::trace!(device = context.device(), to = %way.to, %error, lost, "not sent");
            context.drop_packets(DropReason::SendFailed, lost);
        }
    }

    /// Sends one sealed message that must not be fragmented on its way.
    pub(super) fn send_whole(&self, context: &Context<'_>, message: &[u8]) {
        let Some(way) = self.way() else { return context.drop_packet(DropReason::NoEndpoint) };
        if let Err(error) = context.plane.udp.send_whole(message, way) {
            tracing::trace!(device = context.device(), to = %way.to, %error, "not sent");
            context.drop_packet(DropReason::SendFailed);
        }
    }

    /// Calls the peer now, if it is known where it is, and quickly again until it answers.
    pub(super) fn call(self: &Arc<Self>, context: &Context<'_>) {
        if self.endpoint().is_some() {
            self.drive(context, Input::Call, None);
        }
    }

    /// Takes a handshake message that came from there, and does what follows.
    pub(super) fn handshake(self: &Arc<Self>, context: &Context<'_>, input: Input<'_>, from: Way) {
        self.drive(context, input, Some(from));
    }

    /// Takes a question about a place of ours, or the answer to one about a place of the peer.
    pub(super) fn echo(&self, context: &Context<'_>, datagram: &[u8], way: Way) -> Result<(), DropReason> {
        if let Some(at) = self.several.receive(context, datagram, way)? {
            self.move_to(context, Way::to(at));
        }
        Ok(())
    }

    /// The far side has begun to use the session.
    pub(super) fn confirmed(self: &Arc<Self>, context: &Context<'_>, session: &Session) {
        self.drive(context, Input::Confirmed(session.local_index()), None);
    }

    /// What time brings: retransmissions, rekeying, keepalives, expiry (whitepaper §6).
    pub(super) fn tick(self: &Arc<Self>, context: &Context<'_>) {
        self.drive(context, Input::Tick, None);
        let Some(current) = self.way() else { return };
        let session = self.sessions.sealing(context.now_ms());
        if let Some(at) = self.several.tick(context, current, session.as_deref()) {
            self.move_to(context, Way::to(at));
        }
    }

    /// The path may carry other sizes by this time.
    pub(super) fn forget_path(&self) {
        self.path.forget();
    }

    fn drive(self: &Arc<Self>, context: &Context<'_>, input: Input<'_>, from: Option<Way>) {
        // An initiation may be a recorded one, which an engine that has just started cannot know: the peer has moved once
        // it uses the session that we answered with.
        let moves = !matches!(input, Input::CookieReply(_) | Input::Initiation(_));
        let mut outputs = Vec::new();
        let result = lock(&self.machine).handle(input, now(context.now_ms()), &mut random, &mut outputs);
        if let Err(error) = result {
            tracing::trace!(peer = %self.public_key, %error, "handshake");
            if from.is_some() {
                context.drop_packet(DropReason::Refused);
            }
        } else if let Some(from) = from.filter(|_| moves) {
            self.heard_from(context, from);
        }
        for output in outputs {
            self.act(context, &output, from);
        }
    }

    fn act(self: &Arc<Self>, context: &Context<'_>, output: &Output, from: Option<Way>) {
        let places = self.places();
        match output {
            Output::Initiation { message, attempt } => self.initiate(context, places, message, *attempt),
            Output::Response(message) => self.transmit(context, message, from.or(places.current)),
            Output::Keepalive(message) => self.transmit(context, message, places.current),
            Output::Ready(_) => self.ready(context),
            Output::GaveUp => {
                let mut held = lock(&self.held);
                context.drop_packets(DropReason::NoSession, held.take().len());
                self.holding.store(false, Ordering::Release);
            }
        }
    }

    fn initiate(&self, context: &Context<'_>, places: Places, message: &[u8], attempt: u32) {
        let now_ms = context.now_ms();
        let silent = |since: u64| now_ms.saturating_sub(since) >= KEEPALIVE_TIMEOUT_MS;
        let lost = attempt > 0
            || self.sessions.sealing(now_ms).is_none()
            || self.traffic.unanswered_since_ms().is_some_and(silent);
        if !lost {
            return self.transmit(context, message, places.current);
        }
        // The address of ours that it was heard at may be the cause of the trouble.
        self.set_places(|places| places.current = places.current.map(|way| Way::to(way.to)));
        let several = self.several.configured();
        if several.len() < 2 {
            // The last known endpoint and the configured one in turns: either may be stale.
            let configured = places.configured.filter(|_| attempt % 2 == 1).map(Way::to);
            let current = places.current.map(|way| Way::to(way.to));
            return self.transmit(context, message, configured.or(current));
        }
        // Whichever brings the first answer is used; what comes later is a replay, and dropped.
        for way in several.iter().copied().map(Way::to) {
            self.transmit(context, message, Some(way));
        }
        let elsewhere = places.current.filter(|way| !several.contains(&way.to));
        self.transmit(context, message, elsewhere.map(|way| Way::to(way.to)));
    }

    fn ready(self: &Arc<Self>, context: &Context<'_>) {
        self.send_held(context, &mut lock(&self.held));
        let Some(endpoint) = self.endpoint() else { return };
        tracing::debug!(device = context.device(), peer = %self.public_key, %endpoint, "handshake");
        let device = context.device().to_owned();
        context.publish(&Event::Handshake { device, public_key: self.public_key, endpoint });
    }

    fn transmit(&self, context: &Context<'_>, message: &[u8], way: Option<Way>) {
        let Some(way) = way else { return };
        // A message without a packet inside.
        let tos = ecn::outer(context.plane.dscp, &[]);
        if let Err(error) = context.plane.udp.send_marked(message, way, tos) {
            tracing::trace!(device = context.device(), to = %way.to, %error, "not sent");
            context.drop_packet(DropReason::SendFailed);
        }
    }

    /// An authenticated message came that way (whitepaper §2.1): answers go back by it, from the address of ours that it
    /// was sent to. Of several places that are measured, one that answers stays.
    pub(super) fn heard_from(&self, context: &Context<'_>, way: Way) {
        let current = self.way();
        if current == Some(way) {
            return;
        }
        if current.is_some_and(|current| current.to == way.to) {
            return self.set_places(|places| places.current = Some(way));
        }
        if let Some(way) = self.several.heard(context, way) {
            self.move_to(context, way);
        }
    }

    fn move_to(&self, context: &Context<'_>, way: Way) {
        self.set_places(|places| places.current = Some(way));
        self.path.forget();
        context.endpoint_moved();
        // Two senders with one key move it with every packet.
        let now_ms = context.now_ms();
        if now_ms.saturating_sub(self.roamed_ms.swap(now_ms, Ordering::Relaxed)) >= ROAMED_AGAIN_MS {
            tracing::info!(device = context.device(), peer = %self.public_key, to = %way.to, "endpoint moved");
        }
        context.publish(&Event::Roamed {
            device: context.device().to_owned(),
            public_key: self.public_key,
            endpoint: way.to,
        });
    }

    /// The peer as it is, under the configuration it has, at a time of the device's clock.
    pub(super) fn status(&self, config: &PeerConfig, shared: &Shared) -> PeerStatus {
        let now_ms = shared.now_ms();
        let machine = lock(&self.machine);
        let age_ms = |since: u64| now_ms.saturating_sub(since);
        let mut allowed_ips = config.allowed_ips.clone();
        allowed_ips.sort_unstable();
        PeerStatus {
            public_key: self.public_key,
            preshared_key_fingerprint: self.preshared_key.as_ref().map(PresharedKey::fingerprint),
            configured_endpoint: config.endpoint,
            more_endpoints: config.more_endpoints.clone(),
            endpoint: self.endpoint(),
            measured: self.several.status(shared.elapsed(), self.endpoint()),
            allowed_ips,
            keepalive_s: config.keepalive_s,
            handshakes: machine.handshakes(),
            last_handshake_age_ms: machine.established_ms().map(age_ms),
            rx_bytes: self.traffic.received_bytes(),
            tx_bytes: self.traffic.sent_bytes(),
            session: self.sessions.sealing(now_ms).map(|session| SessionStatus {
                local_index: session.local_index(),
                age_ms: age_ms(session.born_ms()),
            }),
        }
    }
}

/// Both clocks, the device's as of its last tick.
fn now(ms: u64) -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { ms, unix_ns: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX) }
}

/// Random bytes of the system, for keys. Without them nothing may go on.
pub(super) fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the system's random source");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_for_each_peer_and_for_the_device() {
        let device_bytes = Arc::new(AtomicUsize::new(0));
        let mut peers: Vec<Held> = (0..100).map(|_| Held::new(&device_bytes)).collect();
        for peer in &mut peers {
            for _ in 0..40 {
                peer.push(&[0; 60_000]);
                while peer.is_too_much() && peer.pop().is_some() {}
            }
            assert!(peer.bytes <= HELD_BYTES_MAX);
        }
        let all: usize = peers.iter().map(|peer| peer.bytes).sum();
        assert_eq!(all, device_bytes.load(Ordering::Relaxed));
        assert!((HELD_DEVICE_BYTES_MAX - 60_000..=HELD_DEVICE_BYTES_MAX).contains(&all), "{all}");
        assert_eq!(peers[0].take().len(), HELD_BYTES_MAX / 60_000);
        drop(peers);
        assert_eq!(device_bytes.load(Ordering::Relaxed), 0, "a peer that goes gives back what it had");
    }
}
