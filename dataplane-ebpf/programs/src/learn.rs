//! What is learnt on attachments: MAC addresses from every frame, neighbours from ARP and ND. Nothing is learnt
//! from VXLAN: that is EVPN's.

use core::arch::asm;

use watari_abi::{
    Counter, DropReason, EventKind, IpBytes, MacBytes, MacKey, MacLocal, MacRemote, NeighKey, NeighLocal,
    NeighRemote, Port, PortKey, StepKind,
};

use crate::{
    fdb::{pinned, same_port},
    headers::{is_group, mac_number, same_mac},
    maps,
    out::Pkt,
};

/// Times in tables are renewed no more often than this.
const RENEW_NS: u64 = 1_000_000_000;
const NOEXIST: u64 = 1;

impl Pkt {
    /// The source of a frame out of VXLAN must be a unicast address, and not pinned here.
    #[inline(always)]
    pub fn far_source(&self) -> Result<(), DropReason> {
        let meta = self.meta();
        if is_group(meta.src) || mac_number(meta.src) == 0 {
            return Err(DropReason::SourceMacInvalid);
        }
        let pin = pinned(MacKey { vni: meta.vni, mac: meta.src, pad: 0 });
        if pin.is_some() { Err(DropReason::SourceMacPinned) } else { Ok(()) }
    }

    /// The source of a frame from an attachment: judged, and noted where it is. One that was judged within the last
    /// second at this attachment costs one look-up.
    #[inline(always)]
    pub fn source(&self, guard: u16) -> Result<(), DropReason> {
        let (vni, mac, port, now_ns) = {
            let meta = self.meta();
            (meta.vni, meta.src, meta.port, meta.now_ns)
        };
        let key = MacKey { vni, mac, pad: 0 };
        self.step_learn(key);
        let known = maps::mac_local.get_ptr_mut(key);
        // SAFETY: a live entry; its time is one word.
        let (old_port, seen) = match known {
            Some(known) => unsafe { ((*known).port, (*known).last_seen_ns) },
            None => (PortKey { ifindex: 0, outer: 0, inner: 0 }, 0),
        };
        let here = same_port(&old_port, &port);
        if here && now_ns.saturating_sub(seen) <= RENEW_NS {
            return Ok(());
        }
        if self.judge_source(key)? || self.is_trace() {
            return Ok(());
        }
        let Some(known) = known else {
            self.learn_mac(key, guard);
            return Ok(());
        };
        if here {
            // SAFETY: as above.
            unsafe { (*known).last_seen_ns = now_ns };
        } else {
            let _ = maps::mac_local.insert(key, MacLocal { port, last_seen_ns: now_ns }, 0);
            self.count(Counter::MacMoved, 1);
            self.event(EventKind::MacMoved, mac, [0; 16]);
            one_less(&old_port);
            if guard & Port::GUARD_LIMIT != 0 {
                self.one_more(&port);
            }
        }
        Ok(())
    }

    /// The source must be somebody else's unicast address, and neither pinned nor frozen elsewhere. True if it is pinned here, which
    /// is not to be learnt.
    #[inline(always)]
    fn judge_source(&self, key: MacKey) -> Result<bool, DropReason> {
        let src = key.mac;
        if is_group(src) || mac_number(src) == 0 {
            return Err(DropReason::SourceMacInvalid);
        }
        if let Some(pin) = pinned(key) {
            let here = same_port(&pin.port, &self.meta().port);
            return if here { Ok(true) } else { Err(self.refused(DropReason::SourceMacPinned)) };
        }
        let config = self.config()?;
        if same_mac(src, config.anycast_mac) || same_mac(src, config.router_mac) {
            self.event(EventKind::OwnMacSeen, src, [0; 16]);
            return Err(DropReason::SourceMacOwn);
        }
        // SAFETY: read at once, not kept.
        if let Some(remote) = unsafe { maps::mac_remote.get(key) }
            && remote.flags & MacRemote::STICKY != 0
        {
            self.step(StepKind::SourceSticky, |step| {
                step.mac = src;
                step.ip = remote.vtep;
                step.number = remote.sequence;
            });
            return Err(self.refused(DropReason::SourceMacPinned));
        }
        // SAFETY: read at once, not kept.
        if let Some(port) = unsafe { maps::mac_frozen.get(key) }
            && !same_port(port, &self.meta().port)
        {
            self.step(StepKind::SourceFrozen, |step| {
                step.mac = src;
                step.port = *port;
                step.number = key.vni;
            });
            return Err(self.refused(DropReason::SourceMacFrozen));
        }
        Ok(false)
    }

    /// The reason, which the operator is told.
    #[inline(always)]
    fn refused(&self, reason: DropReason) -> DropReason {
        self.event_guarded(reason, [0; 16]);
        reason
    }

    #[inline(always)]
    fn learn_mac(&self, key: MacKey, guard: u16) {
        let (port, last_seen_ns) = (self.meta().port, self.meta().now_ns);
        let learnt = maps::mac_local.insert(key, MacLocal { port, last_seen_ns }, 0).is_ok();
        let (counter, kind) = if learnt {
            (Counter::MacLearnt, EventKind::MacNew)
        } else {
            (Counter::MacTableFull, EventKind::MacTableFull)
        };
        self.count(counter, 1);
        self.event(kind, key.mac, [0; 16]);
        if learnt && guard & Port::GUARD_LIMIT != 0 {
            self.one_more(&port);
        }
    }

