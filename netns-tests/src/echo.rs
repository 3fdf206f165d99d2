//! Request and response: an echo server over TCP and UDP in one namespace, clients in others.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::Ns;

const POLL: Duration = Duration::from_millis(50);
/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers on one address, TCP and UDP on the same port, until dropped.
#[derive(Debug)]
pub struct EchoServer {
    address: SocketAddr,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Round trips of a request/response run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RrReport {
    /// Transactions a second.
    pub per_s: f64,
    /// Median round trip, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// Transactions in all.
    pub count: usize,
}

impl EchoServer {
    /// Listens on `ip` (a wildcard will do) in `ns`, on a port the kernel chooses.
    ///
    /// # Errors
    /// When it cannot bind.
    pub fn start(ns: &Ns, ip: IpAddr) -> Result<Self> {
        let (tcp, udp) = ns.run(|| -> Result<_> {
            let tcp = TcpListener::bind((ip, 0)).context("bind TCP")?;
            let udp = UdpSocket::bind(tcp.local_addr()?).context("bind UDP")?;
            Ok((tcp, udp))
        })?;
        let address = tcp.local_addr()?;
        tcp.set_nonblocking(true)?;
        udp.set_read_timeout(Some(POLL))?;
        let end = Arc::new(AtomicBool::new(false));
        let (end_tcp, end_udp) = (Arc::clone(&end), Arc::clone(&end));
        let threads = vec![
            std::thread::spawn(move || serve_tcp(&tcp, &end_tcp)),
            std::thread::spawn(move || serve_udp(&udp, &end_udp)),
        ];
        Ok(Self { address, end, threads })
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, end: &Arc<AtomicBool>) {
    while !end.load(Ordering::SeqCst) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(2));
            continue;
        };
        let end = Arc::clone(end);
        std::thread::spawn(move || echo_stream(stream, &end));
    }
}

fn echo_stream(mut stream: TcpStream, end: &AtomicBool) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(POLL));
    let mut buffer = vec![0; 65_536];
    while !end.load(Ordering::SeqCst) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) if stream.write_all(&buffer[..n]).is_err() => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

fn serve_udp(socket: &UdpSocket, end: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !end.load(Ordering::SeqCst) {
        if let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    }
}

fn connect(ns: &Ns, to: SocketAddr) -> Result<TcpStream> {
    let stream = ns.run(|| TcpStream::connect_timeout(&to, PATIENCE));
    let stream = stream.with_context(|| format!("{} cannot connect to {to}", ns.label()))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Bytes that show it when one is missing, doubled or misplaced.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap_or(0)).collect()
}

/// Sends `bytes` over TCP and wants the same back.
///
/// # Errors
/// When it cannot connect, times out, or the bytes differ.
pub fn tcp(ns: &Ns, to: SocketAddr, bytes: usize) -> Result<()> {
    let stream = connect(ns, to)?;
    let sent = pattern(bytes);
    let mut writer = stream.try_clone()?;
    let mut back = vec![0; bytes];
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| writer.write_all(&sent));
        let read = (&stream).read_exact(&mut back);
        (writing.join().expect("writer"), read)
    });
    written.0.context("send")?;
    written.1.with_context(|| format!("{} bytes back from {to}", bytes))?;
    ensure!(back == sent, "{to} answered with other bytes");
    Ok(())
}

/// Sends one datagram and wants the same back, three tries.
///
/// # Errors
/// When no answer comes or the bytes differ.
pub fn udp(ns: &Ns, to: SocketAddr, bytes: usize) -> Result<()> {
    let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
    let socket = ns.run(|| UdpSocket::bind(any))?;
    socket.set_read_timeout(Some(PATIENCE / 3))?;
    let sent = pattern(bytes);
    let mut back = vec![0; 65_536];
    let answered = (0..3).find_map(|_| {
        socket.send_to(&sent, to).ok()?;
        socket.recv_from(&mut back).ok()
    });
    let (length, _) = answered.with_context(|| format!("no answer from {to} over UDP"))?;
    ensure!(back[..length] == sent[..], "{to} answered with other bytes");
    Ok(())
}

/// One byte there and back over TCP, again and again for `time`.
///
/// # Errors
/// When it cannot connect or an answer is missing.
pub fn tcp_rr(ns: &Ns, to: SocketAddr, time: Duration) -> Result<RrReport> {
    let mut stream = connect(ns, to)?;
    let (start, mut trips_us) = (Instant::now(), Vec::new());
    let mut byte = [1];
    while start.elapsed() < time {
        let before = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        trips_us.push(before.elapsed().as_secs_f64() * 1e6);
    }
    let seconds = start.elapsed().as_secs_f64();
    trips_us.sort_by(f64::total_cmp);
    let at = |q: f64| trips_us[((trips_us.len() - 1) as f64 * q) as usize];
    Ok(RrReport {
        per_s: trips_us.len() as f64 / seconds,
        p50_us: at(0.5),
        p99_us: at(0.99),
        count: trips_us.len(),
    })
}
