//! From the network to the TUN interface, and the TAP of an overlay: runs of datagrams are opened, checked against replay in their
//! order, put together to super-packets and written, each by one system call.
//!
//! What a batch holds is what one leader finds in the sockets. Opening and looking at packets is done
//! side by side with other batches; everything that depends on order (replay window, roaming, handshakes,
//! the interface) when it is the batch's turn.

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use nix::poll::PollTimeout;

use super::drops::DropReason;
use super::handshake;
use super::lane::{Fill, Signal, Stages};
use super::offload::classify::{Class, classify, classify_inside, ip_len};
use super::offload::coalesce::Coalescer;
use super::offload::{ecn, vxlan};
use super::peer::Peer;
use super::plane::{Context, Plane, Shared, View};
use super::udp::{self, RECEIVE_BYTES_MAX, Received, UdpPair, Way};
use super::workers::wait;
use super::{Side, inner_address};
use crate::lock;
use crate::wg::{Session, receiver_of};

/// Room for what is received into one batch.
const BUFFER_BYTES: usize = 4 * (RECEIVE_BYTES_MAX + 1);
/// Most receives of one batch.
const RECEIVES_MAX: usize = 64;
/// Messages that a batch has room for at first.
const MESSAGES: usize = 512;

/// The stages of the lane.
pub(super) struct Inbound {
    view: Mutex<View>,
    shared: Arc<Shared>,
    udp: Arc<UdpPair>,
    /// Fills so far: each begins with the other address family.
    fills: AtomicUsize,
}

/// Datagrams of the network on their way in.
pub(super) struct InBatch {
    plane: Option<Arc<Plane>>,
    buffer: Vec<u8>,
    receives: Vec<(usize, Received)>,
    messages: Vec<Message>,
    sessions: Vec<Known>,
    coalescer: Coalescer,
}

/// A session that messages of the batch are for.
struct Known {
    session: Arc<Session>,
    peer: Arc<Peer>,
    /// The receive whose origin the peer has been told.
    heard: Option<usize>,
    /// Octets of authentic messages, and whether one was no keepalive.
    bytes: u64,
    data: bool,
}

struct Message {
    receive: usize,
    /// Of the whole message in the buffer.
    range: Range<usize>,
    outcome: Outcome,
}

enum Outcome {
    /// Authentic. `packet`: where the IP packet lies, nowhere for a keepalive.
    Data {
        known: usize,
        counter: u64,
        packet: Range<usize>,
        class: Class,
    },
    /// Not for a session that was known: a handshake message, or one that came just behind it.
    Unknown,
    /// Authentic, and not to be delivered.
    Useless {
        known: usize,
        counter: u64,
        reason: DropReason,
    },
    Dropped(DropReason),
}

impl Inbound {
    pub(super) fn new(shared: &Arc<Shared>, udp: Arc<UdpPair>) -> Self {
        let view = Mutex::new(View::new(Arc::clone(shared)));
        Self { view, shared: Arc::clone(shared), udp, fills: AtomicUsize::new(0) }
    }

    fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        [&self.udp.v4, &self.udp.v6].into_iter().flatten()
    }

    /// The sockets in the order of this fill: neither family can keep the other out, however much arrives.
    fn sockets_in_turn(&self) -> impl Iterator<Item = &UdpSocket> {
        in_turn(self.fills.fetch_add(1, Ordering::Relaxed), &self.udp.v4, &self.udp.v6)
    }
}

impl Stages for Inbound {
    type Batch = InBatch;

    fn batch(&self) -> InBatch {
        InBatch {
            plane: None,
            buffer: vec![0; BUFFER_BYTES],
            receives: Vec::with_capacity(RECEIVES_MAX),
            messages: Vec::with_capacity(MESSAGES),
            sessions: Vec::new(),
            coalescer: Coalescer::with_capacity(MESSAGES),
        }
    }

