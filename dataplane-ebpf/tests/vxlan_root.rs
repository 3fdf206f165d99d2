//! Two gateways with VXLAN over a VLAN that eBPF terminates, and a node behind a TUN. Needs root, `ip`, `ping`, `iperf3`.
//!
//! ```text
//!  host a ─ vlan 10 ─ ta ┐ gateway A              gateway B ┌ tb ─ vlan 20 ─ host b
//!                        ├ wtvx ─ wtd0═wtd0p ─ w ══ vlan 40 ══ w ─ wtd0p═wtd0 ─ wtvx ┤
//!  node (TUN) ─── wtn0 ──┘                                     └ core (namespace of the test)
//!  stranger ────── up ───┘ (an uplink: VXLAN from there must not enter)
//! ```

mod rig;

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::Stdio,
};

use rig::{frames::*, netns::*, sequence::*, sites::*, *};
use watari_dataplane::*;

#[test]
fn root_two_sites_are_one_network_over_vxlan_at_full_size() {
    let bench = Bench::new("vx");
    at_full_size(&bench);
    // One end by the device, for what it does not know yet, would be the first packets' way only.
    let (own, device) = (bench.a.counter("encapsulated"), bench.a.counter("through-device"));
    assert!(own > 1000 && device < own / 10, "{own} encapsulated, {device} through the device");
    assert!(bench.b.counter("decapsulated") > 1000);
}

#[test]
fn root_the_vxlan_device_does_the_same() {
    let bench = Bench::with("vxd", Join { own_encap: false, ..Join::ROOMY });
    at_full_size(&bench);
    assert_eq!(bench.a.counter("encapsulated") + bench.b.counter("decapsulated"), 0);
}

#[test]
fn root_what_is_for_a_host_of_this_machine_waits_in_no_queue() {
    let bench = Bench::new("near");
    let ports = [(&bench.a, 10), (&bench.b, 20)].map(|(gateway, vid)| {
        let port = Port { flags: Port::NEAR, ..Port::segment(1, L2) };
        let key = PortKey::vlan(gateway.index("t"), vid);
        gateway.rig.dataplane.ports.upsert(&key, &port).unwrap();
        port_name(&key)
    });
    at_full_size(&bench);
    for (gateway, port) in [&bench.a, &bench.b].into_iter().zip(&ports) {
        // The device itself has sent what goes by the queue: answers, copies of a flood.
        let device = gateway.space.run("cat /sys/class/net/t/statistics/tx_packets");
        let (device, port) = (device.trim().parse::<i128>().unwrap(), gateway.counter(&format!("{port} tx")));
        assert!(port > 1000 && device < port / 10, "{device} by the device of {port}");
    }
    // From one processor, since the kernel keeps no order between two; and on by another, so that packets come in batches.
    let mut tee = bench.a.space.command("tee /sys/class/net/t/queues/rx-0/rps_cpus");
    let mut tee = tee.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    tee.stdin.take().unwrap().write_all(b"2").unwrap();
    assert!(tee.wait().unwrap().success());
    let mut one = nix::sched::CpuSet::new();
    one.set(0).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &one).unwrap();
    let stream = Sequence::start(&bench.host_a, &bench.host_b, "10.0.0.11", 20_000);
    wait_until("datagrams of many lives of a flow", || stream.arrived() > 10_000);
    let arrivals = stream.stop();
    assert_eq!((arrivals.lost, arrivals.doubled, arrivals.late), (0, 0, 0), "{arrivals:?}");
}

fn at_full_size(bench: &Bench) {
    bench.exchange();
    for to in ["10.0.0.11", "fd00::11"] {
        wait_until(to, || bench.host_a.try_run(&format!("ping -c 1 -W 1 {to}")).0);
        bench.host_a.run(&format!("ping -c 5 -i 0.05 -W 1 -s 1400 {to}"));
    }
    bench.host_a.run("ping -c 3 -i 0.05 -W 1 -s 1472 -M do 10.0.0.11");
    let mut listener = bench.host_b.command("iperf3 -s -p 5202").stdout(Stdio::null()).spawn().unwrap();
    let mut result = String::new();
    wait_until("iperf3", || {
        let client = "timeout 8 iperf3 -c 10.0.0.11 -p 5202 -t 2 -J --connect-timeout 1000";
        result = bench.host_a.try_run(client).1;
        result.contains("\"sum_received\"")
    });
    listener.kill().unwrap();
    listener.wait().unwrap();
    let rate = result.split("\"sum_received\"").nth(1).unwrap().split("\"bits_per_second\":").nth(1).unwrap();
    let rate = rate.split(',').next().unwrap().trim().parse::<f64>().unwrap() / 1e6;
    println!("VXLAN over a VLAN: {rate:.0} Mbit/s");
    assert!(rate > 300.0, "{rate} Mbit/s");
    assert!(bench.a.counter("tunnel-accepted") > 0 && bench.a.counter("drop vtep-not-bound") == 0);
    assert!(bench.a.counter("arp-answered") > 0 && bench.a.counter("nd-answered") > 0);
}

