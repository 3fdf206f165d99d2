//! What neighbours agree on beyond the routes: roles and leaks, blackholes, AS_SETs, a session kept down, a limit with
//! a warning, and the enhanced refresh. Speakers under a virtual clock.
//!
//! ```text
//!   node 0 ── node 1 ── node 2      addresses and identifiers 10.0.0.(n+1), each its own AS
//! ```

mod sim;

use sim::*;
use watari_bgp::rib::RejectReason;
use watari_bgp::wire::*;
use watari_bgp::*;

const V4: &[Family] = &[Family::Ipv4Unicast];
const ASNS: [u32; 3] = [65001, 65002, 65003];
const PREFIX: &str = "198.51.100.0/24";

fn peer(a: usize, b: usize) -> PeerConfig {
    between(a, b, (ASNS[a], ASNS[b]), V4)
}

fn with(config: PeerConfig, change: impl FnOnce(&mut PeerConfig)) -> PeerConfig {
    let mut config = config;
    change(&mut config);
    config
}

/// Two nodes, each configured as it is told.
fn pair(a: impl FnOnce(&mut PeerConfig), b: impl FnOnce(&mut PeerConfig)) -> World {
    let mut world = World::new(2);
    world.add_peer(0, 1, with(peer(0, 1), a));
    world.add_peer(1, 0, with(peer(1, 0), b));
    world.run(10_000);
    world
}

fn is_up(world: &World) -> bool {
    world.state(0, 1) == State::Established && world.state(1, 0) == State::Established
}

fn attrs(change: impl FnOnce(&mut PathAttributes)) -> PathAttributes {
    let mut attrs = PathAttributes::default();
    change(&mut attrs);
    attrs
}

/// Why node 1 does not use what node 0 told it.
fn rejected(world: &World) -> Option<RejectReason> {
    let entry = world.nodes[1].speaker.entry(UNDERLAY, &Key::prefix(net(PREFIX)))?;
    entry.candidates[0].rejected
}

/// NOTIFICATIONs that a node sent since a mark.
fn notifications(world: &World, node: usize, since: usize) -> Vec<Notification> {
    kinds(world, node, since, MessageType::Notification)
        .iter()
        .map(|body| Notification::decode(body).unwrap())
        .collect()
}

/// Bodies of the messages of a kind that a node sent since a mark, all connections together.
fn kinds(world: &World, node: usize, since: usize, kind: MessageType) -> Vec<Vec<u8>> {
    let (octets, mut at, mut found) = (world.sent(node, since), 0, Vec::new());
    while let Some(frame) = next_frame(&octets[at..], 65_535).unwrap() {
        if frame.kind == kind {
            found.push(frame.body.to_vec());
        }
        at += frame.len;
    }
    found
}

/// RFC 9234 §4.2.
#[test]
fn roles_that_do_not_fit_end_the_session_before_it_begins() {
    let role = |role| move |c: &mut PeerConfig| c.role = Some(role);
    assert!(is_up(&pair(role(Role::Provider), role(Role::Customer))));
    assert!(is_up(&pair(role(Role::Provider), |_| {})), "who says nothing is not asked");
    let world = pair(role(Role::Provider), role(Role::Provider));
    assert!(!is_up(&world));
    let said = [notifications(&world, 0, 0), notifications(&world, 1, 0)].concat();
    assert!(!said.is_empty() && said.iter().all(|n| n.is(Notification::ROLE_MISMATCH)), "{said:?}");
    let strict = |c: &mut PeerConfig| (c.role, c.role_strict) = (Some(Role::Provider), true);
    assert!(!is_up(&pair(strict, |_| {})), "in strict mode silence is a mismatch");
    assert!(is_up(&pair(strict, role(Role::Customer))));
    let inside = |c: &mut PeerConfig| {
        (c.remote_asn, c.local_asn, c.role) = (Asn(65001), Asn(65001), Some(Role::Provider));
    };
    assert!(is_up(&pair(inside, inside)), "within one AS nobody has a role");
}

