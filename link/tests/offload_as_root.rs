//! The engine with and without each offload of the kernel, in namespaces: whatever the kernel gives, the same
//! bytes cross, in order. Needs root, `nft`, `wireguard-go` and `wg`; fails without them. The topology is drawn in
//! `topology/mod.rs`.

#[allow(dead_code, reason = "the other test uses the rest")]
mod topology;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use topology::{Host, PATIENCE, Pair, Running, Wire, wait_until};

/// Bytes of one transfer.
const TRANSFER_BYTES: usize = 6 << 20;
/// What is in a datagram before its filling: its number.
const NUMBER_BYTES: usize = 4;

/// Both ends of the tunnel are started with these arguments.
fn tunnel_with(wire: &Wire, arguments: &[&str]) -> (Running, Running) {
    let pair = Pair::new(wire);
    let (a, b) = (wire.engine_with(&wire.a, arguments), wire.engine_with(&wire.b, arguments));
    a.client().set_device(pair.a).expect("device of a");
    b.client().set_device(pair.b).expect("device of b");
    wire.a.address("wtwg0");
    wire.b.address("wtwg0");
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    (a, b)
}

fn set_int(socket: &UdpSocket, level: i32, option: i32, value: i32) {
    let length = u32::try_from(size_of::<i32>()).unwrap();
    // SAFETY: `value` is an int that outlives the call, and `length` is its size.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    assert_eq!(result, 0, "option {option}: {}", std::io::Error::last_os_error());
}

/// Pseudo-random bytes; what is wrong in them is seen.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) | 1 << 40;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u8::try_from(state >> 56).unwrap()
        })
        .collect()
}

/// Sends noise over TCP; the result are the digests of what was sent and of what arrived.
fn transfer(from: &Host, to: &Host, address: IpAddr, seed: u32) -> JoinHandle<(Vec<u8>, Vec<u8>)> {
    let (ready, is_ready) = std::sync::mpsc::channel();
    let receiver = to.inside(move || {
        let listener = TcpListener::bind((address, 0)).expect("listen");
        ready.send(listener.local_addr().expect("address")).expect("test");
        let (mut stream, _) = listener.accept().expect("accept");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match stream.read(&mut buffer).expect("read") {
                0 => return digest.finalize().to_vec(),
                length => digest.update(&buffer[..length]),
            }
        }
    });
    let to_address = is_ready.recv_timeout(PATIENCE).expect("listening");
    from.inside(move || {
        let mut stream = TcpStream::connect_timeout(&to_address, PATIENCE).expect("connect");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        let bytes = noise(seed, TRANSFER_BYTES);
        stream.write_all(&bytes).expect("write");
        stream.shutdown(Shutdown::Write).expect("end");
        (Sha256::digest(&bytes).to_vec(), receiver.join().expect("receiver"))
    })
}

/// TCP in both directions and both families, all at once.
fn bulk_crosses(wire: &Wire, what: &str) {
    let address = |text: &str| text.parse().expect("address");
    let transfers = [
        transfer(&wire.a, &wire.b, address("10.9.0.2"), 1),
        transfer(&wire.b, &wire.a, address("10.9.0.1"), 2),
        transfer(&wire.a, &wire.b, address("fd09::2"), 3),
        transfer(&wire.b, &wire.a, address("fd09::1"), 4),
    ];
    for (number, transfer) in transfers.into_iter().enumerate() {
        let (sent, arrived) = transfer.join().expect("transfer");
        assert_eq!(sent, arrived, "{what}: transfer {number}");
    }
}

/// A socket of a host that takes datagrams, and what it took so far: number and length of each.
struct Sink {
    address: SocketAddr,
    count: Arc<AtomicUsize>,
    taken: JoinHandle<Vec<(u32, usize)>>,
}

