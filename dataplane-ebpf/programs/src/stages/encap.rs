//! Encap: to a far gateway. VXLAN (RFC 7348) is written here where the way is a `direct` tunnel, or WireGuard by an engine in
//! user space, and the packet is IP: super-frames stay whole, and no device but the wire's own is passed. Everything else, and
//! everything while the next hop is not known, goes through the VXLAN device, whose kernel path finds a way or resolves the
//! next hop.
//!
//! ```text
//!   Ethernet │ inner IP …                                       as the pipeline leaves it
//!   Ethernet │ IP, UDP, VXLAN, Ethernet │ inner IP …            adjust_room, headers written, tag pushed
//! ```
//! Of a frame for an engine the kernel does not learn that it is encapsulated: to it all of that is one long link-layer header
//! before the inner packet, whose segmentation and checksum it hands over undone, by a TAP. The engine splits the inner packet
//! and repeats the outer header before every segment, lengths put right.
//! The way is the kernel's: a route look-up for the far VTEP, as if the VXLAN device forwarded the packet. Routes,
//! metrics and neighbours keep their one owner, and a change is followed as soon as the flow cache forgets the way.

use aya_ebpf::{bindings::bpf_fib_lookup, helpers::generated, macros::classifier, programs::TcContext};
use watari_abi::{
    Config, Counter, DropReason, IpBytes, MacBytes, Meta, PortKey, Scratch, Stage, StepKind, Verdict, Wire,
};

use crate::{
    explain::Seen,
    fit::mtu_towards,
    headers::{ETH_BYTES, IPV4, IPV6, UDP, is_mapped, unmapped},
    maps,
    out::{Decision, END, Pkt, slot_of},
    skb::{OUTER_TTL, RECOMPUTE_CSUM},
    tos::{ECN_MASK, outer_tos},
};

/// VXLAN and UDP headers, and the inner Ethernet header.
const VXLAN_BYTES: u32 = 8 + 8 + ETH_BYTES;
/// What VXLAN adds over IPv4, in bytes.
pub const OVERHEAD_V4: u32 = 20 + VXLAN_BYTES;
/// What VXLAN adds over IPv6, in bytes.
pub const OVERHEAD_V6: u32 = 40 + VXLAN_BYTES;

const FIXED_GSO: u64 = 1;
const ENCAP_L3_IPV4: u64 = 1 << 1;
const ENCAP_L3_IPV6: u64 = 1 << 2;
const ENCAP_L4_UDP: u64 = 1 << 4;
const NO_CSUM_RESET: u64 = 1 << 5;
const ENCAP_L2_ETH: u64 = 1 << 6;
const ENCAP_L2: u64 = (ETH_BYTES as u64) << 56;
const ENCAP: u64 = FIXED_GSO | ENCAP_L4_UDP | NO_CSUM_RESET | ENCAP_L2_ETH | ENCAP_L2;

/// Flags of `bpf_skb_adjust_room` for VXLAN over IPv4.
pub const ENCAP_V4: u64 = ENCAP | ENCAP_L3_IPV4;
/// And over IPv6.
pub const ENCAP_V6: u64 = ENCAP | ENCAP_L3_IPV6;

/// `bpf_fib_lookup`: the device is known, its neighbour is not.
const FIB_NO_NEIGHBOUR: i64 = 7;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Source ports of VXLAN: the dynamic range, by the hash of the inner flow (RFC 7348 §5).
const SOURCE_PORT: u16 = 0xc000;
const SOURCE_PORT_MASK: u16 = 0x3fff;
/// VXLAN flags: the VNI is valid.
const VNI_VALID: u8 = 0x08;
const DONT_FRAGMENT: u16 = 0x4000;

#[classifier]
#[inline(always)]
pub fn st_encap(ctx: TcContext) -> i32 {
    let Some(packet) = Pkt::open(ctx) else { return END };
    packet.ended(run(&packet))
}

