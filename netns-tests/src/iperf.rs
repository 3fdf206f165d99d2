//! `iperf3` between two namespaces, read from its JSON.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::process::Process;
use crate::{Ns, process, wait_until};

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// That many TCP streams.
    Tcp {
        /// Streams in parallel.
        streams: u32,
    },
    /// UDP at a rate.
    Udp {
        /// Payload of a datagram, bytes.
        payload_bytes: u32,
        /// Bit/s; 0 is as fast as possible.
        rate_bps: u64,
    },
}

/// What was measured, at the receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct IperfReport {
    /// Received, Mbit/s.
    pub mbps: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// UDP datagrams sent.
    pub packets: u64,
    /// UDP datagrams lost.
    pub lost: u64,
    /// How long it ran, seconds.
    pub seconds: f64,
    /// Bytes received.
    pub bytes: u64,
    /// All that iperf3 said.
    pub json: Value,
}

/// The port; each run has the receiving address to itself.
const PORT: u16 = 5201;

/// Sends from `from` to `address`, which is one of namespace `to`, for `time`.
///
/// # Errors
/// When either side fails, with what it said.
pub fn iperf(from: &Ns, to: &Ns, address: IpAddr, kind: Kind, time: Duration) -> Result<IperfReport> {
    iperf_on(from, to, address, kind, time, None)
}

/// The same with the sender held to the first and the receiver to the second of two processors.
///
/// # Errors
/// As [`iperf`].
pub fn iperf_on(
    from: &Ns,
    to: &Ns,
    address: IpAddr,
    kind: Kind,
    time: Duration,
    processors: Option<(usize, usize)>,
) -> Result<IperfReport> {
    let mut server = to.spawn(&format!("iperf3 -s -1 -B {address} -p {PORT}"))?;
    wait_listening(&mut server, PORT)?;
    let seconds = time.as_secs_f64().ceil().max(1.0);
    let mut command = from.command("iperf3");
    command.args(["-J", "-c", &address.to_string(), "-p", &PORT.to_string()]);
    command.args(["-t", &seconds.to_string(), "--connect-timeout", "3000"]);
    if let Some((sender, receiver)) = processors {
        command.args(["-A", &format!("{sender},{receiver}")]);
    }
    match kind {
        Kind::Tcp { streams } => command.args(["-P", &streams.to_string()]),
        Kind::Udp { payload_bytes, rate_bps } => {
            command.args(["-u", "-l", &payload_bytes.to_string(), "-b", &rate_bps.to_string()])
        }
    };
    let ended = process::finish(&mut command, time + Duration::from_secs(15))?;
    let json: Value =
        serde_json::from_str(&ended.out).with_context(|| format!("iperf3: {}{}", ended.out, ended.err))?;
    if let Some(error) = json["error"].as_str() {
        anyhow::bail!("iperf3 {} → {address}: {error}\n{}", from.label(), server.log());
    }
    Ok(report(json, matches!(kind, Kind::Udp { .. })))
}

fn report(json: Value, udp: bool) -> IperfReport {
    let end = &json["end"];
    let sum = if udp { &end["sum"] } else { &end["sum_received"] };
    let lost_share = sum["lost_percent"].as_f64().unwrap_or(0.0) / 100.0;
    let mbps = sum["bits_per_second"].as_f64().unwrap_or(0.0) / 1e6;
    IperfReport {
        mbps: if udp { mbps * (1.0 - lost_share) } else { mbps },
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        packets: sum["packets"].as_u64().unwrap_or(0),
        lost: sum["lost_packets"].as_u64().unwrap_or(0),
        seconds: sum["seconds"].as_f64().unwrap_or(0.0),
        bytes: sum["bytes"].as_u64().unwrap_or(0),
        json,
    }
}

/// Waits until a process has a TCP socket listening on `port`, without connecting to it.
///
/// # Errors
/// When it ends or does not listen within 5 s.
pub fn wait_listening(process: &mut Process, port: u16) -> Result<()> {
    let pid = process.pid();
    let wanted = format!(":{port:04X}");
    let listens = |table: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|local| local.ends_with(&wanted)) && words.nth(1) == Some("0A")
        })
    };
    wait_until(Duration::from_secs(5), &format!("a listener on port {port}"), || {
        listens("tcp") || listens("tcp6")
    })
    .with_context(|| process.log())
}
