//! `script/demo`: two sites and a cloud become one flat network, on real parts, and show it.
//!
//! ```text
//!  site A                                                                             site B
//!
//!  [server] 192.0.2.10, 2001:db8:2::10
//!     │                 ╔════════ [sinet] L2VPN, VLAN 900 ═════════╗
//!  [campus] AS 65001    ║   {d1}                                   ║
//!     │ VLAN 300        ║   {d2}                                   ║
//!     │ eBGP            ║   {d3}                                   ║
//!     │                 ║                                          ║
//!  [gw-a] ══════════════╣                                          ╠═══════════════ [gw-b]
//!     │                 ║                                          ║                   │
//!     │                 ║   {w1}                                   ║                   │
//!     │ VLAN 100        ║   {w2}                                   ║          VLAN 200 │
//!     │                 ║   {w3}                                   ║                   │
//!     │                 ╚═════════ [wan] a routed WAN ═════════════╝                   │
//!     │                                     │                                          │
//!  [host-a] .11                             │                                  [host-b] .12
//!     ┊   {a1}                              │             {b1}                         ┊
//!     ┊   {a2}                              │             {b2}                         ┊
//!     ┊   {a3}                              │             {b3}                         ┊
//!     └┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ [cloud] node c1 ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┘
//!                                           ┊
//!                                           ┊   {s1}
//!                                           ┊   {s2}
//!                                           ┊   {s3}
//!                                           └┄┄ [server], by gw-b and gw-a
//!
//!  host-a, host-b and c1 share 10.20.0.0/24 and fd20::/64; each box is a network namespace
//! ```
//!
//! The namespaces are those of [`netns_tests::topology`]. Both gateways start from a bootstrap file of a few
//! lines; everything else goes over REST, with a bearer token. The cloud machine joins with exactly the
//! command that the API answered. Every figure is measured in this run, every check that fails ends the demo
//! with status 1, and whatever was made goes away, after Ctrl-C too (status 130).

mod brain;
mod campus;
mod drawing;
mod figures;
mod gateways;
mod kept;
mod node;
mod progress;
mod tunnels;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::registry;
use netns_tests::topology::{HOST_A, HOST_B, SERVER, Topology};

use brain::Survival;
use campus::{Campus, Software};
use figures::{End, Figures};
use gateways::Pair;
use netns_tests::topology::Tunnel;
use node::Node;
use progress::{Progress, say};

const USAGE: &str = "usage: script/demo [--keep] [--campus bird|frr] | script/demo --clean
  --keep            leave everything up, and say how to enter it
  --campus NAME     the campus router's software; bird where nothing is said
  --clean           remove what a demo with --keep has left";

/// The steps of [`story`], and the one that builds the namespaces.
const STEPS: usize = 15;

struct Arguments {
    keep: bool,
    clean: bool,
    campus: Software,
}

fn arguments() -> Result<Option<Arguments>> {
    let mut read = Arguments { keep: false, clean: false, campus: Software::Bird };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--keep" => read.keep = true,
            "--clean" => read.clean = true,
            "--campus" => read.campus = words.next().context("--campus wants bird or frr")?.parse()?,
            "-h" | "--help" => return Ok(None),
            other => bail!("{other} is not known\n{USAGE}"),
        }
    }
    Ok(Some(read))
}

/// What the last step draws.
struct Measured {
    edges: Vec<(char, Figures)>,
    survival: Survival,
}