/// RFC 9234 §5: 0 is the provider of 1, and 2 is another provider of 1: what comes from one never goes to the other.
#[test]
fn a_customer_passes_nothing_from_one_provider_to_the_other() {
    let role = |a, b, role| with(peer(a, b), |c| c.role = role);
    let run = |roles: bool| {
        let wanted = |role| Some(role).filter(|_| roles);
        let mut world = World::new(3);
        world.add_peer(0, 1, role(0, 1, wanted(Role::Provider)));
        world.add_peer(1, 0, role(1, 0, wanted(Role::Customer)));
        world.add_peer(1, 2, role(1, 2, wanted(Role::Customer)));
        world.add_peer(2, 1, role(2, 1, wanted(Role::Provider)));
        world.run(10_000);
        world.originate(0, net(PREFIX), PathAttributes::default());
        world.originate(1, net("203.0.113.0/24"), PathAttributes::default());
        assert!(world.best(2, net("203.0.113.0/24")).is_some(), "its own routes it passes on");
        (world.best(1, net(PREFIX)).unwrap().attrs.otc, world.best(2, net(PREFIX)).is_some())
    };
    assert_eq!(run(true), (Some(Asn(65001)), false));
    assert_eq!(run(false), (None, true));
}

/// RFC 9234 §5: the customer has no roles and leaks; its provider sees it.
#[test]
fn a_leak_of_somebody_else_is_rejected() {
    let mut world = pair(|_| {}, |c| c.role = Some(Role::Provider));
    world.originate(0, net(PREFIX), attrs(|a| a.otc = Some(Asn(65009))));
    assert_eq!(rejected(&world), Some(RejectReason::RouteLeak));
    assert!(world.best(1, net(PREFIX)).is_none());
    world.originate(0, net(PREFIX), PathAttributes::default());
    assert_eq!(rejected(&world), None);
    // Without the role, the attribute is carried as any other.
    let mut world = pair(|_| {}, |_| {});
    world.originate(0, net(PREFIX), attrs(|a| a.otc = Some(Asn(65009))));
    assert_eq!(world.best(1, net(PREFIX)).unwrap().attrs.otc, Some(Asn(65009)));
}

/// RFC 9774 §3, and what an operator may choose without a new session.
#[test]
fn a_path_with_an_as_set_is_not_used_unless_it_is_wanted() {
    let set = attrs(|a| a.as_path = AsPath(vec![AsSegment::Set(vec![Asn(65010), Asn(65011)])]));
    let mut world = pair(|_| {}, |_| {});
    world.originate(0, net(PREFIX), set);
    assert_eq!(rejected(&world), Some(RejectReason::AsSet));
    let mark = world.mark(1);
    let wanted = with(peer(1, 0), |c| c.accept_as_sets = true);
    world.input(1, Input::UpdatePeer(PeerId(0), Box::new(wanted)));
    assert!(world.best(1, net(PREFIX)).is_some());
    assert!(world.downs(1, mark).is_empty());
}

/// RFC 7999 §3.2 and §3.3.
#[test]
fn a_blackhole_is_taken_by_agreement_and_goes_no_further() {
    let blackhole = || attrs(|a| a.communities = vec![Community::BLACKHOLE]);
    let mut world = World::new(3);
    world.add_peer(0, 1, peer(0, 1));
    world.add_peer(1, 0, peer(1, 0));
    world.link(1, 2, (ASNS[1], ASNS[2]), V4);
    world.run(10_000);
    // The first hop is told by the test itself: what has the community does not leave an AS.
    let routes = [Nlri::from(net(PREFIX))];
    let told = attrs(|a| {
        *a = blackhole();
        a.as_path = AsPath::sequence([Asn(65001)]);
        a.next_hop = Some(NextHop::V4([10, 0, 0, 1].into()));
    });
    let context = EncodeContext { four_octet_as: true, message_limit: 4_096 };
    let update = encode_announce(Family::Ipv4Unicast, &told, &routes, &context).unwrap().concat();
    world.say(0, 1, update.clone());
    assert_eq!(rejected(&world), Some(RejectReason::Blackhole));
    let agreed = with(peer(1, 0), |c| c.accept_blackhole = true);
    world.input(1, Input::UpdatePeer(PeerId(0), Box::new(agreed)));
    assert!(world.best(1, net(PREFIX)).is_some());
    assert!(world.best(2, net(PREFIX)).is_none());
}

