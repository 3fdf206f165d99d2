//! Two to four speakers under a virtual clock.
//!
//! ```text
//!   node 0 ── AS 65001 ── node 1 ── AS 65002 ── …      addresses and identifiers 10.0.0.(n+1)
//! ```

mod sim;

use sim::*;
use watari_bgp::*;

const UNICAST: &[Family] = &[Family::Ipv4Unicast, Family::Ipv6Unicast];
const ALL: &[Family] = &Family::ALL;

fn pair(asns: (u32, u32), families: &[Family]) -> World {
    let mut world = World::new(2);
    world.link(0, 1, asns, families);
    world.run(10_000);
    assert_eq!(world.state(0, 1), State::Established);
    assert_eq!(world.state(1, 0), State::Established);
    world
}

fn restart_config() -> RestartConfig {
    RestartConfig { forwarding_preserved: true, selection_deferral_ms: 60_000 }
}

fn mac_ip(vni: u32) -> MacIp {
    MacIp {
        rd: Rd::from_ip([10, 0, 0, 1].into(), 100),
        esi: Esi::ZERO,
        tag: 0,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        ip: Some(ip("192.0.2.7")),
        vni: Vni::new(vni).unwrap(),
        l3_vni: Vni::new(9000),
    }
}

fn evpn_attrs(vtep: &str) -> PathAttributes {
    PathAttributes {
        next_hop: Some(ip(vtep).into()),
        ext_communities: vec![RouteTarget::new(Asn(65001), 100).into(), ExtCommunity::ENCAP_VXLAN],
        ..PathAttributes::default()
    }
}

#[test]
fn routes_of_every_family_arrive_and_leave() {
    let mut world = pair((65001, 65002), ALL);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    world.originate(0, net("2001:db8:1::/48"), PathAttributes::default());
    world.originate(0, mac_ip(100), evpn_attrs("10.0.0.1"));
    let v4 = world.best(1, net("198.51.100.0/24")).unwrap();
    assert_eq!(v4.attrs.next_hop, Some(NextHop::V4([10, 0, 0, 1].into())));
    assert_eq!(v4.attrs.as_path, AsPath::sequence([Asn(65001)]));
    let v6 = world.best(1, net("2001:db8:1::/48")).unwrap();
    assert_eq!(v6.attrs.next_hop, Some(NextHop::V6("2001:db8::1".parse().unwrap())));
    let station = world.best(1, mac_ip(100)).unwrap();
    assert_eq!(station.data.label1.get(), 100);
    assert_eq!(station.data.label2.map(Vni::get), Some(9000));
    assert!(station.attrs.ext_communities.contains(&ExtCommunity::ENCAP_VXLAN));

    world.withdraw(0, net("198.51.100.0/24"));
    world.withdraw(0, net("2001:db8:1::/48"));
    world.withdraw(0, mac_ip(100));
    assert!(world.best(1, net("198.51.100.0/24")).is_none());
    assert!(world.best(1, net("2001:db8:1::/48")).is_none());
    assert!(world.best(1, mac_ip(100)).is_none());
}

#[test]
fn an_unchanged_route_is_not_sent_again() {
    let mut world = pair((65001, 65002), UNICAST);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    let mark = world.mark(0);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    assert!(world.sent(0, mark).is_empty());
    let med = PathAttributes { med: Some(5), ..PathAttributes::default() };
    world.originate(0, net("198.51.100.0/24"), med);
    assert_eq!(world.best(1, net("198.51.100.0/24")).unwrap().attrs.med, Some(5));
}

#[test]
fn routes_that_share_attributes_share_messages() {
    let mut world = World::new(2);
    for i in 0..1_000u32 {
        world.originate(0, net(&format!("10.{}.{}.0/24", 1 + i / 256, i % 256)), PathAttributes::default());
    }
    world.link(0, 1, (65001, 65002), UNICAST);
    world.run(10_000);
    let summary = world.nodes[1].speaker.peer(PeerId(0)).unwrap();
    assert_eq!(summary.received, 1_000);
    assert!(summary.messages_in < 10, "{} messages", summary.messages_in);
}

#[test]
fn an_internal_route_does_not_go_to_an_internal_peer() {
    let mut world = World::new(3);
    world.link(0, 1, (65001, 65001), UNICAST);
    world.link(1, 2, (65001, 65001), UNICAST);
    world.run(10_000);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    assert!(world.best(1, net("198.51.100.0/24")).is_some());
    assert!(world.best(2, net("198.51.100.0/24")).is_none());
}

