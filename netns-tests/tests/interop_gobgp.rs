//! GoBGP as the neighbour of a real gateway: both families both ways with their attributes, a key on every segment,
//! withdrawal, and the loss of the session. Needs root and gobgpd.
//!
//! ```text
//!  host-a ─ VLAN 100 ═ [gw-a, AS 65100] 10.30.0.1 ── VLAN 300 ── 10.30.0.2 [GoBGP, AS 65001] ─ server
//!                                       fd30::1      IPv4: MD5   fd30::2    192.0.2.0/24, 2001:db8:2::/64
//! ```

use anyhow::{Context as _, Result, ensure};
use netns_tests::gobgp::Gobgp;
use netns_tests::ping::ping;
use netns_tests::topology::{HOST_A, SERVER, Topology};
use netns_tests::world::{self, SOON};
use netns_tests::{Gateway, registry, wait_until};
use serde_json::json;

const US: [&str; 2] = ["10.30.0.1", "fd30::1"];
const SUBNETS: [&str; 2] = ["10.20.0.0/24", "fd20::/64"];
const LANS: [&str; 2] = ["192.0.2.0/24", "2001:db8:2::/64"];
/// Within what is accepted.
const MORE: &str = "192.0.2.128/25";
/// Not within.
const UNWANTED: &str = "203.0.113.0/24";
const KEY: &str = "known to both routers";

struct Bench {
    topology: Topology,
    gateway: Gateway,
}

/// Gateway A, whose IPv4 neighbour has a key; GoBGP is not there yet.
fn bench() -> Result<Bench> {
    let key = registry::scratch_dir("key")?.join("campus4");
    std::fs::write(&key, KEY)?;
    let (topology, gateway, _) = world::single(&[], |_, document| {
        document["peers"]["campus4"]["password"] = json!(format!("file:{}", key.display()));
        document["peers"]["campus4"]["connect_retry_s"] = json!(1);
        document["peers"]["campus6"]["connect_retry_s"] = json!(1);
        Ok(())
    })?;
    // It installs nothing: the way back to the hosts is static.
    topology.campus.route(SUBNETS[0], US[0])?;
    topology.campus.route(SUBNETS[1], US[1])?;
    Ok(Bench { topology, gateway })
}

fn config(key: &str) -> String {
    let neighbour = |address: &str, family: &str, key: &str| {
        format!(
            "[[neighbors]]
  [neighbors.config]
    neighbor-address = \"{address}\"
    peer-as = 65100
    {key}
  [neighbors.timers.config]
    connect-retry = 1
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = \"{family}\"
"
        )
    };
    let key = format!("auth-password = \"{key}\"");
    format!(
        "[global.config]
  as = 65001
  router-id = \"10.30.0.2\"
{}{}",
        neighbour(US[0], "ipv4-unicast", &key),
        neighbour(US[1], "ipv6-unicast", "")
    )
}

impl Bench {
    fn gobgp(&self, key: &str) -> Result<Gobgp> {
        Gobgp::start(&self.topology.campus, &config(key))
    }

