//! A fresh machine of the cloud becomes a host of the flat network and goes again: its receipt, its one-shot
//! token, its lease, its way out of every table, and the brain behind it that may be killed. Needs root.
//!
//! ```text
//!  host-a ─ VLAN 100 ─┐                                            ┌─ VLAN 200 ─ host-b
//!                     ├═ [gw-a] ── WireGuard over the WAN ── [gw-b] ═
//!  server ─ [campus] ─┘ VLAN 300          │                    │ enrolment (TLS), WireGuard
//!                                       [wan] ─────────────────┘
//!                                      │     │
//!                         n1 ─ [cloud] ┘     └ [cloud-4] ─ n2
//! ```

mod cloud;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cloud::{Invitation, Machine, after, world};
use netns_tests::campus::{Campus, Setup, Software};
use netns_tests::flow::{Flow, FlowSpec};
use netns_tests::http::Response;
use netns_tests::ping::{Ping, ping};
use netns_tests::topology::{GATEWAY, GW_B_PUBLIC, HOST_A, HOST_B, SEGMENT_MTU, SERVER, VTEP_B, both};
use netns_tests::world::SOON;
use netns_tests::{Gateway, Ns, World, process, wait_until};
use serde_json::{Value, json};

/// An echo of ping's usual size, and one that fills the segment, in bytes of the IP packet.
const PROBES: [u16; 2] = [84, SEGMENT_MTU];
/// The datapath's tables in which an address or a MAC of a node may stand.
const TABLES: [&str; 9] = [
    "nodes",
    "mac_static",
    "mac_local",
    "mac_remote",
    "nb_static",
    "nb_local",
    "nb_remote",
    "routes4",
    "routes6",
];
/// How long a lease lives that is waited for.
const LEASE: (&str, Duration) = ("6s", Duration::from_secs(6));

#[test]
fn root_a_fresh_machine_becomes_a_host_of_the_flat_network() -> Result<()> {
    let world = world(|_, _| Ok(()))?;
    let _campus = Campus::start(Software::Bird, &world.topology.campus, Setup::default())?;
    world.hosts_meet()?;
    let hosts = [&world.topology.a.host, &world.topology.b.host];
    let before = [configured(hosts[0])?, configured(hosts[1])?];

    let body = json!({ "name": "n1", "segment": "flat", "kind": "gpu", "lease": "2h" });
    let invited = Invitation::ask(&world.b, &body)?;
    says_what_a_node_needs(&world.b, &invited)?;
    let receipt = world.b.get("/api/v1/nodes/n1/receipt")?;
    ensure!(receipt["ready"] == false && receipt["state"] == "waiting", "{receipt:#}");

    let machine = Machine::fresh(&world.topology.cloud)?;
    let receipt = machine.join(&world.b, &invited)?;
    is_whole(&receipt, &invited)?;
    let table = world.b.cli(&["receipt", "n1"])?;
    ensure!(table.contains("announced") && table.contains(&SEGMENT_MTU.to_string()), "{table}");
    has_what_was_answered(&machine, &invited)?;
    for (host, own) in hosts.into_iter().zip([HOST_A, HOST_B]) {
        for (there, here) in invited.addresses.into_iter().zip(both(own)) {
            meet(host, there, &machine.ns, here)?;
            ensure!(neighbour(host, there)? == invited.mac, "{there} at {}", host.label());
        }
    }
    ensure!(before == [configured(hosts[0])?, configured(hosts[1])?], "the hosts were changed");
    for address in both(GATEWAY).into_iter().chain(both(SERVER)) {
        wait_until(SOON, &format!("n1 to reach {address}"), || ping(&machine.ns, address))?;
    }
    full_size(&machine.ns, SERVER.0.into())?;
    full_size(&machine.ns, SERVER.1.into())
}

/// How a host is set up: what an operator or a daemon on it would have changed.
fn configured(host: &Ns) -> Result<Vec<Vec<Value>>> {
    let shows =
        ["addr show", "-4 route show table all", "-6 route show table main", "neigh show nud permanent"];
    shows.iter().map(|show| host.ip_json(show)).collect()
}