#[test]
fn a_reflector_passes_a_clients_route_on_with_originator_and_cluster() {
    let mut world = World::new(3);
    let client = |a, b| PeerConfig { route_reflector_client: true, ..between(a, b, (65001, 65001), UNICAST) };
    world.add_peer(1, 0, client(1, 0));
    world.add_peer(0, 1, between(0, 1, (65001, 65001), UNICAST));
    world.link(1, 2, (65001, 65001), UNICAST);
    world.run(10_000);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    let route = world.best(2, net("198.51.100.0/24")).unwrap();
    assert_eq!(route.attrs.originator_id, Some(RouterId([10, 0, 0, 1].into())));
    assert_eq!(route.attrs.cluster_list, [std::net::Ipv4Addr::new(10, 0, 0, 2)]);
    assert_eq!(route.attrs.next_hop, Some(NextHop::V4([10, 0, 0, 1].into())));
}

#[test]
fn without_a_policy_nothing_passes_an_external_session() {
    let mut world = World::new(2);
    let silent = |a, b, asns| PeerConfig { policy: Policy::default(), ..between(a, b, asns, UNICAST) };
    world.add_peer(0, 1, between(0, 1, (65001, 65002), UNICAST));
    world.add_peer(1, 0, silent(1, 0, (65002, 65001)));
    world.run(10_000);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    world.originate(1, net("203.0.113.0/24"), PathAttributes::default());
    assert!(world.best(1, net("198.51.100.0/24")).is_none());
    assert!(world.best(0, net("203.0.113.0/24")).is_none());
    let entry = world.nodes[1].speaker.entry(UNDERLAY, &Key::prefix(net("198.51.100.0/24"))).unwrap();
    assert_eq!(entry.candidates[0].rejected, Some(rib::RejectReason::Policy));
}

#[test]
fn a_changed_policy_takes_effect_without_a_new_session() {
    let mut world = pair((65001, 65002), UNICAST);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    world.originate(1, net("203.0.113.0/24"), PathAttributes::default());
    let (mark0, mark1) = (world.mark(0), world.mark(1));
    let closed = PeerConfig { policy: Policy::default(), ..between(1, 0, (65002, 65001), UNICAST) };
    world.input(1, Input::UpdatePeer(PeerId(0), Box::new(closed)));
    assert!(world.best(1, net("198.51.100.0/24")).is_none());
    assert!(world.best(0, net("203.0.113.0/24")).is_none());
    world.input(1, Input::UpdatePeer(PeerId(0), Box::new(between(1, 0, (65002, 65001), UNICAST))));
    assert!(world.best(1, net("198.51.100.0/24")).is_some());
    assert!(world.best(0, net("203.0.113.0/24")).is_some());
    assert!(world.downs(0, mark0).is_empty() && world.downs(1, mark1).is_empty());
}

#[test]
fn our_own_as_in_the_path_is_a_loop() {
    let mut world = World::new(3);
    world.link(0, 1, (65001, 65002), UNICAST);
    world.link(1, 2, (65002, 65001), UNICAST);
    world.run(10_000);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    assert!(world.best(2, net("198.51.100.0/24")).is_none());
    let entry = world.nodes[2].speaker.entry(UNDERLAY, &Key::prefix(net("198.51.100.0/24"))).unwrap();
    assert_eq!(entry.candidates[0].rejected, Some(rib::RejectReason::AsLoop(Asn(65001))));
}

#[test]
fn crossing_connections_leave_the_one_of_the_higher_identifier() {
    let mut world = World::new(2);
    world.hold_connects = true;
    world.link(0, 1, (65001, 65002), UNICAST);
    world.release_connects();
    world.run(10_000);
    assert_eq!(world.state(0, 1), State::Established);
    assert_eq!(world.state(1, 0), State::Established);
    assert!(world.downs(0, 0).is_empty() && world.downs(1, 0).is_empty());
    // Node 1 has the higher identifier: what it opened, the second connection, stays.
    let stays = |n: usize| world.nodes[n].log.iter().any(|(_, o)| matches!(o, Output::Close(_, ConnId(1))));
    assert!(stays(0) || stays(1));
    assert!(!world.nodes.iter().flat_map(|n| &n.log).any(|(_, o)| matches!(o, Output::Close(_, ConnId(2)))));
}

