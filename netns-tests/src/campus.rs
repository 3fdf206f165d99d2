//! The campus router of site A as BIRD or as FRR: the same networks, the same questions to either.
//!
//! ```text
//!  [gw-a, AS 65100] 10.30.0.1 ── VLAN 300 ── 10.30.0.2 [campus, AS 65001] ─ 192.0.2.0/24 ─ server
//!                   fd30::1                  fd30::2                       2001:db8:2::/64
//! ```

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Ns;
use crate::bird::Bird;
use crate::frr::Frr;

/// How long a router may take to end by itself.
const STOP: Duration = Duration::from_secs(10);
/// The AS number that the document of [`crate::topology`] expects.
pub const ASN: u32 = 65_001;
/// The server's networks.
pub const LANS: [&str; 2] = ["192.0.2.0/24", "2001:db8:2::/64"];

/// Which software plays the campus router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Software {
    /// BIRD 2.
    Bird,
    /// FRR.
    Frr,
}

/// How it is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its AS number.
    pub asn: u32,
    /// It offers graceful restart (RFC 4724).
    pub graceful: bool,
    /// It watches its neighbour by BFD, 50 ms × 3; BIRD only.
    pub bfd: bool,
    /// What it tells beside the server's networks.
    pub more: Vec<&'static str>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { asn: ASN, graceful: true, bfd: false, more: vec![] }
    }
}

/// A running campus router; ended on drop.
#[derive(Debug)]
pub struct Campus {
    router: Router,
    setup: Setup,
}

#[derive(Debug)]
enum Router {
    Bird(Bird),
    Frr(Frr),
}

impl Campus {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(software: Software, ns: &Ns, setup: Setup) -> Result<Self> {
        ensure!(software == Software::Bird || !setup.bfd, "of FRR no bfdd is started here");
        let router = match software {
            Software::Bird => Router::Bird(Bird::start(ns, &bird_conf(&setup))?),
            Software::Frr => Router::Frr(Frr::start(ns, "hostname campus\n", &bgpd_conf(&setup))?),
        };
        Ok(Self { router, setup })
    }

    /// Whether it has a valid route to a prefix from gateway A.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn knows(&self, prefix: &str) -> Result<bool> {
        match &self.router {
            Router::Bird(bird) => {
                let name = if prefix.contains(':') { "watari6" } else { "watari4" };
                // BIRD answers an error of its own for a net that it has not.
                Ok(bird.routes(prefix).is_ok_and(|text| text.contains(&format!("[{name} "))))
            }
            Router::Frr(frr) => {
                let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
                let routes = frr.ask_json(&format!("show bgp {family} unicast {prefix} json"))?;
                Ok(routes["paths"][0]["valid"] == true)
            }
        }
    }

    /// Whether it keeps the route to a prefix for a gateway that is away.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn is_stale(&self, prefix: &str) -> Result<bool> {
        match &self.router {
            Router::Bird(bird) => {
                let name = if prefix.contains(':') { "watari6" } else { "watari4" };
                let session = bird.ask(&format!("show protocols all {name}"))?;
                Ok(session.contains("Neighbor graceful restart active") && self.knows(prefix)?)
            }
            Router::Frr(frr) => {
                let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
                let routes = frr.ask_json(&format!("show bgp {family} unicast {prefix} json"))?;
                Ok(routes["paths"][0]["stale"] == true)
            }
        }
    }

    /// Whether both sessions, over IPv4 and over IPv6, are established.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn established(&self) -> Result<bool> {
        Ok(match &self.router {
            Router::Bird(bird) => bird.established("watari4")? && bird.established("watari6")?,
            Router::Frr(frr) => frr.established("10.30.0.1")? && frr.established("fd30::1")?,
        })
    }

    /// What it says about its BFD sessions.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn bfd(&self) -> Result<String> {
        match &self.router {
            Router::Bird(bird) => bird.ask("show bfd sessions"),
            Router::Frr(frr) => frr.ask("show bfd peers"),
        }
    }

    /// All it says about its sessions, for a person.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn sessions(&self) -> Result<String> {
        match &self.router {
            Router::Bird(bird) => bird.ask("show protocols all"),
            Router::Frr(frr) => frr.ask("show bgp neighbors"),
        }
    }

    /// What it knows, for a person.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn table(&self) -> Result<String> {
        match &self.router {
            Router::Bird(bird) => bird.routes("all"),
            Router::Frr(frr) => Ok(frr.ask("show bgp ipv4 unicast")? + &frr.ask("show bgp ipv6 unicast")?),
        }
    }

    /// Takes back a prefix of [`Setup::more`], while the session stays.
    ///
    /// # Errors
    /// When it was not told, or the router refuses.
    pub fn withdraw(&mut self, prefix: &str) -> Result<()> {
        let told = self.setup.more.len();
        self.setup.more.retain(|more| *more != prefix);
        ensure!(self.setup.more.len() + 1 == told, "{prefix} was not told");
        match &self.router {
            Router::Bird(bird) => bird.reconfigure(&bird_conf(&self.setup)),
            Router::Frr(frr) => {
                let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
                let lines = format!("address-family {family} unicast");
                frr.configure(&["router bgp 65001", &lines, &format!("no network {prefix}")])
            }
        }
    }

    /// Ends it as an operator would: the neighbour is told.
    ///
    /// # Errors
    /// When it does not end.
    pub fn stop(mut self) -> Result<()> {
        match &mut self.router {
            Router::Bird(bird) => drop(bird.process().stop(STOP)?),
            Router::Frr(frr) => drop(frr.bgpd().stop(STOP)?),
        }
        Ok(())
    }
}

