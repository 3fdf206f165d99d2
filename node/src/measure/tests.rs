//! Initiator and responder over loopback, and a responder that meets bad peers. No root needed.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::stream::Limit;
use super::udp::{Header, Kind};
use super::wire::{Answer, Request, SessionRequest, read_frame, write_frame};
use super::*;

const WAIT: Duration = Duration::from_secs(10);

fn responder_on(listen: SocketAddr) -> Responder {
    Responder::start(&ResponderOptions { listen: vec![listen], allowed: None }).expect("the responder starts")
}

fn responder() -> Responder {
    responder_on((Ipv4Addr::LOCALHOST, 0).into())
}

fn short(tests: &[TestKind]) -> Spec {
    Spec {
        tests: tests.to_vec(),
        test_ms: 200,
        streams: 2,
        udp_rate_bit_s: Some(8_000_000),
        ..Spec::default()
    }
}

/// Calls `probe` until it gives a value, or fails after [`WAIT`].
fn wait_until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WAIT;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {WAIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn session(test: TestKind) -> SessionRequest {
    SessionRequest { test, test_ms: 60_000, streams: 1, payload_bytes: 100, rate_bit_s: None }
}

fn ask(stream: &TcpStream, request: &Request) -> Answer {
    write_frame(stream, request).expect("the request is sent");
    read_frame(stream, Instant::now() + WAIT).expect("an answer comes")
}

/// The reason of a refusal; panics on anything else.
fn refusal(answer: Answer) -> Refusal {
    match answer {
        Answer::Refused { reason, .. } => reason,
        other => panic!("{other:?} is no refusal"),
    }
}

fn assert_still_serves(responder: &Responder) {
    let report = run(responder.addresses()[0], &short(&[TestKind::RrTcp])).expect("it still serves");
    assert!(report.rr_tcp.expect("a result").transactions > 0);
}

#[test]
fn every_test_comes_to_a_result_over_ipv4() {
    let responder = responder();
    let report = run(responder.addresses()[0], &short(&TestKind::ALL)).expect("it runs");
    for tcp in [report.tcp.expect("tcp"), report.tcp_reverse.expect("tcp-reverse")] {
        assert!(tcp.bytes > 0 && tcp.bit_s > 1_000_000, "{tcp:?}");
        assert_eq!(tcp.streams, 2);
    }
    for udp in [report.udp.expect("udp"), report.udp_reverse.expect("udp-reverse")] {
        assert!(udp.received_packets > 10, "{udp:?}");
        assert_eq!(udp.sent_packets, udp.received_packets + udp.lost_packets, "{udp:?}");
        assert_eq!((udp.reordered_packets, udp.duplicate_packets), (0, 0), "{udp:?}");
        // 8 Mbit/s of 1,200 bytes for 200 ms are 167 packets; the pace must not be exceeded.
        assert!(udp.sent_packets <= 168, "{udp:?}");
    }
    for rr in [report.rr_tcp.expect("rr-tcp"), report.rr_udp.expect("rr-udp")] {
        assert!(rr.transactions > 10, "{rr:?}");
        assert!(rr.min_us <= rr.p50_us && rr.p50_us <= rr.p90_us, "{rr:?}");
        assert!(rr.p90_us <= rr.p99_us && rr.p99_us <= rr.max_us, "{rr:?}");
    }
}

#[test]
fn a_dual_stack_listener_serves_both_families() {
    let responder = responder_on((Ipv6Addr::UNSPECIFIED, 0).into());
    let port = responder.addresses()[0].port();
    for target in
        [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))]
    {
        let report = run(target, &short(&[TestKind::Tcp, TestKind::RrUdp])).expect("it runs");
        assert!(report.rr_udp.expect("a result").transactions > 0, "{target}");
        assert_eq!(report.source, target.ip());
    }
}

