//! Echo probes (RFC 792, RFC 4443 section 4) of an exact packet size that nobody may fragment.
//!
//! Blocking; the socket is made on the calling thread, so that a thread inside a tenant's namespace probes
//! from there. An answer counts when it carries this probe's own random octets.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// The size in bytes of a small probe: 56 of payload, as `ping` has, in IPv4.
pub const SMALL_BYTES: u16 = 84;
/// The largest probe in bytes.
pub const BYTES_MAX: u16 = 9216;
/// How often one call tries.
const TRIES: u16 = 3;
/// How long one try waits.
const TRY_WAIT: Duration = Duration::from_secs(1);
/// Header of an echo message.
const HEADER: usize = 8;
/// Random octets that tell our probe from every other.
const NONCE: usize = 16;

/// Why a probe did not come back.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// The kernel refused.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The path carries less.
    #[error("too big for the path{}", .mtu.map(|m| format!(", which carries {m} bytes")).unwrap_or_default())]
    TooBig {
        /// What it carries in bytes, where somebody said so.
        mtu: Option<u32>,
    },
    /// Somebody said that it cannot be reached.
    #[error("unreachable, says a router (code {code})")]
    Unreachable {
        /// The code of the ICMP message.
        code: u8,
    },
    /// Nothing came back.
    #[error("no answer to {TRIES} tries of {} s", TRY_WAIT.as_secs())]
    Silent,
}

fn system(doing: &'static str) -> impl Fn(io::Error) -> EchoError {
    move |source| EchoError::System { doing, source }
}