#[inline(always)]
fn run(p: &Pkt) -> Decision {
    let config = p.config()?;
    if config.vxlan_ifindex == 0 {
        return Err(DropReason::NoVxlan);
    }
    step_path(p);
    let ethertype = p.meta().ethertype;
    let mtu = mtu_towards(&p.meta().out_vtep);
    if ethertype != IPV4 && ethertype != IPV6 {
        if mtu != 0 && p.skb.len() > mtu + ETH_BYTES {
            return Err(DropReason::TooBigSilent);
        }
        return through_device(p, config, config.dscp & 0x3f);
    }
    let tos = match p.inner() {
        Ok(inner) => {
            if mtu != 0 && p.meta().fit < Meta::FIT_GOES && p.needs_a_look(&inner, mtu) {
                p.meta().fit = Meta::FIT_GOES;
                return p.go(Stage::Mtu);
            }
            outer_tos(config, inner.tos)
        }
        Err(_) => outer_tos(config, p.tos()?),
    };
    if p.meta().fit == Meta::FIT_FRAGMENT {
        return through_device(p, config, tos & !ECN_MASK);
    }
    if config.flags & Config::OWN_ENCAP != 0
        && let Some(way) = way(p, config)
    {
        if let Some(action) = own(p, config, &way, tos)? {
            return Ok(action);
        }
    }
    through_device(p, config, tos & !ECN_MASK)
}

/// What is known of the way, for a trace.
#[inline(always)]
fn step_path(p: &Pkt) {
    if !p.is_trace() {
        return;
    }
    let vtep = p.meta().out_vtep;
    // SAFETY: read at once; plan entries are replaced whole.
    if let Some(remote) = unsafe { maps::remotes.get(vtep) } {
        p.step_ip(StepKind::PathMtu, vtep, u32::from(remote.mtu));
    }
}

/// The VXLAN device writes the outer header and finds the way.
#[inline(always)]
fn through_device(p: &Pkt, config: &Config, tos: u8) -> Decision {
    let (vni, vtep) = (p.meta().out_vni, p.meta().out_vtep);
    let port = PortKey { ifindex: config.vxlan_ifindex, outer: 0, inner: 0 };
    p.count_tx(&port, config.vxlan_slot);
    shown(p, port, port);
    p.step(StepKind::DeviceEncap, |step| {
        step.ip = vtep;
        step.number = vni;
        step.port = port;
    });
    p.count(Counter::ThroughDevice, 1);
    p.skb.set_tunnel_key(vni, &config.local_vtep, &vtep, tos)?;
    Ok(p.skb.redirect(config.vxlan_ifindex))
}

#[inline(always)]
fn shown(p: &Pkt, vxlan: PortKey, out: PortKey) {
    let (vni, vtep) = (p.meta().out_vni, p.meta().out_vtep);
    p.sample(Seen::ToVtep, &vxlan);
    p.report(Verdict::VTEP, |report| {
        report.port = out;
        report.vni = vni;
        report.vtep = vtep;
    });
}

/// Where the wire towards a far gateway is, and the addresses on it.
pub struct Way {
    pub port: PortKey,
    /// Where the port counts.
    pub slot: u32,
    pub next_hop: MacBytes,
    pub source: MacBytes,
    pub v4: bool,
    /// It is the TAP of an engine: no addresses.
    pub engine: bool,
}

/// The kernel's way to the far gateway, if it is a `direct` tunnel with a known next hop, or ends at an engine in user space.
#[inline(always)]
fn way(p: &Pkt, config: &Config) -> Option<Way> {
    let vtep = p.meta().out_vtep;
    let v4 = is_mapped(&vtep);
    // SAFETY: plain numbers, for which zeros are valid.
    let mut lookup: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    lookup.family = if v4 { AF_INET } else { AF_INET6 };
    lookup.l4_protocol = UDP;
    lookup.ifindex = config.vxlan_ifindex;
    if v4 {
        lookup.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(unmapped(config.local_vtep));
        lookup.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(unmapped(vtep));
    } else {
        // SAFETY: both unions hold 16 bytes in network order.
        unsafe {
            (&raw mut lookup.__bindgen_anon_3).cast::<[u32; 4]>().write(words(&config.local_vtep));
            (&raw mut lookup.__bindgen_anon_4).cast::<[u32; 4]>().write(words(&vtep));
        }
    }
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the context, and `lookup` of the size that is told.
    let found = unsafe { generated::bpf_fib_lookup(p.skb.context(), &raw mut lookup, size, 0) };
    if found != 0 && found != FIB_NO_NEIGHBOUR {
        return None;
    }
    // SAFETY: read at once; plan entries are replaced whole.
    let wire = unsafe { maps::wires.get(lookup.ifindex) }?;
    let slot = slot_of(&wire.port);
    if wire.flags & Wire::ENGINE != 0 {
        return Some(Way { port: wire.port, slot, next_hop: [0; 6], source: [0; 6], v4, engine: true });
    }
    if found != 0 {
        return None;
    }
    Some(Way { port: wire.port, slot, next_hop: lookup.dmac, source: lookup.smac, v4, engine: false })
}

