//! boringtun as an oracle, in the same process: it and we in both roles, with and without a preshared key, data
//! and keepalives in both directions, rekeys, cookies under load, replays.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use mock_instant::MockClock;

use super::world::{Node, key};
use super::{HANDSHAKES_PER_SECOND, Input};
use crate::key::PresharedKey;

const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn preshared_keys() -> [Option<PresharedKey>; 2] {
    [None, Some(PresharedKey::from_bytes([0x33; 32]))]
}

/// boringtun as node 1, limited to so many handshakes a second.
fn oracle(preshared: Option<&PresharedKey>, limit: u64) -> Tunn {
    let secret = key(1).to_secret();
    let limiter = RateLimiter::new(&x25519_dalek::PublicKey::from(&secret), limit);
    let peer = x25519_dalek::PublicKey::from(*key(0).public_key().as_bytes());
    Tunn::new(secret, peer, preshared.map(PresharedKey::to_bytes), None, 0x77, Some(Arc::new(limiter)))
}

fn ours(preshared: Option<&PresharedKey>) -> Node {
    Node::new(&key(0), &key(1), preshared, 5)
}

fn network(result: TunnResult<'_>) -> Vec<u8> {
    match result {
        TunnResult::WriteToNetwork(message) => message.to_vec(),
        other => panic!("nothing for the network but {other:?}"),
    }
}

/// boringtun takes a message: what it wants sent.
fn take(oracle: &mut Tunn, message: &[u8]) -> Vec<u8> {
    network(oracle.decapsulate(Some(ADDRESS), message, &mut [0; 2_048]))
}

/// boringtun takes a message that carries a packet.
fn tunnelled(oracle: &mut Tunn, message: &[u8]) -> Vec<u8> {
    match oracle.decapsulate(Some(ADDRESS), message, &mut [0; 2_048]) {
        TunnResult::WriteToTunnelV4(packet, _) => packet.to_vec(),
        other => panic!("no packet but {other:?}"),
    }
}

fn done(oracle: &mut Tunn, message: &[u8]) {
    let mut buffer = [0; 2_048];
    let result = oracle.decapsulate(Some(ADDRESS), message, &mut buffer);
    assert!(matches!(result, TunnResult::Done), "{result:?}");
}

/// An IPv4 packet: boringtun looks at its header.
fn packet(len: u16, fill: u8) -> Vec<u8> {
    let mut packet = vec![fill; usize::from(len)];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 0]);
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

/// We call boringtun; both can seal afterwards.
fn we_call(ours: &mut Node, oracle: &mut Tunn, now_ms: u64) {
    let initiation = ours.input(Input::Call, now_ms).unwrap().remove(0);
    let response = take(oracle, &initiation);
    let keepalive = ours.receive(&response, now_ms).unwrap().remove(0);
    done(oracle, &keepalive);
}

/// boringtun calls us.
fn we_are_called(ours: &mut Node, oracle: &mut Tunn, now_ms: u64) {
    let initiation = network(oracle.format_handshake_initiation(&mut [0; 2_048], true));
    let response = ours.receive(&initiation, now_ms).unwrap().remove(0);
    let keepalive = take(oracle, &response);
    assert_eq!(ours.readies, 0);
    assert!(ours.receive(&keepalive, now_ms).unwrap().is_empty());
}

fn exchange(ours: &mut Node, oracle: &mut Tunn, now_ms: u64) {
    for len in [20, 21, 31, 32, 33, 576, 1_408, 1_409, 1_420] {
        let packet = packet(len, 0xb7);
        let sent = ours.send(&packet, now_ms).remove(0);
        assert_eq!(tunnelled(oracle, &sent), packet);
        let sent = network(oracle.encapsulate(&packet, &mut [0; 2_048]));
        ours.receive(&sent, now_ms).unwrap();
        assert_eq!(ours.arrived.pop(), Some(packet), "boringtun does not pad");
    }
}

#[test]
fn we_initiate_and_boringtun_responds() {
    for preshared in preshared_keys() {
        let (mut ours, mut oracle) = (ours(preshared.as_ref()), oracle(preshared.as_ref(), 100));
        we_call(&mut ours, &mut oracle, 0);
        exchange(&mut ours, &mut oracle, 10);
    }
}

#[test]
fn boringtun_initiates_and_we_respond() {
    for preshared in preshared_keys() {
        let (mut ours, mut oracle) = (ours(preshared.as_ref()), oracle(preshared.as_ref(), 100));
        we_are_called(&mut ours, &mut oracle, 0);
        assert_eq!(ours.readies, 1);
        exchange(&mut ours, &mut oracle, 10);
    }
}

#[test]
fn another_preshared_key_makes_no_session_with_boringtun() {
    let [_, preshared] = preshared_keys();
    let (mut ours, mut oracle) = (ours(None), oracle(preshared.as_ref(), 100));
    let initiation = ours.input(Input::Call, 0).unwrap().remove(0);
    let response = take(&mut oracle, &initiation);
    assert!(ours.receive(&response, 0).is_err());
    let initiation = network(oracle.format_handshake_initiation(&mut [0; 2_048], true));
    let response = ours.receive(&initiation, 0).unwrap().remove(0);
    let mut buffer = [0; 2_048];
    let result = oracle.decapsulate(Some(ADDRESS), &response, &mut buffer);
    assert!(matches!(result, TunnResult::Err(WireGuardError::InvalidAeadTag)), "{result:?}");
}

