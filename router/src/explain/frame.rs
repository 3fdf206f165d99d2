//! A packet by its fields, as bytes with right checksums: what `watari trace` sends through the pipeline.
//!
//! ARP (RFC 826), neighbour solicitations (RFC 4861 section 4.3), and ICMP echo, UDP and TCP SYN over IPv4 and IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use watari_config::{Mac, Problem};

/// The fewest bytes of a frame: its Ethernet header.
pub const FRAME_BYTES_MIN: usize = 14;
/// The most bytes of a frame: what a kernel test run takes.
pub const FRAME_BYTES_MAX: usize = 3000;
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const BROADCAST: [u8; 6] = [0xff; 6];

/// What a packet carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// An ICMP echo request.
    #[default]
    Icmp,
    /// A TCP SYN.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// The question who has an address: ARP, or a neighbour solicitation.
    Ask,
}

/// A packet by its fields. What is left out is filled in where that is possible.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// Source MAC.
    pub src_mac: String,
    /// Destination MAC; of a question the group that it goes to.
    #[serde(default)]
    pub dst_mac: Option<String>,
    /// Source address.
    #[schema(value_type = String)]
    pub src: Option<IpAddr>,
    /// Destination address; of a question the address that is asked for.
    #[schema(value_type = String)]
    pub dst: Option<IpAddr>,
    /// What it carries.
    #[serde(default)]
    pub protocol: Protocol,
    /// Source port of TCP and UDP.
    #[serde(default)]
    pub src_port: Option<u16>,
    /// Destination port of TCP and UDP.
    #[serde(default)]
    pub dst_port: Option<u16>,
    /// Hop limit; 64 where it is absent.
    #[serde(default)]
    pub ttl: Option<u8>,
    /// Bytes of the IP packet; the shortest possible where it is absent.
    #[serde(default)]
    pub size: Option<u16>,
    /// IPv4: it must not be fragmented.
    #[serde(default)]
    pub dont_fragment: bool,
}

/// One's complement sum of 16-bit words, folded and inverted (RFC 1071).
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [dst.as_slice(), &src, &ethertype.to_be_bytes(), payload].concat()
}

fn problem(path: &str, message: impl Into<String>) -> Problem {
    Problem { path: path.to_owned(), message: message.into() }
}

impl Fields {
    /// The frame.
    ///
    /// # Errors
    /// Every field that is wrong, below `path`.
    pub fn frame(&self, path: &str) -> Result<Vec<u8>, Vec<Problem>> {
        let mut problems = Vec::new();
        let at = |field: &str| format!("{path}.{field}");
        let mut mac = |field: &str, text: &str| match text.parse::<Mac>() {
            Ok(mac) => Some(mac.octets()),
            Err(error) => {
                problems.push(problem(&at(field), error.to_string()));
                None
            }
        };
        let src_mac = mac("src_mac", &self.src_mac);
        let dst_mac = match self.dst_mac.as_deref() {
            Some(text) if text.eq_ignore_ascii_case("ff:ff:ff:ff:ff:ff") => Some(Some(BROADCAST)),
            Some(text) => mac("dst_mac", text).map(Some),
            None => Some(None),
        };
        for (field, value) in [("src", self.src), ("dst", self.dst)] {
            if value.is_none() {
                problems.push(problem(&at(field), "an address is needed"));
            }
        }
        let built = match (src_mac, dst_mac, self.src, self.dst) {
            (Some(src_mac), Some(dst_mac), Some(src), Some(dst)) => {
                self.build((src_mac, dst_mac), (src, dst)).map_err(|p| problem(&at(&p.path), p.message))
            }
            _ => return Err(problems),
        };
        built.map_err(|problem| vec![problem]).and_then(|frame| check(frame, &at("size")))
    }

