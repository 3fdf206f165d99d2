//! A tap as trunk, as a virtual machine's monitor has it: the other end is a program. Tagged frames go in and out, hosts
//! meet across the sites, and TCP arrives as it was sent, whether the program takes super-frames or not. Needs root.
//!
//! ```text
//!   host-t .31 ─ VLAN 100, tap eth0 ─[ program ]─ tap trunk2 ═ [gw-a] ── VXLAN over VLAN 900 ── [gw-b] ═ VLAN 200 ─ host-b .12
//! ```
//! What a program has decapsulated as an aggregate keeps its tunnel's state, of which a tap makes nothing good: those go
//! through the VXLAN device (`Segment::PLAIN_DEVICES`).

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use netns_tests::ping::{Ping, ping};
use netns_tests::tagged::Tagged;
use netns_tests::tap::TapWire;
use netns_tests::topology::{HOST_A, HOST_B, SEGMENT_MTU, Tunnel, VID_A, both, put_in_flat_network};
use netns_tests::wait::patient;
use netns_tests::world::SOON;
use netns_tests::{Ns, World, wait_until};
use serde_json::json;

const HOST_T: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 20, 0, 31), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x31));
/// Ethernet header and one tag.
const HEADERS_BYTES: u64 = 18;
/// What is sent in each direction.
const SENT_BYTES: usize = 6_000_000;
/// A transfer that stands still for so long has failed.
const STANDSTILL: Duration = Duration::from_secs(10);

struct Scene {
    world: World,
    host: Ns,
    wire: TapWire,
    _tag: Tagged,
}

impl Scene {
    fn build(offloads: bool) -> Result<Self> {
        let host = Ns::new("host-t")?;
        let mut wire = None;
        let world = World::start_with(&[Tunnel::Direct], |topology, document| {
            wire = Some(TapWire::start((&host, "eth0"), (&topology.a.gateway, "trunk2"), offloads)?);
            document["gateways"]["gw-a"]["trunks"] = json!(["trunk0", "trunk1", "trunk2"]);
            document["attachments"]["host-t"] = json!({
                "gateway": "gw-a", "segment": "flat", "vlan": { "trunk": "trunk2", "vid": VID_A },
            });
            Ok(())
        })?;
        let wire = wire.context("a wire")?;
        let tag = Tagged::attach(&host, "eth0", VID_A)?;
        put_in_flat_network(&host, "eth0", HOST_T)?;
        world.tunnel_is_up("ab-direct")?;
        world.hosts_meet()?;
        Ok(Self { world, host, wire, _tag: tag })
    }

    /// Both sites, both families, both directions, and a frame as large as the segment takes.
    fn all_meet(&self) -> Result<()> {
        let (a, b) = (&self.world.topology.a.host, &self.world.topology.b.host);
        for (from, to) in [(&self.host, HOST_B), (&self.host, HOST_A), (b, HOST_T), (a, HOST_T)] {
            for address in both(to) {
                wait_until(SOON, &format!("{} to reach {address}", from.label()), || ping(from, address))?;
            }
        }
        let full = Ping::to(HOST_B.0.into()).full(SEGMENT_MTU).send(&self.host)?;
        ensure!(full.received == 1 && full.text.contains("ttl=64"), "{}", full.text);
        Ok(())
    }

    /// TCP in both directions and over both families is what was sent, and no segment was wrong on the way.
    fn tcp_arrives_whole(&self) -> Result<()> {
        let b = &self.world.topology.b.host;
        for (from, to, addresses) in [(&self.host, b, both(HOST_B)), (b, &self.host, both(HOST_T))] {
            for address in addresses {
                transfer(from, to, address).with_context(|| format!("{} to {address}", from.label()))?;
            }
        }
        for host in [&self.host, b] {
            ensure!(checksum_errors(host)? == 0, "{} got wrong checksums", host.label());
        }
        Ok(())
    }
}

/// Sends numbered bytes to `address` of `to`, where they are compared.
fn transfer(from: &Ns, to: &Ns, address: IpAddr) -> Result<()> {
    let listener = to.run(|| TcpListener::bind((address, 0)))?;
    let target = listener.local_addr()?;
    let page = || (0..SENT_BYTES).map(|i| (i % 251) as u8).collect::<Vec<u8>>();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(from, target, &page()));
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(patient(STANDSTILL)))?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got).with_context(|| format!("after {} bytes", got.len()))?;
        sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        ensure!(got == page(), "other bytes, {} of {SENT_BYTES}", got.len());
        Ok(())
    })
}

fn send(from: &Ns, to: SocketAddr, page: &[u8]) -> Result<()> {
    let mut stream = from.run(|| TcpStream::connect_timeout(&to, patient(STANDSTILL)))?;
    stream.set_write_timeout(Some(patient(STANDSTILL)))?;
    stream.write_all(page).context("to send")
}

/// `InCsumErrors` of TCP, which counts both families.
fn checksum_errors(host: &Ns) -> Result<u64> {
    let text = host.exec("cat /proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, errors) = pairs.find(|(name, _)| *name == "InCsumErrors").context("InCsumErrors")?;
    Ok(errors.parse()?)
}

#[test]
fn root_a_host_behind_a_tap_is_in_the_segment() -> Result<()> {
    let scene = Scene::build(false)?;
    scene.all_meet()?;
    scene.tcp_arrives_whole()?;
    let crossed = scene.wire.crossed();
    println!("to and from the gateway: {crossed:?}");
    for way in crossed {
        let carried = way.tagged * u64::from(SEGMENT_MTU);
        ensure!(carried > 2 * SENT_BYTES as u64, "not by this wire: {crossed:?}");
        // A program without offloads gets frames, never more than the segment's MTU in one.
        ensure!(way.largest == u64::from(SEGMENT_MTU) + HEADERS_BYTES, "{crossed:?}");
    }
    ensure!(crossed[1].refused == 0, "{crossed:?}");
    Ok(())
}

#[test]
fn root_super_frames_cross_a_tap_whole_and_right() -> Result<()> {
    let scene = Scene::build(true)?;
    scene.all_meet()?;
    scene.tcp_arrives_whole()?;
    let crossed = scene.wire.crossed();
    println!("to and from the gateway: {crossed:?}");
    for way in crossed {
        ensure!(way.aggregates > 0 && way.largest > 2 * u64::from(SEGMENT_MTU), "{crossed:?}");
    }
    ensure!(crossed[1].refused == 0, "{crossed:?}");
    Ok(())
}
