//! ARP (RFC 826, 5227) and neighbour discovery (RFC 4861): the frames that we make. They are built in the working
//! memory and written over the packet that caused them.

use aya_ebpf::helpers::generated::bpf_csum_diff;
use watari_abi::{DropReason, Ip4Bytes, IpBytes, MacBytes, Scratch};

use crate::{
    headers::{ICMPV6, ND_ADVERT, ND_HOPS, ND_SOLICIT},
    out::Pkt,
    skb::RECOMPUTE_CSUM,
};

/// Ethernet and ARP.
pub const ARP_FRAME: u32 = 42;
/// Ethernet, IPv6, and a message with one link-layer option.
pub const ND_FRAME: u32 = 86;
/// Header and target of a message, and one option: what the checksum covers.
const ND_MESSAGE: u32 = 32;
/// Old headers that were moved back by `become_question`, up to a TCP checksum behind 60 bytes of IP, end before this.
const PADDED_FRAME: u32 = 190;
/// An option for experiments (RFC 4727 §5.1.3): receivers ignore it.
const PAD_OPTION: u8 = 253;
const ALL_NODES: IpBytes = [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: MacBytes = [0x33, 0x33, 0, 0, 0, 1];
const BROADCAST: MacBytes = [0xff; 6];
pub const FLAG_ROUTER: u8 = 0x80;
pub const FLAG_SOLICITED: u8 = 0x40;
pub const FLAG_OVERRIDE: u8 = 0x20;

/// An ARP message.
pub struct Arp {
    pub operation: u8,
    pub sender_mac: MacBytes,
    pub sender_ip: Ip4Bytes,
    pub target_mac: MacBytes,
    pub target_ip: Ip4Bytes,
}

#[inline(always)]
pub fn put<const N: usize>(scratch: &mut Scratch, at: usize, bytes: &[u8; N]) {
    // SAFETY: constants at every call; `at + N` is at most `BUILD_BYTES`.
    unsafe { scratch.frame.as_mut_ptr().add(at).cast::<[u8; N]>().write(*bytes) }
}

#[inline(always)]
fn ethernet(scratch: &mut Scratch, dst: &MacBytes, src: &MacBytes, ethertype: [u8; 2]) {
    put(scratch, 0, dst);
    put(scratch, 6, src);
    put(scratch, 12, &ethertype);
}

/// Writes an ARP message with its Ethernet header into the working memory.
#[inline(always)]
pub fn build_arp(scratch: &mut Scratch, eth_dst: &MacBytes, arp: &Arp) {
    ethernet(scratch, eth_dst, &arp.sender_mac, [0x08, 0x06]);
    put(scratch, 14, &[0, 1, 0x08, 0x00, 6, 4, 0, arp.operation]);
    put(scratch, 22, &arp.sender_mac);
    put(scratch, 28, &arp.sender_ip);
    put(scratch, 32, &arp.target_mac);
    put(scratch, 38, &arp.target_ip);
}

/// Writes an ARP request for `target` into the working memory.
#[inline(always)]
pub fn build_arp_question(scratch: &mut Scratch, mac: &MacBytes, sender: Ip4Bytes, target: Ip4Bytes) {
    let arp =
        Arp { operation: 1, sender_mac: *mac, sender_ip: sender, target_mac: [0; 6], target_ip: target };
    build_arp(scratch, &BROADCAST, &arp);
}

/// Who asked, by a neighbour solicitation.
pub struct Asker {
    pub mac: MacBytes,
    /// Unspecified if it checks for a duplicate.
    pub ip: IpBytes,
}

/// Flags of a neighbour advertisement (RFC 4861 §4.4), its first octet, without the solicited flag.
#[inline(always)]
pub fn advert_flags(router: bool, overrides: bool) -> u8 {
    let router = if router { FLAG_ROUTER } else { 0 };
    if overrides { router | FLAG_OVERRIDE } else { router }
}

/// Writes a neighbour advertisement "`target` is at `mac`" with these [`advert_flags`] into the working memory. The
/// answer to a check for duplicates goes to all nodes (RFC 4861 §7.2.4), any other to the asker.
#[inline(always)]
pub fn build_advert(scratch: &mut Scratch, asker: &Asker, target: &IpBytes, mac: &MacBytes, flags: u8) {
    let duplicate_check = crate::headers::is_zero(asker.ip);
    if duplicate_check {
        ethernet(scratch, &ALL_NODES_MAC, mac, [0x86, 0xdd]);
        put(scratch, 38, &ALL_NODES);
        put(scratch, 58, &[flags, 0, 0, 0]);
    } else {
        ethernet(scratch, &asker.mac, mac, [0x86, 0xdd]);
        put(scratch, 38, &asker.ip);
        put(scratch, 58, &[FLAG_SOLICITED | flags, 0, 0, 0]);
    }
    put(scratch, 22, target);
    message(scratch, ND_ADVERT, target, 2, mac);
}

/// Writes a neighbour solicitation for `target` into the working memory.
#[inline(always)]
pub fn build_solicit(scratch: &mut Scratch, mac: &MacBytes, sender: &IpBytes, target: &IpBytes) {
    let (a, b, c) = (target[13], target[14], target[15]);
    ethernet(scratch, &[0x33, 0x33, 0xff, a, b, c], mac, [0x86, 0xdd]);
    put(scratch, 22, sender);
    put(scratch, 38, &[0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    put(scratch, 58, &[0; 4]);
    message(scratch, ND_SOLICIT, target, 1, mac);
}

/// IPv6 header, ICMPv6 header, target and link-layer option; addresses are in place already.
#[inline(always)]
fn message(scratch: &mut Scratch, kind: u8, target: &IpBytes, option: u8, mac: &MacBytes) {
    put(scratch, 14, &[0x60, 0, 0, 0, 0, ND_MESSAGE as u8, ICMPV6, ND_HOPS]);
    put(scratch, 54, &[kind, 0, 0, 0]);
    put(scratch, 62, target);
    put(scratch, 78, &[option, 1]);
    put(scratch, 80, mac);
    let sum = checksum(scratch, 0);
    put(scratch, 56, &sum);
}

/// Over the pseudo header (RFC 8200 §8.1) and the message; the two addresses lie before the message. `padding`
/// is the length of an experimental option behind it, zeros but for its header.
#[inline(always)]
fn checksum(scratch: &mut Scratch, padding: u32) -> [u8; 2] {
    const ADDRESSES_AND_MESSAGE: u32 = 32 + ND_MESSAGE;
    let header = if padding == 0 { 0 } else { (PAD_OPTION as u32) << 8 | padding / 8 };
    let seed = (ND_MESSAGE + padding + ICMPV6 as u32 + header).to_be();
    let from = &raw mut scratch.frame[22];
    // SAFETY: 64 bytes from offset 22 end at 86, within the buffer.
    let sum =
        unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, from.cast(), ADDRESSES_AND_MESSAGE, seed) } as u64;
    folded(sum)
}

/// A sum of words as `bpf_csum_diff` returns it, as the bytes of a checksum.
#[inline(always)]
pub fn folded(sum: u64) -> [u8; 2] {
    let folded = (sum & 0xffff_ffff) + (sum >> 32);
    let folded = (folded & 0xffff) + (folded >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!(folded as u16)).to_ne_bytes()
}

/// Lengthens what was built to `PADDED_FRAME`: zeros, inside an option if it is neighbour discovery, whose
/// receivers would cut off what is not in the message.
#[inline(always)]
fn pad<const LENGTH: u32>(scratch: &mut Scratch) {
    let mut at = LENGTH as usize;
    while at < PADDED_FRAME as usize {
        // SAFETY: below `BUILD_BYTES`. Volatile, or the loop would become a call into a library.
        unsafe { scratch.frame.as_mut_ptr().add(at).write_volatile(0) };
        at += 1;
    }
    if LENGTH == ND_FRAME {
        const PADDING: u32 = PADDED_FRAME - ND_FRAME;
        put(scratch, 18, &[0, (ND_MESSAGE + PADDING) as u8]);
        put(scratch, 86, &[PAD_OPTION, (PADDING / 8) as u8]);
        put(scratch, 56, &[0; 2]);
        let sum = checksum(scratch, PADDING);
        put(scratch, 56, &sum);
    }
}

impl Pkt {
    /// Replaces the packet by the first `LENGTH` bytes of the working memory.
    #[inline(always)]
    pub fn become_built<const LENGTH: u32>(&self) -> Result<(), DropReason> {
        self.skb.resize(LENGTH)?;
        self.overwrite::<LENGTH>()
    }

    /// Replaces a data packet by a question.
    ///
    /// Its bytes may still wait for a checksum that a device will write behind its old headers, in the middle
    /// of the question; such a packet cannot be cut short. It is lengthened at its head instead, so
    /// that this place lies behind the question, in zeros: what the device then writes there is 0xffff, which
    /// in the question's own checksum counts as nothing.
    #[inline(always)]
    pub fn become_question<const LENGTH: u32>(&self) -> Result<(), DropReason> {
        /// How far the old headers move.
        const BEHIND: u32 = 96;
        /// Shorter than where any transport checksum lies in IPv4; 16 bytes more in IPv6.
        const BARE: u32 = 38;
        let bare = if LENGTH == ARP_FRAME { BARE } else { BARE + 16 };
        if self.skb.resize(bare).is_ok() {
            return self.become_built::<LENGTH>();
        }
        self.skb.grow_head(BEHIND)?;
        self.skb.resize(PADDED_FRAME)?;
        pad::<LENGTH>(self.scratch());
        self.overwrite::<PADDED_FRAME>()
    }

    #[inline(always)]
    fn overwrite<const LENGTH: u32>(&self) -> Result<(), DropReason> {
        let frame = self.scratch().frame.as_ptr();
        self.skb.store_raw(0, frame, 14, 0)?;
        // SAFETY: 14 bytes into the buffer of `BUILD_BYTES`.
        let rest = unsafe { frame.add(14) };
        self.skb.store_raw(14, rest, LENGTH - 14, RECOMPUTE_CSUM)
    }
}