/// The round-trip time of an IP packet of `bytes` from `source` to `target` and back.
///
/// # Errors
/// The reason of the last of [`TRIES`] tries.
pub fn probe(source: IpAddr, target: IpAddr, bytes: u16) -> Result<Duration, EchoError> {
    let socket = open(source)?;
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|e| system("take random octets")(io::Error::other(e.to_string())))?;
    let mut last = EchoError::Silent;
    for sequence in 0..TRIES {
        let packet = request(target.is_ipv4(), bytes, &nonce, sequence);
        let sent = Instant::now();
        match socket.send_to(&packet, &SocketAddr::new(target, 0).into()) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => {
                return Err(EchoError::TooBig { mtu: None });
            }
            Err(e) => return Err(system("send the probe")(e)),
        }
        match answer(&socket, target, &packet, sent) {
            Ok(rtt) => return Ok(rtt),
            // A router that says "too big" may mean a try before the path was learnt: the next one tells.
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn open(source: IpAddr) -> Result<Socket, EchoError> {
    let (domain, protocol) = match source {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).map_err(system("open an ICMP socket"))?;
    socket.bind(&SocketAddr::new(source, 0).into()).map_err(system("bind to the probe address"))?;
    let options: &[(i32, i32, i32)] = match source {
        IpAddr::V4(_) => &[(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)],
        IpAddr::V6(_) => &[
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
            (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1),
        ],
    };
    for (level, option, value) in options {
        // SAFETY: the descriptor is open, and the value is an int that lives through the call.
        let done = unsafe {
            let value: *const i32 = value;
            libc::setsockopt(socket.as_raw_fd(), *level, *option, value.cast(), size_of::<i32>() as u32)
        };
        if done < 0 {
            return Err(system("forbid fragments")(io::Error::last_os_error()));
        }
    }
    Ok(socket)
}

/// An echo request that makes an IP packet of `bytes`; never smaller than header and nonce.
fn request(is_v4: bool, bytes: u16, nonce: &[u8; NONCE], sequence: u16) -> Vec<u8> {
    let ip_header = if is_v4 { 20 } else { 40 };
    let length = usize::from(bytes).saturating_sub(ip_header).max(HEADER + NONCE);
    let mut packet = vec![0; length];
    packet[0] = if is_v4 { 8 } else { 128 };
    packet[4..6].copy_from_slice(&nonce[..2]);
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    packet[HEADER..HEADER + NONCE].copy_from_slice(nonce);
    if is_v4 {
        // The kernel makes the checksum of ICMPv6 alone.
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

fn answer(socket: &Socket, target: IpAddr, sent: &[u8], at: Instant) -> Result<Duration, EchoError> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); BYTES_MAX as usize + 128];
    loop {
        let left = TRY_WAIT.saturating_sub(at.elapsed());
        if left.is_zero() {
            return Err(EchoError::Silent);
        }
        socket.set_read_timeout(Some(left)).map_err(system("set a time limit"))?;
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if e.raw_os_error() == Some(libc::EMSGSIZE) => {
                return Err(EchoError::TooBig { mtu: None });
            }
            Err(e) => return Err(system("receive the answer")(e)),
        };
        // SAFETY: the kernel wrote the first `length` octets.
        let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
        let from = from.as_socket().map(|a| a.ip());
        let message = if target.is_ipv4() { payload_of_v4(bytes) } else { Some(bytes) };
        match message.and_then(|m| classify(target.is_ipv4(), m, sent)) {
            Some(Said::Answer) if from == Some(target) => return Ok(at.elapsed()),
            Some(Said::TooBig(mtu)) => return Err(EchoError::TooBig { mtu: Some(mtu) }),
            Some(Said::Unreachable(code)) => return Err(EchoError::Unreachable { code }),
            _ => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Said {
    Answer,
    TooBig(u32),
    Unreachable(u8),
}

fn payload_of_v4(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 0x0f) * 4;
    packet.get(length..)
}

/// What an ICMP message says of the probe that was `sent`; `None` when it is about something else.
fn classify(is_v4: bool, message: &[u8], sent: &[u8]) -> Option<Said> {
    let (kind, code) = (*message.first()?, *message.get(1)?);
    let mtu = || Some(u32::from_be_bytes(message.get(4..8)?.try_into().ok()?));
    match (is_v4, kind) {
        (true, 0) | (false, 129) => (message.get(4..) == sent.get(4..)).then_some(Said::Answer),
        (true, 3) | (false, 1 | 2) => {
            let inner = message.get(HEADER..)?;
            let quoted = if is_v4 { payload_of_v4(inner)? } else { inner.get(40..)? };
            // Identifier and sequence; a router need not quote more (RFC 792).
            if quoted.first()? != sent.first()? || quoted.get(4..8)? != sent.get(4..8)? {
                return None;
            }
            match (is_v4, kind, code) {
                (true, 3, 4) => mtu().map(|m| Said::TooBig(m & 0xffff)),
                (false, 2, _) => mtu().map(Said::TooBig),
                _ => Some(Said::Unreachable(code)),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A_NONCE: [u8; NONCE] = [7; NONCE];

    #[test]
    fn a_request_makes_a_packet_of_the_size_asked_for() {
        assert_eq!(request(true, 1370, &A_NONCE, 0).len() + 20, 1370);
        assert_eq!(request(false, 1370, &A_NONCE, 0).len() + 40, 1370);
        assert_eq!(request(true, 1, &A_NONCE, 0).len(), HEADER + NONCE);
        assert_eq!(checksum(&request(true, 85, &A_NONCE, 3)), 0, "a checksum over itself is zero");
    }

    #[test]
    fn only_the_own_answer_counts() {
        let sent = request(true, 84, &A_NONCE, 1);
        let mut answer = sent.clone();
        answer[0] = 0;
        assert_eq!(classify(true, &answer, &sent), Some(Said::Answer));
        answer[HEADER] ^= 1;
        assert_eq!(classify(true, &answer, &sent), None);
        assert_eq!(classify(true, &sent, &sent), None, "a request is no answer");
        assert_eq!(classify(true, &[], &sent), None);
    }

    #[test]
    fn a_router_that_finds_it_too_big_is_heard() {
        let sent = request(false, 1370, &A_NONCE, 1);
        let mut said = vec![2, 0, 0, 0, 0, 0, 0x05, 0x00];
        said.extend([0; 40]);
        said.extend(&sent[..100]);
        assert_eq!(classify(false, &said, &sent), Some(Said::TooBig(1280)));
        let sent = request(true, 1370, &A_NONCE, 1);
        let mut said = vec![3, 4, 0, 0, 0, 0, 0x05, 0x14, 0x45];
        said.extend([0; 19]);
        said.extend(&sent[..8]);
        assert_eq!(classify(true, &said, &sent), Some(Said::TooBig(1300)));
    }

    #[test]
    fn root_a_probe_over_loopback_comes_back() {
        for address in ["127.0.0.1", "::1"] {
            let address: IpAddr = address.parse().unwrap();
            probe(address, address, 1300).unwrap_or_else(|e| panic!("{address}, as root: {e}"));
        }
    }
}
