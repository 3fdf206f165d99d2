//! `watari measure` between any two of site, gateway and node: figures for programs and a table for people,
//! and a clear word where there is nothing to measure. Needs root.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ── WireGuard over the WAN ── [gw-b] ═ VLAN 200 ─ host-b
//!   site a                │                                   │ WireGuard
//!                         └─ a → b, b → a, a → n1, n1 → a ─ [cloud]: node n1
//! ```

mod cloud;

use std::sync::Barrier;

use anyhow::{Context as _, Result, ensure};
use cloud::{Invitation, Machine};
use netns_tests::World;
use netns_tests::http::Response;
use netns_tests::process::Ended;
use serde_json::{Value, json};

/// Seconds of a measurement that another one is to meet.
const OVERLAP_S: u32 = 4;

fn with_node() -> Result<(World, Machine, Invitation)> {
    let world = cloud::world(|_, _| Ok(()))?;
    let invited = Invitation::named(&world.b, "n1")?;
    let machine = Machine::fresh(&world.topology.cloud)?;
    machine.join(&world.b, &invited)?;
    Ok((world, machine, invited))
}

/// A figure of a report, which is there and above zero.
fn figure(report: &Value, path: &str) -> Result<f64> {
    let value =
        report.pointer(path).and_then(Value::as_f64).with_context(|| format!("no {path}: {report:#}"))?;
    ensure!(value > 0.0, "{path} is {value}: {report:#}");
    Ok(value)
}

fn throughput_is_plausible(report: &Value) -> Result<()> {
    for test in ["tcp", "udp"] {
        let [rate, took_ms] = ["bit_s", "took_ms"].map(|field| figure(report, &format!("/{test}/{field}")));
        let (rate, took_ms) = (rate?, took_ms?);
        ensure!((1e5..1e12).contains(&rate), "{test}: {rate} bit/s");
        ensure!((200.0..10_000.0).contains(&took_ms), "{test}: {took_ms} ms for a test of 1 s");
    }
    let (bytes, took_ms) = (figure(report, "/tcp/bytes")?, figure(report, "/tcp/took_ms")?);
    let (rate, told) = (bytes * 8e3 / took_ms, figure(report, "/tcp/bit_s")?);
    ensure!((rate / told - 1.0).abs() < 0.05, "bytes and time make {rate} bit/s, told is {told}");
    let [sent, received] = ["sent_packets", "received_packets"].map(|f| figure(report, &format!("/udp/{f}")));
    let (sent, received) = (sent?, received?);
    let lost = report["udp"]["lost_packets"].as_f64().context("no count of lost packets")?;
    ensure!(received <= sent && (sent - received - lost).abs() < 0.5, "{report:#}");
    Ok(())
}

fn latency_is_plausible(report: &Value) -> Result<()> {
    for test in ["rr_tcp", "rr_udp"] {
        let fields = ["min_us", "p50_us", "p90_us", "p99_us", "max_us"];
        let times: Vec<f64> =
            fields.iter().map(|f| figure(report, &format!("/{test}/{f}"))).collect::<Result<_>>()?;
        ensure!(times.is_sorted(), "{test}: percentiles out of order: {times:?}");
        ensure!(times[0] > 5.0 && times[4] < 5e6, "{test}: {times:?}");
        ensure!(figure(report, &format!("/{test}/transactions_s"))? < 1e6, "{report:#}");
        figure(report, &format!("/{test}/transactions"))?;
    }
    Ok(())
}

/// Measures from one end to the other as a program would, and reads what it gets.
fn measured(world: &World, ends: (&str, &str), places: (&str, &str)) -> Result<()> {
    let text = world.b.cli(&["measure", ends.0, ends.1, "--json"])?;
    let answer: Value = serde_json::from_str(&text).context(text)?;
    ensure!(answer["from"] == places.0 && answer["to"] == places.1, "{answer:#}");
    ensure!(answer["segment"] == "flat", "{answer:#}");
    let report = &answer["report"];
    let checked = throughput_is_plausible(report).and_then(|()| latency_is_plausible(report));
    checked.with_context(|| format!("{} → {}", ends.0, ends.1))
}

