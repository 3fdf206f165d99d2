//! What must hold for every packet: a trace writes nothing, a cut frame harms nobody, and a datapath that was left
//! behind is adopted. Needs root.

mod rig;

use rig::{frames::*, *};
use watari_dataplane::{Adoption, Dataplane, DropReason, Hook, MacKey, Packet, PortKey, Verdict};

/// One of each kind, with the hook and port it comes by.
fn typical() -> Vec<(Hook, PortKey, u32, Vec<u8>)> {
    let gateway = (ANYCAST, HOST_A);
    let far = (ROUTER, FAR_ROUTER);
    let bare = ([0; 6], [0; 6]);
    let port = |hook, port, frame| (hook, port, 0, frame);
    vec![
        port(Hook::Trunk, A, ethernet(HOST_B, HOST_A, 0x9000, &[1; 50])),
        port(Hook::Trunk, A, ethernet(BROADCAST, HOST_A, 0x9000, &[1; 50])),
        port(Hook::Trunk, A, arp_request((HOST_A, "10.0.0.10"), "10.0.0.1")),
        port(Hook::Trunk, A, arp_request((HOST_A, "10.0.0.10"), "10.0.0.99")),
        port(Hook::Trunk, A, solicit((HOST_A, "fd00::10"), "fd00::1")),
        port(Hook::Trunk, A, solicit((HOST_A, "::"), "fd00::1")),
        port(Hook::Trunk, A, udp(gateway, ("10.0.0.10", "10.0.1.12"), 64, 100)),
        port(Hook::Trunk, A, udp(gateway, ("10.0.0.10", "10.0.1.99"), 64, 100)),
        port(Hook::Trunk, A, udp(gateway, ("10.0.0.10", "10.9.0.1"), 64, 100)),
        port(Hook::Trunk, A, udp(gateway, ("10.0.0.10", "192.168.0.1"), 64, 100)),
        port(Hook::Trunk, A, udp(gateway, ("fd00::10", "fd00:0:0:1::99"), 64, 100)),
        port(Hook::Trunk, A, udp(gateway, ("fd00::10", "fd09::1"), 64, 100)),
        port(Hook::Trunk, WIRE, arp_request((HOST_A, "198.51.100.2"), "198.51.100.1")),
        port(Hook::Trunk, WIRE, solicit((HOST_A, "2001:db8::2"), "2001:db8::1")),
        port(Hook::Cross, WIRE_END, udp((HOST_A, WIRE_MAC), ("198.51.100.1", "198.51.100.2"), 64, 20)),
        port(Hook::Interface, C, udp((ANYCAST, HOST_C), ("10.0.1.12", "10.0.0.10"), 64, 20)),
        port(Hook::Core, CORE, udp((ANYCAST, CORE_MAC), ("10.0.0.1", "10.0.0.10"), 64, 20)),
        port(Hook::Node, NODES, udp(bare, ("10.0.0.77", "10.0.0.10"), 64, 20)),
        port(
            Hook::Tunnel,
            TUNNEL,
            udp_to((HOST_A, HOST_B), ("10.255.0.2", "10.255.0.1"), 64, 4789, &[0; 60]),
        ),
        port(
            Hook::Uplink,
            TUNNEL,
            udp_to((HOST_A, HOST_B), ("10.255.0.2", "10.255.0.1"), 64, 4789, &[0; 60]),
        ),
        (Hook::Vxlan, VXLAN, L2, ethernet(HOST_A, HOST_R, 0x9000, &[1; 50])),
        (Hook::Vxlan, VXLAN, L2, arp_request((HOST_R, "10.0.0.18"), "10.0.0.10")),
        (Hook::Vxlan, VXLAN, L3, udp(far, ("10.9.0.1", "10.0.1.12"), 64, 100)),
    ]
}

