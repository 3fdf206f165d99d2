//! The machine of one neighbour, told in the sentences of RFC 4271 §8, §6 and its successors.

use watari_bgp::session::{Action, Session};
use watari_bgp::wire::*;
use watari_bgp::*;

const LOCAL: Asn = Asn(65001);
const REMOTE: Asn = Asn(65002);
const OUT: ConnId = ConnId(1);
const IN: ConnId = ConnId(2);

/// A session with its clock and everything it said.
struct Machine {
    session: Session,
    now: Instant,
    said: Vec<Action>,
}

fn id(last: u8) -> RouterId {
    RouterId([10, 0, 0, last].into())
}

fn config() -> PeerConfig {
    let mut config =
        PeerConfig::new(InstanceId(0), ([10, 0, 0, 5].into(), LOCAL), ([10, 0, 0, 2].into(), REMOTE));
    config.families = vec![Family::Ipv4Unicast];
    config
}

fn open(last: u8, hold_time_s: u16, more: &[Capability]) -> Vec<u8> {
    let mut capabilities = vec![Capability::MultiProtocol(1, 1), Capability::FourOctetAs(REMOTE)];
    capabilities.extend_from_slice(more);
    Open { asn: REMOTE, hold_time_s, router_id: id(last), capabilities }.encode()
}

fn graceful() -> Capability {
    Capability::GracefulRestart(GracefulRestart { restart_time_s: 60, ..GracefulRestart::default() })
}

impl Machine {
    fn with(config: PeerConfig) -> Machine {
        let session = Session::new(config, id(5), 1);
        Machine { session, now: Instant::from_millis(1_000), said: Vec::new() }
    }

    fn started() -> Machine {
        let mut machine = Machine::with(config());
        machine.session.start(machine.now, &mut machine.said);
        machine
    }

    fn connected() -> Machine {
        let mut machine = Machine::started();
        machine.session.connected(OUT, machine.now, &mut machine.said);
        machine
    }

    fn established() -> Machine {
        let mut machine = Machine::connected();
        machine.hear(OUT, &open(2, 90, &[]));
        machine.hear(OUT, &encode_keepalive());
        assert_eq!(machine.session.state(), State::Established);
        machine.said.clear();
        machine
    }

    fn hear(&mut self, conn: ConnId, octets: &[u8]) -> Vec<Vec<u8>> {
        self.session.receive(conn, octets);
        let mut updates = Vec::new();
        while let Some(update) = self.session.next_update(conn, self.now, &mut self.said) {
            updates.push(update);
        }
        updates
    }

    /// Lets time pass, timer by timer.
    fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(deadline) = self.session.next_deadline().filter(|d| *d <= end) {
            self.now = self.now.max(deadline);
            self.session.tick(self.now, &mut self.said);
        }
        self.now = end;
    }

    /// The NOTIFICATIONs sent, each with its connection.
    fn notified(&self) -> Vec<(ConnId, Notification)> {
        let notification = |action: &Action| match action {
            Action::Send(conn, octets) => {
                let frame = next_frame(octets, STANDARD_LIMIT).unwrap().unwrap();
                let is = frame.kind == MessageType::Notification;
                is.then(|| (*conn, Notification::decode(frame.body).unwrap()))
            }
            _ => None,
        };
        self.said.iter().filter_map(notification).collect()
    }

    fn count(&self, is: impl Fn(&Action) -> bool) -> usize {
        self.said.iter().filter(|a| is(a)).count()
    }

    fn closed(&self, conn: ConnId) -> bool {
        self.said.contains(&Action::Close(conn))
    }

    fn sent(&self, kind: MessageType) -> usize {
        self.count(|a| match a {
            Action::Send(_, octets) => next_frame(octets, STANDARD_LIMIT).unwrap().unwrap().kind == kind,
            _ => false,
        })
    }
}

/// §8.2.2 Idle, Event 1.
#[test]
fn in_idle_a_start_initiates_a_connection_and_changes_to_connect() {
    let machine = Machine::started();
    assert_eq!(machine.session.state(), State::Connect);
    assert_eq!(machine.count(|a| *a == Action::Connect), 1);
}

/// §8.2.2 Idle, Event 4.
#[test]
fn in_idle_a_passive_start_listens_and_changes_to_active() {
    let mut machine = Machine::with(PeerConfig { passive: true, ..config() });
    machine.session.start(machine.now, &mut machine.said);
    assert_eq!(machine.session.state(), State::Active);
    machine.pass(600_000);
    assert_eq!(machine.count(|a| *a == Action::Connect), 0);
}

