//! Guard: what a guarded attachment may send. Attachments without a guard do not come here, and a frame that passes goes
//! back to the stage `Classify`. What has more than one receiver is limited where it is copied, in the stage `Flood`.
//!
//! ```text
//!  MAC     source MAC in guard_macs
//!  LIMIT   a MAC that is not known here, and the attachment has its number already
//!  IP      source address, ARP sender, ND sender and target in guard_ips, with the MAC bound to them (RFC 7039)
//!  DHCP    no answer of a server (DHCPv4, DHCPv6)
//!  ROUTER  no router advertisement, no redirect (RFC 6105), behind extension headers neither (RFC 7113)
//! ```
//! Without an address yet a host may look for one: ARP probes, DHCP and IGMP from 0.0.0.0; duplicate address detection,
//! router solicitation and MLD from `::`. A link-local IPv6 address that no prefix allows is the first come's (RFC 6620):
//! free unless somebody else in the segment is known to have it. Later fragments show no upper layer and pass; hosts drop
//! them without the first one, which must show it.

use aya_ebpf::{macros::classifier, maps::lpm_trie::Key, programs::TcContext};
use watari_abi::{
    DropReason, GuardIpKey, GuardMacKey, IpBytes, MacBytes, MacKey, Meta, Port, Stage, StepKind,
};

use crate::{
    chain::{Upper, upper_layer},
    fdb::{owner_of, pinned, same_port},
    headers::{
        ARP, ETH_BYTES, ICMPV6, IPV4, IPV6, ND_ADVERT, ND_SOLICIT, UDP, is_group, is_zero, mac_number,
        mapped, part, same_mac,
    },
    maps,
    out::{Decision, END, Pkt},
};

/// Bits of the port in front of every prefix of `guard_ips`.
const PORT_AND_ADDRESS_BITS: u32 = 64 + 128;
const IGMP: u8 = 2;
const BOOTP_SERVER: u16 = 67;
const BOOTP_CLIENT: u16 = 68;
const BOOTREQUEST: u8 = 1;
const DHCPV6_CLIENT: u16 = 546;
const DHCPV6_SERVER: u16 = 547;
const ROUTER_SOLICIT: u8 = 133;
const ROUTER_ADVERT: u8 = 134;
const REDIRECT: u8 = 137;
/// Options of an ND message that are looked at: a message with more is not judged.
const OPTIONS_MAX: u32 = 8;
const V6_BYTES: u32 = 40;

/// Why a frame is dropped, and the address concerned.
type Refusal = (DropReason, IpBytes);

const NOBODY: IpBytes = [0; 16];

#[classifier]
#[inline(always)]
pub fn st_guard(ctx: TcContext) -> i32 {
    let Some(packet) = Pkt::open(ctx) else { return END };
    packet.ended(run(&packet))
}

#[inline(always)]
fn run(p: &Pkt) -> Decision {
    p.meta().flags |= Meta::GUARDED;
    let key = p.meta().port;
    // SAFETY: read at once; plan entries are replaced whole.
    let Some(port) = (unsafe { maps::ports.get(key) }) else { return Err(DropReason::UnknownPort) };
    if is_anybodys(p)?
        && let Err((reason, ip)) = check(p, port)
    {
        p.event_guarded(reason, ip);
        return Err(reason);
    }
    p.step(StepKind::Guarded, |step| {
        step.port = key;
        step.flags = port.guard;
    });
    p.go(Stage::Classify)
}

/// The source is a host's. Others are named by the stage `Classify`: ours tells of a loop.
#[inline(always)]
fn is_anybodys(p: &Pkt) -> Result<bool, DropReason> {
    let (src, config) = (p.meta().src, p.config()?);
    let ours = same_mac(src, config.anycast_mac) || same_mac(src, config.router_mac);
    Ok(!ours && !is_group(src) && mac_number(src) != 0)
}

#[inline(always)]
fn check(p: &Pkt, port: &Port) -> Result<(), Refusal> {
    let guard = port.guard;
    if guard & Port::GUARD_MAC != 0 && !mac_allowed(p, p.meta().src) {
        return Err((DropReason::GuardMac, NOBODY));
    }
    if guard & Port::GUARD_LIMIT != 0 && exceeds(p, port.macs_max) {
        return Err((DropReason::MacLimit, NOBODY));
    }
    match p.meta().ethertype {
        ARP if guard & Port::GUARD_IP != 0 => arp(p, guard),
        IPV4 if guard & (Port::GUARD_IP | Port::GUARD_DHCP) != 0 => v4(p, guard),
        IPV6 if guard & (Port::GUARD_IP | Port::GUARD_DHCP | Port::GUARD_ROUTER) != 0 => v6(p, guard),
        _ => Ok(()),
    }
}

