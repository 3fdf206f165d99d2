//! What the programs cost of a small packet between two sites, by direction: no test, a measurement. Needs root.
//!
//! ```text
//! cargo test -p watari-dataplane --test cost_root -- --ignored --nocapture
//! ```
//! The kernel's own clock around each run of a program (`BPF_ENABLE_STATS`), the helpers that it calls included; the two
//! looks at the clock are in every figure alike.

mod rig;

use std::path::Path;

use aya::{programs::ProgramInfo, sys::Stats};
use rig::{netns::*, sequence::*, sites::*, *};
use watari_dataplane::*;

const ROUNDS: usize = 5;
/// Packets of a round.
const ROUND: u64 = 100_000;

/// Hosts behind veths of the gateways' own machine, untagged, as containers are.
fn bench() -> Bench {
    let bench = Bench {
        a: Gateway::new("cost", 1, Join::ROOMY),
        b: Gateway::new("cost", 2, Join::ROOMY),
        host_a: Netns::new("costha"),
        host_b: Netns::new("costhb"),
    };
    veth((&bench.a.space, "w"), (&bench.b.space, "w"));
    for (gateway, host, last) in [(&bench.a, &bench.host_a, 10), (&bench.b, &bench.host_b, 11)] {
        gateway.tunnel();
        veth((host, "eth0"), (&gateway.space, "t"));
        host.ip(&format!("addr add 10.0.0.{last}/24 dev eth0"));
        let port = PortKey::untagged(gateway.index("t"));
        gateway.segment(port);
        let near = Port { flags: Port::NEAR, ..Port::segment(1, L2) };
        gateway.rig.dataplane.ports.upsert(&port, &near).unwrap();
        gateway.attach("t", Hook::Interface);
    }
    bench.exchange();
    bench
}

/// Runs of a program so far, and their nanoseconds.
fn spent(folder: &Path, program: &str) -> (u64, u128) {
    let info = ProgramInfo::from_pin(folder.join(format!("wtp-{program}"))).unwrap();
    (info.run_count(), info.run_time().as_nanos())
}

#[test]
#[ignore = "a measurement: run by hand on a quiet machine"]
fn root_measure_nanoseconds_per_packet_by_direction() {
    let bench = bench();
    let programs =
        [(&bench.a.rig.folder, "iface", "to the far gateway"), (&bench.b.rig.folder, "trunk", "from it")];
    wait_until("first ping", || bench.host_a.try_run("ping -c 1 -W 1 10.0.0.11").0);
    let _clock = aya::sys::enable_stats(Stats::RunTime).unwrap();
    let mut figures = programs.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        let before = programs.map(|(folder, program, _)| spent(folder, program));
        let stream = Sequence::start(&bench.host_a, &bench.host_b, "10.0.0.11", 10_000_000);
        wait_until("a round", || stream.arrived() >= ROUND);
        let arrivals = stream.stop();
        for ((at, before), list) in programs.iter().zip(before).zip(&mut figures) {
            let (runs, nanoseconds) = spent(at.0, at.1);
            assert!(runs - before.0 >= arrivals.sent - arrivals.lost, "{arrivals:?}");
            list.push((nanoseconds - before.1) as f64 / (runs - before.0) as f64);
        }
    }
    let known = [&bench.a, &bench.b].map(|gateway| gateway.counter("flow-known"));
    println!("by the flow cache: {known:?}");
    for ((_, program, direction), list) in programs.iter().zip(&mut figures) {
        list.sort_by(f64::total_cmp);
        println!("{program}, {direction}: median {:.1} ns, {list:.1?}", list[ROUNDS / 2]);
    }
}