/// Takes `expected` datagrams, each of which has its number and the noise of that number.
fn sink(host: &Host, address: &str, expected: usize) -> Sink {
    let address: IpAddr = address.parse().expect("address");
    let (ready, is_ready) = std::sync::mpsc::channel();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let taken = host.inside(move || {
        let socket = UdpSocket::bind((address, 0)).expect("bind");
        set_int(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20);
        socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
        ready.send(socket.local_addr().expect("address")).expect("test");
        let mut buffer = vec![0; 1 << 16];
        let mut taken = Vec::new();
        while taken.len() < expected {
            let Ok(length) = socket.recv(&mut buffer) else { break };
            let (number, filling) = buffer[..length].split_at(NUMBER_BYTES.min(length));
            let number = u32::from_be_bytes(number.try_into().expect("a number"));
            assert_eq!(filling, noise(number, filling.len()), "datagram {number} of {length} bytes");
            taken.push((number, length));
            counted.fetch_add(1, Ordering::Release);
        }
        taken
    });
    Sink { address: is_ready.recv_timeout(PATIENCE).expect("bound"), count, taken }
}

fn datagram(number: u32, length: usize) -> Vec<u8> {
    [&number.to_be_bytes()[..], &noise(number, length - NUMBER_BYTES)].concat()
}

/// Datagrams of many lengths, one by one: what is longer than the MTU the kernel fragments.
fn datagrams_cross(wire: &Wire, what: &str) {
    let lengths = [4, 5, 100, 1_371, 1_372, 1_392, 1_393, 4_000, 20_001, 65_507];
    for (own, far) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
        let sink = sink(&wire.b, far, lengths.len());
        let (count, to) = (Arc::clone(&sink.count), sink.address);
        let own: IpAddr = own.parse().expect("address");
        let sender = wire.a.inside(move || {
            let socket = UdpSocket::bind((own, 0)).expect("bind");
            for (number, length) in lengths.into_iter().enumerate() {
                let bytes = datagram(u32::try_from(number).unwrap(), length);
                assert_eq!(socket.send_to(&bytes, to).expect("send"), length);
                wait_until("it arrived", || count.load(Ordering::Acquire) > number);
            }
        });
        sender.join().expect("sender");
        let taken: Vec<usize> =
            sink.taken.join().expect("sink").into_iter().map(|(_, length)| length).collect();
        assert_eq!(taken, lengths, "{what}");
    }
}

/// Datagrams that leave their socket many at once (`UDP_SEGMENT`), the last of each send shorter; so many sends
/// at a time that no queue on the way drops anything. All arrive, and in order.
fn segmented_datagrams_keep_their_order(wire: &Wire, window: usize, what: &str) {
    const SENDS: usize = 60;
    const EACH: usize = 25;
    for (own, far) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
        let sink = sink(&wire.b, far, SENDS * EACH);
        let (count, to) = (Arc::clone(&sink.count), sink.address);
        let own: IpAddr = own.parse().expect("address");
        let sender = wire.a.inside(move || {
            let socket = UdpSocket::bind((own, 0)).expect("bind");
            set_int(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, 1_200);
            for send in 0..SENDS {
                let mut bytes = Vec::new();
                for part in 0..EACH {
                    let length = if part + 1 == EACH { 10 + send } else { 1_200 };
                    bytes.extend(datagram(u32::try_from(send * EACH + part).unwrap(), length));
                }
                socket.send_to(&bytes, to).expect("send");
                wait_until("most of it arrived", || {
                    count.load(Ordering::Acquire) + window * EACH > send * EACH
                });
            }
        });
        sender.join().expect("sender");
        let numbers: Vec<u32> =
            sink.taken.join().expect("sink").into_iter().map(|(number, _)| number).collect();
        let expected: Vec<u32> = (0..u32::try_from(SENDS * EACH).unwrap()).collect();
        assert_eq!(numbers, expected, "{what}");
    }
}