    fn fill(&self, batch: &mut InBatch) -> Fill {
        batch.clear();
        batch.plane = Some(lock(&self.view).plane());
        let mut used = 0;
        let mut filled = Fill::All;
        for socket in self.sockets_in_turn() {
            loop {
                if used + RECEIVE_BYTES_MAX > batch.buffer.len() || batch.receives.len() == RECEIVES_MAX {
                    filled = Fill::Part;
                    break;
                }
                match udp::receive(socket, &mut batch.buffer[used..]) {
                    Ok(received) => {
                        batch.receives.push((used, received));
                        used += received.length.next_multiple_of(16);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // What an earlier send ran into is reported here; it is not about this packet.
                    Err(error) => {
                        tracing::trace!(%error, "UDP socket");
                        break;
                    }
                }
            }
        }
        if batch.receives.is_empty() { Fill::Nothing } else { filled }
    }

    fn wait(&self, signal: &Signal) -> bool {
        let mut fds = [signal.as_fd(); 2];
        let mut count = 0;
        for (fd, socket) in fds.iter_mut().zip(self.sockets()) {
            *fd = socket.as_fd();
            count += 1;
        }
        let fds: &[BorrowedFd<'_>] = &fds[..count];
        wait(signal, fds, PollTimeout::NONE)
    }

    fn helpers(&self) -> bool {
        self.shared.helpers.load(Ordering::Relaxed)
    }

    fn work(&self, batch: &mut InBatch) {
        if let Some(plane) = batch.plane.clone() {
            batch.open(&Context { shared: &self.shared, plane: &plane });
        }
    }

    fn finish(&self, batch: &mut InBatch) {
        if let Some(plane) = batch.plane.take() {
            batch.deliver(&Context { shared: &self.shared, plane: &plane });
        }
    }
}

impl InBatch {
    fn clear(&mut self) {
        self.receives.clear();
        self.messages.clear();
        self.sessions.clear();
    }

    /// Opens every message and looks at what is in it.
    fn open(&mut self, context: &Context<'_>) {
        for receive in 0..self.receives.len() {
            let (at, received) = self.receives[receive];
            let mut begin = at;
            while begin < at + received.length {
                let range = begin..(begin + received.segment).min(at + received.length);
                begin = range.end;
                let outcome = self.open_one(context, &range, received.tos);
                self.messages.push(Message { receive, range, outcome });
            }
        }
    }

    fn open_one(&mut self, context: &Context<'_>, range: &Range<usize>, tos: u8) -> Outcome {
        let message = &mut self.buffer[range.clone()];
        let Some(index) = receiver_of(message) else { return Outcome::Unknown };
        let Some(known) = know(&mut self.sessions, context, index) else { return Outcome::Unknown };
        let opened = match self.sessions[known].session.open(message) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::trace!(%error, "message refused");
                return Outcome::Dropped(DropReason::Refused);
            }
        };
        let counter = opened.counter;
        let at = range.start + opened.range.start;
        let plaintext = &mut message[opened.range];
        if plaintext.is_empty() {
            return Outcome::Data { known, counter, packet: 0..0, class: Class::default() };
        }
        let Some(length) = ip_len(plaintext) else {
            return Outcome::Useless { known, counter, reason: DropReason::MalformedInside };
        };
        let packet = &mut plaintext[..length];
        if !ecn::combine(packet, tos) {
            return Outcome::Useless { known, counter, reason: DropReason::Congestion };
        }
        let inside = context.plane.overlay.as_ref().and_then(|overlay| overlay.takes(packet));
        let class = match inside.and_then(|outer| classify_inside(packet, outer)) {
            Some(class) => {
                vxlan::clear_checksum(packet);
                class
            }
            None if context.plane.tun.offers().tso => classify(packet),
            None => Class::default(),
        };
        Outcome::Data { known, counter, packet: at..at + length, class }
    }

    /// What has to be done in order.
    fn deliver(&mut self, context: &Context<'_>) {
        let mut source = None;
        self.refuse_replays();
        let messages = std::mem::take(&mut self.messages);
        for message in &messages {
            let way = self.receives[message.receive].1.way();
            match &message.outcome {
                Outcome::Dropped(reason) => context.drop_packet(*reason),
                Outcome::Unknown => self.late(context, message, &mut source),
                outcome => self.accept(context, message, outcome, way, &mut source),
            }
        }
        self.messages = messages;
        self.note(context);
        self.write(context);
    }

    /// Asks the replay window of each session about its messages, in their order.
    fn refuse_replays(&mut self) {
        for (index, known) in self.sessions.iter().enumerate() {
            let mut replay = known.session.replay();
            for message in &mut self.messages {
                if let Outcome::Data { known, counter, .. } | Outcome::Useless { known, counter, .. } =
                    message.outcome
                    && known == index
                    && !replay.accept(counter)
                {
                    message.outcome = Outcome::Dropped(DropReason::Refused);
                }
            }
        }
    }

