//! A datapath of its own for one test, with a small scene, and the change of every counter.
//!
//! ```text
//!  tenant 1                                           tenant 2 (same addresses)
//!  segment 1000 (10.0.0.0/24, fd00:0::/64)            segment 2000
//!    trunk 100 vlan 10, trunk 101 vlan 20, VTEP .2      trunk 100 vlan 30, trunk 101 vlan 31
//!  segment 1001 (10.0.1.0/24, fd00:1::/64)
//!    interface 102
//!  core 9100, nodes 9200 (10.0.0.77), L3VNI 5001      cross-connect: trunk 100 vlan 40 = 9300
//!  10.9.0.0/16 remote, 192.168.0.0/16 exit, 203.0.113.0/24 nowhere
//! ```
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod first_release;
pub mod frames;
pub mod netns;
pub mod sequence;
pub mod sites;
pub mod wire;

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf};

use watari_dataplane::*;

pub const A: PortKey = PortKey::vlan(100, 10);
pub const B: PortKey = PortKey::vlan(101, 20);
pub const C: PortKey = PortKey::untagged(102);
pub const OTHER: PortKey = PortKey::vlan(100, 30);
pub const OTHER_B: PortKey = PortKey::vlan(101, 31);
pub const WIRE: PortKey = PortKey::vlan(100, 40);
pub const WIRE_END: PortKey = PortKey::untagged(9300);
pub const VXLAN: PortKey = PortKey::untagged(9000);
pub const CORE: PortKey = PortKey::untagged(9100);
pub const NODES: PortKey = PortKey::untagged(9200);
pub const TUNNEL: PortKey = PortKey::untagged(9400);
pub const ANYCAST: [u8; 6] = [0x02, 0x57, 0x54, 0, 0, 1];
pub const ROUTER: [u8; 6] = [0x02, 0x57, 0x54, 1, 0, 1];
pub const FAR_ROUTER: [u8; 6] = [0x02, 0x57, 0x54, 1, 0, 2];
pub const CORE_MAC: [u8; 6] = [0x02, 0xc0, 0, 0, 0, 1];
pub const WIRE_MAC: [u8; 6] = [0x02, 0xd0, 0, 0, 0, 1];
pub const NODE_MAC: [u8; 6] = [0x02, 0x57, 0x54, 2, 0, 0x77];
pub const HOST_A: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
pub const HOST_B: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0b];
pub const HOST_C: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0c];
pub const HOST_R: [u8; 6] = [0x02, 0, 0, 0, 0, 0x12];
pub const FAR: [u8; 16] = v4([10, 255, 0, 2]);
pub const LOCAL: [u8; 16] = v4([10, 255, 0, 1]);
pub const L2: u32 = 1000;
pub const L2_SECOND: u32 = 1001;
pub const L2_OTHER: u32 = 2000;
pub const L3: u32 = 5001;

