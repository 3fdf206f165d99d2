//! Explicit congestion notification across a tunnel (RFC 6040), and DSCP (RFC 2983). The outer packet's DSCP is 0 unless
//! something else is configured, as with kernel WireGuard: what is inside is nobody's business outside. What arrives
//! keeps the DSCP that it had inside.

use super::checksum::Sum;
use crate::protocol::Dscp;

/// The two bits (RFC 3168 §5).
const MASK: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;

/// The codepoint of an IP packet; 0 for what is none. RFC 6040 §4.1, normal mode: it is the outer
/// packet's as well.
pub(crate) fn of(packet: &[u8]) -> u8 {
    tos_of(packet) & MASK
}

/// TOS or traffic class of an IP packet: DSCP and ECN; 0 for what is none.
pub(crate) fn tos_of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => *second,
        [first, second, ..] if first >> 4 == 6 => first << 4 | second >> 4,
        _ => NOT_ECT,
    }
}

/// TOS or traffic class of what carries a packet: DSCP as configured (RFC 2983), ECN as that of the packet (RFC 6040).
pub(crate) fn outer(dscp: Dscp, packet: &[u8]) -> u8 {
    match dscp {
        Dscp::Inherit => tos_of(packet),
        Dscp::Fixed(dscp) => dscp << 2 | of(packet),
    }
}

/// Makes an arriving packet carry what the outer header's TOS or traffic class says of congestion
/// (RFC 6040 §4.2, figure 4). False: it has to be dropped, because congestion was met and the
/// packet has no way to tell.
#[must_use]
pub(crate) fn combine(packet: &mut [u8], outer: u8) -> bool {
    match (of(packet), outer & MASK) {
        (NOT_ECT, CE) => false,
        (NOT_ECT | CE, _) => true,
        (_, CE) => set(packet, CE),
        (_, ECT_1) => set(packet, ECT_1),
        _ => true,
    }
}

fn set(packet: &mut [u8], codepoint: u8) -> bool {
    if packet[0] >> 4 == 6 {
        packet[1] = (packet[1] & !(MASK << 4)) | (codepoint << 4);
        return true;
    }
    if packet.len() < super::IPV4_HEADER {
        return true;
    }
    let before = u16::from_be_bytes([packet[0], packet[1]]);
    packet[1] = (packet[1] & !MASK) | codepoint;
    let after = u16::from_be_bytes([packet[0], packet[1]]);
    // RFC 1624 §3, equation 3: the new checksum is ~(~old + ~before + after).
    let old = [!packet[10], !packet[11]];
    let sum = Sum::field(old).less(before) + Sum::word(after);
    packet[10..12].copy_from_slice(&sum.complete());
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dscp_is_the_inner_one_or_a_fixed_one_and_ecn_crosses_with_both() {
        // AF41 and ECT(1); EF and CE.
        let four = [0x45, 34 << 2 | 0b01];
        let six = [0x60 | 46 >> 2, (46 << 6_u32) as u8 | 0b11 << 4];
        assert_eq!([tos_of(&four), tos_of(&six)], [34 << 2 | 0b01, 46 << 2 | 0b11]);
        for (dscp, outer_four, outer_six) in [
            (Dscp::Inherit, 34 << 2 | 0b01, 46 << 2 | 0b11),
            (Dscp::Fixed(0), 0b01, 0b11),
            (Dscp::Fixed(10), 10 << 2 | 0b01, 10 << 2 | 0b11),
        ] {
            assert_eq!([outer(dscp, &four), outer(dscp, &six)], [outer_four, outer_six], "{dscp:?}");
        }
        assert_eq!(outer(Dscp::Inherit, &[]), 0);
    }
    use crate::engine::offload::IPV4_HEADER;

    const ECT_0: u8 = 0b10;

    fn v4(codepoint: u8) -> Vec<u8> {
        let mut packet = vec![0x45, 0xb8 | codepoint, 0, 20, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0];
        packet.extend([10, 9, 0, 1, 10, 9, 0, 2]);
        let sum = Sum::of(&packet).complete();
        packet[10..12].copy_from_slice(&sum);
        packet
    }

    fn v6(codepoint: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[0] = 0x6b;
        packet[1] = 0x80 | (codepoint << 4) | 0x0a;
        packet
    }

    /// RFC 6040 figure 4; `None` is "drop".
    #[test]
    fn the_table_of_the_rfc() {
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                for mut packet in [v4(inner), v6(inner)] {
                    let kept = combine(&mut packet, 0xb8 | outer);
                    assert_eq!(kept.then(|| of(&packet)), expected, "{inner:02b} in {outer:02b}");
                    if packet[0] >> 4 == 4 {
                        assert!(Sum::of(&packet[..IPV4_HEADER]).is_valid());
                        assert_eq!(packet[1] & !MASK, 0xb8, "DSCP stays");
                    } else {
                        assert_eq!((packet[0], packet[1] & 0xcf), (0x6b, 0x8a), "class and label stay");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_ip_has_none() {
        assert_eq!((of(&[]), of(&[0x45]), of(&[0x00, 0xff])), (0, 0, 0));
        assert!(combine(&mut [0x45, 0b10], CE));
    }
}
