//! The hooks: one thin program per kind of device. Each says what it knows of the packet and enters the pipeline.

pub mod core;
pub mod cross;
pub mod entry;
pub mod iface;
pub mod node;
pub mod trunk;
pub mod tunl;
pub mod uplnk;
pub mod vxlan;

use aya_ebpf::{helpers::generated::bpf_ktime_get_boot_ns, programs::TcContext};
use watari_abi::{Hook, IpBytes, Meta, PortKey, Stage};

use crate::{
    flow::{self, Seen},
    headers::{QINQ, VLAN},
    out::{END, Pkt},
    skb::Skb,
};

/// What a hook knows.
pub struct Arrival {
    pub hook: Hook,
    pub port: PortKey,
    pub vni: u32,
    pub vtep: IpBytes,
    pub flags: u8,
    /// What the flow cache has said of it: hash and path, as [`Meta`] has them.
    pub seen: (u32, u32),
}

impl Arrival {
    /// By a device of its own, untagged.
    #[inline(always)]
    pub fn untagged(hook: Hook, ifindex: u32) -> Self {
        Self {
            hook,
            port: PortKey { ifindex, outer: 0, inner: 0 },
            vni: 0,
            vtep: [0; 16],
            flags: 0,
            seen: (0, Meta::PATH_NONE),
        }
    }

    /// Of a packet with an outer tag.
    #[inline(always)]
    fn look_for_inner_tag(&mut self, skb: Skb) {
        let Ok([high, low, tci_high, tci_low]) = skb.load::<4>(12) else { return };
        let ethertype = u16::from_be_bytes([high, low]);
        let inner = u16::from_be_bytes([tci_high, tci_low]) & 0x0fff;
        if ethertype == VLAN || ethertype == QINQ {
            self.flags = Meta::TWO_TAGS;
            self.port.inner = inner;
        }
        // No port has an inner tag of this kind.
        if ethertype == QINQ && inner != 0 {
            self.port.inner = inner | PortKey::S_TAG;
        }
    }

    /// Starts the packet's working memory.
    #[inline(always)]
    pub fn open(self, ctx: TcContext) -> Option<Pkt> {
        let packet = Pkt::open(ctx)?;
        let packets = packet.skb.packets();
        // SAFETY: no arguments.
        let now_ns = unsafe { bpf_ktime_get_boot_ns() };
        let meta = packet.meta();
        meta.port = self.port;
        meta.vni = self.vni;
        meta.tenant = 0;
        meta.vtep = self.vtep;
        meta.hook = self.hook as u8;
        meta.flags = self.flags;
        meta.packets = packets;
        meta.now_ns = now_ns;
        meta.copy = 0;
        meta.copies = 0;
        meta.fit = Meta::FIT_UNKNOWN;
        (meta.hash, meta.path) = self.seen;
        (meta.slot, meta.hook_slot) = (0, 0);
        Some(packet)
    }

    /// Enters the pipeline.
    #[inline(always)]
    pub fn enter(self, ctx: TcContext) -> i32 {
        let Some(packet) = self.open(ctx) else { return END };
        packet.ended(packet.go(Stage::Classify))
    }
}

/// Enters at a device with tags: the outer one in the packet's metadata, an inner one in its bytes. A tag of VLAN 0 gives
/// a priority and no VLAN: it counts as none (IEEE 802.1Q §6.9.1), and goes like any.
#[inline(always)]
fn enter_tagged(hook: Hook, ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let (outer, flags) = match skb.vid() {
        Some(outer) => (outer, Meta::ONE_TAG),
        None => (0, 0),
    };
    enter_by_flow(hook, PortKey { ifindex: skb.ifindex(), outer, inner: 0 }, flags, ctx)
}

/// Asks the flow cache, and enters the pipeline with what it does not know. A packet with a second tag is none of a flow,
/// so that one is looked for afterwards.
#[inline(always)]
fn enter_by_flow(hook: Hook, port: PortKey, flags: u8, ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let Some(packet) = Pkt::open(TcContext::new(skb.raw())) else { return END };
    match flow::known(&packet, port, flags) {
        Seen::Gone(action) => action,
        Seen::Not(hash, path) => {
            let mut arrival = Arrival { hook, port, vni: 0, vtep: [0; 16], flags, seen: (hash, path) };
            if flags & Meta::ONE_TAG != 0 {
                arrival.look_for_inner_tag(skb);
            }
            arrival.enter(ctx)
        }
    }
}
