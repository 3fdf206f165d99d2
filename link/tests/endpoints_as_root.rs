//! Peers of several places, answers from the address that was asked, and DSCP: engines in namespaces. Needs root, `ip`, `nft`,
//! `ping`, `wireguard-go` and `wg`.

#[allow(dead_code, reason = "the other tests use the rest")]
mod topology;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use topology::{Host, Pair, Running, Wire, wait_until};
use watari_link::protocol::{Dscp, EndpointStatus, PathState};

/// A dead place is left within 700 ms; what is left is for a loaded machine.
const MOVED_WITHIN: Duration = Duration::from_millis(2_500);

fn four(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51820))
}

fn six(number: u16) -> SocketAddr {
    SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, number], 51820))
}

/// Loads rules into a table of the host; an empty text takes the table away.
fn rules(host: &Host, rules: &str) {
    let flush = "table inet wt {}\ndelete table inet wt\n";
    let table = if rules.is_empty() { String::new() } else { format!("table inet wt {{\n{rules}\n}}\n") };
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("{flush}{table}")).expect("write rules");
    host.run("nft", &["-f", file.path().to_str().expect("a path")]);
}

/// Packets that a rule with this comment has seen.
fn counted(host: &Host, comment: &str) -> u64 {
    let listed = host.run("nft", &["list", "table", "inet", "wt"]);
    let line = listed.lines().find(|line| line.contains(&format!("\"{comment}\""))).expect("the rule");
    let mut words = line.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().and_then(|count| count.parse().ok()).expect("a count")
}

/// What goes to or comes from WireGuard over IPv4 is lost on its way in.
const NO_IPV4: &str =
    "chain in { type filter hook input priority 0; meta nfproto ipv4 udp dport 51820 drop; }";

fn of(engine: &Running, endpoint: SocketAddr) -> Option<EndpointStatus> {
    engine.peer().measured.into_iter().find(|place| place.endpoint == endpoint)
}

fn is_up(engine: &Running, endpoint: SocketAddr) -> bool {
    of(engine, endpoint).is_some_and(|place| place.state == Some(PathState::Up) && place.rtt_us.is_some())
}

#[test]
fn root_the_place_in_use_dies_and_another_carries_the_traffic_within_a_second() {
    let wire = Wire::new();
    let mut pair = Pair::new(&wire);
    pair.a.peers[0].more_endpoints = vec![six(2)];
    pair.b.peers[0].more_endpoints = vec![six(1)];
    let (a, b) = (wire.engine(&wire.a), wire.engine(&wire.b));
    a.client().set_device(pair.a.clone()).expect("device of a");
    b.client().set_device(pair.b.clone()).expect("device of b");
    wire.a.address("wtwg0");
    wire.b.address("wtwg0");
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    for (engine, far) in [(&a, 2_u8), (&b, 1)] {
        wait_until("both places are measured", || is_up(engine, four(far)) && is_up(engine, six(far.into())));
    }
    let handshakes = a.peer().handshakes;
    // Whichever answered first is in use: both sides go to IPv4 for what follows.
    for (engine, host, far) in [(&a, &wire.a, 2_u8), (&b, &wire.b, 1)] {
        let no_ipv6 =
            "chain in { type filter hook input priority 0; meta nfproto ipv6 udp dport 51820 drop; }";
        rules(host, no_ipv6);
        wait_until("IPv4 is used", || engine.peer().endpoint == Some(four(far)));
    }
    // An answer crosses both hosts, so neither is waited for while the other still filters.
    rules(&wire.a, "");
    rules(&wire.b, "");
    for (engine, far) in [(&a, 2_u16), (&b, 1)] {
        wait_until("IPv6 is there again", || is_up(engine, six(far)));
    }

    rules(&wire.a, NO_IPV4);
    rules(&wire.b, NO_IPV4);
    let cut = Instant::now();
    for (engine, far) in [(&a, 2), (&b, 1)] {
        wait_until("IPv6 is used", || engine.peer().endpoint == Some(six(far)));
    }
    println!("moved after {:?}", cut.elapsed());
    assert!(cut.elapsed() < MOVED_WITHIN, "{:?}", cut.elapsed());
    assert!(wire.a.pings("10.9.0.2"));
    assert_eq!(a.peer().handshakes, handshakes, "the session goes on");
    let dead = of(&a, four(2)).expect("still watched");
    assert!(!dead.in_use && dead.configured && dead.state == Some(PathState::Down), "{dead:?}");

    rules(&wire.a, "");
    rules(&wire.b, "");
    wait_until("IPv4 answers again", || is_up(&a, four(2)) && is_up(&b, four(1)));
    assert_eq!(a.peer().endpoint, Some(six(2)), "one that is no better is no reason to move");
}

