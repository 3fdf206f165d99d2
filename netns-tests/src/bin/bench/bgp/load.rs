//! The two processes around the daemon that is measured: one feeds pre-encoded UPDATEs, one counts what comes out.
//! Both are this program again, told what to do by lines on standard input, answering by lines on standard output.
//!
//! ```text
//!   bench ── announce, withdraw ──▶ feeders    ══ 10.99.1.n, AS 64600+n ══▶ 10.99.0.1 daemon
//!   bench ◀─ right T N, empty T ─── receivers  ══ 10.99.2.n, AS 64800+n ══▶      AS 65000
//! ```
//! Times are nanoseconds of CLOCK_MONOTONIC, which all processes share.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use watari_bgp::wire::{Capability, MessageType, Open, STANDARD_LIMIT, encode_keepalive, next_frame};
use watari_bgp::{Asn, RouterId};

use super::counter::Counter;
use super::routes::{FEEDER_ASN, Routes};

/// AS number of the first receiver; the others follow.
pub(crate) const RECEIVER_ASN: u32 = 64_800;
const BGP_PORT: u16 = 179;
/// How long a session may take to be established.
const PATIENCE: Duration = Duration::from_secs(60);
const READ_MAX: usize = 256 * 1024;

/// Who a process plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    Feeders,
    Receivers,
}

/// What a process is to do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) role: Role,
    pub(crate) count: u32,
    pub(crate) routes: Routes,
}

impl Job {
    /// Address and AS number of the `n`th.
    pub(crate) fn end(&self, n: u32) -> (IpAddr, u32) {
        let (net, asn) = match self.role {
            Role::Feeders => (1, FEEDER_ASN),
            Role::Receivers => (2, RECEIVER_ASN),
        };
        (address(self.routes.ipv6, net, n as u8 + 1), asn + n)
    }
}

/// The daemon's address.
pub(crate) const fn daemon(ipv6: bool) -> IpAddr {
    address(ipv6, 0, 1)
}

const fn address(ipv6: bool, net: u8, host: u8) -> IpAddr {
    if ipv6 {
        IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, net as u16, host as u16))
    } else {
        IpAddr::V4(Ipv4Addr::new(10, 99, net, host))
    }
}

/// Nanoseconds of the clock that all processes share.
pub(crate) fn now_ns() -> Result<u64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// The whole life of such a process; `words` are what follows its suite's name on the command line.
pub(crate) fn run(mut words: impl Iterator<Item = String>) -> Result<()> {
    let job: Job = serde_json::from_str(&words.next().context("what to do?")?)?;
    let streams: Vec<TcpStream> = (0..job.count).map(|n| connect(&job, n)).collect::<Result<_>>()?;
    match job.role {
        Role::Feeders => feed(&job, &streams),
        Role::Receivers => receive(&job, streams),
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn feed(job: &Job, streams: &[TcpStream]) -> Result<()> {
    let announced: Vec<Vec<u8>> =
        (0..job.count).map(|n| job.routes.announced(n, job.end(n).0)).collect::<Result<_>>()?;
    let withdrawn = job.routes.withdrawn();
    for stream in streams {
        let mut reading = stream.try_clone()?;
        std::thread::spawn(move || {
            let mut thrown = vec![0; READ_MAX];
            while matches!(reading.read(&mut thrown), Ok(1..)) {}
        });
    }
    say("ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        std::thread::scope(|scope| -> Result<()> {
            let writers: Vec<_> = (0..streams.len())
                .map(|n| {
                    let octets = if line == "announce" { &announced[n] } else { &withdrawn };
                    scope.spawn(move || (&streams[n]).write_all(octets))
                })
                .collect();
            for writer in writers {
                writer
                    .join()
                    .map_err(|_| anyhow::anyhow!("a feeder panicked"))?
                    .context("the session has ended")?;
            }
            Ok(())
        })?;
        say("sent")?;
    }
    Ok(())
}

fn receive(job: &Job, streams: Vec<TcpStream>) -> Result<()> {
    let mut counters: Vec<Counter> = (0..job.count).map(|_| Counter::new(job.routes)).collect();
    let mut buffer = vec![0; READ_MAX];
    let (mut was_right, mut was_empty) = (false, true);
    say("ready")?;
    loop {
        let mut waiting: Vec<PollFd<'_>> =
            streams.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut waiting, PollTimeout::NONE)?;
        let ready: Vec<usize> = (0..streams.len()).filter(|n| waiting[*n].any().unwrap_or(false)).collect();
        for n in ready {
            match (&streams[n]).read(&mut buffer) {
                Ok(0) | Err(_) => bail!("receiver {n}: the session has ended"),
                Ok(length) => counters[n].take(&buffer[..length]).with_context(|| format!("receiver {n}"))?,
            }
        }
        let is_right = counters.iter().all(Counter::is_right);
        if is_right && !was_right {
            let announced: u64 = counters.iter().map(|counter| counter.announced).sum();
            say(&format!("right {} {announced}", now_ns()?))?;
        }
        let is_empty = counters.iter().all(Counter::is_empty);
        if is_empty && !was_empty {
            say(&format!("empty {}", now_ns()?))?;
        }
        (was_right, was_empty) = (is_right, is_empty);
    }
}

/// A session as the daemon wants it: it may take a while until the daemon listens.
fn connect(job: &Job, n: u32) -> Result<TcpStream> {
    let start = Instant::now();
    loop {
        match establish(job, n) {
            Ok(stream) => return Ok(stream),
            Err(error) if start.elapsed() > PATIENCE => {
                return Err(error.context(format!("{:?} {n}: no session", job.role)));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn establish(job: &Job, n: u32) -> Result<TcpStream> {
    let (own, asn) = job.end(n);
    let domain = if job.routes.ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(own, 0).into())?;
    socket.connect_timeout(
        &SocketAddr::new(daemon(job.routes.ipv6), BGP_PORT).into(),
        Duration::from_secs(1),
    )?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (afi, safi) = job.routes.family().afi_safi();
    let net = if job.role == Role::Feeders { 1 } else { 2 };
    let open = Open {
        asn: Asn(asn),
        hold_time_s: 0,
        router_id: RouterId(Ipv4Addr::new(10, 99, net, n as u8 + 1)),
        capabilities: vec![Capability::MultiProtocol(afi, safi), Capability::FourOctetAs(Asn(asn))],
    };
    stream.write_all(&open.encode())?;
    expect(&mut stream, MessageType::Open)?;
    stream.write_all(&encode_keepalive())?;
    expect(&mut stream, MessageType::Keepalive)?;
    stream.set_read_timeout(None)?;
    Ok(stream)
}

/// Reads one message, which must be of that type; not an octet more.
fn expect(stream: &mut TcpStream, kind: MessageType) -> Result<()> {
    let mut message = vec![0; 19];
    stream.read_exact(&mut message)?;
    let length = usize::from(u16::from_be_bytes([message[16], message[17]]));
    ensure!((19..=STANDARD_LIMIT).contains(&length), "a message of {length} octets");
    message.resize(length, 0);
    stream.read_exact(&mut message[19..])?;
    let frame = next_frame(&message, STANDARD_LIMIT).map_err(|n| anyhow::anyhow!("{n:?}"))?;
    let frame = frame.context("half a message")?;
    ensure!(frame.kind == kind, "{:?} instead of {kind:?}: {:?}", frame.kind, frame.body);
    Ok(())
}
