//! Packets whose headers a network card's driver has left in pages, behind a few bytes in the buffer: they are of a flow like
//! any other, in and out of VXLAN. A tap makes them. Needs root, `ip`, `ethtool`.

mod rig;

use std::{
    fs::File,
    io::{IoSlice, Write},
    net::UdpSocket,
    os::fd::AsRawFd,
    time::Duration,
};

use rig::{frames::*, netns::*, sites::*, *};
use watari_dataplane::*;

const IFF_NAPI: libc::c_int = 0x10;
/// Each part of a write is a page of its own, the first one apart.
const IFF_NAPI_FRAGS: libc::c_int = 0x20;
const VLAN: [u8; 4] = [0x81, 0, 0, 40];
const HOST: &str = "10.0.0.10";
const FAR_HOST: &str = "10.0.0.18";
/// In the buffer: an Ethernet header alone, with some of the outer header, up to VXLAN, up to the inner header.
const IN_BUFFER: [usize; 4] = [18, 40, 54, 90];

/// A tap of this name in a namespace, for as long as the file is open.
fn tap(space: &Netns, name: &str) -> File {
    space.enter(|| {
        let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: plain numbers, for which zeros are valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | IFF_NAPI | IFF_NAPI_FRAGS;
        request.ifr_ifru.ifru_flags = flags as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes an ifreq that lives through the call.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
        file
    })
}

/// The first bytes in the buffer, the rest in a page.
fn send(tap: &mut File, frame: &[u8], in_buffer: usize) {
    let (buffer, page) = frame.split_at(in_buffer);
    let written = tap.write_vectored(&[IoSlice::new(buffer), IoSlice::new(page)]).unwrap();
    assert_eq!(written, frame.len());
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &VLAN, &frame[12..]].concat()
}

/// A gateway whose wire is a tap, with a host.
fn site(name: &str) -> (Gateway, Netns, File) {
    let gateway = Gateway::new(name, 1, Join::ROOMY);
    let host = Netns::new(&format!("{name}h"));
    let wire = tap(&gateway.space, "w");
    // What is merged is brought up already.
    gateway.space.run("ethtool -K w gro off");
    gateway.space.ip("link set w up");
    gateway.tunnel();
    veth((&host, "eth0"), (&gateway.space, "t"));
    host.ip(&format!("addr add {HOST}/24 dev eth0"));
    host.ip("addr add fd00::10/64 dev eth0 nodad");
    gateway.segment(PortKey::untagged(gateway.index("t")));
    gateway.attach("t", Hook::Interface);
    gateway.knows(HOST_R, [FAR_HOST, "fd00::18"]);
    let learnt = MacKey::new(L2, host.mac_of("eth0"));
    wait_until("the host is heard", || {
        host.try_run("ping -c 1 -W 0.1 10.0.0.18");
        gateway.rig.dataplane.mac_local.get(&learnt).unwrap().is_some()
    });
    (gateway, host, wire)
}

#[test]
fn root_headers_in_pages_are_of_a_flow_and_arrive_whole() {
    let (gateway, host, mut wire) = site("pages");
    let payload: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let macs = (host.mac_of("eth0"), HOST_R);
    for (from, to) in [(FAR_HOST, HOST), ("fd00::18", "fd00::10")] {
        let socket = host.enter(|| UdpSocket::bind((to, 0)).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let port = socket.local_addr().unwrap().port();
        let frame = tagged(&vxlan(L2, 0, &udp_to(macs, (from, to), 64, port, &payload)));
        for in_buffer in IN_BUFFER {
            let (known, mut sent) = (gateway.counter("flow-known"), 0);
            wait_until("a known flow", || {
                send(&mut wire, &frame, in_buffer);
                sent += 1;
                gateway.counter("flow-known") > known
            });
            for _ in 0..sent {
                let mut arrived = [0; 2000];
                let length = socket.recv(&mut arrived).unwrap();
                assert!(arrived[..length] == payload, "{to}, {in_buffer} bytes in the buffer");
            }
        }
    }
    let drops: Vec<_> =
        gateway.rig.counters().into_iter().filter(|(name, n)| name.starts_with("drop ") && *n > 0).collect();
    assert!(drops.iter().all(|(name, _)| !name.contains("malformed")), "{drops:?}");
}