/// RFC 9003, RFC 8538 §3: the reason arrives, the routes leave both sides, and only the operator ends it.
#[test]
fn a_session_that_the_operator_keeps_down_says_why_and_stays_down() {
    let mut world = pair(|_| {}, |_| {});
    world.originate(0, net(PREFIX), PathAttributes::default());
    world.originate(1, net("203.0.113.0/24"), PathAttributes::default());
    let (text, mark) = ("fibre works until 18:00 UTC — back soon", world.mark(1));
    let down = with(peer(0, 1), |c| c.admin_down = Some(text.to_owned()));
    world.input(0, Input::UpdatePeer(PeerId(1), Box::new(down.clone())));
    let downs = world.downs(1, mark);
    let Some(DownReason::Received(notification)) = downs.first() else { panic!("{downs:?}") };
    assert_eq!(notification.shutdown_message(), Some(text));
    assert!(world.best(1, net(PREFIX)).is_none(), "a hard reset: nothing is kept");
    assert!(world.best(0, net("203.0.113.0/24")).is_none());
    world.run(3_600_000);
    assert_eq!(world.state(0, 1), State::Idle);
    let mark = world.mark(0);
    world.input(0, Input::UpdatePeer(PeerId(1), Box::new(down)));
    assert_eq!(world.mark(0), mark, "the same again is nothing");
    world.input(0, Input::UpdatePeer(PeerId(1), Box::new(peer(0, 1))));
    world.run(200_000);
    assert!(is_up(&world) && world.best(1, net(PREFIX)).is_some());
}

#[test]
fn a_peer_that_is_down_from_the_beginning_is_never_called() {
    let world = pair(|c| c.admin_down = Some(String::new()), |_| {});
    assert_eq!(world.state(0, 1), State::Idle);
    assert!(world.sent(0, 0).is_empty());
    assert!(!world.nodes[0].log.iter().any(|(_, o)| matches!(o, Output::Connect(_))));
}

/// RFC 9003 §2: 255 octets at most, and no character cut in two.
#[test]
fn a_shutdown_message_is_cut_between_characters() {
    let long = "ü".repeat(200);
    let notification = Notification::new(Notification::ADMIN_SHUTDOWN).with_message(&long);
    assert_eq!(notification.data.len(), 1 + 254);
    assert_eq!(notification.shutdown_message().map(str::len), Some(254));
    let hard = notification.into_hard_reset();
    assert_eq!(hard.shutdown_message().map(str::len), Some(254));
    assert!(Notification::new(Notification::ADMIN_SHUTDOWN).with_message("").data.is_empty());
}

/// RFC 4271 §6.7: a warning on the way, the end with family and limit, and as long a rest as was asked for.
#[test]
fn a_limit_warns_once_ends_the_session_and_is_tried_again_when_told() {
    let limits = |c: &mut PeerConfig| {
        (c.max_paths, c.max_paths_warn_percent) = (Some(10), 80);
        c.max_paths_restart_ms = Some(900_000);
    };
    let mut world = pair(|_| {}, limits);
    let route = |n: usize| net(&format!("10.{n}.0.0/16"));
    let warned = |world: &World| {
        let near = |(_, o): &&(Instant, Output)| matches!(o, Output::NearLimit { limit: 10, .. });
        world.nodes[1].log.iter().filter(near).count()
    };
    (0..7).for_each(|n| world.originate(0, route(n), PathAttributes::default()));
    assert_eq!(warned(&world), 0);
    (7..10).for_each(|n| world.originate(0, route(n), PathAttributes::default()));
    assert_eq!(warned(&world), 1);
    (5..10).for_each(|n| world.withdraw(0, route(n)));
    (5..8).for_each(|n| world.originate(0, route(n), PathAttributes::default()));
    assert_eq!(warned(&world), 2, "told again after it was fewer");
    assert!(is_up(&world));
    let mark = world.mark(1);
    (8..11).for_each(|n| world.originate(0, route(n), PathAttributes::default()));
    let said = notifications(&world, 1, mark);
    assert_eq!(said[0].within().data, [0, 1, 1, 0, 0, 0, 10], "{said:?}");
    (1..11).for_each(|n| world.withdraw(0, route(n)));
    // 0.75 to 1 of the time is the jitter of other timers, not of this one.
    world.run(890_000);
    assert_eq!(world.state(1, 0), State::Idle);
    world.run(130_000);
    assert!(is_up(&world));
}

