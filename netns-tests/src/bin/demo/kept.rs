//! What `--keep` leaves, and how to walk around in it.

use netns_tests::topology::Topology;

use crate::gateways::{Gw, Pair};
use crate::progress::say;

/// Prints how to enter each namespace, how to ask each gateway, and how to remove it all.
pub(crate) fn tell(topology: &Topology, pair: &Pair) {
    for gw in [&pair.a, &pair.b] {
        say(&format!("{}: {}", gw.name(), enter_gateway(gw)));
        say(&format!("    {}", ask_gateway(gw)));
    }
    for ns in topology.namespaces() {
        if ![pair.a.ns().name(), pair.b.ns().name()].contains(&ns.name()) {
            say(&format!("{}: ip netns exec {} bash", ns.label(), ns.name()));
        }
    }
    say("to remove it: script/demo --clean");
}

/// A gateway has a file system view of its own, for its pins and its tenants' namespaces.
fn enter_gateway(gw: &Gw) -> String {
    let pid = gw.gateway.pid().unwrap_or_default();
    format!("nsenter --target {pid} --mount --net bash")
}

fn ask_gateway(gw: &Gw) -> String {
    let program = netns_tests::gateway::program("watari").unwrap_or_else(|_| "watari".into());
    let socket = gw.gateway.run_dir().join("api.sock");
    format!("WATARI_SOCKET={} {} status", socket.display(), program.display())
}
