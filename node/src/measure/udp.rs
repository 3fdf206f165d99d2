//! UDP data: the header of every packet, the paced sender and the counting receiver.
//!
//! ```text
//!  0      1      2               10        14        18
//!  'W'    type   session         sequence  sent µs   padding to the payload size asked for
//! ```
//! Big endian. The session id is random and comes over the control connection, so that a packet of
//! another session, or of nobody, is never counted. 18 bytes are what a 64-byte Ethernet frame has
//! room for behind IPv4 and UDP.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::sequence::SequenceTracker;
use super::stream::Limit;
use super::wire::{Counts, is_retry};

/// Bytes of the header.
pub(super) const HEADER_BYTES: usize = 18;
/// Largest packet that is looked at.
pub(super) const PACKET_BYTES_MAX: usize = 9_216;
const MAGIC: u8 = b'W';
/// What the sockets ask the kernel for; it may give less.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// How far a paced sender may lag before it gives the missed packets up.
const LAG_MAX: Duration = Duration::from_millis(10);
/// Shorter waits are spun: a sleep is not that precise.
const SPIN_MAX: Duration = Duration::from_micros(150);
/// Refused packets in a row after which the other end is gone.
const REFUSED_MAX: u32 = 1_000;
/// Between two tries to reach the responder.
const HELLO_INTERVAL: Duration = Duration::from_millis(100);

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Initiator to responder: here I am.
    Hello = 0,
    /// The answer to it.
    Welcome = 1,
    /// Counted.
    Data = 2,
    /// To be sent back.
    Ask = 3,
    /// Sent back.
    Reply = 4,
}

/// The first bytes of every packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) session: u64,
    pub(super) sequence: u32,
    pub(super) sent_us: u32,
}

impl Header {
    /// Writes it to the beginning of `packet`, which has at least [`HEADER_BYTES`].
    pub(super) fn write(self, packet: &mut [u8]) {
        packet[0] = MAGIC;
        packet[1] = self.kind as u8;
        packet[2..10].copy_from_slice(&self.session.to_be_bytes());
        packet[10..14].copy_from_slice(&self.sequence.to_be_bytes());
        packet[14..18].copy_from_slice(&self.sent_us.to_be_bytes());
    }

    /// Reads it; `None` when the packet is not of this protocol.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let (head, _) = packet.split_first_chunk::<HEADER_BYTES>()?;
        let kind = match head[1] {
            0 => Kind::Hello,
            1 => Kind::Welcome,
            2 => Kind::Data,
            3 => Kind::Ask,
            4 => Kind::Reply,
            _ => return None,
        };
        let [session, sequence_sent] = [&head[2..10], &head[10..18]];
        let words = u64::from_be_bytes(sequence_sent.try_into().ok()?);
        (head[0] == MAGIC).then_some(Self {
            kind,
            session: u64::from_be_bytes(session.try_into().ok()?),
            sequence: (words >> 32) as u32,
            sent_us: words as u32,
        })
    }
}

/// A bound UDP socket with large buffers. With `preferred`, that port is taken if it is free.
pub(super) fn bind(local: IpAddr, preferred: Option<u16>) -> io::Result<UdpSocket> {
    let address = SocketAddr::new(local, 0);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // A smaller buffer than asked for is a lower rate, not an error.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    let taken =
        preferred.is_some_and(|port| socket.bind(&SockAddr::from(SocketAddr::new(local, port))).is_ok());
    if !taken {
        socket.bind(&SockAddr::from(address))?;
    }
    Ok(socket.into())
}