/// What a socket of a host is charged with, in bytes, and the packets that wait at its gateway's wire.
fn charged_and_waiting(bench: &Bench) -> (u64, u64) {
    let number =
        |text: &str| text.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<u64>().unwrap();
    let memory = bench.host_a.run("ss -H -t -n -m state established dport = :5299");
    let queue = bench.a.space.run("tc -s qdisc show dev w");
    let charged = memory.split("skmem:").nth(1).and_then(|text| text.split(",t").nth(1)).map_or(0, number);
    let waiting =
        queue.split("backlog ").nth(1).and_then(|text| text.split_whitespace().nth(1)).map_or(0, number);
    (charged, waiting)
}

#[test]
fn root_a_sender_on_this_machine_is_not_charged_for_what_waits_at_the_wire() {
    let bench = Bench::new("chrg");
    bench.exchange();
    wait_until("ping", || bench.host_a.try_run("ping -c 1 -W 1 10.0.0.11").0);
    let listener = bench.host_b.enter(|| TcpListener::bind("10.0.0.11:5299").unwrap());
    let mut sender = bench.host_a.enter(|| TcpStream::connect("10.0.0.11:5299").unwrap());
    let (mut receiver, _) = listener.accept().unwrap();
    // Ten packets a second: what the first write sends stays where it can be looked at.
    bench.a.space.run("tc qdisc add dev w root tbf rate 120kbit burst 1600 limit 1000000");
    let before = bench.a.counter("encapsulated");
    sender.write_all(&[7; 12_000]).unwrap();
    let (charged, waiting) = charged_and_waiting(&bench);
    println!("{waiting} packets wait, {charged} bytes are charged");
    assert!(bench.a.counter("encapsulated") > before && waiting >= 4, "{waiting}");
    assert!(charged < 1000 * waiting, "{charged} bytes for {waiting} packets");
    let mut all = Vec::new();
    bench.a.space.run("tc qdisc del dev w root");
    drop(sender);
    receiver.read_to_end(&mut all).unwrap();
    assert_eq!(all, [7; 12_000]);
}

#[test]
fn root_a_host_that_nobody_knows_is_found_by_one_question_over_the_mesh() {
    let bench = Bench::new("bum");
    // Each gateway knows the other's MACs, but not its neighbours: the question itself must cross.
    for (gateway, host) in [(&bench.a, &bench.host_b), (&bench.b, &bench.host_a)] {
        let remote = MacRemote { vtep: rig::v4([10, 255, 0, 3 - gateway.number]), flags: 0, sequence: 0 };
        let key = MacKey::new(L2, host.mac_of("eth0"));
        gateway.rig.dataplane.mac_remote.upsert(&key, &remote).unwrap();
    }
    wait_until("ping", || bench.host_a.try_run("ping -c 1 -W 1 10.0.0.11").0);
    wait_until("ping6", || bench.host_a.try_run("ping -c 1 -W 1 fd00::11").0);
    assert!(bench.a.counter("flooded") >= 2 && bench.b.counter("flooded") >= 1);
    assert_eq!(bench.b.counter("drop mesh-to-mesh"), 0);
}

/// The pipeline writes the outer header of the first packet, the flow cache those of the others: on the wire they are one.
#[test]
fn root_every_packet_of_a_flow_has_the_same_outer_header() {
    for (name, v6, overhead) in [("head", false, 50), ("head6", true, 70)] {
        let bench = Bench::with(name, Join { v6, ..Join::ROOMY });
        bench.exchange();
        for to in ["10.0.0.11", "fd00::11"] {
            wait_until(to, || bench.host_a.try_run(&format!("ping -c 1 -W 1 {to}")).0);
            outer_headers_are_one(&bench, to, overhead);
        }
    }
}

