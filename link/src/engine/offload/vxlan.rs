//! VXLAN as an outer header of the packets here: whether it is there, where the inner packet begins, and what in it depends on
//! the length. Everything else of it (addresses, ports, DSCP, VNI) is whoever's who wrote it; here it is copied.
//!
//! ```text
//!  IPv4 or IPv6 │ UDP │ VXLAN │ Ethernet │ inner IPv4 or IPv6 …
//!  ◀────────────── outer ───────────────▶
//! ```

use super::checksum::Sum;
use super::{IPV4_HEADER, IPV6_HEADER, UDP, UDP_CHECKSUM, UDP_HEADER, field, get16, put16};

/// Octets of a VXLAN header (RFC 7348 §5).
const VXLAN_HEADER: usize = 8;
/// Octets of an Ethernet header without tags.
pub(crate) const ETHERNET_HEADER: usize = 14;
/// Octets from the begin of the UDP header to the inner packet.
const FROM_UDP: usize = UDP_HEADER + VXLAN_HEADER + ETHERNET_HEADER;
/// The VNI is valid (RFC 7348 §5).
const VNI_VALID: u8 = 0x08;
/// More fragments, or a fragment's offset.
const FRAGMENT: u16 = 0x3fff;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// Octets before the inner packet, if this is VXLAN with an IP packet inside, in one piece and without options or extension
/// headers outside. Its UDP checksum is not looked at: a receiver may do so (RFC 7348 §5), and what comes out of a tunnel is
/// authentic.
pub(crate) fn outer_len(packet: &[u8]) -> Option<usize> {
    let transport = match packet.first()? {
        0x45 if packet.len() > IPV4_HEADER + FROM_UDP => {
            let plain = packet[9] == UDP && get16(packet, 6) & FRAGMENT == 0;
            plain.then_some(IPV4_HEADER)?
        }
        first if first >> 4 == 6 && packet.len() > IPV6_HEADER + FROM_UDP => {
            (packet[6] == UDP).then_some(IPV6_HEADER)?
        }
        _ => return None,
    };
    let outer = transport + FROM_UDP;
    let inner_version = match get16(packet, outer - 2) {
        ETHERTYPE_IPV4 => 4,
        ETHERTYPE_IPV6 => 6,
        _ => return None,
    };
    let fits = packet[transport + UDP_HEADER] & VNI_VALID != 0 && packet[outer] >> 4 == inner_version;
    fits.then_some(outer)
}

/// Begin of the UDP header of a packet that [`outer_len`] knows.
fn transport(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { IPV4_HEADER } else { IPV6_HEADER }
}

/// Its UDP destination port.
pub(crate) fn port(packet: &[u8]) -> u16 {
    get16(packet, transport(packet) + 2)
}

/// Makes it one without a UDP checksum, as VXLAN is in general (RFC 7348 §5; over IPv6: RFC 6935 §5).
pub(crate) fn clear_checksum(packet: &mut [u8]) {
    let at = transport(packet) + UDP_CHECKSUM;
    packet[at..at + 2].fill(0);
}

/// Makes the outer header fit the packet that it begins: lengths, the header's checksum, no UDP checksum, and an identification
/// that is `index` higher than the one that stands there.
pub(crate) fn fit(packet: &mut [u8], index: usize) {
    fit_for(packet, packet.len(), index);
}

/// The same for a packet of `length` octets, of which only the first may be here.
pub(super) fn fit_for(packet: &mut [u8], length: usize, index: usize) {
    let length = field(length);
    let transport = transport(packet);
    if transport == IPV4_HEADER {
        put16(packet, 2, length);
        let identification = get16(packet, 4).wrapping_add(field(index));
        put16(packet, 4, identification);
        packet[10..12].fill(0);
        let checksum = Sum::of(&packet[..IPV4_HEADER]).complete();
        packet[10..12].copy_from_slice(&checksum);
    } else {
        put16(packet, 4, length.saturating_sub(field(IPV6_HEADER)));
    }
    put16(packet, transport + 4, length.saturating_sub(field(transport)));
    clear_checksum(packet);
}

