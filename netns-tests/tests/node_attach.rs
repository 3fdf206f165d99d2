//! A node from the side of who asks for it: what is audited, what a restart makes of its receipt, what is refused.
//! `node.rs` has the node itself, `measure.rs` the measurements. Needs root.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ── WireGuard over the WAN ── [gw-b] ═ VLAN 200 ─ host-b
//!                                                             │ enrolment, WireGuard
//!                                                    wan ─── [cloud]: node n1
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::gateway::program;
use netns_tests::http::{Api, Response};
use netns_tests::ping::Ping;
use netns_tests::topology::{self, Topology, Tunnel};
use netns_tests::world::SOON;
use netns_tests::{Gateway, Ns, World, wait_until};
use serde_json::{Value, json};

const LISTEN: &str = "0.0.0.0:8443";
/// How long a join may take.
const JOIN: Duration = Duration::from_secs(40);

fn world() -> Result<World> {
    let topology = Topology::build()?;
    let a = Gateway::start(&topology.a.gateway, "gw-a", &json!({}))?;
    let b = Gateway::start(&topology.b.gateway, "gw-b", &json!({ "enrol": { "listen": LISTEN } }))?;
    let keys = [a.wireguard_key()?, b.wireguard_key()?];
    let document = topology::document(&[Tunnel::Wireguard], [&keys[0], &keys[1]]);
    let world = World { topology, a, b, document };
    for gateway in [&world.a, &world.b] {
        gateway.apply(&world.document)?;
    }
    world.tunnel_is_up("ab-wg")?;
    Ok(world)
}

fn attach(b: &Gateway, name: &str, lease: &str) -> Result<Value> {
    b.api().post("/api/v1/nodes", &json!({ "name": name, "segment": "flat", "lease": lease }))?.success()
}

/// Runs the join command, as it was answered, on a fresh machine.
fn join(machine: &Ns, attached: &Value) -> Result<String> {
    for folder in ["/var/lib", "/run"] {
        machine.exec(&format!("mount -t tmpfs -o mode=0755 fresh {folder}"))?;
    }
    run_join(machine, attached)
}

fn run_join(machine: &Ns, attached: &Value) -> Result<String> {
    let folder = program("watari-node")?.parent().context("a folder")?.display().to_string();
    let command = attached["join_command"].as_str().context("a join command")?;
    let line = format!("PATH={folder}:$PATH exec {command}");
    machine.exec_args(&["sh", "-c", &line], JOIN)
}

fn addresses(attached: &Value) -> Result<Vec<IpAddr>> {
    let texts = attached["addresses"].as_array().context("addresses")?.iter().filter_map(Value::as_str);
    texts.map(|t| Ok(t.split('/').next().unwrap_or_default().parse()?)).collect()
}

fn ready(b: &Gateway, name: &str) -> Result<Value> {
    wait_until(SOON, &format!("the receipt of {name}"), || {
        let receipt = b.get(&format!("/api/v1/nodes/{name}/receipt"))?;
        ensure!(receipt["ready"] == true, "{receipt:#}");
        Ok(receipt)
    })
}

/// Nobody has the node any more, and it answers nobody.
fn is_gone(world: &World, name: &str, addresses: &[IpAddr]) -> Result<()> {
    for gateway in [&world.a, &world.b] {
        wait_until(SOON, &format!("{} to forget {name}", gateway.name()), || {
            ensure!(gateway.api().get(&format!("/api/v1/nodes/{name}"))?.status == 404, "its document");
            for path in ["/api/v1/facts", "/api/v1/status"] {
                let text = gateway.get(path)?.to_string();
                for address in addresses {
                    ensure!(!text.contains(&format!("\"{address}\"")), "{address} is in {path}");
                }
            }
            let left = gateway.ns().ip_json("link show")?;
            let is_left = |l: &Value| l["ifname"].as_str().is_some_and(|n| n.starts_with("wtn"));
            ensure!(!left.iter().any(is_left), "{left:?}");
            Ok(())
        })?;
    }
    for address in addresses {
        wait_until(SOON, &format!("{address} to fall silent"), || {
            let report = Ping::to(*address).count(1).send(&world.topology.a.host)?;
            ensure!(report.received == 0, "it answers");
            Ok(())
        })?;
    }
    Ok(())
}

/// The kind of a problem and the fields it names.
fn problem(response: &Response) -> Result<(u16, Vec<String>)> {
    let body = response.json()?;
    let errors = body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let paths = errors.iter().filter_map(|e| Some(e["path"].as_str()?.to_owned())).collect();
    Ok((response.status, paths))
}

/// Two gateways, two families, two sizes.
fn proves_both_gateways(receipt: &Value) -> Result<()> {
    let probes = receipt["probes"].as_array().context("probes")?;
    ensure!(probes.len() == 8 && probes.iter().all(|p| p["ok"] == true), "{receipt:#}");
    let full = probes.iter().filter(|p| p["bytes"] == topology::SEGMENT_MTU).count();
    ensure!(full == 4, "{receipt:#}");
    let stages: Vec<_> =
        receipt["stages"].as_array().into_iter().flatten().filter_map(|s| s["stage"].as_str()).collect();
    ensure!(stages == ["asked", "enrolled", "applied", "handshake", "announced", "ready"], "{stages:?}");
    Ok(())
}

