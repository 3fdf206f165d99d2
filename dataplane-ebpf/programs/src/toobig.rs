//! "Fragmentation needed" (RFC 792, RFC 1191 §4) and "packet too big" (RFC 4443 §3.2), back to who has sent a packet
//! that does not cross to a far gateway.
//!
//! ```text
//!   14  IPv4, ICMP 3/4, next-hop MTU   │ 42  the packet's first 148 bytes
//!   14  IPv6, ICMPv6 2, MTU            │ 62  the packet's first 128 bytes
//! ```
//! - From whom: where the packet was routed for a host here, our address in the host's subnet. Else from the packet's own
//!   destination, as Linux' tunnels do below a bridge: an address that the sender takes for reachable on this link.
//! - Never in answer to an ICMP error, to a later fragment, or where sender or receiver are not single hosts
//!   (RFC 1122 §3.2.2, RFC 4443 §2.4 e); at a rate per port (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
//! - A packet whose checksum a device will still write is lengthened behind the Ethernet header, so that this
//!   lands behind what is quoted, in zeros: 0xffff there counts as nothing in the message's sum. It quotes 64 bytes.

use aya_ebpf::{helpers::generated::bpf_csum_diff, maps::lpm_trie::Key};
use watari_abi::{
    Counter, DropReason, Hook, Ip4Bytes, IpBytes, Meta, PortBucketKey, RouteKey4, RouteKey6, RouteKind,
    Scratch,
};

use crate::{
    fit::Inner,
    headers::{ETH_BYTES, ICMP, ICMPV6, IPV4, is_zero, same_mac, unmapped},
    maps,
    nd::{folded, put},
    out::{Decision, Pkt},
};

/// Errors per second and port.
const RATE: u32 = 100;
/// How many of them at once.
const BURST: u32 = 50;
/// Bytes of each such frame.
const FRAME: u32 = 190;
const MESSAGE_V4: u32 = 34;
const MESSAGE_V6: u32 = 54;
/// ICMP and ICMPv6 header.
const ICMP_BYTES: u32 = 8;
const QUOTE_V4: u32 = MESSAGE_V4 + ICMP_BYTES;
const QUOTE_V6: u32 = MESSAGE_V6 + ICMP_BYTES;
/// What is quoted of a packet whose checksum is still to be written.
const SHORT_QUOTE: u32 = 64;
/// How far such a packet's headers move back: from `QUOTE` + 64 bytes on are zeros, where its checksum then lies.
const BEHIND: i32 = 96;
const FIXED_GSO: u64 = 1;
/// Shorter than where any transport checksum lies in IPv4; 16 bytes more in IPv6.
const BARE: u32 = 38;
/// Precedence of network control (RFC 1812 §4.3.2.5).
const NETWORK_CONTROL: u8 = 0xc0;
const HOPS: u8 = 64;
const MINIMUM_V6: u32 = 1280;
const REDIRECT_V6: u8 = 137;
const FIRST_QUERY_V6: u8 = 128;
const TENANT_BITS: u32 = 32;

impl Pkt {
    /// Drops the packet and tells its sender, if it may be told.
    #[inline(always)]
    pub fn too_big(&self, inner: &Inner, mtu: u32) -> Decision {
        let v4 = self.meta().ethertype == IPV4;
        let told = if v4 { may_be_told_v4(self, inner)? } else { may_be_told_v6(self, inner)? };
        let port = self.meta().port;
        if !told || !self.may_send(&PortBucketKey { port, kind: PortBucketKey::ERRORS }, RATE, BURST) {
            return Err(DropReason::TooBigSilent);
        }
        self.count_drop(DropReason::TooBig);
        if v4 {
            build_v4(self, mtu)?
        } else {
            build_v6(self, mtu)?
        }
        self.count(Counter::TooBigSent, 1);
        self.meta().fit = Meta::FIT_GOES;
        if self.from_vxlan() {
            return self.back_to_vtep();
        }
        self.to_port(&port)
    }

