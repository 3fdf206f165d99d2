//! The responder: listens, admits one session per peer, and does the far half of each test.
//!
//! One thread accepts on each address, one serves each connection; data streams are handed to the
//! thread of their session. Every wait has a limit, every table a size: what a peer can hold is one
//! session, its streams and one UDP socket, for the length of one test and [`GRACE_MS`].

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tracing::{debug, warn};

use super::spec::{SpecError, TestKind, limit};
use super::stream::{self, Limit, TICK};
use super::wire::{
    Answer, Counts, FrameError, HELLO_MS_MAX, Refusal, Request, SessionRequest, read_frame, write_frame,
};
use super::{
    RR_PAYLOAD_BYTES_MAX, SESSIONS_MAX, STREAMS_MAX, TEST_MS_MAX, TEST_MS_MIN, UDP_PAYLOAD_BYTES_MAX,
    UDP_PAYLOAD_BYTES_MIN, rr, udp,
};

/// How much longer than its test a session may live, in milliseconds.
pub(super) const GRACE_MS: u64 = 5_000;
/// How long the streams and the first UDP packet may take to come, in milliseconds.
const SETUP_MS_MAX: u64 = 3_000;
/// Silence after which a UDP test whose sender has finished is over.
const DRAIN: Duration = Duration::from_millis(300);
/// Most connections with a thread of their own.
const CONNECTIONS_MAX: usize = 64;
/// Stands for "not said yet" in a shared packet count.
const UNKNOWN: u64 = u64::MAX;

/// Where a responder listens and whom it serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponderOptions {
    /// Addresses to listen on; they need not exist yet. Port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// Who may connect; `None` is everybody, others are hung up on.
    pub allowed: Option<Vec<IpNet>>,
}

/// A running responder. It stops when dropped; sessions then end within a fraction of a second.
#[derive(Debug)]
pub struct Responder {
    addresses: Vec<SocketAddr>,
    listeners: Vec<Arc<TcpListener>>,
    acceptors: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    allowed: Option<Vec<IpNet>>,
    stop: AtomicBool,
    connections: AtomicUsize,
    sessions: Mutex<HashMap<u64, Entry>>,
}

#[derive(Debug)]
struct Entry {
    peer: IpAddr,
    streams: SyncSender<TcpStream>,
}

impl Responder {
    /// Starts to listen, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// An address cannot be listened on; none is then.
    pub fn start(options: &ResponderOptions) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            allowed: options.allowed.clone(),
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            sessions: Mutex::default(),
        });
        let listeners =
            options.listen.iter().map(|a| listen(*a).map(Arc::new)).collect::<io::Result<Vec<_>>>()?;
        let addresses = listeners.iter().map(|l| l.local_addr()).collect::<io::Result<Vec<_>>>()?;
        let mut responder = Self { addresses, listeners, acceptors: Vec::new(), shared };
        for listener in &responder.listeners {
            let (listener, shared) = (Arc::clone(listener), Arc::clone(&responder.shared));
            let thread = std::thread::Builder::new().name("measure-accept".into());
            responder.acceptors.push(thread.spawn(move || accept_all(&listener, &shared))?);
        }
        Ok(responder)
    }

    /// Where it listens, with the ports that were taken.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until it stops, which is when another thread drops nothing: for a program whose only
    /// work this is.
    pub fn wait(&mut self) {
        for acceptor in self.acceptors.drain(..) {
            // A panic was reported by its own thread.
            let _ = acceptor.join();
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for listener in &self.listeners {
            // SAFETY: the descriptor is open as long as `listener` is borrowed. Shutting a listening
            // socket down wakes the thread that accepts on it.
            unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
        }
        self.wait();
    }
}

/// Listens on an address that need not exist yet, for both families when it is `[::]`.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&SockAddr::from(address))?;
    socket.listen(i32::from(STREAMS_MAX) * 2)?;
    Ok(socket.into())
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, peer)) => admit(stream, peer, shared),
            Err(_) if shared.stop.load(Ordering::Relaxed) => return,
            Err(error) => {
                warn!(%error, "measurement listener");
                std::thread::sleep(TICK);
            }
        }
    }
}

/// Gives a connection a thread, or hangs up when its peer is not allowed or there are too many.
fn admit(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) {
    let peer = peer.ip().to_canonical();
    let allowed = shared.allowed.as_ref().is_none_or(|nets| nets.iter().any(|net| net.contains(&peer)));
    if !allowed {
        debug!(%peer, "measurement peer is not allowed");
        return;
    }
    let place = Place::take(shared);
    let Some(place) = place else {
        debug!(%peer, "too many measurement connections");
        return;
    };
    let thread = std::thread::Builder::new().name("measure".into());
    let spawned = thread.spawn(move || {
        if let Err(error) = serve(stream, peer, &place.0) {
            debug!(%peer, %error, "measurement connection");
        }
    });
    if let Err(error) = spawned {
        warn!(%error, "no thread for a measurement");
    }
}

