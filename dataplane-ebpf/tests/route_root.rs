//! Routing through the pipeline: verdict, bytes and the change of every counter. Needs root.

mod rig;

use rig::{frames::*, *};
use watari_dataplane::{
    DropReason, Hook, MacKey, MacRemote, NeighKey, NeighRemote, Packet, PortKey, Prefix, Route, RouteOrigin,
    Verdict,
};

type Macs = ([u8; 6], [u8; 6]);
const TO_GATEWAY: Macs = (ANYCAST, HOST_A);

fn at(port: PortKey, frame: &[u8]) -> Packet<'_> {
    Packet::from_port(Hook::Trunk, port, frame)
}

fn core(frame: &[u8]) -> Packet<'_> {
    Packet::from_port(Hook::Core, CORE, frame)
}

fn node(frame: &[u8]) -> Packet<'_> {
    Packet::from_port(Hook::Node, NODES, frame)
}

fn heard(name: &str) -> Rig {
    let rig = Rig::new(name);
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.heard(A, L2, HOST_A, "fd00::10");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    rig.heard(C, L2_SECOND, HOST_C, "10.0.1.12");
    rig.heard(C, L2_SECOND, HOST_C, "fd00:0:0:1::12");
    rig
}

#[test]
fn root_the_gateways_own_addresses_go_to_the_namespace_as_they_are() {
    let rig = heard("own");
    for (dst, address) in [(ANYCAST, "10.0.0.1"), (ROUTER, "10.0.0.254")] {
        for hops in [64, 1] {
            let frame = udp((dst, HOST_A), ("10.0.0.10", address), hops, 30);
            let changes = [("100.10 rx", 1), ("9100 tx", 1), ("punted-own", 1)];
            let out = rig.expect(&at(A, &frame), Verdict::Port(CORE), &changes);
            assert_eq!(out, udp((CORE_MAC, ANYCAST), ("10.0.0.10", address), hops, 30));
        }
    }
    let frame = udp(TO_GATEWAY, ("fd00::10", "fd00::1"), 64, 30);
    let out = rig.expect(
        &at(A, &frame),
        Verdict::Port(CORE),
        &[("100.10 rx", 1), ("9100 tx", 1), ("punted-own", 1)],
    );
    assert_eq!(out, udp((CORE_MAC, ANYCAST), ("fd00::10", "fd00::1"), 64, 30));
}

#[test]
fn root_a_packet_to_another_segment_loses_a_hop_and_keeps_its_checksum() {
    let rig = heard("conn");
    for (from, to) in [("10.0.0.10", "10.0.1.12"), ("fd00::10", "fd00:0:0:1::12")] {
        let frame = udp(TO_GATEWAY, (from, to), 64, 30);
        let changes = [("100.10 rx", 1), ("102 tx", 1), ("routed", 1)];
        let out = rig.expect(&at(A, &frame), Verdict::Port(C), &changes);
        assert_eq!(out, udp((HOST_C, ANYCAST), (from, to), 63, 30));
    }
}

#[test]
fn root_the_last_hop_is_for_the_namespace_to_refuse() {
    let rig = heard("ttl");
    for hops in [0, 1] {
        let frame = udp(TO_GATEWAY, ("10.0.0.10", "10.0.1.12"), hops, 30);
        let changes = [("100.10 rx", 1), ("9100 tx", 1), ("punted-ttl", 1)];
        let out = rig.expect(&at(A, &frame), Verdict::Port(CORE), &changes);
        assert_eq!(out, udp((CORE_MAC, ANYCAST), ("10.0.0.10", "10.0.1.12"), hops, 30));
    }
}

