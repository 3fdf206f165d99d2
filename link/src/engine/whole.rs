//! Outer packets that must not be fragmented. The sockets of a device let theirs be fragmented, as kernel WireGuard does; a probe
//! that measures what crosses whole must not go that way. One socket cannot have it both ways, a second one on the port would take
//! packets away from the first, so these few leave by a raw socket that receives nothing, under headers written here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

use super::udp::Way;

const UDP: u8 = 17;
const UDP_BYTES: usize = 8;
const V4_BYTES: usize = 20;
const V6_BYTES: usize = 40;
const HOPS: u8 = 64;
/// Do not fragment (RFC 791 §3.1).
const DF: u16 = 0x4000;

/// The sockets. A family without one sends nothing, and says so.
#[derive(Debug)]
pub(super) struct WholeSender {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl WholeSender {
    /// Opens what the system allows (`CAP_NET_RAW`).
    pub(super) fn open() -> Self {
        let open = |domain| {
            let raw = Some(Protocol::from(libc::IPPROTO_RAW));
            let opened = Socket::new(domain, Type::from(libc::SOCK_RAW), raw).and_then(|socket| {
                // Whoever sends a probe seals everybody's packets: it does not wait for room.
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            opened.inspect_err(|error| tracing::warn!(%error, ?domain, "path MTU: no raw socket")).ok()
        };
        Self { v4: open(Domain::IPV4), v6: open(Domain::IPV6) }
    }

    /// Marks what is sent (`SO_MARK`); 0: not.
    pub(super) fn set_mark(&self, mark: u32) -> io::Result<()> {
        [&self.v4, &self.v6].into_iter().flatten().try_for_each(|socket| socket.set_mark(mark))
    }

    /// Sends `message` from UDP port `port`. Fails, with `EMSGSIZE`, if the device on the
    /// way does not take it whole.
    pub(super) fn send(&self, message: &[u8], port: u16, way: Way) -> io::Result<()> {
        let to = way.to;
        let missing = || io::Error::from(io::ErrorKind::Unsupported);
        let (socket, packet) = match to.ip() {
            IpAddr::V4(far) => {
                let own = match way.from {
                    Some(IpAddr::V4(own)) => own,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                (self.v4.as_ref(), packet_v4(message, port, (own, far), to.port()))
            }
            IpAddr::V6(far) => {
                let own = match way.from {
                    Some(IpAddr::V6(own)) => own,
                    _ => own_address(to)?,
                };
                (self.v6.as_ref(), packet_v6(message, port, (own, far), to.port()))
            }
        };
        let packet = packet.ok_or(io::ErrorKind::InvalidInput)?;
        // The kernel wants no port with a raw socket.
        let mut bare = to;
        bare.set_port(0);
        socket.ok_or_else(missing)?.send_to(&packet, &bare.into()).map(drop)
    }
}

/// The address the kernel would send from.
fn own_address(to: SocketAddr) -> io::Result<Ipv6Addr> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    match socket.local_addr()?.ip() {
        IpAddr::V6(own) => Ok(own),
        IpAddr::V4(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// The kernel writes identification, checksum and a source address that is unspecified (raw(7)).
fn packet_v4(message: &[u8], port: u16, (own, far): (Ipv4Addr, Ipv4Addr), far_port: u16) -> Option<Vec<u8>> {
    let length = u16::try_from(V4_BYTES + UDP_BYTES + message.len()).ok()?;
    let mut packet = Vec::with_capacity(usize::from(length));
    packet.extend([0x45, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(DF.to_be_bytes());
    packet.extend([HOPS, UDP, 0, 0]);
    packet.extend(own.octets());
    packet.extend(far.octets());
    // No checksum (RFC 768): what is inside is authenticated.
    udp(&mut packet, port, far_port, message, 0)?;
    Some(packet)
}

fn packet_v6(message: &[u8], port: u16, (own, far): (Ipv6Addr, Ipv6Addr), far_port: u16) -> Option<Vec<u8>> {
    let length = u16::try_from(UDP_BYTES + message.len()).ok()?;
    let mut packet = Vec::with_capacity(V6_BYTES + usize::from(length));
    packet.extend([0x60, 0, 0, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([UDP, HOPS]);
    packet.extend(own.octets());
    packet.extend(far.octets());
    let fixed = [u16::from(UDP), length, port, far_port, length];
    let checksum = checksum(&[&own.octets(), &far.octets(), message], &fixed);
    udp(&mut packet, port, far_port, message, checksum)?;
    Some(packet)
}

fn udp(packet: &mut Vec<u8>, port: u16, far_port: u16, message: &[u8], checksum: u16) -> Option<()> {
    let length = u16::try_from(UDP_BYTES + message.len()).ok()?;
    for field in [port, far_port, length, checksum] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend(message);
    Some(())
}

/// RFC 1071, over parts of which only the last may have an odd length; never 0 (RFC 8200 §8.1).
fn checksum(parts: &[&[u8]], words: &[u16]) -> u16 {
    let chunks = parts.iter().flat_map(|part| part.chunks(2));
    let bytes: u64 = chunks.map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum();
    let mut sum = bytes + words.iter().map(|word| u64::from(*word)).sum::<u64>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !u16::try_from(sum).unwrap_or(0) {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_are_those_of_a_datagram_that_must_not_be_fragmented() {
        let packet =
            packet_v4(b"sealed", 51820, (Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(192, 0, 2, 7)), 4500).unwrap();
        assert_eq!(packet[..12], [0x45, 0, 0, 34, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        assert_eq!(packet[16..20], [192, 0, 2, 7]);
        assert_eq!(packet[20..28], [0xca, 0x6c, 0x11, 0x94, 0, 14, 0, 0]);
        assert_eq!(&packet[28..], b"sealed");
        assert!(packet_v4(&[0; 65_536], 1, (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST), 1).is_none());
    }

    #[test]
    fn the_checksum_over_ipv6_sums_up() {
        let (own, far) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        for message in [&b"sealed"[..], b"odd"] {
            let packet = packet_v6(message, 51820, (own, far), 4500).unwrap();
            assert_eq!(packet.len(), V6_BYTES + UDP_BYTES + message.len());
            let length = u16::from_be_bytes([packet[4], packet[5]]);
            // A receiver sums addresses, length, protocol and all of the datagram to zero.
            let sum = checksum(&[&packet[8..40], &packet[40..]], &[u16::from(UDP), length]);
            assert_eq!(sum, 0xffff, "{message:?}");
        }
    }
}
