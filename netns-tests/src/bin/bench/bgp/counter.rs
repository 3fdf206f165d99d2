//! What one receiver knows: which prefixes it has, and of which the best path is the right one. A prefix counts once,
//! however often it is announced.

use anyhow::{Context as _, Result, ensure};

use super::routes::Routes;

const AS_PATH: u8 = 2;
const MP_REACH: u8 = 14;
const MP_UNREACH: u8 = 15;
const EXTENDED_LENGTH: u8 = 0x10;

/// One receiver.
pub(crate) struct Counter {
    routes: Routes,
    has: Bits,
    right: Bits,
    /// NLRI announced, repeated ones included.
    pub(crate) announced: u64,
    received: Vec<u8>,
}

struct Bits {
    words: Vec<u64>,
    set: u32,
}

impl Bits {
    fn put(&mut self, at: u32, value: bool) {
        let (word, bit) = (&mut self.words[at as usize / 64], 1_u64 << (at % 64));
        if (*word & bit != 0) != value {
            *word ^= bit;
            self.set = if value { self.set + 1 } else { self.set - 1 };
        }
    }
}

impl Counter {
    pub(crate) fn new(routes: Routes) -> Self {
        let bits = || Bits { words: vec![0; (routes.count as usize).div_ceil(64)], set: 0 };
        Self { routes, has: bits(), right: bits(), announced: 0, received: Vec::new() }
    }

    /// It has every prefix, by the right path.
    pub(crate) const fn is_right(&self) -> bool {
        self.right.set == self.routes.count
    }

    /// It has none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.has.set == 0
    }

    /// Takes octets of the stream.
    pub(crate) fn take(&mut self, octets: &[u8]) -> Result<()> {
        self.received.extend_from_slice(octets);
        let received = std::mem::take(&mut self.received);
        let mut rest = &received[..];
        while rest.len() >= 19 {
            let length = usize::from(u16::from_be_bytes([rest[16], rest[17]]));
            ensure!(length >= 19, "a message of {length} octets");
            let Some((message, after)) = rest.split_at_checked(length) else { break };
            match message[18] {
                2 => self.update(&message[19..]).context("an UPDATE that cannot be read")?,
                3 => anyhow::bail!("NOTIFICATION {:?}", &message[19..]),
                _ => {}
            }
            rest = after;
        }
        self.received = rest.to_vec();
        Ok(())
    }

    fn update(&mut self, body: &[u8]) -> Option<()> {
        let (withdrawn, rest) = field(body)?;
        let (mut attributes, announced) = field(rest)?;
        self.nlri(withdrawn, None)?;
        let (mut neighbour, mut reach) = (None, None);
        while let [flags, code, rest @ ..] = attributes {
            let (value, after) = if flags & EXTENDED_LENGTH != 0 {
                field(rest)?
            } else {
                let (length, rest) = rest.split_first()?;
                rest.split_at_checked(usize::from(*length))?
            };
            match *code {
                // Ours in front, then that of the feeder.
                AS_PATH => neighbour = Some(value.get(6..10).map_or(0, second)),
                MP_REACH => reach = Some(value.get(5 + usize::from(*value.get(3)?)..)?),
                MP_UNREACH => self.nlri(value.get(3..)?, None)?,
                _ => {}
            }
            attributes = after;
        }
        self.nlri(announced, neighbour)?;
        self.nlri(reach.unwrap_or_default(), neighbour)
    }

    /// Routes announced by the path of a neighbouring AS, or withdrawn without one.
    fn nlri(&mut self, mut field: &[u8], neighbour: Option<u32>) -> Option<()> {
        while let Some((bits, rest)) = field.split_first() {
            let (octets, after) = rest.split_at_checked(usize::from(*bits).div_ceil(8))?;
            // A daemon may have routes of its own, to the network that it stands in.
            if let Some(number) = self.routes.number(octets) {
                self.announced += u64::from(neighbour.is_some());
                self.has.put(number, neighbour.is_some());
                self.right.put(number, neighbour == Some(self.routes.winner(number)));
            }
            field = after;
        }
        Some(())
    }
}

fn second(octets: &[u8]) -> u32 {
    octets.try_into().map_or(0, u32::from_be_bytes)
}

/// A field behind its length of two octets, and the rest.
fn field(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = octets.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a router of AS 65000 would pass it on.
    fn passed_on(routes: Routes, feeder: u32) -> Vec<u8> {
        use watari_bgp::wire::{EncodeContext, ParseContext, Update, encode_announce, next_frame};
        let stream = routes.announced(feeder, [10, 0, 0, 9].into()).unwrap();
        let mut out = Vec::new();
        let mut rest = &stream[..];
        while let Some(frame) = next_frame(rest, 4_096).unwrap() {
            let ctx = ParseContext {
                internal: false,
                peer_asn: watari_bgp::Asn(super::super::routes::FEEDER_ASN + feeder),
                four_octet_as: true,
            };
            let update = Update::decode(frame.body, &ctx).unwrap();
            let mut attrs = update.attrs.clone();
            attrs.as_path = attrs.as_path.prepended(watari_bgp::Asn(65_000));
            let list: Vec<_> = update.announced.map(Result::unwrap).collect();
            let to = EncodeContext { four_octet_as: true, message_limit: 4_096 };
            for message in encode_announce(routes.family(), &attrs, &list, &to).unwrap() {
                out.extend_from_slice(&message);
            }
            rest = &rest[frame.len..];
        }
        out
    }

    #[test]
    fn only_the_right_path_counts_and_only_once() {
        let routes = Routes { ipv6: false, count: 1_000, feeders: 2 };
        let mut counter = Counter::new(routes);
        counter.take(&passed_on(routes, 0)).unwrap();
        assert!(!counter.is_right() && counter.announced == 1_000);
        // The other feeder's paths replace those that were right already; what wins is what comes last here.
        let other = passed_on(routes, 1);
        for part in other.chunks(100) {
            counter.take(part).unwrap();
        }
        assert!(!counter.is_right() && counter.announced == 2_000);
        counter.take(&routes.withdrawn()).unwrap();
        assert!(counter.is_empty());
        let alone = Routes { feeders: 1, ..routes };
        let mut counter = Counter::new(alone);
        counter.take(&passed_on(alone, 0)).unwrap();
        counter.take(&passed_on(alone, 0)).unwrap();
        assert!(counter.is_right() && counter.announced == 2_000);
    }
}