#[test]
fn as_root_the_same_crosses_with_and_without_each_offload() {
    let settings: [&[&str]; 9] = [
        &[],
        &["--without", "tun-header"],
        &["--without", "tun-checksum"],
        &["--without", "tun-tso"],
        &["--without", "tun-uso"],
        &["--without", "udp-segment"],
        &["--without", "udp-gro"],
        &["--without", "tun-header,udp-segment,udp-gro"],
        &["--threads", "1"],
    ];
    for arguments in settings {
        let wire = Wire::new();
        let (a, b) = tunnel_with(&wire, arguments);
        let what = format!("{arguments:?}");
        let offloads = a.device().offloads;
        println!("{what}: {offloads:?}");
        let without =
            |name: &str| arguments.get(1).is_some_and(|list| list.split(',').any(|one| one == name));
        assert_eq!(offloads.tun_header, !without("tun-header"));
        assert_eq!(offloads.udp_segments_max > 1, !without("udp-segment"));
        assert_eq!(offloads.udp_gro, !without("udp-gro"));
        assert!(!offloads.tun_tso || !without("tun-tso"));
        assert!(!offloads.tun_uso || !without("tun-uso"));
        assert!(!offloads.tun_tso || offloads.tun_checksum);
        bulk_crosses(&wire, &what);
        datagrams_cross(&wire, &what);
        segmented_datagrams_keep_their_order(&wire, 4, &what);
        for end in [&a, &b] {
            let drops = end.device().drops;
            assert!(drops.iter().all(|drop| drop.reason == "no_peer"), "{what}: {drops:?}");
        }
    }
}

#[test]
fn as_root_ends_with_different_offloads_understand_each_other_over_ipv6() {
    let wire = Wire::new();
    let mut pair = Pair::new(&wire);
    pair.a.peers[0].endpoint = Some("[2001:db8::2]:51820".parse().unwrap());
    pair.b.peers[0].endpoint = None;
    let a = wire.engine_with(&wire.a, &["--without", "tun-header,udp-segment,udp-gro"]);
    let b = wire.engine(&wire.b);
    a.client().set_device(pair.a).unwrap();
    b.client().set_device(pair.b).unwrap();
    wire.a.address("wtwg0");
    wire.b.address("wtwg0");
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    bulk_crosses(&wire, "with and without");
    datagrams_cross(&wire, "with and without");
}

#[test]
fn as_root_an_interface_of_an_engine_with_other_offloads_is_taken_up() {
    let wire = Wire::new();
    let (mut a, _b) = tunnel_with(&wire, &[]);
    let index = a.device().link.unwrap().index;
    for without in [Some("tun-header"), None, Some("tun-tso"), None] {
        a.kill();
        a.arguments = without.map_or(Vec::new(), |name| vec!["--without".to_owned(), name.to_owned()]);
        a.start();
        wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
        let device = a.device();
        assert_eq!(device.offloads.tun_header, without != Some("tun-header"));
        assert!(!device.offloads.tun_tso || without.is_none());
        assert_eq!(device.link.unwrap().index, index, "the interface was kept");
        bulk_crosses(&wire, &format!("without {without:?}"));
    }
}

#[test]
fn as_root_datagrams_that_waited_for_a_session_arrive() {
    let wire = Wire::new();
    let (mut a, mut b) = tunnel_with(&wire, &[]);
    let bound =
        |host: &Host, address| host.inside(move || UdpSocket::bind(address).expect("bind")).join().unwrap();
    let (sender, receiver) = (bound(&wire.a, "10.9.0.1:7000"), bound(&wire.b, "10.9.0.2:7000"));
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    b.kill();
    a.kill();
    a.start();
    wait_until("the interface takes one", || sender.send_to(&[0; 100], "10.9.0.2:7000").is_ok());
    for number in 1..5 {
        sender.send_to(&[number; 100], "10.9.0.2:7000").unwrap();
    }
    b.start();
    for number in 0..5 {
        let mut datagram = [0xff; 200];
        let length = receiver.recv(&mut datagram).expect("what was held");
        assert_eq!(datagram[..length], [number; 100]);
    }
}

