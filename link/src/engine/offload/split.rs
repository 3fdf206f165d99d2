//! Splitting a super-packet of the TUN interface into the packets it stands for (TSO, USO), with the
//! fields that differ and both checksums. What the kernel leaves to a network card is done here.

use super::checksum::{self, Sum};
use super::virtio::{Gso, Header, Partial};
use super::vxlan;
use super::{
    CWR, FIN, IP_PACKET_MAX, IPV4_HEADER, IPV6_HEADER, PSH, TCP, TCP_CHECKSUM, TCP_HEADER, UDP, UDP_CHECKSUM,
    UDP_HEADER, field, get16, get32, put16, put32,
};

/// Why a packet of the interface cannot be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SplitError {
    /// Neither IPv4 nor IPv6, or shorter than its header.
    #[error("not an IP packet")]
    NotIp,
    /// Its virtio header does not fit it.
    #[error("a super-packet whose headers contradict each other")]
    Malformed,
}

/// A packet of the interface, ready to be written as one or more packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Split {
    kind: Gso,
    /// Begin of the IP header that the segments differ in: 0, or what stands behind an outer header of VXLAN.
    ip: usize,
    /// Begin of its transport header.
    transport: usize,
    /// All headers.
    headers: usize,
    /// Octets of payload in every segment but the last.
    segment: usize,
    /// Packets that come out.
    count: usize,
    /// Sum of the pseudo-header without its length.
    pseudo: Sum,
}

impl Split {
    /// Looks at what was read; completes the checksum of a packet that stays whole.
    ///
    /// # Errors
    /// See [`SplitError`]; the packet has to be dropped.
    pub(crate) fn new(header: &Header, packet: &mut [u8]) -> Result<Self, SplitError> {
        let minimum = match packet.first().map(|first| first >> 4) {
            Some(4) => IPV4_HEADER,
            Some(6) => IPV6_HEADER,
            _ => return Err(SplitError::NotIp),
        };
        if packet.len() < minimum {
            return Err(SplitError::NotIp);
        }
        if header.gso == Gso::None {
            if packet.len() > IP_PACKET_MAX {
                return Err(SplitError::NotIp);
            }
            complete(header, packet)?;
            return Ok(Self::whole(packet.len()));
        }
        let ip = behind_vxlan(header, packet);
        if packet.len() - ip > IP_PACKET_MAX {
            return Err(SplitError::NotIp);
        }
        let mut inner = *header;
        if let Some(Partial { start, .. }) = &mut inner.partial {
            *start = start.saturating_sub(field(ip));
        }
        let split = Self::super_packet(&inner, &packet[ip..]).ok_or(SplitError::Malformed)?;
        Ok(Self { ip, transport: split.transport + ip, headers: split.headers + ip, ..split })
    }

    fn whole(length: usize) -> Self {
        let (kind, pseudo) = (Gso::None, Sum::default());
        Self { kind, ip: 0, transport: 0, headers: 0, segment: length, count: 1, pseudo }
    }

    /// Of a super-packet without anything before its own IP header.
    fn super_packet(header: &Header, packet: &[u8]) -> Option<Self> {
        let version = packet[0] >> 4;
        let protocol = match (header.gso, version) {
            (Gso::Tcp4, 4) | (Gso::Tcp6, 6) => TCP,
            (Gso::Udp, _) => UDP,
            _ => return None,
        };
        let transport = match (version, header.partial) {
            (4, _) => usize::from(packet[0] & 0x0f) * 4,
            (_, Some(partial)) => partial.start.into(),
            (_, None) => IPV6_HEADER,
        };
        let minimum = if version == 4 { IPV4_HEADER } else { IPV6_HEADER };
        if transport < minimum
            || header.partial.is_some_and(|partial| usize::from(partial.start) != transport)
        {
            return None;
        }
        let length = if protocol == TCP {
            let length = usize::from(packet.get(transport + 12)? >> 4) * 4;
            (length >= TCP_HEADER).then_some(length)?
        } else {
            UDP_HEADER
        };
        let headers = transport + length;
        let payload = packet.len().checked_sub(headers).filter(|&payload| payload > 0)?;
        let segment = usize::from(header.segment);
        if segment == 0 {
            return None;
        }
        let pseudo = match header.partial {
            // What the kernel left there covers the whole length; and with it any routing header.
            Some(_) => {
                let at = transport + checksum_offset(protocol);
                let sum = Sum::field([packet[at], packet[at + 1]]);
                sum.less(field(packet.len() - transport))
            }
            None if version == 6 && packet[6] != protocol => return None,
            None => checksum::addresses(packet, protocol),
        };
        let count = payload.div_ceil(segment);
        Some(Self { kind: header.gso, ip: 0, transport, headers, segment, count, pseudo })
    }

