//! VXLAN that crosses the engine by a TAP of its own, in namespaces. The far end is wireguard-go with the kernel's VXLAN device:
//! what any VTEP would be. Needs root, `wireguard-go` and `wg`; fails without them. Namespaces and wire: `topology/mod.rs`.
//!
//! ```text
//!  ns …a                                                                  ns …b
//!  h0 10.77.0.1 ─[test: outer header on, outer header off]─ wto0 ═ engine ══ wireguard-go ─ vx0 10.77.0.2
//!                                                          wtwg0 ═╛
//! ```

#[allow(dead_code, reason = "other tests use the rest")]
mod topology;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use sha2::{Digest as _, Sha256};
use topology::{Host, PATIENCE, Pair, Running, Wire, run, wait_until};
use watari_link::protocol::{OverlayConfig, OverlayStatus, OverlaysConfig};

/// Bytes of one transfer.
const TRANSFER_BYTES: usize = 6 << 20;
/// Before every frame of an interface that was attached so.
const VIRTIO_HEADER: usize = 10;
/// Ethernet, IPv4, UDP and VXLAN.
const OUTER: usize = 14 + 20 + 8 + 8;
const MAC_A: &str = "02:00:00:00:77:01";
const MAC_B: &str = "02:00:00:00:77:02";

fn overlay(inbound: bool) -> OverlaysConfig {
    let overlay = OverlayConfig {
        device: "wtwg0".to_owned(),
        tap: "wto0".to_owned(),
        alias: "watari:test:tunnel/t".to_owned(),
        vtep: "10.9.0.1".parse().unwrap(),
        port: 4789,
        inbound,
    };
    OverlaysConfig { overlays: vec![overlay] }
}

fn status(engine: &Running) -> OverlayStatus {
    let mut overlays = engine.client().list_overlays().expect("overlays").overlays;
    assert_eq!(overlays.len(), 1);
    overlays.swap_remove(0)
}

/// The outer header of a frame of host a: from its VTEP to the other one, VNI 100.
fn outer(inner: usize) -> Vec<u8> {
    let mut header = vec![0; 12];
    header.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
    header.extend([0xc1, 0x23, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 100, 0]);
    // Lengths and checksum are the engine's matter: here they are those of something else.
    header[16..18].copy_from_slice(&u16::try_from(inner % 1000).unwrap().to_be_bytes());
    header
}

fn checked(result: i32, what: &str) -> i32 {
    assert!(result >= 0, "{what}: {}", std::io::Error::last_os_error());
    result
}

/// What the programs of a datapath do: between a host's interface and the overlay's TAP the outer header is put on and taken off.
struct Shuttle {
    stop: Arc<AtomicBool>,
    /// Of the frames that came out of the TAP, octets.
    largest: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Shuttle {
    fn start(host: &Host) -> Self {
        let (stop, largest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&largest));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let parent = host.inside(move || {
            let (host, tap) = (Arc::new(host_interface()), Arc::new(packet_socket("wto0")));
            ready.send(()).expect("test");
            let (host_out, tap_out, stopped_out) =
                (Arc::clone(&host), Arc::clone(&tap), Arc::clone(&stopped));
            let out = std::thread::spawn(move || put_on(&host_out, &tap_out, &stopped_out));
            take_off(&tap, &host, &stopped, &seen);
            out.join().expect("outbound");
        });
        is_ready.recv_timeout(PATIENCE).expect("interfaces");
        host.ip(&["link", "set", "h0", "address", MAC_A, "mtu", "1370", "up"]);
        host.ip(&["address", "add", "10.77.0.1/24", "dev", "h0"]);
        host.ip(&["neigh", "add", "10.77.0.2", "lladdr", MAC_B, "dev", "h0"]);
        Self { stop, largest, threads: vec![parent] }
    }
}

impl Drop for Shuttle {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Host a's TAP: super-packets go in, whole packets with checksums come out.
fn host_interface() -> File {
    let mut options = OpenOptions::new();
    let file =
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").expect("tun");
    // SAFETY: ifreq is plain data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"h0") {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap();
    // SAFETY: TUNSETIFF with a request that outlives the call.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), 0x4004_54ca, &raw const request) }, "attach h0");
    file
}

/// A socket that sends frames out of an interface, and sees those that come in by it with their virtio header.
fn packet_socket(device: &str) -> OwnedFd {
    let all = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
    // SAFETY: no pointers.
    let fd = checked(unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, all.into()) }, "packet socket");
    // SAFETY: a descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for (level, name, value) in
        [(libc::SOL_PACKET, 15, 1), (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20)]
    {
        let length = u32::try_from(size_of::<i32>()).unwrap();
        // SAFETY: `value` is an int that outlives the call (15 is PACKET_VNET_HDR).
        let set = unsafe { libc::setsockopt(fd, level, name, (&raw const value).cast(), length) };
        checked(set, "socket option");
    }
    let name = std::ffi::CString::new(device).unwrap();
    // SAFETY: a string with its end.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert!(index > 0, "{device}");
    // SAFETY: sockaddr_ll is plain data for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    address.sll_protocol = all;
    address.sll_ifindex = index.cast_signed();
    let length = u32::try_from(size_of_val(&address)).unwrap();
    // SAFETY: an address of the length that is told.
    checked(unsafe { libc::bind(fd, (&raw const address).cast(), length) }, "bind");
    socket
}