#[inline(always)]
fn words(ip: &IpBytes) -> [u32; 4] {
    // SAFETY: 16 bytes, read as four words wherever they lie.
    unsafe { ip.as_ptr().cast::<[u32; 4]>().read_unaligned() }
}

/// Writes the outer headers and sends the packet out on the wire. `None` for what the kernel's helper does not encapsulate:
/// what counts as encapsulated already.
#[inline(always)]
pub fn own(p: &Pkt, config: &Config, way: &Way, tos: u8) -> Result<Option<i32>, DropReason> {
    let vxlan = PortKey { ifindex: config.vxlan_ifindex, outer: 0, inner: 0 };
    shown(p, vxlan, way.port);
    step_own(p, way);
    if p.is_trace() {
        return Ok(Some(p.skb.redirect(way.port.ifindex)));
    }
    let (packets, bytes) = (p.skb.packets(), p.skb.len());
    let inner = p.skb.load::<{ ETH_BYTES as usize }>(0)?;
    let source_port = source_port(flow_hash(p));
    let (overhead, flags) = if way.v4 { (OVERHEAD_V4, ENCAP_V4) } else { (OVERHEAD_V6, ENCAP_V6) };
    if make_room(p, way.engine, overhead, flags).is_err() {
        return Ok(None);
    }
    p.count_tx_of(&vxlan, config.vxlan_slot, packets, bytes);
    let (vni, vtep, length) = (p.meta().out_vni, p.meta().out_vtep, p.skb.len() - ETH_BYTES);
    let outer = Outer { config, vtep: &vtep, vni, source_port, tos, length };
    let scratch = p.scratch();
    put(scratch, 0, &way.next_hop);
    put(scratch, 6, &way.source);
    if way.v4 {
        outer.write_v4(scratch);
        put(scratch, 50, &inner);
        store::<{ OVERHEAD_V4 }>(p)?;
    } else {
        outer.write_v6(scratch);
        put(scratch, 70, &inner);
        store::<{ OVERHEAD_V6 }>(p)?;
    }
    p.remember_way(config, way);
    p.count(Counter::Encapsulated, 1);
    p.count_tx(&way.port, way.slot);
    p.tag(&way.port)?;
    Ok(Some(sent(p, way.engine, way.port.ifindex)))
}

/// Room for the outer header: as encapsulation, or for an engine before the frame.
#[inline(always)]
pub fn make_room(p: &Pkt, engine: bool, overhead: u32, flags: u64) -> Result<(), DropReason> {
    if engine { p.skb.grow_head(overhead) } else { p.skb.adjust_room(overhead as i32, flags) }
}

/// Out, encapsulated. A TAP ends a packet's charge to a socket of this machine by itself, and takes it whole.
#[inline(always)]
pub fn sent(p: &Pkt, engine: bool, ifindex: u32) -> i32 {
    if engine { p.skb.redirect(ifindex) } else { p.onto_wire(ifindex) }
}

/// The same for all packets of a flow, whatever way they take through the programs.
#[inline(always)]
fn flow_hash(p: &Pkt) -> u32 {
    let hash = p.meta().hash;
    if hash != 0 { hash } else { p.skb.flow_hash() }
}

#[inline(always)]
fn step_own(p: &Pkt, way: &Way) {
    let (vni, vtep) = (p.meta().out_vni, p.meta().out_vtep);
    p.step(if way.engine { StepKind::EngineEncap } else { StepKind::OwnEncap }, |step| {
        step.ip = vtep;
        step.number = vni;
        step.port = way.port;
        step.mac = way.next_hop;
    });
}