    /// Counts a MAC of a limited attachment.
    #[inline(always)]
    fn one_more(&self, port: &PortKey) {
        if let Some(count) = maps::port_macs.get_ptr_mut(port) {
            add(count, 1);
        } else if maps::port_macs.insert(port, 1, NOEXIST).is_err() {
            // Another CPU was first, or the table is full.
            match maps::port_macs.get_ptr_mut(port) {
                Some(count) => add(count, 1),
                None => self.count(Counter::GuardTableFull, 1),
            }
        }
    }

    /// The address must be nobody else's by the plan's word, here or at another gateway. True if it is pinned here to
    /// this MAC, which is not to be learnt.
    #[inline(always)]
    fn judge_neighbour(&self, key: NeighKey, mac: MacBytes) -> Result<bool, DropReason> {
        // SAFETY (both): read at once, not kept.
        if let Some(pinned) = unsafe { maps::nb_static.get(key) } {
            if same_mac(pinned.mac, mac) {
                return Ok(true);
            }
            self.step(StepKind::NeighbourPinned, |step| {
                step.ip = key.ip;
                step.mac = pinned.mac;
                step.number = key.vni;
                step.flags = pinned.flags;
            });
            self.event(EventKind::NeighbourSpoofed, mac, key.ip);
            return Err(DropReason::NeighbourSpoofed);
        }
        if let Some(remote) = unsafe { maps::nb_remote.get(key) }
            && remote.flags & NeighRemote::PINNED != 0
            && !same_mac(remote.mac, mac)
        {
            self.step(StepKind::NeighbourPinnedAfar, |step| {
                step.ip = key.ip;
                step.mac = remote.mac;
                step.number = key.vni;
            });
            self.event(EventKind::NeighbourSpoofed, mac, key.ip);
            return Err(DropReason::NeighbourSpoofed);
        }
        Ok(false)
    }

    /// Notes that `mac` claims `ip` on this attachment. `flags` are those of its advertisement, if it is one
    /// (RFC 9047 §3.1): without them what is known stays, and who is new overrides.
    ///
    /// True if that is news: nobody knew, or it was elsewhere, or it has been announced elsewhere since. Fails if the
    /// address is the gateway's or pinned to another MAC, here or at another gateway.
    #[inline(always)]
    pub fn learn_neighbour(
        &self,
        ip: IpBytes,
        mac: MacBytes,
        flags: Option<u16>,
    ) -> Result<bool, DropReason> {
        let (vni, port, now_ns) = {
            let meta = self.meta();
            (meta.vni, meta.port, meta.now_ns)
        };
        let key = NeighKey { vni, ip };
        if self.judge_neighbour(key, mac)? {
            return Ok(false);
        }
        self.step_neighbour_learn(key, mac);
        let mut wanted = flags.unwrap_or(NeighLocal::OVERRIDE);
        if let Some(known) = maps::nb_local.get_ptr_mut(key) {
            // SAFETY: a live entry; its time is one word.
            let old = unsafe { *known };
            if same_mac(old.mac, mac) && same_port(&old.port, &port) {
                let told = old.flags & !NeighLocal::CONTESTED;
                wanted = flags.unwrap_or(told);
                if told == wanted {
                    let contested = old.flags != told;
                    if !self.is_trace() && (contested || now_ns.saturating_sub(old.last_seen_ns) > RENEW_NS) {
                        // SAFETY: as above.
                        unsafe {
                            (*known).flags = told;
                            (*known).last_seen_ns = now_ns;
                        }
                    }
                    return Ok(contested);
                }
            }
        }
        if self.is_trace() {
            return Ok(true);
        }
        let fresh = NeighLocal { mac, flags: wanted, port, last_seen_ns: now_ns };
        let (counter, kind) = match maps::nb_local.insert(key, fresh, 0) {
            Ok(()) => (Counter::NeighbourLearnt, EventKind::NeighbourNew),
            Err(_) => (Counter::NeighbourTableFull, EventKind::NeighbourTableFull),
        };
        self.count(counter, 1);
        self.event(kind, mac, ip);
        Ok(true)
    }

    /// Notes that a host behind a far gateway has announced an address that is known here.
    #[inline(always)]
    pub fn contested(&self, ip: IpBytes) {
        if self.is_trace() {
            return;
        }
        if let Some(known) = maps::nb_local.get_ptr_mut(NeighKey { vni: self.meta().vni, ip }) {
            // SAFETY: a live entry; its flags are one word.
            unsafe { (*known).flags |= NeighLocal::CONTESTED };
        }
    }
}

/// Counts a MAC that has gone to another attachment, if they are counted.
#[inline(always)]
fn one_less(port: &PortKey) {
    if let Some(count) = maps::port_macs.get_ptr_mut(port) {
        add(count, u32::MAX);
    }
}

/// Adds in one step, as all CPUs do: the standard library has no 32-bit atomics for this target.
#[inline(always)]
fn add(count: *mut u32, by: u32) {
    // SAFETY: a live entry, aligned.
    unsafe { asm!("lock *(u32 *)({count} + 0) += {by}", count = in(reg) count, by = in(reg) u64::from(by)) }
}
