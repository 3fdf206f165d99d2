//! The initiator: asks a responder for one session per test and does the near half.

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::report::{Report, RequestResponse, TcpThroughput, UdpThroughput};
use super::spec::{Spec, TestKind};
use super::stream::{self, Limit};
use super::wire::{Answer, Counts, FrameError, Refusal, Request, SessionRequest, read_frame, write_frame};
use super::{MeasureError, rr, udp};

/// Longest time that one test takes beyond its own length, in milliseconds: connections, the first
/// UDP packets, what is still in queues.
pub(super) const OVERHEAD_MS_MAX: u64 = 12_000;
/// For one connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// For the first answer on it.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// For the first UDP packet to come back.
const GREET_MS_MAX: u64 = 2_500;
/// How much longer than its test the near half may take; below [`super::responder::GRACE_MS`].
const DRAIN_MS_MAX: u64 = 4_000;
/// Silence after which a reverse UDP test whose sender has finished is over.
const SILENCE: Duration = Duration::from_millis(300);
const UNKNOWN: u64 = u64::MAX;

/// Nobody stops an initiator but its limits.
static NEVER: AtomicBool = AtomicBool::new(false);

/// Runs the tests of `spec` against the responder at `target`, one after the other, from the
/// network namespace of the calling thread. Takes [`Spec::limit_ms`] at most.
///
/// # Errors
/// The specification is outside the limits, the responder cannot be reached or refuses, or a test
/// broke off. Nothing is reported then: half a measurement would look like a whole one.
pub fn run(target: SocketAddr, spec: &Spec) -> Result<Report, MeasureError> {
    spec.check()?;
    let started = jiff::Timestamp::now();
    let begin = Instant::now();
    let mut report = Report {
        source: target.ip(),
        target,
        started: started.to_string(),
        took_ms: 0,
        tcp: None,
        tcp_reverse: None,
        udp: None,
        udp_reverse: None,
        rr_tcp: None,
        rr_udp: None,
    };
    for test in spec.ordered() {
        let session = Session::open(target, spec, test)?;
        report.source = session.control.local_addr().map_err(|source| session.broken(source))?.ip();
        match test {
            TestKind::Tcp => report.tcp = Some(session.tcp()?),
            TestKind::TcpReverse => report.tcp_reverse = Some(session.tcp_reverse()?),
            TestKind::Udp => report.udp = Some(session.udp()?),
            TestKind::UdpReverse => report.udp_reverse = Some(session.udp_reverse()?),
            TestKind::RrTcp => report.rr_tcp = Some(session.rr_tcp()?),
            TestKind::RrUdp => report.rr_udp = Some(session.rr_udp()?),
        }
    }
    report.took_ms = begin.elapsed().as_millis() as u64;
    Ok(report)
}

/// One test that the responder has admitted.
struct Session<'a> {
    target: SocketAddr,
    spec: &'a Spec,
    test: TestKind,
    control: TcpStream,
    id: u64,
    udp_port: Option<u16>,
}

impl<'a> Session<'a> {
    fn open(target: SocketAddr, spec: &'a Spec, test: TestKind) -> Result<Self, MeasureError> {
        let control = stream::connect(target, spec.source, CONNECT_LIMIT)
            .map_err(|source| MeasureError::Connect { target, source })?;
        let mut session = Self { target, spec, test, control, id: 0, udp_port: None };
        session.tell(&session.control, &Request::Session(request(spec, test)))?;
        let answer = session.hear(&session.control, Instant::now() + ANSWER_LIMIT)?;
        let Answer::Accepted { session: id, udp_port } = answer else {
            return Err(session.protocol("it did not accept"));
        };
        session.id = id;
        session.udp_port = udp_port;
        Ok(session)
    }

    fn tcp(&self) -> Result<TcpThroughput, MeasureError> {
        let streams = self.streams(self.spec.streams)?;
        let sending = Limit::after(self.spec.test_ms.into(), &NEVER);
        stream::on_each(&streams, |s| stream::fill(s, sending)).map_err(|e| self.broken(e))?;
        let counts = self.finished()?;
        let retransmits = streams.iter().map(stream::retransmits).sum();
        Ok(self.tcp_report(&counts, retransmits))
    }

