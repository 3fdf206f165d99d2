//! What is learnt on attachments: MAC addresses from every frame, neighbours from ARP and ND. Nothing is learnt
//! from VXLAN: that is EVPN's.

use watari_abi::{
    Counter, DropReason, EventKind, IpBytes, MacBytes, MacKey, MacLocal, MacRemote, NeighKey, NeighLocal,
};

use crate::{
    fdb::same_port,
    headers::{is_group, mac_number, same_mac},
    maps,
    out::Pkt,
};

/// Times in tables are renewed no more often than this.
const RENEW_NS: u64 = 1_000_000_000;

impl Pkt {
    /// The source of a frame must be somebody else's unicast address, and not pinned elsewhere.
    #[inline(always)]
    pub fn guard_source(&self) -> Result<(), DropReason> {
        let meta = self.meta();
        let (vni, src) = (meta.vni, meta.src);
        if is_group(src) || mac_number(src) == 0 {
            return Err(DropReason::SourceMacInvalid);
        }
        let key = MacKey { vni, mac: src, pad: 0 };
        // SAFETY: read at once, not kept.
        if let Some(pinned) = unsafe { maps::mac_static.get(key) }
            && !same_port(&pinned.port, &meta.port)
        {
            return Err(DropReason::SourceMacPinned);
        }
        if self.from_vxlan() {
            return Ok(());
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
            return Err(DropReason::SourceMacPinned);
        }
        Ok(())
    }

    /// Notes where the source of a frame is.
    #[inline(always)]
    pub fn learn_mac(&self) {
        if self.is_trace() {
            return;
        }
        let (vni, mac, port, now_ns) = {
            let meta = self.meta();
            (meta.vni, meta.src, meta.port, meta.now_ns)
        };
        let key = MacKey { vni, mac, pad: 0 };
        // SAFETY: read at once, not kept.
        if unsafe { maps::mac_static.get(key) }.is_some() {
            return;
        }
        let fresh = MacLocal { port, last_seen_ns: now_ns };
        match maps::mac_local.get_ptr_mut(key) {
            Some(known) => {
                // SAFETY: a live entry; its time is one word.
                let (old_port, seen) = unsafe { ((*known).port, (*known).last_seen_ns) };
                if !same_port(&old_port, &port) {
                    let _ = maps::mac_local.insert(key, fresh, 0);
                    self.count(Counter::MacMoved, 1);
                    self.event(EventKind::MacMoved, mac, [0; 16]);
                } else if now_ns.saturating_sub(seen) > RENEW_NS {
                    // SAFETY: as above.
                    unsafe { (*known).last_seen_ns = now_ns };
                }
            }
            None => {
                let (counter, kind) = match maps::mac_local.insert(key, fresh, 0) {
                    Ok(()) => (Counter::MacLearnt, EventKind::MacNew),
                    Err(_) => (Counter::MacTableFull, EventKind::MacTableFull),
                };
                self.count(counter, 1);
                self.event(kind, mac, [0; 16]);
            }
        }
    }

    /// Notes that `mac` claims `ip` on this attachment.
    ///
    /// Fails if the address is the gateway's or pinned to another MAC.
    #[inline(always)]
    pub fn learn_neighbour(&self, ip: IpBytes, mac: MacBytes) -> Result<(), DropReason> {
        let (vni, port, now_ns) = {
            let meta = self.meta();
            (meta.vni, meta.port, meta.now_ns)
        };
        let key = NeighKey { vni, ip };
        // SAFETY: read at once, not kept.
        if let Some(pinned) = unsafe { maps::nb_static.get(key) } {
            if same_mac(pinned.mac, mac) {
                return Ok(());
            }
            self.event(EventKind::NeighbourSpoofed, mac, ip);
            return Err(DropReason::NeighbourSpoofed);
        }
        if self.is_trace() {
            return Ok(());
        }
        let fresh = NeighLocal { mac, flags: 0, port, last_seen_ns: now_ns };
        if let Some(known) = maps::nb_local.get_ptr_mut(key) {
            // SAFETY: a live entry; its time is one word.
            let old = unsafe { *known };
            if same_mac(old.mac, mac) && same_port(&old.port, &port) {
                if now_ns.saturating_sub(old.last_seen_ns) > RENEW_NS {
                    // SAFETY: as above.
                    unsafe { (*known).last_seen_ns = now_ns };
                }
                return Ok(());
            }
        }
        let (counter, kind) = match maps::nb_local.insert(key, fresh, 0) {
            Ok(()) => (Counter::NeighbourLearnt, EventKind::NeighbourNew),
            Err(_) => (Counter::NeighbourTableFull, EventKind::NeighbourTableFull),
        };
        self.count(counter, 1);
        self.event(kind, mac, ip);
        Ok(())
    }
}
