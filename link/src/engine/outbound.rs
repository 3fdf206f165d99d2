//! From the TUN interface, and the TAP of an overlay, to the network: super-packets are split, sealed and sent, a run of
//! datagrams of one size by one system call.
//!
//! A batch is what one leader finds on the interface, up to [`INPUT_BYTES`]. Peer, session and message
//! counters of its packets are settled while it is filled, so the counters of a peer leave in their
//! order; splitting, checksums and ciphers are done side by side with other batches.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::poll::PollTimeout;

use super::drops::DropReason;
use super::lane::{Fill, Signal, Stages};
use super::offload::split::{Split, SplitError};
use super::offload::virtio::Gso;
use super::offload::vxlan::ETHERNET_HEADER;
use super::offload::{ecn, virtio};
use super::overlay::Tap;
use super::peer::Peer;
use super::plane::{Context, Plane, Shared, View};
use super::tun::{self, Tun};
use super::workers::wait;
use super::{Side, inner_address};
use crate::lock;
use crate::path_mtu::must_stay_whole;
use crate::protocol::Event;
use crate::wg::limits::HEADER_LEN;
use crate::wg::{Session, sealed_len};

/// Octets that one read of an interface gives at most: virtio header and the largest packet, which may stand behind a
/// link-layer header and an outer header of VXLAN.
const READ_MAX: usize = virtio::HEADER + 65_536 + 128;
/// Room for what is read into one batch: two of the largest super-packets.
const INPUT_BYTES: usize = 2 * READ_MAX;
/// Most packets or super-packets of one batch.
const PACKETS_MAX: usize = 128;
/// A batch whose messages would take more is full.
const OUTPUT_BYTES: usize = 256 << 10;
/// A super-packet whose messages would take more is dropped: cut so small that it gains nothing, it would
/// only cost memory.
const MESSAGES_BYTES_MAX: usize = 1 << 20;

/// Pause before the interface is read again after it failed for a reason that is not known.
const READ_AGAIN: Duration = Duration::from_millis(50);

/// The stages of the lane.
pub(super) struct Outbound {
    view: Mutex<View>,
    shared: Arc<Shared>,
    tun: Arc<Tun>,
    tap: Option<Arc<Tap>>,
}

/// What a read of an interface gave.
enum Read {
    Packet,
    Nothing,
    Again,
}

/// Packets of the interface on their way out.
pub(super) struct OutBatch {
    plane: Option<Arc<Plane>>,
    input: Vec<u8>,
    used: usize,
    packets: Vec<Packet>,
    groups: Vec<Group>,
    output: Vec<u8>,
    /// Of `output`, as long as the messages of all packets can become.
    planned: usize,
    runs: Vec<Run>,
}

/// A packet or super-packet.
struct Packet {
    group: usize,
    /// Behind the virtio header.
    at: usize,
    length: usize,
    split: Split,
    /// Of what carries it.
    tos: u8,
    /// What carries it must not be fragmented; nor is it padded, because its size is the question.
    whole: bool,
}

/// The packets of one peer.
struct Group {
    peer: Arc<Peer>,
    session: Option<Arc<Session>>,
    /// The next one to be used.
    counter: u64,
    messages: u64,
    bytes: u64,
}

/// Messages of one size to one peer in `output`; the last may be shorter.
struct Run {
    group: usize,
    at: usize,
    length: usize,
    segment: usize,
    tos: u8,
    whole: bool,
    ended: bool,
}

impl Outbound {
    pub(super) fn new(shared: &Arc<Shared>, tun: Arc<Tun>, tap: Option<Arc<Tap>>) -> Self {
        let view = Mutex::new(View::new(Arc::clone(shared)));
        Self { view, shared: Arc::clone(shared), tun, tap }
    }

    /// The TAP of the overlay, while there is one.
    fn tap(&self) -> Option<&Tap> {
        self.tap.as_deref().filter(|tap| !tap.is_lost())
    }

