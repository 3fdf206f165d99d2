//! TCP data streams: connect, fill, drain, and what the kernel counted meanwhile.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::wire::{Counts, is_retry};

/// Bytes that one call writes or reads.
const CHUNK_BYTES: usize = 128 * 1024;
/// How long one call may block before the limit is looked at again.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Until when something may go on: a moment, or that somebody says stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit<'a> {
    pub(super) until: Instant,
    pub(super) stop: &'a AtomicBool,
}

impl<'a> Limit<'a> {
    pub(super) fn after(ms: u64, stop: &'a AtomicBool) -> Self {
        Self { until: Instant::now() + Duration::from_millis(ms), stop }
    }

    pub(super) fn over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || Instant::now() >= self.until
    }
}

/// Connects from `source` (any address when `None`) within `limit`.
pub(super) fn connect(target: SocketAddr, source: Option<IpAddr>, limit: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(source) = source {
        socket.bind(&SockAddr::from(SocketAddr::new(source, 0)))?;
    }
    socket.connect_timeout(&SockAddr::from(target), limit)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// Writes as fast as the stream takes it until the limit, then ends its direction.
pub(super) fn fill(mut stream: &TcpStream, limit: Limit<'_>) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK_BYTES];
    stream.set_write_timeout(Some(TICK))?;
    while !limit.over() {
        match stream.write(&chunk) {
            Ok(_) => {}
            Err(error) if is_retry(&error) => {}
            Err(error) => return Err(error),
        }
    }
    stream.shutdown(std::net::Shutdown::Write)
}

/// What one stream received.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Drained {
    bytes: u64,
    span: Option<(Instant, Instant)>,
}

/// Reads until the peer ends its direction, or the limit.
pub(super) fn drain(mut stream: &TcpStream, limit: Limit<'_>) -> io::Result<Drained> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut drained = Drained::default();
    stream.set_read_timeout(Some(TICK))?;
    while !limit.over() {
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(drained),
            Ok(count) => drained.add(count as u64, Instant::now()),
            Err(error) if is_retry(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(drained)
}

impl Drained {
    fn add(&mut self, bytes: u64, now: Instant) {
        self.bytes += bytes;
        self.span = Some((self.span.map_or(now, |(first, _)| first), now));
    }
}

/// The sum over several streams, from the very first byte to the very last.
pub(super) fn sum(streams: &[Drained]) -> Counts {
    let bytes = streams.iter().map(|s| s.bytes).sum();
    let first = streams.iter().filter_map(|s| s.span).map(|s| s.0).min();
    let last = streams.iter().filter_map(|s| s.span).map(|s| s.1).max();
    let took = first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first);
    Counts { bytes, took_us: took.as_micros() as u64, ..Counts::default() }
}

/// Does the same with every stream, each on a thread of its own.
pub(super) fn on_each<T: Send>(
    streams: &[TcpStream],
    work: impl Fn(&TcpStream) -> io::Result<T> + Sync,
) -> io::Result<Vec<T>> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = streams.iter().map(|stream| scope.spawn(move || work(stream))).collect();
        threads
            .into_iter()
            .map(|thread| {
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a stream's thread panicked")))
            })
            .collect()
    })
}

/// Segments that the kernel sent again on this connection; 0 when it does not say.
pub(super) fn retransmits(stream: &TcpStream) -> u64 {
    // SAFETY: tcp_info is plain old data for which all zeroes is a value; the kernel writes at most
    // `length` bytes into it and older kernels write fewer.
    let (status, info) = unsafe {
        let mut info: libc::tcp_info = std::mem::zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        let status = libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        );
        (status, info)
    };
    if status == 0 { u64::from(info.tcpi_total_retrans) } else { 0 }
}