#[test]
fn as_root_bulk_crosses_to_and_from_wireguard_go() {
    let mut wire = Wire::new();
    let pair = Pair::new(&wire);
    wire.wireguard_go(&pair);
    let a = wire.engine(&wire.a);
    a.client().set_device(pair.a).unwrap();
    wire.a.address("wtwg0");
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    // It has no offload of any kind: every checksum of ours is verified by the kernel behind it.
    bulk_crosses(&wire, "wireguard-go");
    datagrams_cross(&wire, "wireguard-go");
    segmented_datagrams_keep_their_order(&wire, 1, "wireguard-go");
}

#[test]
fn as_root_runs_that_are_longer_than_the_path_allows_are_sent_one_by_one() {
    let wire = Wire::new();
    let (a, _b) = tunnel_with(&wire, &[]);
    // Outer packets of 1480 octets have to be fragmented; a run of them cannot be.
    wire.a.ip(&["link", "set", "v0", "mtu", "1400"]);
    wire.b.ip(&["link", "set", "v0", "mtu", "1400"]);
    bulk_crosses(&wire, "a path of 1400");
    assert!(a.device().offloads.udp_segments_max > 1, "the offload is still used where it can be");
    let drops = a.device().drops;
    assert!(drops.iter().all(|drop| drop.reason == "no_peer"), "{drops:?}");
}

#[test]
fn as_root_congestion_that_the_network_marks_is_told_inside() {
    let wire = Wire::new();
    let (_a, b) = tunnel_with(&wire, &[]);
    let seen = |ecn: i32| {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let receiver = wire.b.inside(move || {
            let socket = UdpSocket::bind("10.9.0.2:0").expect("bind");
            set_int(&socket, libc::SOL_IP, libc::IP_RECVTOS, 1);
            socket.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
            ready.send(socket.local_addr().expect("address")).expect("test");
            tos_of_next(&socket)
        });
        let to = is_ready.recv_timeout(PATIENCE).expect("bound");
        let sender = wire.a.inside(move || {
            let socket = UdpSocket::bind("10.9.0.1:0").expect("bind");
            set_int(&socket, libc::SOL_IP, libc::IP_TOS, ecn);
            socket.send_to(b"a datagram", to).expect("send");
        });
        sender.join().expect("sender");
        receiver.join().expect("receiver")
    };
    assert_eq!([seen(0), seen(2), seen(1), seen(3)], [Some(0), Some(2), Some(1), Some(3)]);
    // The outer packet says what the inner one says; only so do these rules meet it.
    let rule = |what: &str| {
        let text = format!(
            "flush ruleset\ntable ip t {{\nchain c {{\ntype filter hook prerouting priority -300\n\
             udp dport 51820 ip ecn {what} ip ecn set ce\n}}\n}}\n"
        );
        let path = wire.folder.path().join("rules");
        std::fs::write(&path, text).unwrap();
        wire.b.run("nft", &["-f", path.to_str().unwrap()]);
    };
    rule("ect0");
    assert_eq!(seen(2), Some(3), "ECT(0) becomes CE");
    assert_eq!(seen(1), Some(1), "ECT(1) is not what the rule meets");
    rule("not-ect");
    assert_eq!(seen(0), None, "whoever does not know of congestion loses the packet");
    assert!(b.device().drops.iter().any(|drop| drop.reason == "congestion"), "{:?}", b.device().drops);
}

/// TOS of the next datagram, `None` if there comes none.
fn tos_of_next(socket: &UdpSocket) -> Option<u8> {
    let mut buffer = [0_u8; 64];
    let mut control = [0_u64; 8];
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer of the message is to something that outlives the call, with its length.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    // One control message: 16 octets of header, then the TOS.
    (received > 0).then(|| u8::try_from(control[2] & 0xff).unwrap())
}
