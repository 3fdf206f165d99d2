//! Each rule of the table by itself, with two gateways at most.

use std::net::Ipv4Addr;

use super::whole::Decision;
use super::*;

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 255, 0, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 255, 0, 2));
const PORT: PortKey = PortKey::vlan(7, 100);

fn vni() -> Vni {
    Vni::new(1000).unwrap()
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn station() -> Station {
    (vni(), mac(1))
}

fn address() -> Address {
    (vni(), "10.0.0.9".parse().unwrap())
}

fn at(seconds: u64) -> Instant {
    Instant::from_millis(seconds * 1000)
}

fn hosts(vtep: IpAddr) -> Hosts {
    let mut hosts = Hosts::new(vtep, DampingLimits::default());
    // The first look is that of a start; what is learnt after it was learnt while we looked.
    hosts.decide(at(0), &Seen::default(), &Claims::default());
    hosts
}

fn seen_on(port: PortKey) -> Seen {
    Seen { stations: [(station(), port)].into(), ..Seen::default() }
}

fn claims(vtep: IpAddr, sequence: u32, sticky: bool) -> Claims {
    Claims { stations: [(station(), Claim { sticky, sequence, vtep })].into(), ..Claims::default() }
}

/// Station 1 here, which says that the address is its own.
fn bound_here() -> Seen {
    let neighbour = Neighbour { mac: mac(1), port: PORT, flags: NeighbourFlags::default() };
    let (stations, addresses) = ([(station(), PORT)].into(), [(address(), neighbour)].into());
    Seen { stations, addresses, ..Seen::default() }
}

/// Station 2 at `vtep`, which says that the address is its own.
fn bound_there(vtep: IpAddr, sequence: u32, sticky: bool, flags: Option<NeighbourFlags>) -> Claims {
    let (station, ip) = ((vni(), mac(2)), Some(address().1));
    Claims::of(&[Told { station, ip, claim: Claim { sticky, sequence, vtep }, flags }])
}

/// Two gateways that tell each other everything, and a station that is heard at one of them at a time.
#[test]
fn a_station_that_moves_to_and_fro_is_always_at_one_gateway() {
    let (mut a, mut b) = (hosts(A), hosts(B));
    let (mut told_by_a, mut told_by_b): (Option<u32>, Option<u32>) = (None, None);
    for step in 0..10_u64 {
        let at_a = step % 2 == 0;
        // Until it is told that the station moved away, the old gateway still has it in its table.
        for round in 0..3 {
            let now = at(step * 200 + round);
            let seen = |here: bool, advertised: Option<u32>| {
                if here || (round < 2 && advertised.is_some()) { seen_on(PORT) } else { Seen::default() }
            };
            let from_b = told_by_b.map_or_else(Claims::default, |n| claims(B, n, false));
            let of_a = a.decide(now, &seen(at_a, told_by_a), &from_b);
            told_by_a = of_a.advertise.get(&station()).copied();
            let from_a = told_by_a.map_or_else(Claims::default, |n| claims(A, n, false));
            let of_b = b.decide(now, &seen(!at_a, told_by_b), &from_a);
            told_by_b = of_b.advertise.get(&station()).copied();
        }
        assert_eq!(told_by_a.is_some(), at_a, "step {step}: {told_by_a:?} {told_by_b:?}");
        assert_eq!(told_by_b.is_some(), !at_a, "step {step}: {told_by_a:?} {told_by_b:?}");
    }
}

/// RFC 7432 section 15.2.
#[test]
fn a_station_that_another_gateway_pinned_is_not_advertised_and_told_of_once() {
    let mut hosts = hosts(A);
    let decision = hosts.decide(at(1), &seen_on(PORT), &claims(B, 0, true));
    assert!(decision.advertise.is_empty());
    assert_eq!(decision.notices, [Notice::Pinned(Subject::Station(station()), B)]);
    assert_eq!(hosts.decide(at(2), &seen_on(PORT), &claims(B, 0, true)).notices, []);
    assert_eq!(hosts.pinned_elsewhere().len(), 1);
    let free = hosts.decide(at(3), &seen_on(PORT), &Claims::default());
    assert_eq!(free.advertise, [(station(), 0)].into());
    assert!(hosts.pinned_elsewhere().is_empty());
}

#[test]
fn a_station_that_two_gateways_pin_is_told_of_once() {
    let mut hosts = hosts(A);
    let seen = Seen { pinned: [station()].into(), ..Seen::default() };
    assert_eq!(hosts.decide(at(1), &seen, &claims(B, 0, false)).notices, [], "B will yield");
    let decision = hosts.decide(at(2), &seen, &claims(B, 0, true));
    assert_eq!(decision.notices, [Notice::PinnedTwice(Subject::Station(station()), B)]);
    assert_eq!(hosts.decide(at(3), &seen, &claims(B, 0, true)).notices, []);
}

#[test]
fn of_two_with_one_sequence_the_lower_vtep_keeps_the_station() {
    let (mut a, mut b) = (hosts(A), hosts(B));
    a.decide(at(1), &seen_on(PORT), &Claims::default());
    b.decide(at(1), &seen_on(PORT), &Claims::default());
    let of_a = a.decide(at(2), &seen_on(PORT), &claims(B, 0, false));
    assert_eq!((of_a.advertise, of_a.forget), ([(station(), 0)].into(), vec![]));
    assert_eq!(b.decide(at(2), &seen_on(PORT), &claims(A, 0, false)).forget, [station()]);
}

/// A table that outlived the daemon may be older than what the others say.
#[test]
fn what_is_found_at_the_start_takes_nothing_from_anybody() {
    let mut hosts = Hosts::new(B, DampingLimits::default());
    let first = hosts.decide(at(1), &seen_on(PORT), &claims(A, 0, false));
    assert_eq!((first.forget, first.advertise.len()), (vec![station()], 0));
    hosts.decide(at(2), &Seen::default(), &claims(A, 0, false));
    let heard = hosts.decide(at(3), &seen_on(PORT), &claims(A, 0, false));
    assert_eq!(heard.advertise, [(station(), 1)].into(), "it speaks here");
}

#[test]
fn a_station_that_comes_back_is_not_older_than_itself() {
    let mut hosts = hosts(A);
    hosts.decide(at(1), &seen_on(PORT), &claims(B, 6, false));
    hosts.decide(at(2), &Seen::default(), &Claims::default());
    assert_eq!(hosts.decide(at(3), &seen_on(PORT), &Claims::default()).advertise, [(station(), 7)].into());
}

/// Two machines with one MAC, one here and one at B. RFC 7432 section 15.1.
#[test]
fn a_duplicate_at_two_gateways_is_frozen_and_free_again_by_time() {
    let mut hosts = hosts(A);
    let (mut sequence, mut now, mut frozen_at) = (0, 0, None);
    for round in 0..20_u32 {
        now = u64::from(round) * 2 + 1;
        let here = hosts.decide(at(now), &seen_on(PORT), &claims(B, sequence, false));
        let Some(own) = here.advertise.get(&station()) else {
            frozen_at = Some(round);
            assert_eq!(here.notices, [Notice::Frozen(Subject::Station(station()))]);
            break;
        };
        sequence = own + 1;
        let lost = hosts.decide(at(now + 1), &seen_on(PORT), &claims(B, sequence, false));
        assert_eq!(lost.forget, [station()]);
    }
    assert_eq!(frozen_at, Some(2), "here, there, here, there, here: the fifth move is not told");
    let duplicate = hosts.duplicates().next().unwrap();
    let places: Vec<Place> = duplicate.seen.iter().map(|s| s.at).collect();
    assert_eq!(places, [Place::Gateway(B), Place::Port(PORT)]);
    for later in [1, 100, 539] {
        let decision = hosts.decide(at(now + later), &seen_on(PORT), &claims(B, sequence, false));
        assert_eq!(decision, Decision::default(), "{later} s later");
    }
    let thawed = hosts.decide(at(now + 540), &seen_on(PORT), &claims(B, sequence, false));
    assert_eq!(thawed.forget, [station()], "its next frame says where it is");
    assert_eq!(thawed.notices, [Notice::Thawed(Subject::Station(station()))]);
    hosts.decide(at(now + 541), &Seen::default(), &claims(B, sequence, false));
    let heard = hosts.decide(at(now + 542), &seen_on(PORT), &claims(B, sequence, false));
    assert_eq!(heard.advertise, [(station(), sequence + 1)].into());
}

#[test]
fn a_frozen_station_that_we_hold_stays_advertised_until_somebody_claims_more() {
    let mut hosts = hosts(A);
    let [one, other] = [PORT, PortKey::vlan(7, 200)];
    hosts.decide(at(1), &seen_on(one), &Claims::default());
    // Noted moves count one by one, unnoted ones as one.
    (0..4).for_each(|_| hosts.port_moved(station()));
    assert!(hosts.decide(at(2), &seen_on(one), &Claims::default()).notices.is_empty());
    let decision = hosts.decide(at(3), &seen_on(other), &Claims::default());
    assert_eq!(decision.notices, [Notice::Frozen(Subject::Station(station()))]);
    assert_eq!(decision.advertise, [(station(), 0)].into());
    assert!(hosts.holds(&Subject::Station(station())));
    let places: Vec<Place> = hosts.duplicates().next().unwrap().seen.iter().map(|s| s.at).collect();
    assert_eq!(places, [Place::Port(one), Place::Port(other)]);
    let claimed = hosts.decide(at(4), &seen_on(other), &claims(B, 1, false));
    assert_eq!((claimed.advertise.len(), claimed.forget), (0, vec![station()]));
    let relearnt = hosts.decide(at(5), &seen_on(other), &claims(B, 1, false));
    assert_eq!(relearnt, Decision::default(), "it stays where it is in the datapath, and is not told");
}

/// The datapath hears it at the port where it was, until the freeze ends or it is forgotten there.
#[test]
fn a_station_that_flaps_between_ports_here_stays_at_one() {
    let [one, other] = [PORT, PortKey::vlan(7, 200)];
    let frozen = || {
        let mut hosts = hosts(A);
        hosts.decide(at(1), &seen_on(other), &Claims::default());
        (0..4).for_each(|_| hosts.port_moved(station()));
        hosts.decide(at(2), &seen_on(other), &Claims::default());
        assert!(hosts.frozen_at().is_empty(), "four moves are no flapping");
        hosts.decide(at(3), &seen_on(one), &Claims::default());
        assert_eq!(*hosts.frozen_at(), [(station(), one)].into());
        hosts
    };
    let mut moves_on = frozen();
    moves_on.decide(at(4), &seen_on(other), &Claims::default());
    assert_eq!(*moves_on.frozen_at(), [(station(), one)].into(), "where it was then");
    let mut cleared = frozen();
    assert!(cleared.clear(Subject::Station(station())));
    cleared.look(at(4), &seen_on(one), &Claims::default(), &mut Dirty::default());
    assert!(cleared.frozen_at().is_empty(), "by an operator");
    let mut thawed = frozen();
    thawed.look(at(542), &seen_on(one), &Claims::default(), &mut Dirty::default());
    assert_eq!(thawed.frozen_at().len(), 1);
    thawed.look(at(543), &seen_on(one), &Claims::default(), &mut Dirty::default());
    assert!(thawed.frozen_at().is_empty(), "by time");
    let mut gone = frozen();
    gone.decide(at(4), &Seen::default(), &Claims::default());
    assert!(gone.frozen_at().is_empty(), "nobody is there any more");
    let mut forgiven = frozen();
    forgiven.forgive(station().0);
    forgiven.look(at(4), &seen_on(one), &Claims::default(), &mut Dirty::default());
    assert!(forgiven.frozen_at().is_empty(), "a loop did it");
}

/// Where another gateway takes part, the claims decide and not the first port here.
#[test]
fn a_station_that_moves_between_gateways_is_frozen_at_no_port() {
    let mut hosts = hosts(A);
    hosts.decide(at(1), &seen_on(PORT), &claims(B, 0, false));
    (0..5).for_each(|_| hosts.port_moved(station()));
    let decision = hosts.decide(at(2), &seen_on(PORT), &claims(B, 0, false));
    assert_eq!(decision.notices, [Notice::Frozen(Subject::Station(station()))]);
    assert!(hosts.frozen_at().is_empty());
}

#[test]
fn an_operator_clears_a_duplicate() {
    let mut hosts = hosts(A);
    let subject = Subject::Station(station());
    assert!(!hosts.clear(subject));
    (0..5).for_each(|_| hosts.port_moved(station()));
    hosts.decide(at(1), &seen_on(PORT), &claims(B, 3, false));
    assert_eq!(hosts.duplicates().count(), 1);
    assert!(hosts.clear(subject));
    assert_eq!(hosts.duplicates().count(), 0);
    let cleared = hosts.decide(at(2), &seen_on(PORT), &claims(B, 3, false));
    assert_eq!((cleared.forget, cleared.notices), (vec![station()], vec![]));
    hosts.decide(at(3), &Seen::default(), &claims(B, 3, false));
    let heard = hosts.decide(at(4), &seen_on(PORT), &claims(B, 3, false));
    assert_eq!(heard.advertise, [(station(), 4)].into());
}

#[test]
fn what_a_loop_moved_is_forgiven() {
    let mut hosts = hosts(A);
    (0..4).for_each(|_| hosts.port_moved(station()));
    hosts.decide(at(1), &seen_on(PORT), &Claims::default());
    hosts.forgive(station().0);
    hosts.port_moved(station());
    hosts.decide(at(2), &seen_on(PORT), &Claims::default());
    assert_eq!(hosts.duplicates().count(), 0, "the moves before were forgotten");
    (0..5).for_each(|_| hosts.port_moved(station()));
    hosts.decide(at(3), &seen_on(PORT), &Claims::default());
    assert_eq!(hosts.duplicates().count(), 1);
    hosts.forgive(Vni::new(station().0.get() + 1).unwrap());
    assert_eq!(hosts.duplicates().count(), 1, "another segment");
    hosts.forgive(station().0);
    assert_eq!(hosts.duplicates().count(), 0);
}

/// RFC 9721: an address that comes to another MAC is newer than it was there.
#[test]
fn an_address_that_moves_to_another_mac_takes_a_higher_sequence() {
    let (mut a, mut b) = (hosts(A), hosts(B));
    let of_a = a.decide(at(1), &bound_here(), &bound_there(B, 4, false, None));
    assert_eq!(of_a.advertise, [(station(), 5)].into());
    assert_eq!(of_a.addresses[&address()].0, mac(1));
    // The gateway that had it gives it up, and keeps the station.
    b.decide(at(1), &bound_here(), &Claims::default());
    let of_b = b.decide(at(2), &bound_here(), &bound_there(A, 5, false, None));
    assert_eq!(of_b.forget_addresses, [(address(), mac(1))]);
    assert_eq!((of_b.advertise, of_b.addresses.len()), ([(station(), 0)].into(), 0));
}

#[test]
fn a_pinned_or_immutable_address_is_not_taken() {
    let immutable = NeighbourFlags { immutable: true, ..NeighbourFlags::default() };
    for there in [bound_there(B, 0, true, None), bound_there(B, 0, false, Some(immutable))] {
        let mut hosts = hosts(A);
        let decision = hosts.decide(at(1), &bound_here(), &there);
        assert_eq!((decision.advertise, decision.addresses.len()), ([(station(), 0)].into(), 0));
        assert_eq!(decision.notices, [Notice::Pinned(Subject::Address(address()), B)]);
    }
}

/// RFC 9161 section 3.7: two machines here with one address.
#[test]
fn an_address_with_two_macs_here_is_frozen_with_the_one_it_had() {
    let mut hosts = hosts(A);
    let mut seen = bound_here();
    seen.stations.insert((vni(), mac(2)), PORT);
    let mut owner = None;
    for second in 1..12 {
        let is_second = second % 2 == 0;
        let neighbour =
            Neighbour { mac: mac(1 + u8::from(is_second)), port: PORT, flags: NeighbourFlags::default() };
        seen.addresses.insert(address(), neighbour);
        let decision = hosts.decide(at(second), &seen, &Claims::default());
        let told = decision.addresses[&address()].0;
        if !decision.notices.is_empty() {
            assert_eq!(decision.notices, [Notice::Frozen(Subject::Address(address()))]);
            assert_eq!(second, 6, "the first is no move");
            owner = Some(mac(1));
        }
        assert_eq!(told, owner.unwrap_or(neighbour.mac), "second {second}");
        assert_eq!(decision.advertise.len(), 2, "its stations are not harmed");
    }
    assert!(owner.is_some());
}

#[test]
fn an_address_counts_for_the_station_that_won() {
    let told = |vtep, sequence, ip: &str| Told {
        station: station(),
        ip: Some(ip.parse().unwrap()),
        claim: Claim { sticky: false, sequence, vtep },
        flags: None,
    };
    let claims = Claims::of(&[told(A, 3, "10.0.0.1"), told(B, 4, "10.0.0.2")]);
    assert_eq!(claims.stations[&station()].vtep, B);
    let addresses: Vec<_> = claims.addresses.keys().map(|(_, ip)| ip.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.2"]);
}