    /// Packets that come out: at least 1.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Octets of every packet but the last, which may be shorter; `packet` is what [`Split::new`] saw.
    pub(crate) fn packet_len(&self, packet: &[u8]) -> usize {
        packet.len().min(self.headers + self.segment)
    }

    /// Writes packet `index` (less than [`Split::count`]) to the begin of `out`, which is
    /// [`Split::packet_len`] long or longer; returns its length. `packet` is what [`Split::new`] saw.
    pub(crate) fn write(&self, packet: &[u8], index: usize, out: &mut [u8]) -> usize {
        if self.kind == Gso::None {
            out[..packet.len()].copy_from_slice(packet);
            return packet.len();
        }
        let begin = self.headers + index * self.segment;
        let end = packet.len().min(begin + self.segment);
        let length = self.headers + (end - begin);
        let out = &mut out[..length];
        out[..self.headers].copy_from_slice(&packet[..self.headers]);
        out[self.headers..].copy_from_slice(&packet[begin..end]);
        if self.ip > 0 {
            vxlan::fit(out, index);
        }
        self.write_ip(index, &mut out[self.ip..]);
        let last = index + 1 == self.count;
        let checksum_at = self.transport + self.write_transport(index, last, out);
        out[checksum_at..checksum_at + 2].fill(0);
        let sum = Sum::of(&out[self.transport..]) + self.pseudo + Sum::word(field(length - self.transport));
        let mut checksum = sum.complete();
        if self.kind == Gso::Udp && checksum == [0, 0] {
            checksum = [0xff, 0xff];
        }
        out[checksum_at..checksum_at + 2].copy_from_slice(&checksum);
        length
    }

    fn write_ip(&self, index: usize, out: &mut [u8]) {
        let length = field(out.len());
        if out[0] >> 4 == 6 {
            return put16(out, 4, length - field(IPV6_HEADER));
        }
        put16(out, 2, length);
        let identification = get16(out, 4).wrapping_add(field(index));
        put16(out, 4, identification);
        out[10..12].fill(0);
        let checksum = Sum::of(&out[..self.transport - self.ip]).complete();
        out[10..12].copy_from_slice(&checksum);
    }

    /// Everything but the checksum, whose offset is returned.
    fn write_transport(&self, index: usize, last: bool, out: &mut [u8]) -> usize {
        let length = field(out.len() - self.transport);
        let header = &mut out[self.transport..];
        if self.kind == Gso::Udp {
            put16(header, 4, length);
            return UDP_CHECKSUM;
        }
        let advance = u32::try_from(index * self.segment).unwrap_or(u32::MAX);
        let sequence = get32(header, 4).wrapping_add(advance);
        put32(header, 4, sequence);
        if !last {
            header[13] &= !(FIN | PSH);
        }
        if index > 0 {
            header[13] &= !CWR;
        }
        TCP_CHECKSUM
    }
}

/// Where the packet begins that is to be split: at 0, or behind the outer header of VXLAN if that is where the checksum lies.
fn behind_vxlan(header: &Header, packet: &[u8]) -> usize {
    let outer = vxlan::outer_len(packet).unwrap_or(0);
    let is_inside = header.partial.is_some_and(|partial| usize::from(partial.start) >= outer + IPV4_HEADER);
    if is_inside { outer } else { 0 }
}

fn checksum_offset(protocol: u8) -> usize {
    if protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM }
}

