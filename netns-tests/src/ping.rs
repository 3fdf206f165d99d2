//! ICMP and ICMPv6 echo by iputils `ping`.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::{Ns, process};

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Ping {
    /// Where to.
    pub to: IpAddr,
    /// How many.
    pub count: u32,
    /// Between two of them; root may go below 2 ms.
    pub interval: Duration,
    /// Bytes of the whole IP packet; `None` is ping's 56 bytes of payload.
    pub packet_bytes: Option<u16>,
    /// Don't fragment.
    pub df: bool,
    /// The source address, where it matters.
    pub from: Option<IpAddr>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Replies received.
    pub received: u32,
    /// Round trip, in microseconds, of each reply.
    pub rtt_us: Vec<f64>,
    /// What `ping` printed: errors of routers on the way are there.
    pub text: String,
}

impl Ping {
    /// One request of the usual size.
    #[must_use]
    pub fn to(to: IpAddr) -> Self {
        let interval = Duration::from_millis(20);
        Self { to, count: 1, interval, packet_bytes: None, df: false, from: None }
    }

    /// Several, 20 ms apart.
    #[must_use]
    pub fn count(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// A packet of this many bytes, IP header included, that must not be fragmented.
    #[must_use]
    pub fn full(mut self, packet_bytes: u16) -> Self {
        self.packet_bytes = Some(packet_bytes);
        self.df = true;
        self
    }

    /// From this address.
    #[must_use]
    pub fn from(mut self, from: IpAddr) -> Self {
        self.from = Some(from);
        self
    }

    /// Sends them and waits a second at most for the last reply. No reply at all is a report, not an error.
    ///
    /// # Errors
    /// When `ping` cannot run.
    pub fn send(&self, ns: &Ns) -> Result<PingReport> {
        let header = if self.to.is_ipv4() { 28 } else { 48 };
        let mut command = ns.command("ping");
        command.env("LC_ALL", "C").args(["-n", "-W", "1", "-c", &self.count.to_string()]);
        command.args(["-i", &self.interval.as_secs_f64().to_string()]);
        if let Some(bytes) = self.packet_bytes {
            command.args(["-s", &bytes.saturating_sub(header).to_string()]);
        }
        if self.df {
            command.args(["-M", "do"]);
        }
        if let Some(from) = self.from {
            command.args(["-I", &from.to_string()]);
        }
        command.arg(self.to.to_string());
        let limit = self.interval * self.count + Duration::from_secs(15);
        let ended = process::finish(&mut command, limit)?;
        parse(&ended.out).with_context(|| format!("{}{}", ended.out, ended.err))
    }
}

fn parse(text: &str) -> Result<PingReport> {
    let summary = text.lines().find(|line| line.contains("packets transmitted"));
    let summary = summary.context("ping without a summary")?;
    let number = |word: &str| -> Option<u32> {
        let part = summary.split(", ").find(|part| part.contains(word))?;
        part.split_whitespace().next()?.parse().ok()
    };
    let rtt = |line: &str| -> Option<f64> {
        let (_, rest) = line.split_once("time=")?;
        Some(rest.split_whitespace().next()?.parse::<f64>().ok()? * 1000.0)
    };
    Ok(PingReport {
        sent: number("transmitted").context("ping's summary without a count")?,
        received: number("received").context("ping's summary without replies")?,
        rtt_us: text.lines().filter_map(rtt).collect(),
        text: text.to_owned(),
    })
}

/// One echo there and back.
///
/// # Errors
/// When no reply comes, with what `ping` said.
pub fn ping(ns: &Ns, to: impl Into<IpAddr>) -> Result<()> {
    let to = to.into();
    let report = Ping::to(to).send(ns)?;
    ensure!(report.received == 1, "{} does not reach {to}:\n{}", ns.label(), report.text);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pings_own_words() {
        let text = "PING 127.0.0.1 (127.0.0.1) 56(84) bytes of data.\n\
            64 bytes from 127.0.0.1: icmp_seq=1 ttl=64 time=0.043 ms\n\n\
            --- 127.0.0.1 ping statistics ---\n\
            2 packets transmitted, 1 received, 50% packet loss, time 20ms\n";
        let report = parse(text).unwrap();
        assert_eq!((report.sent, report.received), (2, 1));
        assert!((report.rtt_us[0] - 43.0).abs() < 1e-9);
    }

    #[test]
    fn errors_on_the_way_do_not_hide_the_count() {
        let text = "From 10.0.0.1 icmp_seq=1 Destination Host Unreachable\n\
            1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms\n";
        let report = parse(text).unwrap();
        assert_eq!((report.sent, report.received), (1, 0));
    }
}