#[test]
fn root_an_unknown_neighbour_is_asked_for() {
    let rig = heard("glean");
    let frame = udp(TO_GATEWAY, ("10.0.0.10", "10.0.1.99"), 64, 300);
    let asked = [("102 tx", 1), ("gleaned", 1), ("flood-copies", 1)];
    let (outcome, changes) = rig.run(&at(A, &frame));
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::NeighbourUnknown as u8));
    assert_eq!(outcome.frame, arp_request((ANYCAST, "10.0.1.1"), "10.0.1.99"));
    for (name, change) in asked {
        assert_eq!(changes[name], change, "{name}");
    }
    assert_eq!(changes["drop neighbour-unknown"], 1);
    let frame = udp(TO_GATEWAY, ("fd00::10", "fd00:0:0:1::99"), 64, 300);
    let outcome = rig.dataplane.run(&at(A, &frame)).unwrap();
    assert_eq!(outcome.frame, solicit((ANYCAST, "fd00:0:0:1::1"), "fd00:0:0:1::99"));
    // In the sender's own segment it is asked for on all sides, but not from VXLAN to VXLAN.
    let frame = udp(TO_GATEWAY, ("10.0.0.10", "10.0.0.99"), 64, 30);
    let (_, changes) = rig.run(&at(A, &frame));
    assert_eq!(changes["flood-copies"], 3);
    let frame = udp((ROUTER, FAR_ROUTER), ("10.9.0.1", "10.0.0.99"), 64, 30);
    let (_, changes) = rig.run(&Packet::from_vtep(VXLAN.ifindex, L3, FAR, &frame));
    assert_eq!(changes["flood-copies"], 2);
}

#[test]
fn root_a_remote_prefix_goes_by_the_l3vni_with_both_router_macs() {
    let rig = heard("remote");
    for (from, to) in [("10.0.0.10", "10.9.1.1"), ("fd00::10", "fd09::1")] {
        let frame = udp(TO_GATEWAY, (from, to), 64, 30);
        let changes = [("100.10 rx", 1), ("9000 tx", 1), ("routed", 1)];
        let out = rig.expect(&at(A, &frame), Verdict::Vtep { vni: L3, vtep: FAR }, &changes);
        assert_eq!(out, udp((FAR_ROUTER, ROUTER), (from, to), 63, 30));
    }
}

#[test]
fn root_what_comes_by_the_l3vni_is_delivered_but_never_sent_on_to_the_mesh() {
    let rig = heard("l3in");
    fn far(frame: &[u8]) -> Packet<'_> {
        Packet::from_vtep(VXLAN.ifindex, L3, FAR, frame)
    }
    let frame = udp((ROUTER, FAR_ROUTER), ("10.9.0.1", "10.0.1.12"), 64, 30);
    let out = rig.expect(&far(&frame), Verdict::Port(C), &[("9000 rx", 1), ("102 tx", 1), ("routed", 1)]);
    assert_eq!(out, udp((HOST_C, ANYCAST), ("10.9.0.1", "10.0.1.12"), 63, 30));
    let frame = udp((ROUTER, FAR_ROUTER), ("10.9.0.1", "192.168.7.7"), 64, 30);
    rig.expect(&far(&frame), Verdict::Port(CORE), &[("9000 rx", 1), ("9100 tx", 1), ("exited", 1)]);
    for to in ["10.9.3.3", "10.0.0.18"] {
        let frame = udp((ROUTER, FAR_ROUTER), ("10.9.0.1", to), 64, 30);
        rig.expect_drop(&far(&frame), DropReason::MeshToMesh, &[]);
    }
    let frame = udp((HOST_A, FAR_ROUTER), ("10.9.0.1", "10.0.1.12"), 64, 30);
    rig.expect_drop(&far(&frame), DropReason::WrongVni, &[]);
}

#[test]
fn root_exits_blackholes_and_the_unknown() {
    let rig = heard("exit");
    let frame = udp(TO_GATEWAY, ("10.0.0.10", "192.168.7.7"), 64, 30);
    let out =
        rig.expect(&at(A, &frame), Verdict::Port(CORE), &[("100.10 rx", 1), ("9100 tx", 1), ("exited", 1)]);
    assert_eq!(out, udp((CORE_MAC, ANYCAST), ("10.0.0.10", "192.168.7.7"), 64, 30));
    for (to, reason) in [
        ("203.0.113.9", DropReason::Blackhole),
        ("8.8.8.8", DropReason::NoRoute),
        ("224.0.0.251", DropReason::MulticastNotRouted),
    ] {
        let frame = udp(TO_GATEWAY, ("10.0.0.10", to), 64, 30);
        rig.expect_drop(&at(A, &frame), reason, &[]);
    }
    let frame = udp(TO_GATEWAY, ("127.0.0.1", "10.0.1.12"), 64, 30);
    rig.expect_drop(&at(A, &frame), DropReason::SourceIpInvalid, &[]);
    let frame = ethernet(ANYCAST, HOST_A, 0x9000, &[0; 50]);
    rig.expect_drop(&at(A, &frame), DropReason::NotRoutable, &[]);
}