    /// Whether a device here is to get our own address as the sender: it has sent to the gateway's MAC.
    #[inline(always)]
    fn is_for_the_gateway(&self) -> bool {
        let (dst, hook) = (self.meta().dst, self.meta().hook);
        let attached = hook == Hook::Trunk as u8 || hook == Hook::Interface as u8;
        attached
            && self
                .config()
                .is_ok_and(|config| same_mac(dst, config.anycast_mac) || same_mac(dst, config.router_mac))
    }
}

#[inline(always)]
fn may_be_told_v4(p: &Pkt, inner: &Inner) -> Result<bool, DropReason> {
    let [source, _, _, _] = p.skb.load::<4>(ETH_BYTES + 12)?;
    let [target, _, _, _] = p.skb.load::<4>(ETH_BYTES + 16)?;
    if inner.later_fragment || source == 0 || source == 127 || source >= 224 || target >= 224 {
        return Ok(false);
    }
    if inner.protocol != ICMP {
        return Ok(true);
    }
    let [kind] = p.skb.load::<1>(inner.transport)?;
    Ok(!matches!(kind, 3 | 4 | 5 | 11 | 12))
}

#[inline(always)]
fn may_be_told_v6(p: &Pkt, inner: &Inner) -> Result<bool, DropReason> {
    let source: IpBytes = p.skb.load::<16>(ETH_BYTES + 8)?;
    let [target] = p.skb.load::<1>(ETH_BYTES + 24)?;
    if source[0] == 0xff || target == 0xff || is_zero(source) {
        return Ok(false);
    }
    if inner.protocol != ICMPV6 {
        return Ok(true);
    }
    let [kind] = p.skb.load::<1>(inner.transport)?;
    Ok(kind >= FIRST_QUERY_V6 && kind != REDIRECT_V6)
}

/// Who says so, over IPv4.
#[inline(always)]
fn speaker_v4(p: &Pkt, sender: Ip4Bytes, target: Ip4Bytes) -> Ip4Bytes {
    if p.is_for_the_gateway() {
        let data = RouteKey4 { tenant: p.meta().tenant.to_be_bytes(), addr: sender };
        if let Some(route) = maps::routes4.get(Key::new(TENANT_BITS + 32, data))
            && route.kind == RouteKind::Connected as u8
        {
            return unmapped(route.gateway);
        }
    }
    target
}

/// Who says so, over IPv6.
#[inline(always)]
fn speaker_v6(p: &Pkt, sender: IpBytes, target: IpBytes) -> IpBytes {
    if p.is_for_the_gateway() {
        let data = RouteKey6 { tenant: p.meta().tenant.to_be_bytes(), addr: sender };
        if let Some(route) = maps::routes6.get(Key::new(TENANT_BITS + 128, data))
            && route.kind == RouteKind::Connected as u8
        {
            return route.gateway;
        }
    }
    target
}

#[inline(always)]
fn build_v4(p: &Pkt, mtu: u32) -> Result<(), DropReason> {
    let sender: Ip4Bytes = p.skb.load::<4>(ETH_BYTES + 12)?;
    let target: Ip4Bytes = p.skb.load::<4>(ETH_BYTES + 16)?;
    let speaker = speaker_v4(p, sender, target);
    quote::<QUOTE_V4, { FRAME - QUOTE_V4 }>(p)?;
    empty::<QUOTE_V4>(p, BARE)?;
    let (src, dst) = (p.meta().src, p.meta().dst);
    let scratch = p.scratch();
    put(scratch, 0, &src);
    put(scratch, 6, &dst);
    put(scratch, 12, &[0x08, 0x00, 0x45, NETWORK_CONTROL]);
    put(scratch, 16, &((FRAME - ETH_BYTES) as u16).to_be_bytes());
    put(scratch, 18, &[0, 0, 0, 0, HOPS, ICMP, 0, 0]);
    put(scratch, 26, &speaker);
    put(scratch, 30, &sender);
    let sum = summed::<ETH_BYTES, 20>(scratch, 0);
    put(scratch, 24, &sum);
    put(scratch, MESSAGE_V4 as usize, &[3, 4, 0, 0, 0, 0]);
    put(scratch, 40, &(mtu as u16).to_be_bytes());
    let sum = summed::<MESSAGE_V4, { FRAME - MESSAGE_V4 }>(scratch, 0);
    put(scratch, 36, &sum);
    p.become_built::<FRAME>()
}