/// The initiator's first packets: repeats the hello until the responder has answered, so that both
/// know the path (and any address translation on it) before data counts. False: nothing came back.
pub(super) fn greet(socket: &UdpSocket, session: u64, limit: Limit<'_>) -> io::Result<bool> {
    let mut packet = [0; HEADER_BYTES];
    Header { kind: Kind::Hello, session, sequence: 0, sent_us: 0 }.write(&mut packet);
    let mut buffer = [0; PACKET_BYTES_MAX];
    socket.set_read_timeout(Some(HELLO_INTERVAL))?;
    while !limit.over() {
        match socket.send(&packet) {
            Ok(_) => {}
            Err(error) if is_lost(&error) => std::thread::sleep(HELLO_INTERVAL),
            Err(error) => return Err(error),
        }
        match receive(socket, &mut buffer) {
            Ok(Some((Header { kind: Kind::Welcome, session: found, .. }, _))) if found == session => {
                return Ok(true);
            }
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// The responder's side of [`greet`]: waits for a hello of the right session from the right address,
/// answers it and stays connected to where it came from.
pub(super) fn welcome(socket: &UdpSocket, peer: IpAddr, session: u64, limit: Limit<'_>) -> io::Result<bool> {
    let mut buffer = [0; PACKET_BYTES_MAX];
    socket.set_read_timeout(Some(HELLO_INTERVAL))?;
    while !limit.over() {
        let (bytes, from) = match socket.recv_from(&mut buffer) {
            Ok(found) => found,
            Err(error) if is_retry(&error) || is_lost(&error) => continue,
            Err(error) => return Err(error),
        };
        let header = Header::read(&buffer[..bytes]);
        if from.ip().to_canonical() == peer
            && header.is_some_and(|h| h.kind == Kind::Hello && h.session == session)
        {
            socket.connect(from)?;
            answer_hello(socket, session)?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Answers one hello; it may come again when the first answer was lost.
pub(super) fn answer_hello(socket: &UdpSocket, session: u64) -> io::Result<()> {
    let mut packet = [0; HEADER_BYTES];
    Header { kind: Kind::Welcome, session, sequence: 0, sent_us: 0 }.write(&mut packet);
    match socket.send(&packet) {
        Ok(_) => Ok(()),
        Err(error) if is_lost(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Errors that stand for a lost packet: full queues, and ICMP errors about former packets.
pub(super) fn is_lost(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOBUFS | libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH)
    ) || is_retry(error)
}

/// Receives one packet. `None`: nothing within the socket's timeout, or nothing of this protocol.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<(Header, usize)>> {
    match socket.recv(buffer) {
        Ok(bytes) => Ok(Header::read(&buffer[..bytes]).map(|header| (header, bytes))),
        Err(error) if is_lost(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sends numbered packets until the limit, paced when a rate is given. Returns how many the socket
/// took.
pub(super) fn send(
    socket: &UdpSocket,
    session: u64,
    payload_bytes: u16,
    rate_bit_s: Option<u64>,
    limit: Limit<'_>,
) -> io::Result<u64> {
    let mut packet = vec![0; usize::from(payload_bytes).max(HEADER_BYTES)];
    let interval =
        rate_bit_s.map(|rate| Duration::from_secs_f64(packet.len() as f64 * 8.0 / rate.max(1) as f64));
    let start = Instant::now();
    let mut due = start;
    let mut sent = 0_u32;
    let mut refused = 0;
    while !limit.over() && sent < u32::MAX {
        if let Some(interval) = interval {
            due = pace(due, interval, limit);
        }
        let sent_us = start.elapsed().as_micros() as u32;
        Header { kind: Kind::Data, session, sequence: sent, sent_us }.write(&mut packet);
        match socket.send(&packet) {
            Ok(_) => {
                sent += 1;
                refused = 0;
            }
            Err(error) if is_lost(&error) && refused < REFUSED_MAX => {
                refused += 1;
                std::thread::yield_now();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(sent.into())
}

/// Waits until `due` and says when the next packet is due. A sender that has fallen far behind does
/// not make up for it with a burst.
fn pace(due: Instant, interval: Duration, limit: Limit<'_>) -> Instant {
    loop {
        let now = Instant::now();
        let wait = due.saturating_duration_since(now);
        if wait.is_zero() {
            return due.max(now.checked_sub(LAG_MAX).unwrap_or(due)) + interval;
        }
        if wait > SPIN_MAX {
            let left = limit.until.saturating_duration_since(now);
            if left.is_zero() {
                return due;
            }
            std::thread::sleep((wait - SPIN_MAX).min(left));
        } else {
            std::hint::spin_loop();
        }
    }
}

/// Counts the packets of `session` until `done` says so; it is asked after each packet and after
/// each [`super::stream::TICK`] of silence, with the packets so far and the time since the last one.
pub(super) fn count(
    socket: &UdpSocket,
    session: u64,
    limit: Limit<'_>,
    mut done: impl FnMut(u64, Duration) -> bool,
) -> io::Result<Counts> {
    let mut tracker = SequenceTracker::default();
    let mut buffer = [0; PACKET_BYTES_MAX];
    let start = Instant::now();
    let mut last = start;
    socket.set_read_timeout(Some(super::stream::TICK))?;
    while !limit.over() {
        if let Some((header, bytes)) = receive(socket, &mut buffer)?
            && header.session == session
        {
            match header.kind {
                Kind::Data => {
                    last = Instant::now();
                    let arrived_us = (last - start).as_micros() as u64;
                    tracker.push(header.sequence, bytes as u64, header.sent_us, arrived_us);
                }
                Kind::Hello => answer_hello(socket, session)?,
                Kind::Welcome | Kind::Ask | Kind::Reply => {}
            }
        }
        if done(tracker.received(), last.elapsed()) {
            break;
        }
    }
    Ok(Counts {
        bytes: tracker.bytes(),
        took_us: tracker.took_us(),
        retransmits: 0,
        packets: tracker.received(),
        reordered: tracker.reordered(),
        duplicates: tracker.duplicates(),
        jitter_us: tracker.jitter_us(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_comes_back_as_it_was_written() {
        let header =
            Header { kind: Kind::Ask, session: 0x0102_0304_0506_0708, sequence: 7, sent_us: 0xfffe_fdfc };
        let mut packet = [0xff; 40];
        header.write(&mut packet);
        assert_eq!(packet[..18], [b'W', 3, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 7, 0xff, 0xfe, 0xfd, 0xfc]);
        assert_eq!(Header::read(&packet), Some(header));
    }

    #[test]
    fn what_is_not_ours_is_not_read() {
        assert_eq!(Header::read(&[b'W'; 17]), None);
        assert_eq!(Header::read(&[b'X'; 18]), None);
        let mut packet = [0; 18];
        packet[0] = b'W';
        packet[1] = 5;
        assert_eq!(Header::read(&packet), None);
    }
}
