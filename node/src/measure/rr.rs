//! Request and answer in turn: one outstanding request, its round trip timed at the initiator.

use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use super::report::RequestResponse;
use super::stream::{Limit, TICK};
use super::udp::{HEADER_BYTES, Header, Kind, PACKET_BYTES_MAX, answer_hello, is_lost, receive};
use super::wire::is_retry;

/// A UDP request without an answer for so long is lost.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
/// A TCP request without an answer for so long breaks the test.
const TCP_ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Round trips of one test.
#[derive(Debug, Default)]
pub(super) struct RoundTrips {
    histogram: Histogram,
    lost: u64,
    took: Duration,
}

impl RoundTrips {
    /// What the report says about them.
    pub(super) fn report(&self, payload_bytes: u16) -> RequestResponse {
        let seconds = self.took.as_secs_f64();
        let count = self.histogram.count();
        RequestResponse {
            payload_bytes,
            transactions: count,
            lost: self.lost,
            transactions_s: if seconds > 0.0 { tenths(count as f64 / seconds) } else { 0.0 },
            min_us: tenths(self.histogram.min_us()),
            p50_us: tenths(self.histogram.percentile_us(50.0)),
            p90_us: tenths(self.histogram.percentile_us(90.0)),
            p99_us: tenths(self.histogram.percentile_us(99.0)),
            max_us: tenths(self.histogram.max_us()),
        }
    }
}

/// Rounds to one tenth: more digits would claim more than was measured.
pub(super) fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Asks over TCP until the limit, then ends its direction.
pub(super) fn ask_tcp(
    mut stream: &TcpStream,
    payload_bytes: u16,
    limit: Limit<'_>,
) -> io::Result<RoundTrips> {
    let mut payload = vec![0x5a; usize::from(payload_bytes)];
    let mut trips = RoundTrips::default();
    stream.set_read_timeout(Some(TCP_ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(TCP_ANSWER_LIMIT))?;
    let start = Instant::now();
    while !limit.over() {
        let asked = Instant::now();
        stream.write_all(&payload)?;
        stream.read_exact(&mut payload)?;
        trips.histogram.record(asked.elapsed());
    }
    trips.took = start.elapsed();
    stream.shutdown(std::net::Shutdown::Write)?;
    Ok(trips)
}

/// Answers each whole request until the peer ends its direction, or the limit.
pub(super) fn answer_tcp(mut stream: &TcpStream, payload_bytes: u16, limit: Limit<'_>) -> io::Result<()> {
    let mut payload = vec![0; usize::from(payload_bytes)];
    let mut filled = 0;
    stream.set_read_timeout(Some(TICK))?;
    stream.set_write_timeout(Some(TCP_ANSWER_LIMIT))?;
    while !limit.over() {
        match stream.read(&mut payload[filled..]) {
            Ok(0) => return Ok(()),
            Ok(count) => filled += count,
            Err(error) if is_retry(&error) => {}
            Err(error) => return Err(error),
        }
        if filled == payload.len() {
            stream.write_all(&payload)?;
            filled = 0;
        }
    }
    Ok(())
}

/// Asks over UDP until the limit. A request that is not answered in time is lost, its late answer
/// is not counted.
pub(super) fn ask_udp(
    socket: &UdpSocket,
    session: u64,
    payload_bytes: u16,
    limit: Limit<'_>,
) -> io::Result<RoundTrips> {
    let mut packet = vec![0x5a; usize::from(payload_bytes).max(HEADER_BYTES)];
    let mut buffer = [0; PACKET_BYTES_MAX];
    let mut trips = RoundTrips::default();
    let mut sequence = 0_u32;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    let start = Instant::now();
    while !limit.over() {
        Header { kind: Kind::Ask, session, sequence, sent_us: 0 }.write(&mut packet);
        let asked = Instant::now();
        match socket.send(&packet) {
            Ok(_) if await_reply(socket, &mut buffer, session, sequence, asked)? => {
                trips.histogram.record(asked.elapsed());
            }
            Ok(_) => trips.lost += 1,
            Err(error) if is_lost(&error) => {
                trips.lost += 1;
                std::thread::sleep(TICK);
            }
            Err(error) => return Err(error),
        }
        sequence = sequence.wrapping_add(1);
    }
    trips.took = start.elapsed();
    Ok(trips)
}

/// True when the reply with this number came in time.
fn await_reply(
    socket: &UdpSocket,
    buffer: &mut [u8],
    session: u64,
    sequence: u32,
    asked: Instant,
) -> io::Result<bool> {
    while asked.elapsed() < ANSWER_LIMIT {
        if let Some((header, _)) = receive(socket, buffer)?
            && header.kind == Kind::Reply
            && header.session == session
            && header.sequence == sequence
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sends requests of `session` back until `done` or the limit.
pub(super) fn answer_udp(
    socket: &UdpSocket,
    session: u64,
    limit: Limit<'_>,
    done: impl Fn() -> bool,
) -> io::Result<()> {
    let mut buffer = [0; PACKET_BYTES_MAX];
    socket.set_read_timeout(Some(TICK))?;
    while !limit.over() && !done() {
        let Some((header, bytes)) = receive(socket, &mut buffer)? else { continue };
        if header.session != session {
            continue;
        }
        match header.kind {
            Kind::Hello => answer_hello(socket, session)?,
            Kind::Ask => {
                Header { kind: Kind::Reply, ..header }.write(&mut buffer);
                match socket.send(&buffer[..bytes]) {
                    Ok(_) => {}
                    Err(error) if is_lost(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            Kind::Welcome | Kind::Data | Kind::Reply => {}
        }
    }
    Ok(())
}
