//! The campus router of site A: BIRD or FRR, with the server's networks behind it.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Error, Result, bail, ensure};
use netns_tests::bird::Bird;
use netns_tests::frr::Frr;
use netns_tests::ping::ping;
use netns_tests::topology::SEGMENT_MTU;
use netns_tests::{Ns, wait_until};

use crate::figures::{End, full_size};
use crate::progress::{Progress, quote, say};

/// How long the session and its routes may take.
const LEARNT: Duration = Duration::from_secs(30);
/// What it has to learn from gateway A.
const SUBNETS: [&str; 2] = ["10.20.0.0/24", "fd20::/64"];

const BIRD: &str = "router id 10.30.0.2;
log stderr all;
protocol device {}
protocol direct { ipv4; ipv6; interface \"lan0\"; }
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { ipv6 { import none; export where source = RTS_BGP; }; }
protocol bgp watari4 {
  local 10.30.0.2 as 65001;
  neighbor 10.30.0.1 as 65100;
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 2;
  graceful restart on;
  ipv4 { import all; export where net = 192.0.2.0/24; };
}
protocol bgp watari6 {
  local fd30::2 as 65001;
  neighbor fd30::1 as 65100;
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 2;
  graceful restart on;
  ipv6 { import all; export where net = 2001:db8:2::/64; };
}
";

const ZEBRA: &str = "hostname campus\n";
const BGPD: &str = "router bgp 65001
 bgp router-id 10.30.0.2
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart
 neighbor 10.30.0.1 remote-as 65100
 neighbor 10.30.0.1 timers connect 2
 neighbor fd30::1 remote-as 65100
 neighbor fd30::1 timers connect 2
 address-family ipv4 unicast
  network 192.0.2.0/24
  neighbor 10.30.0.1 activate
 exit-address-family
 address-family ipv6 unicast
  network 2001:db8:2::/64
  neighbor fd30::1 activate
 exit-address-family
";

/// Which software plays the campus router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Software {
    /// BIRD 2.
    Bird,
    /// FRR.
    Frr,
}

impl FromStr for Software {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "bird" => Ok(Self::Bird),
            "frr" => Ok(Self::Frr),
            other => bail!("{other} is no campus router: bird or frr"),
        }
    }
}

/// The running campus router.
#[derive(Debug)]
pub(crate) enum Campus {
    /// BIRD 2.
    Bird(Bird),
    /// FRR.
    Frr(Frr),
}

impl Campus {
    /// Starts it in its namespace.
    pub(crate) fn start(software: Software, ns: &Ns, progress: &mut Progress) -> Result<Self> {
        let campus = match software {
            Software::Bird => {
                let mut bird = Bird::start(ns, BIRD)?;
                progress.watch_log("campus", bird.process().log_path().to_owned());
                Self::Bird(bird)
            }
            Software::Frr => {
                let mut frr = Frr::start(ns, ZEBRA, BGPD)?;
                progress.watch_log("campus", frr.bgpd().log_path().to_owned());
                Self::Frr(frr)
            }
        };
        say(&format!("{}, AS 65001, waits for gw-a at 10.30.0.1 and fd30::1", campus.version()?));
        Ok(campus)
    }

    fn version(&self) -> Result<String> {
        let text = match self {
            Self::Bird(bird) => bird.ask("show status")?,
            Self::Frr(frr) => frr.ask("show version")?,
        };
        let line = text.lines().find(|line| line.starts_with("BIRD 2") || line.starts_with("FRRouting"));
        let line = line.unwrap_or("a router of unknown version").trim_end_matches(" ready.");
        Ok(line.split(" (").next().unwrap_or(line).to_owned())
    }

    /// Waits for the flat network's subnets and prints the BGP table as the router itself shows it.
    pub(crate) fn show_routes(&self) -> Result<()> {
        wait_until(LEARNT, "the flat network's subnets at the campus router", || {
            let table = self.table()?;
            let missing: Vec<_> = SUBNETS.iter().filter(|subnet| !table.contains(**subnet)).collect();
            ensure!(missing.is_empty(), "{missing:?} of gw-a missing in\n{table}");
            Ok(())
        })?;
        say(match self {
            Self::Bird(_) => "birdc show route, on the campus router:",
            Self::Frr(_) => "vtysh, show bgp ipv4 and ipv6 unicast, on the campus router:",
        });
        quote(&self.table()?);
        Ok(())
    }

    fn table(&self) -> Result<String> {
        match self {
            Self::Bird(bird) => {
                let text = bird.routes("")?;
                let greeting = |line: &&str| line.starts_with("BIRD") || *line == "Access restricted";
                let lines = text.lines().filter(|line| !greeting(line) && !line.is_empty());
                Ok(lines.collect::<Vec<_>>().join("\n"))
            }
            Self::Frr(frr) => {
                let rows = |family: &str| -> Result<String> {
                    let text = frr.ask(&format!("show bgp {family} unicast"))?;
                    let legend = |line: &&str| !line.contains("codes:") && !line.starts_with("    ");
                    Ok(text.lines().filter(legend).collect::<Vec<_>>().join("\n"))
                };
                Ok(format!("{}\n{}", rows("ipv4")?, rows("ipv6")?))
            }
        }
    }
}

/// Each of `hosts` reaches the server over both families, with packets of every size the segment allows.
pub(crate) fn reaches(hosts: &[&End], server: &End) -> Result<()> {
    for host in hosts {
        for address in [server.v4.into(), server.v6.into()] {
            wait_until(LEARNT, &format!("{} to reach the server", host.name), || ping(&host.ns, address))?;
            full_size(host, address, SEGMENT_MTU)?;
        }
        say(&format!("{} reaches {} and {}, up to {SEGMENT_MTU} bytes", host.name, server.v4, server.v6));
    }
    Ok(())
}
