//! The datapath with real devices and real hosts. Needs root, `ip`, `ping` and `iperf3`.
//!
//! ```text
//!  host a ── vlan 10 ──▶ ta ┐                       ┌ tb ◀── vlan 20 ── host b
//!                           ├── gateway (segment) ──┤
//!  host c ── untagged ─▶ tc ┘                       └ wtc ── wt-core (tenant)
//! ```

mod rig;

use std::process::Stdio;

use rig::{netns::*, *};
use watari_dataplane::*;

struct Bench {
    rig: Rig,
    gateway: Netns,
    a: Netns,
    b: Netns,
    c: Netns,
    core: Netns,
}

impl Bench {
    fn new(name: &str) -> Self {
        let space = |who: &str| Netns::new(&format!("{name}{who}"));
        let bench = Self {
            rig: Rig::bare(name),
            gateway: space("g"),
            a: space("a"),
            b: space("b"),
            c: space("c"),
            core: space("t"),
        };
        bench.hosts();
        bench.tenant();
        bench.tables();
        bench
    }

    fn hosts(&self) {
        for (host, port, vid, last) in
            [(&self.a, "ta", 10, 10), (&self.b, "tb", 20, 11), (&self.c, "tc", 0, 12)]
        {
            veth((host, "eth0"), (&self.gateway, port));
            if vid != 0 {
                host.enter(|| attach_host_vlan("eth0", vid)).unwrap();
            }
            let subnet = if vid == 0 { 1 } else { 0 };
            host.ip(&format!("addr add 10.0.{subnet}.{last}/24 dev eth0"));
            host.ip(&format!("addr add fd00:0:0:{subnet}::{last}/64 dev eth0 nodad"));
            host.ip(&format!("route add default via 10.0.{subnet}.1"));
            host.ip(&format!("-6 route add default via fd00:0:0:{subnet}::1"));
        }
    }

    fn tenant(&self) {
        veth((&self.gateway, "wtc"), (&self.core, "wt-core"));
        let core = &self.core;
        for own in ["10.0.0.1/32", "10.0.1.1/32", "10.0.0.254/32", "fd00::1/128", "fd00:0:0:1::1/128"] {
            core.ip(&format!("addr add {own} dev wt-core {}", if own.contains(':') { "nodad" } else { "" }));
        }
        core.ip("neigh add 169.254.0.1 lladdr 02:57:54:00:00:01 dev wt-core nud permanent");
        core.ip("neigh add fe80::1 lladdr 02:57:54:00:00:01 dev wt-core nud permanent");
        core.ip("route add 10.0.0.0/16 via 169.254.0.1 dev wt-core onlink");
        core.ip("-6 route add fd00::/48 via fe80::1 dev wt-core onlink");
        core.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    }

    fn tables(&self) {
        let d = &self.rig.dataplane;
        let index = |device| self.gateway.index_of(device);
        let (a, b) = (PortKey::vlan(index("ta"), 10), PortKey::vlan(index("tb"), 20));
        let (c, core) = (PortKey::untagged(index("tc")), PortKey::untagged(index("wtc")));
        let config = Config { anycast_mac: ANYCAST, router_mac: ROUTER, ..Config::default() };
        d.set_config(&config).unwrap();
        let tenant =
            Tenant { core_ifindex: core.ifindex, core_mac: self.core.mac_of("wt-core"), ..Tenant::default() };
        d.tenants.upsert(&1, &tenant).unwrap();
        d.ports.upsert(&core, &Port::core(1)).unwrap();
        for (vni, ports) in [(L2, [a, b].as_slice()), (L2_SECOND, &[c])] {
            d.segments.upsert(&vni, &Segment::l2(1, 1000, 100)).unwrap();
            d.flood_ports.upsert(&vni, &FloodPorts::new(ports).unwrap()).unwrap();
            for port in ports {
                d.ports.upsert(port, &Port::segment(1, vni)).unwrap();
            }
        }
        for (vni, text, mac) in [
            (L2, "10.0.0.1", ANYCAST),
            (L2, "10.0.0.254", ROUTER),
            (L2, "fd00::1", ANYCAST),
            (L2_SECOND, "10.0.1.1", ANYCAST),
            (L2_SECOND, "fd00:0:0:1::1", ANYCAST),
        ] {
            let own = NeighStatic { mac, flags: NeighStatic::OWN };
            d.nb_static.upsert(&NeighKey::new(vni, rig::ip(text)), &own).unwrap();
            d.routes.upsert(&Prefix::host(1, rig::ip(text)), &Route::own()).unwrap();
        }
        for (vni, prefix, length, gateway) in [
            (L2, "10.0.0.0", 24, "10.0.0.1"),
            (L2, "fd00::", 64, "fd00::1"),
            (L2_SECOND, "10.0.1.0", 24, "10.0.1.1"),
            (L2_SECOND, "fd00:0:0:1::", 64, "fd00:0:0:1::1"),
        ] {
            let route = Route::connected(vni, rig::ip(gateway));
            d.routes.upsert(&Prefix::new(1, rig::ip(prefix), length).unwrap(), &route).unwrap();
        }
        self.attach();
    }