/// §8.2.2 Idle.
#[test]
fn in_idle_incoming_connections_are_refused() {
    let mut machine = Machine::with(config());
    machine.session.accepted(IN, machine.now, &mut machine.said);
    assert!(machine.closed(IN));
    assert_eq!(machine.session.state(), State::Idle);
}

/// §8.2.2 Connect, Event 16.
#[test]
fn in_connect_a_connection_sends_open_and_changes_to_open_sent() {
    let machine = Machine::connected();
    assert_eq!(machine.session.state(), State::OpenSent);
    assert_eq!(machine.sent(MessageType::Open), 1);
}

/// §8.2.2 Connect, Event 9; §10: jitter is 0.75 to 1.
#[test]
fn in_connect_the_retry_timer_starts_another_connection() {
    let mut machine = Machine::started();
    machine.pass(3_749);
    assert_eq!(machine.count(|a| *a == Action::Connect), 1);
    machine.pass(1_251);
    assert_eq!(machine.count(|a| *a == Action::Connect), 2);
}

/// §8.2.2 Connect, Event 18, and Active, Event 9.
#[test]
fn after_a_failed_connection_it_listens_until_the_retry_timer() {
    let mut machine = Machine::started();
    machine.session.connect_failed(machine.now, &mut machine.said);
    assert_eq!(machine.session.state(), State::Active);
    machine.session.accepted(IN, machine.now, &mut machine.said);
    assert_eq!(machine.session.state(), State::OpenSent);
}

/// §8.2.2 OpenSent, Event 19.
#[test]
fn in_open_sent_an_open_is_answered_by_keepalive_and_changes_to_open_confirm() {
    let mut machine = Machine::connected();
    machine.hear(OUT, &open(2, 90, &[]));
    assert_eq!(machine.session.state(), State::OpenConfirm);
    assert_eq!(machine.sent(MessageType::Keepalive), 1);
}

/// §8.2.2 OpenConfirm, Event 26.
#[test]
fn in_open_confirm_a_keepalive_changes_to_established() {
    let mut machine = Machine::connected();
    machine.hear(OUT, &open(2, 90, &[]));
    machine.hear(OUT, &encode_keepalive());
    assert_eq!(machine.session.state(), State::Established);
    assert_eq!(machine.count(|a| matches!(a, Action::Up(OUT, _))), 1);
}

/// §8.2.2 OpenSent, Event 18.
#[test]
fn in_open_sent_a_lost_connection_changes_to_active() {
    let mut machine = Machine::connected();
    machine.session.closed(OUT, machine.now, &mut machine.said);
    assert_eq!(machine.session.state(), State::Active);
}

/// §8.2.2 OpenSent, Event 10: a hold timer of 4 minutes.
#[test]
fn in_open_sent_silence_for_four_minutes_ends_with_hold_timer_expired() {
    let mut machine = Machine::connected();
    machine.pass(239_999);
    assert_eq!(machine.session.state(), State::OpenSent);
    machine.pass(1);
    assert!(machine.notified()[0].1.is(Notification::HOLD_TIMER_EXPIRED));
}

/// §6.6 and RFC 6608.
#[test]
fn unexpected_messages_are_answered_by_the_subcode_of_the_state() {
    let mut machine = Machine::connected();
    machine.hear(OUT, &encode_keepalive());
    assert_eq!(machine.notified()[0].1, Notification::with_data(Notification::FSM_OPEN_SENT, [4]));

    let mut machine = Machine::connected();
    machine.hear(OUT, &open(2, 90, &[]));
    machine.hear(OUT, &encode_end_of_rib(Family::Ipv4Unicast));
    assert_eq!(machine.notified()[0].1, Notification::with_data(Notification::FSM_OPEN_CONFIRM, [2]));

    let mut machine = Machine::established();
    machine.hear(OUT, &open(2, 90, &[]));
    assert_eq!(machine.notified()[0].1, Notification::with_data(Notification::FSM_ESTABLISHED, [1]));
}

/// §6.2.
#[test]
fn an_open_of_another_as_is_answered_by_bad_peer_as() {
    let mut machine = Machine::connected();
    let other = Open { asn: Asn(65003), hold_time_s: 90, router_id: id(2), capabilities: Vec::new() };
    machine.hear(OUT, &other.encode());
    assert!(machine.notified()[0].1.is(Notification::BAD_PEER_AS));
    assert_eq!(machine.session.state(), State::Idle);
}

/// RFC 6286 §2.2: the same identifier is an error within an AS, and none between two.
#[test]
fn our_own_identifier_is_refused_from_an_internal_peer_only() {
    let mut machine = Machine::connected();
    machine.hear(OUT, &open(5, 90, &[]));
    assert_eq!(machine.session.state(), State::OpenConfirm);

    let mut internal = Machine::with(PeerConfig { local_asn: REMOTE, ..config() });
    internal.session.start(internal.now, &mut internal.said);
    internal.session.connected(OUT, internal.now, &mut internal.said);
    internal.hear(OUT, &open(5, 90, &[]));
    assert!(internal.notified()[0].1.is(Notification::BAD_IDENTIFIER));
}

