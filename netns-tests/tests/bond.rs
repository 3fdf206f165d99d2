//! A bond of two NICs as trunk of a gateway: its VLANs are attachments like any trunk's, a NIC may go and come, and what
//! the bond says to its switch (LACP, IEEE 802.1AX) is nobody else's matter. For a kernel that has bonds; where the
//! machine's has not, `script/test-guest` runs these in a guest.
//!
//! ```text
//!   host-r .41 ─ VLAN 100 ═[ rack ]═ nic0 ═╗
//!                                  ═ nic1 ═╩ bond0 [gw-a] ── VXLAN over VLAN 900 ── [gw-b] ═ VLAN 200 ─ host-b .12
//! ```
//! With LACP the rack's switch has a bond of its own over the two wires, without it two ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use netns_tests::flow::{Flow, FlowSpec};
use netns_tests::links::veth;
use netns_tests::packet::{Capture, build, inject, vid};
use netns_tests::ping::{Ping, ping};
use netns_tests::tagged::Tagged;
use netns_tests::topology::{HOST_A, HOST_B, SEGMENT_MTU, Tunnel, VID_A, both, put_in_flat_network};
use netns_tests::world::SOON;
use netns_tests::{Ns, World, wait_until};
use serde_json::json;

const HOST_R: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 20, 0, 41), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x41));
const NICS: [&str; 2] = ["nic0", "nic1"];
/// EtherType of LACP and of the other slow protocols.
const SLOW_PROTOCOLS: [u8; 2] = [0x88, 0x09];
const LLDP: u16 = 0x88cc;
/// The group address of LLDP (IEEE 802.1Q table 8-1).
const LLDP_GROUP: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e];
/// Active, fast, aggregatable, in sync, collecting, distributing (IEEE 802.1AX §6.4.2.3).
const IN_SERVICE: &str = "port state: 63";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Lacp,
    ActiveBackup,
}

impl Mode {
    fn options(self) -> &'static str {
        match self {
            Self::Lacp => "mode 802.3ad miimon 100 lacp_rate fast xmit_hash_policy layer3+4",
            Self::ActiveBackup => "mode active-backup miimon 100",
        }
    }
}

struct Scene {
    world: World,
    rack: Ns,
    host: Ns,
    mode: Mode,
    _tag: Tagged,
}

/// `bond0` over both NICs.
fn bond(ns: &Ns, mode: Mode) -> Result<()> {
    ns.ip(&format!("link add bond0 type bond {}", mode.options()))?;
    for nic in NICS {
        ns.ip(&format!("link set {nic} down"))?;
        ns.ip(&format!("link set {nic} master bond0"))?;
        ns.ip(&format!("link set {nic} up"))?;
    }
    ns.ip("link set bond0 up").map(drop)
}

impl Scene {
    fn build(mode: Mode) -> Result<Self> {
        let (rack, host) = (Ns::new("rack")?, Ns::new("host-r")?);
        let world = World::start_with(&[Tunnel::Direct], |topology, document| {
            for nic in NICS {
                veth(&topology.a.gateway, nic, &rack, nic)?;
            }
            bond(&topology.a.gateway, mode)?;
            veth(&host, "eth0", &rack, "host")?;
            if mode == Mode::Lacp {
                bond(&rack, mode)?;
                rack.bridge("br0", &["bond0", "host"])?;
            } else {
                rack.bridge("br0", &["nic0", "nic1", "host"])?;
            }
            document["gateways"]["gw-a"]["trunks"] = json!(["trunk0", "trunk1", "bond0"]);
            document["attachments"]["host-r"] = json!({
                "gateway": "gw-a", "segment": "flat", "vlan": { "trunk": "bond0", "vid": VID_A },
            });
            Ok(())
        })?;
        let tag = Tagged::attach(&host, "eth0", VID_A)?;
        put_in_flat_network(&host, "eth0", HOST_R)?;
        world.tunnel_is_up("ab-direct")?;
        world.hosts_meet()?;
        Ok(Self { world, rack, host, mode, _tag: tag })
    }

    fn gateway(&self) -> &Ns {
        &self.world.topology.a.gateway
    }

    /// Across the sites and at the site, both families, and frames as large as the segment takes.
    fn all_meet(&self) -> Result<()> {
        let (a, b) = (&self.world.topology.a.host, &self.world.topology.b.host);
        for (from, to) in [(&self.host, HOST_B), (&self.host, HOST_A), (b, HOST_R), (a, HOST_R)] {
            for address in both(to) {
                wait_until(SOON, &format!("{} to reach {address}", from.label()), || ping(from, address))?;
            }
        }
        let full = Ping::to(HOST_B.0.into()).full(SEGMENT_MTU).send(&self.host)?;
        ensure!(full.received == 1 && full.text.contains("ttl=64"), "{}", full.text);
        Ok(())
    }

