//! Counting, events and rates. A trace counts nothing.

use core::mem::MaybeUninit;

use watari_abi::{
    Bucket, Counter, DropReason, Event, EventKind, IpBytes, MacBytes, Meta, PortBucketKey, PortKey,
    PortStats, Segment,
    limits::{BEACONS_PER_SECOND, EVENTS_PER_SECOND, GUARD_EVENTS_PER_SECOND},
};

use crate::{
    explain::{Seen, port_number, port_of},
    maps,
    out::Pkt,
};

const SECOND_NS: u64 = 1_000_000_000;
/// Longer pauses fill a bucket no further: keeps the product below 2^64.
const FILL_NS_MAX: u64 = 4 * SECOND_NS;
const NOEXIST: u64 = 1;
/// Classes of events: their bits in the word that counts them.
const EVENTS: u32 = 0;
const BEACONS: u32 = 16;
const GUARDS: u32 = 32;

impl Pkt {
    #[inline(always)]
    pub fn is_trace(&self) -> bool {
        self.meta().flags & Meta::TRACE != 0
    }

    /// Counts something that the pipeline did.
    #[inline(always)]
    pub fn count(&self, counter: Counter, by: u32) {
        if self.is_trace() {
            return;
        }
        if let Some(value) = maps::counters.get_ptr_mut(counter as u32) {
            // SAFETY: this CPU's own entry.
            unsafe { *value += u64::from(by) };
        }
    }

    #[inline(always)]
    pub fn count_drop(&self, reason: DropReason) {
        if self.is_trace() {
            return;
        }
        let (packets, port) = (u64::from(self.meta().packets), self.meta().port);
        self.sample(Seen::Drop(reason as u8), &port);
        if let Some(value) = maps::drops.get_ptr_mut(reason as u32) {
            // SAFETY: this CPU's own entry.
            unsafe { *value += packets };
        }
        add(&port, self.meta().slot, Traffic::Dropped, packets as u32, 0);
    }

    #[inline(always)]
    pub fn count_rx(&self) {
        if self.is_trace() {
            return;
        }
        let (port, slot, packets, bytes) = {
            let meta = self.meta();
            (meta.port, meta.slot, meta.packets, meta.len)
        };
        add(&port, slot, Traffic::In, packets, bytes);
        self.sample(Seen::In, &port);
    }

    /// Counts the packet, as it is, at a port by which it goes out. `slot` is [`watari_abi::Port::slot`] of it.
    #[inline(always)]
    pub fn count_tx(&self, port: &PortKey, slot: u32) {
        self.count_tx_of(port, slot, self.skb.packets(), self.skb.len());
    }

    #[inline(always)]
    pub fn count_tx_of(&self, port: &PortKey, slot: u32, packets: u32, bytes: u32) {
        if !self.is_trace() {
            add(port, slot, Traffic::Out, packets, bytes);
        }
    }

    /// Tells the brain, if this second has not had too many.
    #[inline(always)]
    pub fn event(&self, kind: EventKind, mac: MacBytes, ip: IpBytes) {
        self.tell::<EVENTS, { EVENTS_PER_SECOND }>(kind, mac, ip, 0, 0);
    }

    /// The same for a beacon, with what only a beacon has.
    #[inline(always)]
    pub fn event_of(&self, kind: EventKind, mac: MacBytes, ip: IpBytes, flags: u8, origin_vni: u32) {
        self.tell::<BEACONS, { BEACONS_PER_SECOND }>(kind, mac, ip, flags, origin_vni);
    }

    /// The same for what a guard has dropped, or whose source is pinned or frozen elsewhere.
    #[inline(always)]
    pub fn event_guarded(&self, reason: DropReason, ip: IpBytes) {
        let kind = match reason {
            DropReason::MacLimit => EventKind::MacLimit,
            DropReason::StormRate => EventKind::StormRate,
            DropReason::SourceMacPinned | DropReason::SourceMacFrozen => EventKind::SourceRefused,
            _ => EventKind::Guarded,
        };
        self.tell::<GUARDS, { GUARD_EVENTS_PER_SECOND }>(kind, self.meta().src, ip, reason as u8, 0);
    }

    /// Each class of events counts in 16 bits of one word, from bit `CLASS` on, so that none takes the room of another.
    /// A guard's drops are counted one by one elsewhere: of their events none is missed.
    #[inline(always)]
    fn tell<const CLASS: u32, const LIMIT: u64>(
        &self,
        kind: EventKind,
        mac: MacBytes,
        ip: IpBytes,
        flags: u8,
        origin_vni: u32,
    ) {
        if self.is_trace() {
            return;
        }
        let now = self.meta().now_ns;
        let scratch = self.scratch();
        if now - scratch.events_since_ns > SECOND_NS {
            scratch.events_since_ns = now;
            scratch.events = 0;
        }
        if scratch.events >> CLASS & 0xffff >= LIMIT {
            if CLASS != GUARDS {
                self.count(Counter::EventLost, 1);
            }
            return;
        }
        scratch.events += 1 << CLASS;
        let Some(mut record) = maps::events.reserve::<Event>(0) else {
            self.count(Counter::EventLost, 1);
            return;
        };
        let (port, vni) = (self.meta().port, self.meta().vni);
        record.write(Event { time_ns: now, port, vni, kind: kind as u8, flags, mac, origin_vni, ip });
        record.submit(0);
    }