#[test]
fn a_silent_peer_is_dropped_when_the_hold_timer_expires() {
    let mut world = World::new(2);
    let plain = |a, b, asns| PeerConfig { graceful_restart: None, ..between(a, b, asns, UNICAST) };
    world.add_peer(0, 1, plain(0, 1, (65001, 65002)));
    world.add_peer(1, 0, plain(1, 0, (65002, 65001)));
    world.run(10_000);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    world.stalled = Some(0);
    let mark = world.mark(1);
    world.run(100_000);
    let expired = Notification::new(Notification::HOLD_TIMER_EXPIRED);
    assert_eq!(world.downs(1, mark).first(), Some(&DownReason::Sent(expired)));
    assert!(world.best(1, net("198.51.100.0/24")).is_none());
}

#[test]
fn the_session_stays_up_for_a_day_of_silence() {
    let mut world = pair((65001, 65002), UNICAST);
    world.run(86_400_000);
    assert!(world.downs(0, 0).is_empty() && world.downs(1, 0).is_empty());
}

#[test]
fn garbage_is_answered_with_its_notification_and_harms_nobody_else() {
    let mut world = World::new(3);
    world.link(0, 1, (65001, 65002), UNICAST);
    world.link(0, 2, (65001, 65003), UNICAST);
    world.run(10_000);
    let conn = world.nodes[0].log.iter().rev().find_map(|(_, o)| match o {
        Output::Send(PeerId(1), conn, _) => Some(*conn),
        _ => None,
    });
    let mark = world.mark(0);
    world.input(0, Input::Bytes(PeerId(1), conn.unwrap(), vec![0; 40]));
    let not_synchronized = Notification::new(Notification::NOT_SYNCHRONIZED);
    assert_eq!(world.downs(0, mark), [DownReason::Sent(not_synchronized)]);
    assert_eq!(world.state(0, 2), State::Established);
    world.run(60_000);
    assert_eq!(world.state(0, 1), State::Established, "it recovers by itself");
}

#[test]
fn a_peer_that_does_not_read_costs_bounded_memory_and_is_given_up() {
    let mut world = World::new(3);
    world.link(0, 1, (65001, 65002), UNICAST);
    world.link(0, 2, (65001, 65003), UNICAST);
    world.run(10_000);
    let mark = world.mark(0);
    // Only reports to node 1's connection are withheld: node 2 is served all the while.
    world.stalled = Some(0);
    for i in 0..60_000u32 {
        let med = PathAttributes { med: Some(i), ..PathAttributes::default() };
        world.originate(0, net(&format!("10.{}.{}.0/24", i / 256 % 64, i % 256)), med);
    }
    let sent = world.sent(0, mark).len();
    assert!(sent < 2 * (speaker::SEND_CREDIT + 128 * 1024), "{sent} octets to two stuck peers");
    world.run(500_000);
    assert!(!world.downs(0, mark).is_empty());
}

#[test]
fn removing_a_peer_withdraws_its_routes_and_ceases() {
    let mut world = pair((65001, 65002), UNICAST);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    world.originate(1, net("203.0.113.0/24"), PathAttributes::default());
    let mark = world.mark(0);
    world.input(1, Input::RemovePeer(PeerId(0)));
    assert!(world.best(1, net("198.51.100.0/24")).is_none());
    assert!(world.best(0, net("203.0.113.0/24")).is_none(), "a hard reset is not graceful");
    let deconfigured = Notification::new(Notification::DECONFIGURED).into_hard_reset();
    assert_eq!(world.downs(0, mark), [DownReason::Received(deconfigured)]);
}

