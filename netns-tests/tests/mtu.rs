//! Hosts keep an MTU of 1500 over tunnels that carry less, while the WAN swallows every ICMP message. Needs root.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ── direct, 1500: 1450 bytes cross ──────── [gw-b] ═ VLAN 200 ─ host-b
//!   1500                       └─ WireGuard, 1420: 1370 bytes cross ─┘                        1500
//!   qinq ─ S-tag 100, VLAN 7 ═ trunk0 [gw-a]
//!   1500
//! ```

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::ping::ping;
use netns_tests::topology::{HOST_A, HOST_B, Topology, Tunnel, VID_A, both, put_in_flat_network};
use netns_tests::wait::patient;
use netns_tests::world::{SOON, World};
use netns_tests::{Ns, wait_until};
use serde_json::{Value, json};
use watari_dataplane::HostTags;

/// What a browser would fetch.
const PAGE_BYTES: usize = 50_000_000;
/// What shows that segments fit, and no more.
const SMALL_PAGE_BYTES: usize = 5_000_000;
/// UDP payload that fills 1500 bytes of IPv4.
const FULL_PAYLOAD: usize = 1472;
const CURL_LIMIT: Duration = Duration::from_secs(120);
const DISCARD: u16 = 9;

/// The host behind two tags.
const QINQ: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 20, 0, 21), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x21));
/// 802.1ad, the outer tag's.
const S_TAG: u16 = 0x88a8;
const INNER: u16 = 7;

fn hosts_of_1500(
    tunnel: Tunnel,
    prepare: impl FnOnce(&mut Topology, &mut Value) -> Result<()>,
) -> Result<World> {
    let world = World::start_with(&[tunnel], |topology, document| {
        prepare(topology, document)?;
        document["segments"]["flat"]["mtu"] = json!(1500);
        topology.a.host.mtu("eth0", 1500)?;
        topology.b.host.mtu("eth0", 1500)?;
        for line in [
            "nft add table inet deaf",
            "nft add chain inet deaf forward { type filter hook forward priority 0 ; }",
            "nft add rule inet deaf forward meta l4proto icmp counter drop",
            "nft add rule inet deaf forward meta l4proto ipv6-icmp counter drop",
        ] {
            topology.wan.exec(line)?;
        }
        Ok(())
    })?;
    world.hosts_meet()?;
    Ok(world)
}

/// Checksums left to the device, and super-frames, at these hosts.
fn offload(hosts: [&Ns; 2], on: bool) -> Result<()> {
    let on = if on { "on" } else { "off" };
    for host in hosts {
        host.offload("eth0", &format!("tx {on} tso {on} gso {on} gro {on}"))?;
    }
    Ok(())
}

fn page(bytes: usize) -> Arc<Vec<u8>> {
    Arc::new((0..bytes).map(|i| (i % 251) as u8).collect())
}

/// Serves `page` to one client at `address`, on a free port.
fn serve(host: &Ns, address: IpAddr, page: Arc<Vec<u8>>) -> Result<u16> {
    let listener = host.run(|| TcpListener::bind((address, 0)))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let (mut request, mut byte) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            request.push(byte[0]);
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", page.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(&page)
    });
    Ok(port)
}

/// `curl` fetches the page, whole and right.
fn fetch(
    client: &Ns,
    server: &Ns,
    address: IpAddr,
    page: &Arc<Vec<u8>>,
    into: &std::path::Path,
) -> Result<()> {
    let port = serve(server, address, Arc::clone(page))?;
    let url = format!("http://{}/", SocketAddr::new(address, port));
    let file = into.to_str().context("a path in UTF-8")?;
    let seconds = patient(CURL_LIMIT).as_secs().to_string();
    let words = ["curl", "--silent", "--show-error", "--globoff", "--max-time", &seconds, "-o", file, &url];
    client.exec_args(&words, CURL_LIMIT + SOON).with_context(|| format!("{url} from {}", client.label()))?;
    ensure!(std::fs::read(into)? == **page, "{url}: another page");
    Ok(())
}

/// A UDP socket at `host`, connected to the discard port of `to`; `mode` is an `IP_PMTUDISC_…`.
fn socket(host: &Ns, to: IpAddr, mode: i32) -> Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = host.run(|| UdpSocket::bind(any))?;
    let (level, name) = options(to, libc::IP_MTU_DISCOVER, libc::IPV6_MTU_DISCOVER);
    // SAFETY: a live descriptor and an integer of the size that is told.
    let failed = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const mode).cast(), size_of_val(&mode) as u32)
    };
    ensure!(failed == 0, std::io::Error::last_os_error());
    socket.connect((to, DISCARD))?;
    Ok(socket)
}

fn options(to: IpAddr, v4: i32, v6: i32) -> (i32, i32) {
    if to.is_ipv4() { (libc::IPPROTO_IP, v4) } else { (libc::IPPROTO_IPV6, v6) }
}

/// What the host's kernel takes for the MTU of the path.
fn path_mtu(socket: &UdpSocket, to: IpAddr) -> Result<i32> {
    let (level, name) = options(to, libc::IP_MTU, libc::IPV6_MTU);
    let (mut value, mut size) = (0_i32, size_of::<i32>() as u32);
    // SAFETY: a live descriptor and an integer of the size that is told.
    let failed =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size) };
    ensure!(failed == 0, std::io::Error::last_os_error());
    Ok(value)
}

