//! The shared drawing without any gateway: the wires are where it says, the tags are on them, and nothing
//! crosses between the sites but by the WAN. Needs root.
//!
//! See the head of `src/topology.rs`.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use netns_tests::packet::{self, Capture};
use netns_tests::ping::{Ping, ping};
use netns_tests::topology::{GW_A_PUBLIC, GW_B_PUBLIC, HOST_B, SERVER, Topology, VID_A};

#[test]
fn root_the_drawing_stands() -> Result<()> {
    let topology = Topology::build()?;
    ping(&topology.a.gateway, GW_B_PUBLIC)?;
    ping(&topology.cloud, GW_B_PUBLIC)?;
    ping(&topology.b.gateway, "fd18:1::2".parse::<IpAddr>()?)?;
    ping(&topology.campus, SERVER.0)?;
    ping(&topology.campus, SERVER.1)?;
    assert_eq!(Ping::to(GW_A_PUBLIC.into()).full(1500).send(&topology.cloud)?.received, 1);

    // Host A's question for host B leaves its VLAN nowhere, but gateway A's trunk hears it with its tag.
    let arp = Capture::start(&topology.a.gateway, "trunk0", |frame| {
        packet::vid(frame) == Some(VID_A) && frame[16..18] == [0x08, 0x06]
    })?;
    assert_eq!(Ping::to(HOST_B.0.into()).send(&topology.a.host)?.received, 0);
    arp.first(Duration::from_secs(2))?;
    Ok(())
}