fn outer_headers_are_one(bench: &Bench, to: &str, overhead: usize) {
    const MARK: &[u8] = b"the same way for all of us";
    const DATAGRAMS: usize = 20;
    let wire = wire::Wire::open(&bench.b.space, "w");
    let socket = bench.host_a.enter(|| {
        let socket = UdpSocket::bind(if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        socket.connect((to, 9)).unwrap();
        socket
    });
    let known = bench.a.counter("flow-known");
    for _ in 0..DATAGRAMS {
        // A host that refuses says so at the next one.
        while socket.send(MARK).is_err() {}
    }
    let mut heads = Vec::new();
    wait_until("the datagrams", || {
        while let Some(frame) = wire.receive() {
            if frame.ends_with(MARK) {
                // The tag of the wire, and the inner Ethernet header.
                heads.push(frame[..4 + overhead + 14].to_vec());
            }
        }
        heads.len() >= DATAGRAMS
    });
    assert!(heads.iter().all(|head| *head == heads[0]), "{heads:02x?}");
    let known = bench.a.counter("flow-known") - known;
    assert!((1..DATAGRAMS as i128).contains(&known), "{known} of {DATAGRAMS} by the flow cache");
}

#[test]
fn root_vxlan_from_the_uplink_never_enters() {
    let bench = Bench::new("spoof");
    let stranger = Netns::new("spoofx");
    veth((&stranger, "eth0"), (&bench.a.space, "up"));
    // The stranger even has the far VTEP's address, and knows a valid VNI and MAC.
    stranger.ip("addr add 203.0.113.9/24 dev eth0");
    stranger.ip("addr add 10.255.0.2/32 dev lo");
    bench.a.space.ip("addr add 203.0.113.1/24 dev up");
    let inner = udp((bench.host_a.mac_of("eth0"), HOST_R), ("10.0.0.66", "10.0.0.10"), 64, 40);
    let attack = [&[8, 0, 0, 0][..], &(L2 << 8).to_be_bytes(), &inner].concat();
    let send = |source: &str| {
        stranger
            .enter(|| UdpSocket::bind((source, 0)).unwrap().send_to(&attack, ("203.0.113.1", PORT)).unwrap());
    };
    let before = bench.a.counter(&format!("{} tx", port_name(&PortKey::vlan(bench.a.index("t"), 10))));
    // By default: what no tunnel hook has marked is refused at the VXLAN device. (Without a route back the kernel
    // would refuse the spoofed one first, so only the other is sent.)
    wait_until("default deny", || {
        send("203.0.113.9");
        bench.a.counter("drop vxlan-not-from-tunnel") > 0
    });
    bench.a.attach("up", Hook::Uplink);
    let refused = bench.a.counter("drop vxlan-not-from-tunnel");
    for source in ["203.0.113.9", "10.255.0.2"] {
        let dropped = bench.a.counter("drop vxlan-on-uplink");
        wait_until(source, || {
            send(source);
            bench.a.counter("drop vxlan-on-uplink") > dropped
        });
    }
    assert_eq!(bench.a.counter("drop vxlan-not-from-tunnel"), refused);
    let after = bench.a.counter(&format!("{} tx", port_name(&PortKey::vlan(bench.a.index("t"), 10))));
    assert_eq!(after, before, "something reached the segment");
}

/// Opens a TUN in the namespace of the calling thread.
fn open_tun(name: &str) -> File {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: zeros are valid for this structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
    // SAFETY: a valid descriptor and structure.
    assert_eq!(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) }, 0);
    file
}

/// An ICMP echo request without Ethernet.
fn echo(from: &str, to: &str) -> Vec<u8> {
    let mut packet = udp(([0; 6], [0; 6]), (from, to), 64, 24)[14..].to_vec();
    packet[9] = 1;
    packet[10..12].fill(0);
    let sum = checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..24].copy_from_slice(&[8, 0, 0, 0]);
    let sum = checksum(&[&packet[20..]]);
    packet[22..24].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[test]