/// Whoever keeps a second connection in reserve is left alone all the same, with and without a time for it.
#[test]
fn a_second_connection_does_not_evade_the_limit() {
    for restart_ms in [Some(900_000), None] {
        let limits = |c: &mut PeerConfig| (c.max_paths, c.max_paths_restart_ms) = (Some(1), restart_ms);
        let mut world = pair(|_| {}, limits);
        let (second, mark) = (ConnId(9_999), world.mark(1));
        world.input(1, Input::TcpAccepted(PeerId(0), second));
        for route in ["10.1.0.0/16", "10.2.0.0/16"] {
            world.originate(0, net(route), PathAttributes::default());
        }
        assert_eq!(world.state(1, 0), State::Idle);
        let closed =
            |(_, output): &(Instant, Output)| matches!(output, Output::Close(_, conn) if *conn == second);
        assert!(world.nodes[1].log[mark..].iter().any(closed));
        assert!(notifications(&world, 1, mark).iter().any(|n| n.is(Notification::REJECTED)));
        world.run(if restart_ms.is_some() { 890_000 } else { 3_000 });
        assert_eq!(world.state(1, 0), State::Idle);
    }
}

/// RFC 4271 §9.2.1.1: node 2 hears of a route every 30 s (less the jitter), node 0 changes it every second.
#[test]
fn a_route_that_changes_often_is_told_at_intervals() {
    const INTERVAL_MS: u64 = 30_000;
    let mut world = World::new(3);
    world.link(0, 1, (ASNS[0], ASNS[1]), V4);
    let slow = |ms| with(peer(1, 2), |c| c.advertisement_interval_ms = ms);
    world.add_peer(1, 2, slow(INTERVAL_MS));
    world.add_peer(2, 1, peer(2, 1));
    world.run(10_000);
    let ends = |(_, output): &(Instant, Output)| matches!(output, Output::EndOfRib(PeerId(1), _));
    assert!(world.nodes[2].log.iter().any(ends), "nobody waits for the end of what there is");
    let (from_1, start) = (world.mark(2), world.now);
    for n in 0..120 {
        match n % 3 {
            0 => world.withdraw(0, net(PREFIX)),
            _ => world.originate(0, net(PREFIX), attrs(|a| a.communities = vec![Community(n)])),
        }
        world.run(1_000);
    }
    world.originate(0, net(PREFIX), attrs(|a| a.communities = vec![Community(999)]));
    world.run(INTERVAL_MS);
    let told: Vec<u64> = world.nodes[2].log[from_1..]
        .iter()
        .filter(|(_, output)| matches!(output, Output::BestChanged { .. }))
        .map(|(at, _)| at.millis_since(start))
        .collect();
    assert!((4..=7).contains(&told.len()), "{told:?}");
    assert!(told.windows(2).all(|pair| pair[1] - pair[0] >= INTERVAL_MS * 3 / 4), "{told:?}");
    assert_eq!(world.best(2, net(PREFIX)).unwrap().attrs.communities, [Community(999)], "the last state");

    // Without one everything is told at once, and no session ends for that.
    let mark = world.mark(1);
    world.originate(0, net(PREFIX), attrs(|a| a.communities = vec![Community(1)]));
    world.originate(0, net(PREFIX), attrs(|a| a.communities = vec![Community(2)]));
    world.input(1, Input::UpdatePeer(PeerId(2), Box::new(slow(0))));
    assert_eq!(world.best(2, net(PREFIX)).unwrap().attrs.communities, [Community(2)]);
    assert!(world.downs(1, mark).is_empty());
}