#[test]
fn root_a_far_end_that_is_not_ours_is_not_disturbed() {
    let mut wire = Wire::new();
    let mut pair = Pair::new(&wire);
    pair.a.peers[0].more_endpoints = vec![six(2)];
    let far = wire.wireguard_go(&pair);
    let a = wire.engine(&wire.a);
    rules(
        &wire.a,
        "chain out { type filter hook output priority 0; ip6 daddr 2001:db8::2 udp length 56 counter comment \"asked\"; }",
    );
    a.client().set_device(pair.a.clone()).expect("device of a");
    wire.a.address("wtwg0");
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    let used = a.peer().endpoint.expect("an endpoint");
    let seen = || wire.b.run("wg", &["show", &far, "endpoints"]);
    let before = (seen(), a.peer().handshakes);
    wait_until("the other place is asked", || counted(&wire.a, "asked") >= 3);
    assert!(wire.a.pings("10.9.0.2"));
    assert_eq!((seen(), a.peer().handshakes), before);
    assert_eq!(a.peer().endpoint, Some(used));
    assert!(a.peer().measured.iter().all(|place| place.state.is_none()), "{:?}", a.peer().measured);
}

#[test]
fn root_answers_leave_from_the_address_that_was_asked() {
    let wire = Wire::new();
    wire.b.ip(&["address", "add", "192.0.2.22/24", "dev", "v0"]);
    wire.b.ip(&["-6", "address", "add", "2001:db8::22/64", "dev", "v0", "nodad"]);
    for endpoint in [four(22), six(0x22)] {
        let mut pair = Pair::new(&wire);
        pair.a.peers[0].endpoint = Some(endpoint);
        pair.b.peers[0].endpoint = None;
        let (mut a, mut b) = (wire.engine(&wire.a), wire.engine(&wire.b));
        b.client().set_device(pair.b.clone()).expect("device of b");
        a.client().set_device(pair.a.clone()).expect("device of a");
        wire.a.address("wtwg0");
        wire.b.address("wtwg0");
        wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
        assert!(wire.b.pings("10.9.0.1"));
        assert_eq!(a.peer().endpoint, Some(endpoint));
        assert!(!a.log().contains("endpoint moved"), "{}", a.log());
        for engine in [&mut a, &mut b] {
            engine.client().remove_device("wtwg0").expect("removed");
            engine.kill();
            let _ = std::fs::remove_file(engine.state.with_extension("log"));
        }
    }
}

#[test]
fn root_dscp_outside_is_the_one_inside_or_a_fixed_one() {
    let wire = Wire::new();
    let (a, _b, mut pair) = wire.tunnel();
    rules(
        &wire.b,
        "chain in { type filter hook input priority 0; \
         udp dport 51820 ip dscp ef counter comment \"ef\"; \
         udp dport 51820 ip dscp af11 counter comment \"af11\"; }",
    );
    let seen = || (counted(&wire.b, "ef"), counted(&wire.b, "af11"));
    let ping = || wire.a.run("ping", &["-n", "-c", "5", "-i", "0.2", "-Q", "0xb8", "10.9.0.2"]);
    ping();
    assert_eq!(seen(), (0, 0), "what is inside is nobody's business unless it is asked for");
    pair.a.dscp = Dscp::Inherit;
    a.client().set_device(pair.a.clone()).expect("dscp");
    ping();
    assert!(matches!(seen(), (5.., 0)), "{:?}", seen());
    pair.a.dscp = Dscp::Fixed(10);
    let changed = a.client().set_device(pair.a.clone()).expect("dscp");
    assert_eq!(changed.touched, ["dscp"]);
    let (ef, _) = seen();
    ping();
    assert!(matches!(seen(), (after, 5..) if after == ef), "{:?}", seen());
}
