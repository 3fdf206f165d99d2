//! One peer: boringtun's `Tunn` (handshake, session keys, replay window, timers) and what is around
//! it — where the peer is, what crossed, which session is in use.
//!
//! Whitepaper sections: messages §5.4, timers §6, cookies §5.3 (those are answered by the device
//! before a message gets here).
//!
//! The persistent keepalive is kept here and not by boringtun, so that it can be changed without
//! losing the session, and so that it brings back a peer whose handshakes expired (§6.4).

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};

use super::drops::DropReason;
use super::plane::{Context, Identity};
use crate::key::{PresharedKey, PublicKey};
use crate::lock;
use crate::path_mtu::must_stay_whole;
use crate::protocol::{Event, PeerConfig, PeerStatus, SessionStatus};

/// A new peer, or one of a restarted engine, is called again so long after the first call if it has
/// not answered; after the last one boringtun's own rhythm (5 s) goes on. A call lost to an address
/// resolution or to a far side that starts at the same moment must not cost 5 s.
const CALL_AGAIN_MS: [u64; 4] = [250, 500, 1_000, 2_000];

const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE_REPLY: u8 = 3;
const DATA: u8 = 4;

/// One peer of a device.
pub(super) struct Peer {
    public_key: PublicKey,
    preshared_key: Option<PresharedKey>,
    /// 24 bits; the session indices of this peer begin with them.
    index: u32,
    places: RwLock<Places>,
    keepalive_s: AtomicU16,
    rx_bytes: AtomicU64,
    tx_bytes: AtomicU64,
    noise: Mutex<Noise>,
}

/// Where the peer is.
#[derive(Debug, Clone, Copy, Default)]
struct Places {
    configured: Option<SocketAddr>,
    /// In use: configured, or where the last authenticated message came from.
    current: Option<SocketAddr>,
}

struct Noise {
    tunn: Tunn,
    /// We answered a handshake; the session is in use once its first data message arrives.
    unconfirmed: Option<u32>,
    session: Option<Session>,
    handshakes: u64,
    /// On the device's coarse clock.
    last_traffic_ms: u64,
    calling: Option<Calling>,
}

struct Session {
    local_index: u32,
    made_at: Instant,
}

/// The quick calls after a start.
struct Calling {
    started_ms: u64,
    calls: usize,
}