/// RFC 4486 §4, RFC 8538 §4: the session begins anew at once and the routes stay; one that rests is tried at once.
#[test]
fn a_reset_begins_anew_and_keeps_the_routes() {
    let mut world = pair(|_| {}, |_| {});
    world.originate(0, net(PREFIX), PathAttributes::default());
    let (mark, from) = (world.mark(0), world.mark(1));
    world.input(1, Input::Reset(PeerId(0), Reset::Hard));
    assert!(notifications(&world, 1, from)[0].is(Notification::ADMIN_RESET));
    world.run(10_000);
    assert!(is_up(&world) && world.downs(0, mark).len() == 1);
    assert!(world.changes(1, from).iter().all(|(_, best)| best.is_some()), "kept meanwhile");

    let limit = |c: &mut PeerConfig| (c.max_paths, c.max_paths_restart_ms) = (Some(1), Some(900_000));
    let mut world = pair(|_| {}, limit);
    let routes = ["10.1.0.0/16", "10.2.0.0/16"];
    for route in routes {
        world.originate(0, net(route), PathAttributes::default());
    }
    assert_eq!(world.state(1, 0), State::Idle);
    world.withdraw(0, net(routes[0]));
    world.input(1, Input::Reset(PeerId(0), Reset::Hard));
    world.run(10_000);
    assert!(is_up(&world));

    let mut world = pair(|_| {}, |c| c.admin_down = Some(String::new()));
    world.input(1, Input::Reset(PeerId(0), Reset::Hard));
    world.run(10_000);
    assert!(!is_up(&world), "the operator keeps it down");
}

/// RFC 2918: what was missed in one direction is told again, and the session goes on.
#[test]
fn a_soft_reset_asks_or_tells_again() {
    let mut world = pair(|_| {}, |_| {});
    world.originate(0, net(PREFIX), PathAttributes::default());
    world.originate(1, net("203.0.113.0/24"), PathAttributes::default());
    for (reset, teller) in [(Reset::SoftIn, 0), (Reset::SoftOut, 1)] {
        let (mark, asked) = (world.mark(teller), world.mark(1));
        world.input(1, Input::Reset(PeerId(0), reset));
        let marks = kinds(&world, teller, mark, MessageType::RouteRefresh);
        assert_eq!(marks, [[0, 1, RouteRefresh::BEGIN, 1], [0, 1, RouteRefresh::END, 1]], "{reset:?}");
        assert!(!kinds(&world, teller, mark, MessageType::Update).is_empty());
        let requests = kinds(&world, 1, asked, MessageType::RouteRefresh);
        assert_eq!(requests.contains(&vec![0, 1, RouteRefresh::REQUEST, 1]), reset == Reset::SoftIn);
    }
    assert!(is_up(&world) && world.downs(1, 0).is_empty());
    let other = Input::Reset(PeerId(77), Reset::SoftIn);
    world.input(1, other);
}

/// RFC 7313 §4: what was answered comes between its marks; what the answer does not have any more is gone.
#[test]
fn a_refresh_is_marked_and_what_it_lacks_is_gone() {
    let mut world = pair(|_| {}, |_| {});
    world.originate(0, net(PREFIX), PathAttributes::default());
    let mark = world.mark(0);
    world.input(1, Input::RequestRefresh(PeerId(0), Family::Ipv4Unicast));
    let marks = kinds(&world, 0, mark, MessageType::RouteRefresh);
    assert_eq!(marks, [[0, 1, RouteRefresh::BEGIN, 1], [0, 1, RouteRefresh::END, 1]]);
    let order: Vec<u8> = order(&world.sent(0, mark));
    assert_eq!(
        order,
        [MessageType::RouteRefresh as u8, MessageType::Update as u8, MessageType::RouteRefresh as u8]
    );
    assert!(!world.best(1, net(PREFIX)).unwrap().stale);

    // A peer that begins, says nothing and ends.
    let say = |subtype| RouteRefresh::of(Family::Ipv4Unicast, subtype).encode();
    world.say(0, 1, say(RouteRefresh::END));
    assert!(world.best(1, net(PREFIX)).is_some(), "an end without a beginning says nothing");
    world.say(0, 1, say(RouteRefresh::BEGIN));
    assert!(world.best(1, net(PREFIX)).unwrap().stale);
    world.say(0, 1, say(RouteRefresh::END));
    assert!(world.best(1, net(PREFIX)).is_none());
}

/// However often a peer asks while it has not read the answer, it is told once more and not a thousand times.
#[test]
fn a_flood_of_refresh_requests_is_one_request() {
    let mut world = pair(|_| {}, |_| {});
    world.originate(1, net(PREFIX), PathAttributes::default());
    let request = RouteRefresh::of(Family::Ipv4Unicast, RouteRefresh::REQUEST).encode();
    let mark = world.mark(1);
    world.say(0, 1, request.repeat(1_000));
    let marks = kinds(&world, 1, mark, MessageType::RouteRefresh);
    assert!((2..=4).contains(&marks.len()), "{} marks", marks.len());
    assert!(is_up(&world));
}