#[test]
fn a_restart_of_thirty_seconds_changes_nothing_at_the_helper() {
    for asns in [(65001, 65001), (65001, 65002)] {
        let mut world = pair(asns, ALL);
        world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
        world.originate(0, net("198.51.101.0/24"), PathAttributes::default());
        world.originate(0, mac_ip(100), evpn_attrs("10.0.0.1"));
        world.originate(1, net("203.0.113.0/24"), PathAttributes::default());
        let (helper, restarter) = (world.mark(1), world.mark(0));
        world.kill(0);
        world.run(30_000);
        assert!(world.best(1, net("198.51.100.0/24")).unwrap().stale);
        assert!(world.changes(1, helper).is_empty());

        world.restart(0, restart_config());
        world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
        world.originate(0, mac_ip(100), evpn_attrs("10.0.0.1"));
        world.run(1_000);
        assert!(world.nodes[0].speaker.is_restarting(), "local routes are not complete");
        assert!(world.changes(0, restarter).is_empty());
        world.input(0, Input::LocalRoutesComplete);
        world.run(1_000);

        assert!(!world.nodes[0].speaker.is_restarting());
        assert!(!world.best(1, net("198.51.100.0/24")).unwrap().stale);
        assert!(!world.best(1, mac_ip(100)).unwrap().stale);
        let gone = world.changes(1, helper);
        assert_eq!(gone.len(), 1, "only what was not announced again leaves: {gone:?}");
        assert_eq!(gone[0].0, Key::prefix(net("198.51.101.0/24")));
        let done = |f: Family| {
            let is = |(_, o): &(Instant, Output)| matches!(o, Output::SelectionDone(_, g) if *g == f);
            world.nodes[0].log[restarter..].iter().filter(|e| is(e)).count()
        };
        assert_eq!(Family::ALL.map(done), [1, 1, 1]);
        assert!(world.best(0, net("203.0.113.0/24")).is_some());
    }
}

#[test]
fn end_of_rib_waits_for_what_the_other_peers_still_have_to_send() {
    // 1 and 2 are helpers of 0; 0 carries 2's route to 1. 2 is slow: it comes back last.
    let mut world = World::new(3);
    world.link(0, 1, (65001, 65002), UNICAST);
    world.link(0, 2, (65001, 65003), UNICAST);
    world.run(10_000);
    world.originate(2, net("203.0.113.0/24"), PathAttributes::default());
    assert!(world.best(1, net("203.0.113.0/24")).is_some());
    let helper = world.mark(1);
    world.kill(0);
    world.run(10_000);
    world.stalled = Some(2);
    world.restart(0, restart_config());
    world.input(0, Input::LocalRoutesComplete);
    world.run(20_000);
    assert_eq!(world.state(0, 1), State::Established);
    assert!(world.nodes[0].speaker.is_restarting());
    assert!(world.best(1, net("203.0.113.0/24")).unwrap().stale);
    world.stalled = None;
    world.run(30_000);
    assert_eq!(world.state(0, 2), State::Established);
    assert!(world.changes(1, helper).is_empty(), "{:?}", world.changes(1, helper));
    assert!(!world.best(1, net("203.0.113.0/24")).unwrap().stale);
}

#[test]
fn one_dead_peer_blocks_nothing_beyond_the_deferral_timer() {
    let mut world = World::new(3);
    world.link(0, 1, (65001, 65002), UNICAST);
    world.link(0, 2, (65001, 65003), UNICAST);
    world.run(10_000);
    world.originate(2, net("203.0.113.0/24"), PathAttributes::default());
    let helper = world.mark(1);
    world.kill(0);
    world.kill(2);
    world.run(5_000);
    world.restart(0, restart_config());
    world.input(0, Input::LocalRoutesComplete);
    world.run(59_000);
    assert!(world.nodes[0].speaker.is_restarting());
    assert!(world.changes(1, helper).is_empty());
    world.run(2_000);
    assert!(!world.nodes[0].speaker.is_restarting());
    assert_eq!(world.changes(1, helper), [(Key::prefix(net("203.0.113.0/24")), None)]);
}

#[test]
fn two_that_restart_at_once_do_not_wait_for_each_other() {
    let mut world = pair((65001, 65002), UNICAST);
    world.kill(0);
    world.kill(1);
    for node in 0..2 {
        world.restart(node, restart_config());
        world.originate(node, net(&format!("198.51.{node}.0/24")), PathAttributes::default());
        world.input(node, Input::LocalRoutesComplete);
    }
    world.run(10_000);
    for node in 0..2 {
        assert!(!world.nodes[node].speaker.is_restarting());
        assert!(world.best(node, net(&format!("198.51.{}.0/24", 1 - node))).is_some());
    }
}