    fn build(
        &self,
        (src_mac, dst_mac): ([u8; 6], Option<[u8; 6]>),
        addresses: (IpAddr, IpAddr),
    ) -> Result<Vec<u8>, Problem> {
        match (self.protocol, addresses) {
            (Protocol::Ask, (IpAddr::V4(src), IpAddr::V4(dst))) => {
                let fixed = [0, 1, 8, 0, 6, 4, 0, 1];
                let payload = [&fixed[..], &src_mac, &src.octets(), &[0; 6], &dst.octets()].concat();
                Ok(ethernet(dst_mac.unwrap_or(BROADCAST), src_mac, ARP, &payload))
            }
            (Protocol::Ask, (IpAddr::V6(src), IpAddr::V6(dst))) => Ok(solicit(src_mac, dst_mac, src, dst)),
            (_, (IpAddr::V4(src), IpAddr::V4(dst))) => {
                let dst_mac = dst_mac.ok_or_else(|| problem("dst_mac", "a destination MAC is needed"))?;
                Ok(ethernet(dst_mac, src_mac, IPV4, &self.v4(src, dst)?))
            }
            (_, (IpAddr::V6(src), IpAddr::V6(dst))) => {
                let dst_mac = dst_mac.ok_or_else(|| problem("dst_mac", "a destination MAC is needed"))?;
                Ok(ethernet(dst_mac, src_mac, IPV6, &self.v6(src, dst)?))
            }
            _ => Err(problem("dst", "source and destination must be of one family")),
        }
    }

    fn v4(&self, src: Ipv4Addr, dst: Ipv4Addr) -> Result<Vec<u8>, Problem> {
        let pseudo = |protocol, length: u16| {
            [&src.octets()[..], &dst.octets(), &[0, protocol], &length.to_be_bytes()].concat()
        };
        let (protocol, payload) = self.payload(20, ICMP, pseudo)?;
        let mut header =
            [0x45, 0, 0, 0, 0, 1, 0, 0, self.ttl.unwrap_or(64), protocol, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        header[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        header[6] = if self.dont_fragment { 0x40 } else { 0 };
        header[12..16].copy_from_slice(&src.octets());
        header[16..20].copy_from_slice(&dst.octets());
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum);
        Ok([&header[..], &payload].concat())
    }

    fn v6(&self, src: Ipv6Addr, dst: Ipv6Addr) -> Result<Vec<u8>, Problem> {
        let pseudo = |protocol, length: u16| {
            let length = u32::from(length).to_be_bytes();
            [&src.octets()[..], &dst.octets(), &length, &[0, 0, 0, protocol]].concat()
        };
        let (protocol, payload) = self.payload(40, ICMPV6, pseudo)?;
        Ok(v6_packet(src, dst, (protocol, self.ttl.unwrap_or(64)), &payload))
    }

    /// The transport header with its payload, so long that the packet has its size.
    fn payload(
        &self,
        ip_bytes: usize,
        icmp: u8,
        pseudo: impl Fn(u8, u16) -> Vec<u8>,
    ) -> Result<(u8, Vec<u8>), Problem> {
        let ports = [self.src_port.unwrap_or(40000).to_be_bytes(), self.dst_port.unwrap_or(7).to_be_bytes()];
        let (protocol, mut header, sum_at) = match self.protocol {
            Protocol::Tcp => {
                let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 0x05, 0xb4];
                (TCP, [&ports.concat()[..], &rest].concat(), 16)
            }
            Protocol::Udp => (UDP, [&ports.concat()[..], &[0; 4]].concat(), 6),
            _ => {
                let kind = if icmp == ICMP { 8 } else { 128 };
                (icmp, vec![kind, 0, 0, 0, 0x77, 0x74, 0, 1], 2)
            }
        };
        let least = ip_bytes + header.len();
        let size = self.size.map_or(least, usize::from);
        if size < least {
            return Err(problem("size", format!("at least {least} bytes are needed")));
        }
        header.resize(size - ip_bytes, 0x55);
        let length = header.len() as u16;
        if protocol == UDP {
            header[4..6].copy_from_slice(&length.to_be_bytes());
        }
        let sum = if protocol == ICMP {
            checksum(&[&header])
        } else {
            checksum(&[&pseudo(protocol, length), &header])
        };
        header[sum_at..sum_at + 2].copy_from_slice(&sum);
        Ok((protocol, header))
    }
}

fn v6_packet(src: Ipv6Addr, dst: Ipv6Addr, (protocol, hops): (u8, u8), payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[protocol, hops], &src.octets(), &dst.octets(), payload].concat()
}

fn solicit(src_mac: [u8; 6], dst_mac: Option<[u8; 6]>, src: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let last = target.octets();
    let group = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(last[13]),
        u16::from_be_bytes([last[14], last[15]]),
    );
    let dst_mac = dst_mac.unwrap_or([0x33, 0x33, 0xff, last[13], last[14], last[15]]);
    let mut body = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &last, &[1, 1], &src_mac].concat();
    let length = (body.len() as u32).to_be_bytes();
    let pseudo = [&src.octets()[..], &group.octets(), &length, &[0, 0, 0, ICMPV6]].concat();
    let sum = checksum(&[&pseudo, &body]);
    body[2..4].copy_from_slice(&sum);
    ethernet(dst_mac, src_mac, IPV6, &v6_packet(src, group, (ICMPV6, 255), &body))
}

