//! Hosts of 1500 bytes on both sides of a tunnel that carries less: super-frames, checksums that are still to be written, and
//! fragments, which no test run can make. Needs root, `ip`, `ping`, `ethtool`.
//!
//! ```text
//!  host a ─ vlan 10 ─ ta ┐ gateway A                       gateway B ┌ tb ─ vlan 20 ─ host b
//!  (1500)                ├ wtvx ─ wtd0═wtd0p ─ w ══ vlan 40 ══ w ─ wtd0p═wtd0 ─ wtvx ┤ (1500)
//!                                    (1400: 1350 bytes of a tenant cross)
//! ```

mod rig;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use rig::{netns::*, sites::Join, *};
use watari_dataplane::*;

/// What the tunnel carries: less than hosts send.
const NARROW: Join = Join::narrow(1400);
const MTU: u16 = NARROW.host_mtu();

/// Two sites whose hosts know each other, and the tenant's namespace at each.
struct Bench {
    sites: sites::Bench,
    core_a: Netns,
    _core_b: Netns,
}

impl std::ops::Deref for Bench {
    type Target = sites::Bench;

    fn deref(&self) -> &sites::Bench {
        &self.sites
    }
}

/// The tenant's namespace: a stack of the gateway's own, in the segment.
fn core(gateway: &sites::Gateway, core: &Netns) {
    let d = &gateway.rig.dataplane;
    veth((&gateway.space, "wtc"), (core, "wt-core"));
    gateway.space.ip("link set wtc mtu 9216");
    core.ip("link set wt-core mtu 9216");
    let own = format!("10.0.0.{}", 250 + gateway.number);
    core.ip(&format!("addr add {own}/32 dev wt-core"));
    core.ip("neigh add 169.254.0.1 lladdr 02:57:54:00:00:01 dev wt-core nud permanent");
    core.ip(&format!("route add 10.0.0.0/24 via 169.254.0.1 dev wt-core onlink src {own}"));
    let port = PortKey::untagged(gateway.index("wtc"));
    let tenant = Tenant { core_ifindex: port.ifindex, l3vni: L3, core_mac: core.mac_of("wt-core"), pad: 0 };
    d.tenants.upsert(&1, &tenant).unwrap();
    d.ports.upsert(&port, &Port::core(1)).unwrap();
    let entry = NeighStatic { mac: gateway.router_mac(), flags: NeighStatic::OWN };
    d.nb_static.upsert(&NeighKey::new(L2, rig::ip(&own)), &entry).unwrap();
    d.routes.upsert(&Prefix::host(1, rig::ip(&own)), &Route::own()).unwrap();
    let route = Route::connected(L2, rig::ip(&own));
    d.routes.upsert(&Prefix::new(1, rig::ip("10.0.0.0"), 24).unwrap(), &route).unwrap();
    gateway.attach("wtc", Hook::Core);
}

impl Bench {
    fn new(name: &str) -> Self {
        Self::with(name, NARROW)
    }

    fn with(name: &str, join: Join) -> Self {
        let sites = sites::Bench::with(name, join);
        let [core_a, core_b] = ["ca", "cb"].map(|who| Netns::new(&format!("{name}{who}")));
        core(&sites.a, &core_a);
        core(&sites.b, &core_b);
        sites.exchange();
        for to in ["10.0.0.11", "fd00::11"] {
            wait_until(to, || sites.host_a.try_run(&format!("ping -c 1 -W 1 {to}")).0);
        }
        Self { sites, core_a, _core_b: core_b }
    }

    /// Checksums left to the device and super-frames, at both hosts.
    fn offload(&self, on: bool) {
        let on = if on { "on" } else { "off" };
        for host in [&self.host_a, &self.host_b] {
            host.run(&format!("ethtool -K eth0 tx {on} tso {on} gso {on} gro {on}"));
        }
    }

    fn drops(&self) -> i128 {
        ["too-big", "too-big-silent", "rewrite-failed", "malformed"]
            .iter()
            .map(|reason| format!("drop {reason}"))
            .map(|name| self.a.counter(&name) + self.b.counter(&name))
            .sum()
    }
}

/// Sends `bytes` by TCP from one host to an address of the other.
fn transfer(from: &Netns, to: &Netns, address: &str, bytes: usize) {
    const PIECE: usize = 1 << 16;
    let listener = to.enter(|| TcpListener::bind((address, 0))).unwrap();
    let port = listener.local_addr().unwrap().port();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut buffer = vec![0; PIECE];
        let mut seen = 0_usize;
        loop {
            let length = stream.read(&mut buffer).unwrap();
            if length == 0 {
                return seen;
            }
            let wrong = (0..length).find(|i| buffer[*i] != ((seen + i) % 251) as u8);
            assert_eq!(wrong, None, "byte {seen} and on");
            seen += length;
        }
    });
    from.enter(|| {
        let address = (address.parse::<std::net::IpAddr>().unwrap(), port).into();
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut sent = 0;
        while sent < bytes {
            let piece: Vec<u8> = (sent..(sent + PIECE).min(bytes)).map(|i| (i % 251) as u8).collect();
            stream.write_all(&piece).unwrap();
            sent += piece.len();
        }
    });
    assert_eq!(receiver.join().unwrap(), bytes);
}