/// Whether the outer headers of two packets are the same but for what [`fit`] writes. Both have one of this length.
pub(super) fn same(first: &[u8], other: &[u8], outer: usize) -> bool {
    let same = |from: usize, to: usize| first[from..to] == other[from..to];
    if first[0] >> 4 == 4 {
        // Version, DSCP and ECN; flags to protocol; addresses and ports; UDP checksum to the inner Ethernet header.
        return same(0, 2) && same(6, 10) && same(12, 24) && same(26, outer);
    }
    same(0, 4) && same(6, 44) && same(46, outer)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An outer header for an inner packet that follows, as a VTEP writes it.
    pub(crate) fn around(inner: &[u8], v6: bool, vni: u32) -> Vec<u8> {
        let length = inner.len() + FROM_UDP;
        let mut packet = if v6 {
            let mut ip = vec![0x60, 0x20, 0, 0, 0, 0, UDP, 64];
            put16(&mut ip, 4, field(length));
            ip.extend([0xfd, 0x55, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            ip.extend([0xfd, 0x55, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
            ip
        } else {
            let mut ip = vec![0x45, 0x02, 0, 0, 0, 0, 0x40, 0, 64, UDP, 0, 0, 10, 255, 0, 1, 10, 255, 0, 2];
            put16(&mut ip, 2, field(IPV4_HEADER + length));
            let checksum = Sum::of(&ip).complete();
            ip[10..12].copy_from_slice(&checksum);
            ip
        };
        let mut udp = vec![0xc1, 0x23, 0x12, 0xb5, 0, 0, 0, 0, VNI_VALID, 0, 0, 0];
        put16(&mut udp, 4, field(length));
        packet.extend(udp);
        packet.extend((vni << 8).to_be_bytes());
        packet.extend([2, 0, 0, 0, 0, 0xb, 2, 0, 0, 0, 0, 0xa]);
        packet.extend(if inner[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] });
        packet.extend(inner);
        packet
    }

    #[test]
    fn what_is_not_plain_vxlan_with_ip_inside_is_not_taken_for_it() {
        let inner = [0x45; 60];
        for v6 in [false, true] {
            let good = around(&inner, v6, 100);
            let transport = if v6 { IPV6_HEADER } else { IPV4_HEADER };
            assert_eq!(outer_len(&good), Some(transport + FROM_UDP));
            assert_eq!(port(&good), 4789);
            let damages: &[(usize, u8)] = if v6 {
                &[(0, 0x70), (6, 6), (48, 0), (68, 0x81), (70, 0x65)]
            } else {
                &[(0, 0x46), (9, 6), (6, 0x20), (7, 1), (28, 0), (48, 0x81), (50, 0x65)]
            };
            for (at, octet) in damages {
                let mut bad = good.clone();
                bad[*at] = *octet;
                assert_eq!(outer_len(&bad), None, "octet {at}");
            }
            let mut summed = good.clone();
            summed[transport + UDP_CHECKSUM] = 0x77;
            assert!(outer_len(&summed).is_some());
            clear_checksum(&mut summed);
            assert_eq!(summed, good);
            for length in 0..=transport + FROM_UDP {
                assert_eq!(outer_len(&good[..length]), None, "{length} octets");
            }
        }
    }

    #[test]
    fn a_header_is_the_same_whatever_the_length_and_no_other() {
        for v6 in [false, true] {
            let (one, mut other) = (around(&[0x45; 60], v6, 100), around(&[0x45; 90], v6, 100));
            let outer = outer_len(&one).unwrap();
            fit(&mut other, 7);
            assert!(same(&one, &other, outer));
            let free: &[usize] = if v6 { &[4, 5, 44, 45] } else { &[2, 3, 4, 5, 10, 11, 24, 25] };
            for at in 0..outer {
                let mut changed = other.clone();
                changed[at] ^= 1;
                assert_eq!(same(&one, &changed, outer), free.contains(&at), "octet {at}");
            }
            // And back again: a header is made to fit exactly as it was written.
            let mut back = other[..one.len()].to_vec();
            if !v6 {
                put16(&mut back, 4, 0);
            }
            fit(&mut back, 0);
            assert_eq!(back[..outer], one[..outer]);
        }
    }
}
