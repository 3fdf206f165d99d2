//! A cursor over received octets: every read says whether there was enough.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::types::Asn;

#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(octets: &'a [u8]) -> Self {
        Reader(octets)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// What was not read yet.
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u24(&mut self) -> Option<u32> {
        self.array().map(|[a, b, c]| u32::from_be_bytes([0, a, b, c]))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn ipv4(&mut self) -> Option<Ipv4Addr> {
        self.array::<4>().map(Ipv4Addr::from)
    }

    pub(super) fn ipv6(&mut self) -> Option<Ipv6Addr> {
        self.array::<16>().map(Ipv6Addr::from)
    }

    /// An address whose length in bits was given: 32 or 128.
    pub(super) fn ip(&mut self, bits: u8) -> Option<IpAddr> {
        match bits {
            32 => self.ipv4().map(IpAddr::V4),
            128 => self.ipv6().map(IpAddr::V6),
            _ => None,
        }
    }

    /// An AS number of 4 or 2 octets.
    pub(super) fn asn(&mut self, four_octets: bool) -> Option<Asn> {
        if four_octets { self.u32().map(Asn) } else { self.u16().map(|a| Asn(u32::from(a))) }
    }

    /// A part of `n` octets as a reader of its own.
    pub(super) fn part(&mut self, n: usize) -> Option<Reader<'a>> {
        self.take(n).map(Reader)
    }
}

/// Appends an address, 4 or 16 octets.
pub(super) fn put_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
        IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
    }
}

/// Appends the lower 24 bits.
pub(super) fn put_u24(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes()[1..]);
}
