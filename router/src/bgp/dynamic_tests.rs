//! Neighbours that come by themselves from a prefix: our own speakers over the loopback, and BIRD 2 (root).
//!
//! ```text
//!   127.0.74.11, .12, .13 (AS 65011, 65012, 65013) ── lo ── 127.0.74.1, AS 65001, which expects 127.0.74.8/29
//! ```

use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use watari_bgp::{Family, State};

use super::tests::*;
use super::*;

const PORT_HERE: u16 = 17_904;
const HOST: (&str, u32) = ("127.0.74.1", 65001);

fn range(settings: PeerSettings, prefix: &str, neighbours_max: usize) -> PeerSettings {
    let asns = vec![(Asn(65_011), Asn(65_019)), (Asn(65_071), Asn(65_071))];
    PeerSettings { range: Some(Range { prefix: prefix.parse().unwrap(), asns, neighbours_max }), ..settings }
}

fn expected(neighbours_max: usize) -> BTreeMap<PeerId, PeerSettings> {
    let settings = PeerSettings { port: PORT_HERE, ..settings(HOST, ("127.0.74.8", 0)) };
    BTreeMap::from([(PEER, range(settings, "127.0.74.8/29", neighbours_max))])
}

/// A speaker that connects to ours.
async fn guest(end: (&str, u32)) -> (Bgp, Updates) {
    let (bgp, updates) = spawn(speaker(end.0));
    let mut settings = PeerSettings { port: PORT_HERE, ..settings(end, HOST) };
    settings.config.graceful_restart = None;
    bgp.set_peers(BTreeMap::from([(PEER, settings)])).await.unwrap();
    (bgp, updates)
}