    /// Takes what the TUN has next. An error that stays ends the lane.
    fn read_tun(&self, batch: &mut OutBatch, context: &Context<'_>) -> io::Result<Read> {
        let used = batch.used;
        match self.tun.receive(&mut batch.input[used..]) {
            Ok(length) => batch.take(context, 0, length, DropReason::NotIp),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Read::Nothing),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Read::Again),
            Err(error) => return Err(error),
        }
        Ok(Read::Packet)
    }

    /// Takes what the TAP has next. Whatever is wrong with it, the TUN goes on.
    fn read_tap(&self, tap: &Tap, batch: &mut OutBatch, context: &Context<'_>) -> Read {
        let used = batch.used;
        match tap.receive(&mut batch.input[used..]) {
            Ok(Some(length)) => batch.take(context, ETHERNET_HEADER, length, DropReason::NotVxlan),
            Ok(None) => context.drop_packet(DropReason::NotVxlan),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Read::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Read::Again,
            Err(error) => {
                if !tap.is_lost() {
                    self.complain("the overlay's interface", &error);
                }
                return Read::Nothing;
            }
        }
        Read::Packet
    }

    /// Reads both interfaces in turns until the batch is full or both have nothing: neither can keep the other waiting.
    fn read(&self, batch: &mut OutBatch, context: &Context<'_>) -> io::Result<Fill> {
        let (mut tun_has, mut tap_has) = (true, self.tap().is_some());
        while tun_has || tap_has {
            if batch.is_full() {
                return Ok(Fill::Part);
            }
            if tun_has {
                tun_has = !matches!(self.read_tun(batch, context)?, Read::Nothing);
            }
            if batch.is_full() {
                return Ok(Fill::Part);
            }
            if let Some(tap) = self.tap().filter(|_| tap_has) {
                tap_has = !matches!(self.read_tap(tap, batch, context), Read::Nothing);
            }
        }
        Ok(if batch.used == 0 { Fill::Nothing } else { Fill::All })
    }

    /// A read failed that nothing is known to fail with: said once, and tried again after a pause.
    fn complain(&self, interface: &str, error: &io::Error) {
        let reason = format!("reading {interface}: {error}");
        let mut told = lock(&self.shared.error);
        if told.as_ref() != Some(&reason) {
            tracing::warn!(device = self.shared.name(), reason, "not read");
            *told = Some(reason);
        }
        drop(told);
        thread::sleep(READ_AGAIN);
    }

    fn lose_link(&self, reason: &str) {
        let shared = &self.shared;
        tracing::warn!(device = shared.name(), reason, "link lost");
        *lock(&shared.error) = Some(reason.to_owned());
        shared.link_lost.store(true, Ordering::Release);
        shared.publish(&Event::LinkLost { device: shared.name().to_owned() });
    }
}

impl Stages for Outbound {
    type Batch = OutBatch;

    fn batch(&self) -> OutBatch {
        OutBatch::new()
    }

    fn fill(&self, batch: &mut OutBatch) -> Fill {
        batch.clear();
        let plane = lock(&self.view).plane();
        let context = Context { shared: &self.shared, plane: &plane };
        let filled = match self.read(batch, &context) {
            Ok(filled) => filled,
            Err(error) if tun::is_gone(&error) => {
                self.lose_link("the interface was deleted");
                return Fill::End;
            }
            // Whatever it is, it is tried again: a lane that has ended carries nothing.
            Err(error) => {
                self.complain("the interface", &error);
                if batch.used == 0 { Fill::Nothing } else { Fill::All }
            }
        };
        batch.settle(&context);
        batch.plane = Some(plane);
        filled
    }

    fn wait(&self, signal: &Signal) -> bool {
        match self.tap() {
            Some(tap) => wait(signal, &[self.tun.as_fd(), tap.as_fd()], PollTimeout::NONE),
            None => wait(signal, &[self.tun.as_fd()], PollTimeout::NONE),
        }
    }

