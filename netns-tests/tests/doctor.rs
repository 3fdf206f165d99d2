//! The MTU doctor: the path between two gateways carries 1500, 1400, 1280 and 9000 bytes, changes under TCP, and swallows every ICMP
//! message. Needs root.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ── direct ════ [sinet, 1280 … 9000, drops what is larger] ═══ [gw-b] ═ VLAN 200 ─ host-b
//!   9000                       └─ WireGuard ─ [wan, 1280 … 9000, fragments or drops] ───────┘                      9000
//! ```
//!
//! Hosts, trunks and uplinks have 9000; only what is between the gateways is narrower.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::topology::{HOST_A, HOST_B, Tunnel};
use netns_tests::world::{SOON, World};
use netns_tests::{Ns, wait_until};
use serde_json::{Value, json};

const JUMBO: u16 = 9000;
/// What no receiver may have to wait for longer.
const STALL_MAX: Duration = Duration::from_secs(2);
/// How much is written at once, and how often: full segments, and a processor left for others.
const CHUNK_BYTES: usize = 65_536;
const CHUNK_PERIOD: Duration = Duration::from_millis(10);

/// TCP from one host to another, and the longest time in which nothing arrived.
struct Transfer {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    longest: Arc<Mutex<Duration>>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Transfer {
    fn start(from: &Ns, to: &Ns, address: IpAddr) -> Result<Self> {
        let listener = to.run(|| TcpListener::bind((address, 0)))?;
        let port = listener.local_addr()?.port();
        let (stop, bytes, longest) = (Arc::default(), Arc::default(), Arc::default());
        let (counted, gap) = (Arc::clone(&bytes), Arc::clone(&longest));
        let receive = to.thread(move || receive(&listener, &counted, &gap));
        let stopped: Arc<AtomicBool> = Arc::clone(&stop);
        let send = from.thread(move || send(&TcpStream::connect((address, port))?, &stopped));
        let transfer = Self { stop, bytes, longest, threads: vec![send, receive] };
        transfer.goes_on()?;
        Ok(transfer)
    }

    /// Waits until a megabyte more has arrived.
    fn goes_on(&self) -> Result<()> {
        let before = self.bytes.load(Ordering::Relaxed);
        wait_until(SOON, "TCP to go on", || {
            let now = self.bytes.load(Ordering::Relaxed);
            ensure!(now > before + 1_000_000, "{} bytes since", now - before);
            Ok(())
        })
    }