    fn hooks(&self) -> [(u32, Hook); 4] {
        [("ta", Hook::Trunk), ("tb", Hook::Trunk), ("tc", Hook::Interface), ("wtc", Hook::Core)]
            .map(|(device, hook)| (self.gateway.index_of(device), hook))
    }

    fn attach(&self) {
        let hooks = self.hooks();
        self.gateway.enter(|| {
            hooks.iter().for_each(|(index, hook)| self.rig.dataplane.attach(*index, *hook).unwrap())
        });
    }

    /// Mbit/s of one TCP stream from `from` to `server` at `address`.
    fn throughput(from: &Netns, server: &Netns, address: &str) -> f64 {
        let mut listener = server.command("iperf3 -s -p 5201").stdout(Stdio::null()).spawn().unwrap();
        let mut result = String::new();
        wait_until("iperf3", || {
            let client = format!("timeout 8 iperf3 -c {address} -p 5201 -t 2 -J --connect-timeout 1000");
            result = from.try_run(&client).1;
            result.contains("\"sum_received\"")
        });
        listener.kill().unwrap();
        listener.wait().unwrap();
        let (_, end) = result.split_once("\"sum_received\"").unwrap();
        let (_, rate) = end.split_once("\"bits_per_second\":").unwrap();
        rate.split(',').next().unwrap().trim().parse::<f64>().unwrap() / 1e6
    }
}

#[test]
fn root_hosts_on_two_vlans_are_one_network_and_reach_the_next() {
    let bench = Bench::new("net");
    for (from, to) in [
        (&bench.a, "10.0.0.11"),
        (&bench.a, "fd00::11"),
        (&bench.b, "10.0.0.10"),
        (&bench.a, "10.0.0.1"),
        (&bench.a, "fd00::1"),
        (&bench.b, "10.0.0.254"),
        (&bench.c, "10.0.1.1"),
        (&bench.a, "10.0.1.12"),
        (&bench.c, "10.0.0.11"),
        (&bench.a, "fd00:0:0:1::12"),
        (&bench.c, "fd00::11"),
    ] {
        // The first packet to an unknown neighbour is spent on the question.
        wait_until(to, || from.try_run(&format!("ping -c 1 -W 1 {to}")).0);
        from.run(&format!("ping -c 3 -i 0.05 -W 1 -s 1400 {to}"));
    }
    // From the gateway's own stack into the segment, and the error of a packet without hops left.
    bench.core.run("ping -c 2 -i 0.05 -W 1 -I 10.0.0.254 10.0.0.11");
    let (_, text) = bench.a.try_run("ping -c 1 -W 1 -t 1 10.0.1.12");
    assert!(text.contains("Time to live exceeded"), "{text}");
    // An address that nobody has: gleaned, counted, not spread for ever.
    assert!(!bench.a.try_run("ping -c 1 -W 1 10.0.1.99").0);
    let counters = bench.rig.counters();
    assert!(counters["gleaned"] >= 1 && counters["drop neighbour-unknown"] >= 1, "{counters:?}");
    assert_eq!(counters["drop malformed"], 0);
    assert_eq!(counters["drop rewrite-failed"], 0);
}

