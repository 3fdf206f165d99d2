//! Explaining: in a trace, each decision is written to the page, with the table entry that it rests on; while somebody
//! looks, frames are copied to the ring buffer `samples`. Otherwise either costs one test: the rest lies in functions
//! of their own, called and not inlined, so that the stages stay small.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use watari_abi::{
    Counter, IpBytes, MacBytes, MacKey, Meta, NeighKey, PortKey, Sample, SampleHead, Scratch, Step, StepKind,
    TunnelKey, Watch,
    plan::{FLOOD_PORTS_MAX, FLOOD_VTEPS_MAX},
    trace::STEPS_MAX,
    watch::SNAP_BYTES_MAX,
};

use crate::{
    fdb::{pinned, same_port},
    headers::{ETH_BYTES, halves, mac_number, same_mac},
    maps,
    out::Pkt,
    skb::Skb,
};

const SECOND_NS: u64 = 1_000_000_000;

/// What a sample says about its frame.
#[derive(Clone, Copy)]
pub enum Seen {
    In,
    Out,
    /// Out to the far gateway [`watari_abi::Meta::out_vtep`].
    ToVtep,
    Drop(u8),
}

impl Seen {
    /// In one register: direction, reason, and whether it goes to a far gateway.
    #[inline(always)]
    fn packed(self) -> u32 {
        match self {
            Self::In => SampleHead::IN as u32,
            Self::Out => SampleHead::OUT as u32,
            Self::ToVtep => SampleHead::OUT as u32 | TO_VTEP,
            Self::Drop(reason) => SampleHead::DROP as u32 | (reason as u32) << 8,
        }
    }
}

const TO_VTEP: u32 = 1 << 16;

impl Pkt {
    /// Writes down a decision, in a trace.
    #[inline(always)]
    pub fn step(&self, kind: StepKind, fill: impl FnOnce(&mut Step)) {
        if self.is_trace() {
            write_down(kind, fill);
        }
    }

    /// A decision about an address or VTEP.
    #[inline(always)]
    pub fn step_ip(&self, kind: StepKind, ip: IpBytes, number: u32) {
        self.step(kind, |step| {
            step.ip = ip;
            step.number = number;
        });
    }

    /// Whether the outer source of VXLAN is bound to the tunnel that it came through.
    #[inline(always)]
    pub fn step_bound(&self, key: &TunnelKey, bound: bool) {
        let kind = if bound { StepKind::VtepBound } else { StepKind::VtepNotBound };
        self.step(kind, |step| {
            step.ip = key.vtep;
            step.port.ifindex = key.ifindex;
        });
    }

    /// Copies the frame to the ring buffer `samples`, if somebody looks at such frames.
    #[inline(always)]
    pub fn sample(&self, seen: Seen, port: &PortKey) {
        let Some(watch) = maps::watch.get(0) else { return };
        if watch.flags != 0 && !self.is_trace() {
            let counter = wt_sample(self.skb.raw(), port_number(port), seen.packed());
            if counter != 0 {
                count(counter);
            }
        }
    }
}

impl Pkt {
    /// Writes down or samples the copies that are about to be made.
    #[inline(always)]
    pub fn explain_copies(&self) {
        let watched = maps::watch.get(0).is_some_and(|watch| watch.flags != 0);
        if watched || self.is_trace() {
            wt_copies(self.skb.raw());
        }
    }

    /// One copy, by a port or to a far gateway.
    #[inline(always)]
    fn explain_copy(&self, port: &PortKey, vtep: Option<IpBytes>) {
        if self.is_trace() {
            match vtep {
                Some(vtep) => self.step_ip(StepKind::CopyVtep, vtep, self.meta().vni),
                None => self.step(StepKind::CopyPort, |step| step.port = *port),
            }
            return;
        }
        let seen = match vtep {
            Some(vtep) => {
                self.meta().out_vtep = vtep;
                Seen::ToVtep
            }
            None => Seen::Out,
        };
        self.sample(seen, port);
    }
}

