//! Why a packet does not arrive: traces of real gateways, what is known at both ends, live drops, and captures. Needs
//! root.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ── VXLAN over VLAN 900 ── [gw-b] ═ VLAN 200 ─ host-b
//! ```

use anyhow::{Context as _, Result, ensure};
use netns_tests::campus::{Campus, Setup, Software};
use netns_tests::ping::{Ping, ping};
use netns_tests::topology::{GATEWAY, HOST_A, HOST_B, SEGMENT_MTU, SERVER, Tunnel, both};
use netns_tests::world::SOON;
use netns_tests::{Ns, World, wait_until};
use serde_json::{Value, json};

const ANYCAST: &str = "02:57:54:00:00:01";
const NOBODY: &str = "02:00:00:00:00:99";

fn world() -> Result<World> {
    let world = World::start_with(&[Tunnel::Direct], |_, document| {
        document["segments"]["flat"]["unknown_unicast"] = json!("drop");
        Ok(())
    })?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    Ok(world)
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The steps of a trace from host-a's attachment.
fn trace(world: &World, more: &[&str]) -> Result<Vec<String>> {
    let source = text(world.topology.a.host.mac("eth0")?);
    let address = HOST_A.0.to_string();
    let mut arguments = vec!["--json", "trace", "--attachment", "host-a"];
    if !more.contains(&"--src-mac") {
        arguments.extend(["--src-mac", &source]);
    }
    if !more.contains(&"--src") {
        arguments.extend(["--src", &address]);
    }
    arguments.extend(more);
    let answer: Value = serde_json::from_str(&world.a.cli(&arguments)?)?;
    let steps = answer[0]["steps"].as_array().context("steps")?;
    let steps: Vec<_> = steps.iter().map(|step| step.as_str().unwrap_or_default().to_owned()).collect();
    println!("trace {}\n  {}", more.join(" "), steps.join("\n  "));
    Ok(steps)
}

fn says(steps: &[String], words: &str) -> Result<()> {
    ensure!(steps.iter().any(|step| step.contains(words)), "{words:?} is not in {steps:#?}");
    Ok(())
}

#[test]
fn root_five_packets_are_explained_and_change_nothing() -> Result<()> {
    let world = world()?;
    let (host_b, mac_b) = (HOST_B.0.to_string(), text(world.topology.b.host.mac("eth0")?));
    wait_until(SOON, "host-b to be announced", || {
        says(&trace(&world, &["--dst", &host_b, "--protocol", "ask"])?, "nb_remote")
    })?;
    let before = world.a.facts()?["datapath"]["counters"]["mac-learnt"].clone();
    let asked = trace(&world, &["--dst", &host_b, "--protocol", "ask"])?;
    says(&asked, "ports: trunk0 VLAN 100 (host-a) is an attachment of flat")?;
    says(&asked, &format!("nb_remote: {host_b} is at {mac_b}"))?;
    says(&asked, &format!("the question for {host_b} is answered here: {mac_b}"))?;
    let known = trace(&world, &["--dst-mac", &mac_b, "--dst", &host_b])?;
    says(&known, &format!("mac_remote: {mac_b} is behind gw-b (10.255.0.2)"))?;
    says(&known, "own encapsulation to gw-b (10.255.0.2), VNI 1000, leaves by trunk1 VLAN 900")?;
    let unknown = trace(&world, &["--dst-mac", NOBODY, "--dst", "10.20.0.99"])?;
    says(&unknown, &format!("no table has {NOBODY} of flat"))?;
    says(&unknown, "dropped: unknown-unicast")?;
    let routed = trace(&world, &["--dst-mac", ANYCAST, "--dst", "10.30.0.2", "--ttl", "9"])?;
    says(&routed, "of lab matches 10.30.0.2: out of the overlay")?;
    let spoofed = trace(
        &world,
        &["--src", &GATEWAY.0.to_string(), "--dst", &host_b, "--protocol", "ask", "--src-mac", NOBODY],
    )?;
    says(&spoofed, "dropped: neighbour-spoofed")?;
    let facts = world.a.facts()?;
    let after = &facts["datapath"]["counters"]["mac-learnt"];
    ensure!(before == *after, "a trace was counted: {before} {after}");
    ensure!(!facts["macs"].to_string().contains(NOBODY), "a trace has learnt: {:#}", facts["macs"]);
    let refused =
        world.a.try_cli(&["trace", "--attachment", "host-x", "--src-mac", "x", "--dst", "10.0.0.1"])?;
    ensure!(!refused.status.success(), "it was taken");
    for field in ["attachment:", "packet.src_mac:", "packet.src:"] {
        ensure!(refused.err.contains(field), "{field} is not named: {}", refused.err);
    }
    Ok(())
}

/// The conclusion of `watari why` at gateway A.
fn why(world: &World) -> Result<String> {
    why_not(world, &HOST_B.0.to_string())
}

/// Why host-a does not reach `to`: the conclusion, and everything.
fn why_not(world: &World, to: &str) -> Result<String> {
    let from = HOST_A.0.to_string();
    let answer: Value = serde_json::from_str(&world.a.cli(&["--json", "why", &from, to])?)?;
    Ok(format!("{}: {answer:#}", answer["conclusion"].as_str().context("a conclusion")?))
}

fn concludes(world: &World, words: &str) -> Result<()> {
    wait_until(SOON, &format!("why to say {words:?}"), || {
        let found = why(world)?;
        ensure!(found.lines().next().unwrap_or_default().contains(words), "{found}");
        Ok(())
    })
}

#[test]
fn root_why_names_the_first_thing_that_is_wrong() -> Result<()> {
    let mut world = world()?;
    concludes(&world, "packets should pass")?;
    let shown = world.a.cli(&["why", &HOST_A.0.to_string(), &HOST_B.0.to_string()])?;
    for words in ["gw-b:", "the echo request as it arrives: goes out by trunk0 VLAN 200 (host-b)"] {
        ensure!(shown.contains(words), "{words:?} is not in {shown}");
    }
    world.topology.sinet.ip("link set br0 down")?;
    concludes(&world, "gw-a: no tunnel to gw-b is up")?;
    world.topology.sinet.ip("link set br0 up")?;
    world.tunnel_is_up("ab-direct")?;
    concludes(&world, "packets should pass")?;
    // Host B is where it was, but its attachment is another VLAN.
    world.document["attachments"]["host-b"]["vlan"]["vid"] = json!(201);
    for gateway in [&world.a, &world.b] {
        gateway.apply(&world.document)?;
    }
    concludes(&world, &format!("gw-a: {} is not known in flat", HOST_B.0))
}

/// A host of another segment of the tenant, at the other site.
const ROUTED: (&str, u16) = ("10.21.0.12", 210);

fn with_a_second_segment() -> Result<(World, Ns)> {
    let host = Ns::new("host-c")?;
    let world = World::start_with(&[Tunnel::Direct], |topology, document| {
        topology.b.plug(&host, "eth0", ROUTED.1)?;
        host.mtu("eth0", u32::from(SEGMENT_MTU))?;
        host.address("eth0", &[&format!("{}/24", ROUTED.0)])?;
        host.route("default", "10.21.0.1")?;
        document["segments"]["second"] = json!({
            "tenant": "lab", "vni": 1001, "mtu": SEGMENT_MTU,
            "subnets": ["10.21.0.0/24"], "gateway": ["10.21.0.1"],
        });
        let vlan = json!({ "trunk": "trunk0", "vid": ROUTED.1 });
        document["attachments"]["host-c"] = json!({ "gateway": "gw-b", "segment": "second", "vlan": vlan });
        Ok(())
    })?;
    world.tunnel_is_up("ab-direct")?;
    let to: std::net::IpAddr = ROUTED.0.parse()?;
    wait_until(SOON, "host-c to reach its gateway", || ping(&host, std::net::IpAddr::from([10, 21, 0, 1])))?;
    wait_until(SOON, "host-a to reach host-c", || ping(&world.topology.a.host, to))?;
    Ok((world, host))
}

#[test]
fn root_why_follows_a_packet_that_is_routed_between_segments() -> Result<()> {
    let (mut world, _host) = with_a_second_segment()?;
    let concludes = |world: &World, words: &str| {
        wait_until(SOON, &format!("why to say {words:?}"), || -> Result<()> {
            let found = why_not(world, ROUTED.0)?;
            ensure!(found.lines().next().unwrap_or_default().contains(words), "{found}");
            Ok(())
        })
    };
    concludes(&world, "packets should pass")?;
    let shown = world.a.cli(&["why", &HOST_A.0.to_string(), ROUTED.0])?;
    println!("{shown}");
    for words in
        ["gw-b:", "the echo request as it arrives: goes out by trunk0 VLAN 210 (host-c)", "its answer: "]
    {
        ensure!(shown.contains(words), "{words:?} is not in {shown}");
    }
    let found = why_not(&world, ROUTED.0)?;
    ensure!(found.contains("of lab matches 10.21.0.12"), "no route is named: {found}");
    // The way back is the far gateway's: it has no such attachment any more.
    world.document["attachments"]["host-c"]["vlan"]["vid"] = json!(ROUTED.1 + 1);
    for gateway in [&world.a, &world.b] {
        gateway.apply(&world.document)?;
    }
    concludes(&world, &format!("gw-b: {} is not known in second", ROUTED.0))
}

#[test]
fn root_a_packet_to_a_prefix_learnt_by_bgp_is_explained_at_both_gateways() -> Result<()> {
    let world = world()?;
    let server = SERVER.0.to_string();
    let to = ["--dst-mac", ANYCAST, "--dst", &server];
    says(&trace(&world, &to)?, "dropped: no-route")?;
    let _campus = Campus::start(Software::Bird, &world.topology.campus, Setup::default())?;
    let learnt = format!("routes: 192.0.2.0/24 of lab matches {server}");
    let here = format!("{learnt}: out of the overlay, from BGP");
    wait_until(SOON, "gw-a to learn the campus' prefix", || says(&trace(&world, &to)?, &here))?;
    let source = text(world.topology.b.host.mac("eth0")?);
    let from = HOST_B.0.to_string();
    let arguments = ["--json", "trace", "--attachment", "host-b", "--src-mac", &source, "--src", &from];
    let far = || -> Result<Vec<String>> {
        let answer: Value = serde_json::from_str(&world.b.cli(&[&arguments[..], &to].concat())?)?;
        let steps = answer[0]["steps"].as_array().context("steps")?;
        Ok(steps.iter().map(|step| step.as_str().unwrap_or_default().to_owned()).collect())
    };
    let wanted = format!("{learnt}: behind another gateway, from EVPN");
    wait_until(SOON, "gw-b to hear of it", || says(&far()?, &wanted))?;
    let steps = far()?;
    println!("{}", steps.join("\n"));
    says(&steps, "own encapsulation to gw-a (10.255.0.1), VNI 5000, leaves by trunk1 VLAN 900")
}

#[test]
fn root_live_drops_and_captures_end_by_themselves() -> Result<()> {
    let world = world()?;
    let host_a = &world.topology.a.host;
    let gateway = &world.a;
    let file = gateway.run_dir().join("lan.pcapng");
    let path = file.to_str().context("a path")?;
    let capture = ["capture", "host-a", "--write", path, "--seconds", "20", "--packets", "200"];
    let monitor = ["--json", "monitor", "--seconds", "20", "--segment", "flat", "--count", "3"];
    let lost = ["neigh", "replace", "10.20.0.99", "lladdr", NOBODY, "dev", "eth0"].join(" ");
    host_a.ip(&lost)?;
    let (captured, monitored) = std::thread::scope(|scope| -> Result<_> {
        let captured = scope.spawn(|| gateway.cli(&capture));
        let monitored = scope.spawn(|| gateway.cli(&monitor));
        wait_until(SOON, "both to look", || -> Result<()> {
            let _ = Ping::to("10.20.0.99".parse()?).count(1).send(host_a)?;
            let seen = gateway.counter("sampled")?;
            ensure!(seen > 0, "nothing was sampled");
            Ok(())
        })?;
        while !monitored.is_finished() {
            let _ = Ping::to("10.20.0.99".parse()?).count(1).send(host_a)?;
        }
        let answered = Ping::to(HOST_B.0.into()).count(3).send(host_a)?;
        ensure!(answered.received == 3, "{}", answered.text);
        let captured = captured.join().map_err(|_| anyhow::anyhow!("the capture panicked"))?;
        let monitored = monitored.join().map_err(|_| anyhow::anyhow!("the monitor panicked"))?;
        Ok((captured?, monitored?))
    })?;
    ensure!(captured.is_empty(), "{captured}");
    let drops: Vec<Value> = monitored.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let lost = |drop: &&Value| drop["reason"] == "unknown-unicast" && drop["segment"] == "flat";
    let drop = drops.iter().find(lost).with_context(|| format!("no drop in {monitored}"))?;
    ensure!(drop["port"] == "trunk0 VLAN 100 (host-a)", "{drop}");
    ensure!(drop["packet"].as_str().is_some_and(|p| p.contains("10.20.0.99 echo request")), "{drop}");
    comments(&std::fs::read(&file)?)?;
    let read = gateway.ns().exec(&format!("tcpdump -nr {path} icmp"))?;
    for address in both(HOST_A).into_iter().take(1) {
        ensure!(read.contains(&address.to_string()), "{read}");
    }
    // Nobody looks any more.
    let before = gateway.counter("sampled")?;
    let _ = Ping::to(HOST_B.0.into()).count(3).send(host_a)?;
    ensure!(gateway.counter("sampled")? == before, "somebody still looks");
    Ok(())
}

/// Each echo of host-a to host-b is there twice: the request in, the answer out.
fn comments(file: &[u8]) -> Result<()> {
    let has = |what: &str| file.windows(what.len()).filter(|window| *window == what.as_bytes()).count();
    let (came, went) = (has("segment flat, in"), has("segment flat, out"));
    ensure!(came >= 3 && went >= 3, "{came} in, {went} out");
    ensure!(has("segment flat, dropped: unknown-unicast") >= 1, "no drop is said");
    Ok(())
}
