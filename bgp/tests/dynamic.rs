//! Neighbours that come by themselves: their AS is the one of their OPEN, and they go when nothing is left of them. Speakers
//! under a virtual clock.
//!
//! ```text
//!   node 0, AS 65001 ── node 1, AS 65002, to which node 0 is one of those that may come
//! ```

mod sim;

use sim::*;
use watari_bgp::session::{Action, Session};
use watari_bgp::wire::*;
use watari_bgp::*;

const V4: &[Family] = &[Family::Ipv4Unicast];
const PREFIX: &str = "198.51.100.0/24";
const RANGE: PeerId = PeerId(77);
const GUEST: PeerId = PeerId(0);

/// What holds for whoever comes: of these ASes.
fn expected(asns: &[(u32, u32)]) -> PeerConfig {
    let asns = asns.iter().map(|(first, last)| (Asn(*first), Asn(*last))).collect();
    let dynamic = Some(Dynamic { of: RANGE, asns });
    PeerConfig { passive: true, dynamic, ..between(1, 0, (65002, 0), V4) }
}

/// Node 0, of this AS, comes to node 1.
fn visit(asn: u32, expected: PeerConfig, change: impl FnOnce(&mut PeerConfig)) -> World {
    let mut world = World::new(2);
    world.add_peer(1, 0, expected);
    let mut guest = between(0, 1, (asn, 65002), V4);
    change(&mut guest);
    world.add_peer(0, 1, guest);
    world.run(3_000);
    world
}

fn known(world: &World) -> Option<(State, Asn)> {
    world.nodes[1].speaker.peer(GUEST).map(|peer| (peer.state, peer.remote_asn))
}

fn is_gone(world: &World, since: usize) -> bool {
    let told = |(_, output): &(Instant, Output)| matches!(output, Output::PeerGone(GUEST));
    let is_told = world.nodes[1].log[since..].iter().any(told);
    assert_eq!(is_told, known(world).is_none(), "it is told, and so it is");
    is_told
}

#[test]
fn its_as_is_one_of_those_that_are_expected_and_decides_what_it_is() {
    let ranges = [(64_512, 64_520), (65_001, 65_002)];
    let mut world = visit(65_001, expected(&ranges), |_| {});
    assert_eq!(known(&world), Some((State::Established, Asn(65_001))));
    assert_eq!(world.nodes[1].speaker.dynamic_peers().collect::<Vec<_>>(), [(GUEST, RANGE, ip("10.0.0.1"))]);
    let attrs = PathAttributes { local_pref: Some(200), ..PathAttributes::default() };
    world.originate(0, net(PREFIX), attrs.clone());
    assert_eq!(world.best(1, net(PREFIX)).unwrap().attrs.local_pref, None, "an external neighbour");
    // Of our own AS it is an internal one.
    let mut world = visit(65_002, expected(&ranges), |_| {});
    assert_eq!(known(&world), Some((State::Established, Asn(65_002))));
    world.originate(0, net(PREFIX), attrs);
    assert_eq!(world.best(1, net(PREFIX)).unwrap().attrs.local_pref, Some(200));

    let world = visit(64_999, expected(&ranges), |_| {});
    assert!(world.downs(1, 0).is_empty());
    let octets = world.sent(1, 0);
    let open = next_frame(&octets, 4_096).unwrap().unwrap();
    let refusal = next_frame(&octets[open.len..], 4_096).unwrap().unwrap();
    assert!(Notification::decode(refusal.body).unwrap().is(Notification::BAD_PEER_AS));
}

/// Once it was established it does not become another one.
#[test]
fn its_as_stays() {
    let range = [(65_001, 65_009)];
    let open = |asn: u32| {
        let capabilities = vec![Capability::MultiProtocol(1, 1), Capability::FourOctetAs(Asn(asn))];
        let id = RouterId([10, 0, 0, 1].into());
        Open { asn: Asn(asn), hold_time_s: 90, router_id: id, capabilities }.encode()
    };
    let (now, mut said) = (Instant::from_millis(1_000), Vec::new());
    let mut session = Session::new(expected(&range), RouterId([10, 0, 0, 2].into()), 1);
    session.start(now, &mut said);
    let mut come = |conn: u64, asn: u32| {
        session.accepted(ConnId(conn), now, &mut said);
        session.receive(ConnId(conn), &[open(asn), encode_keepalive()].concat());
        while session.next_update(ConnId(conn), now, &mut said).is_some() {}
        let is_up = session.established().is_some();
        session.closed(ConnId(conn), now, &mut said);
        is_up
    };
    // An AS that is only said binds nobody.
    let said_only = {
        let mut session = Session::new(expected(&range), RouterId([10, 0, 0, 2].into()), 1);
        session.start(now, &mut Vec::new());
        session.accepted(ConnId(9), now, &mut Vec::new());
        session.receive(ConnId(9), &open(65_003));
        assert!(session.next_update(ConnId(9), now, &mut Vec::new()).is_none());
        session.closed(ConnId(9), now, &mut Vec::new());
        session.accepted(ConnId(10), now, &mut Vec::new());
        session.receive(ConnId(10), &[open(65_004), encode_keepalive()].concat());
        while session.next_update(ConnId(10), now, &mut Vec::new()).is_some() {}
        session.established().is_some()
    };
    assert!(said_only);
    assert!(come(1, 65_003));
    assert!(!come(2, 65_004), "another AS");
    assert!(
        said.iter()
            .any(|action| matches!(action, Action::Send(ConnId(2), octets) if octets[19..21] == [2, 2]))
    );
}

