//! The threads of a device: one reads the TUN interface, one reads the UDP sockets, one is the
//! clock. Each owns its buffers; nothing is allocated for a packet.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::{Packet, Tunn, TunnResult};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::drops::DropReason;
use super::peer::Peer;
use super::plane::{Context, Shared, View};
use super::tun::{self, Tun};
use super::udp::UdpPair;
use crate::lock;
use crate::protocol::Event;

/// Largest packet of a TUN interface or UDP socket, in bytes.
const PACKET_MAX: usize = 65_536;
/// Room for what sealing adds, and for the largest handshake message.
const SCRATCH_MAX: usize = PACKET_MAX + 256;
/// Packets taken from one descriptor before the others are looked at.
const BATCH_MAX: usize = 64;
/// Period of the clock thread. boringtun's timers have seconds; quick calls and keepalives are
/// exact to this.
const TICK: Duration = Duration::from_millis(100);
/// Period after which the handshake rate limiter begins anew.
const LIMITER_PERIOD: Duration = Duration::from_secs(1);

/// A running thread. Dropping it stops the thread and waits for its end.
pub(super) struct Worker {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(name: &str, run: impl FnOnce(&EventFd) + Send + 'static) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = Arc::new(EventFd::from_flags(flags)?);
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || run(&seen))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // An eventfd is full after 2^64 - 2 writes; this is the first.
        let _ = self.stop.write(1);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a packet thread had panicked");
        }
    }
}

/// Starts the thread that reads the TUN interface.
pub(super) fn start_tun(shared: &Arc<Shared>, tun: Arc<Tun>) -> io::Result<Worker> {
    let mut view = View::new(Arc::clone(shared));
    Worker::start(&format!("{}-tun", shared.name()), move |stop| {
        let mut packet = vec![0; PACKET_MAX];
        let mut scratch = vec![0; SCRATCH_MAX];
        while wait(stop, &[tun.as_fd()], PollTimeout::NONE) {
            if let Err(error) = drain_tun(&mut view, &tun, &mut packet, &mut scratch) {
                return lose_link(view.context().shared, &error);
            }
        }
    })
}

/// Starts the thread that reads the UDP sockets.
pub(super) fn start_udp(shared: &Arc<Shared>, udp: Arc<UdpPair>) -> io::Result<Worker> {
    let mut view = View::new(Arc::clone(shared));
    Worker::start(&format!("{}-udp", shared.name()), move |stop| {
        let mut packet = vec![0; PACKET_MAX];
        let mut scratch = vec![0; SCRATCH_MAX];
        let sockets: Vec<&UdpSocket> = [&udp.v4, &udp.v6].into_iter().flatten().collect();
        let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(|socket| socket.as_fd()).collect();
        while wait(stop, &fds, PollTimeout::NONE) {
            for socket in &sockets {
                drain_udp(&mut view, socket, &mut packet, &mut scratch);
            }
        }
    })
}

/// Starts the clock.
pub(super) fn start_clock(shared: &Arc<Shared>) -> io::Result<Worker> {
    let mut view = View::new(Arc::clone(shared));
    Worker::start(&format!("{}-clock", shared.name()), move |stop| {
        let mut scratch = vec![0; SCRATCH_MAX];
        let mut limiter_reset = Instant::now();
        let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::MAX);
        while wait(stop, &[], timeout) {
            let context = view.context();
            context.shared.advance_clock();
            if limiter_reset.elapsed() >= LIMITER_PERIOD {
                context.plane.identity.limiter.reset_count();
                limiter_reset = Instant::now();
            }
            for peer in context.plane.peers.values() {
                peer.tick(&context, &mut scratch);
            }
        }
    })
}