/// Small and full packets in both directions.
fn meet(host: &Ns, there: IpAddr, node: &Ns, here: IpAddr) -> Result<()> {
    for (ns, to) in [(host, there), (node, here)] {
        wait_until(SOON, &format!("{} to reach {to}", ns.label()), || ping(ns, to))?;
        full_size(ns, to)?;
    }
    Ok(())
}

/// As large as the segment takes, not to be fragmented.
fn full_size(ns: &Ns, to: IpAddr) -> Result<()> {
    wait_until(SOON, &format!("{SEGMENT_MTU} bytes from {} to {to}", ns.label()), || {
        let report = Ping::to(to).full(SEGMENT_MTU).send(ns)?;
        ensure!(report.received == 1, "{}", report.text);
        Ok::<_, anyhow::Error>(())
    })
}

/// The MAC that a host has found for an address.
fn neighbour(host: &Ns, address: IpAddr) -> Result<String> {
    let found = host.ip_json(&format!("neigh show to {address} dev eth0"))?;
    Ok(found.first().and_then(|n| n["lladdr"].as_str()).unwrap_or_default().to_owned())
}

fn says_what_a_node_needs(gateway: &Gateway, invited: &Invitation) -> Result<()> {
    let answer = &invited.answer;
    let lengths: Vec<_> = answer["addresses"].as_array().into_iter().flatten().collect();
    let wanted = [format!("{}/32", invited.addresses[0]), format!("{}/128", invited.addresses[1])];
    ensure!(lengths == [wanted[0].as_str(), wanted[1].as_str()], "{answer:#}");
    ensure!(wanted[0].starts_with("10.20.0.1") && wanted[1].starts_with("fd20::b:"), "not of its slice");
    let expected = json!({ "gateway": "gw-b", "segment": "flat", "kind": "gpu", "name": "n1" });
    for (field, value) in expected.as_object().into_iter().flatten() {
        ensure!(answer[field] == *value, "{field}: {answer:#}");
    }
    let wireguard = &answer["wireguard"];
    ensure!(wireguard["public_key"] == gateway.wireguard_key()?.as_str(), "{wireguard:#}");
    let endpoint = wireguard["endpoint"].as_str().unwrap_or_default();
    ensure!(endpoint.starts_with(&format!("{GW_B_PUBLIC}:")), "{wireguard:#}");
    ensure!(!answer.to_string().contains("private"), "a private key is the node's own");
    let (user_data, pin) = (answer["cloud_init"].as_str().unwrap_or_default(), pin(invited)?);
    ensure!(user_data.starts_with("#cloud-config\n") && user_data.contains(pin), "{user_data}");
    ensure!(user_data.matches(&invited.token).count() == 1, "{user_data}");
    let secrets = user_data.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() >= 32);
    ensure!(secrets.count() == 2, "the token, the fingerprint and no more: {user_data}");
    Ok(())
}

fn pin(invited: &Invitation) -> Result<&str> {
    after(&invited.join_command, "--pin").context("a command without a pin")
}

/// Every stage with its time, in order; every probe from both gateways before `ready`.
fn is_whole(receipt: &Value, invited: &Invitation) -> Result<()> {
    let stages: Vec<&Value> = receipt["stages"].as_array().into_iter().flatten().collect();
    let names: Vec<_> = stages.iter().map(|s| s["stage"].as_str().unwrap_or_default()).collect();
    ensure!(names == ["asked", "enrolled", "applied", "handshake", "announced", "ready"], "{receipt:#}");
    let times: Vec<_> = stages.iter().map(|s| moment(&s["at"])).collect::<Result<_>>()?;
    ensure!(times.is_sorted(), "{receipt:#}");
    ensure!(stages[1..].iter().all(|s| s["took_ms"].is_u64()), "{receipt:#}");
    ensure!(receipt["ready_ms"].as_u64().is_some_and(|ms| ms > 0), "{receipt:#}");
    let (announced, ready) = (&times[4], &times[5]);
    let mut missing: BTreeSet<(String, String, u64)> = BTreeSet::new();
    for gateway in ["gw-a", "gw-b"] {
        for address in invited.addresses {
            missing.extend(PROBES.map(|bytes| (gateway.to_owned(), address.to_string(), u64::from(bytes))));
        }
    }
    for probe in receipt["probes"].as_array().into_iter().flatten() {
        let word = |field: &str| probe[field].as_str().unwrap_or_default().to_owned();
        let key = (word("gateway"), word("target"), probe["bytes"].as_u64().unwrap_or_default());
        ensure!(missing.remove(&key), "not asked for, or twice: {probe}");
        ensure!(probe["ok"] == true && probe["rtt_us"].as_u64().is_some_and(|us| us > 0), "{probe}");
        let at = moment(&probe["at"])?;
        ensure!(*announced <= at && at <= *ready, "not between announced and ready: {probe} in {receipt:#}");
    }
    ensure!(missing.is_empty(), "{missing:?} in {receipt:#}");
    Ok(())
}

