//! Putting arriving packets together to super-packets (as the kernel's GRO does), without moving
//! them: a super-packet is the first packet, whose headers are changed in place, and the payloads of
//! the others where they lie; one gathering write hands it over.
//!
//! Packets are pushed in their order. Those that belong to one flow leave in it: a packet goes to the
//! end of the newest super-packet of its flow, or begins another behind it.

use super::checksum::{self, Sum};
use super::classify::{Class, DONT_FRAGMENT};
use super::virtio::{Gso, Header, Partial};
use super::vxlan;
use super::{
    FIN, IP_PACKET_MAX, IPV6_HEADER, PSH, TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, field, get16, get32, put16,
};

/// Packets of one super-packet at most: what a gathering write takes is bounded.
pub(crate) const PARTS_MAX: usize = 128;
/// How far back the newest super-packet of a flow is looked for. A flow whose packets lie further
/// apart gains nothing from being put together.
const LOOK_BACK: usize = 16;
/// No further part.
const END: u32 = u32::MAX;

/// Where a piece of a super-packet lies in the buffer of the batch.
#[derive(Debug, Clone, Copy)]
struct Part {
    at: u32,
    length: u16,
    next: u32,
}

#[derive(Debug, Clone, Copy)]
struct Item {
    class: Class,
    first: u32,
    newest: u32,
    parts: u16,
    /// Octets of payload of every part but the last.
    segment: u16,
    /// Octets of the whole packet.
    length: u32,
    closed: bool,
}

/// The super-packets of one batch in the making.
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    items: Vec<Item>,
    parts: Vec<Part>,
    /// What lies before it is not added to: something unknown came between.
    barrier: usize,
}

impl Coalescer {
    /// With room for so many packets; with more it grows.
    pub(crate) fn with_capacity(packets: usize) -> Self {
        Self { items: Vec::with_capacity(packets), parts: Vec::with_capacity(packets), barrier: 0 }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
        self.parts.clear();
        self.barrier = 0;
    }

    /// Takes the next packet: `buffer[at..at + length]`, where `class` is what it is. `merge` false: it
    /// stays alone.
    pub(crate) fn push(&mut self, buffer: &[u8], at: usize, length: usize, class: Class, merge: bool) {
        debug_assert!(at + length <= buffer.len() && length <= IP_PACKET_MAX);
        let (Ok(part_at), Ok(part_length)) = (u32::try_from(at), u16::try_from(length)) else { return };
        let mut class = class;
        if !merge {
            class.headers = 0;
        }
        if class.headers > 0
            && let Some(found) = self.newest_of_flow(buffer, at, &class)
            && self.append(buffer, found, at, length, class)
        {
            return;
        }
        let index = u32::try_from(self.parts.len()).unwrap_or(END);
        self.parts.push(Part { at: part_at, length: part_length, next: END });
        self.items.push(Item {
            class,
            first: index,
            newest: index,
            parts: 1,
            segment: part_length.saturating_sub(class.headers),
            length: part_length.into(),
            closed: class.headers == 0 || class.last,
        });
        if class.flow == 0 {
            self.barrier = self.items.len();
        }
    }

    /// The newest super-packet of the same flow, if it is open.
    fn newest_of_flow(&self, buffer: &[u8], at: usize, class: &Class) -> Option<usize> {
        let oldest = self.barrier.max(self.items.len().saturating_sub(LOOK_BACK));
        let of_flow = |item: &Item| {
            item.class.flow == class.flow
                && item.class.transport == class.transport
                && item.class.outer == class.outer
                && same_flow(&buffer[self.start(item)..], &buffer[at..], class)
        };
        let found = (oldest..self.items.len()).rev().find(|&index| of_flow(&self.items[index]))?;
        (!self.items[found].closed).then_some(found)
    }

    fn start(&self, item: &Item) -> usize {
        self.parts[item.first as usize].at as usize
    }

    /// Adds a packet to a super-packet, if it continues it.
    fn append(&mut self, buffer: &[u8], found: usize, at: usize, length: usize, class: Class) -> bool {
        let item = self.items[found];
        let payload = length - usize::from(class.headers);
        let fits = class.headers == item.class.headers
            && class.udp == item.class.udp
            && payload <= item.segment.into()
            && item.length as usize + payload <= IP_PACKET_MAX
            && usize::from(item.parts) < PARTS_MAX;
        if !fits || !continues(&buffer[self.start(&item)..], &buffer[at..at + length], &item) {
            self.items[found].closed = true;
            return false;
        }
        let index = u32::try_from(self.parts.len()).unwrap_or(END);
        let part_at = u32::try_from(at).unwrap_or(END) + u32::from(class.headers);
        self.parts.push(Part { at: part_at, length: field(payload), next: END });
        self.parts[item.newest as usize].next = index;
        let item = &mut self.items[found];
        item.newest = index;
        item.parts += 1;
        item.length += u32::from(field(payload));
        item.closed = class.last || payload < item.segment.into();
        true
    }

