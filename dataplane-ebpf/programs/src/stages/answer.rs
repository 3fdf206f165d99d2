//! Answer: ARP and neighbour discovery. Senders on attachments become neighbours; questions about a known
//! neighbour are answered here instead of being spread; the rest is switched like any frame.
//!
//! - Nobody is answered about an owner on the asker's own side: it hears the question itself.
//! - A check for duplicates (sender 0.0.0.0 or ::, RFC 5227, RFC 4862 §5.4) is answered only if the address is
//!   known, and never with the asker's own MAC.
//! - A question out of VXLAN is answered for what is here, not for what is behind a third gateway, nor for the
//!   anycast address, which every gateway answers at home.
//! - An announcement (gratuitous ARP, unsolicited advertisement) of somebody known here, as known, stays on this side.
//!   What is known behind a far gateway as well, or has been announced from there since, has moved: it is spread.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{Counter, DropReason, IpBytes, MacBytes, MacKey, Meta, NeighKey, NeighLocal, StepKind};

use crate::{
    fdb::{owner_of, same_port},
    headers::{ARP, ND_HOPS, ND_SOLICIT, is_group, is_zero, mapped, part, same_mac},
    maps,
    nd::{
        ARP_FRAME, Arp, Asker, FLAG_OVERRIDE, FLAG_ROUTER, FLAG_SOLICITED, ND_FRAME, advert_flags,
        build_advert, build_arp,
    },
    out::{Decision, END, Pkt},
};

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
/// Options of a message that are looked at.
const OPTIONS_MAX: u32 = 3;

#[classifier]
#[inline(always)]
pub fn st_answer(ctx: TcContext) -> i32 {
    let Some(packet) = Pkt::open(ctx) else { return END };
    packet.ended(run(&packet))
}

#[inline(always)]
fn run(p: &Pkt) -> Decision {
    let next = if p.meta().ethertype == ARP { arp(p)? } else { neighbour_discovery(p)? };
    match next {
        Next::Forward => forward(p),
        Next::Keep => p.consumed(Counter::QuestionKept),
        Next::Back => back(p),
    }
}

/// What becomes of a message.
#[derive(Clone, Copy)]
enum Next {
    /// It is switched like any frame.
    Forward,
    /// It ends here: the owner hears it without us.
    Keep,
    /// It has become the answer.
    Back,
}

#[inline(always)]
fn arp(p: &Pkt) -> Result<Next, DropReason> {
    let message = p.skb.load::<28>(14)?;
    let (sender_mac, sender_ip): (MacBytes, [u8; 4]) = (part(&message, 8), part(&message, 14));
    let target_ip: [u8; 4] = part(&message, 24);
    let ethernet_ipv4 =
        message[1] == 1 && message[2] == 8 && message[3] == 0 && message[4] == 6 && message[5] == 4;
    let operation = message[7];
    if !ethernet_ipv4 || (operation != REQUEST && operation != REPLY) {
        return Ok(Next::Forward);
    }
    let probe = u32::from_ne_bytes(sender_ip) == 0;
    let sender = mapped(sender_ip);
    let mut news = true;
    if !p.from_vxlan() && !probe && same_mac(sender_mac, p.meta().src) {
        news = p.learn_neighbour(sender, sender_mac, Some(NeighLocal::OVERRIDE))?;
    }
    if u32::from_ne_bytes(sender_ip) == u32::from_ne_bytes(target_ip) {
        announced(p, sender, sender_mac, news);
        return Ok(Next::Forward);
    }
    if operation == REPLY {
        return Ok(Next::Forward);
    }
    match judge(p, mapped(target_ip), sender_mac) {
        Answer::Spread => Ok(Next::Forward),
        Answer::Keep => Ok(Next::Keep),
        Answer::Is { mac, .. } => {
            let reply = Arp {
                operation: REPLY,
                sender_mac: mac,
                sender_ip: target_ip,
                target_mac: sender_mac,
                target_ip: sender_ip,
            };
            build_arp(p.scratch(), &sender_mac, &reply);
            p.become_built::<ARP_FRAME>()?;
            p.count(Counter::ArpAnswered, 1);
            Ok(Next::Back)
        }
    }
}

#[inline(always)]
fn neighbour_discovery(p: &Pkt) -> Result<Next, DropReason> {
    let hops = p.skb.load::<1>(21)?;
    if hops[0] != ND_HOPS {
        return Err(DropReason::Malformed);
    }
    let sender: IpBytes = p.skb.load::<16>(22)?;
    let kind = p.skb.load::<1>(54)?;
    let target: IpBytes = p.skb.load::<16>(62)?;
    let duplicate_check = is_zero(sender);
    let src = p.meta().src;
    if kind[0] != ND_SOLICIT {
        advertised(p, target)?;
        return Ok(Next::Forward);
    }
    let mac = link_layer(p, OPTION_SOURCE).unwrap_or(src);
    if !p.from_vxlan() && !duplicate_check && same_mac(mac, src) {
        p.learn_neighbour(sender, mac, None)?;
    }
    match judge(p, target, src) {
        Answer::Spread => Ok(Next::Forward),
        Answer::Keep => Ok(Next::Keep),
        Answer::Is { mac, flags } => {
            let asker = Asker { mac: src, ip: sender };
            build_advert(p.scratch(), &asker, &target, &mac, flags);
            p.become_built::<ND_FRAME>()?;
            p.count(Counter::NdAnswered, 1);
            Ok(Next::Back)
        }
    }
}

