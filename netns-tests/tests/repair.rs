//! What somebody takes away by hand is back within a second, and told; what is not ours is never touched: not
//! by a repair, not when the last object goes, not by `watari cleanup`. Needs root.
//!
//! ```text
//!  host-a ─ VLAN 100 ═ trunk0 [gw-a] uplink ─ wan        beside what is ours, at gw-a:
//!           campus ─ VLAN 300 ┘  │                       a route, an address, devices, a rule, pins, a namespace
//!            wt-gw-a.lab: wt-core, wt-ex…                that somebody else made
//! ```

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::ping::ping;
use netns_tests::topology::{GATEWAY, Topology, Tunnel};
use netns_tests::world::{self, SOON};
use netns_tests::{Gateway, Ns, World, wait_until};
use serde_json::{Value, json};
use watari_dataplane::{Dataplane, FloodVteps, Pod, Route, RouteOrigin, Table};

/// The promise.
const BACK: Duration = Duration::from_secs(1);
/// A machine that does other things too may miss it once, but not each time.
const TRIES: usize = 3;
const TENANT: &str = "wt-gw-a.lab";

/// One thing to take away.
struct Theft<'a> {
    what: &'a str,
    /// The command that takes it.
    take: String,
    /// The command that shows it …
    show: String,
    /// … by a word of its output.
    word: String,
    /// The object that tells of the repair.
    owner: &'a str,
}

impl Theft<'_> {
    fn is_there(&self, machine: &Ns) -> bool {
        machine.exec(&self.show).is_ok_and(|text| text.contains(&self.word))
    }

    /// Takes it; how long it was away.
    fn commit(&self, gateway: &Gateway) -> Result<Duration> {
        let machine = gateway.ns();
        ensure!(self.is_there(machine), "{} is not there to be taken: {}", self.what, self.show);
        let seen = gateway.last_event()?;
        let start = Instant::now();
        machine.exec(&self.take)?;
        while !self.is_there(machine) {
            ensure!(start.elapsed() < SOON, "{} does not come back", self.what);
            std::thread::sleep(Duration::from_millis(2));
        }
        let away = start.elapsed();
        wait_until(SOON, &format!("an event about {}", self.what), || -> Result<()> {
            let events = gateway.events_after(seen)?;
            let told = events.iter().any(|e| e["kind"] == "repaired" && e["object"] == self.owner);
            ensure!(told, "{events:#?}");
            Ok(())
        })?;
        gateway.settle()?;
        Ok(away)
    }

    fn is_repaired_in_time(&self, gateway: &Gateway) -> Result<()> {
        let mut times = vec![];
        for _ in 0..TRIES {
            let away = self.commit(gateway)?;
            println!("{}: back after {} ms", self.what, away.as_millis());
            if away <= BACK {
                return Ok(());
            }
            times.push(away);
        }
        bail!("{} was away for {times:?}", self.what)
    }
}

fn json(machine: &Ns, arguments: &str) -> Result<Vec<Value>> {
    let text = machine.ip(&format!("-j {arguments}"))?;
    Ok(if text.trim().is_empty() { vec![] } else { serde_json::from_str(&text)? })
}

fn links(machine: &Ns) -> Result<Vec<String>> {
    let links = json(machine, "link show")?;
    Ok(links.iter().filter_map(|link| link["ifname"].as_str()).map(str::to_owned).collect())
}

fn ours(machine: &Ns, prefix: &str) -> Result<String> {
    let found = links(machine)?.into_iter().find(|name| name.starts_with(prefix) && !name.ends_with('p'));
    found.with_context(|| format!("no device {prefix}…"))
}

/// The pin of a program's attachment; another inode is another attachment.
fn attachment(machine: &Ns, hook: &str, device: &str) -> Result<String> {
    let link = json(machine, &format!("link show dev {device}"))?;
    let index = link[0]["ifindex"].as_u64().context("an index")?;
    Ok(format!("/sys/fs/bpf/wt-gw-a/wtl-{hook}-{index}"))
}