#[test]
fn root_a_token_works_once_and_a_lease_ends() -> Result<()> {
    let mut world = world()?;
    let attached = attach(&world.b, "n1", "1h")?;
    join(&world.topology.cloud, &attached)?;
    ready(&world.b, "n1")?;
    world.b.kill9()?;
    world.b.launch()?;
    ensure!(world.b.first_plan_ops()? == 0, "the node was found as it was left");
    let receipt = ready(&world.b, "n1")?;
    ensure!(receipt["derived"] == true, "{receipt:#}");
    proves_both_gateways(&receipt)?;
    // Another machine with the token of the first: its state is fresh, its key another.
    let machine = &world.topology.cloud;
    let second =
        attached["join_command"].as_str().context("a command")?.to_owned() + " --state /var/lib/other";
    let refused = run_join(machine, &json!({ "join_command": second }));
    let said = format!("{:#}", refused.err().context("the second join must fail")?);
    ensure!(said.contains("The token cannot be used"), "{said}");
    let audit = world.b.cli(&["audit"])?;
    ensure!(audit.contains("enrol") && audit.contains("attach n1"), "{audit}");
    world.b.cli(&["renew", "n1", "--lease", "3s"])?;
    is_gone(&world, "n1", &addresses(&attached)?)?;
    let audit = world.b.cli(&["audit"])?;
    ensure!(audit.contains("lease ended"), "{audit}");
    Ok(())
}

#[test]
fn root_what_cannot_be_attached_is_refused_with_the_field() -> Result<()> {
    let world = world()?;
    let post =
        |gateway: &Gateway, path: &str, body: Value| gateway.api().post(&format!("/api/v1/{path}"), &body);
    let wrong = json!({ "name": "A B", "segment": "flat", "kind": "tpu", "lease": "400d", "colour": 1 });
    let (status, mut paths) = problem(&post(&world.b, "nodes", wrong)?)?;
    paths.sort();
    ensure!(status == 422 && paths == ["colour", "kind", "lease", "name"], "{status} {paths:?}");
    let (status, paths) = problem(&post(&world.b, "nodes", json!({ "segment": "nowhere" }))?)?;
    ensure!(status == 422 && paths == ["segment"], "{status} {paths:?}");
    attach(&world.b, "n1", "1h")?;
    let (status, paths) = problem(&post(&world.b, "nodes", json!({ "name": "n1" }))?)?;
    ensure!(status == 422 && paths == ["name"], "{status} {paths:?}");
    let (status, _) = problem(&post(&world.a, "nodes", json!({ "segment": "flat" }))?)?;
    ensure!(status == 409, "a gateway without an enrolment listener: {status}");
    let (status, paths) = problem(&post(&world.b, "measure", json!({ "from": "gw-b", "to": "nobody" }))?)?;
    ensure!(status == 422 && paths == ["to"], "{status} {paths:?}");
    let (status, _) = problem(&post(&world.b, "measure", json!({ "from": "gw-b", "to": "n1" }))?)?;
    ensure!(status == 503, "a node that never joined: {status}");
    ensure!(world.b.get("/api/v1/nodes/n1/receipt")?["state"] == "waiting", "its receipt");
    ensure!(world.b.api().get("/api/v1/nodes/nobody/receipt")?.status == 404, "a receipt of nobody");
    let openapi = world.b.get("/api/v1/openapi.json")?;
    for (path, method) in [
        ("/nodes", "get"),
        ("/nodes", "post"),
        ("/nodes/{name}", "get"),
        ("/nodes/{name}", "delete"),
        ("/nodes/{name}/receipt", "get"),
        ("/nodes/{name}/renew", "post"),
        ("/measure", "post"),
    ] {
        ensure!(openapi["paths"][format!("/api/v1{path}")][method].is_object(), "{method} {path}");
    }
    internal_is_for_gateways_alone(&world)?;
    Ok(())
}

/// Gateway A may ask gateway B to probe; a machine of the WAN gets no connection, and gateway B's own machine
/// none that is served.
fn internal_is_for_gateways_alone(world: &World) -> Result<()> {
    let address = SocketAddr::from((topology::VTEP_B, 4793));
    let ask = json!({ "l3vni": 5000, "vni": 1000, "target": "10.20.0.65", "bytes": 84 });
    let post = |ns: &Ns| Api::Tcp(ns.clone(), address).post("/internal/v1/probe", &ask);
    let answer = wait_until(SOON, "gw-b to answer gw-a", || post(world.a.ns())?.success())?;
    ensure!(answer["rtt_us"].is_u64(), "gw-b reaches gw-a's own address: {answer}");
    ensure!(post(world.b.ns()).is_err(), "the machine itself is no other gateway");
    let cloud = &world.topology.cloud;
    cloud.ip(&format!("route add {} via {}", topology::VTEP_B, default_gateway(cloud)?))?;
    ensure!(post(cloud).is_err(), "a machine of the WAN");
    Ok(())
}

/// The next hop of some route of the machine.
fn default_gateway(ns: &Ns) -> Result<String> {
    let routes = ns.ip_json("route show")?;
    let next = routes.iter().find_map(|r| r["gateway"].as_str());
    Ok(next.context("no next hop")?.to_owned())
}
