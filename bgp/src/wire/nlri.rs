//! NLRI fields: walked in place, route by route (RFC 4271 §4.3, RFC 4760 §5, RFC 7432 §7).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::evpn;
use super::reader::Reader;
use crate::nlri::{Key, Nlri};
use crate::types::{Family, PathId};

/// The field cannot be walked: a prefix length or route length that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("NLRI field cannot be parsed")]
pub struct NlriSyntax;

/// The routes of one NLRI field. EVPN routes of an unknown type, or whose fields do not fit their type, are
/// passed over (RFC 7432 §7, RFC 7606 §5.4). Ends after the first error.
#[derive(Clone, Debug)]
pub struct NlriIter<'a> {
    family: Family,
    reader: Reader<'a>,
    has_ids: bool,
}

impl<'a> NlriIter<'a> {
    /// Walks `octets` as `family`.
    pub const fn new(family: Family, octets: &'a [u8]) -> NlriIter<'a> {
        NlriIter { family, reader: Reader::new(octets), has_ids: false }
    }

    /// A field in which every route has a path identifier before it, or none has (RFC 7911 §3).
    #[must_use]
    pub const fn with_ids(self, has_ids: bool) -> NlriIter<'a> {
        NlriIter { has_ids, ..self }
    }

    /// The routes with their path identifiers, 0 where there are none; of what cannot be walked the routes before it.
    pub fn paths(mut self) -> impl Iterator<Item = (PathId, Nlri)> {
        std::iter::from_fn(move || self.next_path()?.ok())
    }

    fn next_path(&mut self) -> Option<Result<(PathId, Nlri), NlriSyntax>> {
        if self.reader.is_empty() {
            return None;
        }
        let path = match (self.has_ids, self.family) {
            (_, Family::L2vpnEvpn) => self.evpn()?.map(|nlri| (PathId::default(), nlri)),
            (false, _) => self.prefix().map(|nlri| (PathId::default(), nlri)),
            (true, _) => self.reader.u32().map(PathId).and_then(|id| Some((id, self.prefix()?))),
        };
        if path.is_none() {
            self.reader = Reader::new(&[]);
        }
        Some(path.ok_or(NlriSyntax))
    }

    /// The family of the field.
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Whether no octet is left.
    pub const fn is_empty(&self) -> bool {
        self.reader.is_empty()
    }

    /// Walks to the end without keeping anything.
    ///
    /// # Errors
    /// The field cannot be walked.
    pub fn check(&self) -> Result<(), NlriSyntax> {
        self.clone().try_for_each(|item| item.map(drop))
    }

    fn prefix_octets<const N: usize>(&mut self) -> Option<(u8, [u8; N])> {
        let len = self.reader.u8()?;
        if usize::from(len) > N * 8 {
            return None;
        }
        let octets = self.reader.take(usize::from(len).div_ceil(8))?;
        let mut addr = [0; N];
        addr[..octets.len()].copy_from_slice(octets);
        Some((len, addr))
    }

    fn prefix(&mut self) -> Option<Nlri> {
        let net = if self.family == Family::Ipv4Unicast {
            let (len, addr) = self.prefix_octets::<4>()?;
            IpNet::V4(Ipv4Net::new(Ipv4Addr::from(addr), len).ok()?)
        } else {
            let (len, addr) = self.prefix_octets::<16>()?;
            IpNet::V6(Ipv6Net::new(Ipv6Addr::from(addr), len).ok()?)
        };
        Some(Nlri::from(net))
    }

    /// The next EVPN route that is understood; the outer `None` at the end of the field.
    fn evpn(&mut self) -> Option<Option<Nlri>> {
        while !self.reader.is_empty() {
            let route = (|| {
                let (route_type, len) = (self.reader.u8()?, self.reader.u8()?);
                Some((route_type, self.reader.take(usize::from(len))?))
            })();
            let Some((route_type, body)) = route else { return Some(None) };
            if let Some(nlri) = evpn::decode(route_type, body) {
                return Some(Some(nlri));
            }
        }
        None
    }
}

impl Iterator for NlriIter<'_> {
    type Item = Result<Nlri, NlriSyntax>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_path().map(|path| path.map(|(_, nlri)| nlri))
    }
}

/// Appends one route.
pub(crate) fn encode(nlri: &Nlri, out: &mut Vec<u8>) {
    match &nlri.key {
        Key::Prefix(net) => {
            out.push(net.prefix_len());
            let octets = usize::from(net.prefix_len()).div_ceil(8);
            match net {
                IpNet::V4(net) => out.extend_from_slice(&net.addr().octets()[..octets]),
                IpNet::V6(net) => out.extend_from_slice(&net.addr().octets()[..octets]),
            }
        }
        Key::Evpn(key) => evpn::encode(key, &nlri.data, out),
    }
}