    /// One authentic message that is no replay.
    fn accept(
        &mut self,
        context: &Context<'_>,
        message: &Message,
        outcome: &Outcome,
        way: Way,
        source: &mut Option<(IpAddr, usize, bool)>,
    ) {
        let (known_index, content) = match outcome {
            Outcome::Data { known, packet, class, .. } => (*known, Ok((packet, *class))),
            Outcome::Useless { known, reason, .. } => (*known, Err(*reason)),
            Outcome::Unknown | Outcome::Dropped(_) => return,
        };
        let known = &mut self.sessions[known_index];
        if known.heard != Some(message.receive) {
            known.peer.heard_from(context, way);
            known.heard = Some(message.receive);
        }
        known.bytes += message.range.len() as u64;
        let (packet, class) = match content {
            Ok(content) => content,
            Err(reason) => return context.drop_packet(reason),
        };
        if packet.is_empty() {
            return;
        }
        known.data = true;
        let address = inner_address(&self.buffer[packet.clone()], Side::Source);
        let allowed = match *source {
            Some((last, of, allowed)) if last == address && of == known_index => allowed,
            _ => {
                let owner = context.plane.allowed.lookup(address);
                let allowed = owner.is_some_and(|owner| Arc::ptr_eq(owner, &known.peer));
                *source = Some((address, known_index, allowed));
                allowed
            }
        };
        if !allowed {
            return context.drop_packet(DropReason::SourceNotAllowed);
        }
        let overlay = context.plane.overlay.as_ref().filter(|_| class.is_inside());
        let offers = overlay.map_or(context.plane.tun.offers(), |overlay| overlay.tap.offers());
        let merge = if class.is_udp() { offers.uso } else { offers.tso };
        self.coalescer.push(&self.buffer, packet.start, packet.len(), class, merge);
    }

    /// A message that was for no session when the batch was opened: a handshake message, or data that came
    /// right behind the handshake that made its session.
    fn late(&mut self, context: &Context<'_>, message: &Message, source: &mut Option<(IpAddr, usize, bool)>) {
        let (_, received) = self.receives[message.receive];
        let bytes = &self.buffer[message.range.clone()];
        if receiver_of(bytes).is_none() {
            return handshake::receive(context, bytes, received.way());
        }
        match self.open_one(context, &message.range, received.tos) {
            Outcome::Unknown => context.drop_packet(DropReason::UnknownSession),
            Outcome::Dropped(reason) => context.drop_packet(reason),
            outcome => {
                let (Outcome::Data { known, counter, .. } | Outcome::Useless { known, counter, .. }) =
                    &outcome
                else {
                    return;
                };
                if !self.sessions[*known].session.accept(*counter) {
                    return context.drop_packet(DropReason::Refused);
                }
                self.accept(context, message, &outcome, received.way(), source);
            }
        }
    }

    /// Tells the timers, and a peer whose session was just used for the first time.
    fn note(&mut self, context: &Context<'_>) {
        for known in self.sessions.drain(..) {
            if known.bytes == 0 {
                continue;
            }
            if known.session.note_received(context.now_ms(), known.data, known.bytes) {
                known.peer.confirmed(context, &known.session);
            }
        }
    }

    fn write(&mut self, context: &Context<'_>) {
        let Plane { tun, overlay, .. } = context.plane;
        self.coalescer.finish(&mut self.buffer, |buffer, header, pieces, class| {
            let sent = match overlay.as_ref().filter(|_| class.is_inside()) {
                Some(overlay) => overlay.tap.send(header, buffer, pieces),
                None => tun.send(header, &[], buffer, pieces).map(drop),
            };
            if let Err(error) = sent {
                tracing::trace!(device = context.device(), %error, "the interface refused a packet");
                pieces.for_each(|_| context.drop_packet(DropReason::TunRefused));
            }
        });
    }
}

/// Both, the first one first in every second turn.
fn in_turn<'a, T>(turn: usize, a: &'a Option<T>, b: &'a Option<T>) -> impl Iterator<Item = &'a T> {
    let pair = if turn.is_multiple_of(2) { [a, b] } else { [b, a] };
    pair.into_iter().flatten()
}

/// The place of a session in the table of the batch.
fn know(sessions: &mut Vec<Known>, context: &Context<'_>, index: u32) -> Option<usize> {
    let found = sessions.iter().rposition(|known| known.session.local_index() == index);
    if found.is_some() {
        return found;
    }
    let peer = Arc::clone(context.plane.by_index.get(&(index >> 8))?);
    let session = peer.opening(index, context)?;
    sessions.push(Known { session, peer, heard: None, bytes: 0, data: false });
    Some(sessions.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_family_is_always_first() {
        let turns: Vec<Vec<i32>> =
            (0..4).map(|turn| in_turn(turn, &Some(4), &Some(6)).copied().collect()).collect();
        assert_eq!(turns, [[4, 6], [6, 4], [4, 6], [6, 4]]);
        assert_eq!(in_turn(0, &None, &Some(6)).collect::<Vec<_>>(), [&6]);
    }
}