    fn helpers(&self) -> bool {
        self.shared.helpers.load(Ordering::Relaxed)
    }

    fn work(&self, batch: &mut OutBatch) {
        if let Some(mtu) = batch.plane.as_ref().map(|plane| plane.mtu) {
            batch.seal(mtu);
        }
    }

    fn finish(&self, batch: &mut OutBatch) {
        if let Some(plane) = batch.plane.take() {
            batch.send(&Context { shared: &self.shared, plane: &plane });
        }
    }
}

impl OutBatch {
    pub(super) fn new() -> Self {
        Self {
            plane: None,
            input: vec![0; INPUT_BYTES],
            used: 0,
            packets: Vec::with_capacity(PACKETS_MAX),
            groups: Vec::with_capacity(PACKETS_MAX),
            output: vec![0; OUTPUT_BYTES],
            planned: 0,
            runs: Vec::with_capacity(PACKETS_MAX),
        }
    }

    fn clear(&mut self) {
        self.used = 0;
        self.planned = 0;
        self.packets.clear();
        self.groups.clear();
        self.runs.clear();
    }

    fn is_full(&self) -> bool {
        self.used + READ_MAX > self.input.len()
            || self.packets.len() >= PACKETS_MAX
            || self.planned >= OUTPUT_BYTES
    }

    /// Takes what was read behind `used`: so many octets that mean nothing, then so many of header and packet. What is no
    /// IP packet is dropped for the reason that is given.
    fn take(&mut self, context: &Context<'_>, skipped: usize, length: usize, foreign: DropReason) {
        let begin = self.used + skipped;
        self.used += (skipped + length).next_multiple_of(16);
        let read = &mut self.input[begin..begin + length];
        let parsed = virtio::Header::parse(read).ok_or(SplitError::Malformed).and_then(|header| {
            let split = Split::new(&header, &mut read[virtio::HEADER..])?;
            if header.gso == Gso::None {
                // Its checksum is complete: who has to wait for a session comes by here again.
                read[..virtio::HEADER].copy_from_slice(&virtio::Header::PLAIN.to_bytes());
            }
            Ok((split, &read[virtio::HEADER..]))
        });
        let (split, packet) = match parsed {
            Ok(parsed) => parsed,
            Err(SplitError::NotIp) => return context.drop_packet(foreign),
            Err(SplitError::Malformed) => return context.drop_packet(DropReason::MalformedSuper),
        };
        let Some(peer) = context.plane.allowed.lookup(inner_address(packet, Side::Destination)) else {
            return context.drop_packet(DropReason::NoPeer);
        };
        let packet_len = split.packet_len(packet);
        // The kernel has seen to it at the TUN; nobody has at the TAP.
        if skipped > 0 && packet_len > context.plane.mtu {
            return context.drop_packets(DropReason::TooBig, split.count());
        }
        let messages = split.count() * sealed_len(packet_len, context.plane.mtu);
        if messages > MESSAGES_BYTES_MAX {
            return context.drop_packet(DropReason::MalformedSuper);
        }
        self.planned += messages;
        let at = begin + virtio::HEADER;
        let tos = ecn::outer(context.plane.dscp, packet);
        let whole = split.count() == 1 && must_stay_whole(packet);
        let group = self.group_of(peer);
        self.groups[group].messages += split.count() as u64;
        self.packets.push(Packet { group, at, length: length - virtio::HEADER, split, tos, whole });
    }

    fn group_of(&mut self, peer: &Arc<Peer>) -> usize {
        let found = self.groups.iter().rposition(|group| Arc::ptr_eq(&group.peer, peer));
        found.unwrap_or_else(|| {
            let peer = Arc::clone(peer);
            self.groups.push(Group { peer, session: None, counter: 0, messages: 0, bytes: 0 });
            self.groups.len() - 1
        })
    }