/// A time in UTC so that it can be compared: up to the second, and nanoseconds.
fn moment(value: &Value) -> Result<(String, String)> {
    let text =
        value.as_str().and_then(|text| text.strip_suffix('Z')).with_context(|| format!("a time: {value}"))?;
    let (second, fraction) = text.split_once('.').unwrap_or((text, ""));
    Ok((second.to_owned(), format!("{fraction:0<9}")))
}

fn has_what_was_answered(machine: &Machine, invited: &Invitation) -> Result<()> {
    let device = machine.ns.ip_json("addr show dev wt0")?;
    let infos = device[0]["addr_info"].as_array().into_iter().flatten();
    let global = infos.filter(|info| info["scope"] == "global");
    let addresses: BTreeSet<String> = global
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap_or_default(), info["prefixlen"]))
        .collect();
    let wanted = invited.answer["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
    ensure!(addresses == wanted.map(str::to_owned).collect(), "{device:#?}");
    ensure!(device[0]["mtu"] == invited.answer["wireguard"]["mtu"], "{device:#?}");
    let status: Value = serde_json::from_str(&machine.run("watari-node status --json")?)?;
    ensure!(status["healthy"] == true && status["faults"] == json!([]), "{status:#}");
    Ok(())
}

#[test]
fn root_a_token_is_good_once_and_only_its_hash_is_kept() -> Result<()> {
    let world = world(|_, _| Ok(()))?;
    let invited = Invitation::named(&world.b, "n1")?;
    let hash = sha256(&invited.token)?;
    let asked = document(&world.b)?;
    ensure!(asked.1["nodes"]["n1"]["token_sha256"] == "(secret)", "{:#}", asked.1["nodes"]);
    is_nowhere(&world, &invited.token)?;
    ensure!(
        is_in(&world.b.state_dir(), &hash)?,
        "the store does not have the hash either: is it looked into?"
    );

    let machine = Machine::fresh(&world.topology.cloud)?;
    let pin = pin(&invited)?;
    let other = |secret: &str| -> String {
        let last = if secret.ends_with('0') { '1' } else { '0' };
        format!("{}{last}", &secret[..secret.len() - 1])
    };
    let mut lines = vec![
        (invited.join_command.replace(pin, &other(pin)), "has another certificate than"),
        (invited.join_command.replace(&invited.token, &other(&invited.token)), "does not accept the token"),
    ];
    for (line, words) in lines.drain(..) {
        is_refused(&machine, &line, words)?;
        ensure!(document(&world.b)? == asked, "a refused join has changed the document");
    }
    // What was refused has spoilt nothing.
    machine.join(&world.b, &invited)?;
    let joined = document(&world.b)?;
    let node = &joined.1["nodes"]["n1"];
    ensure!(node["token_sha256"].is_null() && node["public_key"].is_string(), "{node:#}");

    is_refused(&machine, &invited.join_command, "this machine is the node n1 already: `watari-node up`")?;
    ensure!(machine.run("watari-node up")?.contains("n1 is up"), "it is up");
    // Another machine with the token of the first: its key is another.
    let thief = Machine::another(&world.topology.wan, 4)?;
    is_refused(&thief, &invited.join_command, "The token cannot be used")?;
    ensure!(document(&world.b)? == joined, "a used token has changed the document");
    ensure!(!thief.ns.has_link("wt0"), "a refused join has left a device");
    let host = &world.topology.a.host;
    for address in invited.addresses {
        wait_until(SOON, &format!("{} to reach {address}", host.label()), || ping(host, address))?;
    }
    is_nowhere(&world, &invited.token)
}