#[test]
fn root_between_any_two_places_there_are_figures_and_a_table() -> Result<()> {
    let (world, _machine, invited) = with_node()?;
    let (gw_a, gw_b, n1) = ("gateway:gw-a", "gateway:gw-b", "node:n1");
    measured(&world, ("gw-a", "gw-b"), (gw_a, gw_b))?;
    measured(&world, ("gateway:gw-b", "site:a"), (gw_b, gw_a))?;
    measured(&world, ("site:a", "n1"), (gw_a, n1))?;
    measured(&world, ("n1", "gw-b"), (n1, gw_b))?;
    measured(&world, ("node:n1", "site:a"), (n1, gw_a))?;

    let all = "tcp,tcp-reverse,udp,udp-reverse,rr-tcp,rr-udp";
    let table = world.b.cli(&["measure", "gw-a", "n1", "--streams", "2", "--tests", all])?;
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    for test in all.split(',') {
        let row = rows.iter().find(|row| row.get(2) == Some(&test)).with_context(|| table.clone())?;
        ensure!(row[1] == "gateway:gw-a -> node:n1" && !row[3].is_empty(), "{row:?}\n{table}");
        ensure!(test.starts_with("rr") != row[5].is_empty(), "percentiles of round trips alone: {row:?}");
        ensure!(!test.starts_with("tcp") || row[8].starts_with("2 streams"), "{row:?}");
    }
    let one: Value =
        serde_json::from_str(&world.b.cli(&["measure", "gw-b", "n1", "--tests", "rr-udp", "--json"])?)?;
    ensure!(one["report"]["rr_udp"].is_object() && one["report"]["tcp"].is_null(), "not asked for: {one:#}");
    let target = one["report"]["target"].as_str().unwrap_or_default();
    ensure!(target.starts_with(&invited.addresses[0].to_string()), "{one:#}");
    Ok(())
}

/// The command fails with one sentence that has each of `words`, and prints no figures.
fn is_refused(ended: &Ended, words: &[&str]) -> Result<()> {
    let said = format!("{}\n{}{}", ended.status, ended.out, ended.err);
    ensure!(ended.status.code() == Some(1), "{said}");
    ensure!(ended.out.is_empty() && ended.err.starts_with("watari: "), "{said}");
    for word in words {
        ensure!(ended.err.contains(word), "{word:?} is not said: {said}");
    }
    Ok(())
}

/// Two measurements that begin at the same moment; their answers.
fn two_at_once(world: &World) -> Result<[Response; 2]> {
    let (api, start) = (world.b.api(), Barrier::new(2));
    let ask = |from: &str, to: &str| {
        let body = json!({ "from": from, "to": to, "seconds": OVERLAP_S, "tests": ["rr-tcp"] });
        start.wait();
        api.post("/api/v1/measure", &body)
    };
    std::thread::scope(|scope| {
        let (one, two) = (scope.spawn(|| ask("gw-b", "n1")), scope.spawn(|| ask("gw-a", "gw-b")));
        let answer = |thread: std::thread::ScopedJoinHandle<'_, Result<Response>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        Ok([answer(one)?, answer(two)?])
    })
}

#[test]
fn root_what_cannot_be_measured_is_refused_in_words() -> Result<()> {
    let (world, machine, _) = with_node()?;
    let measure = |from: &str, to: &str| world.b.try_cli(&["measure", from, to, "--tests", "rr-tcp"]);
    is_refused(&measure("gw-b", "nobody")?, &["to: there is no site, gateway or node nobody"])?;
    is_refused(&measure("node:gw-a", "gw-b")?, &["from: there is no node gw-a"])?;
    is_refused(&measure("gw-b", "site:b")?, &["to: both ends are the same"])?;
    is_refused(&world.b.try_cli(&["measure", "gw-b", "n1", "--tests", "sctp"])?, &["tests: "])?;
    is_refused(&world.b.try_cli(&["measure", "gw-b", "n1", "--seconds", "0"])?, &["seconds: "])?;

    let mut answers = two_at_once(&world)?;
    answers.sort_by_key(|answer| answer.status);
    let [done, busy] = &answers;
    ensure!((done.status, busy.status) == (200, 409), "{}\n{}", done.text(), busy.text());
    figure(&done.json()?, "/report/rr_tcp/transactions")?;
    ensure!(busy.header("content-type") == Some("application/problem+json"), "{busy:?}");
    let detail = busy.json()?["detail"].as_str().unwrap_or_default().to_owned();
    ensure!(detail.contains("another measurement"), "{}", busy.text());
    // The place is free again.
    figure(
        &world.b.api().post("/api/v1/measure", &short("gw-b", "n1"))?.success()?,
        "/report/rr_tcp/p50_us",
    )?;

    // A node that is still in the document and does not answer.
    machine.run("watari-node leave")?;
    is_refused(&measure("gw-b", "n1")?, &["no measurement responder at 10.20.0."])?;
    is_refused(&measure("n1", "gw-b")?, &["10.20.0."])?;
    world.b.cli(&["detach", "n1"])?;
    ensure!(!world.b.cli(&["nodes"])?.contains("n1"), "it is still listed");
    is_refused(&measure("gw-b", "n1")?, &["to: there is no site, gateway or node n1"])?;
    is_refused(&measure("node:n1", "gw-b")?, &["from: there is no node n1"])
}

fn short(from: &str, to: &str) -> Value {
    json!({ "from": from, "to": to, "tests": ["rr-tcp"] })
}