/// RFC 5492 §3 and §5.
#[test]
fn unknown_capabilities_are_ignored_and_a_missing_family_is_named() {
    let mut machine = Machine::connected();
    machine.hear(OUT, &open(2, 90, &[Capability::Unknown { code: 77, value: vec![1, 2, 3] }]));
    assert_eq!(machine.session.state(), State::OpenConfirm);

    let mut machine = Machine::connected();
    let capabilities = vec![Capability::MultiProtocol(2, 1), Capability::FourOctetAs(REMOTE)];
    let v6_only = Open { asn: REMOTE, hold_time_s: 90, router_id: id(2), capabilities };
    machine.hear(OUT, &v6_only.encode());
    let expected = Notification::with_data(Notification::BAD_CAPABILITY, [1, 4, 0, 1, 0, 1]);
    assert_eq!(machine.notified()[0].1, expected);
}

/// RFC 4760 §8.
#[test]
fn a_peer_without_capabilities_carries_ipv4_unicast() {
    let mut machine = Machine::connected();
    let old = Open { asn: REMOTE, hold_time_s: 90, router_id: id(2), capabilities: Vec::new() };
    machine.hear(OUT, &old.encode());
    machine.hear(OUT, &encode_keepalive());
    let (_, negotiated) = machine.session.established().unwrap();
    assert_eq!(negotiated.families, [Family::Ipv4Unicast]);
    assert!(!negotiated.four_octet_as && !negotiated.route_refresh);
    assert_eq!(negotiated.message_limit(), STANDARD_LIMIT);
}

/// §4.2 and §4.4: the smaller hold time, a third of it between KEEPALIVEs.
#[test]
fn the_smaller_hold_time_counts_and_a_third_of_it_is_the_keepalive_interval() {
    let mut machine = Machine::connected();
    machine.hear(OUT, &open(2, 30, &[]));
    machine.hear(OUT, &encode_keepalive());
    machine.said.clear();
    machine.pass(29_999);
    assert!((3..=4).contains(&machine.sent(MessageType::Keepalive)), "{:?}", machine.said);
    assert_eq!(machine.session.state(), State::Established);
    machine.pass(1);
    assert!(machine.notified()[0].1.is(Notification::HOLD_TIMER_EXPIRED));
    assert_eq!(machine.count(|a| matches!(a, Action::Down(_))), 1);
}

/// §4.2: a hold time of zero: neither timer runs.
#[test]
fn with_a_hold_time_of_zero_silence_is_no_error() {
    let mut machine = Machine::connected();
    machine.hear(OUT, &open(2, 0, &[]));
    machine.hear(OUT, &encode_keepalive());
    machine.said.clear();
    machine.pass(86_400_000);
    assert_eq!(machine.session.state(), State::Established);
    assert!(machine.said.is_empty());
}

/// §8.2.2 Established, Events 26 and 27.
#[test]
fn in_established_keepalives_and_updates_restart_the_hold_timer() {
    let mut machine = Machine::established();
    for _ in 0..10 {
        machine.pass(80_000);
        machine.hear(OUT, &encode_keepalive());
        machine.pass(80_000);
        assert_eq!(machine.hear(OUT, &encode_end_of_rib(Family::Ipv4Unicast)).len(), 1);
    }
    assert_eq!(machine.session.state(), State::Established);
}

/// §8.2.2 Established, Event 25.
#[test]
fn a_received_notification_ends_the_session_without_an_answer() {
    let mut machine = Machine::established();
    machine.hear(OUT, &Notification::new(Notification::ADMIN_SHUTDOWN).encode());
    assert_eq!(machine.session.state(), State::Idle);
    assert!(machine.notified().is_empty() && machine.closed(OUT));
    let down = DownReason::Received(Notification::new(Notification::ADMIN_SHUTDOWN));
    assert_eq!(machine.count(|a| *a == Action::Down(down.clone())), 1);
}

/// §8.2.2 Established, Event 2.
#[test]
fn a_manual_stop_sends_cease_and_stays_in_idle() {
    let mut machine = Machine::established();
    machine.session.stop(Some(Notification::new(Notification::ADMIN_SHUTDOWN)), &mut machine.said);
    assert!(machine.notified()[0].1.is(Notification::ADMIN_SHUTDOWN));
    machine.pass(3_600_000);
    assert_eq!(machine.session.state(), State::Idle);
}