#[test]
fn root_a_tenant_without_a_namespace_or_route_of_its_own_gets_nothing_of_anothers() {
    let rig = heard("other");
    let frame = udp(TO_GATEWAY, ("10.0.0.10", "10.0.1.12"), 64, 30);
    let other = at(OTHER, &frame);
    rig.expect_drop(&other, DropReason::NoRoute, &[("mac-learnt", 1)]);
    let exit = Route::exit(RouteOrigin::Bgp);
    rig.dataplane.routes.upsert(&Prefix::new(2, ip("0.0.0.0"), 0).unwrap(), &exit).unwrap();
    rig.expect_drop(&other, DropReason::NoCore, &[]);
}

#[test]
fn root_the_namespace_sends_with_the_mac_of_its_address_and_loses_no_hop() {
    let rig = heard("core");
    let from_core = (ANYCAST, CORE_MAC);
    for (from, src) in [("10.0.0.1", ANYCAST), ("10.0.0.254", ROUTER), ("192.168.7.7", ANYCAST)] {
        let frame = udp(from_core, (from, "10.0.0.11"), 1, 30);
        let out = rig.expect(&core(&frame), Verdict::Port(B), &[("9100 rx", 1), ("101.20 tx", 1)]);
        assert_eq!(out, udp((HOST_B, src), (from, "10.0.0.11"), 1, 30));
    }
    let frame = udp(from_core, ("192.168.7.7", "10.9.0.1"), 9, 30);
    let out =
        rig.expect(&core(&frame), Verdict::Vtep { vni: L3, vtep: FAR }, &[("9100 rx", 1), ("9000 tx", 1)]);
    assert_eq!(out, udp((FAR_ROUTER, ROUTER), ("192.168.7.7", "10.9.0.1"), 9, 30));
    let frame = udp(from_core, ("10.0.0.254", "10.0.0.18"), 9, 30);
    let out =
        rig.expect(&core(&frame), Verdict::Vtep { vni: L2, vtep: FAR }, &[("9100 rx", 1), ("9000 tx", 1)]);
    assert_eq!(out, udp((HOST_R, ROUTER), ("10.0.0.254", "10.0.0.18"), 9, 30));
    for to in ["192.168.1.1", "10.0.0.1"] {
        let frame = udp(from_core, ("10.0.0.254", to), 64, 30);
        rig.expect_drop(&core(&frame), DropReason::CoreLoop, &[]);
    }
}

#[test]
fn root_a_node_speaks_for_itself_only_and_is_a_host_of_its_segment() {
    let rig = heard("node");
    let bare = ([0; 6], [0; 6]);
    let frame = udp(bare, ("10.0.0.77", "10.0.0.10"), 64, 30);
    let out = rig.expect(&node(&frame), Verdict::Port(A), &[("9200 rx", 1), ("100.10 tx", 1)]);
    assert_eq!(out, udp((HOST_A, NODE_MAC), ("10.0.0.77", "10.0.0.10"), 64, 30));
    let frame = udp(bare, ("10.0.0.77", "10.0.0.18"), 64, 30);
    let out =
        rig.expect(&node(&frame), Verdict::Vtep { vni: L2, vtep: FAR }, &[("9200 rx", 1), ("9000 tx", 1)]);
    assert_eq!(out, udp((HOST_R, NODE_MAC), ("10.0.0.77", "10.0.0.18"), 64, 30));
    let frame = udp(bare, ("10.0.0.77", "10.0.1.12"), 64, 30);
    let changes = [("9200 rx", 1), ("102 tx", 1), ("routed", 1)];
    let out = rig.expect(&node(&frame), Verdict::Port(C), &changes);
    assert_eq!(out, udp((HOST_C, ANYCAST), ("10.0.0.77", "10.0.1.12"), 63, 30));
    for from in ["10.0.0.78", "10.0.0.10", "8.8.8.8"] {
        let frame = udp(bare, (from, "10.0.0.10"), 64, 30);
        rig.expect_drop(&node(&frame), DropReason::SourceIpUnknown, &[]);
    }
    let to_core = udp(bare, ("10.0.0.77", "10.0.0.1"), 64, 30);
    rig.expect(&node(&to_core), Verdict::Port(CORE), &[("9200 rx", 1), ("9100 tx", 1), ("punted-own", 1)]);
}

