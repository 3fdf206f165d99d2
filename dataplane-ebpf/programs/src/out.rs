//! One packet with its working memory, and every way out of the pipeline.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use watari_abi::{
    Config, Counter, DropReason, Hook, IpBytes, Meta, Port, PortKey, Remote, Report, Scratch, Stage, Verdict,
};

use crate::{explain::Seen, headers::same_ip, maps, skb::Skb};

/// tcx: the next program, and at last the kernel.
pub const NEXT: i32 = TC_ACT_UNSPEC;
/// tcx: the end of this packet.
pub const END: i32 = TC_ACT_SHOT;

/// What a stage returns: an action, or why the packet is dropped.
pub type Decision = Result<i32, DropReason>;

/// A port by which a packet goes out to a host.
#[derive(Clone, Copy)]
pub struct Exit {
    pub port: PortKey,
    /// Where it counts ([`Port::slot`]).
    pub slot: u32,
    /// The packet goes on at the other end of the veth at once, where it would wait in a queue between the two.
    pub near: bool,
}

/// One packet in the pipeline.
pub struct Pkt {
    pub skb: Skb,
    ctx: TcContext,
    scratch: *mut Scratch,
}

impl Pkt {
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

    /// Copies `LENGTH` bytes at `offset` from the Ethernet header into the working memory.
    #[inline(always)]
    pub fn load_scratch<const LENGTH: u32>(&self, offset: u32) -> Result<(), DropReason> {
        self.skb.load_raw(offset, self.scratch().frame.as_mut_ptr(), LENGTH)
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
        self.report(Verdict::DROP, |report| {
            report.reason = reason as u32;
            report.vni = self.meta().vni;
        });
        END
    }

    /// What the program returns for what was decided.
    #[inline(always)]
    pub fn ended(&self, decision: Decision) -> i32 {
        match decision {
            Ok(action) => action,
            Err(reason) => self.dropped(reason),
        }
    }

    /// Ended on purpose: nothing is lost.
    #[inline(always)]
    pub fn consumed(&self, counter: Counter) -> Decision {
        self.count(counter, 1);
        self.report(Verdict::CONSUMED, |report| report.reason = counter as u32);
        Ok(END)
    }

    #[inline(always)]
    pub fn passed(&self) -> Decision {
        self.count(Counter::PassedToKernel, 1);
        self.report(Verdict::PASS, |_| {});
        Ok(NEXT)
    }

    #[inline(always)]
    pub fn flooded(&self, copies: u32) -> Decision {
        self.count(Counter::Flooded, 1);
        self.count(Counter::FloodCopies, copies);
        self.report(Verdict::FLOODED, |report| {
            report.copies = copies;
            report.vni = self.meta().vni;
        });
        Ok(END)
    }

    /// Out by a port, with its tags.
    #[inline(always)]
    pub fn to_port(&self, port: &PortKey) -> Decision {
        self.ready_for(port, slot_of(port))?;
        Ok(self.skb.redirect(port.ifindex))
    }

    /// Out by a port to a host that is known to be there.
    #[inline(always)]
    pub fn to_host(&self, exit: &Exit) -> Decision {
        self.ready_for(&exit.port, exit.slot)?;
        Ok(self.out_by(exit))
    }

    /// A packet that is ready, out by a port.
    #[inline(always)]
    pub fn out_by(&self, exit: &Exit) -> i32 {
        let ifindex = exit.port.ifindex;
        if exit.near { self.skb.redirect_peer(ifindex) } else { self.skb.redirect(ifindex) }
    }

    /// Counted, shown and tagged.
    #[inline(always)]
    fn ready_for(&self, port: &PortKey, slot: u32) -> Result<(), DropReason> {
        self.count_tx(port, slot);
        self.sample(Seen::Out, port);
        self.report(Verdict::PORT, |report| report.port = *port);
        self.tag(port)
    }

    /// What a packet for a host behind this port has to know of it. Near is not for what came from a device without Ethernet
    /// headers: the kernel has no place for the one that was put before it. Nor for what gets two tags: before 6.12 the
    /// kernel takes the inner one for a part of the Ethernet header.
    #[inline(always)]
    pub fn exit(&self, port: &PortKey) -> Exit {
        let hook = self.meta().hook;
        let ethernet = [Hook::Trunk, Hook::Interface, Hook::Vxlan].iter().any(|one| *one as u8 == hook);
        // SAFETY: read at once; plan entries are replaced whole.
        let (flags, slot) =
            unsafe { maps::ports.get(port) }.map_or((0, 0), |entry| (entry.flags, entry.slot));
        Exit { port: *port, slot, near: ethernet && port.inner == 0 && flags & Port::NEAR != 0 }
    }

    /// Out by a wire, encapsulated.
    ///
    /// A super-packet of TCP may still be charged to a socket of this machine (a container's, behind a veth). Where the kernel
    /// forwards, `ip_rcv` ends that; here a copy goes out, which nobody pays for, and the original is let go. Else every
    /// segment would be charged apart, and the sender held to two super-packets on their way (TCP small queues) until
    /// the far gateway has put them together again.
    #[inline(always)]
    pub fn onto_wire(&self, ifindex: u32) -> i32 {
        let for_show = self.meta().flags & (Meta::TRACE | Meta::REPORT | Meta::NO_CLONE) != 0;
        if !for_show && self.skb.gso_size() != 0 && self.skb.is_charged() && self.skb.sent_as_copy(ifindex) {
            return END;
        }
        self.skb.redirect(ifindex)
    }

    /// To a remote gateway, in the stage `Encap`. Never from one gateway of the mesh to another; a spoke may be on
    /// either side, but not on both if it is the same one.
    #[inline(always)]
    pub fn to_vtep(&self, vni: u32, vtep: &IpBytes) -> Decision {
        let meta = self.meta();
        if self.from_vxlan() && !self.may_cross(vtep) {
            return Err(DropReason::MeshToMesh);
        }
        meta.out_vni = vni;
        meta.out_vtep = *vtep;
        self.go(Stage::Encap)
    }

    /// From VXLAN to this VTEP: only if one of the two is a spoke.
    #[inline(always)]
    pub fn may_cross(&self, vtep: &IpBytes) -> bool {
        if same_ip(*vtep, self.meta().vtep) {
            return false;
        }
        is_spoke(&self.meta().vtep) || is_spoke(vtep)
    }

    /// Back to the remote gateway that the packet came from.
    #[inline(always)]
    pub fn back_to_vtep(&self) -> Decision {
        let meta = self.meta();
        meta.out_vni = meta.vni;
        meta.out_vtep = meta.vtep;
        self.go(Stage::Encap)
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
    pub fn report(&self, action: u32, fill: impl FnOnce(&mut Report)) {
        if self.meta().flags & Meta::REPORT == 0 {
            return;
        }
        if let Some(page) = maps::page.get_ptr_mut(0) {
            // SAFETY: one run at a time uses the page.
            let report = unsafe { &mut (*page).report };
            report.action = action;
            fill(report);
        }
    }
}

/// Where a port counts; 0 for one that the plan does not have.
#[inline(always)]
pub fn slot_of(port: &PortKey) -> u32 {
    // SAFETY: read at once; plan entries are replaced whole.
    unsafe { maps::ports.get(port) }.map_or(0, |port| port.slot)
}

#[inline(always)]
fn is_spoke(vtep: &IpBytes) -> bool {
    // SAFETY: read at once; plan entries are replaced whole.
    unsafe { maps::remotes.get(vtep) }.is_some_and(|remote| remote.flags & Remote::SPOKE != 0)
}