fn in_the_gateways_namespace(machine: &Ns) -> Result<Vec<Theft<'static>>> {
    let (wireguard, direct, core) = (ours(machine, "wtwg")?, ours(machine, "wtd")?, ours(machine, "wtc")?);
    let vtep = "10.255.0.1/32";
    let theft = |what, take: &str, show: &str, word: &str, owner| Theft {
        what,
        take: take.to_owned(),
        show: show.to_owned(),
        word: word.to_owned(),
        owner,
    };
    Ok(vec![
        theft(
            "the VXLAN device, its address with it",
            "ip link del wtvx4789",
            "ip addr show dev wtvx4789",
            vtep,
            "gateways.gw-a",
        ),
        theft(
            "the VTEP address",
            &format!("ip addr del {vtep} dev wtvx4789"),
            "ip addr show dev wtvx4789",
            vtep,
            "gateways.gw-a",
        ),
        theft(
            "a route to the far VTEP",
            &format!("ip route del 10.255.0.2/32 dev {wireguard}"),
            &format!("ip route show proto 219 dev {wireguard}"),
            "10.255.0.2",
            "tunnels.ab-wg",
        ),
        theft(
            "the WireGuard device",
            &format!("ip link del {wireguard}"),
            &format!("ip route show proto 219 dev {wireguard}"),
            "10.255.0.2",
            "tunnels.ab-wg",
        ),
        theft(
            "the veth of the direct tunnel",
            &format!("ip link del {direct}"),
            &format!("ip addr show dev {direct}"),
            "10.90.0.1/30",
            "tunnels.ab-direct",
        ),
        theft(
            "the veth to the tenant's namespace",
            &format!("ip link del {core}"),
            &format!("ip -n {TENANT} addr show dev wt-core"),
            "10.20.0.1/32",
            "tenants.lab",
        ),
        theft(
            "an entry of the datapath's segments",
            "bpftool map delete pinned /sys/fs/bpf/wt-gw-a/wtm-segments key 0xe8 0x03 0 0",
            "bpftool map lookup pinned /sys/fs/bpf/wt-gw-a/wtm-segments key 0xe8 0x03 0 0",
            "e8 03 00 00",
            "segments.flat",
        ),
    ])
}

fn in_the_tenants_namespace() -> Vec<Theft<'static>> {
    let inside = |line: &str| format!("ip -n {TENANT} {line}");
    let exec = |line: &str| format!("ip netns exec {TENANT} {line}");
    vec![
        Theft {
            what: "the segment's gateway address",
            take: inside("addr del 10.20.0.1/32 dev wt-core"),
            show: inside("addr show dev wt-core"),
            word: "10.20.0.1/32".to_owned(),
            owner: "segments.flat",
        },
        Theft {
            what: "the segment's IPv6 gateway address",
            take: inside("addr del fd20::1/128 dev wt-core"),
            show: inside("addr show dev wt-core"),
            word: "fd20::1/128".to_owned(),
            owner: "segments.flat",
        },
        Theft {
            what: "the route to the segment",
            take: inside("route del 10.20.0.0/24 dev wt-core"),
            show: inside("route show proto 219"),
            word: "10.20.0.0/24".to_owned(),
            owner: "segments.flat",
        },
        Theft {
            what: "forwarding in the tenant's namespace",
            take: exec("sysctl -qw net.ipv4.ip_forward=0"),
            show: exec("sysctl net.ipv4.ip_forward"),
            word: "= 1".to_owned(),
            owner: "tenants.lab",
        },
        Theft {
            what: "the tenant's namespace",
            take: format!("ip netns del {TENANT}"),
            show: inside("addr show dev wt-core"),
            word: "10.20.0.1/32".to_owned(),
            owner: "tenants.lab",
        },
    ]
}

#[test]
fn root_what_is_taken_away_is_back_within_a_second() -> Result<()> {
    let (topology, gateway, _) = world::single(&[Tunnel::Wireguard, Tunnel::Direct], |_, _| Ok(()))?;
    let machine = &topology.a.gateway;
    let foreign = Foreign::make(machine)?;
    for theft in in_the_gateways_namespace(machine)?.iter().chain(&in_the_tenants_namespace()) {
        theft.is_repaired_in_time(&gateway)?;
    }
    wait_until(SOON, "host-a to reach its gateway", || ping(&topology.a.host, GATEWAY.0))?;
    foreign.is_untouched(machine)
}

/// A program that is detached rings nowhere: found by looking, and by the traffic.
#[test]
fn root_a_program_that_is_taken_away_is_back_within_a_second() -> Result<()> {
    let (topology, gateway, _) = world::single(&[], |_, _| Ok(()))?;
    let machine = &topology.a.gateway;
    let pin = attachment(machine, "trunk", "trunk0")?;
    wait_until(SOON, "host-a to reach its gateway", || ping(&topology.a.host, GATEWAY.0))?;
    for (what, take) in [("its pin is removed", "rm"), ("it is detached", "bpftool link detach pinned")] {
        let inode = || machine.exec(&format!("stat -c %i {pin}")).unwrap_or_default();
        let mut times = vec![];
        for _ in 0..TRIES {
            let (seen, before) = (gateway.last_event()?, inode());
            let start = Instant::now();
            machine.exec(&format!("{take} {pin}"))?;
            while inode().is_empty() || inode() == before {
                ensure!(start.elapsed() < SOON, "{what}: it does not come back");
                std::thread::sleep(Duration::from_millis(2));
            }
            times.push(start.elapsed());
            wait_until(SOON, "an event about it", || -> Result<()> {
                let events = gateway.events_after(seen)?;
                let told = |e: &Value| e["kind"] == "repaired" && e["message"].to_string().contains("trunk0");
                ensure!(events.iter().any(told), "{events:#?}");
                Ok(())
            })?;
            wait_until(SOON, "host-a to reach its gateway", || ping(&topology.a.host, GATEWAY.0))?;
            if times.last() <= Some(&BACK) {
                break;
            }
        }
        println!("{what}: back after {times:?}");
        ensure!(times.last() <= Some(&BACK), "{what}: away for {times:?}");
    }
    Ok(())
}