/// UDP that must not be fragmented: the first is lost, and the host learns what fits.
fn learns_what_fits(host: &Ns, mtu: i32) -> Result<()> {
    for to in both(HOST_B) {
        let socket = socket(host, to, libc::IP_PMTUDISC_DO)?;
        let payload = vec![0x5a; if to.is_ipv4() { FULL_PAYLOAD } else { FULL_PAYLOAD - 20 }];
        wait_until(SOON, &format!("EMSGSIZE towards {to}"), || {
            let refused = socket.send(&payload).err().and_then(|error| error.raw_os_error());
            ensure!(refused == Some(libc::EMSGSIZE), "{refused:?}");
            Ok(())
        })?;
        ensure!(path_mtu(&socket, to)? == mtu, "{to}: {} and not {mtu}", path_mtu(&socket, to)?);
    }
    Ok(())
}

/// UDP that may be fragmented arrives, and is counted.
fn arrives_in_fragments(world: &World, host: &Ns) -> Result<()> {
    let address = IpAddr::V4(HOST_B.0);
    let receiver = world.topology.b.host.run(|| UdpSocket::bind((address, DISCARD)))?;
    receiver.set_read_timeout(Some(Duration::from_millis(500)))?;
    let sender = socket(host, address, libc::IP_PMTUDISC_DONT)?;
    let before = world.a.counter("fragmented")?;
    let payload: Vec<u8> = (0..FULL_PAYLOAD).map(|i| i as u8).collect();
    wait_until(SOON, "a datagram of full size", || {
        sender.send(&payload)?;
        let mut buffer = [0; 2048];
        let length = receiver.recv(&mut buffer)?;
        ensure!(buffer[..length] == payload[..], "another one of {length} bytes");
        Ok(())
    })?;
    wait_until(SOON, "the fragments to be counted", || {
        ensure!(world.a.counter("fragmented")? > before);
        Ok(())
    })
}

/// A host of gateway A, and its addresses, and everything that may be too large between it and host B.
fn keeps_1500(world: &World, host: (&Ns, (Ipv4Addr, Ipv6Addr)), mtu: i32, page_bytes: usize) -> Result<()> {
    let ((a, own), b) = (host, &world.topology.b.host);
    let page = page(page_bytes);
    let into = world.a.state_dir().join("page");
    for on in [true, false] {
        offload([a, b], on)?;
        for (client, server, addresses) in [(a, b, both(HOST_B)), (b, a, both(own))] {
            for address in addresses {
                fetch(client, server, address, &page, &into).with_context(|| format!("offload {on}"))?;
            }
        }
    }
    for gateway in [&world.a, &world.b] {
        ensure!(gateway.counter("mss-clamped")? > 0, "{}: no segment size was lowered", gateway.name());
        for reason in ["too-big", "too-big-silent", "rewrite-failed"] {
            ensure!(gateway.drops(reason)? == 0, "{}: TCP was dropped: {reason}", gateway.name());
        }
    }
    arrives_in_fragments(world, a)?;
    learns_what_fits(a, mtu)?;
    wait_until(SOON, "the errors to be counted", || {
        ensure!(world.a.counter("too-big-sent")? > 0);
        Ok(())
    })
}

fn hosts_keep_1500(tunnel: Tunnel, name: &str, mtu: i32) -> Result<()> {
    let world = hosts_of_1500(tunnel, |_, _| Ok(()))?;
    world.tunnel_is_up(name)?;
    keeps_1500(&world, (&world.topology.a.host, HOST_A), mtu, PAGE_BYTES)
}

#[test]
fn root_hosts_keep_1500_over_the_l2vpn() -> Result<()> {
    hosts_keep_1500(Tunnel::Direct, "ab-direct", 1450)
}

#[test]
fn root_hosts_keep_1500_over_wireguard() -> Result<()> {
    hosts_keep_1500(Tunnel::Wireguard, "ab-wg", 1370)
}

#[test]
fn root_a_host_behind_two_tags_keeps_1500() -> Result<()> {
    let qinq = Ns::new("qinq")?;
    let world = hosts_of_1500(Tunnel::Direct, |topology, document| {
        topology.a.plug(&qinq, "eth0", HostTags { tpid: S_TAG, vid: VID_A, inner: Some(INNER) })?;
        put_in_flat_network(&qinq, "eth0", QINQ)?;
        qinq.mtu("eth0", 1500)?;
        let vlan = json!({ "trunk": "trunk0", "vid": VID_A, "inner_vid": INNER });
        document["attachments"]["qinq"] = json!({ "gateway": "gw-a", "segment": "flat", "vlan": vlan });
        Ok(())
    })?;
    world.tunnel_is_up("ab-direct")?;
    for address in both(HOST_B) {
        wait_until(SOON, &format!("qinq to reach {address}"), || ping(&qinq, address))?;
    }
    keeps_1500(&world, (&qinq, QINQ), 1450, SMALL_PAGE_BYTES)
}