/// Everything after the namespaces stand.
fn story(progress: &mut Progress, topology: &Topology, arguments: &Arguments) -> Result<()> {
    let host_a = End::new("host A", &topology.a.host, HOST_A);
    let host_b = End::new("host B", &topology.b.host, HOST_B);
    let server = End::new("server", &topology.server, SERVER);

    let campus = progress.step("the campus router starts", |progress| {
        Campus::start(arguments.campus, &topology.campus, progress)
    })?;
    let mut pair = progress
        .step("both gateways start, each from a short file", |progress| Pair::start(topology, progress))?;
    progress
        .step("one document for both by REST; waiting until gw-a and gw-b are up", |_| pair.configure())?;

    let mut edges = Vec::new();
    let title = "one flat network: host A ↔ host B, gw-a to gw-b by WireGuard over the WAN";
    edges.push(('w', progress.step(title, |_| tunnels::over(&pair, Tunnel::Wireguard, &host_a, &host_b))?));
    let title = "the other tunnel preferred by REST: gw-a to gw-b direct, over VLAN 900 of the L2VPN";
    edges.push((
        'd',
        progress.step(title, |_| {
            pair.prefer(Tunnel::Direct)?;
            tunnels::over(&pair, Tunnel::Direct, &host_a, &host_b)
        })?,
    ));
    progress.step("and back to WireGuard on gw-a and gw-b", |_| {
        pair.prefer(Tunnel::Wireguard)?;
        tunnels::carries(&pair, Tunnel::Wireguard, &host_a, &host_b)
    })?;
    progress.step("what the campus router has learnt, and who reaches the server behind it", |_| {
        campus.show_routes()?;
        campus::reaches(&[&host_a, &host_b], &server)
    })?;

    let node = progress.step("a GPU machine of the cloud is attached at gw-b by REST", |_| {
        Node::attach(&pair, &topology.cloud)
    })?;
    progress
        .step("c1 joins with that command; its receipt at gw-b", |progress| node.join(&pair, progress))?;
    let c1 = node.end();
    progress.step("c1 in the flat network: host A ↔ c1, host B ↔ c1, c1 ↔ server", |_| {
        edges.push(('a', figures::measure(&host_a, &c1)?));
        edges.push(('b', figures::measure(&host_b, &c1)?));
        edges.push(('s', figures::measure(&c1, &server)?));
        Ok(())
    })?;
    progress.step("watari measure, between gateway gw-a and node c1", |_| node.measure(&pair))?;

    let survival = progress.step("kill -9 of the brain of gw-a, under traffic host A → host B", |_| {
        brain::kill_and_restart(&mut pair, &host_a, &host_b)
    })?;
    progress.step("the status of gw-a and gw-b", |_| pair.show_status())?;
    let measured = Measured { edges, survival };
    if arguments.keep {
        progress.step("c1 stays, and so does everything else", |_| {
            kept::tell(topology, &pair);
            Ok(())
        })?;
    } else {
        progress.step("c1 is detached, and gone from gw-a and gw-b", |_| node.detach(&pair, &host_a))?;
    }
    finish(progress, &measured)
}

fn finish(progress: &Progress, measured: &Measured) -> Result<()> {
    ensure!(progress.is_complete(), "STEPS does not count the steps");
    println!("\n{}\n", drawing::measured(&measured.edges));
    say(&measured.survival.sentence());
    println!("\ndemo: every check passed, {} after the build", progress.elapsed());
    Ok(())
}

fn run(arguments: &Arguments) -> ExitCode {
    println!("{}", drawing::named());
    let mut progress = Progress::new(STEPS);
    let topology = match progress.step("the namespaces of the drawing are made", |_| Topology::build()) {
        Ok(topology) => topology,
        Err(error) => {
            progress.show_failure(&error);
            return ExitCode::FAILURE;
        }
    };
    // The topology outlives the story: as long as it stands, so do the logs that a failure shows.
    match story(&mut progress, &topology, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress.show_failure(&error);
            if arguments.keep {
                eprintln!("everything is left as it is; to remove it: script/demo --clean");
            }
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    match arguments() {
        Ok(None) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Ok(Some(arguments)) if arguments.clean => {
            println!("demo: {} namespaces removed", registry::remove_kept());
            ExitCode::SUCCESS
        }
        Ok(Some(arguments)) => {
            if arguments.keep {
                registry::keep_everything();
            }
            run(&arguments)
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::from(2)
        }
    }
}