/// The command ends with status 1 and one sentence.
fn is_refused(machine: &Machine, line: &str, words: &str) -> Result<()> {
    let ended = machine.try_run(line)?;
    let said = format!("{}\n{}{}", ended.status, ended.out, ended.err);
    ensure!(ended.status.code() == Some(1), "{said}");
    ensure!(ended.err.starts_with("watari-node: ") && ended.err.trim_end().lines().count() == 1, "{said}");
    ensure!(ended.err.contains(words), "{words:?} is not said: {said}");
    Ok(())
}

/// Neither on the disk of a gateway nor in what its API tells of itself.
fn is_nowhere(world: &World, secret: &str) -> Result<()> {
    for gateway in [&world.a, &world.b] {
        for dir in [gateway.state_dir(), gateway.run_dir()] {
            ensure!(!is_in(&dir, secret)?, "the token is in {}", dir.display());
        }
        ensure!(!gateway.log().contains(secret), "the token is in the log of {}", gateway.name());
        for path in ["document", "nodes", "facts", "status", "events", "audit", "revisions"] {
            let text = gateway.api().get(&format!("/api/v1/{path}"))?.text();
            ensure!(!text.contains(secret), "the token is in /{path} of {}", gateway.name());
        }
    }
    Ok(())
}

fn is_in(dir: &Path, text: &str) -> Result<bool> {
    let mut grep = Command::new("grep");
    let ended = process::finish(grep.args(["-rqaF", "--", text]).arg(dir), SOON)?;
    match ended.status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => anyhow::bail!("grep: {}", ended.err),
    }
}

fn sha256(text: &str) -> Result<String> {
    let mut shell = Command::new("sh");
    let sum = process::output(shell.args(["-c", "printf %s \"$0\" | sha256sum", text]), SOON)?;
    Ok(sum.split_whitespace().next().context("a sum")?.to_owned())
}

/// The revision and the document.
fn document(gateway: &Gateway) -> Result<(Option<String>, Value)> {
    let response = gateway.api().get("/api/v1/document")?;
    let revision = response.header("etag").map(str::to_owned);
    ensure!(revision.is_some(), "a document without a revision: {:?}", response.headers);
    Ok((revision, response.success()?))
}

#[test]
fn root_a_lease_that_ends_and_a_detach_leave_nothing_anywhere() -> Result<()> {
    let world = world(|_, _| Ok(()))?;
    let machine = Machine::fresh(&world.topology.cloud)?;
    let invited = Invitation::named(&world.b, "n1")?;
    machine.join(&world.b, &invited)?;
    is_everywhere(&world, &invited)?;
    // One that never comes has a lease too.
    let seen = world.b.last_event()?;
    let awaited = Invitation::ask(&world.b, &json!({ "name": "n2", "segment": "flat", "lease": LEASE.0 }))?;
    let renewed = world.b.api().post("/api/v1/nodes/n1/renew", &json!({ "lease": LEASE.0 }))?.success()?;
    for (invited, expires) in [(&invited, &renewed["expires"]), (&awaited, &awaited.answer["expires"])] {
        is_gone(&world, invited)?;
        let object = format!("nodes.{}", invited.name);
        let events = world.b.events_after(seen)?;
        let ended = events.iter().find(|e| e["kind"] == "lease-ended" && e["object"] == object.as_str());
        let ended = ended.with_context(|| format!("no event of {object}: {events:#?}"))?;
        ensure!(moment(expires)? <= moment(&ended["at"])?, "too early for {expires}: {ended}");
    }

    // The machine may be another node afterwards, of the same name.
    ensure!(machine.run("watari-node leave")?.contains("n1 has left"), "it says so");
    let again = Invitation::named(&world.b, "n1")?;
    ensure!(again.token != invited.token, "a token came twice");
    machine.join(&world.b, &again)?;
    is_everywhere(&world, &again)?;
    let answer = world.b.api().delete("/api/v1/nodes/n1?wait_s=20")?.success()?;
    ensure!(answer["applied"] == true, "{answer:#}");
    is_gone(&world, &again)?;
    ensure!(world.b.api().delete("/api/v1/nodes/n1")?.status == 404, "detached twice");
    Ok(())
}