fn wait_readable(fd: i32) -> bool {
    let mut polled = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry.
    unsafe { libc::poll(&raw mut polled, 1, 50) > 0 }
}

fn put_on(host: &File, tap: &OwnedFd, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 17];
    while !stop.load(Ordering::Acquire) {
        if !wait_readable(host.as_raw_fd()) {
            continue;
        }
        let Ok(length) = (&mut &*host).read(&mut buffer) else { continue };
        let inner = &buffer[VIRTIO_HEADER..length];
        if inner[12..14] != [0x08, 0x00] {
            continue;
        }
        let frame = [&[0; VIRTIO_HEADER][..], &outer(inner.len()), inner].concat();
        // SAFETY: the frame with its length. What does not fit a queue is lost, as on any wire.
        unsafe { libc::send(tap.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    }
}

fn take_off(tap: &OwnedFd, host: &File, stop: &AtomicBool, largest: &AtomicUsize) {
    let mut buffer = vec![0; 1 << 17];
    while !stop.load(Ordering::Acquire) {
        if !wait_readable(tap.as_raw_fd()) {
            continue;
        }
        // SAFETY: sockaddr_ll is plain data for which all zeroes is a value.
        let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = u32::try_from(size_of_val(&from)).unwrap();
        // SAFETY: buffer and address with their lengths.
        let received = unsafe {
            let (to, size) = (buffer.as_mut_ptr().cast(), buffer.len());
            libc::recvfrom(tap.as_raw_fd(), to, size, 0, (&raw mut from).cast(), &raw mut length)
        };
        let Ok(received) = usize::try_from(received) else { continue };
        if from.sll_pkttype == libc::PACKET_OUTGOING {
            continue;
        }
        assert_eq!(
            buffer[VIRTIO_HEADER + 12..VIRTIO_HEADER + 15],
            [0x08, 0x00, 0x45],
            "a frame of the overlay"
        );
        assert_eq!(buffer[VIRTIO_HEADER + OUTER - 8..VIRTIO_HEADER + OUTER - 1], [8, 0, 0, 0, 0, 0, 100]);
        largest.fetch_max(received, Ordering::Relaxed);
        // Header length and begin of the checksum, without what is taken off.
        for at in [2, 6] {
            let number = u16::from_ne_bytes([buffer[at], buffer[at + 1]]);
            let moved = number.saturating_sub(u16::try_from(OUTER).unwrap());
            buffer[at..at + 2].copy_from_slice(&moved.to_ne_bytes());
        }
        let frame = [&buffer[..VIRTIO_HEADER], &buffer[VIRTIO_HEADER + OUTER..received]].concat();
        let _ = (&mut &*host).write_all(&frame);
    }
}

fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) | 1 << 40;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            u8::try_from(state >> 56).unwrap()
        })
        .collect()
}

/// Sends noise over TCP and compares digests.
fn transfer(from: &Host, to: &Host, address: &'static str, seed: u32) {
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
    let sent = from.inside(move || {
        let mut stream = TcpStream::connect_timeout(&to_address, PATIENCE).expect("connect");
        stream.set_write_timeout(Some(PATIENCE)).expect("timeout");
        let bytes = noise(seed, TRANSFER_BYTES);
        stream.write_all(&bytes).expect("write");
        Sha256::digest(&bytes).to_vec()
    });
    let sent = sent.join().expect("sender");
    assert_eq!(sent, receiver.join().expect("receiver"), "to {address}");
}

/// An engine in host a, wireguard-go and a kernel's VXLAN device in host b.
fn stand(wire: &mut Wire) -> Running {
    let pair = Pair::new(wire);
    wire.wireguard_go(&pair);
    let a = wire.engine(&wire.a);
    a.client().set_device(pair.a).expect("device of a");
    wire.a.address("wtwg0");
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    let vxlan = ["link", "add", "vx0", "address", MAC_B, "mtu", "1370", "type", "vxlan", "id", "100"];
    let ends = ["local", "10.9.0.2", "remote", "10.9.0.1", "dstport", "4789"];
    wire.b.ip(&[&vxlan[..], &ends].concat());
    wire.b.ip(&["address", "add", "10.77.0.2/24", "dev", "vx0"]);
    wire.b.ip(&["link", "set", "vx0", "up"]);
    wire.b.ip(&["neigh", "add", "10.77.0.1", "lladdr", MAC_A, "dev", "vx0"]);
    a
}

