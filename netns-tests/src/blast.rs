//! UDP as fast as it goes, or at a rate: how many datagrams a second arrive.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::Ns;
use crate::process::hold_to;

/// Datagrams handed to the kernel at once.
const BATCH: usize = 32;
/// How long the receiver listens on after the sender has ended.
const DRAIN: Duration = Duration::from_millis(150);

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Blast {
    /// An address of the receiving namespace; port 0 lets the kernel choose.
    pub to: SocketAddr,
    /// UDP payload in bytes.
    pub payload_bytes: usize,
    /// Datagrams a second; 0 is as fast as it goes.
    pub rate_per_s: u32,
    /// For how long.
    pub time: Duration,
    /// The processors that sender and receiver are held to.
    pub processors: Option<(usize, usize)>,
}

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlastReport {
    /// Datagrams the sender's kernel took.
    pub sent: u64,
    /// Datagrams that arrived.
    pub received: u64,
    /// Received, per second of sending.
    pub received_per_s: f64,
}

impl Blast {
    /// Sends from `from`, counts in `to`.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn run(&self, from: &Ns, to: &Ns) -> Result<BlastReport> {
        let sink = to.run(|| UdpSocket::bind(self.to)).context("bind the sink")?;
        let address = sink.local_addr()?;
        sink.set_read_timeout(Some(Duration::from_millis(20)))?;
        enlarge(&sink, libc::SO_RCVBUFFORCE);
        let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
        let source = from.run(|| -> Result<_> {
            let socket = UdpSocket::bind(any)?;
            socket.connect(address)?;
            Ok(socket)
        })?;
        enlarge(&source, libc::SO_SNDBUFFORCE);
        let end = Arc::new(AtomicBool::new(false));
        let counting = {
            let (end, hold) = (Arc::clone(&end), self.processors.map(|(_, receiver)| receiver));
            std::thread::spawn(move || {
                hold_to(hold);
                count(&sink, &end, hold.is_some())
            })
        };
        let sending = || {
            hold_to(self.processors.map(|(sender, _)| sender));
            let start = Instant::now();
            (self.send(&source, start), start.elapsed().as_secs_f64())
        };
        // A thread of its own: the caller's is not to stay on one processor.
        let sending = std::thread::scope(|scope| scope.spawn(sending).join());
        let (sent, seconds) = sending.map_err(|_| anyhow!("the sender panicked"))?;
        std::thread::sleep(DRAIN);
        end.store(true, Ordering::SeqCst);
        let received = counting.join().map_err(|_| anyhow!("the sink panicked"))?;
        Ok(BlastReport { sent, received, received_per_s: received as f64 / seconds })
    }

    fn send(&self, socket: &UdpSocket, start: Instant) -> u64 {
        let payload = vec![0x55; self.payload_bytes];
        let mut sent = 0;
        while start.elapsed() < self.time {
            let due = f64::from(self.rate_per_s) * start.elapsed().as_secs_f64();
            if self.rate_per_s > 0 && sent as f64 > due {
                std::thread::sleep(Duration::from_micros(100));
                continue;
            }
            sent += batch(
                socket,
                BATCH,
                |message| {
                    message.iov_base = payload.as_ptr().cast_mut().cast();
                    message.iov_len = payload.len();
                },
                |fd, messages| {
                    // SAFETY: sendmmsg(2) over messages that point at live buffers.
                    unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), BATCH as u32, 0) }
                },
            );
        }
        sent
    }
}

/// Counts until `end`. A receiver with a processor of its own asks again and again: waking an idle virtual processor
/// for every datagram would cost its sender more than the path that is measured.
fn count(socket: &UdpSocket, end: &AtomicBool, asks: bool) -> u64 {
    let mut buffers = vec![[0_u8; 2048]; BATCH];
    let mut received = 0;
    let flags = if asks { libc::MSG_DONTWAIT } else { libc::MSG_WAITFORONE };
    while !end.load(Ordering::SeqCst) {
        let mut next = buffers.iter_mut();
        received += batch(
            socket,
            BATCH,
            |message| {
                if let Some(buffer) = next.next() {
                    message.iov_base = buffer.as_mut_ptr().cast();
                    message.iov_len = buffer.len();
                }
            },
            |fd, messages| {
                // SAFETY: recvmmsg(2) into messages that point at live buffers.
                unsafe {
                    libc::recvmmsg(fd, messages.as_mut_ptr(), BATCH as u32, flags, std::ptr::null_mut())
                }
            },
        );
    }
    received
}

/// Fills a batch of messages, makes the call, and says how many datagrams it moved.
fn batch(
    socket: &UdpSocket,
    length: usize,
    mut fill: impl FnMut(&mut libc::iovec),
    call: impl Fn(i32, &mut [libc::mmsghdr]) -> i32,
) -> u64 {
    let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    let mut vectors = vec![empty; length];
    vectors.iter_mut().for_each(&mut fill);
    // SAFETY: all-zero is a valid mmsghdr: no name, no control data.
    let mut messages: Vec<libc::mmsghdr> = vec![unsafe { std::mem::zeroed() }; length];
    for (message, vector) in messages.iter_mut().zip(&mut vectors) {
        message.msg_hdr.msg_iov = vector;
        message.msg_hdr.msg_iovlen = 1;
    }
    u64::try_from(call(socket.as_raw_fd(), &mut messages)).unwrap_or(0)
}

fn enlarge(socket: &UdpSocket, option: i32) {
    let bytes: libc::c_int = 8 << 20;
    // SAFETY: setsockopt(2) with a live int. Without the privilege the default size stays.
    let _ = unsafe {
        let length = size_of::<libc::c_int>() as u32;
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const bytes).cast(), length)
    };
}