/// RFC 4724 §4.2: "to deal with possible consecutive restarts, a route previously marked as stale MUST be deleted".
#[test]
fn a_second_loss_before_the_end_of_rib_deletes_what_was_stale_already() {
    let mut world = pair((65001, 65002), UNICAST);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    let helper = world.mark(1);
    world.kill(0);
    world.run(5_000);
    world.restart(0, restart_config());
    world.run(5_000);
    assert_eq!(world.state(1, 0), State::Established);
    assert!(world.changes(1, helper).is_empty());
    world.kill(0);
    assert_eq!(world.changes(1, helper), [(Key::prefix(net("198.51.100.0/24")), None)]);
}

/// A speaker with one peer, established by hand, and the moment.
fn by_hand(
    graceful: Option<watari_bgp::wire::GracefulRestart>,
    restart: bool,
) -> (speaker::Speaker, Instant) {
    use watari_bgp::wire::*;
    let mut speaker = speaker(0);
    let now = Instant::from_millis(1);
    let config = PeerConfig { passive: true, ..between(0, 1, (65001, 65002), &[Family::Ipv4Unicast]) };
    if restart {
        speaker.handle(Input::StartRestart(restart_config()), now);
    }
    speaker.handle(Input::AddPeer(PeerId(1), Box::new(config)), now);
    speaker.handle(Input::LocalRoutesComplete, now);
    speaker.handle(Input::TcpAccepted(PeerId(1), ConnId(1)), now);
    let mut capabilities = vec![Capability::MultiProtocol(1, 1)];
    capabilities.extend(graceful.map(Capability::GracefulRestart));
    let router_id = RouterId([10, 0, 0, 2].into());
    let open = Open { asn: Asn(65002), hold_time_s: 90, router_id, capabilities };
    for octets in [open.encode(), encode_keepalive()] {
        let outputs = speaker.handle(Input::Bytes(PeerId(1), ConnId(1), octets), now);
        assert!(!outputs.iter().any(|o| matches!(o, Output::SelectionDone(..))));
    }
    assert_eq!(speaker.peer(PeerId(1)).unwrap().state, State::Established);
    (speaker, now)
}

/// RFC 9687: even if nothing but KEEPALIVEs waits to be read.
#[test]
fn a_peer_that_sends_but_never_reads_is_given_up_after_eight_minutes() {
    let (mut speaker, mut now) = by_hand(None, false);
    // All but the KEEPALIVEs to come is read.
    speaker.handle(Input::Written(PeerId(1), ConnId(1), 1 << 20), now);
    let mut said = Vec::new();
    while now.as_millis() < 490_000 {
        assert!(said.is_empty(), "{said:?}");
        now = now + 1_000;
        speaker.handle(Input::Bytes(PeerId(1), ConnId(1), watari_bgp::wire::encode_keepalive()), now);
        said = speaker.handle(Input::Tick, now);
        said.retain(|o| !matches!(o, Output::Send(..)));
    }
    let said = speaker.handle(Input::Tick, now + 30_000);
    let expired = Notification::new(Notification::SEND_HOLD_TIMER_EXPIRED);
    assert!(
        said.iter().any(
            |o| matches!(o, Output::PeerState { reason: Some(DownReason::Sent(n)), .. } if *n == expired)
        ),
        "{said:?}"
    );
}

/// FRR sets the R bit for two minutes after its own start and sends everything at once nevertheless.
#[test]
fn a_peer_with_the_restart_bit_is_heard_out_if_it_speaks_soon() {
    use watari_bgp::wire::{GracefulRestart, encode_end_of_rib};
    let restarted = GracefulRestart { restarted: true, restart_time_s: 120, ..GracefulRestart::default() };
    let (mut speaker, now) = by_hand(Some(restarted), true);
    let marker = encode_end_of_rib(Family::Ipv4Unicast);
    let said = speaker.handle(Input::Bytes(PeerId(1), ConnId(1), marker), now);
    assert!(said.iter().any(|o| matches!(o, Output::SelectionDone(..))), "{said:?}");
}

#[test]
fn a_peer_that_never_returns_loses_its_routes_after_the_restart_time() {
    let mut world = pair((65001, 65002), UNICAST);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    let helper = world.mark(1);
    world.kill(0);
    world.run(119_000);
    assert!(world.changes(1, helper).is_empty());
    world.run(2_000);
    assert_eq!(world.changes(1, helper), [(Key::prefix(net("198.51.100.0/24")), None)]);
}