/// Where a gateway has something of a node: in its document, its words, its kernel, its datapath.
fn traces(gateway: &Gateway, invited: &Invitation) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let words = [
        format!("\"{}", invited.addresses[0]),
        format!("\"{}", invited.addresses[1]),
        format!("\"{}\"", invited.mac),
        format!("nodes.{}\"", invited.name),
    ];
    for path in ["document", "facts", "status", "plan"] {
        let text = gateway.get(&format!("/api/v1/{path}"))?.to_string();
        if words.iter().any(|word| text.contains(word)) {
            found.insert(path.to_owned());
        }
    }
    let links = gateway.ns().ip_json("link show")?;
    let names = links.iter().filter_map(|link| link["ifname"].as_str());
    found.extend(names.filter(|name| name.starts_with("wtn")).map(|_| "device".to_owned()));
    let mut octets: Vec<Vec<u8>> = invited.addresses.iter().map(|address| octets_of(*address)).collect();
    let mac = invited.mac.split(':').map(|part| u8::from_str_radix(part, 16));
    octets.push(mac.collect::<Result<_, _>>()?);
    for table in TABLES {
        let entries = entries(gateway, table)?;
        let has = |octets: &Vec<u8>| entries.iter().any(|e| e.windows(octets.len()).any(|w| w == octets));
        if octets.iter().any(has) {
            found.insert(table.to_owned());
        }
    }
    Ok(found)
}

fn octets_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Key and value of every entry of a table of the datapath.
fn entries(gateway: &Gateway, table: &str) -> Result<Vec<Vec<u8>>> {
    let pin = gateway.pin_dir().join(format!("wtm-{table}"));
    let text = gateway.ns().exec(&format!("bpftool -j map dump pinned {}", pin.display()))?;
    let entries: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("{table}: {text}"))?;
    let octets = |entry: &Value| -> Vec<u8> {
        let both = [&entry["key"], &entry["value"]].into_iter().filter_map(Value::as_array).flatten();
        let texts = both.filter_map(Value::as_str).map(|text| text.trim_start_matches("0x"));
        texts.filter_map(|text| u8::from_str_radix(text, 16).ok()).collect()
    };
    Ok(entries.iter().map(octets).collect())
}