fn packet<'a>((hook, port, vni, _): &(Hook, PortKey, u32, Vec<u8>), frame: &'a [u8]) -> Packet<'a> {
    match hook {
        Hook::Vxlan => Packet::from_vtep(VXLAN.ifindex, *vni, FAR, frame),
        _ => Packet::from_port(*hook, *port, frame),
    }
}

fn heard(name: &str) -> Rig {
    let rig = Rig::new(name);
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    rig.heard(C, L2_SECOND, HOST_C, "10.0.1.12");
    rig
}

#[test]
fn root_a_trace_says_what_would_happen_and_writes_nothing() {
    let rig = heard("trace");
    for one in typical() {
        let packet = packet(&one, &one.3);
        rig.drain_events();
        let before = rig.dump();
        let traced = rig.dataplane.trace(&packet).unwrap();
        assert_eq!(rig.dump(), before, "{one:?}");
        let real = rig.dataplane.run(&packet).unwrap();
        assert_eq!(traced.verdict, real.verdict, "{one:?}");
        assert_eq!(traced.frame, real.frame, "{one:?}");
    }
    // Also for what would be learnt, and for a bucket that does not exist yet.
    let strange = ethernet(BROADCAST, [2, 7, 7, 7, 7, 7], 0x9000, &[0; 50]);
    rig.drain_events();
    let before = rig.dump();
    rig.dataplane.trace(&Packet::from_port(Hook::Trunk, OTHER, &strange)).unwrap();
    assert_eq!(rig.dump(), before);
}

#[test]
fn root_a_frame_cut_anywhere_is_handled_and_never_leaves_its_tenant() {
    let rig = heard("cut");
    for one in typical() {
        for length in 14..=one.3.len() {
            // The kernel may refuse a test run with an IP header cut in the middle; the program never sees it.
            let Ok(outcome) = rig.dataplane.run(&packet(&one, &one.3[..length])) else { continue };
            match outcome.verdict {
                Verdict::Port(port) => assert!(
                    [A, B, C, CORE, NODES, WIRE, WIRE_END].contains(&port),
                    "{one:?} cut at {length}: {port:?}"
                ),
                Verdict::Vtep { vni, vtep } => assert!([L2, L3].contains(&vni) && vtep == FAR),
                Verdict::Flooded { copies } => assert!(copies <= 3),
                _ => {}
            }
        }
    }
    let counters = rig.counters();
    assert_eq!((counters.get("101.31 tx"), counters["drop stage-missing"]), (None, 0));
    assert!(counters["drop malformed"] > 100);
    for key in rig.dataplane.mac_local.entries().unwrap().keys() {
        assert!([L2, L2_SECOND].contains(&key.vni), "{key:?}");
    }
}

#[test]
fn root_random_bytes_in_typical_frames_never_reach_another_tenant() {
    let rig = heard("fuzz");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    for one in typical() {
        for _ in 0..200 {
            let mut frame = one.3.clone();
            for _ in 0..1 + random() % 4 {
                let at = random() % frame.len();
                frame[at] = random() as u8;
            }
            let Ok(outcome) = rig.dataplane.run(&packet(&one, &frame)) else { continue };
            if let Verdict::Port(port) = outcome.verdict {
                assert!(port != OTHER && port != OTHER_B, "{one:?}: {frame:02x?}");
            }
        }
    }
}

#[test]
fn root_a_datapath_left_behind_is_adopted_as_it_is() {
    let rig = heard("adopt");
    assert_eq!(*rig.dataplane.adoption(), Adoption::Fresh);
    let before = rig.dump();
    let again = Dataplane::open(&rig.folder).unwrap();
    assert_eq!(*again.adoption(), Adoption::Adopted);
    assert_eq!(rig.dump(), before);
    let frame = ethernet(HOST_B, HOST_A, 0x9000, &[0; 50]);
    let outcome = again.run(&Packet::from_port(Hook::Trunk, A, &frame)).unwrap();
    assert_eq!(outcome.verdict, Verdict::Port(B));
}