#[test]
fn an_unpaced_udp_sender_is_limited_by_the_socket_only() {
    let responder = responder();
    let spec = Spec { udp_rate_bit_s: None, udp_payload_bytes: 18, ..short(&[TestKind::Udp]) };
    let udp = run(responder.addresses()[0], &spec).expect("it runs").udp.expect("a result");
    assert!(udp.sent_packets > 200 && udp.received_packets > 0, "{udp:?}");
}

#[test]
fn a_report_survives_json() {
    let responder = responder();
    let report = run(responder.addresses()[0], &short(&[TestKind::RrTcp])).expect("it runs");
    let text = serde_json::to_string(&report).expect("it is JSON");
    assert!(text.contains("\"p99_us\"") && !text.contains("\"udp\""), "{text}");
    assert_eq!(serde_json::from_str::<Report>(&text).expect("it reads back"), report);
    let table = render([("here", &report)]);
    assert!(table.contains("rr-tcp") && table.contains("here"), "{table}");
}

#[test]
fn one_session_per_peer_and_the_second_is_told_busy() {
    let responder = responder();
    let first = TcpStream::connect(responder.addresses()[0]).expect("it connects");
    assert!(matches!(ask(&first, &Request::Session(session(TestKind::Tcp))), Answer::Accepted { .. }));
    let error = run(responder.addresses()[0], &short(&[TestKind::Tcp])).expect_err("it is busy");
    assert!(matches!(error, MeasureError::Busy { .. }), "{error}");
    // Another peer address is another peer.
    let other = Spec { source: Some(Ipv4Addr::new(127, 0, 0, 9).into()), ..short(&[TestKind::RrTcp]) };
    run(responder.addresses()[0], &other).expect("another peer is served meanwhile");
}

#[test]
fn a_peer_that_aborts_in_the_middle_gives_its_place_back() {
    let responder = responder();
    for test in [TestKind::Tcp, TestKind::TcpReverse, TestKind::RrTcp, TestKind::Udp, TestKind::RrUdp] {
        let control = TcpStream::connect(responder.addresses()[0]).expect("it connects");
        let Answer::Accepted { session: id, udp_port } = ask(&control, &Request::Session(session(test)))
        else {
            panic!("{test} was not accepted");
        };
        let stream = TcpStream::connect(responder.addresses()[0]).expect("it connects");
        if let Some(port) = udp_port {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
            socket.connect((Ipv4Addr::LOCALHOST, port)).expect("it connects");
            let never = AtomicBool::new(false);
            assert!(super::udp::greet(&socket, id, Limit::after(2_000, &never)).expect("greeting"));
        } else {
            assert!(matches!(ask(&stream, &Request::Stream { session: id }), Answer::Accepted { .. }));
            let _ = (&stream).write_all(&[1; 10]);
        }
        drop((control, stream));
        wait_until("the place being free again", || {
            run(responder.addresses()[0], &short(&[TestKind::RrTcp])).ok()
        });
    }
}

#[test]
fn garbage_is_refused_and_harms_nobody() {
    let responder = responder();
    let cases: [(&[u8], Refusal); 7] = [
        (b"GET / HTTP/1.1\r\n\r\n", Refusal::Malformed),
        (b"WTM\x02\x00\x02{}", Refusal::Version),
        (b"WTM\x01\x00\x00", Refusal::Malformed),
        (b"WTM\x01\x04\x01", Refusal::Malformed),
        (b"WTM\x01\xff\xff", Refusal::Malformed),
        (b"WTM\x01\x00\x02{}", Refusal::Malformed),
        (b"WTM\x01\x00\x09{\"go\":{}}", Refusal::Malformed),
    ];
    for (bytes, reason) in cases {
        let mut stream = TcpStream::connect(responder.addresses()[0]).expect("it connects");
        stream.write_all(bytes).expect("it is sent");
        let answer = read_frame(&stream, Instant::now() + WAIT).expect("an answer comes");
        assert_eq!(refusal(answer), reason, "{}", bytes.escape_ascii());
        stream.set_read_timeout(Some(WAIT)).expect("a timeout");
        // A reset instead of an end is right too: the rest of the garbage was never read.
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "it hangs up");
    }
    assert_still_serves(&responder);
}