#[inline(always)]
fn store<const OVERHEAD: u32>(p: &Pkt) -> Result<(), DropReason> {
    let frame = p.scratch().frame.as_ptr();
    p.skb.store_raw(0, frame, ETH_BYTES, 0)?;
    // SAFETY: 14 bytes into the buffer of `BUILD_BYTES`.
    let rest = unsafe { frame.add(ETH_BYTES as usize) };
    p.skb.store_raw(ETH_BYTES, rest, OVERHEAD, RECOMPUTE_CSUM)
}

#[inline(always)]
fn put<const N: usize>(scratch: &mut Scratch, at: usize, bytes: &[u8; N]) {
    // SAFETY: constants at every call; `at + N` is at most `BUILD_BYTES`.
    unsafe { scratch.frame.as_mut_ptr().add(at).cast::<[u8; N]>().write(*bytes) }
}

/// Sum of the outer IPv4 header without DSCP, ECN and length (RFC 1071).
#[inline(always)]
pub fn sum_of_constants(source: [u8; 4], target: [u8; 4]) -> u32 {
    let half = |a: u8, b: u8| u32::from(a) << 8 | u32::from(b);
    half(0x45, 0)
        + u32::from(DONT_FRAGMENT)
        + half(OUTER_TTL, UDP)
        + half(source[0], source[1])
        + half(source[2], source[3])
        + half(target[0], target[1])
        + half(target[2], target[3])
}

/// Source port of VXLAN by the hash of the inner flow (RFC 7348 §5).
#[inline(always)]
pub fn source_port(hash: u32) -> u16 {
    SOURCE_PORT | hash as u16 & SOURCE_PORT_MASK
}

/// What the outer headers say.
struct Outer<'a> {
    config: &'a Config,
    vtep: &'a IpBytes,
    vni: u32,
    source_port: u16,
    tos: u8,
    /// Bytes behind the outer Ethernet header. Of a super-frame the low 16 bits: its segments get their own.
    length: u32,
}

impl Outer<'_> {
    #[inline(always)]
    fn write_v4(&self, scratch: &mut Scratch) {
        let (source, target) = (unmapped(self.config.local_vtep), unmapped(*self.vtep));
        let length = self.length as u16;
        put(scratch, 12, &[0x08, 0x00, 0x45, self.tos]);
        put(scratch, 16, &length.to_be_bytes());
        put(scratch, 18, &[0, 0, (DONT_FRAGMENT >> 8) as u8, 0, OUTER_TTL, UDP]);
        put(scratch, 24, &self.sum_v4(source, target).to_be_bytes());
        put(scratch, 26, &source);
        put(scratch, 30, &target);
        self.write_vxlan(scratch, 34, length - 20);
    }

    /// The IPv4 header's checksum (RFC 1071).
    #[inline(always)]
    fn sum_v4(&self, source: [u8; 4], target: [u8; 4]) -> u16 {
        let mut sum = sum_of_constants(source, target) + u32::from(self.tos) + (self.length & 0xffff);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }

    #[inline(always)]
    fn write_v6(&self, scratch: &mut Scratch) {
        let length = self.length as u16;
        let payload = length.wrapping_sub(40);
        put(scratch, 12, &[0x86, 0xdd, 0x60 | self.tos >> 4, self.tos << 4, 0, 0]);
        put(scratch, 18, &payload.to_be_bytes());
        put(scratch, 20, &[UDP, OUTER_TTL]);
        put(scratch, 22, &self.config.local_vtep);
        put(scratch, 38, self.vtep);
        self.write_vxlan(scratch, 54, payload);
    }

    /// UDP without a checksum (RFC 7348 §5, RFC 6935) and VXLAN.
    #[inline(always)]
    fn write_vxlan(&self, scratch: &mut Scratch, at: usize, length: u16) {
        put(scratch, at, &self.source_port.to_be_bytes());
        put(scratch, at + 2, &self.config.vxlan_port.to_be_bytes());
        put(scratch, at + 4, &length.to_be_bytes());
        put(scratch, at + 6, &[0, 0, VNI_VALID, 0, 0, 0]);
        put(scratch, at + 12, &(self.vni << 8).to_be_bytes());
    }
}