/// Both gateways have it where they should: gateway A by BGP alone.
fn is_everywhere(world: &World, invited: &Invitation) -> Result<()> {
    let wanted: [(&Gateway, &[&str]); 2] = [
        (&world.b, &["document", "status", "device", "nodes", "mac_static"]),
        (&world.a, &["facts", "mac_remote", "nb_remote"]),
    ];
    for (gateway, places) in wanted {
        wait_until(SOON, &format!("{} to be at {}", invited.name, gateway.name()), || {
            let found = traces(gateway, invited)?;
            let missing: Vec<_> = places.iter().filter(|place| !found.contains(**place)).collect();
            ensure!(missing.is_empty(), "it is in {found:?}, not in {missing:?}");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    let macs = world.a.facts()?["macs"].clone();
    let own = macs.as_array().into_iter().flatten().find(|m| m["mac"] == invited.mac.as_str());
    let own = own.with_context(|| format!("{} is not in {macs:#}", invited.mac))?;
    ensure!(own["at"] == VTEP_B.to_string().as_str() && own["sticky"] == true, "{own}");
    for address in invited.addresses {
        wait_until(SOON, &format!("host-a to reach {address}"), || ping(&world.topology.a.host, address))?;
    }
    Ok(())
}

/// Nobody has anything of it any more, and it answers nobody.
fn is_gone(world: &World, invited: &Invitation) -> Result<()> {
    for gateway in [&world.a, &world.b] {
        wait_until(SOON, &format!("{} to forget {}", gateway.name(), invited.name), || {
            let found = traces(gateway, invited)?;
            ensure!(found.is_empty(), "it is still in {found:?}");
            let path = format!("/api/v1/nodes/{}", invited.name);
            ensure!(gateway.api().get(&path)?.status == 404, "it is still there");
            ensure!(
                gateway.api().get(&format!("{path}/receipt"))?.status == 404,
                "its receipt is still there"
            );
            Ok::<_, anyhow::Error>(())
        })?;
        gateway.settle()?;
    }
    let hosts = [&world.topology.a.host, &world.topology.b.host];
    let pairs = hosts.into_iter().flat_map(|host| invited.addresses.map(|address| (host, address)));
    let is_silent = |(host, address): (&Ns, IpAddr)| {
        let report = Ping::to(address).send(host)?;
        ensure!(report.received == 0, "it answers {}: {}", host.label(), report.text);
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = pairs.map(|pair| scope.spawn(move || is_silent(pair))).collect();
        threads
            .into_iter()
            .try_for_each(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[test]
fn root_the_killed_brain_of_its_gateway_is_not_missed() -> Result<()> {
    let mut world = world(|_, _| Ok(()))?;
    let machine = Machine::fresh(&world.topology.cloud)?;
    let invited = Invitation::named(&world.b, "n1")?;
    // What was answered is good at the brain that comes after.
    world.b.kill9()?;
    world.b.launch()?;
    machine.join(&world.b, &invited)?;
    is_everywhere(&world, &invited)?;
    let (host_a, host_b) = (world.topology.a.host.clone(), world.topology.b.host.clone());
    let before = world.b.get("/api/v1/nodes/n1")?;
    let [v4, v6] = invited.addresses;
    let pairs: [(&Ns, &Ns, IpAddr); 4] = [
        (&host_a, &machine.ns, v4),
        (&machine.ns, &host_a, HOST_A.1.into()),
        (&host_b, &machine.ns, v6),
        (&machine.ns, &host_b, HOST_B.0.into()),
    ];
    let start = |(from, to, address): (&Ns, &Ns, IpAddr)| {
        wait_until(SOON, &format!("{} to reach {address}", from.label()), || ping(from, address))?;
        let flow = Flow::start(from, to, FlowSpec::to(SocketAddr::new(address, 0)))?;
        Ok((format!("{} → {address}", from.label()), flow))
    };
    let flows: Vec<(String, Flow)> = pairs.into_iter().map(start).collect::<Result<_>>()?;
    let go_on = |count: u64| flows.iter().try_for_each(|(_, flow)| flow.wait_for(count, SOON));
    go_on(50)?;

    world.b.kill9()?;
    go_on(150)?;
    ensure!(traces(&world.a, &invited)?.contains("mac_remote"), "gw-a has dropped it with the session");
    world.b.launch()?;
    let ops = world.b.first_plan_ops()?;
    ensure!(ops == 0, "{ops} ops: {:#}", world.b.get("/api/v1/events")?);
    world.b.settle()?;
    ensure!(world.b.get("/api/v1/nodes/n1")? == before, "it is another: {before:#}");
    let plan = world.b.get("/api/v1/plan")?;
    ensure!(plan["plan"]["ops"].as_array().is_some_and(Vec::is_empty), "{plan:#}");
    world.b.wait_for_state("nodes.n1", "up")?;
    // It is proved anew, by the sessions that came back.
    let receipt = cloud::ready(&world.b, "n1")?;
    ensure!(receipt["derived"] == true, "{receipt:#}");
    is_everywhere(&world, &invited)?;
    go_on(50)?;
    for (name, flow) in flows {
        let report = flow.stop()?;
        println!("{name}: {report:?}");
        ensure!(report.sent > 600 && report.lost == 0 && report.refused == 0, "{name}: {report:?}");
    }
    Ok(())
}

#[test]
fn root_a_slice_gives_each_address_once_and_a_bad_request_gives_none() -> Result<()> {
    let world = world(|_, document| {
        document["pools"]["flat-nodes"]["slices"]["gw-b"] = json!(["10.20.0.128/29", "fd20::b:0/125"]);
        Ok(())
    })?;
    let mut invited = two_at_once(&world.b)?;
    bad_requests_change_nothing(&world.b, &invited[0].name)?;
    let machines = [Machine::fresh(&world.topology.cloud)?, Machine::another(&world.topology.wan, 4)?];
    for (machine, invited) in machines.iter().zip(&invited) {
        machine.join(&world.b, invited)?;
    }
    // They are of one gateway and meet there.
    for (there, here) in invited[1].addresses.into_iter().zip(invited[0].addresses) {
        meet(&machines[0].ns, there, &machines[1].ns, here)?;
    }
    speaks_for_itself_alone(&world, &machines[1].ns, invited[1].addresses, invited[0].addresses)?;

    // The lowest address of a slice is nobody's, the next is the gateway's own: six are left of eight.
    while invited.len() < 6 {
        invited.push(Invitation::ask(&world.b, &json!({ "segment": "flat" }))?);
    }
    let given: BTreeSet<IpAddr> = invited.iter().flat_map(|i| i.addresses).collect();
    let macs: BTreeSet<&String> = invited.iter().map(|i| &i.mac).collect();
    ensure!((given.len(), macs.len()) == (12, 6), "given twice: {invited:#?}");
    let before = document(&world.b)?;
    let refused = world.b.api().post("/api/v1/nodes", &json!({ "segment": "flat" }))?;
    let errors = is_problem(&refused, 422)?;
    ensure!(errors.len() == 1 && errors[0].0 == "segment", "{errors:?}");
    ensure!(errors[0].1.contains("slice 10.20.0.128/29 has no free address"), "{errors:?}");
    ensure!(document(&world.b)? == before, "a refused request has changed the document");

    let freed = invited.pop().context("six")?;
    world.b.api().delete(&format!("/api/v1/nodes/{}", freed.name))?.success()?;
    let next = Invitation::ask(&world.b, &json!({ "segment": "flat" }))?;
    ensure!(next.addresses == freed.addresses && next.token != freed.token, "{next:?} after {freed:?}");
    Ok(())
}

/// What a node sends from an address that is another node's, or nobody's, reaches no host.
fn speaks_for_itself_alone(world: &World, node: &Ns, own: [IpAddr; 2], others: [IpAddr; 2]) -> Result<()> {
    let nobodys: [IpAddr; 2] = ["10.20.0.99".parse()?, "fd20::99".parse()?];
    for (at, host) in both(HOST_A).into_iter().enumerate() {
        let receiver = world.topology.a.host.run(|| UdpSocket::bind((host, 0)))?;
        receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
        let send = |from: IpAddr| -> Result<()> {
            let socket = node.run(|| UdpSocket::bind((from, 0))).with_context(|| format!("from {from}"))?;
            socket.send_to(b"hello", receiver.local_addr()?)?;
            Ok(())
        };
        for foreign in [others[at], nobodys[at]] {
            node.address("lo", &[&foreign.to_string()])?;
            let before = transmitted(node)?;
            send(foreign)?;
            wait_until(SOON, &format!("{foreign} to leave {}", node.label()), || -> Result<()> {
                ensure!(transmitted(node)? > before, "nothing was sent");
                Ok(())
            })?;
        }
        // What is sent afterwards on the same way has come: so the others will not.
        let mut heard = [0; 16];
        let from = wait_until(SOON, &format!("{host} to hear {}", own[at]), || {
            send(own[at])?;
            let (_, from) = receiver.recv_from(&mut heard)?;
            Ok::<_, anyhow::Error>(from.ip())
        })?;
        ensure!(from == own[at], "{host} hears {from}");
    }
    Ok(())
}

/// Packets that the node's device has sent.
fn transmitted(node: &Ns) -> Result<u64> {
    let device = node.ip_json("-s link show dev wt0")?;
    device[0]["stats64"]["tx"]["packets"].as_u64().with_context(|| format!("no counters: {device:#?}"))
}

/// Two requests at the same moment.
fn two_at_once(gateway: &Gateway) -> Result<Vec<Invitation>> {
    let (api, start) = (gateway.api(), Barrier::new(2));
    let ask = || {
        start.wait();
        Invitation::read(api.post("/api/v1/nodes", &json!({ "segment": "flat" }))?.success()?)
    };
    let invited: Vec<Invitation> = std::thread::scope(|scope| {
        let threads = [scope.spawn(ask), scope.spawn(ask)];
        let answers = threads.map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        answers.into_iter().collect::<Result<_>>()
    })?;
    let (one, two) = (&invited[0], &invited[1]);
    ensure!(one.name != two.name && one.mac != two.mac && one.token != two.token, "{invited:#?}");
    ensure!(one.addresses.iter().all(|address| !two.addresses.contains(address)), "{invited:#?}");
    Ok(invited)
}

/// Problem details (RFC 9457) with this status; the fields that are wrong with what is said of each.
fn is_problem(response: &Response, status: u16) -> Result<Vec<(String, String)>> {
    let body = response.json()?;
    ensure!(response.status == status && body["status"] == status, "{}: {body:#}", response.status);
    ensure!(response.header("content-type") == Some("application/problem+json"), "{:?}", response.headers);
    let kind = body["type"].as_str().unwrap_or_default();
    ensure!(kind.starts_with("urn:watari:problem:") && body["title"].is_string(), "{body:#}");
    let word = |error: &Value, field: &str| error[field].as_str().unwrap_or_default().to_owned();
    let errors = body["errors"].as_array().into_iter().flatten();
    Ok(errors.map(|error| (word(error, "path"), word(error, "message"))).collect())
}

fn bad_requests_change_nothing(gateway: &Gateway, taken: &str) -> Result<()> {
    let before = document(gateway)?;
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({ "segment": "nowhere" }), &["segment"]),
        (json!({ "segment": "flat", "lease": "0s" }), &["lease"]),
        (json!({ "segment": "flat", "lease": 0 }), &["lease"]),
        (json!({ "segment": "flat", "lease": "400d" }), &["lease"]),
        (json!({ "segment": "flat", "name": taken }), &["name"]),
        (json!({ "segment": "flat", "name": "A B" }), &["name"]),
        (json!({ "segment": "flat", "kind": "tpu", "mode": "l9", "colour": 1 }), &["colour", "kind", "mode"]),
        (json!({ "segment": "nowhere", "name": taken }), &["name", "segment"]),
    ];
    for (body, wanted) in cases {
        let errors = is_problem(&gateway.api().post("/api/v1/nodes", &body)?, 422);
        let errors = errors.with_context(|| body.to_string())?;
        let paths: BTreeSet<&str> = errors.iter().map(|(path, _)| path.as_str()).collect();
        ensure!(paths == wanted.iter().copied().collect(), "{body}: {errors:?}");
        ensure!(errors.iter().all(|(_, message)| !message.is_empty()), "{body}: {errors:?}");
    }
    let renew = gateway.api().post(&format!("/api/v1/nodes/{taken}/renew"), &json!({ "lease": "0s" }))?;
    ensure!(is_problem(&renew, 422)?.iter().map(|(path, _)| path.as_str()).eq(["lease"]), "{}", renew.text());
    is_problem(&gateway.api().post("/api/v1/nodes/nobody/renew", &json!({ "lease": "1h" }))?, 404)?;
    is_problem(&gateway.api().delete("/api/v1/nodes/nobody")?, 404)?;
    let ended = gateway.try_cli(&["attach", "--name", taken, "--segment", "nowhere"])?;
    ensure!(ended.status.code() == Some(1) && ended.out.is_empty(), "{ended:?}");
    ensure!(ended.err.contains("segment: ") && ended.err.contains("name: "), "{ended:?}");
    ensure!(document(gateway)? == before, "a refused request has changed the document");
    Ok(())
}

/// Leases that end at one moment are each told: who left is said by the change that took them out.
#[test]
fn root_every_lease_that_ends_is_told() -> Result<()> {
    let world = world(|_, _| Ok(()))?;
    let body = json!({ "segment": "flat", "lease": "2s" });
    let invited: Vec<Invitation> =
        (0..16).map(|_| Invitation::ask(&world.b, &body)).collect::<Result<_>>()?;
    wait_until(SOON, "no node to be left", || -> Result<()> {
        let nodes = document(&world.b)?.1["nodes"].clone();
        ensure!(nodes.as_object().is_none_or(serde_json::Map::is_empty), "{nodes:#}");
        Ok(())
    })?;
    world.b.settle()?;
    let events = world.b.events_after(0)?;
    let told = events.iter().filter(|e| e["kind"] == "lease-ended");
    let told: BTreeSet<&str> = told.filter_map(|e| e["object"].as_str()).collect();
    let silent: Vec<_> =
        invited.iter().filter(|i| !told.contains(format!("nodes.{}", i.name).as_str())).collect();
    ensure!(silent.is_empty(), "{} of {} went without a word", silent.len(), invited.len());
    Ok(())
}