    fn tcp_reverse(&self) -> Result<TcpThroughput, MeasureError> {
        let streams = self.streams(self.spec.streams)?;
        let limit = self.limit();
        let drained = stream::on_each(&streams, |s| stream::drain(s, limit)).map_err(|e| self.broken(e))?;
        self.tell(&self.control, &Request::Sent { packets: 0 })?;
        let far = self.finished()?;
        Ok(self.tcp_report(&stream::sum(&drained), far.retransmits))
    }

    fn udp(&self) -> Result<UdpThroughput, MeasureError> {
        let socket = self.udp_socket()?;
        let sending = Limit::after(self.spec.test_ms.into(), &NEVER);
        let Spec { udp_payload_bytes, udp_rate_bit_s, .. } = *self.spec;
        let sent = udp::send(&socket, self.id, udp_payload_bytes, udp_rate_bit_s, sending)
            .map_err(|e| self.broken(e))?;
        self.tell(&self.control, &Request::Sent { packets: sent })?;
        Ok(self.udp_report(sent, &self.finished()?))
    }

    fn udp_reverse(&self) -> Result<UdpThroughput, MeasureError> {
        let socket = self.udp_socket()?;
        self.tell(&self.control, &Request::Go {})?;
        let limit = self.limit();
        let sent = AtomicU64::new(UNKNOWN);
        let (counts, said) = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let said = self.hear(&self.control, limit.until);
                sent.store(
                    if let Ok(Answer::Sent { packets }) = said { packets } else { 0 },
                    Ordering::Relaxed,
                );
                said
            });
            let counts = udp::count(&socket, self.id, limit, |received, silence| {
                let sent = sent.load(Ordering::Relaxed);
                sent != UNKNOWN && (received >= sent || silence > SILENCE)
            });
            (counts, waiter.join())
        });
        let said = said.map_err(|_| self.broken(io::Error::other("the control thread panicked")))??;
        let Answer::Sent { packets } = said else {
            return Err(self.protocol("it did not say how much it sent"));
        };
        self.tell(&self.control, &Request::Sent { packets: 0 })?;
        self.finished()?;
        Ok(self.udp_report(packets, &counts.map_err(|e| self.broken(e))?))
    }

    fn rr_tcp(&self) -> Result<RequestResponse, MeasureError> {
        let streams = self.streams(1)?;
        let asking = Limit::after(self.spec.test_ms.into(), &NEVER);
        let trips =
            rr::ask_tcp(&streams[0], self.spec.rr_payload_bytes, asking).map_err(|e| self.broken(e))?;
        self.finished()?;
        Ok(trips.report(self.spec.rr_payload_bytes))
    }

    fn rr_udp(&self) -> Result<RequestResponse, MeasureError> {
        let socket = self.udp_socket()?;
        let asking = Limit::after(self.spec.test_ms.into(), &NEVER);
        let payload_bytes = self.spec.rr_payload_bytes.max(udp::HEADER_BYTES as u16);
        let trips = rr::ask_udp(&socket, self.id, payload_bytes, asking).map_err(|e| self.broken(e))?;
        self.tell(&self.control, &Request::Sent { packets: 0 })?;
        self.finished()?;
        Ok(trips.report(payload_bytes))
    }

    /// Opens the data streams of the session.
    fn streams(&self, count: u8) -> Result<Vec<TcpStream>, MeasureError> {
        let mut streams = Vec::with_capacity(count.into());
        for _ in 0..count {
            let stream = stream::connect(self.target, self.spec.source, CONNECT_LIMIT)
                .map_err(|source| MeasureError::Connect { target: self.target, source })?;
            self.tell(&stream, &Request::Stream { session: self.id })?;
            match self.hear(&stream, Instant::now() + ANSWER_LIMIT)? {
                Answer::Accepted { session, .. } if session == self.id => streams.push(stream),
                _ => return Err(self.protocol("it did not accept a stream")),
            }
        }
        Ok(streams)
    }

    /// A UDP socket whose packets reach the responder and come back.
    fn udp_socket(&self) -> Result<UdpSocket, MeasureError> {
        let port = self.udp_port.ok_or_else(|| self.protocol("it named no UDP port"))?;
        let target = SocketAddr::new(self.target.ip(), port);
        let local = self.control.local_addr().map_err(|e| self.broken(e))?.ip();
        let open = || -> io::Result<(UdpSocket, bool)> {
            let socket = udp::bind(local, None)?;
            socket.connect(target)?;
            let greeted = udp::greet(&socket, self.id, Limit::after(GREET_MS_MAX, &NEVER))?;
            Ok((socket, greeted))
        };
        match open().map_err(|e| self.broken(e))? {
            (socket, true) => Ok(socket),
            (_, false) => Err(MeasureError::UdpSilent { target }),
        }
    }

    fn limit(&self) -> Limit<'static> {
        Limit::after(u64::from(self.spec.test_ms) + DRAIN_MS_MAX, &NEVER)
    }

    /// Waits for what the responder counted.
    fn finished(&self) -> Result<Counts, MeasureError> {
        let until = Instant::now() + Duration::from_millis(super::responder::GRACE_MS + DRAIN_MS_MAX);
        match self.hear(&self.control, until)? {
            Answer::Finished(counts) => Ok(counts),
            _ => Err(self.protocol("it did not finish")),
        }
    }

    fn tell(&self, stream: &TcpStream, request: &Request) -> Result<(), MeasureError> {
        write_frame(stream, request).map_err(|e| self.broken(e))
    }

    /// Reads one answer; a refusal becomes an error.
    fn hear(&self, stream: &TcpStream, until: Instant) -> Result<Answer, MeasureError> {
        let target = self.target;
        match read_frame(stream, until) {
            Ok(Answer::Refused { reason: Refusal::Busy, detail }) => {
                Err(MeasureError::Busy { target, detail })
            }
            Ok(Answer::Refused { reason, detail }) => Err(MeasureError::Refused { target, reason, detail }),
            Ok(answer) => Ok(answer),
            Err(FrameError::Io(source)) => Err(self.broken(source)),
            Err(FrameError::Closed) => Err(self.broken(io::Error::from(io::ErrorKind::ConnectionReset))),
            Err(error) => Err(self.protocol(&error.to_string())),
        }
    }

    fn broken(&self, source: io::Error) -> MeasureError {
        MeasureError::Io { target: self.target, test: self.test, source }
    }

    fn protocol(&self, detail: &str) -> MeasureError {
        MeasureError::Protocol { target: self.target, detail: detail.to_owned() }
    }

    fn tcp_report(&self, counts: &Counts, retransmits: u64) -> TcpThroughput {
        TcpThroughput {
            streams: self.spec.streams,
            bytes: counts.bytes,
            took_ms: counts.took_us / 1_000,
            bit_s: per_second(counts.bytes.saturating_mul(8), counts.took_us),
            retransmits,
        }
    }

    fn udp_report(&self, sent: u64, counts: &Counts) -> UdpThroughput {
        let lost = sent.saturating_sub(counts.packets);
        UdpThroughput {
            payload_bytes: self.spec.udp_payload_bytes,
            sent_packets: sent,
            received_packets: counts.packets,
            lost_packets: lost,
            lost_percent: if sent == 0 { 0.0 } else { (lost as f64 * 1e5 / sent as f64).round() / 1e3 },
            reordered_packets: counts.reordered,
            duplicate_packets: counts.duplicates,
            jitter_us: rr::tenths(counts.jitter_us),
            took_ms: counts.took_us / 1_000,
            bit_s: per_second(counts.bytes.saturating_mul(8), counts.took_us),
            packets_s: per_second(counts.packets, counts.took_us),
        }
    }
}

fn request(spec: &Spec, test: TestKind) -> SessionRequest {
    let streams = match test {
        TestKind::Tcp | TestKind::TcpReverse => spec.streams,
        TestKind::Udp | TestKind::UdpReverse | TestKind::RrTcp | TestKind::RrUdp => 1,
    };
    let payload_bytes = match test {
        TestKind::RrTcp | TestKind::RrUdp => spec.rr_payload_bytes,
        TestKind::Tcp | TestKind::TcpReverse | TestKind::Udp | TestKind::UdpReverse => spec.udp_payload_bytes,
    };
    SessionRequest { test, test_ms: spec.test_ms, streams, payload_bytes, rate_bit_s: spec.udp_rate_bit_s }
}

/// `amount` in `took_us` as a rate per second; 0 when no time passed.
fn per_second(amount: u64, took_us: u64) -> u64 {
    if took_us == 0 { 0 } else { (u128::from(amount) * 1_000_000 / u128::from(took_us)) as u64 }
}