/// Tables that nothing rings for: they are compared with what they should hold.
#[test]
fn root_entries_of_the_datapath_that_are_damaged_by_hand_come_back() -> Result<()> {
    let world = World::start(&[Tunnel::Direct])?;
    world.hosts_meet()?;
    let folder = world.a.pin_dir();
    let maps = world.a.ns().run(|| Dataplane::open_existing(&folder))?.context("a datapath of this build")?;
    wait_until(SOON, "a MAC and an address of host-b at gw-a", || -> Result<()> {
        let counts = (maps.mac_remote.list()?.len(), maps.nb_remote.list()?.len());
        ensure!(counts.0 > 0 && counts.1 > 0, "{counts:?}");
        Ok(())
    })?;
    for round in 0..3 {
        damaged(&maps.mac_remote, round, |mac| mac.sequence += 7, |key| key.mac[5] ^= 0x55)?;
        damaged(&maps.nb_remote, round, |neighbour| neighbour.mac[5] ^= 1, |key| key.vni = 4242)?;
        damaged(
            &maps.flood_vteps,
            round,
            |list| *list = FloodVteps::new(&[]).unwrap_or(*list),
            |vni| *vni = 4242,
        )?;
        damaged(&maps.nb_static, round, |own| own.mac[5] ^= 1, |key| key.vni = 4242)?;
    }
    // The plan's routes share their table with those that were learnt.
    let routes = maps.routes.entries()?;
    let (prefix, route) =
        routes.iter().find(|(_, r)| r.origin == RouteOrigin::Plan as u8).context("a route")?;
    maps.routes.upsert(prefix, &Route::exit(RouteOrigin::Bgp))?;
    wait_until(SOON, "the plan's route", || -> Result<()> {
        let now = maps.routes.entries()?;
        ensure!(now.get(prefix) == Some(route), "{prefix}: {now:?}");
        Ok(())
    })?;
    world.hosts_meet()
}

/// Takes entries away, changes them, or adds one that nobody wants, by turns, and waits until all is as it was.
fn damaged<K, V>(
    table: &Table<K, V>,
    round: usize,
    change: impl Fn(&mut V),
    other: impl Fn(&mut K),
) -> Result<()>
where
    K: Pod + Ord + std::fmt::Debug,
    V: Pod + PartialEq + std::fmt::Debug,
{
    let before = table.entries()?;
    let (mut key, mut value) = before.iter().next().map(|(k, v)| (*k, *v)).context("an entry")?;
    match round {
        0 => drop(before.keys().map(|key| table.remove(key)).collect::<Result<Vec<_>, _>>()?),
        1 => change(&mut value),
        _ => other(&mut key),
    }
    if round > 0 {
        table.upsert(&key, &value)?;
        ensure!(table.entries()? != before, "{}: nothing was damaged", table.name());
    }
    let start = Instant::now();
    wait_until(SOON, &format!("{} to be as it was, round {round}", table.name()), || -> Result<()> {
        let now = table.entries()?;
        ensure!(now == before, "{now:?}\nbefore {before:?}");
        Ok(())
    })?;
    println!("{}, round {round}: back after {} ms", table.name(), start.elapsed().as_millis());
    Ok(())
}