fn bird_conf(setup: &Setup) -> String {
    let graceful = if setup.graceful { "on" } else { "off" };
    let asn = setup.asn;
    let bfd = if setup.bfd { "bfd on;" } else { "" };
    let watch = "interface \"*\" { min rx interval 50 ms; min tx interval 50 ms; multiplier 3; };";
    let watch = if setup.bfd { format!("protocol bfd {{ {watch} }}") } else { String::new() };
    let family = |v6: bool| setup.more.iter().filter(move |prefix| prefix.contains(':') == v6);
    let statics =
        |v6: bool| family(v6).map(|prefix| format!("route {prefix} blackhole; ")).collect::<String>();
    let nets = |v6: bool| {
        let lan = if v6 { LANS[1] } else { LANS[0] };
        let all: Vec<&str> = std::iter::once(lan).chain(family(v6).copied()).collect();
        all.join(", ")
    };
    let session = |number: u8, local: &str, neighbour: &str| {
        let v6 = number == 6;
        format!(
            "protocol static more{number} {{ ipv{number}; {routes} }}
protocol bgp watari{number} {{
  local {local} as {asn};
  neighbor {neighbour} as 65100;
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 2;
  graceful restart {graceful};
  {bfd}
  ipv{number} {{ import all; export where net ~ [ {nets} ]; }};
}}
",
            routes = statics(v6),
            nets = nets(v6),
        )
    };
    format!(
        "router id 10.30.0.2;
log stderr all;
protocol device {{}}
{watch}
protocol direct {{ ipv4; ipv6; interface \"lan0\"; }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; }}
{}{}",
        session(4, "10.30.0.2", "10.30.0.1"),
        session(6, "fd30::2", "fd30::1")
    )
}

fn bgpd_conf(setup: &Setup) -> String {
    let graceful = if setup.graceful { "bgp graceful-restart" } else { "bgp graceful-restart-disable" };
    let networks = |v6: bool| {
        let all = LANS.iter().chain(&setup.more).filter(|prefix| prefix.contains(':') == v6);
        all.map(|prefix| format!("  network {prefix}\n")).collect::<String>()
    };
    format!(
        "router bgp {}
 bgp router-id 10.30.0.2
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 {graceful}
 neighbor 10.30.0.1 remote-as 65100
 neighbor 10.30.0.1 timers connect 2
 neighbor fd30::1 remote-as 65100
 neighbor fd30::1 timers connect 2
 address-family ipv4 unicast
{}  neighbor 10.30.0.1 activate
 exit-address-family
 address-family ipv6 unicast
{}  neighbor fd30::1 activate
 exit-address-family
",
        setup.asn,
        networks(false),
        networks(true)
    )
}