    /// Finished super-packets and single packets, in order. `deliver` gets the virtio header, where
    /// the pieces lie in the buffer, and what the first packet was.
    pub(crate) fn finish(
        &mut self,
        buffer: &mut [u8],
        mut deliver: impl FnMut(&[u8], Header, Pieces<'_>, &Class),
    ) {
        for item in &self.items {
            let first = self.parts[item.first as usize];
            let header = if item.parts == 1 {
                Header { valid: item.class.verified, ..Header::PLAIN }
            } else {
                let newest = self.parts[item.newest as usize].at as usize;
                // The flags of the last packet lie before its payload.
                let last_flags =
                    newest - usize::from(item.class.headers) + usize::from(item.class.transport) + 13;
                let last_flags = if item.class.udp { 0 } else { buffer[last_flags] };
                describe(&mut buffer[first.at as usize..], item, last_flags)
            };
            deliver(buffer, header, Pieces { parts: &self.parts, next: item.first }, &item.class);
        }
        self.clear();
    }
}

/// The pieces of one super-packet, in order: offset and length in the buffer of the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pieces<'a> {
    parts: &'a [Part],
    next: u32,
}

impl Iterator for Pieces<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let part = self.parts.get(self.next as usize)?;
        self.next = part.next;
        Some((part.at as usize, part.length.into()))
    }
}

/// Addresses, protocol and ports. Inside VXLAN only the inner ones count: whatever the outer header says, packets of a flow
/// keep their order.
fn same_flow(first: &[u8], other: &[u8], class: &Class) -> bool {
    let (outer, transport) = (usize::from(class.outer), usize::from(class.transport));
    let (ports, first, other) = (
        first[transport..transport + 4] == other[transport..transport + 4],
        &first[outer..],
        &other[outer..],
    );
    let (addresses, protocol) = if transport - outer == IPV6_HEADER { (8..40, 6) } else { (12..20, 9) };
    ports
        && first[0] >> 4 == other[0] >> 4
        && first[addresses.clone()] == other[addresses]
        && first[protocol] == other[protocol]
}

/// True if the packet is what the splitting of the super-packet would give next.
fn continues(first: &[u8], packet: &[u8], item: &Item) -> bool {
    let outer = usize::from(item.class.outer);
    let transport = usize::from(item.class.transport) - outer;
    if outer > 0 && !vxlan::same(first, packet, outer) {
        return false;
    }
    let (first, packet) = (&first[outer..], &packet[outer..]);
    let ip = if transport == IPV6_HEADER {
        // Version, class and label; hop limit.
        first[..4] == packet[..4] && first[7] == packet[7]
    } else {
        let atomic = get16(first, 6) == DONT_FRAGMENT && get16(first, 4) == get16(packet, 4);
        let next = get16(first, 4).wrapping_add(item.parts) == get16(packet, 4);
        // TOS; flags; TTL.
        first[1] == packet[1] && first[6..9] == packet[6..9] && (next || atomic)
    };
    if item.class.udp || !ip {
        return ip;
    }
    let (first, header) = (&first[transport..], &packet[transport..]);
    let carried = item.length - u32::from(item.class.headers);
    let length = usize::from(item.class.headers - item.class.transport);
    get32(first, 4).wrapping_add(carried) == get32(header, 4)
        && first[8..13] == header[8..13]
        && (first[13] ^ header[13]) & !(FIN | PSH) == 0
        && first[14..16] == header[14..16]
        && first[18..length] == header[18..length]
}

/// Turns the headers of the first packet into those of the super-packet.
fn describe(packet: &mut [u8], item: &Item, last_flags: u8) -> Header {
    let outer = usize::from(item.class.outer);
    if outer > 0 {
        vxlan::fit_for(packet, item.length as usize, 0);
    }
    let partial_start = item.class.transport;
    let (packet, transport) = (&mut packet[outer..], usize::from(partial_start) - outer);
    let length = field(item.length as usize - outer);
    let v4 = transport != IPV6_HEADER;
    if v4 {
        put16(packet, 2, length);
        packet[10..12].fill(0);
        let checksum = Sum::of(&packet[..transport]).complete();
        packet[10..12].copy_from_slice(&checksum);
    } else {
        put16(packet, 4, length - field(IPV6_HEADER));
    }
    let (gso, protocol, offset) = match (item.class.udp, v4) {
        (true, _) => (Gso::Udp, UDP, UDP_CHECKSUM),
        (false, true) => (Gso::Tcp4, TCP, TCP_CHECKSUM),
        (false, false) => (Gso::Tcp6, TCP, TCP_CHECKSUM),
    };
    let carried = length - field(transport);
    if item.class.udp {
        put16(packet, transport + 4, carried);
    } else {
        packet[transport + 13] |= last_flags & (FIN | PSH);
    }
    let sum = checksum::addresses(packet, protocol) + Sum::word(carried);
    packet[transport + offset..transport + offset + 2].copy_from_slice(&sum.partial());
    let partial = Some(Partial { start: partial_start, offset: field(offset) });
    Header { gso, segment: item.segment, headers: item.class.headers, partial, valid: false }
}