/// The loops of the stage `Flood` once more, for whoever looks.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_copies(skb: *mut __sk_buff) -> u32 {
    let Some(p) = Pkt::open(TcContext::new(skb)) else { return 0 };
    let (vni, question) = (p.meta().vni, p.meta().copy == Meta::COPY_QUESTION);
    if let Some(list) = maps::flood_ports.get_ptr(vni) {
        let mut i = 0;
        while i < FLOOD_PORTS_MAX {
            // SAFETY: a live entry, and `i` is within its array.
            let (count, port) =
                unsafe { ((*list).count, (&raw const (*list).ports).cast::<PortKey>().add(i).read()) };
            if i as u32 >= count {
                break;
            }
            i += 1;
            if question || !same_port(&port, &p.meta().port) {
                p.explain_copy(&port, None);
            }
        }
    }
    let (Some(list), Ok(config)) = (maps::flood_vteps.get_ptr(vni), p.config()) else { return 0 };
    let port = PortKey { ifindex: config.vxlan_ifindex, outer: 0, inner: 0 };
    if port.ifindex == 0 || p.meta().flags & Meta::LOCAL_ONLY != 0 {
        return 0;
    }
    let mut i = 0;
    while i < FLOOD_VTEPS_MAX {
        // SAFETY: a live entry, and `i` is within its array.
        let (count, vtep) =
            unsafe { ((*list).count, (&raw const (*list).vteps).cast::<IpBytes>().add(i).read()) };
        if i as u32 >= count {
            break;
        }
        i += 1;
        if !p.from_vxlan() || p.may_cross(&vtep) {
            p.explain_copy(&port, Some(vtep));
        }
    }
    0
}

#[inline(always)]
fn write_down(kind: StepKind, fill: impl FnOnce(&mut Step)) {
    let none = PortKey { ifindex: 0, outer: 0, inner: 0 };
    let mut step = Step { kind: 0, number: 0, port: none, mac: [0; 6], flags: 0, ip: [0; 16] };
    fill(&mut step);
    let what = u64::from(step.number) << 32 | u64::from(step.flags) << 16 | kind as u64;
    let (high, low) = halves(step.ip);
    wt_step(what, port_number(&step.port), mac_number(step.mac), high, low);
}

#[inline(always)]
pub fn port_number(port: &PortKey) -> u64 {
    u64::from(port.ifindex) << 32 | u64::from(port.outer) << 16 | u64::from(port.inner)
}

#[inline(always)]
pub fn port_of(number: u64) -> PortKey {
    PortKey { ifindex: (number >> 32) as u32, outer: (number >> 16) as u16, inner: number as u16 }
}

#[inline(always)]
fn mac_of(number: u64) -> MacBytes {
    let [_, _, a, b, c, d, e, f] = number.to_be_bytes();
    [a, b, c, d, e, f]
}

#[inline(always)]
fn ip_of(high: u64, low: u64) -> IpBytes {
    let (a, b) = (high.to_ne_bytes(), low.to_ne_bytes());
    [a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]
}

// The functions below take and return numbers alone, and are exported: the verifier then looks at each once and not at
// every call.

/// Writes a step to the page: kind, flags and number in `what`, the rest as numbers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_step(what: u64, port: u64, mac: u64, ip_high: u64, ip_low: u64) -> u32 {
    let Some(page) = maps::page.get_ptr_mut(0) else { return 0 };
    // SAFETY: one run at a time uses the page, and the index is checked.
    unsafe {
        let count = (*page).count;
        (*page).count = count + 1;
        if count >= STEPS_MAX as u32 {
            return 0;
        }
        let step = (&raw mut (*page).steps).cast::<Step>().add(count as usize);
        (*step).kind = what as u32 & 0xffff;
        (*step).number = (what >> 32) as u32;
        (*step).port = port_of(port);
        (*step).mac = mac_of(mac);
        (*step).flags = (what >> 16) as u16;
        (*step).ip = ip_of(ip_high, ip_low);
    }
    1
}

impl Pkt {
    /// Writes down which table says where a MAC is, in a trace.
    #[inline(always)]
    pub fn step_place(&self, vni: u32, mac: MacBytes) {
        if self.is_trace() {
            wt_place(vni, mac_number(mac));
        }
    }

    /// Writes down what is known of the source of a frame, in a trace.
    #[inline(always)]
    pub fn step_learn(&self, key: MacKey) {
        if self.is_trace() {
            let port = port_number(&self.meta().port);
            wt_learn(key.vni, mac_number(key.mac), port);
        }
    }