#[inline(always)]
fn mac_allowed(p: &Pkt, mac: MacBytes) -> bool {
    let key = GuardMacKey { port: p.meta().port, mac, pad: 0 };
    // SAFETY: only its presence counts.
    unsafe { maps::guard_macs.get(key) }.is_some()
}

/// A MAC that is not known here while the attachment has `most` of them.
#[inline(always)]
fn exceeds(p: &Pkt, most: u32) -> bool {
    let (port, key) = (p.meta().port, MacKey { vni: p.meta().vni, mac: p.meta().src, pad: 0 });
    // SAFETY (both): read at once, not kept.
    if unsafe { maps::mac_local.get(key) }.is_some_and(|known| same_port(&known.port, &port)) {
        return false;
    }
    if pinned(key).is_some_and(|pin| same_port(&pin.port, &port)) {
        return false;
    }
    // Two CPUs that take one off at once may bring the count below zero.
    let count = unsafe { maps::port_macs.get(port) }.map_or(0, |count| *count as i32);
    i64::from(count) >= i64::from(most)
}

/// `mac` may say that it has `ip`.
#[inline(always)]
fn claims(p: &Pkt, guard: u16, ip: IpBytes, mac: MacBytes) -> bool {
    let key = Key::new(PORT_AND_ADDRESS_BITS, GuardIpKey { port: p.meta().port, ip });
    match maps::guard_ips.get(key) {
        Some(bound) if mac_number(bound.mac) != 0 => same_mac(bound.mac, mac),
        Some(_) => guard & Port::GUARD_MAC == 0 || mac_allowed(p, mac),
        None => is_link_local_address(&ip) && first_come(p, ip, mac),
    }
}

/// fe80::/10.
#[inline(always)]
fn is_link_local_address(ip: &IpBytes) -> bool {
    ip[0] == 0xfe && ip[1] & 0xc0 == 0x80
}

/// Nobody else is known to have this address.
#[inline(always)]
fn first_come(p: &Pkt, ip: IpBytes, mac: MacBytes) -> bool {
    let Some(owner) = owner_of(p, p.meta().vni, ip) else { return true };
    same_mac(owner.mac, mac) || (owner.port.ifindex != 0 && same_port(&owner.port, &p.meta().port))
}

#[inline(always)]
fn malformed<T>(loaded: Result<T, DropReason>) -> Result<T, Refusal> {
    loaded.map_err(|reason| (reason, NOBODY))
}

/// The upper layer is not where a guard could judge it.
#[inline(always)]
fn hidden<T>(loaded: Result<T, DropReason>, src: IpBytes) -> Result<T, Refusal> {
    loaded.map_err(|_| (DropReason::HeaderChain, src))
}

#[inline(always)]
fn arp(p: &Pkt, guard: u16) -> Result<(), Refusal> {
    let message = malformed(p.skb.load::<28>(ETH_BYTES))?;
    let (mac, sender): (MacBytes, [u8; 4]) = (part(&message, 8), part(&message, 14));
    let probe = u32::from_ne_bytes(sender) == 0;
    if probe || claims(p, guard, mapped(sender), mac) {
        return Ok(());
    }
    Err((DropReason::GuardNeighbour, mapped(sender)))
}

#[inline(always)]
fn v4(p: &Pkt, guard: u16) -> Result<(), Refusal> {
    let header = malformed(p.skb.load::<20>(ETH_BYTES))?;
    let words = u32::from(header[0] & 0x0f);
    if header[0] >> 4 != 4 || words < 5 {
        return Err((DropReason::Malformed, NOBODY));
    }
    let src: [u8; 4] = part(&header, 12);
    let ip = mapped(src);
    let first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
    let udp = header[9] == UDP && first;
    let transport = ETH_BYTES + words * 4;
    let ports = if udp { malformed(ports(p, transport))? } else { (0, 0) };
    if guard & Port::GUARD_IP != 0 {
        let searching = header[9] == IGMP || (udp && ports == (BOOTP_CLIENT, BOOTP_SERVER));
        let unspecified = u32::from_ne_bytes(src) == 0;
        let allowed = if unspecified { searching } else { claims(p, guard, ip, p.meta().src) };
        if !allowed {
            return Err((DropReason::GuardIp, ip));
        }
    }
    // Clients listen to whoever sends to their port.
    if guard & Port::GUARD_DHCP != 0 && udp && (ports.0 == BOOTP_SERVER || ports.1 == BOOTP_CLIENT) {
        let operation = p.skb.load::<1>(transport + 8);
        if !operation.is_ok_and(|operation| operation[0] == BOOTREQUEST) {
            return Err((DropReason::GuardDhcpServer, ip));
        }
    }
    Ok(())
}