/// What somebody else has on the same machine.
struct Foreign {
    shows: Vec<(&'static str, String)>,
}

impl Foreign {
    fn make(machine: &Ns) -> Result<Self> {
        for line in [
            "ip route add 203.0.113.0/24 via 198.18.1.1 proto static",
            "ip route add 198.51.100.0/24 via 198.18.1.1 proto 186",
            "ip addr add 10.99.0.1/24 dev uplink",
            "ip link add foreign0 type veth peer name foreign1",
            "ip link add wtforeign type bridge",
            "ip link set wtforeign alias watari:another-gateway",
            "ip netns add wt-of-somebody",
            "ip netns add somebody",
            "nft add table inet foreign",
            "nft add chain inet foreign in { type filter hook input priority 0 ; }",
            "bpftool map create /sys/fs/bpf/foreign type hash key 4 value 4 entries 1 name foreign",
            "bpftool map create /sys/fs/bpf/wt-gw-a/foreign type hash key 4 value 4 entries 1 name foreign",
            "sysctl -qw net.ipv4.conf.uplink.rp_filter=2",
        ] {
            machine.exec(line)?;
        }
        let shows = [
            "ip -o route show proto static",
            "ip -o route show proto 186",
            "ip -o addr show dev uplink",
            "ip -o link show dev foreign0",
            "ip -o link show dev foreign1",
            "ip -o link show dev wtforeign",
            "ls /run/netns/wt-of-somebody /run/netns/somebody",
            "nft list table inet foreign",
            "bpftool map show pinned /sys/fs/bpf/foreign",
            "bpftool map show pinned /sys/fs/bpf/wt-gw-a/foreign",
            "sysctl net.ipv4.conf.uplink.rp_filter",
            "ip -o addr show dev trunk0",
        ];
        let seen = shows.map(|line| Ok((line, machine.exec(line)?)));
        Ok(Self { shows: seen.into_iter().collect::<Result<_>>()? })
    }

    fn is_untouched(&self, machine: &Ns) -> Result<()> {
        for (line, before) in &self.shows {
            let now = machine.exec(line).unwrap_or_else(|error| format!("{error:#}"));
            ensure!(now == *before, "{line}\nwas {before}\nis  {now}");
        }
        Ok(())
    }
}

/// Nothing of ours is left in the kernel, but the pins that the running daemon needs.
fn nothing_of_ours(machine: &Ns) -> Result<()> {
    let left: Vec<_> =
        links(machine)?.into_iter().filter(|l| l.starts_with("wt") && l != "wtforeign").collect();
    ensure!(left.is_empty(), "devices {left:?}");
    for family in ["-4", "-6"] {
        for protocol in ["219", "220"] {
            let routes = machine.ip(&format!("{family} route show table all proto {protocol}"))?;
            ensure!(routes.trim().is_empty(), "routes {routes}");
        }
    }
    let namespaces = machine.exec("ls /run/netns")?;
    ensure!(!namespaces.contains(TENANT), "namespaces {namespaces}");
    let attached = machine.exec("ls /sys/fs/bpf/wt-gw-a")?;
    ensure!(!attached.contains("wtl-"), "attachments {attached}");
    Ok(())
}

#[test]
fn root_with_the_last_object_all_of_ours_goes_and_nothing_else() -> Result<()> {
    let (topology, mut gateway, document) =
        world::single(&[Tunnel::Wireguard, Tunnel::Direct], |_, _| Ok(()))?;
    let machine = &topology.a.gateway;
    let foreign = Foreign::make(machine)?;
    let file = gateway.write_document(&json!({}))?;
    gateway.cli(&["apply", "--replace", "-f", file.to_str().unwrap_or_default()])?;
    gateway.settle()?;
    nothing_of_ours(machine)?;
    foreign.is_untouched(machine)?;
    // And all of it comes again.
    gateway.apply(&document)?;
    gateway.settle()?;
    wait_until(SOON, "host-a to reach its gateway", || ping(&topology.a.host, GATEWAY.0))?;
    cleanup_leaves_nothing(&topology, &mut gateway)?;
    foreign.is_untouched(machine)?;
    // The store has stayed.
    gateway.launch()?;
    gateway.settle()?;
    ensure!(gateway.first_plan_ops()? > 0, "there was nothing to do after a cleanup");
    wait_until(SOON, "host-a to reach its gateway", || ping(&topology.a.host, GATEWAY.0))
}

fn cleanup_leaves_nothing(topology: &Topology, gateway: &mut Gateway) -> Result<()> {
    let machine = &topology.a.gateway;
    let config = gateway.config();
    let cleanup = ["cleanup", "--config", config.to_str().unwrap_or_default()];
    let refused = gateway.try_cli(&cleanup)?;
    ensure!(!refused.status.success(), "cleaned up under a running daemon: {}", refused.out);
    ensure!(refused.err.contains("another watari"), "{}", refused.err);
    ping(&topology.a.host, GATEWAY.0)?;
    gateway.stop()?;
    gateway.cli(&cleanup)?;
    nothing_of_ours(machine)?;
    let pins = machine.exec("ls /sys/fs/bpf/wt-gw-a")?;
    ensure!(pins.split_whitespace().eq(["foreign"]), "pins {pins}");
    let engines = machine.exec("pgrep -f watari-link").unwrap_or_default();
    let here = engines.split_whitespace().filter(|pid| {
        let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/net")).ok();
        let own = machine.run(|| std::fs::read_link("/proc/thread-self/ns/net").ok());
        of(pid) == own
    });
    let here: Vec<_> = here.collect();
    ensure!(here.is_empty(), "watari-link still runs: {here:?}");
    Ok(())
}