#[test]
fn root_other_programs_are_replaced_and_tables_kept() {
    let rig = heard("replace");
    let before = rig.dataplane.mac_local.entries().unwrap();
    std::fs::remove_file(rig.folder.join("wtp-trunk")).unwrap();
    let again = Dataplane::open(&rig.folder).unwrap();
    assert_eq!(*again.adoption(), Adoption::Replaced);
    assert_eq!(again.mac_local.entries().unwrap(), before);
    assert_eq!(*Dataplane::open(&rig.folder).unwrap().adoption(), Adoption::Adopted);
}

#[test]
fn root_tables_of_another_layout_are_made_anew() {
    let rig = heard("layout");
    std::fs::remove_file(rig.folder.join("wtm-layout")).unwrap();
    let again = Dataplane::open(&rig.folder).unwrap();
    assert_eq!(*again.adoption(), Adoption::Recreated);
    assert!(again.mac_local.entries().unwrap().is_empty() && again.ports.entries().unwrap().is_empty());
    assert_eq!(*Dataplane::open(&rig.folder).unwrap().adoption(), Adoption::Adopted);
    again.remove().unwrap();
    assert!(!rig.folder.exists());
}

#[test]
fn root_a_look_opens_what_would_be_adopted_and_makes_nothing() {
    let rig = heard("look");
    let seen = Dataplane::open_existing(&rig.folder).unwrap().expect("it would be adopted");
    assert_eq!(*seen.adoption(), Adoption::Adopted);
    assert_eq!(seen.ports.entries().unwrap(), rig.dataplane.ports.entries().unwrap());

    let program = rig.folder.join("wtp-trunk");
    std::fs::remove_file(&program).unwrap();
    assert!(Dataplane::open_existing(&rig.folder).unwrap().is_none());
    assert!(!program.exists(), "it was replaced");

    let nowhere = rig.folder.with_extension("none");
    assert!(Dataplane::open_existing(&nowhere).unwrap().is_none());
    assert!(!nowhere.exists());
}

#[test]
fn root_handles_read_back_what_was_written() {
    let rig = heard("handles");
    let d = &rig.dataplane;
    let key = MacKey::new(L2, HOST_A);
    assert!(d.mac_local.remove(&key).unwrap());
    assert!(!d.mac_local.remove(&key).unwrap());
    assert_eq!(d.mac_local.get(&key).unwrap(), None);
    let (prefix, route) = d.routes.entries().unwrap().into_iter().next().unwrap();
    assert_eq!(d.routes.lookup(1, prefix.address()).unwrap(), Some(route));
    assert_eq!(d.routes.lookup(9, prefix.address()).unwrap(), None);
    assert!(d.routes.remove(&prefix).unwrap());
    assert!(!d.routes.remove(&prefix).unwrap());
    let frame = ethernet(HOST_A, HOST_A, 0x88cc, &[0; 50]);
    let packet = Packet::from_port(Hook::Trunk, A, &frame);
    rig.expect_drop(&packet, DropReason::LinkLocalProtocol, &[]);
    assert!(d.stats.forget_port(&A).unwrap());
    assert_eq!(d.stats.port(&A).unwrap(), Default::default());
}

/// What the verifier looks at to load each program: a quarter of its limit at most, so that another kernel or
/// compiler that sees more states still loads it.
#[test]
fn root_the_verifier_has_room_for_every_program() {
    const LIMIT: u32 = 250_000;
    let rig = Rig::bare("room");
    let mut programs = 0;
    for entry in std::fs::read_dir(&rig.folder).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("wtp-") {
            let info = aya::programs::ProgramInfo::from_pin(entry.path()).unwrap();
            let seen = info.verified_instruction_count().expect("told since Linux 5.16");
            println!("{name}: {seen}");
            assert!(seen < LIMIT, "{name}: {seen}");
            programs += 1;
        }
    }
    assert!(programs > 10, "{programs}");
}