#[inline(always)]
fn ports(p: &Pkt, transport: u32) -> Result<(u16, u16), DropReason> {
    let ports = p.skb.load::<4>(transport)?;
    Ok((u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])))
}

#[inline(always)]
fn v6(p: &Pkt, guard: u16) -> Result<(), Refusal> {
    let header = malformed(p.skb.load::<{ V6_BYTES as usize }>(ETH_BYTES))?;
    if header[0] >> 4 != 6 {
        return Err((DropReason::Malformed, NOBODY));
    }
    let src: IpBytes = part(&header, 8);
    let unspecified = is_zero(src);
    if guard & Port::GUARD_IP != 0 && !unspecified && !claims(p, guard, src, p.meta().src) {
        return Err((DropReason::GuardIp, src));
    }
    let upper = upper_layer(p, header[6], ETH_BYTES + V6_BYTES).map_err(|reason| (reason, src))?;
    let end = ETH_BYTES + V6_BYTES + u32::from(u16::from_be_bytes([header[4], header[5]]));
    let kind = match &upper {
        Some(upper) if upper.protocol == ICMPV6 => hidden(p.skb.load::<1>(upper.offset), src)?[0],
        _ => 0,
    };
    if guard & Port::GUARD_IP != 0 && unspecified && !is_search(kind) {
        return Err((DropReason::GuardIp, src));
    }
    let Some(upper) = upper else { return Ok(()) };
    match upper.protocol {
        ICMPV6 => icmp(p, guard, kind, src, &upper, end),
        UDP if guard & Port::GUARD_DHCP != 0 => dhcpv6(p, src, upper.offset),
        _ => Ok(()),
    }
}

/// ICMPv6 that a host without an address sends: MLD, router solicitation, duplicate address detection.
#[inline(always)]
fn is_search(kind: u8) -> bool {
    matches!(kind, 131 | 132 | ROUTER_SOLICIT | ND_SOLICIT | 143)
}

#[inline(always)]
fn dhcpv6(p: &Pkt, src: IpBytes, transport: u32) -> Result<(), Refusal> {
    let (from, to) = hidden(ports(p, transport), src)?;
    if to != DHCPV6_CLIENT && from != DHCPV6_SERVER {
        return Ok(());
    }
    // A relay agent, too, sends from the server's port: what it forwards to servers is no answer (RFC 8415 §7.3).
    let kind = p.skb.load::<1>(transport + 8);
    let answer = to == DHCPV6_CLIENT || !kind.is_ok_and(|kind| !matches!(kind[0], 2 | 7 | 10 | 13));
    if answer { Err((DropReason::GuardDhcpServer, src)) } else { Ok(()) }
}

#[inline(always)]
fn icmp(p: &Pkt, guard: u16, kind: u8, src: IpBytes, upper: &Upper, end: u32) -> Result<(), Refusal> {
    if kind < ROUTER_SOLICIT || kind > REDIRECT {
        return Ok(());
    }
    if guard & Port::GUARD_ROUTER != 0 && (kind == ROUTER_ADVERT || kind == REDIRECT) {
        return Err((DropReason::GuardRouter, src));
    }
    // Neighbour discovery is never in fragments (RFC 6980 §5).
    if upper.fragment {
        return Err((DropReason::HeaderChain, src));
    }
    if guard & Port::GUARD_IP == 0 || kind == ROUTER_ADVERT || kind == REDIRECT {
        return Ok(());
    }
    if kind == ROUTER_SOLICIT {
        return options(p, upper.offset + 8, end, src);
    }
    if kind == ND_ADVERT {
        let target: IpBytes = malformed(p.skb.load::<16>(upper.offset + 8))?;
        if !claims(p, guard, target, p.meta().src) {
            return Err((DropReason::GuardNeighbour, target));
        }
    }
    options(p, upper.offset + 24, end, src)
}

/// Link-layer address options (RFC 4861 §4.6.1) must be the sender's own.
#[inline(always)]
fn options(p: &Pkt, from: u32, end: u32, src: IpBytes) -> Result<(), Refusal> {
    let own = p.meta().src;
    let (mut offset, mut looked_at) = (from, 0);
    while looked_at < OPTIONS_MAX {
        if offset >= end {
            return Ok(());
        }
        let option = malformed(p.skb.load::<8>(offset))?;
        if option[1] == 0 {
            return Err((DropReason::Malformed, src));
        }
        if (option[0] == 1 || option[0] == 2) && !same_mac(part(&option, 2), own) {
            return Err((DropReason::GuardNeighbour, src));
        }
        offset += u32::from(option[1]) * 8;
        looked_at += 1;
    }
    Err((DropReason::HeaderChain, src))
}