#[test]
fn root_tcp_of_hosts_that_keep_1500_runs_and_nothing_of_it_is_too_large() {
    let bench = Bench::new("mt");
    for offload in [true, false] {
        bench.offload(offload);
        let clamped = bench.a.counter("mss-clamped");
        for (from, to, address) in [
            (&bench.host_a, &bench.host_b, "10.0.0.11"),
            (&bench.host_b, &bench.host_a, "10.0.0.10"),
            (&bench.host_a, &bench.host_b, "fd00::11"),
            (&bench.host_b, &bench.host_a, "fd00::10"),
        ] {
            transfer(from, to, address, 8_000_000);
        }
        assert!(bench.a.counter("mss-clamped") >= clamped + 4, "SYN or SYN-ACK of each");
        assert_eq!(bench.drops(), 0, "offload {offload}: {:?}", bench.a.rig.counters());
    }
    assert_eq!(bench.a.counter("fragmented") + bench.b.counter("fragmented"), 0);
}

/// A UDP socket of the host, connected to port 9 of `to`, that lets nothing be fragmented, or everything.
fn socket(host: &Netns, to: &str, dont_fragment: bool) -> UdpSocket {
    let any = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = host.enter(|| UdpSocket::bind(any)).unwrap();
    let value = if dont_fragment { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_DONT };
    let (level, name) = if to.contains(':') {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
    };
    // SAFETY: a live descriptor and an integer of the size that is told.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as u32,
        )
    };
    assert_eq!(failed, 0);
    socket.connect((to, 9)).unwrap();
    socket
}

/// Sends until the kernel says that it is too long; how much it says would fit.
fn told(socket: &UdpSocket, payload: usize, v6: bool) -> i32 {
    let bytes = vec![0x5a; payload];
    wait_until("EMSGSIZE", || {
        // A pending error of the first one is told with the next.
        socket.send(&bytes).is_err_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE))
    });
    let (mut value, mut size) = (0_i32, size_of::<i32>() as u32);
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_MTU) } else { (libc::IPPROTO_IP, libc::IP_MTU) };
    // SAFETY: a live descriptor and an integer of the size that is told.
    let failed =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size) };
    assert_eq!(failed, 0);
    value
}

#[test]
fn root_udp_that_must_not_be_fragmented_learns_what_fits() {
    let bench = Bench::new("mu");
    for offload in [true, false] {
        bench.offload(offload);
        for (to, payload, v6) in [("10.0.0.11", 1472, false), ("fd00::11", 1452, true)] {
            bench.host_a.ip("route flush cache");
            bench.host_a.ip("-6 route flush cache");
            let sent = bench.a.counter("too-big-sent");
            assert_eq!(told(&socket(&bench.host_a, to, true), payload, v6), i32::from(MTU), "{to}");
            assert!(bench.a.counter("too-big-sent") > sent, "{to}, offload {offload}");
        }
    }
    assert_eq!(bench.a.counter("drop rewrite-failed"), 0);
}

#[test]
fn root_a_stream_that_was_never_clamped_is_told_as_well() {
    // Its SYN went when nothing was known of the way: super-frames of 1460 meet a way of less.
    let bench = Bench::new("ms");
    for gateway in [&bench.a, &bench.b] {
        gateway.measured(false);
    }
    for address in ["10.0.0.11", "fd00::11"] {
        let listener = bench.host_b.enter(|| TcpListener::bind((address, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut stream = bench.host_a.enter(|| TcpStream::connect((address, port))).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        for gateway in [&bench.a, &bench.b] {
            gateway.measured(true);
        }
        let sent = bench.a.counter("too-big-sent");
        let bytes = vec![0xa5; 2_000_000];
        let writer = std::thread::spawn(move || stream.write_all(&bytes));
        let mut seen = Vec::new();
        other.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        other.read_to_end(&mut seen).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(seen.len(), 2_000_000);
        assert!(bench.a.counter("too-big-sent") > sent, "{address}");
        for gateway in [&bench.a, &bench.b] {
            gateway.measured(false);
        }
    }
    assert_eq!(bench.a.counter("drop rewrite-failed"), 0);
}

#[test]
fn root_udp_that_may_be_fragmented_arrives_and_is_counted() {
    let bench = Bench::new("mf");
    let unmarked = bench.b.counter("drop vxlan-not-from-tunnel");
    for offload in [true, false] {
        bench.offload(offload);
        let receiver = bench.host_b.enter(|| UdpSocket::bind("10.0.0.11:9")).unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let sender = socket(&bench.host_a, "10.0.0.11", false);
        let before = bench.a.counter("fragmented");
        // 1472 fills the host's own packets; 4000 is fragmented by the host first.
        for payload in [1400, 1472, 4000] {
            let bytes: Vec<u8> = (0..payload).map(|i| i as u8).collect();
            let mut buffer = [0; 8192];
            wait_until("a datagram", || {
                sender.send(&bytes).unwrap();
                receiver.recv(&mut buffer).is_ok_and(|length| buffer[..length] == bytes)
            });
        }
        assert!(bench.a.counter("fragmented") >= before + 4, "{:?}", bench.a.rig.counters());
        assert_eq!(bench.drops(), 0);
    }
    assert_eq!(bench.b.counter("drop vxlan-not-from-tunnel"), unmarked);
}

#[test]
fn root_the_gateways_own_stack_gets_a_clear_answer() {
    let bench = Bench::new("mo");
    bench.b.knows([0x02, 0x57, 0x54, 1, 0, 1], ["10.0.0.251", "fd00::251"]);
    wait_until("ping", || bench.core_a.try_run("ping -c 1 -W 1 10.0.0.11").0);
    let (ok, text) = bench.core_a.try_run("ping -c 2 -W 1 -s 1472 -M do 10.0.0.11");
    assert!(!ok && text.contains("mtu = 1350"), "{text}");
    bench.core_a.run("ping -c 2 -W 1 -s 1322 -M do 10.0.0.11");
    // What it may fragment it does by itself from then on.
    bench.core_a.run("ping -c 2 -W 1 -s 3000 -M dont 10.0.0.11");
}