/// A neighbour advertisement: learnt from with its flags, and kept if it was not asked for and says nothing new.
#[inline(always)]
fn advertised(p: &Pkt, target: IpBytes) -> Result<(), DropReason> {
    let src = p.meta().src;
    let mac = link_layer(p, OPTION_TARGET).unwrap_or(src);
    let flags = p.skb.load::<1>(58)?[0];
    let mut news = true;
    if !p.from_vxlan() && same_mac(mac, src) && target[0] != 0xff {
        let router = if flags & FLAG_ROUTER != 0 { NeighLocal::ROUTER } else { 0 };
        let overrides = if flags & FLAG_OVERRIDE != 0 { NeighLocal::OVERRIDE } else { 0 };
        news = p.learn_neighbour(target, mac, Some(router | overrides))?;
    }
    if flags & FLAG_SOLICITED == 0 {
        announced(p, target, mac, news);
    }
    Ok(())
}

/// An announcement that `ip` is at `mac`.
#[inline(always)]
fn announced(p: &Pkt, ip: IpBytes, mac: MacBytes, news: bool) {
    if p.from_vxlan() {
        return p.contested(ip);
    }
    let vni = p.meta().vni;
    // SAFETY (both): only their presence counts.
    let elsewhere = unsafe { maps::nb_remote.get(NeighKey { vni, ip }) }.is_some()
        || unsafe { maps::mac_remote.get(MacKey { vni, mac, pad: 0 }) }.is_some();
    if !news && !elsewhere && is_group(p.meta().dst) {
        p.meta().flags |= Meta::LOCAL_ONLY;
        p.step_ip(StepKind::Kept, ip, StepKind::NOTHING_NEW);
        p.count(Counter::AnnouncementKept, 1);
    }
}

/// The link-layer address option of this kind (RFC 4861 §4.6.1), if it is among the first.
#[inline(always)]
fn link_layer(p: &Pkt, kind: u8) -> Option<MacBytes> {
    let mut offset = 78_u32;
    let mut looked_at = 0;
    while looked_at < OPTIONS_MAX {
        let option = p.skb.load::<8>(offset).ok()?;
        if option[0] == kind && option[1] == 1 {
            return Some(part(&option, 2));
        }
        if option[1] == 0 {
            return None;
        }
        offset += u32::from(option[1]) * 8;
        looked_at += 1;
    }
    None
}

enum Answer {
    /// We do not know: the question goes on.
    Spread,
    /// The owner hears it without us.
    Keep,
    Is {
        mac: MacBytes,
        /// Of the neighbour advertisement.
        flags: u8,
    },
}

#[inline(always)]
fn judge(p: &Pkt, target: IpBytes, asker: MacBytes) -> Answer {
    let Some(owner) = owner_of(p, p.meta().vni, target) else { return Answer::Spread };
    if same_mac(owner.mac, asker) {
        return Answer::Spread;
    }
    if owner.port.ifindex != 0 && same_port(&owner.port, &p.meta().port) {
        p.step_ip(StepKind::Kept, target, StepKind::SAME_SIDE);
        return Answer::Keep;
    }
    if p.from_vxlan() {
        let anycast = p.config().is_ok_and(|config| same_mac(owner.mac, config.anycast_mac));
        if owner.remote || anycast {
            p.step_ip(StepKind::Kept, target, StepKind::OTHERS_ANSWER);
            return Answer::Keep;
        }
    }
    p.step(StepKind::Answered, |step| {
        step.ip = target;
        step.mac = owner.mac;
    });
    Answer::Is { mac: owner.mac, flags: advert_flags(owner.router, owner.overrides) }
}

/// What was addressed to the gateway itself ends here; the rest is switched.
#[inline(always)]
fn forward(p: &Pkt) -> Decision {
    let dst = p.meta().dst;
    if !is_group(dst) {
        let config = p.config()?;
        if same_mac(dst, config.anycast_mac) || same_mac(dst, config.router_mac) {
            return p.consumed(Counter::Consumed);
        }
    }
    p.forward()
}

/// Back to where the question came from.
#[inline(always)]
fn back(p: &Pkt) -> Decision {
    if p.from_vxlan() {
        return p.back_to_vtep();
    }
    let port = p.meta().port;
    p.to_port(&port)
}