fn root_a_node_behind_a_tun_is_a_host_of_the_segment_at_both_sites() {
    let bench = Bench::new("node");
    bench.exchange();
    let gateway = &bench.a;
    let mut tun = gateway.space.enter(|| open_tun("wtn0"));
    gateway.space.ip("link set wtn0 up");
    let device = PortKey::untagged(gateway.index("wtn0"));
    let d = &gateway.rig.dataplane;
    d.ports.upsert(&device, &Port::node(1)).unwrap();
    let address = rig::ip("10.0.0.77");
    let key = NodeKey { ifindex: device.ifindex, ip: abi::ip_bytes(address) };
    d.nodes.upsert(&key, &Node { vni: L2, mac: NODE_MAC, pad: 0 }).unwrap();
    d.mac_static.upsert(&MacKey::new(L2, NODE_MAC), &MacStatic { port: device, is_node: 1 }).unwrap();
    d.nb_static.upsert(&NeighKey::new(L2, address), &NeighStatic { mac: NODE_MAC, flags: 0 }).unwrap();
    d.routes.upsert(&Prefix::host(1, address), &Route::node(device.ifindex)).unwrap();
    gateway.attach("wtn0", Hook::Node);
    bench.b.knows(NODE_MAC, ["10.0.0.77", "fd00::77"]);
    nix::fcntl::fcntl(&tun, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();

    for host in ["10.0.0.10", "10.0.0.11"] {
        wait_until(host, || {
            tun.write_all(&echo("10.0.0.77", host)).unwrap();
            std::iter::from_fn(|| {
                let mut packet = [0; 2048];
                tun.read(&mut packet).ok().map(|length| packet[..length].to_vec())
            })
            .any(|packet| {
                packet.len() > 20 && packet[9] == 1 && packet[20] == 0 && packet[12..16] == octets(host)
            })
        });
    }
    tun.write_all(&echo("10.0.0.10", "10.0.0.11")).unwrap();
    wait_until("guard", || gateway.counter("drop source-ip-unknown") > 0);
}

fn octets(address: &str) -> [u8; 4] {
    address.parse::<std::net::Ipv4Addr>().unwrap().octets()
}

/// A datagram in two pieces, each in a frame of VLAN 40 to gateway B. The first is 48 bytes of it.
fn pieces(bench: &Bench, datagram: &[u8], number: u8) -> [Vec<u8>; 2] {
    const CUT: usize = 48;
    let (from, to) = (bench.a.vtep_of(1), bench.a.vtep_of(2));
    [(0, &datagram[..CUT], true), (CUT, &datagram[CUT..], false)].map(|(offset, part, more)| {
        let packet = match (from, to) {
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let place = (offset as u16 | u16::from(more)).to_be_bytes();
                let header =
                    [&[0x60, 0, 0, 0][..], &(part.len() as u16 + 8).to_be_bytes(), &[44, 64]].concat();
                let fragment = [17, 0, place[0], place[1], 0, 0, 0, number];
                [&header, &from.octets()[..], &to.octets(), &fragment, part].concat()
            }
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let place = ((offset as u16 / 8) | (u16::from(more) << 13)).to_be_bytes();
                let length = (part.len() as u16 + 20).to_be_bytes();
                let head = [0x45, 0, length[0], length[1], 0, number, place[0], place[1], 64, 17, 0, 0];
                let mut header = [&head[..], &from.octets(), &to.octets()].concat();
                let sum = checksum(&[&header]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                [&header, part].concat()
            }
            _ => panic!("two families"),
        };
        let ethertype: [u8; 2] = if from.is_ipv6() { [0x86, 0xdd] } else { [8, 0] };
        let tagged = [&[0, 40][..], &ethertype, &packet].concat();
        ethernet(bench.b.space.mac_of("wtd0"), bench.a.space.mac_of("wtd0"), 0x8100, &tagged)
    })
}

#[test]
fn root_vxlan_in_fragments_is_put_together_with_the_mark_of_the_first_in_any_order() {
    for (name, v6) in [("piece4", false), ("piece6", true)] {
        let bench = Bench::with(name, Join { v6, ..Join::ROOMY });
        bench.exchange();
        let refused =
            || ["drop vxlan-not-from-tunnel", "drop vtep-not-bound"].map(|reason| bench.b.counter(reason));
        // What hosts said of their own accord before the hooks were attached.
        let before = refused();
        let wire = wire::Wire::open(&bench.a.space, "w");
        let receiver = bench.host_b.enter(|| UdpSocket::bind("10.0.0.11:7")).unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let macs = (bench.host_b.mac_of("eth0"), bench.host_a.mac_of("eth0"));
        let inner = udp(macs, ("10.0.0.10", "10.0.0.11"), 64, 100);
        let vxlan = [&[8, 0, 0, 0][..], &(L2 << 8).to_be_bytes(), &inner].concat();
        let length = (vxlan.len() as u16 + 8).to_be_bytes();
        let [high, low] = PORT.to_be_bytes();
        let datagram = [&[0xc0, 0, high, low, length[0], length[1], 0, 0][..], &vxlan].concat();
        for (number, order) in [(1, [0, 1]), (2, [1, 0])] {
            let both = pieces(&bench, &datagram, number);
            let accepted = bench.b.counter("tunnel-accepted");
            let mut buffer = [0; 2048];
            wait_until("the datagram", || {
                order.iter().for_each(|piece| wire.send(&both[*piece]));
                receiver.recv(&mut buffer).is_ok_and(|length| buffer[..length] == [0x55; 100])
            });
            assert!(bench.b.counter("tunnel-accepted") > accepted, "{name}, order {order:?}");
        }
        assert_eq!(refused(), before, "{name}");
    }
}
