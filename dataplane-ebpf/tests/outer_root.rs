//! What stands before VXLAN at the hooks of tunnels and uplinks: fragments and chains of IPv6 extension headers, as the
//! kernel takes them to its VXLAN socket. Needs root. Real fragments, put together: `mtu_netns_root.rs`.

mod rig;

use rig::{frames::*, *};
use watari_dataplane::*;

const UPLINK: PortKey = PortKey::untagged(9500);
const OTHER_TUNNEL: PortKey = PortKey::untagged(9401);
const VTEPS: (&str, &str) = ("2001:db8::2", "2001:db8::1");
const STRANGER: &str = "2001:db8::9";
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// More fragments follow.
const MORE: u16 = 1;

/// Far gateways over both families, behind the tunnel.
fn scene(name: &str) -> Rig {
    let rig = Rig::new(name);
    let d = &rig.dataplane;
    let mut config = d.config().unwrap();
    config.local_vtep = abi::ip_bytes(ip(VTEPS.1));
    d.set_config(&config).unwrap();
    for vtep in [FAR, abi::ip_bytes(ip(VTEPS.0))] {
        d.vteps.upsert(&TunnelKey { ifindex: TUNNEL.ifindex, vtep }, &1).unwrap();
        d.remotes.upsert(&vtep, &Remote { mtu: 1350, flags: 0, pad: 0 }).unwrap();
    }
    rig
}

/// One extension header and its kind.
type Extension = (u8, Vec<u8>);

fn fragment(offset: u16, flags: u16) -> Extension {
    (FRAGMENT, [&[0, 0][..], &(offset | flags).to_be_bytes(), &[0, 0, 0, 7]].concat())
}

fn options(kind: u8, eights: u8) -> Extension {
    let mut header = vec![0; usize::from(eights) * 8];
    header[1] = eights - 1;
    header[2..4].copy_from_slice(&[1, eights * 8 - 4]);
    (kind, header)
}

fn routing() -> Extension {
    (ROUTING, vec![0, 0, 4, 0, 0, 0, 0, 0])
}

fn authentication() -> Extension {
    (AUTHENTICATION, [&[0, 4][..], &[0; 22]].concat())
}