/// One of the [`CONNECTIONS_MAX`] places.
struct Place(Arc<Shared>);

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        let before = shared.connections.fetch_add(1, Ordering::Relaxed);
        let place = Self(Arc::clone(shared));
        (before < CONNECTIONS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads the first frame of a connection and does what it asks for.
fn serve(stream: TcpStream, peer: IpAddr, shared: &Arc<Shared>) -> Result<(), FrameError> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(Duration::from_millis(HELLO_MS_MAX)))?;
    let until = Instant::now() + Duration::from_millis(HELLO_MS_MAX);
    match read_frame(&stream, until) {
        Ok(Request::Session(request)) => serve_session(&stream, peer, &request, shared),
        Ok(Request::Stream { session }) => hand_over(stream, peer, session, shared),
        Ok(Request::Go {} | Request::Sent { .. }) => {
            refuse(&stream, Refusal::Malformed, "a connection begins with `session` or `stream`")
        }
        Err(error) => {
            if let Some(answer) = error.refusal() {
                write_frame(&stream, &answer)?;
            }
            Err(error)
        }
    }
}

fn refuse(stream: &TcpStream, reason: Refusal, detail: impl Into<String>) -> Result<(), FrameError> {
    write_frame(stream, &Answer::Refused { reason, detail: detail.into() })?;
    Ok(())
}

/// Gives a data stream to the session that waits for it.
fn hand_over(stream: TcpStream, peer: IpAddr, id: u64, shared: &Shared) -> Result<(), FrameError> {
    let streams = shared.table().get(&id).filter(|e| e.peer == peer).map(|e| e.streams.clone());
    let Some(streams) = streams else {
        return refuse(&stream, Refusal::Unknown, "no such session");
    };
    write_frame(&stream, &Answer::Accepted { session: id, udp_port: None })?;
    // A session that has all of its streams takes no more: the surplus one is closed here.
    let _ = streams.try_send(stream);
    Ok(())
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the table of sessions, given back when dropped.
struct Slot {
    id: u64,
    shared: Arc<Shared>,
    streams: Receiver<TcpStream>,
}

impl Slot {
    /// Takes the peer's place, or says in words why there is none.
    fn take(peer: IpAddr, streams_max: u8, shared: &Arc<Shared>) -> Result<Self, &'static str> {
        let mut table = shared.table();
        if table.values().any(|entry| entry.peer == peer) {
            return Err("another measurement from this address is running");
        }
        if table.len() >= SESSIONS_MAX {
            return Err("as many measurements as the responder serves are running");
        }
        let id = getrandom::u64().map_err(|_| "no random numbers")?;
        let (sender, streams) = sync_channel(usize::from(streams_max));
        table.insert(id, Entry { peer, streams: sender });
        Ok(Self { id, shared: Arc::clone(shared), streams })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.table().remove(&self.id);
    }
}

fn serve_session(
    control: &TcpStream,
    peer: IpAddr,
    request: &SessionRequest,
    shared: &Arc<Shared>,
) -> Result<(), FrameError> {
    if let Err(fault) = check(request) {
        return refuse(control, Refusal::Limit, fault.to_string());
    }
    let slot = match Slot::take(peer, request.streams, shared) {
        Ok(slot) => slot,
        Err(reason) => return refuse(control, Refusal::Busy, reason),
    };
    let local = control.local_addr()?;
    let socket = if request.test.is_udp() {
        match udp::bind(local.ip(), Some(local.port())) {
            Ok(socket) => Some(socket),
            Err(error) => return refuse(control, Refusal::System, format!("no UDP socket: {error}")),
        }
    } else {
        None
    };
    let udp_port = socket.as_ref().map(UdpSocket::local_addr).transpose()?.map(|a| a.port());
    write_frame(control, &Answer::Accepted { session: slot.id, udp_port })?;
    let test = Test { control, peer, request, id: slot.id, limit: session_limit(request, shared) };
    let outcome = match &socket {
        Some(socket) => test.run_udp(socket),
        None => test.run_tcp(&slot.streams),
    };
    // The peer may begin its next test as soon as it reads the answer: its place must be free then.
    drop(socket);
    drop(slot);
    let counts = outcome.inspect_err(|error| {
        // The peer may be gone already; the cause is reported by the caller.
        let _ = refuse(control, Refusal::System, error.to_string());
    })?;
    write_frame(control, &Answer::Finished(counts))?;
    Ok(())
}

fn session_limit<'a>(request: &SessionRequest, shared: &'a Shared) -> Limit<'a> {
    Limit::after(u64::from(request.test_ms) + GRACE_MS, &shared.stop)
}