#[test]
fn a_broken_connection_between_two_living_speakers_changes_nothing() {
    let mut world = pair((65001, 65002), UNICAST);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    let helper = world.mark(1);
    world.cut(0, 1);
    world.run(10_000);
    assert_eq!(world.state(1, 0), State::Established);
    assert!(world.changes(1, helper).is_empty());
    assert!(!world.best(1, net("198.51.100.0/24")).unwrap().stale);
}

#[test]
fn a_restart_that_did_not_preserve_forwarding_loses_the_routes_on_return() {
    let mut world = pair((65001, 65002), UNICAST);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    let helper = world.mark(1);
    world.kill(0);
    world.run(5_000);
    world.restart(0, RestartConfig { forwarding_preserved: false, ..restart_config() });
    world.run(1_000);
    assert_eq!(world.changes(1, helper), [(Key::prefix(net("198.51.100.0/24")), None)]);
}

#[test]
fn a_graceful_shutdown_sends_no_notification_and_keeps_the_routes() {
    let mut world = pair((65001, 65002), UNICAST);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    let helper = world.mark(1);
    let mark = world.mark(0);
    world.input(0, Input::Shutdown { graceful: true });
    assert!(world.sent(0, mark).is_empty());
    assert_eq!(world.downs(1, helper), [DownReason::ConnectionLost]);
    assert!(world.changes(1, helper).is_empty());
}

#[test]
fn a_dead_path_ends_the_session_with_bfd_down_and_takes_the_routes_along() {
    let mut world = pair((65001, 65002), UNICAST);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    world.originate(1, net("203.0.113.0/24"), PathAttributes::default());
    let mark = world.mark(1);
    world.input(1, Input::PathDown { peer: PeerId(0), forwarding_is_dead: false });
    assert!(world.best(1, net("198.51.100.0/24")).is_none(), "no graceful restart is waited for");
    assert!(world.best(0, net("203.0.113.0/24")).is_none(), "nor at the other side");
    let bfd_down = Notification::new(Notification::BFD_DOWN).into_hard_reset();
    assert_eq!(world.downs(1, mark), [DownReason::Sent(bfd_down)]);
    world.run(10_000);
    assert_eq!(world.state(1, 0), State::Established, "it is tried again");
    assert!(world.best(1, net("198.51.100.0/24")).is_some());
}

#[test]
fn a_dead_path_ends_the_restart_of_a_peer_unless_bfd_shares_its_fate() {
    for forwarding_is_dead in [false, true] {
        let mut world = pair((65001, 65002), UNICAST);
        world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
        world.kill(0);
        assert!(world.best(1, net("198.51.100.0/24")).unwrap().stale);
        world.input(1, Input::PathDown { peer: PeerId(0), forwarding_is_dead });
        assert_eq!(world.best(1, net("198.51.100.0/24")).is_none(), forwarding_is_dead);
    }
}

#[test]
fn a_final_shutdown_takes_the_routes_along() {
    let mut world = pair((65001, 65002), UNICAST);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    world.input(0, Input::Shutdown { graceful: false });
    assert!(world.best(1, net("198.51.100.0/24")).is_none());
}

#[test]
fn instances_do_not_see_each_other() {
    let mut world = pair((65001, 65002), UNICAST);
    let nlri = Nlri::from(net("198.51.100.0/24"));
    let other = Input::Originate { instance: InstanceId(7), nlri, attrs: Box::default() };
    world.input(0, other);
    assert!(world.best(1, net("198.51.100.0/24")).is_none());
    assert_eq!(world.nodes[0].speaker.table_rows(InstanceId(7), Family::Ipv4Unicast, None, 10).len(), 1);
    assert!(world.nodes[0].speaker.table_rows(UNDERLAY, Family::Ipv4Unicast, None, 10).is_empty());
}

#[test]
fn too_many_paths_end_the_session() {
    let mut world = World::new(2);
    world.add_peer(0, 1, PeerConfig { max_paths: Some(2), ..between(0, 1, (65001, 65002), UNICAST) });
    world.add_peer(1, 0, between(1, 0, (65002, 65001), UNICAST));
    world.run(10_000);
    for i in 0..3 {
        world.originate(1, net(&format!("203.0.{i}.0/24")), PathAttributes::default());
    }
    let Some(DownReason::Sent(reason)) = world.downs(0, 0).first().cloned() else { panic!("still up") };
    assert!(reason.is(Notification::HARD_RESET));
    assert_eq!(reason.data[..2], [6, 1]);
    assert!(world.best(0, net("203.0.0.0/24")).is_none());
}