/// One that vanishes without a word would stay for ever (RFC 4271 §6.2: any hold time may be refused).
#[test]
fn it_has_a_hold_time() {
    let range = [(65_001, 65_001)];
    let silent = PeerConfig { hold_time_s: 0, ..expected(&range) };
    let worlds =
        [visit(65_001, expected(&range), |guest| guest.hold_time_s = 0), visit(65_001, silent, |_| {})];
    for world in worlds {
        assert!(world.downs(1, 0).is_empty());
        let octets = world.sent(1, 0);
        let open = next_frame(&octets, 4_096).unwrap().unwrap();
        let refusal = next_frame(&octets[open.len..], 4_096).unwrap().unwrap();
        assert!(Notification::decode(refusal.body).unwrap().is(Notification::BAD_HOLD_TIME));
    }
}

#[test]
fn it_goes_with_its_last_connection() {
    let mut world = visit(65_001, expected(&[(65_001, 65_001)]), |guest| guest.graceful_restart = None);
    world.originate(0, net(PREFIX), PathAttributes::default());
    assert!(world.best(1, net(PREFIX)).is_some());
    let mark = world.mark(1);
    world.kill(0);
    assert!(is_gone(&world, mark) && world.best(1, net(PREFIX)).is_none());
}

#[test]
fn it_stays_while_its_paths_are_kept() {
    let mut world = visit(65_001, expected(&[(65_001, 65_001)]), |_| {});
    world.originate(0, net(PREFIX), PathAttributes::default());
    let mark = world.mark(1);
    world.kill(0);
    world.run(110_000);
    assert!(!is_gone(&world, mark) && world.best(1, net(PREFIX)).unwrap().stale);
    world.run(20_000);
    assert!(is_gone(&world, mark) && world.best(1, net(PREFIX)).is_none());
}

/// One that is to be left alone for a while would else come again at once, as another one.
#[test]
fn it_stays_while_it_is_left_alone() {
    let limits = PeerConfig {
        max_paths: Some(1),
        max_paths_restart_ms: Some(60_000),
        ..expected(&[(65_001, 65_001)])
    };
    let mut world = visit(65_001, limits, |_| {});
    let mark = world.mark(1);
    for route in ["10.1.0.0/16", "10.2.0.0/16"] {
        world.originate(0, net(route), PathAttributes::default());
    }
    world.run(50_000);
    assert!(!is_gone(&world, mark));
    assert_eq!(known(&world), Some((State::Idle, Asn(65_001))));
    world.run(15_000);
    assert!(is_gone(&world, mark));
}

#[test]
fn what_is_expected_changes_in_place_and_who_is_not_expected_any_more_goes() {
    let mut world = visit(65_001, expected(&[(65_001, 65_001)]), |_| {});
    world.originate(0, net(PREFIX), PathAttributes::default());
    let mark = world.mark(1);
    let fewer = PeerConfig { policy: Policy::default(), ..expected(&[(65_001, 65_009)]) };
    world.input(1, Input::UpdatePeer(GUEST, Box::new(fewer)));
    assert!(world.best(1, net(PREFIX)).is_none() && world.downs(1, mark).is_empty());
    assert_eq!(known(&world), Some((State::Established, Asn(65_001))));

    world.input(1, Input::UpdatePeer(GUEST, Box::new(expected(&[(65_003, 65_009)]))));
    assert!(is_gone(&world, mark));
    let down = world.downs(0, 0);
    assert!(
        matches!(&down[..], [DownReason::Received(n)] if n.within().is(Notification::DECONFIGURED)),
        "{down:?}"
    );
}

#[test]
fn one_that_is_kept_down_goes() {
    let mut world = visit(65_001, expected(&[(65_001, 65_001)]), |_| {});
    let mark = world.mark(1);
    let down = PeerConfig { admin_down: Some(String::new()), ..expected(&[(65_001, 65_001)]) };
    world.input(1, Input::UpdatePeer(GUEST, Box::new(down)));
    assert!(is_gone(&world, mark));
}
