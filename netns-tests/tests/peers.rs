//! The campus routers of the harness, against each other: if these two do not meet, no test with us tells
//! anything. Needs root, bird2 and frr.
//!
//! ```text
//! [frr, AS 65010] f0 10.9.0.1/24 ──── b0 10.9.0.2/24 [bird, AS 65020]
//!  originates 192.0.2.0/24             originates 198.51.100.0/24
//! ```

use std::time::Duration;

use anyhow::Result;
use netns_tests::bird::Bird;
use netns_tests::frr::Frr;
use netns_tests::links::veth;
use netns_tests::packet::{self, Capture, build};
use netns_tests::{Ns, wait_until};

const ZEBRA: &str = "hostname campus\n";
const BGPD: &str = "router bgp 65010
 bgp router-id 10.9.0.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 10.9.0.2 remote-as 65020
 address-family ipv4 unicast
  network 192.0.2.0/24
 exit-address-family
";
const BIRD: &str = "router id 10.9.0.2;
protocol device {}
protocol static { ipv4; route 198.51.100.0/24 blackhole; }
protocol bgp up {
  local 10.9.0.2 as 65020;
  neighbor 10.9.0.1 as 65010;
  connect delay time 1;
  ipv4 { import all; export all; };
}
";

#[test]
fn root_frr_and_bird_exchange_routes() -> Result<()> {
    let (left, right) = (Ns::new("frr")?, Ns::new("bird")?);
    veth(&left, "f0", &right, "b0")?;
    left.address("f0", &["10.9.0.1/24"])?;
    right.address("b0", &["10.9.0.2/24"])?;
    let frr = Frr::start(&left, ZEBRA, BGPD)?;
    let bird = Bird::start(&right, BIRD)?;
    let limit = Duration::from_secs(30);
    wait_until(limit, "both sides established", || {
        Ok::<_, anyhow::Error>(()).and_then(|()| {
            anyhow::ensure!(bird.established("up")?, "BIRD: {}", bird.ask("show protocols all up")?);
            anyhow::ensure!(frr.established("10.9.0.2")?, "FRR: {}", frr.ask("show bgp summary")?);
            Ok(())
        })
    })?;
    wait_until(limit, "FRR's prefix in BIRD", || {
        bird.routes("192.0.2.0/24").is_ok_and(|text| text.contains("via 10.9.0.1"))
    })?;
    wait_until(limit, "BIRD's prefix in FRR", || {
        let routes = frr.ask_json("show bgp ipv4 unicast 198.51.100.0/24 json").unwrap_or_default();
        routes["paths"][0]["aspath"]["string"] == "65020"
    })
}

#[test]
fn root_a_tag_survives_capture() -> Result<()> {
    let (left, right) = (Ns::new("left")?, Ns::new("right")?);
    veth(&left, "l0", &right, "r0")?;
    let all = Capture::start(&right, "r0", |frame| packet::vid(frame) == Some(77))?;
    let none = Capture::start(&right, "r0", |frame| packet::vid(frame) == Some(78))?;
    let echo = build::icmp_echo(1, 1, b"payload");
    let inner = build::ipv4("10.0.0.1".parse()?, "10.0.0.2".parse()?, 1, &echo);
    let tagged = [&[0x00, 77, 0x08, 0x00][..], &inner].concat();
    let frame = build::ethernet([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], 0x8100, &tagged);
    packet::inject(&left, "l0", &frame)?;
    assert_eq!(all.first(Duration::from_secs(2))?, frame);
    assert_eq!((all.count(), none.count()), (1, 0));
    Ok(())
}
