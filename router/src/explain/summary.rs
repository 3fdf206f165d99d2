//! A frame in one line, for people.

use std::net::{Ipv4Addr, Ipv6Addr};

fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Who sends what to whom, as far as the bytes reach.
pub fn summary(frame: &[u8]) -> String {
    let (Some(dst), Some(src), Some(kind)) = (frame.get(..6), frame.get(6..12), array::<2>(frame, 12)) else {
        return "too short for a frame".to_owned();
    };
    let rest = frame.get(14..).unwrap_or_default();
    let ends = format!("{} → {}", mac(src), mac(dst));
    let what = match u16::from_be_bytes(kind) {
        0x0806 => arp(rest),
        0x0800 => v4(rest),
        0x86dd => v6(rest),
        other => Some(format!("ethertype {other:#06x}")),
    };
    format!("{ends} {}", what.unwrap_or_else(|| "cut short".to_owned()))
}

fn arp(message: &[u8]) -> Option<String> {
    let (sender, target) =
        (Ipv4Addr::from(array::<4>(message, 14)?), Ipv4Addr::from(array::<4>(message, 24)?));
    Some(match array::<2>(message, 6)? {
        [0, 1] => format!("ARP who has {target}, tell {sender}"),
        _ => format!("ARP {sender} is at {}", mac(message.get(8..14)?)),
    })
}

fn v4(packet: &[u8]) -> Option<String> {
    let (src, dst) = (Ipv4Addr::from(array::<4>(packet, 12)?), Ipv4Addr::from(array::<4>(packet, 16)?));
    let header = usize::from(packet[0] & 0x0f) * 4;
    let later = u16::from_be_bytes(array(packet, 6)?) & 0x1fff != 0;
    let what = if later { "later fragment".to_owned() } else { transport(packet[9], packet.get(header..)?) };
    Some(format!("{src} → {dst} {what}"))
}

fn v6(packet: &[u8]) -> Option<String> {
    let (src, dst) = (Ipv6Addr::from(array::<16>(packet, 8)?), Ipv6Addr::from(array::<16>(packet, 24)?));
    Some(format!("{src} → {dst} {}", transport(packet[6], packet.get(40..)?)))
}

fn transport(protocol: u8, payload: &[u8]) -> String {
    let ports = array::<4>(payload, 0)
        .map(|p| format!(" {} → {}", u16::from_be_bytes([p[0], p[1]]), u16::from_be_bytes([p[2], p[3]])));
    let kind = payload.first().copied();
    match (protocol, kind) {
        (6, _) => format!("TCP{}", ports.unwrap_or_default()),
        (17, _) => format!("UDP{}", ports.unwrap_or_default()),
        (1, Some(8)) | (58, Some(128)) => "echo request".to_owned(),
        (1, Some(0)) | (58, Some(129)) => "echo reply".to_owned(),
        (58, Some(135)) => "neighbour solicitation".to_owned(),
        (58, Some(136)) => "neighbour advertisement".to_owned(),
        (1, Some(kind)) => format!("ICMP type {kind}"),
        (58, Some(kind)) => format!("ICMPv6 type {kind}"),
        (other, _) => format!("protocol {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Fields, Protocol};
    use super::*;

    #[test]
    fn packets_in_one_line_and_never_a_panic() {
        for (protocol, src, dst, line) in [
            (Protocol::Icmp, "10.0.0.1", "10.0.0.2", "10.0.0.1 → 10.0.0.2 echo request"),
            (Protocol::Udp, "fd00::1", "fd00::2", "fd00::1 → fd00::2 UDP 40000 → 7"),
            (Protocol::Ask, "10.0.0.1", "10.0.0.2", "ARP who has 10.0.0.2, tell 10.0.0.1"),
        ] {
            let fields = Fields {
                src_mac: "02:00:00:00:00:0a".to_owned(),
                dst_mac: Some("02:00:00:00:00:0b".to_owned()),
                src: src.parse().ok(),
                dst: dst.parse().ok(),
                protocol,
                ..Fields::default()
            };
            let frame = fields.frame("packet").unwrap();
            assert_eq!(summary(&frame), format!("02:00:00:00:00:0a → 02:00:00:00:00:0b {line}"));
            for length in 0..frame.len() {
                assert!(!summary(&frame[..length]).is_empty());
            }
        }
    }
}