#[test]
fn a_mac_that_moved_is_preferred_by_its_sequence_and_a_sticky_one_stays() {
    let mut world = World::new(3);
    world.link(0, 2, (65001, 65001), &[Family::L2vpnEvpn]);
    world.link(1, 2, (65001, 65001), &[Family::L2vpnEvpn]);
    world.run(10_000);
    let claim = |vtep: &str, sticky, sequence| {
        let mut attrs = evpn_attrs(vtep);
        attrs.ext_communities.push(ExtCommunity::mac_mobility(sticky, sequence));
        attrs
    };
    world.originate(0, mac_ip(100), claim("10.0.0.1", false, 0));
    world.originate(1, mac_ip(100), claim("10.0.0.2", false, 1));
    assert_eq!(world.best(2, mac_ip(100)).unwrap().source, Source::Peer(PeerId(1)));
    world.originate(0, mac_ip(100), claim("10.0.0.1", true, 0));
    assert_eq!(world.best(2, mac_ip(100)).unwrap().source, Source::Peer(PeerId(0)));
    let reason = world.nodes[2].speaker.entry(UNDERLAY, &Nlri::from(mac_ip(100)).key).unwrap().reason;
    assert_eq!(reason, Some(rib::Reason::Sticky));
}

#[test]
fn a_route_refresh_is_answered_with_everything() {
    let mut world = pair((65001, 65002), UNICAST);
    world.originate(0, net("198.51.100.0/24"), PathAttributes::default());
    let mark = world.mark(0);
    world.input(1, Input::RequestRefresh(PeerId(0), Family::Ipv4Unicast));
    assert!(!world.sent(0, mark).is_empty());
}

/// A small generator with a seed: the same run every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn random_octets_at_any_moment_harm_nobody() {
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut world = World::new(3);
        world.link(0, 1, (65001, 65002), ALL);
        world.link(0, 2, (65001, 65003), ALL);
        world.run(10_000);
        world.originate(2, net("203.0.113.0/24"), PathAttributes::default());
        for _ in 0..20 {
            let conns: Vec<(PeerId, ConnId)> = world.nodes[0]
                .log
                .iter()
                .filter_map(|(_, o)| match o {
                    Output::Send(peer @ PeerId(1), conn, _) => Some((*peer, *conn)),
                    _ => None,
                })
                .collect();
            let (peer, conn) = conns[dice.roll(conns.len() as u64) as usize];
            // A good header half of the time, so that bodies are reached.
            let mut octets: Vec<u8> = (0..dice.roll(80)).map(|_| dice.roll(256) as u8).collect();
            if dice.roll(2) == 0 {
                let len = (19 + octets.len()) as u16;
                let header = [[0xff; 16].to_vec(), len.to_be_bytes().to_vec(), vec![1 + dice.roll(5) as u8]];
                octets = [header.concat(), octets].concat();
            }
            world.input(0, Input::Bytes(peer, conn, octets));
            let pause = dice.roll(3_000);
            world.run(pause);
        }
        assert_eq!(world.state(0, 2), State::Established);
        assert!(world.best(0, net("203.0.113.0/24")).is_some());
        world.run(600_000);
        assert_eq!(world.state(0, 1), State::Established, "seed {seed}");
    }
}