#[test]
fn root_tcp_runs_at_speed_in_super_frames() {
    let bench = Bench::new("tcp");
    for address in ["10.0.0.11", "fd00::11"] {
        let rate = Bench::throughput(&bench.a, &bench.b, address);
        println!("switched {address}: {rate:.0} Mbit/s");
        assert!(rate > 500.0, "{address}: {rate} Mbit/s: packet by packet?");
    }
    let routed = Bench::throughput(&bench.a, &bench.c, "10.0.1.12");
    println!("routed: {routed:.0} Mbit/s");
    assert!(routed > 500.0, "{routed} Mbit/s");
    assert_eq!(bench.rig.counters()["drop rewrite-failed"], 0);
}

#[test]
fn root_udp_to_an_unknown_neighbour_becomes_a_clean_question() {
    // A local sender leaves the UDP checksum to the device: the place where it will be written lies inside an
    // ARP message of ordinary length.
    let bench = Bench::new("udp");
    for (host, address) in [("10.0.1.12", "10.0.1.12"), ("fd00:0:0:1::12", "fd00:0:0:1::12")] {
        let key = NeighKey::new(L2_SECOND, rig::ip(address));
        let d = &bench.rig.dataplane;
        wait_until(address, || {
            let sent = bench.a.enter(|| {
                let any = if host.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
                let socket = std::net::UdpSocket::bind(any).unwrap();
                socket.send_to(b"who are you?", (host, 9)).is_ok()
            });
            sent && d.nb_local.get(&key).unwrap().is_some()
        });
        assert_eq!(d.nb_local.get(&key).unwrap().unwrap().mac, bench.c.mac_of("eth0"));
    }
}

#[test]
fn root_attachments_are_what_the_kernel_says() {
    let bench = Bench::new("att");
    let d = &bench.rig.dataplane;
    let mut wanted: Vec<_> =
        bench.hooks().iter().map(|(ifindex, hook)| Attachment { ifindex: *ifindex, hook: *hook }).collect();
    wanted.sort();
    let seen = || bench.gateway.enter(|| d.attachments().unwrap());
    assert_eq!(seen(), wanted);
    // By hand: the pin goes, and the program with it.
    let (ta, _) = bench.hooks()[0];
    std::fs::remove_file(bench.rig.folder.join(format!("wtl-trunk-{ta}"))).unwrap();
    wait_until("detached", || !seen().iter().any(|one| one.ifindex == ta));
    bench.attach();
    assert_eq!(seen(), wanted);
    // By hand: the device goes.
    bench.gateway.ip("link del tc");
    assert_eq!(seen().len(), 3);
    assert_eq!(bench.gateway.enter(|| d.forget_dead_links().unwrap()), 1);
    bench.gateway.enter(|| d.detach(ta, Hook::Trunk)).unwrap();
    wait_until("detached", || seen().len() == 2);
    assert!(bench.gateway.enter(|| d.attach(99_999, Hook::Trunk)).is_err());
}

#[test]
fn root_packets_go_on_while_the_programs_are_replaced() {
    let bench = Bench::new("swap");
    wait_until("first ping", || bench.a.try_run("ping -c 1 -W 1 10.0.0.11").0);
    let mut ping =
        bench.a.command("ping -c 200 -i 0.005 -W 1 -q 10.0.0.11").stdout(Stdio::piped()).spawn().unwrap();
    for round in 0..3 {
        forget_programs(&bench.rig.folder);
        let again = bench.gateway.enter(|| Dataplane::open(&bench.rig.folder)).unwrap();
        assert_eq!(*again.adoption(), Adoption::Replaced, "round {round}");
    }
    assert!(ping.wait().unwrap().success());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut ping.stdout.take().unwrap(), &mut text).unwrap();
    assert!(text.contains(" 0% packet loss"), "{text}");
    assert_eq!(bench.gateway.enter(|| bench.rig.dataplane.attachments().unwrap()).len(), 4);
}

/// Makes the pinned programs look like another build's.
fn forget_programs(folder: &std::path::Path) {
    std::fs::remove_file(folder.join("wtp-st_flood")).unwrap();
}