#[inline(always)]
fn build_v6(p: &Pkt, mtu: u32) -> Result<(), DropReason> {
    const LENGTH: u32 = FRAME - MESSAGE_V6;
    let sender: IpBytes = p.skb.load::<16>(ETH_BYTES + 8)?;
    let target: IpBytes = p.skb.load::<16>(ETH_BYTES + 24)?;
    let speaker = speaker_v6(p, sender, target);
    quote::<QUOTE_V6, { FRAME - QUOTE_V6 }>(p)?;
    empty::<QUOTE_V6>(p, BARE + 16)?;
    let (src, dst) = (p.meta().src, p.meta().dst);
    // No sender has to go below the least MTU; what is no longer than that is fragmented outside.
    let mtu = if mtu < MINIMUM_V6 { MINIMUM_V6 } else { mtu };
    let scratch = p.scratch();
    put(scratch, 0, &src);
    put(scratch, 6, &dst);
    put(scratch, 12, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, LENGTH as u8, ICMPV6, HOPS]);
    put(scratch, 22, &speaker);
    put(scratch, 38, &sender);
    put(scratch, MESSAGE_V6 as usize, &[2, 0, 0, 0]);
    put(scratch, 58, &mtu.to_be_bytes());
    // Over the pseudo header (RFC 8200 §8.1), whose addresses lie before the message.
    let sum = summed::<22, { FRAME - 22 }>(scratch, (LENGTH + ICMPV6 as u32).to_be());
    put(scratch, 56, &sum);
    p.become_built::<FRAME>()
}

/// Copies what is quoted to its place in the working memory.
#[inline(always)]
fn quote<const AT: u32, const LENGTH: u32>(p: &Pkt) -> Result<(), DropReason> {
    // SAFETY: `AT + LENGTH` is `FRAME`, less than `BUILD_BYTES`.
    let to = unsafe { p.scratch().frame.as_mut_ptr().add(AT as usize) };
    p.skb.load_raw(ETH_BYTES, to, LENGTH).map_err(|_| DropReason::TooBigSilent)
}

/// Cuts the packet down to where no checksum can be pending any more, or moves a pending one behind the quote.
#[inline(always)]
fn empty<const QUOTE: u32>(p: &Pkt, bare: u32) -> Result<(), DropReason> {
    if p.skb.resize(bare).is_ok() {
        return Ok(());
    }
    p.skb.adjust_room(BEHIND, FIXED_GSO)?;
    let scratch = p.scratch();
    let mut at = (QUOTE + SHORT_QUOTE) as usize;
    while at < FRAME as usize {
        // SAFETY: below `BUILD_BYTES`. Volatile, or the loop would become a call into a library.
        unsafe { scratch.frame.as_mut_ptr().add(at).write_volatile(0) };
        at += 1;
    }
    Ok(())
}

/// The checksum (RFC 1071) of `LENGTH` bytes of the working memory from `AT` on.
#[inline(always)]
fn summed<const AT: u32, const LENGTH: u32>(scratch: &mut Scratch, seed: u32) -> [u8; 2] {
    let from = &raw mut scratch.frame[AT as usize];
    // SAFETY: `AT + LENGTH` is at most `BUILD_BYTES`.
    folded(unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, from.cast(), LENGTH, seed) } as u64)
}