/// Completes a checksum that was left to us.
fn complete(header: &Header, packet: &mut [u8]) -> Result<(), SplitError> {
    let Some(partial) = header.partial else { return Ok(()) };
    let start = usize::from(partial.start);
    let at = start + usize::from(partial.offset);
    if at + 2 > packet.len() {
        return Err(SplitError::Malformed);
    }
    // The field holds the pseudo-header's sum, and is part of what is summed.
    let mut checksum = Sum::of(&packet[start..]).complete();
    if usize::from(partial.offset) == UDP_CHECKSUM && checksum == [0, 0] {
        checksum = [0xff, 0xff];
    }
    packet[at..at + 2].copy_from_slice(&checksum);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::offload::properties::{PacketSpec, is_right};
    use crate::engine::offload::virtio::Partial;

    fn tcp(payload: usize, flags: u8) -> Vec<u8> {
        PacketSpec { payload, flags, ..PacketSpec::default() }.build()
    }

    /// As the kernel hands it out: the pseudo-header's sum in the field.
    fn left_to_us(mut packet: Vec<u8>, gso: Gso, segment: u16) -> (Header, Vec<u8>) {
        let transport = if packet[0] >> 4 == 4 { IPV4_HEADER } else { IPV6_HEADER };
        let (protocol, offset) = if gso == Gso::Udp { (UDP, UDP_CHECKSUM) } else { (TCP, TCP_CHECKSUM) };
        let sum = checksum::addresses(&packet, protocol) + Sum::word(field(packet.len() - transport));
        packet[transport + offset..transport + offset + 2].copy_from_slice(&sum.partial());
        let partial = Some(Partial { start: field(transport), offset: field(offset) });
        (Header { gso, segment, headers: 0, partial, valid: false }, packet)
    }

    fn all(header: &Header, packet: &mut [u8]) -> Vec<Vec<u8>> {
        let split = Split::new(header, packet).unwrap();
        (0..split.count())
            .map(|index| {
                let mut out = vec![0xee; split.packet_len(packet)];
                let length = split.write(packet, index, &mut out);
                out.truncate(length);
                out
            })
            .collect()
    }

    #[test]
    fn tcp_segments_have_their_own_sequence_flags_and_identification() {
        let (header, mut packet) = left_to_us(tcp(2500, 0x10 | FIN | PSH | CWR), Gso::Tcp4, 1000);
        let (sequence, identification) = (get32(&packet, 24), get16(&packet, 4));
        let payload = packet[40..].to_vec();
        let segments = all(&header, &mut packet);
        assert_eq!(segments.iter().map(Vec::len).collect::<Vec<_>>(), [1040, 1040, 540]);
        for (index, segment) in segments.iter().enumerate() {
            assert!(is_right(segment), "segment {index}");
            let n = u16::try_from(index).unwrap();
            assert_eq!(get32(segment, 24), sequence.wrapping_add(1000 * u32::from(n)));
            assert_eq!(get16(segment, 4), identification.wrapping_add(n));
        }
        let flags: Vec<u8> = segments.iter().map(|segment| segment[33]).collect();
        assert_eq!(flags, [0x10 | CWR, 0x10, 0x10 | FIN | PSH]);
        let joined: Vec<u8> = segments.iter().flat_map(|segment| segment[40..].to_vec()).collect();
        assert_eq!(joined, payload);
    }

    #[test]
    fn a_whole_packet_gets_the_checksum_that_was_left_to_us() {
        for spec in [
            PacketSpec::default(),
            PacketSpec { v6: true, ..PacketSpec::default() },
            PacketSpec { udp: true, payload: 33, ..PacketSpec::default() },
        ] {
            let (mut header, mut packet) =
                left_to_us(spec.build(), if spec.udp { Gso::Udp } else { Gso::Tcp4 }, 0);
            header.gso = Gso::None;
            assert!(!is_right(&packet));
            let whole = all(&header, &mut packet);
            assert_eq!(whole, [spec.build()]);
        }
    }

    #[test]
    fn headers_that_contradict_each_other_are_refused() {
        let (good, packet) = left_to_us(tcp(2500, 0x10), Gso::Tcp4, 1000);
        let refused = |header: &Header, packet: &[u8]| Split::new(header, &mut packet.to_vec()).unwrap_err();
        let malformed = SplitError::Malformed;
        assert_eq!(refused(&Header { segment: 0, ..good }, &packet), malformed);
        assert_eq!(refused(&Header { gso: Gso::Tcp6, ..good }, &packet), malformed);
        let elsewhere = Some(Partial { start: 24, offset: 16 });
        assert_eq!(refused(&Header { partial: elsewhere, ..good }, &packet), malformed);
        assert_eq!(refused(&good, &packet[..40]), malformed, "no payload");
        let far = Some(Partial { start: 20, offset: 4000 });
        assert_eq!(refused(&Header { gso: Gso::None, partial: far, ..good }, &packet), malformed);
        assert_eq!(refused(&Header::PLAIN, &[]), SplitError::NotIp);
        assert_eq!(refused(&Header::PLAIN, &[0x45; 19]), SplitError::NotIp);
        assert_eq!(refused(&Header::PLAIN, &[0x15; 40]), SplitError::NotIp);
    }
}