#[test]
fn root_a_node_is_reached_by_its_mac_from_the_segment_and_by_route_from_elsewhere() {
    let rig = heard("tonode");
    let frame = udp((NODE_MAC, HOST_A), ("10.0.0.10", "10.0.0.77"), 64, 30);
    let out = rig.expect(&at(A, &frame), Verdict::Port(NODES), &[("100.10 rx", 1), ("9200 tx", 1)]);
    assert_eq!(out, frame);
    let far = Packet::from_vtep(VXLAN.ifindex, L2, FAR, &frame);
    let mut frame_far = frame.clone();
    frame_far[6..12].copy_from_slice(&HOST_R);
    let far = Packet { frame: &frame_far, ..far };
    rig.expect(&far, Verdict::Port(NODES), &[("9000 rx", 1), ("9200 tx", 1)]);
    let frame = udp((ANYCAST, HOST_C), ("10.0.1.12", "10.0.0.77"), 64, 30);
    let packet = Packet::from_port(Hook::Interface, C, &frame);
    let out = rig.expect(&packet, Verdict::Port(NODES), &[("102 rx", 1), ("9200 tx", 1), ("routed", 1)]);
    assert_eq!(out[14..], udp((ANYCAST, HOST_C), ("10.0.1.12", "10.0.0.77"), 63, 30)[14..]);
    let frame = udp((ANYCAST, CORE_MAC), ("10.0.0.1", "10.0.0.77"), 64, 30);
    rig.expect(&core(&frame), Verdict::Port(NODES), &[("9100 rx", 1), ("9200 tx", 1)]);
    let frame = ethernet(NODE_MAC, HOST_A, 0x9000, &[0; 50]);
    rig.expect_drop(&at(A, &frame), DropReason::NotRoutable, &[]);
}

#[test]
fn root_headers_that_contradict_themselves_are_dropped() {
    let rig = heard("malformed");
    let good = udp(TO_GATEWAY, ("10.0.0.10", "10.0.1.12"), 64, 30);
    for (offset, value) in [(14, 0x44), (14, 0x65), (16, 0xff), (17, 0x10)] {
        let mut frame = good.clone();
        frame[offset] = value;
        rig.expect_drop(&at(A, &frame), DropReason::Malformed, &[]);
    }
    let mut frame = udp(TO_GATEWAY, ("fd00::10", "fd00:0:0:1::12"), 64, 30);
    frame[18] = 0xff;
    rig.expect_drop(&at(A, &frame), DropReason::Malformed, &[]);
}

#[test]
fn root_without_a_vxlan_device_nothing_is_sent_to_a_gateway() {
    let rig = heard("novx");
    let mut config = rig.dataplane.config().unwrap();
    config.vxlan_ifindex = 0;
    rig.dataplane.set_config(&config).unwrap();
    let frame = ethernet(HOST_R, HOST_A, 0x9000, &[0; 50]);
    rig.expect_drop(&at(A, &frame), DropReason::NoVxlan, &[]);
    // The entries stay as the syncer wrote them.
    assert!(rig.dataplane.mac_remote.entries().unwrap().contains_key(&MacKey::new(L2, HOST_R)));
    let _ = (MacRemote::STICKY, NeighRemote::ROUTER, NeighKey::new(L2, ip("::1")));
}