impl Peer {
    /// A peer without a session. `last_endpoint` is where it was when a former engine knew it.
    pub(super) fn new(
        identity: &Identity,
        index: u32,
        config: &PeerConfig,
        last_endpoint: Option<SocketAddr>,
    ) -> Self {
        let tunn = Tunn::new(
            identity.secret.clone(),
            x25519_dalek::PublicKey::from(*config.public_key.as_bytes()),
            config.preshared_key.as_ref().map(PresharedKey::to_bytes),
            None,
            index,
            Some(Arc::clone(&identity.unlimited)),
        );
        Self {
            public_key: config.public_key,
            preshared_key: config.preshared_key.clone(),
            index,
            places: RwLock::new(Places {
                configured: config.endpoint,
                current: last_endpoint.or(config.endpoint),
            }),
            keepalive_s: AtomicU16::new(config.keepalive_s),
            rx_bytes: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            noise: Mutex::new(Noise {
                tunn,
                unconfirmed: None,
                session: None,
                handshakes: 0,
                last_traffic_ms: 0,
                calling: None,
            }),
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
        self.places().current
    }

    fn places(&self) -> Places {
        *self.places.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn set_places(&self, change: impl FnOnce(&mut Places)) {
        change(&mut self.places.write().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// Moves the peer to a newly configured endpoint and calls it there.
    pub(super) fn configure_endpoint(&self, endpoint: Option<SocketAddr>) {
        self.set_places(|places| {
            places.configured = endpoint;
            places.current = endpoint.or(places.current);
        });
    }

    /// Seconds; 0 is never.
    pub(super) fn configure_keepalive(&self, seconds: u16) {
        self.keepalive_s.store(seconds, Ordering::Relaxed);
    }

    /// Calls the peer now, if it is known where it is, and quickly again until it answers.
    pub(super) fn call(&self, context: &Context<'_>, scratch: &mut [u8]) {
        let Some(endpoint) = self.endpoint() else { return };
        let mut noise = lock(&self.noise);
        noise.calling = Some(Calling { started_ms: context.now_ms(), calls: 0 });
        self.initiate(context, &mut noise, endpoint, scratch);
    }

    fn initiate(&self, context: &Context<'_>, noise: &mut Noise, to: SocketAddr, scratch: &mut [u8]) {
        noise.last_traffic_ms = context.now_ms();
        if let TunnResult::WriteToNetwork(message) = noise.tunn.format_handshake_initiation(scratch, true) {
            self.transmit(context, message, to);
        }
    }

    /// Seals one packet of the TUN interface and sends it; without a session it waits inside
    /// boringtun (256 packets at most) and a handshake begins.
    pub(super) fn outbound(&self, context: &Context<'_>, packet: &[u8], scratch: &mut [u8]) {
        let Some(endpoint) = self.endpoint() else {
            return context.drop_packet(DropReason::NoEndpoint);
        };
        let mut noise = lock(&self.noise);
        noise.last_traffic_ms = context.now_ms();
        let result = noise.tunn.encapsulate(packet, scratch);
        drop(noise);
        match result {
            TunnResult::WriteToNetwork(message) if must_stay_whole(packet) => {
                self.sent(context, message, endpoint, context.plane.udp.send_whole(message, endpoint));
            }
            TunnResult::WriteToNetwork(message) => self.transmit(context, message, endpoint),
            TunnResult::Err(_) => context.drop_packet(DropReason::Refused),
            _ => {}
        }
    }

    /// Opens one message of the network; what comes out goes to the TUN interface or back.
    pub(super) fn inbound(
        self: &Arc<Self>,
        context: &Context<'_>,
        message: &[u8],
        from: SocketAddr,
        scratch: &mut [u8],
    ) {
        let kind = message[0];
        let mut noise = lock(&self.noise);
        let result = noise.tunn.decapsulate(None, message, scratch);
        if let TunnResult::Err(error) = &result {
            tracing::trace!(peer = %self.public_key, ?error, "message refused");
            return context.drop_packet(DropReason::Refused);
        }
        if kind == COOKIE_REPLY {
            return;
        }
        noise.last_traffic_ms = context.now_ms();
        self.rx_bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
        self.heard_from(context, from);
        let established = noise.note(kind, message, &result);
        match result {
            TunnResult::WriteToNetwork(reply) => self.transmit(context, reply, from),
            TunnResult::WriteToTunnelV4(packet, source) => {
                self.deliver(context, packet, source.into());
            }
            TunnResult::WriteToTunnelV6(packet, source) => {
                self.deliver(context, packet, source.into());
            }
            TunnResult::Done | TunnResult::Err(_) => {}
        }
        if established {
            self.flush(context, &mut noise, from, scratch);
            drop(noise);
            tracing::debug!(device = context.device(), peer = %self.public_key, %from, "handshake");
            context.publish(&Event::Handshake {
                device: context.device().to_owned(),
                public_key: self.public_key,
                endpoint: from,
            });
        }
    }

    /// Sends what waited for the session.
    fn flush(&self, context: &Context<'_>, noise: &mut Noise, to: SocketAddr, scratch: &mut [u8]) {
        while let TunnResult::WriteToNetwork(message) = noise.tunn.decapsulate(None, &[], scratch) {
            self.transmit(context, message, to);
        }
    }

    fn deliver(self: &Arc<Self>, context: &Context<'_>, packet: &[u8], source: IpAddr) {
        let owner = context.plane.allowed.lookup(source);
        if !owner.is_some_and(|owner| Arc::ptr_eq(owner, self)) {
            return context.drop_packet(DropReason::SourceNotAllowed);
        }
        if let Err(error) = context.plane.tun.send(packet) {
            tracing::trace!(device = context.device(), %error, "TUN refused a packet");
            context.drop_packet(DropReason::TunRefused);
        }
    }

    fn transmit(&self, context: &Context<'_>, message: &[u8], to: SocketAddr) {
        self.sent(context, message, to, context.plane.udp.send(message, to));
    }

    fn sent(&self, context: &Context<'_>, message: &[u8], to: SocketAddr, result: std::io::Result<()>) {
        match result {
            Ok(()) => {
                self.tx_bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
            }
            Err(error) => {
                tracing::trace!(device = context.device(), %to, %error, "not sent");
                context.drop_packet(DropReason::SendFailed);
            }
        }
    }

    /// An authenticated message came from there (whitepaper §2.1).
    fn heard_from(&self, context: &Context<'_>, from: SocketAddr) {
        let before = self.endpoint();
        if before == Some(from) {
            return;
        }
        self.set_places(|places| places.current = Some(from));
        context.endpoint_moved();
        tracing::info!(device = context.device(), peer = %self.public_key, %from, "endpoint moved");
        context.publish(&Event::Roamed {
            device: context.device().to_owned(),
            public_key: self.public_key,
            endpoint: from,
        });
    }

    /// What time brings: retransmissions, rekeying, keepalives, expiry (whitepaper §6).
    pub(super) fn tick(&self, context: &Context<'_>, scratch: &mut [u8]) {
        let places = self.places();
        let mut noise = lock(&self.noise);
        let result = noise.tunn.update_timers(scratch);
        let Some(endpoint) = places.current else { return };
        if let TunnResult::WriteToNetwork(message) = result {
            noise.last_traffic_ms = context.now_ms();
            self.transmit(context, message, endpoint);
        }
        if let Some(call) = noise.next_call(context.now_ms()) {
            // The last known endpoint and the configured one in turns: either may be stale.
            let to = if call % 2 == 1 { places.configured.unwrap_or(endpoint) } else { endpoint };
            self.initiate(context, &mut noise, to, scratch);
        }
        self.keep_alive(context, &mut noise, endpoint, scratch);
    }

    fn keep_alive(&self, context: &Context<'_>, noise: &mut Noise, endpoint: SocketAddr, scratch: &mut [u8]) {
        let seconds = u64::from(self.keepalive_s.load(Ordering::Relaxed));
        if seconds == 0 || context.now_ms() < noise.last_traffic_ms + seconds * 1_000 {
            return;
        }
        noise.last_traffic_ms = context.now_ms();
        let result = if noise.has_session() {
            noise.tunn.encapsulate(&[], scratch)
        } else {
            noise.tunn.format_handshake_initiation(scratch, false)
        };
        if let TunnResult::WriteToNetwork(message) = result {
            self.transmit(context, message, endpoint);
        }
    }

    /// The peer as it is, under the configuration it has.
    pub(super) fn status(&self, config: &PeerConfig) -> PeerStatus {
        let noise = lock(&self.noise);
        let age = noise.session.as_ref().map(|session| millis(session.made_at.elapsed()));
        let mut allowed_ips = config.allowed_ips.clone();
        allowed_ips.sort_unstable();
        PeerStatus {
            public_key: self.public_key,
            preshared_key_fingerprint: self.preshared_key.as_ref().map(PresharedKey::fingerprint),
            configured_endpoint: config.endpoint,
            endpoint: self.endpoint(),
            allowed_ips,
            keepalive_s: config.keepalive_s,
            handshakes: noise.handshakes,
            last_handshake_age_ms: age,
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            session: match &noise.session {
                Some(session) if noise.has_session() => Some(SessionStatus {
                    local_index: session.local_index,
                    age_ms: millis(session.made_at.elapsed()),
                }),
                _ => None,
            },
        }
    }
}

impl Noise {
    fn has_session(&self) -> bool {
        self.tunn.time_since_last_handshake().is_some()
    }

    /// Follows the handshake by the messages that boringtun accepted. True: a session is now in
    /// use that was not before.
    fn note(&mut self, kind: u8, message: &[u8], result: &TunnResult<'_>) -> bool {
        match (kind, result) {
            (INITIATION, TunnResult::WriteToNetwork(reply)) => {
                self.unconfirmed = index_at(reply, 4);
                false
            }
            (RESPONSE, _) => self.establish(index_at(message, 8)),
            (DATA, _) if self.unconfirmed.is_some() && index_at(message, 4) == self.unconfirmed => {
                let index = self.unconfirmed.take();
                self.establish(index)
            }
            _ => false,
        }
    }

    fn establish(&mut self, local_index: Option<u32>) -> bool {
        let Some(local_index) = local_index else { return false };
        self.calling = None;
        self.session = Some(Session { local_index, made_at: Instant::now() });
        self.handshakes += 1;
        true
    }

    /// The number of the quick call that is due now, if one is.
    fn next_call(&mut self, now_ms: u64) -> Option<usize> {
        let calling = self.calling.as_mut()?;
        let Some(after_ms) = CALL_AGAIN_MS.get(calling.calls) else {
            self.calling = None;
            return None;
        };
        if now_ms < calling.started_ms + after_ms {
            return None;
        }
        calling.calls += 1;
        Some(calling.calls)
    }
}

fn index_at(message: &[u8], offset: usize) -> Option<u32> {
    let bytes = message.get(offset..offset + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