    /// Writes down what is known of an address that a neighbour claims, in a trace.
    #[inline(always)]
    pub fn step_neighbour_learn(&self, key: NeighKey, mac: MacBytes) {
        if self.is_trace() {
            let (high, low) = halves(key.ip);
            wt_neighbour(key.vni, mac_number(mac), port_number(&self.meta().port), high, low);
        }
    }

    /// Writes down which table says who has an address, in a trace.
    #[inline(always)]
    pub fn step_owner(&self, vni: u32, ip: IpBytes) {
        if self.is_trace() {
            let (high, low) = halves(ip);
            wt_owner(vni, high, low);
        }
    }
}

/// The look-up of `fdb::place_of` once more, for a trace.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_place(vni: u32, mac: u64) -> u32 {
    let mac = mac_of(mac);
    let key = MacKey { vni, mac, pad: 0 };
    // SAFETY (both): entries are read at once and not kept.
    if let Some(pinned) = pinned(key) {
        write_down(StepKind::MacStatic, |step| {
            step.mac = mac;
            step.port = pinned.port;
            step.number = vni;
            step.flags = pinned.is_node as u16;
        });
    } else if let Some(local) = unsafe { maps::mac_local.get(key) } {
        write_down(StepKind::MacLocal, |step| {
            step.mac = mac;
            step.port = local.port;
            step.number = vni;
        });
    } else if let Some(remote) = unsafe { maps::mac_remote.get(key) } {
        write_down(StepKind::MacRemote, |step| {
            step.mac = mac;
            step.ip = remote.vtep;
            step.number = remote.sequence;
            step.flags = remote.flags as u16;
        });
    } else {
        write_down(StepKind::MacUnknown, |step| {
            step.mac = mac;
            step.number = vni;
        });
    }
    0
}

/// What would be learnt of a source, for a trace.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_learn(vni: u32, mac: u64, port: u64) -> u32 {
    let (mac, port) = (mac_of(mac), port_of(port));
    let key = MacKey { vni, mac, pad: 0 };
    let mut kind = StepKind::Learn;
    // SAFETY: read at once, not kept.
    let (known, flags) = if let Some(pinned) = pinned(key) {
        if !same_port(&pinned.port, &port) {
            kind = StepKind::SourcePinned;
        }
        (pinned.port, Step::PINNED)
    } else if let Some(local) = unsafe { maps::mac_local.get(key) } {
        (local.port, if same_port(&local.port, &port) { Step::KNOWN } else { Step::MOVES })
    } else {
        (port, 0)
    };
    write_down(kind, |step| {
        step.mac = mac;
        step.port = known;
        step.number = vni;
        step.flags = flags;
    });
    0
}

/// What would be learnt of a neighbour, for a trace.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_neighbour(vni: u32, mac: u64, port: u64, ip_high: u64, ip_low: u64) -> u32 {
    let (mac, port, ip) = (mac_of(mac), port_of(port), ip_of(ip_high, ip_low));
    // SAFETY: read at once, not kept.
    let flags = match unsafe { maps::nb_local.get(NeighKey { vni, ip }) } {
        Some(known) if same_mac(known.mac, mac) && same_port(&known.port, &port) => Step::KNOWN,
        Some(_) => Step::MOVES,
        None => 0,
    };
    write_down(StepKind::NeighbourLearn, |step| {
        step.ip = ip;
        step.mac = mac;
        step.port = port;
        step.number = vni;
        step.flags = flags;
    });
    0
}

/// The look-up of `fdb::owner_of` once more, for a trace.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_owner(vni: u32, ip_high: u64, ip_low: u64) -> u32 {
    let ip = ip_of(ip_high, ip_low);
    let key = NeighKey { vni, ip };
    // SAFETY (all three): entries are read at once and not kept.
    let (table, mac, flags) = if let Some(pinned) = unsafe { maps::nb_static.get(key) } {
        (StepKind::STATIC, pinned.mac, pinned.flags)
    } else if let Some(local) = unsafe { maps::nb_local.get(key) } {
        (StepKind::LOCAL, local.mac, local.flags)
    } else if let Some(remote) = unsafe { maps::nb_remote.get(key) } {
        (StepKind::REMOTE, remote.mac, remote.flags)
    } else {
        write_down(StepKind::NeighbourUnknown, |step| {
            step.ip = ip;
            step.number = vni;
        });
        return 0;
    };
    write_down(StepKind::Neighbour, |step| {
        step.number = table;
        step.ip = ip;
        step.mac = mac;
        step.flags = flags;
    });
    0
}