/// Waits for one of the descriptors or the timeout; false when the thread has to end.
fn wait(stop: &EventFd, fds: &[BorrowedFd<'_>], timeout: PollTimeout) -> bool {
    let readable = PollFlags::POLLIN;
    // At most the stop signal and one socket per address family.
    let mut polled = [(); 3].map(|()| PollFd::new(stop.as_fd(), readable));
    for (slot, fd) in polled[1..].iter_mut().zip(fds) {
        *slot = PollFd::new(*fd, readable);
    }
    match poll(&mut polled[..=fds.len()], timeout) {
        Ok(_) | Err(nix::Error::EINTR) => !polled[0].any().unwrap_or(false),
        Err(error) => {
            tracing::error!(%error, "poll");
            false
        }
    }
}

fn drain_tun(view: &mut View, tun: &Tun, packet: &mut [u8], scratch: &mut [u8]) -> io::Result<()> {
    for _ in 0..BATCH_MAX {
        match tun.receive(packet) {
            Ok(length) => route_out(&view.context(), &packet[..length], scratch),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn route_out(context: &Context<'_>, packet: &[u8], scratch: &mut [u8]) {
    let Some(destination) = Tunn::dst_address(packet) else {
        return context.drop_packet(DropReason::NotIp);
    };
    match context.plane.allowed.lookup(destination) {
        Some(peer) => peer.outbound(context, packet, scratch),
        None => context.drop_packet(DropReason::NoPeer),
    }
}

fn lose_link(shared: &Shared, error: &io::Error) {
    let reason = if tun::is_gone(error) {
        "the interface was deleted".to_owned()
    } else {
        format!("reading the interface: {error}")
    };
    tracing::warn!(device = shared.name(), reason, "link lost");
    *lock(&shared.error) = Some(reason);
    shared.link_lost.store(true, Ordering::Release);
    shared.publish(&Event::LinkLost { device: shared.name().to_owned() });
}

fn drain_udp(view: &mut View, socket: &UdpSocket, packet: &mut [u8], scratch: &mut [u8]) {
    for _ in 0..BATCH_MAX {
        match socket.recv_from(packet) {
            Ok((length, from)) => receive(&view.context(), &packet[..length], from, scratch),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // What an earlier send ran into is reported here; it is not about this packet.
            Err(error) => tracing::trace!(%error, "UDP socket"),
        }
    }
}

/// Finds whose message it is. A handshake message is checked before its sender is known, so that
/// nobody makes us compute for free (whitepaper §5.3).
fn receive(context: &Context<'_>, message: &[u8], from: SocketAddr, scratch: &mut [u8]) {
    let Ok(packet) = Tunn::parse_incoming_packet(message) else {
        return context.drop_packet(DropReason::Malformed);
    };
    if matches!(packet, Packet::HandshakeInit(_) | Packet::HandshakeResponse(_))
        && !may_enter(context, message, from, scratch)
    {
        return;
    }
    match find_peer(context, &packet) {
        Ok(peer) => peer.inbound(context, message, from, scratch),
        Err(reason) => context.drop_packet(reason),
    }
}

fn may_enter(context: &Context<'_>, message: &[u8], from: SocketAddr, scratch: &mut [u8]) -> bool {
    match context.plane.identity.limiter.verify_packet(Some(from.ip()), message, scratch) {
        Ok(_) => true,
        Err(TunnResult::WriteToNetwork(cookie)) => {
            context.drop_packet(DropReason::UnderLoad);
            if context.plane.udp.send(cookie, from).is_err() {
                context.drop_packet(DropReason::SendFailed);
            }
            false
        }
        Err(_) => {
            context.drop_packet(DropReason::BadMac);
            false
        }
    }
}

fn find_peer<'a>(context: &Context<'a>, packet: &Packet<'_>) -> Result<&'a Arc<Peer>, DropReason> {
    let plane = context.plane;
    let index = match packet {
        Packet::HandshakeInit(initiation) => {
            let identity = &plane.identity;
            let half = parse_handshake_anon(&identity.secret, &identity.public, initiation)
                .map_err(|_| DropReason::Refused)?;
            let key = crate::key::PublicKey::from_bytes(half.peer_static_public);
            return plane.peers.get(&key).ok_or(DropReason::UnknownPeer);
        }
        Packet::HandshakeResponse(response) => response.receiver_idx,
        Packet::PacketCookieReply(reply) => reply.receiver_idx,
        Packet::PacketData(data) => data.receiver_idx,
    };
    plane.by_index.get(&(index >> 8)).ok_or(DropReason::UnknownSession)
}