/// UDP over IPv6 to `port` with a chain of extension headers, and `upper` for its protocol.
fn behind(chain: &[Extension], addresses: (&str, &str), upper: u8, port: u16) -> Vec<u8> {
    let mut frame = udp_to((HOST_A, HOST_R), addresses, 64, port, &[0x55; 40]);
    let datagram = frame.split_off(54);
    let mut place = 20;
    for (kind, header) in chain {
        frame[place] = *kind;
        place = frame.len();
        frame.extend_from_slice(header);
    }
    frame[place] = upper;
    frame.extend_from_slice(&datagram);
    let length = (frame.len() - 54) as u16;
    frame[18..20].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Chains that lead to a UDP header.
fn chains() -> Vec<Vec<Extension>> {
    vec![
        vec![fragment(0, MORE)],
        vec![fragment(0, 0)],
        vec![options(HOP_BY_HOP, 1)],
        vec![options(DESTINATION, 3)],
        vec![routing()],
        vec![authentication()],
        vec![
            options(HOP_BY_HOP, 2),
            options(DESTINATION, 1),
            routing(),
            fragment(0, MORE),
            options(DESTINATION, 2),
        ],
    ]
}

#[track_caller]
fn passes(rig: &Rig, hook: Hook, port: PortKey, frame: &[u8]) {
    rig.expect(&Packet::from_port(hook, port, frame), Verdict::None, &[]);
}

#[track_caller]
fn dropped(rig: &Rig, hook: Hook, port: PortKey, frame: &[u8], reason: DropReason) {
    let changes = [(format!("drop {}", reason.name()), 1), (format!("{} drops", port_name(&port)), 1)];
    let changes: Vec<_> = changes.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    rig.expect(&Packet::from_port(hook, port, frame), Verdict::Drop(reason as u8), &changes);
}

#[test]
fn root_a_chain_of_headers_hides_no_vxlan() {
    let rig = scene("chain");
    for chain in chains() {
        let kinds: Vec<_> = chain.iter().map(|(kind, _)| kind).collect();
        println!("{kinds:?}");
        let right = behind(&chain, VTEPS, UDP, 4789);
        let wrong = behind(&chain, (STRANGER, VTEPS.1), UDP, 4789);
        let tunnel = Packet::from_port(Hook::Tunnel, TUNNEL, &right);
        rig.expect(&tunnel, Verdict::None, &[("tunnel-accepted", 1)]);
        dropped(&rig, Hook::Tunnel, TUNNEL, &wrong, DropReason::VtepNotBound);
        dropped(&rig, Hook::Tunnel, OTHER_TUNNEL, &right, DropReason::VtepNotBound);
        for frame in [&right, &wrong] {
            dropped(&rig, Hook::Uplink, UPLINK, frame, DropReason::VxlanOnUplink);
        }
        for frame in [behind(&chain, VTEPS, UDP, 443), behind(&chain, VTEPS, TCP, 4789)] {
            passes(&rig, Hook::Tunnel, TUNNEL, &frame);
            passes(&rig, Hook::Uplink, UPLINK, &frame);
        }
    }
}

#[test]
fn root_a_later_fragment_of_a_vtep_comes_out_of_its_tunnel() {
    let rig = scene("later");
    // Of IPv6 the protocol of a later fragment says nothing, and headers may stand before the fragment's own.
    let later = |from: &str, upper| behind(&[fragment(1232, 0)], (from, VTEPS.1), upper, 4789);
    let deeper = |from: &str| {
        behind(
            &[options(HOP_BY_HOP, 1), options(DESTINATION, 1), fragment(1232, MORE)],
            (from, VTEPS.1),
            UDP,
            9,
        )
    };
    let four = |from: &str| {
        let mut frame = udp_to((HOST_A, HOST_R), (from, "10.255.0.1"), 64, 4789, &[0x55; 40]);
        frame[20..22].copy_from_slice(&[0x20, 0x99]);
        frame
    };
    for frame in [later(VTEPS.0, UDP), later(VTEPS.0, TCP), deeper(VTEPS.0), four("10.255.0.2")] {
        passes(&rig, Hook::Tunnel, TUNNEL, &frame);
        dropped(&rig, Hook::Tunnel, OTHER_TUNNEL, &frame, DropReason::VtepNotBound);
        dropped(&rig, Hook::Uplink, UPLINK, &frame, DropReason::VxlanOnUplink);
    }
    // What no VTEP has sent is put together with nothing that was let in.
    for frame in [later(STRANGER, UDP), deeper(STRANGER), four("10.255.0.9")] {
        passes(&rig, Hook::Tunnel, TUNNEL, &frame);
        passes(&rig, Hook::Uplink, UPLINK, &frame);
    }
}

#[test]
fn root_a_chain_that_nobody_can_follow_does_not_reach_the_vtep() {
    let rig = scene("endless");
    let longest: Vec<_> = (0..6).map(|_| options(DESTINATION, 1)).collect();
    let endless: Vec<_> = (0..7).map(|_| options(DESTINATION, 1)).collect();
    let frame = behind(&longest, VTEPS, UDP, 4789);
    rig.expect(&Packet::from_port(Hook::Tunnel, TUNNEL, &frame), Verdict::None, &[("tunnel-accepted", 1)]);
    let hooks = [(Hook::Tunnel, TUNNEL), (Hook::Uplink, UPLINK)];
    for (hook, port) in hooks {
        dropped(&rig, hook, port, &behind(&endless, VTEPS, UDP, 4789), DropReason::HeaderChain);
        // The packet ends within the chain.
        let cut = &frame[..54 + 8 * 5 + 4];
        dropped(&rig, hook, port, cut, DropReason::HeaderChain);
        // To others it goes as it came, and without a mark.
        passes(&rig, hook, port, &behind(&endless, (VTEPS.0, "2001:db8:1::1"), UDP, 4789));
    }
}
