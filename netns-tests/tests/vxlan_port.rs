//! The UDP port of VXLAN changes while everything runs, by a document at both gateways: what crosses the WAN afterwards
//! goes by the other port alone, and a TCP connection lives through it. Needs root.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ── VXLAN over VLAN 900 ── [gw-b] ═ VLAN 200 ─ host-b
//! ```
//! The whole drawing: `netns_tests::topology`.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::echo::EchoServer;
use netns_tests::packet::Capture;
use netns_tests::ping::{Ping, ping};
use netns_tests::topology::{HOST_A, HOST_B, Tunnel};
use netns_tests::world::SOON;
use netns_tests::{World, wait_until};
use serde_json::json;

const OLD: u16 = 4789;
/// What Linux took before there was a number.
const OTHER: u16 = 8472;
/// Offset of the Ethernet type behind the tag of VLAN 900, and of the UDP destination port behind an IPv4 header.
const ETHERTYPE: usize = 16;
const PORT: usize = 18 + 20 + 2;
const PROTOCOL: usize = 18 + 9;

fn is_udp_to(frame: &[u8], port: u16) -> bool {
    frame.get(ETHERTYPE..ETHERTYPE + 2) == Some(&[0x08, 0x00])
        && frame.get(PROTOCOL) == Some(&17)
        && frame.get(PORT..PORT + 2) == Some(&port.to_be_bytes())
}

/// One word there and back.
fn speak(connection: &mut TcpStream, word: &[u8; 4]) -> Result<()> {
    connection.write_all(word)?;
    let mut answer = [0; 4];
    connection.read_exact(&mut answer)?;
    ensure!(answer == *word, "{answer:?}");
    Ok(())
}

#[test]
fn root_the_port_of_vxlan_changes_under_traffic() -> Result<()> {
    let mut world = World::start(&[Tunnel::Direct])?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    let echo = EchoServer::start(&world.topology.b.host, HOST_B.0.into())?;
    let address = SocketAddr::new(HOST_B.0.into(), echo.port());
    let mut connection = world.topology.a.host.run(|| TcpStream::connect(address))?;
    connection.set_read_timeout(Some(Duration::from_secs(20)))?;
    speak(&mut connection, b"here")?;
    let wire = &world.topology.sinet;
    let [old, other] = [OLD, OTHER];
    let by_old = Capture::start(wire, "site-a", move |frame| is_udp_to(frame, old))?;
    let by_other = Capture::start(wire, "site-a", move |frame| is_udp_to(frame, other))?;
    ping(&world.topology.a.host, HOST_B.0)?;
    wait_until(SOON, "VXLAN on the wire", || by_old.count() > 0)?;
    ensure!(by_other.count() == 0, "{} by a port that nobody has named", by_other.count());
    world.document["fabric"] = json!({ "vxlan_port": OTHER });
    for gateway in [&world.a, &world.b] {
        gateway.apply(&world.document)?;
    }
    world.a.settle()?;
    world.b.settle()?;
    world.hosts_meet()?;
    let (gone, before) = (by_old.count(), by_other.count());
    for (from, to) in [(&world.topology.a.host, HOST_B), (&world.topology.b.host, HOST_A)] {
        for address in netns_tests::topology::both(to) {
            let report = Ping::to(address).count(10).send(from)?;
            ensure!(report.received == 10, "{}: {}", from.label(), report.text);
        }
    }
    speak(&mut connection, b"more")?;
    ensure!(by_other.count() >= before + 40, "{before}, {}", by_other.count());
    ensure!(by_old.count() == gone, "{} went by the old port", by_old.count() - gone);
    Ok(())
}