    /// Both sessions are up and both sides know what the other has.
    fn meets(&self, gobgp: &Gobgp) -> Result<()> {
        self.gateway.wait_for_neighbour("campus4")?;
        self.gateway.wait_for_neighbour("campus6")?;
        for lan in LANS {
            gobgp.announce(lan, "")?;
            self.gateway.wait_for_path(lan, |path| path["as_path"] == "65001")?;
        }
        for (subnet, us) in SUBNETS.iter().zip(US) {
            wait_until(SOON, &format!("{subnet} at GoBGP"), || {
                let path = gobgp.route(subnet)?.context("no route")?;
                ensure!(path.as_path() == [65_100] && path.next_hop() == Some(us), "{:#}", path.0);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// What the kernel of the tenant's namespace counted of segments that were signed otherwise.
    fn wrong_signatures(&self) -> Result<u64> {
        let line = "ip netns exec wt-gw-a.lab nstat -asz TcpExtTCPMD5Failure";
        let text = self.gateway.ns().exec(line)?;
        let row = text.lines().find(|line| line.starts_with("TcpExtTCPMD5Failure")).context(text.clone())?;
        Ok(row.split_whitespace().nth(1).context(text.clone())?.parse()?)
    }
}

#[test]
fn root_gobgp_and_we_exchange_both_families_with_their_attributes() -> Result<()> {
    let bench = bench()?;
    let gobgp = bench.gobgp(KEY)?;
    bench.meets(&gobgp)?;
    let gateway = &bench.gateway;
    for (lan, them) in LANS.iter().zip(["10.30.0.2", "fd30::2"]) {
        wait_until(SOON, &format!("{lan} in the kernel"), || {
            Ok::<_, anyhow::Error>(gateway.kernel_next_hops("lab", lan)? == [them])
        })?;
    }
    wait_until(SOON, "host-a to reach the server", || ping(&bench.topology.a.host, SERVER.0))?;
    wait_until(SOON, "the server to reach host-a", || ping(&bench.topology.server, HOST_A.1))?;

    // RFC 1997, 4360, 8092, 6793; GoBGP puts its own AS before the path that it is given.
    let attributes = "origin egp aspath 4200000001,65551 med 77 community 65001:7,65001:8 rt 65001:9 \
                      large-community 4200000001:1:2";
    gobgp.announce(MORE, attributes)?;
    let path = gateway.wait_for_path(MORE, |path| path["med"] == 77)?;
    ensure!(path["as_path"] == "65001 4200000001 65551" && path["origin"] == "egp", "{path:#}");
    ensure!(path["communities"] == json!(["65001:7", "65001:8"]), "{path:#}");
    ensure!(path["ext_communities"] == json!(["rt:65001:9"]), "{path:#}");
    ensure!(path["large_communities"] == json!(["4200000001:1:2"]), "{path:#}");

    gobgp.announce(MORE, "med 5")?;
    let path = gateway.wait_for_path(MORE, |path| path["med"] == 5)?;
    ensure!(path["communities"].is_null() && path["as_path"] == "65001", "{path:#}");
    gobgp.announce(UNWANTED, "")?;
    wait_until(SOON, "what is not accepted to be rejected", || {
        let paths = gateway.paths(UNWANTED)?;
        ensure!(paths.len() == 1 && paths[0]["rejected"] == "import policy", "{paths:#?}");
        Ok(())
    })?;
    gobgp.withdraw(MORE)?;
    gateway.wait_for_no_path(MORE)?;
    gateway.wait_for_path(LANS[0], |_| true)?;

    // All that on the sessions that came up first.
    for us in US {
        let neighbour = gobgp.neighbour(us)?;
        ensure!(neighbour["state"]["messages"]["received"]["open"] == 1, "{neighbour:#}");
    }
    Ok(())
}

#[test]
fn root_routes_leave_with_gobgp_and_only_who_has_the_key_comes_back() -> Result<()> {
    let bench = bench()?;
    let mut gobgp = bench.gobgp(KEY)?;
    bench.meets(&gobgp)?;

    // Without graceful restart a lost session is the end of its routes.
    gobgp.process().kill9()?;
    for lan in LANS {
        bench.gateway.wait_for_no_path(lan)?;
        wait_until(SOON, &format!("{lan} to leave the kernel"), || {
            Ok::<_, anyhow::Error>(bench.gateway.kernel_next_hops("lab", lan)?.is_empty())
        })?;
    }

    // RFC 2385: a wrong key is heard by nobody; the session without one goes its way.
    let refused = bench.wrong_signatures()?;
    let stranger = bench.gobgp("known to one router")?;
    bench.gateway.wait_for_neighbour("campus6")?;
    wait_until(SOON, "a segment with a wrong signature", || {
        let now = bench.wrong_signatures()?;
        ensure!(now > refused, "still {now}");
        Ok(())
    })?;
    let neighbour = bench.gateway.neighbour("campus4")?;
    ensure!(neighbour["state"] != "established" && !stranger.established(US[0])?, "{neighbour:#}");
    drop(stranger);

    let gobgp = bench.gobgp(KEY)?;
    bench.meets(&gobgp)
}
