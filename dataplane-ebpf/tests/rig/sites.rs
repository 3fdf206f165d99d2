//! Two gateways with VXLAN over a VLAN that eBPF terminates, and a host behind each.
//!
//! ```text
//!  host a ─ vlan 10 ─ t ┐ gateway A              gateway B ┌ t ─ vlan 20 ─ host b
//!                       ├ wtvx ─ wtd0═wtd0p ─ w ══ vlan 40 ══ w ─ wtd0p═wtd0 ─ wtvx ┤
//! ```
#![allow(dead_code, unreachable_pub, missing_docs)]

use watari_dataplane::*;

use super::{ip, netns::*, *};

pub const PORT: u16 = 4789;

pub struct Gateway {
    pub rig: Rig,
    pub space: Netns,
    pub number: u8,
    pub own_encap: bool,
}

impl Gateway {
    pub fn new(name: &str, number: u8, own_encap: bool) -> Self {
        let rig = Rig::bare(&format!("{name}{number}"));
        Self { rig, space: Netns::new(&format!("{name}g{number}")), number, own_encap }
    }

    pub fn index(&self, device: &str) -> u32 {
        self.space.index_of(device)
    }

    pub fn attach(&self, device: &str, hook: Hook) {
        let index = self.index(device);
        self.space.enter(|| self.rig.dataplane.attach(index, hook)).unwrap();
    }

    /// The tunnel to the other gateway and everything that hangs on it.
    pub fn tunnel(&self) {
        let (mine, other) = (self.number, 3 - self.number);
        let space = &self.space;
        space.ip("link add wtd0 type veth peer name wtd0p");
        space.ip(&format!("addr add 192.0.2.{mine}/24 dev wtd0"));
        space.ip("link set wtd0 up");
        space.ip("link set wtd0p up");
        space.ip(&format!("link add wtvx4789 type vxlan external dstport {PORT} nolearning"));
        space.ip(&format!("addr add 10.255.0.{mine}/32 dev wtvx4789"));
        space.ip("link set wtvx4789 up");
        space.run("sysctl -qw net.ipv4.conf.wtvx4789.forwarding=1");
        space.ip(&format!(
            "route add 10.255.0.{other}/32 via 192.0.2.{other} dev wtd0 src 10.255.0.{mine} proto 219"
        ));
        let d = &self.rig.dataplane;
        let (wire, end) = (PortKey::vlan(self.index("w"), 40), PortKey::untagged(self.index("wtd0p")));
        let mut port = Port::cross(end);
        port.answer_mac = space.mac_of("wtd0");
        port.answer_v4 = [192, 0, 2, mine];
        port.flags |= Port::TUNNEL;
        port.tunnel_ifindex = self.index("wtd0");
        d.wires.upsert(&port.tunnel_ifindex, &Wire { port: wire }).unwrap();
        d.ports.upsert(&wire, &port).unwrap();
        d.ports.upsert(&end, &Port::cross(wire)).unwrap();
        let bound = TunnelKey { ifindex: self.index("wtd0"), vtep: v4([10, 255, 0, other]) };
        d.vteps.upsert(&bound, &1).unwrap();
        for (device, hook) in
            [("w", Hook::Trunk), ("wtd0p", Hook::Cross), ("wtd0", Hook::Tunnel), ("wtvx4789", Hook::Vxlan)]
        {
            self.attach(device, hook);
        }
    }

    pub fn segment(&self, attachment: PortKey) {
        let (mine, other) = (self.number, 3 - self.number);
        let d = &self.rig.dataplane;
        let config = Config {
            vxlan_ifindex: self.index("wtvx4789"),
            vxlan_port: PORT,
            flags: if self.own_encap { Config::OWN_ENCAP } else { 0 },
            dscp: Config::DSCP_INNER,
            local_vtep: v4([10, 255, 0, mine]),
            anycast_mac: ANYCAST,
            router_mac: [0x02, 0x57, 0x54, 1, 0, mine],
        };
        d.set_config(&config).unwrap();
        d.segments.upsert(&L2, &self.l2()).unwrap();
        d.ports.upsert(&attachment, &Port::segment(1, L2)).unwrap();
        d.flood_ports.upsert(&L2, &FloodPorts::new(&[attachment]).unwrap()).unwrap();
        d.flood_vteps.upsert(&L2, &FloodVteps::new(&[v4([10, 255, 0, other])]).unwrap()).unwrap();
        let route = Route::connected(L2, ip("10.0.0.1"));
        d.routes.upsert(&Prefix::new(1, ip("10.0.0.0"), 24).unwrap(), &route).unwrap();
    }

    pub fn l2(&self) -> Segment {
        let mut segment = Segment::l2(1, 1000, 100);
        segment.flags |= Segment::PLAIN_DEVICES;
        segment
    }

    /// What EVPN would bring: the other side's host.
    pub fn knows(&self, mac: [u8; 6], addresses: [&str; 2]) {
        let d = &self.rig.dataplane;
        let remote = MacRemote { vtep: v4([10, 255, 0, 3 - self.number]), flags: 0, sequence: 0 };
        d.mac_remote.upsert(&MacKey::new(L2, mac), &remote).unwrap();
        for address in addresses {
            let neighbour = NeighRemote { mac, flags: 0 };
            d.nb_remote.upsert(&NeighKey::new(L2, ip(address)), &neighbour).unwrap();
        }
    }

    pub fn counter(&self, name: &str) -> i128 {
        self.rig.counters().get(name).copied().unwrap_or(0)
    }
}

pub struct Bench {
    pub a: Gateway,
    pub b: Gateway,
    pub host_a: Netns,
    pub host_b: Netns,
}

impl Bench {
    pub fn new(name: &str) -> Self {
        Self::with(name, true)
    }

    /// `own_encap`: the programs write VXLAN themselves.
    pub fn with(name: &str, own_encap: bool) -> Self {
        let bench = Self {
            a: Gateway::new(name, 1, own_encap),
            b: Gateway::new(name, 2, own_encap),
            host_a: Netns::new(&format!("{name}ha")),
            host_b: Netns::new(&format!("{name}hb")),
        };
        veth((&bench.a.space, "w"), (&bench.b.space, "w"));
        // Room for VXLAN around full-size frames.
        for gateway in [&bench.a, &bench.b] {
            gateway.space.ip("link set w mtu 1600");
            gateway.tunnel();
            gateway.space.ip("link set wtd0 mtu 1550");
            gateway.space.ip("link set wtd0p mtu 1550");
        }
        for (gateway, host, vid, last) in
            [(&bench.a, &bench.host_a, 10, 10), (&bench.b, &bench.host_b, 20, 11)]
        {
            veth((host, "eth0"), (&gateway.space, "t"));
            host.enter(|| attach_host_vlan("eth0", vid)).unwrap();
            host.ip(&format!("addr add 10.0.0.{last}/24 dev eth0"));
            host.ip(&format!("addr add fd00::{last}/64 dev eth0 nodad"));
            gateway.segment(PortKey::vlan(gateway.index("t"), vid));
            gateway.attach("t", Hook::Trunk);
        }
        bench
    }

    pub fn exchange(&self) {
        self.a.knows(self.host_b.mac_of("eth0"), ["10.0.0.11", "fd00::11"]);
        self.b.knows(self.host_a.mac_of("eth0"), ["10.0.0.10", "fd00::10"]);
    }
}