/// A frame that a test run takes.
///
/// # Errors
/// One problem at `path` if it is too short or too long.
pub fn check(frame: Vec<u8>, path: &str) -> Result<Vec<u8>, Vec<Problem>> {
    if (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&frame.len()) {
        return Ok(frame);
    }
    let message = format!("{} bytes; a frame has {FRAME_BYTES_MIN} … {FRAME_BYTES_MAX}", frame.len());
    Err(vec![problem(path, message)])
}

/// A frame in hexadecimal; spaces, colons and line ends are skipped.
///
/// # Errors
/// One problem at `path`.
pub fn from_hex(text: &str, path: &str) -> Result<Vec<u8>, Vec<Problem>> {
    let digits: String = text.chars().filter(|c| !c.is_whitespace() && *c != ':').collect();
    let bytes = hex::decode(digits).map_err(|error| vec![problem(path, error.to_string())])?;
    check(bytes, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(protocol: Protocol, src: &str, dst: &str) -> Fields {
        Fields {
            src_mac: "02:00:00:00:00:0a".to_owned(),
            dst_mac: Some("02:00:00:00:00:0b".to_owned()),
            src: src.parse().ok(),
            dst: dst.parse().ok(),
            protocol,
            ..Fields::default()
        }
    }

    #[test]
    fn an_echo_has_right_checksums_and_the_size_that_was_asked_for() {
        let asked =
            Fields { size: Some(100), ttl: Some(9), ..fields(Protocol::Icmp, "10.0.0.1", "10.0.0.2") };
        let frame = asked.frame("packet").unwrap();
        assert_eq!((frame.len(), frame[22], frame[23]), (114, 9, ICMP));
        assert_eq!(checksum(&[&frame[14..34]]), [0, 0]);
        assert_eq!(checksum(&[&frame[34..]]), [0, 0]);
    }

    #[test]
    fn transport_checksums_cover_the_pseudo_header() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Icmp] {
            let frame = fields(protocol, "fd00::1", "fd00::2").frame("packet").unwrap();
            let length = u32::from(u16::from_be_bytes([frame[18], frame[19]])).to_be_bytes();
            let sum = checksum(&[&frame[22..54], &length, &[0, 0, 0, frame[20]], &frame[54..]]);
            assert_eq!(sum, [0, 0], "{protocol:?}");
        }
    }

    #[test]
    fn questions_go_to_their_groups() {
        let mut ask = fields(Protocol::Ask, "10.0.0.1", "10.0.0.2");
        ask.dst_mac = None;
        let frame = ask.frame("packet").unwrap();
        assert_eq!((&frame[..6], &frame[12..14], frame[21]), (&BROADCAST[..], &[8, 6][..], 1));
        ask = fields(Protocol::Ask, "fd00::1", "fd00::12:3456");
        ask.dst_mac = None;
        let frame = ask.frame("packet").unwrap();
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        assert_eq!((frame[21], frame[54]), (255, 135));
    }

    #[test]
    fn every_wrong_field_is_named() {
        let paths = |fields: Fields| -> Vec<String> {
            fields.frame("packet").unwrap_err().into_iter().map(|p| p.path).collect()
        };
        let wrong = Fields { src_mac: "x".to_owned(), dst_mac: Some("y".to_owned()), ..Fields::default() };
        assert_eq!(paths(wrong), ["packet.src_mac", "packet.dst_mac", "packet.src", "packet.dst"]);
        assert_eq!(paths(fields(Protocol::Icmp, "10.0.0.1", "fd00::1")), ["packet.dst"]);
        let small = Fields { size: Some(20), ..fields(Protocol::Tcp, "10.0.0.1", "10.0.0.2") };
        assert_eq!(paths(small), ["packet.size"]);
        let large = Fields { size: Some(9000), ..fields(Protocol::Udp, "10.0.0.1", "10.0.0.2") };
        assert_eq!(paths(large), ["packet.size"]);
        assert!(from_hex("02:00 0", "hex").is_err());
        assert_eq!(from_hex(&"00 ".repeat(14), "hex").unwrap().len(), 14);
    }
}