#[inline(always)]
fn count(counter: u32) {
    if let Some(value) = maps::counters.get_ptr_mut(counter) {
        // SAFETY: this CPU's own entry.
        unsafe { *value += 1 };
    }
}

/// Takes a sample, if this frame is one of those that are looked at. Returns a [`Counter`], or 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_sample(skb: *mut __sk_buff, port: u64, seen: u32) -> u32 {
    let skb = Skb::from_raw(skb);
    let port = port_of(port);
    let (Some(watch), Some(sample), Some(scratch)) =
        (maps::watch.get(0), maps::sample.get_ptr_mut(0), maps::scratch.get_ptr(0))
    else {
        return 0;
    };
    // SAFETY: this CPU's own entries.
    let (sample, scratch) = unsafe { (&mut *sample, &*scratch) };
    if !wanted(watch, sample, scratch, seen as u8, &port) {
        return 0;
    }
    if !in_rate(watch, sample, scratch.meta.now_ns) {
        return Counter::SampleLost as u32;
    }
    let size = snap(skb.len(), watch.snap_bytes);
    let head = &mut sample.head;
    head.time_ns = scratch.meta.now_ns;
    head.port = port;
    head.vni = scratch.meta.vni;
    head.len = skb.len();
    head.packets = skb.packets();
    head.captured = size;
    head.direction = seen as u8;
    head.reason = (seen >> 8) as u8;
    head.hook = scratch.meta.hook;
    head.vtep = if seen & TO_VTEP != 0 {
        scratch.meta.out_vtep
    } else if seen as u8 == SampleHead::OUT {
        [0; 16]
    } else {
        scratch.meta.vtep
    };
    if skb.load_raw(0, sample.data.as_mut_ptr(), size).is_err() {
        return 0;
    }
    let record = (&raw const sample.head).cast::<u8>();
    // SAFETY: head and data lie behind each other, `size` is at most what `data` has.
    let record = unsafe { core::slice::from_raw_parts(record, size_of::<SampleHead>() + size as usize) };
    match maps::samples.output::<[u8]>(record, 0) {
        Ok(()) => Counter::Sampled as u32,
        Err(_) => Counter::SampleLost as u32,
    }
}

/// Whether this frame is one of those that are looked at.
#[inline(always)]
fn wanted(watch: &Watch, sample: &mut Sample, scratch: &Scratch, direction: u8, port: &PortKey) -> bool {
    let meta = &scratch.meta;
    if meta.now_ns > watch.until_ns || (watch.vni != 0 && watch.vni != meta.vni) {
        return false;
    }
    if direction == SampleHead::DROP {
        return watch.flags & Watch::DROPS != 0;
    }
    let any = watch.port.ifindex == 0;
    if watch.flags & Watch::CAPTURE != 0 && (any || same_port(&watch.port, port)) {
        return true;
    }
    if watch.flags & Watch::FLOWS == 0 || direction != SampleHead::IN {
        return false;
    }
    sample.skipped += 1;
    if sample.skipped < u64::from(watch.sample_every) {
        return false;
    }
    sample.skipped = 0;
    true
}

/// Whether this second has room for one more record.
#[inline(always)]
fn in_rate(watch: &Watch, sample: &mut Sample, now_ns: u64) -> bool {
    if now_ns.saturating_sub(sample.since_ns) > SECOND_NS {
        sample.since_ns = now_ns;
        sample.records = 0;
    }
    sample.records += 1;
    sample.records <= u64::from(watch.rate)
}

/// How many bytes are taken: an Ethernet header at least, so that the verifier sees that it is never zero.
#[inline(always)]
fn snap(length: u32, limit: u32) -> u32 {
    const MOST: u32 = SNAP_BYTES_MAX as u32 - ETH_BYTES;
    let length = length.saturating_sub(ETH_BYTES);
    let limit = limit.saturating_sub(ETH_BYTES);
    let mut more = if length < limit { length } else { limit };
    if more > MOST {
        more = MOST;
    }
    more + ETH_BYTES
}
