//! What does not fit to a far gateway: segment sizes, ICMP errors and fragments, byte by byte. Needs root.
//!
//! A checksum that is still to be written cannot be made in a test run: `mtu_netns_root.rs` has it, and super-frames of real
//! streams.

mod rig;

use rig::{frames::*, *};
use watari_dataplane::*;

const MTU: u16 = 1370;
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const V4: (&str, &str) = ("10.0.0.10", "10.0.0.18");
const V6: (&str, &str) = ("fd00::10", "fd00::18");
const OUT: &[(&str, i128)] = &[("100.10 rx", 1), ("9000 tx", 1)];
const TO_FAR: Verdict = Verdict::Vtep { vni: L2, vtep: FAR };
/// Timestamps and the permission of selective acknowledgements, as Linux has them behind the segment size.
const USUAL: &[u8] = &[4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];

fn scene(name: &str) -> Rig {
    let rig = Rig::new(name);
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.dataplane.remotes.upsert(&FAR, &Remote { mtu: MTU, flags: 0, pad: 0 }).unwrap();
    rig
}

/// A TCP packet with right checksums. `options` are a multiple of four bytes.
fn tcp(macs: ([u8; 6], [u8; 6]), addresses: (&str, &str), flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let offset = ((5 + options.len() / 4) as u8) << 4;
    let mut segment = [&[0x9c, 0x40, 0, 80][..], &[7; 4], &[9; 4], &[offset, flags, 0xff, 0xff, 0, 0, 0, 0]]
        .into_iter()
        .chain([options, data])
        .collect::<Vec<_>>()
        .concat();
    let mut frame = udp_to(macs, addresses, 64, 80, &segment);
    // The datagram's place and protocol become the segment's.
    let header = if addresses.0.contains(':') { 54 } else { 34 };
    frame.truncate(header);
    let length = (segment.len() as u16).to_be_bytes();
    let pseudo = if header == 54 {
        frame[18..20].copy_from_slice(&length);
        frame[20] = 6;
        [&frame[22..54], &[0, 0], &length, &[0, 0, 0, 6]].concat()
    } else {
        frame[16..18].copy_from_slice(&(segment.len() as u16 + 20).to_be_bytes());
        frame[23] = 6;
        frame[24..26].fill(0);
        let sum = checksum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        [&frame[26..34], &[0, 6], &length].concat()
    };
    let sum = checksum(&[&pseudo, &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    [frame, segment].concat()
}

fn option(size: u16) -> Vec<u8> {
    [&[2, 4][..], &size.to_be_bytes()].concat()
}

/// Ways to lay out the options around a segment size.
fn layouts(size: u16) -> Vec<Vec<u8>> {
    let size = option(size);
    vec![
        size.clone(),
        [&size, USUAL].concat(),
        [USUAL, &size].concat(),
        // At an odd place: its bytes lie in two words of the checksum.
        [&[1][..], &size, &[1, 1, 0]].concat(),
        [&[3, 3, 7][..], &size, &[0]].concat(),
        // The last four of forty bytes.
        [&[1; 36][..], &size].concat(),
        [&[254, 36][..], &[0x22; 34], &size].concat(),
    ]
}

#[test]
fn root_the_segment_size_is_lowered_on_the_way_out_and_the_checksum_stays_right() {
    let rig = scene("mss");
    let data = vec![0x33; 301];
    for (addresses, limit) in [(V4, MTU - 40), (V6, MTU - 60)] {
        for flags in [SYN, SYN_ACK] {
            for data in [&[][..], &data] {
                for (before, after) in layouts(1460).iter().zip(layouts(limit)) {
                    let frame = tcp((HOST_R, HOST_A), addresses, flags, before, data);
                    let wanted = tcp((HOST_R, HOST_A), addresses, flags, &after, data);
                    let packet = Packet::from_port(Hook::Trunk, A, &frame);
                    let changes = [OUT, &[("mss-clamped", 1)]].concat();
                    assert_eq!(rig.expect(&packet, TO_FAR, &changes), wanted, "{addresses:?} {before:?}");
                }
            }
        }
    }
}

#[test]
fn root_what_needs_no_lower_segment_size_is_left_alone() {
    let rig = scene("mssno");
    let none = [USUAL, &[1, 1, 1, 1]].concat();
    let untold = |options: &[u8], flags| tcp((HOST_R, HOST_A), V4, flags, options, &[1; 9]);
    for frame in [
        untold(&[], SYN),
        untold(&none, SYN),
        untold(&option(MTU - 40), SYN),
        untold(&option(536), SYN_ACK),
        untold(&option(1460), ACK),
        // Options that contradict themselves: a length of none, an end before, one that leads out of the header.
        untold(&[&[7, 0][..], &option(1460), &[0, 0]].concat(), SYN),
        untold(&[&[0; 4][..], &option(1460)].concat(), SYN),
        untold(&[&[7, 200][..], &option(1460), &[0, 0]].concat(), SYN),
        untold(&[2, 3, 0xff, 0], SYN),
    ] {
        let packet = Packet::from_port(Hook::Trunk, A, &frame);
        assert_eq!(rig.expect(&packet, TO_FAR, OUT), frame);
    }
    // A header that ends too early, by its own word or with the packet.
    let mut short = untold(&option(1460), SYN);
    short[34 + 12] = 0xf0;
    let packet = Packet::from_port(Hook::Trunk, A, &short);
    rig.expect(&packet, TO_FAR, &[OUT, &[("mss-clamped", 1)]].concat());
    let cut = &short[..48];
    assert_eq!(rig.expect(&Packet::from_port(Hook::Trunk, A, cut), TO_FAR, OUT), cut);
}

#[test]
fn root_extension_headers_do_not_hide_a_syn() {
    let rig = scene("ext");
    let extended = |size: u16| {
        let plain = tcp((HOST_R, HOST_A), V6, SYN, &option(size), &[]);
        let mut frame = plain[..54].to_vec();
        frame[20] = 0;
        frame[18..20].copy_from_slice(&(plain.len() as u16 - 54 + 24).to_be_bytes());
        // Hop by hop (8 bytes), then options for the destination (16 bytes), padded.
        frame.extend([60, 0, 1, 4, 0, 0, 0, 0]);
        frame.extend([&[6, 1, 1, 12][..], &[0; 12]].concat());
        [&frame, &plain[54..]].concat()
    };
    let frame = extended(1440);
    let packet = Packet::from_port(Hook::Trunk, A, &frame);
    let changes = [OUT, &[("mss-clamped", 1)]].concat();
    assert_eq!(rig.expect(&packet, TO_FAR, &changes), extended(MTU - 60));
}

#[test]
fn root_a_syn_from_a_far_gateway_is_lowered_as_well() {
    let rig = scene("msslocal");
    for (addresses, limit) in [(("10.0.0.18", "10.0.0.10"), MTU - 40), (("fd00::18", "fd00::10"), MTU - 60)] {
        let frame = tcp((HOST_A, HOST_R), addresses, SYN_ACK, &option(1460), &[]);
        let wanted = tcp((HOST_A, HOST_R), addresses, SYN_ACK, &option(limit), &[]);
        let packet = Packet::from_vtep(VXLAN.ifindex, L2, FAR, &frame);
        let changes = [("9000 rx", 1), ("100.10 tx", 1), ("mss-clamped", 1)];
        assert_eq!(rig.expect(&packet, Verdict::Port(A), &changes), wanted);
    }
    // Nothing is known of the way to this gateway.
    rig.dataplane.remotes.remove(&FAR).unwrap();
    let frame = tcp((HOST_A, HOST_R), ("10.0.0.18", "10.0.0.10"), SYN, &option(1460), &[]);
    let packet = Packet::from_vtep(VXLAN.ifindex, L2, FAR, &frame);
    let out = rig.expect(&packet, Verdict::Port(A), &[("9000 rx", 1), ("100.10 tx", 1)]);
    assert_eq!(out, frame);
}

/// The ICMP error about `frame`, from `speaker` to its sender.
fn error(frame: &[u8], macs: ([u8; 6], [u8; 6]), speaker: &str) -> Vec<u8> {
    match ip(speaker) {
        std::net::IpAddr::V4(speaker) => {
            let mut message = [&[3, 4, 0, 0, 0, 0][..], &MTU.to_be_bytes(), &frame[14..14 + 148]].concat();
            let sum = checksum(&[&message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut header = [&[0x45, 0xc0, 0, 176, 0, 0, 0, 0, 64, 1, 0, 0][..], &speaker.octets()].concat();
            header.extend_from_slice(&frame[26..30]);
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            ethernet(macs.0, macs.1, 0x0800, &[header, message].concat())
        }
        std::net::IpAddr::V6(speaker) => {
            let mut message =
                [&[2, 0, 0, 0][..], &u32::from(MTU).to_be_bytes(), &frame[14..14 + 128]].concat();
            let addresses = [&speaker.octets()[..], &frame[22..38]].concat();
            let sum = checksum(&[&addresses, &[0, 0, 0, 136, 0, 0, 0, 58], &message]);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let header = [&[0x60, 0, 0, 0, 0, 136, 58, 64][..], &addresses].concat();
            ethernet(macs.0, macs.1, 0x86dd, &[header, message].concat())
        }
    }
}

const TOLD: &[(&str, i128)] =
    &[("100.10 rx", 1), ("100.10 tx", 1), ("100.10 drops", 1), ("drop too-big", 1), ("too-big-sent", 1)];

#[test]
fn root_who_sends_too_much_is_told_what_fits() {
    let rig = scene("big");
    for (addresses, headers) in [(V4, 28), (V6, 48)] {
        let fits = udp((HOST_R, HOST_A), addresses, 64, usize::from(MTU) - headers);
        assert_eq!(rig.expect(&Packet::from_port(Hook::Trunk, A, &fits), TO_FAR, OUT), fits);
        for payload in [usize::from(MTU) + 1 - headers, 1500 - headers, 3000 - headers] {
            let frame = udp((HOST_R, HOST_A), addresses, 64, payload);
            let packet = Packet::from_port(Hook::Trunk, A, &frame);
            let buckets = rig.dataplane.port_buckets.entries().unwrap();
            let before = rig.dump();
            assert_eq!(rig.dataplane.trace(&packet).unwrap().verdict, Verdict::Port(A));
            assert_eq!(rig.dump(), before, "a trace has changed something");
            assert_eq!(rig.dataplane.port_buckets.entries().unwrap(), buckets);
            let out = rig.expect(&packet, Verdict::Port(A), TOLD);
            assert_eq!(out, error(&frame, (HOST_A, HOST_R), addresses.1));
        }
    }
}

/// A super-frame of two segments of `segment` bytes each, behind headers that `head` makes for a payload.
#[track_caller]
fn super_frame(rig: &Rig, segment: u16, is_to_fit: bool, head: impl Fn(&[u8]) -> Vec<u8>) {
    let frame = head(&vec![0x44; 2 * usize::from(segment)]);
    let mut packet = Packet::from_port(Hook::Trunk, A, &frame);
    packet.gso_size = segment;
    // As long as nobody has counted its segments.
    let packets = frame.len().div_ceil(usize::from(segment)) as i128;
    if is_to_fit {
        let changes = [("100.10 rx", packets), ("9000 tx", packets)];
        assert_eq!(rig.expect(&packet, TO_FAR, &changes), frame, "{segment} bytes were changed");
        return;
    }
    let (outcome, changes) = rig.run(&packet);
    assert_eq!(outcome.verdict, Verdict::Port(A), "segments of {segment} bytes: {changes:?}");
    assert_eq!((changes["drop too-big"], changes["too-big-sent"]), (packets, 1));
    assert_eq!(outcome.frame.len(), 190, "the error alone");
}

#[test]
fn root_a_super_frame_counts_as_its_largest_segment_with_all_headers() {
    let rig = scene("super");
    for options in [0_usize, 12, 40] {
        for (addresses, ip_bytes) in [(V4, 20), (V6, 40)] {
            let headers = ip_bytes + 20 + options as u16;
            let head = |data: &[u8]| tcp((HOST_R, HOST_A), addresses, ACK, &vec![1; options], data);
            super_frame(&rig, MTU - headers, true, head);
            super_frame(&rig, MTU - headers + 1, false, head);
        }
    }
    for (addresses, ip_bytes) in [(V4, 20), (V6, 40)] {
        let head = |data: &[u8]| udp_to((HOST_R, HOST_A), addresses, 64, 80, data);
        super_frame(&rig, MTU - ip_bytes - 8, true, head);
        super_frame(&rig, MTU - ip_bytes - 7, false, head);
    }
    // An extension header is in each segment, before the TCP header.
    let extended = |data: &[u8]| {
        let mut frame = tcp((HOST_R, HOST_A), V6, ACK, &[1; 12], data);
        frame[20] = 60;
        let length = (frame.len() - 54 + 8) as u16;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        frame.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
        frame
    };
    super_frame(&rig, MTU - 40 - 8 - 32, true, extended);
    super_frame(&rig, MTU - 40 - 8 - 31, false, extended);
}

#[test]
fn root_whoever_was_routed_is_told_by_the_gateway_and_the_namespace_by_the_far_side() {
    let rig = scene("bigroute");
    for (addresses, gateway) in
        [(("10.0.0.10", "10.9.0.1"), "10.0.0.1"), (("fd00::10", "fd09::1"), "fd00::1")]
    {
        let frame = udp((ANYCAST, HOST_A), addresses, 64, 1400);
        let out = rig.expect(
            &Packet::from_port(Hook::Trunk, A, &frame),
            Verdict::Port(A),
            &[TOLD, &[("routed", 1)]].concat(),
        );
        // What is quoted has lost a hop here, with the header's checksum.
        let mut quoted = frame.clone();
        if gateway.contains(':') {
            quoted[21] -= 1;
        } else {
            quoted[22] -= 1;
            quoted[24..26].fill(0);
            let sum = checksum(&[&quoted[14..34]]);
            quoted[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        assert_eq!(out, error(&quoted, (HOST_A, ANYCAST), gateway));
    }
    let frame = udp((ANYCAST, CORE_MAC), ("10.0.0.254", "10.0.0.18"), 64, 1472);
    let out = rig.expect(
        &Packet::from_port(Hook::Core, CORE, &frame),
        Verdict::Port(CORE),
        &[("9100 rx", 1), ("9100 tx", 1), ("9100 drops", 1), ("drop too-big", 1), ("too-big-sent", 1)],
    );
    // The namespace would not believe a message from an address of its own.
    assert_eq!(out, error(&frame, (CORE_MAC, ANYCAST), "10.0.0.18"));
}

#[test]
fn root_nobody_is_told_who_must_not_be() {
    let rig = scene("bignot");
    let silent = |frame: &[u8]| {
        rig.expect_drop(&Packet::from_port(Hook::Trunk, A, frame), DropReason::TooBigSilent, &[])
    };
    let frame = udp((HOST_R, HOST_A), V4, 64, 1400);
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = frame.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    // A later fragment, senders and receivers that are no single host.
    silent(&with(20, &[0x40, 0x10]));
    silent(&with(26, &[0, 0, 0, 0]));
    silent(&with(26, &[127, 0, 0, 1]));
    silent(&with(26, &[224, 0, 0, 1]));
    silent(&with(30, &[239, 1, 1, 1]));
    for kind in [3, 4, 5, 11, 12] {
        let mut error = with(23, &[1]);
        error[34] = kind;
        silent(&error);
    }
    let six = udp((HOST_R, HOST_A), V6, 64, 1400);
    for kind in [1, 2, 3, 4, 127, 137] {
        let mut error = six.clone();
        (error[20], error[54]) = (58, kind);
        silent(&error);
    }
    for at in [22, 38] {
        let mut group = six.clone();
        group[at] = 0xff;
        silent(&group);
    }
    // Neither IPv4 nor IPv6: nobody could be told.
    silent(&ethernet(HOST_R, HOST_A, 0x9000, &[0; MTU as usize + 1]));
    let fits = ethernet(HOST_R, HOST_A, 0x9000, &[0; MTU as usize]);
    rig.expect(&Packet::from_port(Hook::Trunk, A, &fits), TO_FAR, OUT);
    // An echo request is no error.
    let mut echo = with(23, &[1]);
    echo[34] = 8;
    rig.expect(&Packet::from_port(Hook::Trunk, A, &echo), Verdict::Port(A), TOLD);
}

#[test]
fn root_errors_have_a_rate_for_each_port() {
    let rig = scene("bigrate");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let frame = udp((HOST_R, HOST_A), V4, 64, 1400);
    let packet = Packet::from_port(Hook::Trunk, A, &frame);
    for _ in 0..500 {
        rig.dataplane.run(&packet).unwrap();
    }
    let counters = rig.counters();
    let (told, silent) = (counters["too-big-sent"], counters["drop too-big-silent"]);
    assert_eq!((told + silent, counters["drop too-big"]), (500, told));
    // Fifty at once and a hundred a second, on however slow a machine.
    assert!(told >= 50 && silent > 0, "{told} told, {silent} not");
    let other = udp((HOST_R, HOST_B), V4, 64, 1400);
    let outcome = rig.dataplane.run(&Packet::from_port(Hook::Trunk, B, &other)).unwrap();
    assert_eq!(outcome.verdict, Verdict::Port(B));
}

#[test]
fn root_what_may_be_fragmented_is_left_to_be() {
    let rig = scene("frag");
    let mut frame = udp((HOST_R, HOST_A), V4, 64, 1472);
    frame[20] = 0;
    frame[24..26].fill(0);
    let sum = checksum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    let packet = Packet::from_port(Hook::Trunk, A, &frame);
    assert_eq!(rig.expect(&packet, TO_FAR, &[OUT, &[("fragmented", 1)]].concat()), frame);
    // Every link carries 1280 bytes of IPv6: more is told, and never less than that.
    rig.dataplane.remotes.upsert(&FAR, &Remote { mtu: 1200, flags: 0, pad: 0 }).unwrap();
    let least = udp((HOST_R, HOST_A), V6, 64, 1280 - 48);
    let packet = Packet::from_port(Hook::Trunk, A, &least);
    assert_eq!(rig.expect(&packet, TO_FAR, &[OUT, &[("fragmented", 1)]].concat()), least);
    let more = udp((HOST_R, HOST_A), V6, 64, 1281 - 48);
    let out = rig.expect(&Packet::from_port(Hook::Trunk, A, &more), Verdict::Port(A), TOLD);
    assert_eq!(out[58..62], 1280_u32.to_be_bytes());
    // Over an IPv6 underlay nothing is fragmented outside.
    let far = abi::ip_bytes(ip("2001:db8::2"));
    rig.dataplane.remotes.upsert(&far, &Remote { mtu: 1350, flags: 0, pad: 0 }).unwrap();
    let behind = MacRemote { vtep: far, flags: 0, sequence: 0 };
    rig.dataplane.mac_remote.upsert(&MacKey::new(L2, HOST_R), &behind).unwrap();
    let packet = Packet::from_port(Hook::Trunk, A, &frame);
    rig.expect_drop(&packet, DropReason::TooBigSilent, &[]);
}
