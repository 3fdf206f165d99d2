//! Where things are in a frame. Offsets count from the Ethernet header.

use watari_abi::{Ip4Bytes, IpBytes, MacBytes};

pub const ETH_BYTES: u32 = 14;
pub const ARP: u16 = 0x0806;
pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const VLAN: u16 = 0x8100;
pub const QINQ: u16 = 0x88a8;
pub const LLDP: u16 = 0x88cc;
pub const SLOW: u16 = 0x8809;
pub const MAC_CONTROL: u16 = 0x8808;
/// Tags of switches from before 802.1ad.
pub const QINQ_OLD: u16 = 0x9100;
pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const ND_SOLICIT: u8 = 135;
pub const ND_ADVERT: u8 = 136;
/// Hop limit of every valid neighbour discovery message (RFC 4861 §7.1).
pub const ND_HOPS: u8 = 255;

/// A MAC as a number, for comparing: arrays would be compared by a library call that BPF has not.
#[inline(always)]
pub fn mac_number(mac: MacBytes) -> u64 {
    (mac[0] as u64) << 40
        | (mac[1] as u64) << 32
        | (mac[2] as u64) << 24
        | (mac[3] as u64) << 16
        | (mac[4] as u64) << 8
        | mac[5] as u64
}

#[inline(always)]
pub fn same_mac(one: MacBytes, other: MacBytes) -> bool {
    mac_number(one) == mac_number(other)
}

/// Broadcast or multicast.
#[inline(always)]
pub fn is_group(mac: MacBytes) -> bool {
    mac[0] & 1 != 0
}

/// The frame has a tag: in its bytes, where none is left that belongs to the port.
#[inline(always)]
pub fn is_tag(ethertype: u16) -> bool {
    ethertype == VLAN || ethertype == QINQ || ethertype == QINQ_OLD
}

/// Frames that must not leave their link: 01:80:c2:00:00:0x (IEEE 802.1Q §8.6.3), LLDP, slow protocols, pause, and
/// Cisco's spanning tree and discovery (01:00:0c:cc:cc:cc and :cd).
#[inline(always)]
pub fn is_link_local(dst: MacBytes, ethertype: u16) -> bool {
    let number = mac_number(dst);
    number & 0xffff_ffff_fff0 == 0x0180_c200_0000
        || number & 0xffff_ffff_fffe == 0x0100_0ccc_cccc
        || ethertype == LLDP
        || ethertype == SLOW
        || ethertype == MAC_CONTROL
}

/// IPv4-mapped.
#[inline(always)]
pub fn mapped(ip: Ip4Bytes) -> IpBytes {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ip[0], ip[1], ip[2], ip[3]]
}

/// True for an IPv4-mapped address.
#[inline(always)]
pub fn is_mapped(ip: &IpBytes) -> bool {
    u64::from_ne_bytes([ip[0], ip[1], ip[2], ip[3], ip[4], ip[5], ip[6], ip[7]]) == 0
        && u32::from_be_bytes([ip[8], ip[9], ip[10], ip[11]]) == 0xffff
}

/// The last four bytes: the address of an IPv4-mapped one.
#[inline(always)]
pub fn unmapped(ip: IpBytes) -> Ip4Bytes {
    [ip[12], ip[13], ip[14], ip[15]]
}

/// `N` bytes of a longer array.
#[inline(always)]
pub fn part<const N: usize, const M: usize>(bytes: &[u8; M], at: usize) -> [u8; N] {
    // SAFETY: constants at every call; `at + N` is at most `M`.
    unsafe { bytes.as_ptr().add(at).cast::<[u8; N]>().read() }
}

#[inline(always)]
pub fn is_zero(ip: IpBytes) -> bool {
    u128::from_ne_bytes(ip) == 0
}

#[inline(always)]
pub fn same_ip(one: IpBytes, other: IpBytes) -> bool {
    let (a, b) = halves(one);
    let (c, d) = halves(other);
    a == c && b == d
}

#[inline(always)]
pub fn halves(ip: IpBytes) -> (u64, u64) {
    (
        u64::from_ne_bytes([ip[0], ip[1], ip[2], ip[3], ip[4], ip[5], ip[6], ip[7]]),
        u64::from_ne_bytes([ip[8], ip[9], ip[10], ip[11], ip[12], ip[13], ip[14], ip[15]]),
    )
}