    /// Takes one frame from what the segment may still copy.
    #[inline(always)]
    pub fn may_copy(&self, segment: &Segment) -> bool {
        let (now, vni) = (self.meta().now_ns, self.meta().vni);
        let (rate, burst) = (segment.flood_rate, segment.flood_burst);
        if rate == 0 || burst == 0 {
            return false;
        }
        let Some(bucket) = maps::buckets.get_ptr_mut(vni) else {
            let lacks = |vni| maps::buckets.get_ptr(vni).is_none();
            if !self.is_trace()
                && maps::buckets.insert(vni, first(burst, now), NOEXIST).is_err()
                && lacks(vni)
            {
                self.count(Counter::FloodTableFull, 1);
            }
            return true;
        };
        self.take(bucket, rate, burst)
    }

    /// Takes one frame from what `key` may still send.
    #[inline(always)]
    pub fn may_send(&self, key: &PortBucketKey, rate: u32, burst: u32) -> bool {
        let now = self.meta().now_ns;
        let Some(bucket) = maps::portbuckets.get_ptr_mut(key) else {
            if !self.is_trace() && maps::portbuckets.insert(key, first(burst, now), NOEXIST).is_err() {
                self.count(Counter::GuardTableFull, 1);
            }
            return true;
        };
        self.take(bucket, rate, burst)
    }

    /// Takes one frame from a bucket that fills with `rate` frames per second up to `burst`. Two CPUs at the same
    /// instant may both take the last one: the rate is a guard, not a contract.
    #[inline(always)]
    fn take(&self, bucket: *mut Bucket, rate: u32, burst: u32) -> bool {
        let now = self.meta().now_ns;
        let full = u64::from(burst) * 1000;
        // SAFETY: a live entry; a torn read only misjudges the rate.
        let Bucket { tokens_milli, filled_ns } = unsafe { *bucket };
        let mut elapsed = now.saturating_sub(filled_ns);
        if elapsed > FILL_NS_MAX {
            elapsed = FILL_NS_MAX;
        }
        let added = elapsed * u64::from(rate) / 1_000_000;
        let mut tokens = tokens_milli + added;
        if tokens > full {
            tokens = full;
        }
        let allowed = tokens >= 1000;
        if !self.is_trace() {
            // SAFETY: as above.
            unsafe {
                (*bucket).tokens_milli = if allowed { tokens - 1000 } else { tokens };
                if added > 0 {
                    (*bucket).filled_ns = now;
                }
            }
        }
        allowed
    }
}

/// A full bucket from which one frame was taken.
#[inline(always)]
fn first(burst: u32, now_ns: u64) -> Bucket {
    Bucket { tokens_milli: u64::from(burst) * 1000 - 1000, filled_ns: now_ns }
}

/// Which of a port's counters.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Traffic {
    In = 0,
    Out = 1,
    Dropped = 2,
}

/// A packet of the flow cache has come in by a port that counts at `slot`.
#[inline(always)]
pub fn count_in(slot: u32, packets: u32, bytes: u32) {
    by_slot(slot, Traffic::In, packets, bytes);
}

/// A packet of the flow cache goes out by a port that counts at `slot`.
#[inline(always)]
pub fn count_out(slot: u32, packets: u32, bytes: u32) {
    by_slot(slot, Traffic::Out, packets, bytes);
}

/// Counts at a port: by its slot, or by its key where it has none.
#[inline(always)]
fn add(port: &PortKey, slot: u32, traffic: Traffic, packets: u32, bytes: u32) {
    if slot == 0 || !by_slot(slot, traffic, packets, bytes) {
        wt_count_by_key(port_number(port), traffic as u32, packets, bytes);
    }
}

/// False if there is no such slot.
#[inline(always)]
fn by_slot(slot: u32, traffic: Traffic, packets: u32, bytes: u32) -> bool {
    let Some(stats) = maps::port_counts.get_ptr_mut(slot) else { return false };
    count(stats, traffic, packets, bytes);
    true
}

#[inline(always)]
fn count(stats: *mut PortStats, traffic: Traffic, packets: u32, bytes: u32) {
    let (packets, bytes) = (u64::from(packets), u64::from(bytes));
    // SAFETY: this CPU's own entry.
    unsafe {
        match traffic {
            Traffic::In => {
                (*stats).rx_packets += packets;
                (*stats).rx_bytes += bytes;
            }
            Traffic::Out => {
                (*stats).tx_packets += packets;
                (*stats).tx_bytes += bytes;
            }
            Traffic::Dropped => (*stats).drops += packets,
        }
    }
}

/// Counts at a port without a slot. A function of its own: it is rare, and large.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_count_by_key(port: u64, traffic: u32, packets: u32, bytes: u32) -> u32 {
    let Some(stats) = stats_of(&port_of(port)) else { return 0 };
    match traffic {
        0 => count(stats, Traffic::In, packets, bytes),
        1 => count(stats, Traffic::Out, packets, bytes),
        _ => count(stats, Traffic::Dropped, packets, bytes),
    }
    0
}

/// This CPU's counters of a port by its key, made on first use.
#[inline(always)]
fn stats_of(port: &PortKey) -> Option<*mut PortStats> {
    if let Some(stats) = maps::port_stats.get_ptr_mut(port) {
        return Some(stats);
    }
    let mut zero = MaybeUninit::<PortStats>::uninit();
    let words = zero.as_mut_ptr().cast::<u64>();
    // SAFETY: five words, written one by one: as a whole they would be cleared by a library's loop.
    let zero = unsafe {
        words.write_volatile(0);
        words.add(1).write_volatile(0);
        words.add(2).write_volatile(0);
        words.add(3).write_volatile(0);
        words.add(4).write_volatile(0);
        zero.assume_init_ref()
    };
    let _ = maps::port_stats.insert(port, zero, NOEXIST);
    let stats = maps::port_stats.get_ptr_mut(port);
    if stats.is_none()
        && let Some(value) = maps::counters.get_ptr_mut(Counter::StatsTableFull as u32)
    {
        // SAFETY: this CPU's own entry.
        unsafe { *value += 1 };
    }
    stats
}