/// An IPv4 address as it lies in a key.
pub const fn v4(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// A loaded datapath that is taken down with the value.
pub struct Rig {
    pub dataplane: Dataplane,
    pub folder: PathBuf,
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Rig {
    /// Without any entry.
    pub fn bare(name: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let folder = PathBuf::from(format!("/sys/fs/bpf/wtt-{name}-{}", std::process::id()));
        let dataplane = Dataplane::open(&folder).unwrap_or_else(|error| panic!("{error:?}"));
        Self { dataplane, folder }
    }

    /// With the scene of this file.
    pub fn new(name: &str) -> Self {
        let rig = Self::bare(name);
        rig.scene().unwrap();
        rig
    }

    fn scene(&self) -> Result<(), Error> {
        let d = &self.dataplane;
        d.set_config(&Config {
            vxlan_ifindex: VXLAN.ifindex,
            vxlan_port: 4789,
            flags: Config::OWN_ENCAP,
            dscp: Config::DSCP_INNER,
            local_vtep: LOCAL,
            anycast_mac: ANYCAST,
            router_mac: ROUTER,
            vxlan_slot: 0,
        })?;
        let core = Tenant { core_ifindex: CORE.ifindex, l3vni: L3, core_mac: CORE_MAC, pad: 0 };
        d.tenants.upsert(&1, &core)?;
        for (vni, tenant) in [(L2, 1), (L2_SECOND, 1), (L2_OTHER, 2)] {
            d.segments.upsert(&vni, &Segment::l2(tenant, 1000, 100))?;
        }
        d.segments.upsert(&L3, &Segment::l3(1))?;
        self.ports()?;
        for (vni, ports) in [(L2, [A, B].as_slice()), (L2_SECOND, &[C]), (L2_OTHER, &[OTHER, OTHER_B])] {
            d.flood_ports.upsert(&vni, &FloodPorts::new(ports).unwrap())?;
        }
        d.flood_vteps.upsert(&L2, &FloodVteps::new(&[FAR]).unwrap())?;
        d.vteps.upsert(&TunnelKey { ifindex: TUNNEL.ifindex, vtep: FAR }, &1)?;
        self.addresses()?;
        self.routes()
    }

    fn ports(&self) -> Result<(), Error> {
        let d = &self.dataplane;
        d.ports.upsert(&A, &Port::segment(1, L2))?;
        d.ports.upsert(&B, &Port::segment(1, L2))?;
        d.ports.upsert(&C, &Port::segment(1, L2_SECOND))?;
        d.ports.upsert(&OTHER, &Port::segment(2, L2_OTHER))?;
        d.ports.upsert(&OTHER_B, &Port::segment(2, L2_OTHER))?;
        d.ports.upsert(&CORE, &Port::core(1))?;
        d.ports.upsert(&NODES, &Port::node(1))?;
        let mut wire = Port::cross(WIRE_END);
        wire.answer_mac = WIRE_MAC;
        wire.answer_v4 = [198, 51, 100, 1];
        wire.answer_v6 = abi::ip_bytes(ip("2001:db8::1"));
        d.ports.upsert(&WIRE, &wire)?;
        d.ports.upsert(&WIRE_END, &Port::cross(WIRE))
    }

    fn addresses(&self) -> Result<(), Error> {
        let d = &self.dataplane;
        let own = |mac| NeighStatic { mac, flags: NeighStatic::OWN };
        for (vni, address, mac) in [
            (L2, "10.0.0.1", ANYCAST),
            (L2, "fd00::1", ANYCAST),
            (L2, "10.0.0.254", ROUTER),
            (L2_SECOND, "10.0.1.1", ANYCAST),
            (L2_SECOND, "fd00:0:0:1::1", ANYCAST),
        ] {
            d.nb_static.upsert(&NeighKey::new(vni, ip(address)), &own(mac))?;
        }
        let node = NeighStatic { mac: NODE_MAC, flags: 0 };
        d.nb_static.upsert(&NeighKey::new(L2, ip("10.0.0.77")), &node)?;
        d.mac_static.upsert(&MacKey::new(L2, NODE_MAC), &MacStatic { port: NODES, is_node: 1 })?;
        let key = NodeKey { ifindex: NODES.ifindex, ip: abi::ip_bytes(ip("10.0.0.77")) };
        d.nodes.upsert(&key, &Node { vni: L2, mac: NODE_MAC, pad: 0 })?;
        let far = MacRemote { vtep: FAR, flags: 0, sequence: 0 };
        d.mac_remote.upsert(&MacKey::new(L2, HOST_R), &far)?;
        let neighbour = NeighRemote { mac: HOST_R, flags: NeighRemote::OVERRIDE };
        d.nb_remote.upsert(&NeighKey::new(L2, ip("10.0.0.18")), &neighbour)?;
        d.nb_remote.upsert(&NeighKey::new(L2, ip("fd00::18")), &neighbour)
    }

    fn routes(&self) -> Result<(), Error> {
        let connected = |vni, gateway| Route::connected(vni, ip(gateway));
        let remote = Route::remote(RouteOrigin::Evpn, L3, FAR, FAR_ROUTER);
        for (prefix, length, route) in [
            ("10.0.0.1", 32, Route::own()),
            ("10.0.0.254", 32, Route::own()),
            ("fd00::1", 128, Route::own()),
            ("10.0.0.0", 24, connected(L2, "10.0.0.1")),
            ("fd00::", 64, connected(L2, "fd00::1")),
            ("10.0.1.0", 24, connected(L2_SECOND, "10.0.1.1")),
            ("fd00:0:0:1::", 64, connected(L2_SECOND, "fd00:0:0:1::1")),
            ("10.0.0.77", 32, Route::node(NODES.ifindex)),
            ("10.9.0.0", 16, remote),
            ("fd09::", 16, remote),
            ("192.168.0.0", 16, Route::exit(RouteOrigin::Bgp)),
            ("203.0.113.0", 24, Route::blackhole(RouteOrigin::Plan)),
        ] {
            self.dataplane.routes.upsert(&Prefix::new(1, ip(prefix), length)?, &route)?;
        }
        Ok(())
    }

    /// A host that has been heard on an attachment: MAC and neighbour, as the programs would have learnt them.
    pub fn heard(&self, port: PortKey, vni: u32, mac: [u8; 6], address: &str) {
        let now = boot_ns();
        let local = MacLocal { port, last_seen_ns: now };
        self.dataplane.mac_local.upsert(&MacKey::new(vni, mac), &local).unwrap();
        let neighbour = NeighLocal { mac, flags: NeighLocal::OVERRIDE, port, last_seen_ns: now };
        self.dataplane.nb_local.upsert(&NeighKey::new(vni, ip(address)), &neighbour).unwrap();
    }

    /// Every counter there is, by name.
    pub fn counters(&self) -> BTreeMap<String, i128> {
        let stats = &self.dataplane.stats;
        let mut all = BTreeMap::new();
        for (reason, value) in stats.drops().unwrap() {
            all.insert(format!("drop {}", reason.name()), i128::from(value));
        }
        for (counter, value) in stats.counters().unwrap() {
            all.insert(counter.name().to_owned(), i128::from(value));
        }
        for (port, value) in stats.ports().unwrap() {
            let name = port_name(&port);
            for (what, value) in [
                ("rx", value.rx_packets),
                ("rx bytes", value.rx_bytes),
                ("tx", value.tx_packets),
                ("tx bytes", value.tx_bytes),
                ("drops", value.drops),
            ] {
                all.insert(format!("{name} {what}"), i128::from(value));
            }
        }
        all
    }

    /// Runs a packet and returns what became of it, with the change of every counter that changed.
    pub fn run(&self, packet: &Packet<'_>) -> (Outcome, BTreeMap<String, i128>) {
        let before = self.counters();
        let outcome = self.dataplane.run(packet).unwrap();
        let changes = self
            .counters()
            .into_iter()
            .map(|(name, value)| (name.clone(), value - before.get(&name).copied().unwrap_or(0)))
            .filter(|(_, change)| *change != 0)
            .collect();
        (outcome, changes)
    }

    /// Runs a packet; the verdict and the change of every counter must be these, bytes of the port and VXLAN
    /// counters apart, which are those of the frame.
    #[track_caller]
    pub fn expect(&self, packet: &Packet<'_>, verdict: Verdict, changes: &[(&str, i128)]) -> Vec<u8> {
        let (outcome, mut seen) = self.run(packet);
        assert_eq!(outcome.verdict, verdict, "{seen:?}");
        seen.retain(|name, change| {
            if let Some(port) = name.strip_suffix(" rx bytes") {
                assert_eq!(*change, packet.frame.len() as i128, "received bytes of {port}");
                return false;
            }
            if name.ends_with(" tx bytes") {
                assert_eq!(*change % outcome.frame.len() as i128, 0, "sent bytes: {name}");
                return false;
            }
            true
        });
        // No test run finds a kernel route to a VTEP, so the way is the device's.
        if matches!(verdict, Verdict::Vtep { .. }) {
            assert_eq!(seen.remove("through-device"), Some(1));
        }
        let wanted: BTreeMap<_, _> =
            changes.iter().map(|(name, change)| ((*name).to_owned(), *change)).collect();
        assert_eq!(seen, wanted);
        let action = match verdict {
            Verdict::Port(_) | Verdict::Vtep { .. } => 7,
            Verdict::Pass | Verdict::None => -1,
            _ => 2,
        };
        assert_eq!(outcome.action, action);
        outcome.frame
    }

    /// The packet must be dropped for this reason, and counted.
    #[track_caller]
    pub fn expect_drop(&self, packet: &Packet<'_>, reason: DropReason, more: &[(&str, i128)]) {
        let name = port_name(&packet.port);
        let (drop, drops, rx) =
            (format!("drop {}", reason.name()), format!("{name} drops"), format!("{name} rx"));
        let mut changes = vec![(drop.as_str(), 1), (drops.as_str(), 1), (rx.as_str(), 1)];
        changes.extend_from_slice(more);
        self.expect(packet, Verdict::Drop(reason as u8), &changes);
    }

    /// Every table's content, as text.
    pub fn dump(&self) -> String {
        let d = &self.dataplane;
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            d.config().unwrap(),
            d.ports.entries().unwrap(),
            d.segments.entries().unwrap(),
            d.tenants.entries().unwrap(),
            d.nodes.entries().unwrap(),
            d.vteps.entries().unwrap(),
            d.mac_static.entries().unwrap(),
            d.mac_frozen.entries().unwrap(),
            d.mac_local.entries().unwrap(),
            d.mac_remote.entries().unwrap(),
            d.nb_static.entries().unwrap(),
            d.nb_local.entries().unwrap(),
            d.nb_remote.entries().unwrap(),
            d.routes.entries().unwrap(),
            d.flood_ports.entries().unwrap(),
            d.flood_vteps.entries().unwrap(),
            d.buckets.entries().unwrap(),
            self.counters(),
            self.drain_events(),
        )
    }

    /// Takes all events; how many there were.
    pub fn drain_events(&self) -> usize {
        let mut events = self.dataplane.events().unwrap();
        std::iter::from_fn(|| events.take()).count()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Ok(entries) = fs::read_dir(&self.folder) {
            for entry in entries.flatten() {
                let _ = fs::remove_file(entry.path());
            }
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

pub fn port_name(port: &PortKey) -> String {
    let kind = if port.outer & PortKey::S_TAG == 0 { "" } else { "s" };
    match (port.outer & !PortKey::S_TAG, port.inner) {
        (0, 0) => format!("{}", port.ifindex),
        (outer, 0) => format!("{}.{kind}{outer}", port.ifindex),
        (outer, inner) => format!("{}.{kind}{outer}.{inner}", port.ifindex),
    }
}

pub fn boot_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