#[test]
fn the_responder_has_limits_of_its_own() {
    let responder = responder();
    let wrong = [
        SessionRequest { test_ms: TEST_MS_MAX + 1, ..session(TestKind::Tcp) },
        SessionRequest { test_ms: 0, ..session(TestKind::Tcp) },
        SessionRequest { streams: STREAMS_MAX + 1, ..session(TestKind::Tcp) },
        SessionRequest { streams: 0, ..session(TestKind::Tcp) },
        SessionRequest { payload_bytes: 17, ..session(TestKind::Udp) },
        SessionRequest { payload_bytes: u16::MAX, ..session(TestKind::RrTcp) },
        SessionRequest { payload_bytes: 0, ..session(TestKind::RrTcp) },
    ];
    for request in wrong {
        let stream = TcpStream::connect(responder.addresses()[0]).expect("it connects");
        assert_eq!(refusal(ask(&stream, &Request::Session(request.clone()))), Refusal::Limit, "{request:?}");
    }
    let stream = TcpStream::connect(responder.addresses()[0]).expect("it connects");
    assert_eq!(refusal(ask(&stream, &Request::Stream { session: 42 })), Refusal::Unknown);
    assert_still_serves(&responder);
}

#[test]
fn a_peer_outside_the_allowed_prefixes_is_hung_up_on() {
    let options = ResponderOptions {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        allowed: Some(vec!["127.0.0.2/32".parse().expect("a prefix")]),
    };
    let responder = Responder::start(&options).expect("the responder starts");
    let mut spec = short(&[TestKind::RrTcp]);
    run(responder.addresses()[0], &spec).expect_err("127.0.0.1 is not allowed");
    spec.source = Some(Ipv4Addr::new(127, 0, 0, 2).into());
    run(responder.addresses()[0], &spec).expect("127.0.0.2 is allowed");
}

#[test]
fn packets_of_another_session_are_not_counted() {
    let [a, b] = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket"));
    a.connect(b.local_addr().expect("an address")).expect("it connects");
    b.connect(a.local_addr().expect("an address")).expect("it connects");
    let never = AtomicBool::new(false);
    // The other session's packets are more, with numbers that this one does not reach.
    for (session, packets) in [(1, 30), (2, 10)] {
        for sequence in 0..packets {
            let mut packet = [0; 100];
            Header { kind: Kind::Data, session, sequence, sent_us: 0 }.write(&mut packet);
            a.send(&packet).expect("it is sent");
        }
    }
    a.send(b"noise").expect("it is sent");
    let limit = Limit::after(10_000, &never);
    let counts = super::udp::count(&b, 2, limit, |_, silence| silence > Duration::from_millis(500))
        .expect("it counts");
    assert_eq!((counts.packets, counts.bytes, counts.duplicates), (10, 1_000, 0));
}

#[test]
fn nothing_listens_is_a_plain_error() {
    let free = responder().addresses()[0];
    let error = run(free, &short(&[TestKind::Tcp])).expect_err("nobody is there");
    assert!(matches!(error, MeasureError::Connect { .. }), "{error}");
}

#[test]
fn a_specification_outside_the_limits_is_refused_before_anything_is_sent() {
    let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    for spec in [
        Spec { tests: vec![], ..Spec::default() },
        Spec { test_ms: TEST_MS_MIN - 1, ..Spec::default() },
        Spec { test_ms: TEST_MS_MAX, ..Spec::default() },
        Spec { streams: 0, ..Spec::default() },
        Spec { udp_payload_bytes: 17, ..Spec::default() },
        Spec { rr_payload_bytes: 0, ..Spec::default() },
        Spec { udp_rate_bit_s: Some(0), ..Spec::default() },
    ] {
        assert!(matches!(run(nowhere, &spec), Err(MeasureError::Spec(_))), "{spec:?}");
    }
}
