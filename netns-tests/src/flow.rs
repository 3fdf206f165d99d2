//! A flow of numbered UDP datagrams from one namespace to another: what was lost, and for how long.
//!
//! The sender keeps an absolute timetable: a late wake-up is made good at once, so the count is what the
//! rate promises. A gap is the time between two arrivals, as the receiving thread saw them.

use std::collections::HashSet;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::socket::{setsockopt, sockopt};

use crate::{Ns, wait_until};

/// The least a datagram can carry: its number.
const NUMBER_BYTES: usize = 8;
/// How long the receiver waits for stragglers after the last datagram was sent.
const DRAIN: Duration = Duration::from_millis(700);

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct FlowSpec {
    /// The receiver's address, one of its namespace; port 0 lets the kernel choose.
    pub to: SocketAddr,
    /// Datagrams a second.
    pub rate_per_s: u32,
    /// UDP payload, at least 8 bytes.
    pub payload_bytes: usize,
}

impl FlowSpec {
    /// 200 datagrams a second of 200 bytes.
    #[must_use]
    pub fn to(to: SocketAddr) -> Self {
        Self { to, rate_per_s: 200, payload_bytes: 200 }
    }
}

/// What became of a flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// Datagrams that the sender's kernel took.
    pub sent: u64,
    /// Different ones that arrived.
    pub received: u64,
    /// Sent and never seen.
    pub lost: u64,
    /// Arrived after a later one.
    pub reordered: u64,
    /// Arrived again.
    pub duplicates: u64,
    /// Datagrams that the sender's kernel refused.
    pub refused: u64,
    /// The longest time between two arrivals.
    pub longest_gap: Duration,
}

/// Room for what has arrived and was not read yet, in bytes of kernel memory: some seconds of any flow of the tests.
const RECEIVE_BYTES: usize = 8 << 20;

/// A flow under way.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sender: Option<JoinHandle<Result<(u64, u64)>>>,
    receiver: Option<JoinHandle<FlowReport>>,
    end: Arc<AtomicBool>,
}

impl Flow {
    /// Starts receiver and sender; the first datagram is sent at once.
    ///
    /// # Errors
    /// When an address cannot be bound or reached.
    pub fn start(from: &Ns, to: &Ns, spec: FlowSpec) -> Result<Self> {
        let socket = to.run(|| UdpSocket::bind(spec.to)).context("bind the flow's receiver")?;
        let address = socket.local_addr()?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        // A receiver that waits for a processor does not lose what has arrived.
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BYTES).context("the receiver's buffer")?;
        let (stop, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let arrived = Arc::new(AtomicU64::new(0));
        let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
        let out = from.run(|| UdpSocket::bind(any)).context("bind the flow's sender")?;
        out.connect(address).ok();
        let receiver = {
            let (end, arrived) = (Arc::clone(&end), Arc::clone(&arrived));
            std::thread::spawn(move || receive(&socket, &end, &arrived))
        };
        let sender = {
            let stop = Arc::clone(&stop);
            from.thread(move || send(&out, address, spec, &stop))
        };
        Ok(Self { stop, arrived, sender: Some(sender), receiver: Some(receiver), end })
    }

    /// How many datagrams have arrived so far.
    #[must_use]
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Waits until `count` more have arrived.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn wait_for(&self, count: u64, limit: Duration) -> Result<()> {
        let goal = self.arrived() + count;
        wait_until(limit, &format!("{count} more datagrams of the flow"), || self.arrived() >= goal)
    }

    /// Goes on for a time.
    pub fn run_for(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Ends it, waits for stragglers, and tells.
    ///
    /// # Errors
    /// When the sender failed.
    pub fn stop(mut self) -> Result<FlowReport> {
        self.stop.store(true, Ordering::SeqCst);
        let sender = self.sender.take().context("a flow is stopped once")?;
        let (sent, refused) = sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        let quiet_since = Instant::now();
        let _ =
            wait_until(DRAIN, "stragglers", || self.arrived() >= sent && quiet_since.elapsed() > DRAIN / 4);
        self.end.store(true, Ordering::SeqCst);
        let receiver = self.receiver.take().context("a flow is stopped once")?;
        let mut report = receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        report.sent = sent;
        report.refused = refused;
        report.lost = sent.saturating_sub(report.received);
        Ok(report)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.end.store(true, Ordering::SeqCst);
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, spec: FlowSpec, stop: &AtomicBool) -> Result<(u64, u64)> {
    let mut payload = vec![0_u8; spec.payload_bytes.max(NUMBER_BYTES)];
    let step = Duration::from_secs(1) / spec.rate_per_s.max(1);
    let (start, mut number, mut refused) = (Instant::now(), 0_u64, 0_u64);
    let mut due = start;
    while !stop.load(Ordering::SeqCst) {
        payload[..NUMBER_BYTES].copy_from_slice(&number.to_be_bytes());
        match socket.send_to(&payload, to) {
            Ok(_) => number += 1,
            Err(_) => refused += 1,
        }
        due += step;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok((number, refused))
}

fn receive(socket: &UdpSocket, end: &AtomicBool, arrived: &AtomicU64) -> FlowReport {
    let mut report = FlowReport::default();
    let (mut seen, mut highest) = (HashSet::new(), None);
    let mut last: Option<Instant> = None;
    let mut buffer = vec![0_u8; 65_536];
    while !end.load(Ordering::SeqCst) {
        let Ok((length, _)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let Some(number) = buffer[..length].first_chunk::<NUMBER_BYTES>() else {
            continue;
        };
        let number = u64::from_be_bytes(*number);
        let now = Instant::now();
        if let Some(before) = last.replace(now) {
            report.longest_gap = report.longest_gap.max(now - before);
        }
        if !seen.insert(number) {
            report.duplicates += 1;
            continue;
        }
        report.reordered += u64::from(highest.is_some_and(|highest| number < highest));
        highest = highest.max(Some(number));
        report.received += 1;
        arrived.store(report.received, Ordering::Relaxed);
    }
    report
}