    /// Gives every peer's packets their session and counters; those of a peer without one wait at the
    /// peer.
    fn settle(&mut self, context: &Context<'_>) {
        if self.groups.len() > 1 {
            self.packets.sort_unstable_by_key(|packet| (packet.group, packet.at));
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            if group.peer.endpoint().is_none() {
                context.drop_packets(DropReason::NoEndpoint, messages(group));
                continue;
            }
            let settled = group.peer.sending(context, group.messages);
            if let Some((session, counter)) = settled {
                (group.session, group.counter) = (Some(session), counter);
                continue;
            }
            let packets = self.packets.iter().filter(|packet| packet.group == index);
            // With its virtio header, as it was read.
            let reads =
                packets.map(|packet| &self.input[packet.at - virtio::HEADER..packet.at + packet.length]);
            group.peer.hold(context, reads);
        }
    }

    /// Splits, checksums and seals.
    fn seal(&mut self, mtu: usize) {
        if self.output.len() < self.planned {
            self.output.resize(self.planned, 0);
        }
        let mut at = 0;
        for packet in &self.packets {
            let group = &mut self.groups[packet.group];
            let Some(session) = &group.session else { continue };
            let octets = &self.input[packet.at..packet.at + packet.length];
            for index in 0..packet.split.count() {
                let message = &mut self.output[at..];
                let length = packet.split.write(octets, index, &mut message[HEADER_LEN..]);
                let length = session.seal(group.counter, message, length, mtu);
                group.counter += 1;
                group.bytes += length as u64;
                add(&mut self.runs, packet, at, length);
                at += length;
            }
        }
    }

    /// Sends what was sealed.
    fn send(&mut self, context: &Context<'_>) {
        for run in &self.runs {
            let bytes = &self.output[run.at..run.at + run.length];
            let peer = &self.groups[run.group].peer;
            if run.whole {
                peer.send_whole(context, bytes);
            } else {
                peer.send_run(context, bytes, run.segment, run.tos);
            }
        }
        for group in self.groups.drain(..) {
            if let Some(session) = group.session {
                session.note_sent(context.now_ms(), true, group.bytes);
            }
        }
    }

    /// Sends what waited for a session of one peer, as it was read from the interface.
    pub(super) fn send_held(
        &mut self,
        context: &Context<'_>,
        peer: &Arc<Peer>,
        reads: impl Iterator<Item = Vec<u8>>,
    ) {
        let mut reads = reads.peekable();
        while reads.peek().is_some() {
            self.clear();
            while !self.is_full()
                && let Some(read) = reads.next()
            {
                let used = self.used;
                self.input[used..used + read.len()].copy_from_slice(&read);
                self.take(context, 0, read.len(), DropReason::NotIp);
            }
            for group in &mut self.groups {
                // An address that has become another peer's since is lost, as it would be on its way.
                let settled = if Arc::ptr_eq(&group.peer, peer) {
                    peer.take_counters(context, group.messages)
                } else {
                    None
                };
                match settled {
                    Some((session, counter)) => (group.session, group.counter) = (Some(session), counter),
                    None => context.drop_packets(DropReason::NoSession, messages(group)),
                }
            }
            self.seal(context.plane.mtu);
            self.send(context);
        }
    }
}

/// Adds a message to the last run, if it continues it; or begins another.
fn add(runs: &mut Vec<Run>, packet: &Packet, at: usize, length: usize) {
    if let Some(run) = runs.last_mut()
        && !packet.whole
        && run.group == packet.group
        && run.tos == packet.tos
        && !run.ended
        && length <= run.segment
    {
        run.length += length;
        run.ended = length < run.segment;
        return;
    }
    let Packet { group, tos, whole, .. } = *packet;
    runs.push(Run { group, at, length, segment: length, tos, whole, ended: whole });
}

fn messages(group: &Group) -> usize {
    usize::try_from(group.messages).unwrap_or(usize::MAX)
}
