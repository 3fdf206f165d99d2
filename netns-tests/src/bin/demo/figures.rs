//! What one path can do: echoes over IPv4 and IPv6, throughput both ways, request and response.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::echo::{EchoServer, tcp_rr};
use netns_tests::iperf::{Kind, iperf};
use netns_tests::ping::{Ping, ping};
use netns_tests::{Ns, wait_until};

use crate::progress::say;

/// How long a path may take until its first echo comes back.
const FIRST_ECHO: Duration = Duration::from_secs(15);
/// How long TCP sends in each direction.
const THROUGHPUT: Duration = Duration::from_secs(2);
/// How long requests follow each other.
const REQUESTS: Duration = Duration::from_secs(1);
/// Echoes of each family; every one has to come back.
const ECHOES: u32 = 5;

/// An end of a path: a machine and its addresses.
#[derive(Debug, Clone)]
pub(crate) struct End {
    /// For people.
    pub(crate) name: String,
    /// The machine.
    pub(crate) ns: Ns,
    /// Its IPv4 address.
    pub(crate) v4: Ipv4Addr,
    /// Its IPv6 address.
    pub(crate) v6: Ipv6Addr,
}

impl End {
    /// The end called `name`.
    pub(crate) fn new(name: &str, ns: &Ns, (v4, v6): (Ipv4Addr, Ipv6Addr)) -> Self {
        Self { name: name.to_owned(), ns: ns.clone(), v4, v6 }
    }
}

/// What was measured on a path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Median round trip over IPv4, microseconds.
    v4_us: f64,
    /// Median round trip over IPv6, microseconds.
    v6_us: f64,
    /// TCP from the first end to the second, Mbit/s.
    there_mbps: f64,
    /// TCP from the second end to the first, Mbit/s.
    back_mbps: f64,
    /// Requests answered a second, one after the other.
    requests_per_s: f64,
    /// Their median and 99th percentile, microseconds.
    requests_us: (f64, f64),
}

impl Figures {
    /// Three short rows for the edge of a drawing.
    pub(crate) fn rows(&self) -> [String; 3] {
        let ms = |us: f64| us / 1000.0;
        [
            format!("TCP → {:.0}, ← {:.0} Mbit/s", self.there_mbps, self.back_mbps),
            format!("{:.0} requests/s", self.requests_per_s),
            format!("ping {:.2}, v6 {:.2} ms", ms(self.v4_us), ms(self.v6_us)),
        ]
    }

    /// The most bytes that any measurement of this path moved in one direction, at least.
    pub(crate) fn bytes_there(&self) -> u64 {
        (self.there_mbps * 1e6 / 8.0 * THROUGHPUT.as_secs_f64()) as u64
    }

    fn print(&self, from: &End, to: &End) {
        let [tcp, ..] = self.rows();
        say(&format!(
            "{} ↔ {}: ping v4 {:.0} us, v6 {:.0} us (medians of {ECHOES}, none lost)",
            from.name, to.name, self.v4_us, self.v6_us
        ));
        say(&format!(
            "    {tcp}; {:.0} requests/s, p50 {:.0} us, p99 {:.0} us",
            self.requests_per_s, self.requests_us.0, self.requests_us.1
        ));
    }
}

/// Measures the path between two ends and prints what came out.
///
/// # Errors
/// When an echo is lost, or anything does not get through.
pub(crate) fn measure(from: &End, to: &End) -> Result<Figures> {
    let figures = take(from, to).with_context(|| format!("{} ↔ {}", from.name, to.name))?;
    figures.print(from, to);
    Ok(figures)
}

fn take(from: &End, to: &End) -> Result<Figures> {
    let tcp = Kind::Tcp { streams: 1 };
    let (v4_us, v6_us) = (echoes(from, to.v4.into())?, echoes(from, to.v6.into())?);
    let there = iperf(&from.ns, &to.ns, to.v4.into(), tcp, THROUGHPUT)?;
    let back = iperf(&to.ns, &from.ns, from.v4.into(), tcp, THROUGHPUT)?;
    ensure!(there.mbps > 0.0 && back.mbps > 0.0, "TCP connects, and nothing follows");
    let server = EchoServer::start(&to.ns, to.v4.into())?;
    let requests = tcp_rr(&from.ns, SocketAddr::new(to.v4.into(), server.port()), REQUESTS)?;
    Ok(Figures {
        v4_us,
        v6_us,
        there_mbps: there.mbps,
        back_mbps: back.mbps,
        requests_per_s: requests.per_s,
        requests_us: (requests.p50_us, requests.p99_us),
    })
}

/// Waits for the first echo, then wants each of [`ECHOES`]; the median round trip, microseconds.
fn echoes(from: &End, to: IpAddr) -> Result<f64> {
    wait_until(FIRST_ECHO, &format!("an echo from {to} at {}", from.name), || ping(&from.ns, to))?;
    let mut report = Ping::to(to).count(ECHOES).send(&from.ns)?;
    ensure!(report.received == ECHOES, "{} of {ECHOES} echoes came back:\n{}", report.received, report.text);
    report.rtt_us.sort_by(f64::total_cmp);
    Ok(report.rtt_us[report.rtt_us.len() / 2])
}

/// One packet of `bytes` that must not be fragmented, and its answer.
///
/// # Errors
/// When it does not come back.
pub(crate) fn full_size(from: &End, to: IpAddr, bytes: u16) -> Result<()> {
    let report = Ping::to(to).full(bytes).send(&from.ns)?;
    ensure!(report.received == 1, "a packet of {bytes} bytes to {to} is not answered:\n{}", report.text);
    Ok(())
}