#[test]
fn we_renew_a_session_after_120_s_and_boringtun_follows() {
    let (mut ours, mut oracle) = (ours(None), oracle(None, 100));
    we_call(&mut ours, &mut oracle, 0);
    let first = ours.peer.sessions().sealing(0).unwrap();
    exchange(&mut ours, &mut oracle, 120_001);
    let late = network(oracle.encapsulate(&packet(40, 1), &mut [0; 2_048]));
    let initiation = ours.input(Input::Tick, 120_100).unwrap().remove(0);
    let response = take(&mut oracle, &initiation);
    // Until we have sealed with it, boringtun goes on with the first.
    let before = network(oracle.encapsulate(&packet(40, 2), &mut [0; 2_048]));
    let keepalive = ours.receive(&response, 120_100).unwrap().remove(0);
    done(&mut oracle, &keepalive);
    assert_ne!(ours.peer.sessions().sealing(120_100).unwrap().local_index(), first.local_index());
    for message in [late, before] {
        ours.receive(&message, 120_110).expect("sealed with the first session");
    }
    exchange(&mut ours, &mut oracle, 120_120);
    assert_eq!(ours.arrived.len(), 2);
}

#[test]
fn boringtun_renews_a_session_and_we_follow() {
    let (mut ours, mut oracle) = (ours(None), oracle(None, 100));
    we_are_called(&mut ours, &mut oracle, 0);
    exchange(&mut ours, &mut oracle, 0);
    let first = ours.peer.sessions().sealing(0).unwrap();
    // Its time stamps follow this clock.
    MockClock::advance(Duration::from_millis(50));
    let initiation = network(oracle.format_handshake_initiation(&mut [0; 2_048], true));
    let response = ours.receive(&initiation, 50).unwrap().remove(0);
    assert_eq!(ours.peer.sessions().sealing(50).unwrap().local_index(), first.local_index());
    let in_the_first = ours.send(&packet(40, 3), 50).remove(0);
    let keepalive = take(&mut oracle, &response);
    assert_eq!(tunnelled(&mut oracle, &in_the_first), packet(40, 3));
    ours.receive(&keepalive, 60).unwrap();
    assert_ne!(ours.peer.sessions().sealing(60).unwrap().local_index(), first.local_index());
    exchange(&mut ours, &mut oracle, 70);
}

#[test]
fn our_keepalive_is_one_to_boringtun_and_its_is_one_to_us() {
    let (mut ours, mut oracle) = (ours(None), oracle(None, 100));
    we_call(&mut ours, &mut oracle, 0);
    let packet = network(oracle.encapsulate(&packet(64, 0), &mut [0; 2_048]));
    ours.receive(&packet, 100).unwrap();
    assert!(ours.input(Input::Tick, 10_099).unwrap().is_empty());
    let keepalive = ours.input(Input::Tick, 10_100).unwrap().remove(0);
    done(&mut oracle, &keepalive);
    let before = ours.arrived.len();
    let keepalive = network(oracle.encapsulate(&[], &mut [0; 2_048]));
    assert!(ours.receive(&keepalive, 10_200).unwrap().is_empty());
    assert_eq!(ours.arrived.len(), before);
}

#[test]
fn boringtun_under_load_gives_us_a_cookie_that_lets_us_in() {
    let (mut ours, mut oracle) = (ours(None), oracle(None, 0));
    let initiation = ours.input(Input::Call, 0).unwrap().remove(0);
    let cookie = take(&mut oracle, &initiation);
    assert_eq!((cookie[0], cookie.len()), (3, 64));
    assert!(ours.receive(&cookie, 10).unwrap().is_empty());
    let initiation = ours.input(Input::Tick, 300).unwrap().remove(0);
    let response = take(&mut oracle, &initiation);
    assert_eq!(response[0], 2);
    let keepalive = ours.receive(&response, 310).unwrap().remove(0);
    done(&mut oracle, &keepalive);
    exchange(&mut ours, &mut oracle, 320);
}

#[test]
fn under_load_we_give_boringtun_a_cookie_that_lets_it_in() {
    let (mut ours, mut oracle) = (ours(None), oracle(None, 100));
    let from = std::net::SocketAddr::from(([198, 51, 100, 1], 1));
    let initiation = network(oracle.format_handshake_initiation(&mut [0; 2_048], true));
    for _ in 0..=HANDSHAKES_PER_SECOND {
        ours.gate.judge(&initiation, from, 0, false, &mut |bytes| bytes.fill(1));
    }
    let cookie = ours.receive(&initiation, 0).unwrap().remove(0);
    assert_eq!(cookie[0], 3);
    done(&mut oracle, &cookie);
    let initiation = network(oracle.format_handshake_initiation(&mut [0; 2_048], true));
    assert_ne!(initiation[132..], [0; 16], "mac2");
    let response = ours.receive(&initiation, 1).unwrap().remove(0);
    assert_eq!(response[0], 2);
}

#[test]
fn boringtun_refuses_our_replays_as_we_do_its() {
    let (mut ours, mut oracle) = (ours(None), oracle(None, 100));
    let initiation = ours.input(Input::Call, 0).unwrap().remove(0);
    let response = take(&mut oracle, &initiation);
    let mut buffer = [0; 2_048];
    let replayed = oracle.decapsulate(Some(ADDRESS), &initiation, &mut buffer);
    assert!(matches!(replayed, TunnResult::Err(WireGuardError::WrongTai64nTimestamp)), "{replayed:?}");
    let keepalive = ours.receive(&response, 1).unwrap().remove(0);
    done(&mut oracle, &keepalive);
    let mut buffer = [0; 2_048];
    let replayed = oracle.decapsulate(Some(ADDRESS), &keepalive, &mut buffer);
    assert!(matches!(replayed, TunnResult::Err(WireGuardError::DuplicateCounter)), "{replayed:?}");
}
