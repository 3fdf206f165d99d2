//! Routes into messages: those that share a set share UPDATEs, as many as fit (RFC 4271 §9.2), written once into one
//! buffer that goes to a whole group of neighbours.
//!
//! No route goes back to who told it. So the buffer is in segments, each with the source that is to be left out; who is
//! the source of one gets the others.

use super::export::Exported;
use super::paths::SourceId;
use super::sets::{SetId, Sets};
use super::table::Rib;
use crate::nlri::{Nlri, NlriData};
use crate::types::{Family, PathId};
use crate::wire::{UpdateWriter, encode_nlri};

/// A part of the buffer.
#[derive(Clone, Copy, Debug)]
struct Segment {
    end: usize,
    messages: u64,
    /// Who is left out.
    but: Option<SourceId>,
}

/// Messages under construction.
#[derive(Debug, Default)]
pub(super) struct Packed {
    pub(super) octets: Vec<u8>,
    pub(super) messages: u64,
    segments: Vec<Segment>,
}

/// A set leaves no room for a route.
pub(super) struct TooLarge;

impl Packed {
    pub(super) fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// Whether `source` is left out of any part.
    pub(super) fn leaves_out(&self, source: SourceId) -> bool {
        self.segments.iter().any(|segment| segment.but == Some(source))
    }

    /// What is left of the octets for `source`, with its number of messages.
    pub(super) fn without(&self, whole: &[u8], source: SourceId) -> (Vec<u8>, u64) {
        let (mut octets, mut messages, mut from) = (Vec::new(), 0, 0);
        for segment in &self.segments {
            if segment.but != Some(source) {
                octets.extend_from_slice(&whole[from..segment.end]);
                messages += segment.messages;
            }
            from = segment.end;
        }
        (octets, messages)
    }

    fn close(&mut self, messages: u64, but: Option<SourceId>) {
        self.messages += messages;
        let end = self.octets.len();
        match self.segments.last_mut() {
            Some(last) if last.but == but => {
                last.end = end;
                last.messages += messages;
            }
            _ => self.segments.push(Segment { end, messages, but }),
        }
    }

    /// Announces routes that share a set, but for one neighbour, with a path identifier where there are any (RFC 7911 §3).
    pub(super) fn announce(
        &mut self,
        rib: &Rib,
        exported: &Exported,
        set: SetId,
        limit: usize,
        routes: impl Iterator<Item = u32>,
        (but, id): (Option<SourceId>, Option<PathId>),
    ) -> Result<(), TooLarge> {
        let writer = UpdateWriter::announce(rib.family, &exported.next_hop, &exported.attributes, limit);
        let writer = writer.ok_or(TooLarge)?;
        let data = if rib.family == Family::L2vpnEvpn { rib.sets.data(set) } else { NlriData::default() };
        let routes = routes.map(|at| (at, data));
        let messages = self.write(rib, writer, routes, id);
        self.close(messages, but);
        Ok(())
    }

    /// Withdraws routes, each with the set that it was announced with, or none where that is not known.
    pub(super) fn withdraw(
        &mut self,
        rib: &Rib,
        limit: usize,
        routes: impl Iterator<Item = (u32, SetId)>,
        (but, id): (Option<SourceId>, Option<PathId>),
    ) {
        let evpn = rib.family == Family::L2vpnEvpn;
        let data =
            |sets: &Sets, set| if evpn && set != SetId::NONE { sets.data(set) } else { NlriData::default() };
        let routes = routes.map(|(at, set)| (at, data(&rib.sets, set)));
        let messages = self.write(rib, UpdateWriter::withdraw(rib.family, limit), routes, id);
        self.close(messages, but);
    }

    fn write(
        &mut self,
        rib: &Rib,
        mut writer: UpdateWriter<'_>,
        routes: impl Iterator<Item = (u32, NlriData)>,
        id: Option<PathId>,
    ) -> u64 {
        for (at, data) in routes {
            writer.route(&mut self.octets, |out| {
                if let Some(id) = id {
                    out.extend_from_slice(&id.0.to_be_bytes());
                }
                if !rib.keys.put_prefix(at, out) {
                    encode_nlri(&Nlri { key: rib.keys.key(at), data }, out);
                }
            });
        }
        writer.finish(&mut self.octets)
    }
}
