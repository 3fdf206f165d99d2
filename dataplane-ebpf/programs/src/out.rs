//! One packet with its working memory, and every way out of the pipeline.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use watari_abi::{Config, Counter, DropReason, Ip4Bytes, Meta, PortKey, Scratch, Stage, Verdict};

use crate::{maps, skb::Skb};

/// tcx: the next program, and at last the kernel.
pub const NEXT: i32 = TC_ACT_UNSPEC;
/// tcx: the end of this packet.
pub const END: i32 = TC_ACT_SHOT;

/// What a stage returns: an action, or why the packet is dropped.
pub type Decision = Result<i32, DropReason>;

/// One packet in the pipeline.
pub struct Pkt {
    pub skb: Skb,
    ctx: TcContext,
    scratch: *mut Scratch,
}

impl Pkt {
    /// Runs a stage on the packet that the context holds.
    #[inline(always)]
    pub fn stage(ctx: TcContext, run: impl FnOnce(&Self) -> Decision) -> i32 {
        let Some(packet) = Self::open(ctx) else { return END };
        match run(&packet) {
            Ok(action) => action,
            Err(reason) => packet.dropped(reason),
        }
    }

    /// The packet, with whatever the working memory holds.
    #[inline(always)]
    pub fn open(ctx: TcContext) -> Option<Self> {
        let scratch = maps::scratch.get_ptr_mut(0)?;
        Some(Self { skb: Skb::new(&ctx), ctx, scratch })
    }

    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub fn scratch(&self) -> &mut Scratch {
        // SAFETY: this CPU's own entry; a program is not interrupted by another of its kind, and no two
        // borrows are held over a call.
        unsafe { &mut *self.scratch }
    }

    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub fn meta(&self) -> &mut Meta {
        &mut self.scratch().meta
    }

    #[inline(always)]
    pub fn config(&self) -> Result<&'static Config, DropReason> {
        maps::config.get(0).ok_or(DropReason::StageMissing)
    }

    /// Goes on in another stage. Comes back only if that is missing.
    #[inline(always)]
    pub fn go(&self, stage: Stage) -> Decision {
        // SAFETY: a tail call does not return when it succeeds, and leaves nothing behind.
        unsafe { maps::pipeline.tail_call(&self.ctx, stage as u32) };
        let _ = self.ctx.as_ptr();
        Err(DropReason::StageMissing)
    }

    #[inline(always)]
    pub fn dropped(&self, reason: DropReason) -> i32 {
        self.count_drop(reason);
        self.report([Verdict::DROP, reason as u32, 0, 0, 0]);
        END
    }

    /// Ended on purpose: nothing is lost.
    #[inline(always)]
    pub fn consumed(&self, counter: Counter) -> Decision {
        self.count(counter, 1);
        self.report([Verdict::CONSUMED, counter as u32, 0, 0, 0]);
        Ok(END)
    }

    #[inline(always)]
    pub fn passed(&self) -> Decision {
        self.count(Counter::PassedToKernel, 1);
        self.report([Verdict::PASS, 0, 0, 0, 0]);
        Ok(NEXT)
    }

    #[inline(always)]
    pub fn flooded(&self, copies: u32) -> Decision {
        self.count(Counter::Flooded, 1);
        self.count(Counter::FloodCopies, copies);
        self.report([Verdict::FLOODED, 0, 0, 0, copies]);
        Ok(END)
    }

    /// Out by a port, with its tags.
    #[inline(always)]
    pub fn to_port(&self, port: &PortKey) -> Decision {
        self.count_tx(port);
        self.report([Verdict::PORT, 0, port.ifindex, (port.inner as u32) << 16 | port.outer as u32, 0]);
        self.tag(port)?;
        Ok(self.skb.redirect(port.ifindex))
    }

    /// To a remote gateway.
    #[inline(always)]
    pub fn to_vtep(&self, vni: u32, vtep: Ip4Bytes) -> Decision {
        let config = self.config()?;
        if config.vxlan_ifindex == 0 {
            return Err(DropReason::NoVxlan);
        }
        self.skb.set_tunnel_key(vni, config.local_vtep, vtep)?;
        self.count_tx(&PortKey { ifindex: config.vxlan_ifindex, outer: 0, inner: 0 });
        self.report([Verdict::VTEP, 0, config.vxlan_ifindex, vni, u32::from_be_bytes(vtep)]);
        Ok(self.skb.redirect(config.vxlan_ifindex))
    }

    #[inline(always)]
    pub fn tag(&self, port: &PortKey) -> Result<(), DropReason> {
        if port.inner != 0 {
            self.skb.vlan_push(port.inner)?;
        }
        if port.outer != 0 {
            self.skb.vlan_push(port.outer)?;
        }
        Ok(())
    }

    #[inline(always)]
    pub fn untag(&self, port: &PortKey) -> Result<(), DropReason> {
        if port.outer != 0 {
            self.skb.vlan_pop()?;
        }
        if port.inner != 0 {
            self.skb.vlan_pop()?;
        }
        Ok(())
    }

    /// For tests and traces: the verdict, where they can read it.
    #[inline(always)]
    pub fn report(&self, words: [u32; 5]) {
        if self.meta().flags & Meta::REPORT != 0 {
            self.skb.set_cb(words);
        }
    }
}
