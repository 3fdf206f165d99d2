//! Which session a packet is for.

use super::*;
use crate::bfd::wire::{Diagnostic, State};

fn config(name: &str, remote: &str, hops: BfdHops) -> BfdConfig {
    BfdConfig {
        name: name.to_owned(),
        netns: None,
        device: Some("wte0".to_owned()),
        local: Some("192.0.2.1".parse().unwrap()),
        remote: remote.parse().unwrap(),
        hops,
        desired_min_tx_us: 50_000,
        required_min_rx_us: 50_000,
        detect_mult: 3,
        passive: false,
        admin_down: false,
        authentication: None,
    }
}

fn table() -> Table {
    let mut table = Table::default();
    let configs = [
        config("a", "192.0.2.2", BfdHops::Single),
        config("b", "192.0.2.3", BfdHops::Single),
        config("m", "192.0.2.2", BfdHops::Multi { ttl_min: 250 }),
    ];
    for (number, config) in (100_u32..).zip(configs) {
        let mut entry = Entry::new(config, NonZeroU32::new(number).unwrap(), 0, Moment::ZERO);
        entry.device_index = Some(4);
        let name = entry.config.name.clone();
        table.insert(entry);
        table.reschedule(&name);
    }
    table
}

fn packet(your_discriminator: u32) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        detect_mult: 3,
        my_discriminator: 9,
        your_discriminator,
        desired_min_tx_us: 50_000,
        required_min_rx_us: 50_000,
        required_min_echo_rx_us: 0,
    }
}

fn arrival() -> Arrival {
    Arrival {
        netns: None,
        multihop: false,
        from: "192.0.2.2".parse().unwrap(),
        to: "192.0.2.1".parse().unwrap(),
        device_index: 4,
        ttl: 255,
    }
}

fn find(your_discriminator: u32, change: impl FnOnce(&mut Arrival)) -> Result<String, Discard> {
    let mut arrival = arrival();
    change(&mut arrival);
    table().find(&packet(your_discriminator), &arrival).map(|entry| entry.config.name.clone())
}

#[test]
fn rfc_5880_section_6_8_6_your_discriminator_selects_the_session() {
    assert_eq!(find(100, |_| {}), Ok("a".to_owned()));
    assert_eq!(find(101, |a| a.from = "192.0.2.3".parse().unwrap()), Ok("b".to_owned()));
    assert_eq!(find(103, |_| {}), Err(Discard::UnknownSession));
}

#[test]
fn rfc_5881_section_3_without_it_the_neighbour_and_the_device_do() {
    assert_eq!(find(0, |_| {}), Ok("a".to_owned()));
    assert_eq!(find(0, |a| a.from = "192.0.2.3".parse().unwrap()), Ok("b".to_owned()));
    assert_eq!(find(0, |a| (a.multihop, a.ttl) = (true, 250)), Ok("m".to_owned()));
    assert_eq!(find(0, |a| a.from = "192.0.2.4".parse().unwrap()), Err(Discard::UnknownSession));
    assert_eq!(find(0, |a| a.device_index = 5), Err(Discard::UnknownSession));
}

#[test]
fn a_packet_that_came_by_another_way_is_not_taken_for_its_discriminator() {
    assert_eq!(find(100, |a| a.from = "192.0.2.3".parse().unwrap()), Err(Discard::WrongPath));
    assert_eq!(find(100, |a| a.to = "192.0.2.9".parse().unwrap()), Err(Discard::WrongPath));
    assert_eq!(find(100, |a| a.device_index = 5), Err(Discard::WrongPath));
    assert_eq!(find(100, |a| a.multihop = true), Err(Discard::WrongPath));
    assert_eq!(find(100, |a| a.netns = Some("/run/netns/x".to_owned())), Err(Discard::WrongPath));
}

#[test]
fn rfc_5881_section_5_a_ttl_other_than_255_is_discarded() {
    assert_eq!(find(100, |a| a.ttl = 254), Err(Discard::Ttl));
    assert_eq!(find(0, |a| a.ttl = 254), Err(Discard::Ttl));
}

#[test]
fn rfc_5883_a_multihop_session_takes_what_is_near_enough() {
    assert_eq!(find(102, |a| (a.multihop, a.ttl) = (true, 250)), Ok("m".to_owned()));
    assert_eq!(find(102, |a| (a.multihop, a.ttl) = (true, 249)), Err(Discard::Ttl));
}

#[test]
fn what_is_removed_is_neither_found_nor_due() {
    let mut table = table();
    assert_eq!(table.due(Moment::ZERO), ["a", "b", "m"]);
    table.remove("a");
    assert_eq!(table.due(Moment::ZERO), ["b", "m"]);
    assert!(!table.has(100));
    assert!(matches!(table.find(&packet(100), &arrival()), Err(Discard::UnknownSession)));
    for name in ["b", "m"] {
        table.entries.get_mut(name).unwrap().session.on_timer(Moment::ZERO, 0);
        table.reschedule(name);
    }
    assert!(table.due(Moment::from_millis(999)).is_empty());
    assert_eq!(table.next_deadline(), Some(Moment::from_secs(1)));
}

#[test]
fn a_session_that_is_on_its_way_out_is_meant_last() {
    let mut table = table();
    let mut renamed =
        Entry::new(config("z", "192.0.2.2", BfdHops::Single), NonZeroU32::new(200).unwrap(), 0, Moment::ZERO);
    renamed.device_index = Some(4);
    table.insert(renamed);
    let found = |table: &mut Table| table.find(&packet(0), &arrival()).map(|entry| entry.config.name.clone());
    assert_eq!(found(&mut table), Ok("a".to_owned()));
    table.entries.get_mut("a").unwrap().leaves_at = Some(Moment::from_secs(9));
    assert_eq!(found(&mut table), Ok("z".to_owned()));
    table.remove("z");
    assert_eq!(found(&mut table), Ok("a".to_owned()), "it answers for itself until then");
}