    /// The bond carries by so many NICs: with LACP, of those that both ends have put into service.
    fn carries_by(&self, nics: usize) -> Result<()> {
        let ends: &[&Ns] =
            if self.mode == Mode::Lacp { &[self.gateway(), &self.rack] } else { &[self.gateway()] };
        for end in ends {
            wait_until(SOON, &format!("bond0 of {} on {nics} NICs", end.label()), || {
                let shown = end.exec("cat /proc/net/bonding/bond0")?;
                let up = shown.split("Slave Interface: ").skip(1).filter(|s| s.contains("MII Status: up"));
                let up: Vec<&str> = up.collect();
                ensure!(up.len() == nics, "{shown}");
                if self.mode == Mode::Lacp {
                    ensure!(shown.contains(&format!("Number of ports: {nics}\n")), "{shown}");
                    // Its own state and what it heard of the partner's.
                    let in_service = |nic: &&str| nic.matches(IN_SERVICE).count() == 2;
                    ensure!(up.iter().all(in_service), "{shown}");
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Numbered datagrams both ways: all arrive, once.
    fn nothing_is_lost_or_doubled(&self) -> Result<()> {
        let b = &self.world.topology.b.host;
        for (from, to, address) in [(b, &self.host, HOST_R), (&self.host, b, HOST_B)] {
            let to_port = SocketAddr::new(IpAddr::V4(address.0), 9000);
            let flow = Flow::start(from, to, FlowSpec::to(to_port))?;
            flow.wait_for(400, SOON)?;
            let report = flow.stop()?;
            ensure!(report.lost == 0 && report.duplicates == 0 && report.refused == 0, "{report:?}");
        }
        Ok(())
    }

    /// Traffic goes on over the other NIC, and over both when the lost one is back.
    fn a_nic_goes_and_comes(&self, nic: &str) -> Result<()> {
        let to = SocketAddr::new(IpAddr::V4(HOST_R.0), 9100);
        let flow = Flow::start(&self.world.topology.b.host, &self.host, FlowSpec::to(to))?;
        flow.wait_for(100, SOON)?;
        self.rack.ip(&format!("link set {nic} down"))?;
        self.carries_by(1)?;
        flow.wait_for(200, SOON).with_context(|| format!("without {nic}"))?;
        self.all_meet()?;
        self.nothing_is_lost_or_doubled()?;
        self.rack.ip(&format!("link set {nic} up"))?;
        self.carries_by(2)?;
        flow.wait_for(200, SOON).with_context(|| format!("with {nic} again"))?;
        let report = flow.stop()?;
        println!("without {nic} and with it again: {report:?}");
        ensure!(report.duplicates == 0, "{report:?}");
        self.all_meet()?;
        self.nothing_is_lost_or_doubled()
    }

    /// What is said to the neighbour on the wire: the gateway's kernel hears it, no host does.
    fn link_local_frames_stay(&self) -> Result<()> {
        let hosts = [&self.world.topology.a.host, &self.world.topology.b.host];
        let stray = hosts.map(|host| {
            Capture::start(host, "eth0", |frame| {
                let at = if vid(frame).is_some() { 16 } else { 12 };
                frame[at..at + 2] == SLOW_PROTOCOLS || frame[at..at + 2] == LLDP.to_be_bytes()
            })
        });
        let stray = stray.into_iter().collect::<Result<Vec<_>>>()?;
        let heard = Capture::start(self.gateway(), NICS[0], |frame| frame[12..14] == LLDP.to_be_bytes())?;
        if self.mode == Mode::Lacp {
            lacp_is_heard(self.gateway())?;
        }
        let frame = build::ethernet(LLDP_GROUP, self.rack.mac(NICS[0])?, LLDP, &[0; 46]);
        for _ in 0..5 {
            inject(&self.rack, NICS[0], &frame)?;
        }
        wait_until(SOON, "LLDP at the gateway", || heard.count() == 5)?;
        // The way of a frame to the host is open: what was sent before would have come.
        self.all_meet()?;
        for (capture, host) in stray.iter().zip(hosts) {
            ensure!(capture.count() == 0, "{} got {:02x?}", host.label(), capture.frames());
        }
        Ok(())
    }
}

/// Each NIC hears its partner.
fn lacp_is_heard(ns: &Ns) -> Result<()> {
    for nic in NICS {
        Capture::start(ns, nic, |frame| frame[12..14] == SLOW_PROTOCOLS)?.first(SOON)?;
    }
    Ok(())
}

fn bond_is_a_trunk(mode: Mode) -> Result<()> {
    let scene = Scene::build(mode)?;
    scene.carries_by(2)?;
    scene.all_meet()?;
    scene.nothing_is_lost_or_doubled()?;
    scene.link_local_frames_stay()?;
    for nic in NICS {
        scene.a_nic_goes_and_comes(nic)?;
    }
    scene.carries_by(2)
}

#[test]
#[ignore = "needs a kernel with bonds: script/test-guest"]
fn root_a_bond_by_lacp_is_a_trunk() -> Result<()> {
    bond_is_a_trunk(Mode::Lacp)
}

#[test]
#[ignore = "needs a kernel with bonds: script/test-guest"]
fn root_a_bond_with_a_backup_is_a_trunk() -> Result<()> {
    bond_is_a_trunk(Mode::ActiveBackup)
}