/// Addresses of those that have come and are established.
fn came(speaker: &Speaker) -> Vec<IpAddr> {
    let is_up = |peer: &PeerId| speaker.peer(*peer).is_some_and(|peer| peer.state == State::Established);
    speaker.dynamic_peers().filter(|(peer, ..)| is_up(peer)).map(|(_, _, address)| address).collect()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[tokio::test]
async fn who_comes_from_the_prefix_is_a_neighbour_as_long_as_there_is_room() {
    let (host, mut updates) = spawn(speaker(HOST.0));
    host.set_peers(expected(2)).await.unwrap();
    let first = guest(("127.0.74.11", 65_011)).await;
    originate(&first.0, &["198.51.100.0/24"]).await;
    until(&host, "the first one's route", |s| stale(s, "198.51.100.0/24").is_some()).await;
    let second = guest(("127.0.74.12", 65_012)).await;
    until(&second.0, "the second one's session", established).await;
    until(&second.0, "the first one's route, passed on", |s| stale(s, "198.51.100.0/24").is_some()).await;
    let third = guest(("127.0.74.13", 65_013)).await;
    let turned_away = loop {
        let batch = updates.next().await.unwrap();
        if let Some(address) = batch.full.get(&PEER) {
            break *address;
        }
        for change in batch.peers {
            assert_eq!(change.neighbour.peer, PEER, "outside it is known by the prefix it came from");
            assert!(change.neighbour.came_from.is_some());
        }
    };
    assert_eq!(turned_away, "127.0.74.13".parse::<IpAddr>().unwrap());
    assert_eq!(host.query(|s, _| came(s)).await.unwrap(), addresses(&["127.0.74.11", "127.0.74.12"]));

    // One goes, and there is room for the third.
    second.0.shutdown(false).await.unwrap();
    until(&third.0, "the third one's session", established).await;
    let two = addresses(&["127.0.74.11", "127.0.74.13"]);
    until(&host, "two that have come", move |s| came(s) == two).await;

    // The one that is written down is no longer one of those that come, and the prefix goes with the rest.
    let mut wanted = expected(2);
    let written = PeerSettings { port: PORT_HERE, ..settings(HOST, ("127.0.74.11", 65_011)) };
    wanted.insert(PeerId(2), written);
    host.set_peers(wanted).await.unwrap();
    until(&host, "the one that is written down", |s| {
        s.peer(PeerId(2)).is_some_and(|peer| peer.state == State::Established && peer.dynamic_of.is_none())
    })
    .await;
    let one = addresses(&["127.0.74.13"]);
    until(&host, "one that has come", move |s| came(s) == one).await;
    host.set_peers(BTreeMap::new()).await.unwrap();
    until(&third.0, "the end of the last session", |s| !established(s)).await;
    assert_eq!(host.query(|s, _| s.peers().len()).await.unwrap(), 0);
}

/// Connects to ours and says nothing: it is a neighbour, and does not come again by itself.
async fn silent(host: SocketAddr, from: &str) -> TcpStream {
    let end = std::time::Instant::now() + LIMIT;
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        match socket.connect(host).await {
            Ok(stream) => return stream,
            Err(error) => assert!(std::time::Instant::now() < end, "waited for the listener: {error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// What the other side says until it closes the connection.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut octets = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut octets)).await;
    assert!(read.is_ok(), "waited for the connection to be closed");
    octets
}

#[tokio::test]
async fn the_place_of_one_that_other_ttls_sent_away_is_free() {
    let (host, mut updates) = spawn(speaker("127.0.74.2"));
    let place = SocketAddr::new("127.0.74.2".parse().unwrap(), 17_905);
    let ours = PeerSettings { port: place.port(), ..settings(("127.0.74.2", 65_001), ("127.0.74.8", 0)) };
    let mut wanted = BTreeMap::from([(PEER, range(ours, "127.0.74.8/29", 1))]);
    host.set_peers(wanted.clone()).await.unwrap();
    let first = silent(place, "127.0.74.11").await;
    until(&host, "the one that has come", |s| s.peers().len() == 1).await;
    wanted.get_mut(&PEER).unwrap().ttl = 3;
    host.set_peers(wanted).await.unwrap();
    assert_eq!(host.query(|s, _| s.peers().len()).await.unwrap(), 0);
    assert!(!rest(first).await.is_empty());
    let _second = silent(place, "127.0.74.12").await;
    let second = addresses(&["127.0.74.12"]);
    until(&host, "another one in its place", move |s| {
        s.dynamic_peers().map(|(.., address)| address).eq(second.iter().copied())
    })
    .await;
    host.set_peers(BTreeMap::new()).await.unwrap();
    host.shutdown(false).await.unwrap();
    let mut ends = Vec::new();
    while let Some(batch) = updates.next().await {
        assert!(batch.full.is_empty());
        for change in batch.peers {
            assert_eq!(change.neighbour.peer, PEER, "also who goes is known by the prefix it came from");
            ends.extend(change.neighbour.came_from.filter(|_| change.new == State::Idle));
        }
    }
    assert_eq!(ends, addresses(&["127.0.74.11", "127.0.74.12"]));
}

/// No socket sends with a TTL of 0.
#[tokio::test]
async fn who_comes_by_a_connection_that_cannot_be_taken_has_no_place() {
    let (host, mut updates) = spawn(speaker("127.0.74.3"));
    let place = SocketAddr::new("127.0.74.3".parse().unwrap(), 17_906);
    let ours =
        PeerSettings { port: place.port(), ttl: 0, ..settings(("127.0.74.3", 65_001), ("127.0.74.8", 0)) };
    host.set_peers(BTreeMap::from([(PEER, range(ours, "127.0.74.8/29", 1))])).await.unwrap();
    for from in ["127.0.74.11", "127.0.74.12"] {
        assert!(rest(silent(place, from).await).await.is_empty());
    }
    assert_eq!(host.query(|s, _| s.peers().len()).await.unwrap(), 0);
    host.shutdown(false).await.unwrap();
    while let Some(batch) = updates.next().await {
        assert!(batch.full.is_empty());
    }
}

/// BIRD comes from the prefix, signs with the password of all who come from there, and is near. Needs root.
#[tokio::test]
async fn root_bird_comes_from_a_prefix_with_the_password_of_all_who_do() {
    let secured = |password: &str| {
        let lines = format!("graceful restart on;\n  password \"{password}\"; ttl security on;");
        BIRD_CONF.replace("graceful restart on;", &lines)
    };
    let campus = Campus::start("d", &secured("beta"));
    let (bgp, _updates) = spawn(speaker("10.71.0.1"));
    let mut settings = settings(("10.71.0.1", 65001), ("10.71.0.0", 0));
    settings.config.next_hop_v6 = Some("2001:db8:71::1".parse().unwrap());
    (settings.netns, settings.hops_max) = (Some(campus.netns()), Some(1));
    settings.password = Some(Password::new(b"alpha").unwrap());
    let peers = BTreeMap::from([(PEER, range(settings, "10.71.0.0/28", 4))]);
    bgp.set_peers(peers.clone()).await.unwrap();
    originate(&bgp, &["198.51.100.0/24"]).await;
    let name = &campus.names[0];
    let failures = || {
        let text = run(&format!("ip netns exec {name} nstat -asz TcpExtTCPMD5Failure"));
        text.lines().last().and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0)
    };
    let end = std::time::Instant::now() + LIMIT;
    while failures() < 2 {
        assert!(std::time::Instant::now() < end, "waited for segments that are signed with another password");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(bgp.query(|s, _| s.peers().len()).await.unwrap(), 0);
    campus.reconfigure(&secured("alpha"));
    until(&bgp, "BIRD's routes", |s| stale(s, "203.0.113.0/24").is_some()).await;
    campus.until("show route 198.51.100.0/24", |a| a.contains("[AS65001i]")).await;
    let who =
        |s: &Speaker| s.peers().iter().map(|peer| (peer.remote_addr, peer.remote_asn)).collect::<Vec<_>>();
    assert_eq!(bgp.query(move |s, _| who(s)).await.unwrap(), [(addresses(&["10.71.0.2"])[0], Asn(65_071))]);
    let families =
        bgp.query(|s, _| s.peers()[0].negotiated.as_ref().map(|n| n.families.clone())).await.unwrap();
    assert_eq!(families.unwrap(), [Family::Ipv4Unicast, Family::Ipv6Unicast]);

    // The address and the AS are BIRD's own; another policy touches no session.
    let since = bgp.query(|s, _| s.peers()[0].since).await.unwrap();
    let mut silent = peers;
    silent.get_mut(&PEER).unwrap().config.policy.export = watari_bgp::Filter::None;
    bgp.set_peers(silent).await.unwrap();
    campus.until("show route 198.51.100.0/24", |a| !a.contains("AS65001")).await;
    assert_eq!(bgp.query(|s, _| s.peers()[0].since).await.unwrap(), since);
    bgp.shutdown(false).await.unwrap();
}