fn check(request: &SessionRequest) -> Result<(), SpecError> {
    let payload = u64::from(request.payload_bytes);
    limit("test_ms", request.test_ms.into(), TEST_MS_MIN.into(), TEST_MS_MAX.into())?;
    limit("streams", request.streams.into(), 1, STREAMS_MAX.into())?;
    match request.test {
        TestKind::Tcp | TestKind::TcpReverse => Ok(()),
        TestKind::RrTcp => limit("payload_bytes", payload, 1, RR_PAYLOAD_BYTES_MAX.into()),
        TestKind::RrUdp => limit("payload_bytes", payload, 1, RR_PAYLOAD_BYTES_MAX.into()),
        TestKind::Udp | TestKind::UdpReverse => {
            limit("payload_bytes", payload, UDP_PAYLOAD_BYTES_MIN.into(), UDP_PAYLOAD_BYTES_MAX.into())
        }
    }
}

/// One admitted test.
struct Test<'a> {
    control: &'a TcpStream,
    peer: IpAddr,
    request: &'a SessionRequest,
    id: u64,
    limit: Limit<'a>,
}

impl Test<'_> {
    fn run_tcp(&self, arriving: &Receiver<TcpStream>) -> Result<Counts, FrameError> {
        let streams = self.collect(arriving)?;
        match self.request.test {
            TestKind::TcpReverse => self.run_tcp_reverse(&streams),
            TestKind::RrTcp => {
                stream::on_each(&streams, |s| rr::answer_tcp(s, self.request.payload_bytes, self.limit))?;
                Ok(Counts::default())
            }
            _ => Ok(stream::sum(&stream::on_each(&streams, |s| stream::drain(s, self.limit))?)),
        }
    }

    /// Sends, then waits until the peer has everything: only then are the retransmits complete.
    fn run_tcp_reverse(&self, streams: &[TcpStream]) -> Result<Counts, FrameError> {
        let sending = Limit::after(self.request.test_ms.into(), self.limit.stop);
        stream::on_each(streams, |s| stream::fill(s, sending))?;
        self.await_sent()?;
        let retransmits = streams.iter().map(stream::retransmits).sum();
        Ok(Counts { retransmits, ..Counts::default() })
    }

    /// Waits for all data streams of the session.
    fn collect(&self, arriving: &Receiver<TcpStream>) -> Result<Vec<TcpStream>, FrameError> {
        let until = Instant::now() + Duration::from_millis(SETUP_MS_MAX);
        let mut streams = Vec::with_capacity(self.request.streams.into());
        while streams.len() < self.request.streams.into() {
            let left = until.saturating_duration_since(Instant::now());
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "not all streams came");
            streams.push(arriving.recv_timeout(left).map_err(late)?);
        }
        Ok(streams)
    }

    fn run_udp(&self, socket: &UdpSocket) -> Result<Counts, FrameError> {
        let setup = Limit::after(SETUP_MS_MAX, self.limit.stop);
        if !udp::welcome(socket, self.peer, self.id, setup)? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no UDP packet of this session came").into());
        }
        match self.request.test {
            TestKind::UdpReverse => self.run_udp_reverse(socket),
            TestKind::RrUdp => self.beside_control(|sent| {
                let done = || sent.load(Ordering::Relaxed) != UNKNOWN;
                rr::answer_udp(socket, self.id, self.limit, done)?;
                Ok(Counts::default())
            }),
            _ => self.beside_control(|sent| {
                udp::count(socket, self.id, self.limit, |received, silence| {
                    let sent = sent.load(Ordering::Relaxed);
                    sent != UNKNOWN && (received >= sent || silence > DRAIN)
                })
            }),
        }
    }

    fn run_udp_reverse(&self, socket: &UdpSocket) -> Result<Counts, FrameError> {
        match read_frame(self.control, self.limit.until)? {
            Request::Go {} => {}
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "`go` was expected").into()),
        }
        let sending = Limit::after(self.request.test_ms.into(), self.limit.stop);
        let SessionRequest { payload_bytes, rate_bit_s, .. } = *self.request;
        let packets = udp::send(socket, self.id, payload_bytes, rate_bit_s, sending)?;
        write_frame(self.control, &Answer::Sent { packets })?;
        self.await_sent()?;
        Ok(Counts::default())
    }

    /// Waits for the peer's word that it is done; returns its packet count.
    fn await_sent(&self) -> Result<u64, FrameError> {
        match read_frame(self.control, self.limit.until)? {
            Request::Sent { packets } => Ok(packets.min(UNKNOWN - 1)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "`sent` was expected").into()),
        }
    }

    /// Runs `work` while another thread waits for the peer's `sent`; a control connection that
    /// breaks ends the work too.
    fn beside_control(
        &self,
        work: impl FnOnce(&AtomicU64) -> io::Result<Counts>,
    ) -> Result<Counts, FrameError> {
        let sent = AtomicU64::new(UNKNOWN);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let found = self.await_sent();
                sent.store(*found.as_ref().unwrap_or(&0), Ordering::Relaxed);
                found
            });
            let counts = work(&sent);
            if counts.is_err() {
                // Wakes the waiter: nothing more is read from a session that failed here.
                let _ = self.control.shutdown(std::net::Shutdown::Read);
            }
            let found = waiter.join().map_err(|_| io::Error::other("the control thread panicked"))?;
            found?;
            Ok(counts?)
        })
    }
}
