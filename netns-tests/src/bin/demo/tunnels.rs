//! Which tunnel carries the flat network: not what a status says, but where the bytes pass.
//!
//! Gateway A sends WireGuard out of `uplink` and the direct tunnel out of `trunk1`; the kernel counts both.

use anyhow::{Result, ensure};
use netns_tests::ping::ping;
use netns_tests::topology::{SEGMENT_MTU, Tunnel};
use netns_tests::{Ns, wait_until};
use std::time::Duration;

use crate::figures::{self, End, Figures, full_size};
use crate::gateways::Pair;
use crate::progress::say;

/// How long a change of tunnel may take.
const SWITCHED: Duration = Duration::from_secs(10);
/// Echoes that tell one tunnel from the other, in a look.
const ECHOES: u32 = 10;

/// Bytes that gateway A has sent into the WAN and into the L2VPN.
#[derive(Debug, Clone, Copy)]
struct Sent {
    wan: u64,
    l2vpn: u64,
}

impl Sent {
    fn now(gateway: &Ns) -> Result<Self> {
        let counter = |interface: &str| -> Result<u64> {
            let path = format!("/sys/class/net/{interface}/statistics/tx_bytes");
            Ok(gateway.run(|| std::fs::read_to_string(path))?.trim().parse()?)
        };
        Ok(Self { wan: counter("uplink")?, l2vpn: counter("trunk1")? })
    }

    /// What `tunnel` and the other one have carried since.
    fn since(self, before: Self, tunnel: Tunnel) -> (u64, u64) {
        let (wan, l2vpn) = (self.wan - before.wan, self.l2vpn - before.l2vpn);
        match tunnel {
            Tunnel::Wireguard => (wan, l2vpn),
            Tunnel::Direct => (l2vpn, wan),
        }
    }
}

/// Waits until packets host A → host B pass through `tunnel` and not through the other.
///
/// # Errors
/// When they do not within 10 s.
pub(crate) fn carries(pair: &Pair, tunnel: Tunnel, from: &End, to: &End) -> Result<()> {
    let gateway = pair.a.ns();
    wait_until(SWITCHED, &format!("{tunnel:?} to carry what {} sends", from.name), || {
        ping(&from.ns, to.v4)?;
        let before = Sent::now(gateway)?;
        let size = f64::from(SEGMENT_MTU) * f64::from(ECHOES);
        for _ in 0..ECHOES {
            full_size(from, to.v4.into(), SEGMENT_MTU)?;
        }
        let (this, other) = Sent::now(gateway)?.since(before, tunnel);
        ensure!(this as f64 >= size && (other as f64) < size / 2.0, "{this} bytes here, {other} there");
        Ok::<_, anyhow::Error>(())
    })?;
    say(&format!("{ECHOES} packets of {SEGMENT_MTU} bytes: all through it, as gw-a's interfaces count"));
    Ok(())
}

/// The figures of host A ↔ host B, taken while `tunnel` carried them.
///
/// # Errors
/// When anything is lost, or the bytes went another way.
pub(crate) fn over(pair: &Pair, tunnel: Tunnel, from: &End, to: &End) -> Result<Figures> {
    wait_until(SWITCHED, "the first echo", || ping(&from.ns, to.v4))?;
    carries(pair, tunnel, from, to)?;
    for address in [to.v4.into(), to.v6.into()] {
        full_size(from, address, SEGMENT_MTU)?;
    }
    let before = Sent::now(pair.a.ns())?;
    let figures = figures::measure(from, to)?;
    let (this, other) = Sent::now(pair.a.ns())?.since(before, tunnel);
    let least = figures.bytes_there();
    ensure!(this >= least && other < least / 10, "{tunnel:?} carried {this} of {least} bytes, not all");
    Ok(figures)
}
