//! The threads of a device: a lane that reads the TUN interface and the TAP of an overlay, a lane that reads the UDP sockets, and the
//! clock.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::inbound::Inbound;
use super::lane::{Signal, Worker};
use super::outbound::Outbound;
use super::overlay::Tap;
use super::plane::{Shared, View};
use super::spare::Spare;
use super::tun::Tun;
use super::udp::UdpPair;

/// Period of the clock thread: timers of the protocol are exact to this.
const TICK: Duration = Duration::from_millis(100);
/// Ticks after which it is tried again whether a path carries runs of long datagrams.
const PATH_TICKS: u64 = 100;

/// Starts the lane that reads the TUN interface, and the TAP if there is one.
pub(super) fn start_tun(
    shared: &Arc<Shared>,
    tun: Arc<Tun>,
    tap: Option<Arc<Tap>>,
    threads: usize,
) -> io::Result<Worker> {
    Worker::lane(&format!("{}-tun", shared.name()), threads, Outbound::new(shared, tun, tap))
}

/// Starts the lane that reads the UDP sockets.
pub(super) fn start_udp(shared: &Arc<Shared>, udp: Arc<UdpPair>, threads: usize) -> io::Result<Worker> {
    Worker::lane(&format!("{}-udp", shared.name()), threads, Inbound::new(shared, udp))
}

/// Starts the clock.
pub(super) fn start_clock(shared: &Arc<Shared>) -> io::Result<Worker> {
    let mut view = View::new(Arc::clone(shared));
    Worker::start(&format!("{}-clock", shared.name()), move |signal| {
        let timeout = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::MAX);
        let mut ticks = 0_u64;
        let mut spare = Spare::new();
        while wait(signal, &[], timeout) {
            let context = view.context();
            context.shared.advance_clock();
            if let Some(helpers) = spare.look() {
                context.shared.helpers.store(helpers, Ordering::Relaxed);
            }
            ticks += 1;
            for peer in context.plane.peers.values() {
                peer.tick(&context);
                if ticks.is_multiple_of(PATH_TICKS) {
                    peer.forget_path();
                }
            }
        }
    })
}

/// Waits for one of the descriptors, the signal or the timeout; false when the thread has to end.
pub(super) fn wait(signal: &Signal, fds: &[BorrowedFd<'_>], timeout: PollTimeout) -> bool {
    let readable = PollFlags::POLLIN;
    // At most the signal and one socket per address family, or both interfaces.
    let mut polled = [(); 3].map(|()| PollFd::new(signal.as_fd(), readable));
    for (slot, fd) in polled[1..].iter_mut().zip(fds) {
        *slot = PollFd::new(*fd, readable);
    }
    match poll(&mut polled[..=fds.len()], timeout) {
        Ok(_) | Err(nix::Error::EINTR) => {
            if polled[0].any().unwrap_or(false) {
                signal.clear();
            }
            !signal.is_ended()
        }
        Err(error) => {
            tracing::error!(%error, "poll");
            false
        }
    }
}
