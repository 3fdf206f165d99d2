//! Live traffic as proof: two engines that watch the path between them, idle and under load. Needs root, `ip` and `ping`.

#[allow(dead_code, reason = "the other tests use the rest")]
mod topology;

use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use topology::{Host, Running, Wire, wait_until};
use watari_link::protocol::{PathState, ProbeConfig, ProbeStatus, ProbesConfig};

/// A dead path is found within 800 ms; what is left is for a loaded machine.
const FOUND_WITHIN: Duration = Duration::from_millis(2_500);
/// Pings during which requests are counted.
const PINGS: u64 = 500;

fn watch(engine: &Running, local: &str, remote: &str) {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let probe = ProbeConfig {
        name: "t".to_owned(),
        local: address(local),
        remote: address(remote),
        device: "wtwg0".to_owned(),
        interval_ms: 100,
        dead_after_ms: 800,
    };
    engine.client().set_probes(ProbesConfig { port: 4790, probes: vec![probe] }).expect("probes");
}

fn probe(engine: &Running) -> ProbeStatus {
    engine.client().list_probes().expect("probes").probes.swap_remove(0)
}

/// Requests a second that both engines send while up to a hundred pings a second go from `host` to `to`.
fn requests(engines: [&Running; 2], host: &Host, to: &str) -> [f64; 2] {
    let before = engines.map(|engine| probe(engine).sent);
    let began = Instant::now();
    host.run("ping", &["-n", "-q", "-i", "0.01", "-c", &PINGS.to_string(), to]);
    let after = engines.map(|engine| probe(engine).sent);
    let seconds = began.elapsed().as_secs_f64();
    [0, 1].map(|engine: usize| (after[engine] - before[engine]) as f64 / seconds)
}

#[test]
fn root_requests_are_rare_under_traffic_and_a_dead_path_is_found_as_soon() {
    let wire = Wire::new();
    let (a, b, _pair) = wire.tunnel();
    watch(&a, "10.9.0.1", "10.9.0.2");
    watch(&b, "10.9.0.2", "10.9.0.1");
    let engines = [&a, &b];
    for engine in engines {
        wait_until("the path is up", || probe(engine).state == PathState::Up);
    }
    // Beside the tunnel, which is idle.
    let idle = requests(engines, &wire.a, "192.0.2.2");
    // Through it.
    let busy = requests(engines, &wire.a, "10.9.0.2");
    println!("requests a second: idle {idle:.1?}, under traffic {busy:.1?}");
    assert!(idle.iter().all(|count| (6.0..=12.0).contains(count)), "{idle:?}");
    assert!(busy.iter().all(|count| *count <= 4.0), "{busy:?}");
    assert!(engines.iter().all(|engine| probe(engine).changes == 1), "up once and for all");

    let mut ping = wire.a.command("ping");
    ping.args(["-n", "-q", "-i", "0.01", "10.9.0.2"]).stdout(Stdio::null());
    let mut ping = ping.spawn().expect("ping");
    for engine in engines {
        wait_until("traffic proves the path", || probe(engine).by_traffic);
    }
    wire.b.ip(&["link", "set", "v0", "down"]);
    let cut = Instant::now();
    for engine in engines {
        wait_until("the path is down", || probe(engine).state == PathState::Down);
    }
    println!("found after {:?}", cut.elapsed());
    assert!(cut.elapsed() < FOUND_WITHIN, "{:?}", cut.elapsed());
    ping.kill().expect("kill");
    ping.wait().expect("wait");
}