/// §8.1.1 DampPeerOscillations.
#[test]
fn errors_in_a_row_double_the_stay_in_idle() {
    let mut machine = Machine::connected();
    let mut waits = Vec::new();
    for n in 0..4 {
        let conn = ConnId(10 + n);
        machine.hear(if n == 0 { OUT } else { conn }, &[0; 19]);
        assert_eq!(machine.session.state(), State::Idle);
        let until = machine.session.next_deadline().unwrap();
        waits.push(until.millis_since(machine.now));
        machine.pass(waits[n as usize]);
        machine.session.connected(ConnId(11 + n), machine.now, &mut machine.said);
    }
    assert!(waits.windows(2).all(|w| w[1] > w[0] * 5 / 4), "{waits:?}");
}

/// §6.8: "if the value of the local BGP Identifier is less than the remote one, the local system closes the
/// BGP connection that already exists and accepts the connection initiated by the remote system".
#[test]
fn in_a_collision_the_connection_of_the_higher_identifier_stays() {
    for (remote, stays, goes) in [(9, IN, OUT), (2, OUT, IN)] {
        for first in [OUT, IN] {
            let mut machine = Machine::connected();
            machine.session.accepted(IN, machine.now, &mut machine.said);
            let second = if first == OUT { IN } else { OUT };
            machine.hear(first, &open(remote, 90, &[]));
            machine.hear(second, &open(remote, 90, &[]));
            assert_eq!(machine.notified(), [(goes, Notification::new(Notification::COLLISION))]);
            machine.hear(stays, &encode_keepalive());
            assert_eq!(machine.session.established().unwrap().0, stays, "remote {remote}, {first:?} first");
        }
    }
}

/// §6.8: "a connection collision with an existing BGP connection that is in the Established state causes
/// closing of the newly created connection".
#[test]
fn a_connection_beside_an_established_one_is_closed() {
    let mut machine = Machine::established();
    machine.pass(30_000);
    machine.session.accepted(IN, machine.now, &mut machine.said);
    machine.hear(IN, &open(9, 90, &[]));
    assert_eq!(machine.notified(), [(IN, Notification::new(Notification::COLLISION))]);
    assert_eq!(machine.session.established().unwrap().0, OUT);
}

/// RFC 4724 §5: with graceful restart the new connection takes the place of the old one, without a NOTIFICATION.
#[test]
fn a_restarted_peer_replaces_its_established_connection() {
    let mut machine = Machine::connected();
    machine.hear(OUT, &open(2, 90, &[graceful()]));
    machine.hear(OUT, &encode_keepalive());
    machine.pass(30_000);
    machine.said.clear();
    machine.session.accepted(IN, machine.now, &mut machine.said);
    assert_eq!(machine.session.state(), State::Established, "followed, not believed");
    machine.hear(IN, &open(2, 90, &[graceful()]));
    assert!(machine.closed(OUT) && machine.notified().is_empty());
    assert_eq!(machine.count(|a| *a == Action::Down(DownReason::Replaced)), 1);
    machine.hear(IN, &encode_keepalive());
    assert_eq!(machine.session.established().unwrap().0, IN);
}

/// RFC 8654 §4.
#[test]
fn messages_beyond_4096_octets_are_for_those_who_agreed() {
    let mut long = encode_end_of_rib(Family::Ipv4Unicast);
    long[16..18].copy_from_slice(&5_000u16.to_be_bytes());
    long.resize(5_000, 0);
    let mut machine = Machine::established();
    machine.hear(OUT, &long);
    assert!(machine.notified()[0].1.is(Notification::BAD_LENGTH));

    let mut machine = Machine::connected();
    machine.hear(OUT, &open(2, 90, &[Capability::ExtendedMessage]));
    machine.hear(OUT, &encode_keepalive());
    assert_eq!(machine.hear(OUT, &long).len(), 1);
}

/// §4.1: messages are found in the stream however it is cut.
#[test]
fn a_session_is_established_octet_by_octet() {
    let mut machine = Machine::connected();
    for octet in open(2, 90, &[]).into_iter().chain(encode_keepalive()) {
        machine.hear(OUT, &[octet]);
    }
    assert_eq!(machine.session.state(), State::Established);
}

/// RFC 9687 §4: nothing can be written any more, so the connection just ends.
#[test]
fn a_peer_that_does_not_read_is_left_without_a_word() {
    let mut machine = Machine::established();
    let reason = Notification::new(Notification::SEND_HOLD_TIMER_EXPIRED);
    machine.session.abandon(OUT, reason.clone(), machine.now, &mut machine.said);
    assert!(machine.notified().is_empty() && machine.closed(OUT));
    assert_eq!(machine.count(|a| *a == Action::Down(DownReason::Sent(reason.clone()))), 1);
}
