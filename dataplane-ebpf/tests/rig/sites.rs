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
/// What fits a host's full frame in VXLAN.
const ROOMY: u16 = 1550;

/// How the two sites are joined.
#[derive(Clone, Copy)]
pub struct Join {
    /// The programs write VXLAN themselves.
    pub own_encap: bool,
    /// The underlay is IPv6.
    pub v6: bool,
    /// What the tunnel carries.
    pub tunnel_mtu: u16,
    /// The gateways know what crosses.
    pub is_measured: bool,
}

impl Join {
    pub const ROOMY: Self = Self { own_encap: true, v6: false, tunnel_mtu: ROOMY, is_measured: false };

    /// A tunnel of so many bytes, which the gateways know.
    pub const fn narrow(tunnel_mtu: u16) -> Self {
        Self { tunnel_mtu, is_measured: true, ..Self::ROOMY }
    }

    /// The largest IP packet of a host that crosses.
    pub const fn host_mtu(&self) -> u16 {
        self.tunnel_mtu - if self.v6 { 70 } else { 50 }
    }
}

pub struct Gateway {
    pub rig: Rig,
    pub space: Netns,
    pub number: u8,
    pub join: Join,
}

impl Gateway {
    pub fn new(name: &str, number: u8, join: Join) -> Self {
        let rig = Rig::bare(&format!("{name}{number}"));
        Self { rig, space: Netns::new(&format!("{name}g{number}")), number, join }
    }

    /// The VTEP of a gateway.
    pub fn vtep_of(&self, number: u8) -> std::net::IpAddr {
        ip(&if self.join.v6 { format!("2001:db8::{number}") } else { format!("10.255.0.{number}") })
    }

    /// The other gateway's, as a key.
    pub fn far(&self) -> [u8; 16] {
        abi::ip_bytes(self.vtep_of(3 - self.number))
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
        let end = self.underlay();
        let d = &self.rig.dataplane;
        let wire = PortKey::vlan(self.index("w"), 40);
        let mut port = Port::cross(end);
        port.answer_mac = self.space.mac_of("wtd0");
        port.answer_v4 = [192, 0, 2, self.number];
        port.answer_v6 = abi::ip_bytes(ip(&format!("fd90::{}", self.number)));
        port.flags |= Port::TUNNEL;
        port.tunnel_ifindex = self.index("wtd0");
        d.wires.upsert(&port.tunnel_ifindex, &Wire::direct(wire)).unwrap();
        d.ports.upsert(&wire, &port).unwrap();
        d.ports.upsert(&end, &Port::cross(wire)).unwrap();
        d.vteps.upsert(&TunnelKey { ifindex: self.index("wtd0"), vtep: self.far() }, &1).unwrap();
        if self.join.is_measured {
            self.measured(true);
        }
        for (device, hook) in
            [("w", Hook::Trunk), ("wtd0p", Hook::Cross), ("wtd0", Hook::Tunnel), ("wtvx4789", Hook::Vxlan)]
        {
            self.attach(device, hook);
        }
    }

    /// Devices, addresses and routes; the eBPF end of the tunnel's veth.
    fn underlay(&self) -> PortKey {
        let (mine, other, space) = (self.number, 3 - self.number, &self.space);
        let mtu = self.join.tunnel_mtu;
        // A frame of which the programs forget the size does not cross.
        space.ip(&format!("link set w mtu {}", mtu + 50));
        space.ip(&format!("link add wtd0 mtu {mtu} type veth peer name wtd0p mtu {mtu}"));
        space.ip(&format!("addr add 192.0.2.{mine}/24 dev wtd0"));
        space.ip(&format!("addr add fd90::{mine}/64 dev wtd0 nodad"));
        space.ip("link set wtd0 up");
        space.ip("link set wtd0p up");
        let kind = "vxlan external udp6zerocsumtx udp6zerocsumrx nolearning";
        space.ip(&format!("link add wtvx4789 mtu 9216 type {kind} dstport {PORT}"));
        let (own, far) = (self.vtep_of(mine), self.vtep_of(other));
        let (bits, by) = if self.join.v6 { (128, "fd90::") } else { (32, "192.0.2.") };
        let nodad = if self.join.v6 { "nodad" } else { "" };
        space.ip(&format!("addr add {own}/{bits} dev wtvx4789 {nodad}"));
        space.ip("link set wtvx4789 up");
        for family in ["ipv4", "ipv6"] {
            space.run(&format!("sysctl -qw net.{family}.conf.wtvx4789.forwarding=1"));
        }
        space.ip(&format!("route add {far}/{bits} via {by}{other} dev wtd0 src {own} proto 219"));
        PortKey::untagged(self.index("wtd0p"))
    }

    /// Whether the gateway knows what crosses to the other one.
    pub fn measured(&self, is: bool) {
        let remotes = &self.rig.dataplane.remotes;
        if is {
            let mtu = self.join.host_mtu();
            remotes.upsert(&self.far(), &Remote { mtu, flags: 0, pad: 0 }).unwrap();
        } else {
            remotes.remove(&self.far()).unwrap();
        }
    }

    pub fn segment(&self, attachment: PortKey) {
        let d = &self.rig.dataplane;
        let config = Config {
            vxlan_ifindex: self.index("wtvx4789"),
            vxlan_port: PORT,
            flags: if self.join.own_encap { Config::OWN_ENCAP } else { 0 },
            dscp: Config::DSCP_INNER,
            local_vtep: abi::ip_bytes(self.vtep_of(self.number)),
            anycast_mac: ANYCAST,
            router_mac: self.router_mac(),
            vxlan_slot: 0,
        };
        d.set_config(&config).unwrap();
        d.segments.upsert(&L2, &self.l2()).unwrap();
        d.ports.upsert(&attachment, &Port::segment(1, L2)).unwrap();
        d.flood_ports.upsert(&L2, &FloodPorts::new(&[attachment]).unwrap()).unwrap();
        d.flood_vteps.upsert(&L2, &FloodVteps::new(&[self.far()]).unwrap()).unwrap();
        let route = Route::connected(L2, ip("10.0.0.1"));
        d.routes.upsert(&Prefix::new(1, ip("10.0.0.0"), 24).unwrap(), &route).unwrap();
    }

    pub fn router_mac(&self) -> [u8; 6] {
        [0x02, 0x57, 0x54, 1, 0, self.number]
    }

    pub fn l2(&self) -> Segment {
        let mut segment = Segment::l2(1, 1000, 100);
        segment.flags |= Segment::PLAIN_DEVICES;
        segment
    }

    /// What EVPN would bring: the other side's host.
    pub fn knows(&self, mac: [u8; 6], addresses: [&str; 2]) {
        let d = &self.rig.dataplane;
        let remote = MacRemote { vtep: self.far(), flags: 0, sequence: 0 };
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
        Self::with(name, Join::ROOMY)
    }

    pub fn with(name: &str, join: Join) -> Self {
        let bench = Self {
            a: Gateway::new(name, 1, join),
            b: Gateway::new(name, 2, join),
            host_a: Netns::new(&format!("{name}ha")),
            host_b: Netns::new(&format!("{name}hb")),
        };
        veth((&bench.a.space, "w"), (&bench.b.space, "w"));
        for gateway in [&bench.a, &bench.b] {
            gateway.tunnel();
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