    /// The longest gap.
    fn end(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().ok().context("a thread of the transfer panicked")??;
        }
        Ok(*self.longest.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn send(mut stream: &TcpStream, stop: &AtomicBool) -> std::io::Result<()> {
    let chunk = vec![0x5a; CHUNK_BYTES];
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&chunk)?;
        next = (next + CHUNK_PERIOD).max(Instant::now());
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

fn receive(listener: &TcpListener, bytes: &AtomicU64, longest: &Mutex<Duration>) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut last = Instant::now();
    loop {
        let length = stream.read(&mut buffer)?;
        let mut longest = longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = longest.max(last.elapsed());
        last = Instant::now();
        if length == 0 {
            return Ok(());
        }
        bytes.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Two gateways whose devices carry jumbo frames, with one tunnel of MTU `auto` that nothing but its path limits.
fn jumbo_world(tunnel: Tunnel, name: &str) -> Result<World> {
    let world = World::start_with(&[tunnel], |topology, document| {
        document["segments"]["flat"]["mtu"] = json!(JUMBO);
        document["tunnels"][name]["mtu"] = json!("auto");
        let mtu = u32::from(JUMBO);
        for site in [&topology.a, &topology.b] {
            site.host.mtu("eth0", mtu)?;
            // A super-frame passes a bridge whatever its segments have.
            site.host.offload("eth0", "tx off tso off gso off gro off")?;
            for port in ["gw", "p0"] {
                site.switch.mtu(port, mtu)?;
            }
            for device in ["trunk0", "trunk1", "uplink"] {
                site.gateway.mtu(device, mtu)?;
            }
        }
        for port in ["w1", "w2"] {
            topology.wan.mtu(port, mtu)?;
        }
        for line in [
            "nft add table inet deaf",
            "nft add chain inet deaf forward { type filter hook forward priority 0 ; }",
            "nft add chain inet deaf output { type filter hook output priority 0 ; }",
            "nft add rule inet deaf forward meta l4proto icmp counter drop",
            "nft add rule inet deaf output meta l4proto icmp counter drop",
            "nft add rule inet deaf forward meta l4proto ipv6-icmp counter drop",
        ] {
            topology.wan.exec(line)?;
        }
        for port in ["site-a", "site-b"] {
            topology.sinet.mtu(port, 1500)?;
        }
        narrow_wan(&topology.wan, 1500)
    })?;
    world.tunnel_is_up(name)?;
    world.hosts_meet()?;
    Ok(world)
}

/// From now on the WAN forwards packets of `mtu` bytes at most; larger ones in pieces, or not at all if they must stay whole.
fn narrow_wan(wan: &Ns, mtu: u16) -> Result<()> {
    for leg in [1, 2] {
        let line = format!(
            "route replace 198.18.{leg}.0/30 dev w{leg} proto kernel scope link src 198.18.{leg}.1 mtu {mtu}"
        );
        wan.ip(&line)?;
    }
    Ok(())
}

fn narrow(world: &World, tunnel: Tunnel, mtu: u16) -> Result<()> {
    match tunnel {
        Tunnel::Wireguard => narrow_wan(&world.topology.wan, mtu),
        Tunnel::Direct => {
            // Both ports: a switch drops what is too large on its way in, too.
            ["site-a", "site-b"].iter().try_for_each(|port| world.topology.sinet.mtu(port, mtu.into()))
        }
    }
}

/// Whether `found` is what crosses a path of `mtu` bytes. A bridge port lets four bytes more pass, in case they are a tag; a
/// WireGuard engine may pad packets to multiples of 16.
fn is_right(tunnel: Tunnel, mtu: u16, found: u64) -> bool {
    let mtu = u64::from(mtu.min(JUMBO));
    match tunnel {
        Tunnel::Direct => (mtu..=mtu + 4).contains(&found),
        Tunnel::Wireguard => (mtu - 60 - 15..=mtu - 60).contains(&found),
    }
}

/// Waits until both gateways have found both directions.
fn is_found(world: &World, (tunnel, name): (Tunnel, &str), mtu: u16) -> Result<()> {
    for gateway in [&world.a, &world.b] {
        wait_until(SOON, &format!("{mtu} to be found at {}", gateway.name()), || {
            let object = gateway.object(&format!("tunnels.{name}"))?;
            for field in ["path_mtu", "path_mtu_back"] {
                let found = object[field].as_u64().unwrap_or(0);
                ensure!(is_right(tunnel, mtu, found), "{field}: {object}");
            }
            Ok(())
        })?;
        gateway.settle()?;
    }
    Ok(())
}

/// What the doctor says of the tunnel at gateway A.
fn doctor(world: &World, name: &str) -> Result<Value> {
    Ok(world.a.get(&format!("/api/v1/doctor/mtu?tunnel={name}"))?[0].clone())
}

/// A datagram that fills what the doctor says crosses does so, unfragmented, whatever its sender was told before.
fn fills(world: &World, name: &str) -> Result<()> {
    let overlay = doctor(world, name)?["overlay"].as_u64().context("no overlay")?;
    let receiver = world.topology.b.host.run(|| UdpSocket::bind((HOST_B.0, 0)))?;
    receiver.set_read_timeout(Some(Duration::from_millis(300)))?;
    let sender = world.topology.a.host.run(|| UdpSocket::bind((HOST_A.0, 0)))?;
    let mode = libc::IP_PMTUDISC_PROBE;
    // SAFETY: a live descriptor and an integer of the size that is told.
    let failed = unsafe {
        let (level, name) = (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
        libc::setsockopt(sender.as_raw_fd(), level, name, (&raw const mode).cast(), size_of_val(&mode) as u32)
    };
    ensure!(failed == 0, std::io::Error::last_os_error());
    sender.connect(receiver.local_addr()?)?;
    let payload = vec![0x5a; usize::try_from(overlay)? - 28];
    wait_until(SOON, &format!("{overlay} bytes from host to host"), || {
        sender.send(&payload)?;
        let mut buffer = vec![0; usize::from(JUMBO)];
        ensure!(receiver.recv(&mut buffer)? == payload.len(), "another one");
        Ok(())
    })
}

/// The path changes under TCP in both directions, over both families.
fn follows(tunnel: Tunnel, name: &str) -> Result<()> {
    let world = jumbo_world(tunnel, name)?;
    let (a, b) = (&world.topology.a.host, &world.topology.b.host);
    is_found(&world, (tunnel, name), 1500)?;
    fills(&world, name)?;
    for steps in [&[1400, 1500, 1280, JUMBO][..], &[1400, 1500][..]] {
        // The segment size of a connection is that of its beginning, or what its host was told in the last ten minutes: the
        // second time it begins with jumbo frames.
        for host in [a, b] {
            host.ip("-4 route flush cache")?;
            host.ip("-6 route flush cache")?;
        }
        let transfers = [
            Transfer::start(a, b, HOST_B.0.into())?,
            Transfer::start(b, a, HOST_A.0.into())?,
            Transfer::start(a, b, HOST_B.1.into())?,
        ];
        for mtu in steps {
            narrow(&world, tunnel, *mtu)?;
            transfers.iter().try_for_each(Transfer::goes_on).with_context(|| format!("at {mtu}"))?;
            is_found(&world, (tunnel, name), *mtu)?;
            transfers.iter().try_for_each(Transfer::goes_on).with_context(|| format!("at {mtu}"))?;
            fills(&world, name)?;
        }
        for (number, transfer) in transfers.into_iter().enumerate() {
            let longest = transfer.end()?;
            println!("{name}: transfer {number}, path {steps:?}: longest gap {longest:?}");
            ensure!(longest < STALL_MAX, "transfer {number} had a gap of {longest:?}, path {steps:?}");
        }
    }
    narrow(&world, tunnel, 1400)?;
    is_found(&world, (tunnel, name), 1400)?;
    explains(&world, name)
}

/// The path is narrower than the devices, and the doctor says so, by the API and on the command line.
fn explains(world: &World, name: &str) -> Result<()> {
    wait_until(SOON, "the end of the search", || {
        let said = doctor(world, name)?;
        let breaks_at = said["measured"]["breaks_at"].as_u64();
        ensure!(breaks_at == said["carried"].as_u64().map(|carried| carried + 1), "{said:#}");
        ensure!(said["limited_by"].as_str().is_some_and(|text| text.starts_with("the path")), "{said:#}");
        ensure!(said["measured"]["black_holes"].as_u64() > Some(0), "{said:#}");
        Ok(())
    })?;
    let printed = world.a.cli(&["doctor", "mtu", name])?;
    for words in ["underlay", "limited by the path", "do not cross", "as the far gateway says"] {
        ensure!(printed.contains(words), "{words} is not in:\n{printed}");
    }
    println!("{printed}");
    Ok(())
}

#[test]
fn root_tcp_goes_on_while_the_wan_under_wireguard_changes() -> Result<()> {
    follows(Tunnel::Wireguard, "ab-wg")
}

#[test]
fn root_tcp_goes_on_while_the_l2vpn_changes() -> Result<()> {
    follows(Tunnel::Direct, "ab-direct")
}