/// RFC 7313 §4: an end that never comes is not waited for for ever; a session lost in between keeps what it had.
#[test]
fn a_refresh_that_never_ends_is_ended_and_a_lost_session_keeps_all() {
    let begin = || RouteRefresh::of(Family::Ipv4Unicast, RouteRefresh::BEGIN).encode();
    let mut world = pair(|_| {}, |_| {});
    world.originate(0, net(PREFIX), PathAttributes::default());
    world.say(0, 1, begin());
    world.kill(0);
    assert!(world.best(1, net(PREFIX)).unwrap().stale, "kept as all the rest while the peer restarts");

    let mut world = pair(|_| {}, |_| {});
    world.originate(0, net(PREFIX), PathAttributes::default());
    world.say(0, 1, begin());
    world.run(350_000);
    assert!(world.best(1, net(PREFIX)).is_some());
    world.run(20_000);
    assert!(world.best(1, net(PREFIX)).is_none());
    assert!(is_up(&world));
}

/// With 2-octet numbers twice as many fit a message as an attribute could hold with 4-octet ones: beyond that it is no route.
#[test]
fn a_path_of_too_many_numbers_is_no_route() {
    for (numbers, is_route) in [(16_000, true), (16_001, false)] {
        let mut world = pair(|_| {}, |_| {});
        let path = std::iter::once(ASNS[0]).chain(70_000..).take(numbers);
        let attrs = attrs(|a| {
            a.as_path = AsPath::sequence(path.map(Asn));
            a.next_hop = Some(NextHop::V4("10.0.0.1".parse().unwrap()));
        });
        let context = EncodeContext { four_octet_as: true, message_limit: 65_535 };
        let routes = [Nlri::from(net(PREFIX))];
        let update = encode_announce(Family::Ipv4Unicast, &attrs, &routes, &context).unwrap();
        world.say(0, 1, update.concat());
        assert_eq!(world.best(1, net(PREFIX)).is_some(), is_route, "{numbers}");
        assert!(is_up(&world));
    }
}

/// RFC 8950: an IPv6 session carries IPv4 routes where both sides say so.
#[test]
fn ipv4_routes_go_over_an_ipv6_next_hop() {
    let over_v6 = |a: usize, b: usize| {
        let addr = |n: usize| ip(&format!("2001:db8::{}", n + 1));
        let ends = ((addr(a), Asn(ASNS[a])), (addr(b), Asn(ASNS[b])));
        let mut config = PeerConfig::new(UNDERLAY, ends.0, ends.1);
        (config.families, config.policy) = (V4.to_vec(), Policy::accept_all());
        config
    };
    let mut world = World::new(2);
    world.add_peer(0, 1, over_v6(0, 1));
    world.add_peer(1, 0, over_v6(1, 0));
    world.run(10_000);
    world.originate(0, net(PREFIX), PathAttributes::default());
    let next_hop = world.best(1, net(PREFIX)).unwrap().attrs.next_hop;
    assert_eq!(next_hop, Some(NextHop::V6("2001:db8::1".parse().unwrap())));

    // Over an IPv4 session nobody has agreed on that: what cannot be read ends the session (RFC 7606 §7.11).
    let mut world = pair(|_| {}, |_| {});
    let attrs = attrs(|a| {
        a.as_path = AsPath::sequence([Asn(65001)]);
        a.next_hop = next_hop;
    });
    let context = EncodeContext { four_octet_as: true, message_limit: 4_096 };
    let routes = [Nlri::from(net(PREFIX))];
    let (update, mark) = (encode_announce(Family::Ipv4Unicast, &attrs, &routes, &context), world.mark(1));
    world.say(0, 1, update.unwrap().concat());
    assert!(notifications(&world, 1, mark)[0].is(Notification::OPTIONAL_ATTRIBUTE));
}

/// The types of messages in their order, KEEPALIVEs left out.
fn order(octets: &[u8]) -> Vec<u8> {
    let (mut at, mut found) = (0, Vec::new());
    while let Some(frame) = next_frame(&octets[at..], 65_535).unwrap() {
        found.push(frame.kind as u8);
        at += frame.len;
    }
    found.retain(|kind| *kind != MessageType::Keepalive as u8);
    found
}