/// Four speakers in a ring of ASes; routes come and go, connections break, one speaker restarts. In the end
/// everybody has exactly what is originated, by the shortest way.
#[test]
fn a_ring_converges_whatever_happened_before() {
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut world = World::new(4);
        for n in 0..4u32 {
            world.link(n as usize, (n as usize + 1) % 4, (65001 + n, 65001 + (n + 1) % 4), UNICAST);
        }
        world.run(10_000);
        let route = |owner: usize, i: u64| net(&format!("10.{owner}.{i}.0/24"));
        let mut present = std::collections::BTreeSet::new();
        for _ in 0..30 {
            let (owner, i) = (dice.roll(4) as usize, dice.roll(3));
            match dice.roll(8) {
                0..=3 => {
                    world.originate(owner, route(owner, i), PathAttributes::default());
                    present.insert((owner, i));
                }
                4 | 5 => {
                    world.withdraw(owner, route(owner, i));
                    present.remove(&(owner, i));
                }
                6 => world.cut(owner, (owner + 1) % 4),
                _ => {
                    world.kill(owner);
                    let away = dice.roll(60_000);
                    world.run(away);
                    world.restart(owner, restart_config());
                    for (_, i) in present.iter().filter(|(o, _)| *o == owner) {
                        world.originate(owner, route(owner, *i), PathAttributes::default());
                    }
                    world.input(owner, Input::LocalRoutesComplete);
                }
            }
            let pause = dice.roll(5_000);
            world.run(pause);
        }
        world.run(400_000);
        for node in 0..4 {
            for (owner, i) in (0..4).flat_map(|o| (0..3).map(move |i| (o, i))) {
                let hops = world.best(node, route(owner, i)).map(|c| c.attrs.as_path.hops());
                let distance = (owner + 4 - node) % 4;
                let expected = present.contains(&(owner, i)).then(|| distance.min(4 - distance));
                assert_eq!(hops, expected, "seed {seed}: node {node}, route {owner}/{i}");
                assert!(world.best(node, route(owner, i)).is_none_or(|c| !c.stale), "seed {seed}");
            }
        }
    }
}

/// What is told of each neighbour of each node is what a walk of the tables finds.
fn counts_are_those_of_a_walk(world: &World, after: &str) {
    for (n, node) in world.nodes.iter().enumerate() {
        for told in node.speaker.peers() {
            let paths: Vec<_> = Family::ALL
                .iter()
                .flat_map(|f| node.speaker.received(told.peer, *f))
                .map(|(_, c)| c)
                .collect();
            let count = |is: fn(&speaker::Candidate) -> bool| paths.iter().filter(|c| is(c)).count();
            let walked = (paths.len(), count(|c| c.rejected.is_some()), count(|c| c.stale));
            assert_eq!(
                (told.received, told.rejected, told.stale),
                walked,
                "{after}: node {n}, {:?}",
                told.peer
            );
        }
    }
}

/// Three speakers; routes come, change and go, policies change, connections break, speakers restart and peers are
/// removed and added again.
#[test]
fn the_counts_of_paths_are_those_of_a_walk() {
    let mut seen = [0; 3];
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut world = World::new(3);
        let asns = [65001, 65002, 65003];
        for (a, b) in [(0, 1), (1, 2), (2, 0)] {
            world.link(a, b, (asns[a], asns[b]), ALL);
        }
        world.run(10_000);
        for step in 0..40 {
            let (node, other) = (dice.roll(3) as usize, dice.roll(2) as usize + 1);
            let other = (node + other) % 3;
            let prefix = net(&format!("10.{}.{}.0/24", dice.roll(3), dice.roll(4)));
            let what = dice.roll(12);
            let mut config = between(node, other, (asns[node], asns[other]), ALL);
            match what {
                0..=3 => world.originate(node, prefix, PathAttributes::default()),
                4 => world.originate(node, mac_ip(100 + dice.roll(2) as u32), evpn_attrs("10.0.0.9")),
                5 | 6 => world.withdraw(node, prefix),
                7 | 8 => {
                    config.policy = [Policy::default(), Policy::accept_all()][dice.roll(2) as usize].clone();
                    world.input(node, Input::UpdatePeer(PeerId(other as u32), Box::new(config)));
                }
                9 => world.cut(node, other),
                10 => {
                    world.input(node, Input::RemovePeer(PeerId(other as u32)));
                    counts_are_those_of_a_walk(&world, &format!("seed {seed}, step {step}, removed"));
                    world.input(node, Input::AddPeer(PeerId(other as u32), Box::new(config)));
                }
                _ => {
                    world.kill(node);
                    counts_are_those_of_a_walk(&world, &format!("seed {seed}, step {step}, killed"));
                    let away = dice.roll(200_000);
                    world.run(away);
                    world.restart(node, restart_config());
                    world.input(node, Input::LocalRoutesComplete);
                }
            }
            let pause = dice.roll(5_000);
            world.run(pause);
            counts_are_those_of_a_walk(&world, &format!("seed {seed}, step {step}, {what}"));
            for told in world.nodes.iter().flat_map(|n| n.speaker.peers()) {
                let now = [told.received, told.rejected, told.stale];
                seen = std::array::from_fn(|i| seen[i] + now[i]);
            }
        }
    }
    assert!(seen.iter().all(|n| *n > 100), "too little happened: {seen:?}");
}
