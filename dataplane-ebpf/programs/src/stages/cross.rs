//! Cross: the two ends of a cross-connect are one wire, but questions about our address on it are answered here.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{Counter, DropReason, IpBytes, MacBytes, Port};

use super::classify::is_neighbour_discovery;
use crate::{
    headers::{ARP, ND_HOPS, ND_SOLICIT, is_zero, part, same_ip},
    maps,
    nd::{ARP_FRAME, Arp, Asker, ND_FRAME, advert_flags, build_advert, build_arp},
    out::{Decision, END, Pkt},
};

#[classifier]
#[inline(always)]
pub fn st_cross(ctx: TcContext) -> i32 {
    let Some(packet) = Pkt::open(ctx) else { return END };
    packet.ended(run(&packet))
}

#[inline(always)]
fn run(p: &Pkt) -> Decision {
    let key = p.meta().port;
    // SAFETY: read at once; plan entries are replaced whole.
    let Some(port) = (unsafe { maps::ports.get(key) }) else { return Err(DropReason::UnknownPort) };
    let answered = if p.meta().ethertype == ARP { arp(p, port)? } else { solicitation(p, port)? };
    if answered { p.to_port(&key) } else { p.to_port(&port.peer) }
}

#[inline(always)]
fn arp(p: &Pkt, port: &Port) -> Result<bool, DropReason> {
    let message = p.skb.load::<28>(14)?;
    let (asker, asker_ip): (MacBytes, [u8; 4]) = (part(&message, 8), part(&message, 14));
    let target: [u8; 4] = part(&message, 24);
    let ours = u32::from_ne_bytes(port.answer_v4);
    let asks = message[7] == 1 && u32::from_ne_bytes(target) == ours && u32::from_ne_bytes(asker_ip) != ours;
    if !asks || ours == 0 {
        return Ok(false);
    }
    let reply = Arp {
        operation: 2,
        sender_mac: port.answer_mac,
        sender_ip: target,
        target_mac: asker,
        target_ip: asker_ip,
    };
    build_arp(p.scratch(), &asker, &reply);
    p.become_built::<ARP_FRAME>()?;
    p.count(Counter::ArpAnswered, 1);
    Ok(true)
}

#[inline(always)]
fn solicitation(p: &Pkt, port: &Port) -> Result<bool, DropReason> {
    if is_zero(port.answer_v6) || !is_neighbour_discovery(p)? {
        return Ok(false);
    }
    let hops = p.skb.load::<1>(21)?;
    let kind = p.skb.load::<1>(54)?;
    if hops[0] != ND_HOPS || kind[0] != ND_SOLICIT {
        return Ok(false);
    }
    let target: IpBytes = p.skb.load::<16>(62)?;
    if !same_ip(target, port.answer_v6) {
        return Ok(false);
    }
    let asker = Asker { mac: p.meta().src, ip: p.skb.load::<16>(22)? };
    build_advert(p.scratch(), &asker, &target, &port.answer_mac, advert_flags(true, true));
    p.become_built::<ND_FRAME>()?;
    p.count(Counter::NdAnswered, 1);
    Ok(true)
}