#[test]
fn as_root_vxlan_crosses_by_the_tap_and_the_far_end_is_anybodys() {
    let mut wire = Wire::new();
    let mut a = stand(&mut wire);
    let touched = a.client().set_overlays(overlay(true)).expect("overlay").touched;
    assert_eq!(touched, ["overlays[wtwg0].added"]);
    assert!(a.client().set_overlays(overlay(true)).expect("again").touched.is_empty());
    let index = status(&a).link.expect("the TAP").index;
    let shuttle = Shuttle::start(&wire.a);
    wait_until("a ping crosses the overlay", || wire.a.pings("10.77.0.2"));
    transfer(&wire.a, &wire.b, "10.77.0.2", 1);
    transfer(&wire.b, &wire.a, "10.77.0.1", 2);
    let crossed = status(&a);
    println!("{crossed:?}, largest {}", shuttle.largest.load(Ordering::Relaxed));
    assert!(crossed.read_bytes > TRANSFER_BYTES as u64 && crossed.written_bytes > TRANSFER_BYTES as u64);
    assert!(shuttle.largest.load(Ordering::Relaxed) > 4000, "nothing was put together");
    let drops = a.device().drops;
    assert!(drops.iter().all(|drop| drop.reason == "no_peer"), "{drops:?}");

    // A successor takes it over, and nothing is lost.
    let mut ping = wire.a.command("ping");
    ping.args(["-n", "-q", "-i", "0.005", "-c", "400", "10.77.0.2"]).stdout(Stdio::piped());
    let ping = ping.spawn().expect("ping");
    a.upgrade();
    let output = ping.wait_with_output().expect("ping");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("400 received, 0% packet loss"), "{said}");
    assert_eq!(status(&a).link.expect("the TAP").index, index);
    assert!(status(&a).config.inbound);

    // A killed engine takes it up again, and the interface stays.
    a.kill();
    a.start();
    wait_until("a ping crosses the overlay", || wire.a.pings("10.77.0.2"));
    assert_eq!(status(&a).link.expect("the TAP").index, index);
    transfer(&wire.a, &wire.b, "10.77.0.2", 3);

    // Too long with its outer header: dropped, and told.
    wire.a.ip(&["link", "set", "h0", "mtu", "1400"]);
    let mut ping = wire.a.command("ping");
    let output = ping.args(["-n", "-c", "1", "-W", "1", "-M", "do", "-s", "1370", "10.77.0.2"]).output();
    assert!(!output.expect("ping").status.success());
    assert!(a.device().drops.iter().any(|drop| drop.reason == "too_big"), "{:?}", a.device().drops);

    // Without it, VXLAN that arrives goes to the TUN, where the kernel would look for a VXLAN device.
    drop(shuttle);
    a.client().set_overlays(overlay(false)).expect("overlay");
    let before = status(&a).writes;
    let _ = wire.b.pings("10.77.0.1");
    assert_eq!(status(&a).writes, before);
    a.client().set_overlays(OverlaysConfig::default()).expect("no overlay");
    assert!(a.client().list_overlays().expect("overlays").overlays.is_empty());
    wait_until("the TAP is gone", || !wire.a.ip(&["-o", "link", "show"]).contains("wto0"));
    assert!(wire.a.pings("10.9.0.2"), "the device goes on");
}

#[test]
fn as_root_a_tap_that_cannot_be_had_or_vanishes_is_made_later() {
    let wire = Wire::new();
    let (mut a, _b, _) = wire.tunnel();
    run("ip", &["-n", &wire.a.namespace, "tuntap", "add", "wto0", "mode", "tap"]);
    a.client().set_overlays(overlay(true)).expect("noted");
    let refused = status(&a);
    assert!(
        refused.link.is_none() && refused.error.as_deref().is_some_and(|e| e.contains("alias")),
        "{refused:?}"
    );
    assert!(wire.a.pings("10.9.0.2"));
    wire.a.ip(&["link", "delete", "wto0"]);
    wait_until("the TAP is made", || status(&a).link.is_some());
    wire.a.ip(&["link", "set", "wto0", "down"]);
    assert!(wire.a.pings("10.9.0.2"), "the TUN goes on");
    wait_until("it is up again", || status(&a).link.is_some_and(|link| link.up));
    let former = status(&a).link.expect("the TAP").index;
    wire.a.ip(&["link", "delete", "wto0"]);
    assert!(wire.a.pings("10.9.0.2"), "the TUN goes on");
    wait_until("the TAP is made again", || status(&a).link.is_some_and(|link| link.index != former));

    // An engine that is not to use any lets it vanish.
    a.terminate();
    a.arguments = vec!["--without".to_owned(), "overlay-tap".to_owned()];
    a.start();
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    assert!(!a.client().list_overlays().expect("overlays").possible);
    assert!(!wire.a.ip(&["-o", "link", "show"]).contains("wto0"));
}
