//! Bidirectional Forwarding Detection (RFC 5880), single hop (RFC 5881) and multihop (RFC 5883), in
//! asynchronous mode: does the neighbour hear us, and do we hear it, decided in tens of milliseconds.
//!
//! ```text
//!  datagram ─▶ [wire] packet ─▶ [table] which session ─▶ [auth] ─▶ [session] §6.8 ─▶ packets, changes
//!  clock ─────────────────────────────────────────────────────────▶    │
//!                 [shell]: the thread with sockets, clock and random bytes around the pure parts
//! ```
//!
//! It lives in this process and not in the brain, so that a brain that is killed or upgraded takes no
//! neighbour down: the C bit of every packet says so (RFC 5880 §4.1), and a BGP speaker at the other
//! side keeps our routes over the brain's restart for as long as BFD stays up (RFC 5882 §4.3).

mod auth;
mod estate;
mod mend;
mod session;
mod shell;
mod socket;
mod table;
mod wire;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod simulation;

pub(crate) use estate::BfdEstate;
pub(crate) use shell::BfdShell;

use crate::protocol::DropCount;

/// Why a packet was dropped. The numbers stay: they index the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Discard {
    /// Shorter than the mandatory section (RFC 5880 §4.1).
    Truncated = 0,
    /// Version other than 1 (§6.8.6).
    Version = 1,
    /// Length field below the minimum, or beyond the datagram (§6.8.6).
    Length = 2,
    /// Detect Mult is zero (§6.8.6).
    DetectMult = 3,
    /// Multipoint bit is set (§6.8.6).
    Multipoint = 4,
    /// My Discriminator is zero (§6.8.6).
    MyDiscriminator = 5,
    /// Your Discriminator is zero in a state that knows ours (§6.8.6).
    YourDiscriminator = 6,
    /// No session has that discriminator, or none is with that neighbour (§6.8.6).
    UnknownSession = 7,
    /// It came from elsewhere than its session's neighbour, or over another device.
    WrongPath = 8,
    /// TTL or hop limit is not 255 (RFC 5881 §5), or below the session's minimum (RFC 5883 §5).
    Ttl = 9,
    /// Authenticated and not to be, or the other way round (§6.8.6).
    AuthenticationPresence = 10,
    /// Authentication section of another type, key or length (§6.7).
    AuthenticationForm = 11,
    /// Sequence number outside the window: old, or played again (§6.7.4).
    AuthenticationSequence = 12,
    /// Password or hash does not match (§6.7.2, §6.7.4).
    AuthenticationMismatch = 13,
    /// Both Poll and Final are set (§6.5: a packet answers or asks).
    PollAndFinal = 14,
}

impl Discard {
    const ALL: [Self; 15] = [
        Self::Truncated,
        Self::Version,
        Self::Length,
        Self::DetectMult,
        Self::Multipoint,
        Self::MyDiscriminator,
        Self::YourDiscriminator,
        Self::UnknownSession,
        Self::WrongPath,
        Self::Ttl,
        Self::AuthenticationPresence,
        Self::AuthenticationForm,
        Self::AuthenticationSequence,
        Self::AuthenticationMismatch,
        Self::PollAndFinal,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Version => "version",
            Self::Length => "length",
            Self::DetectMult => "detect_mult_zero",
            Self::Multipoint => "multipoint",
            Self::MyDiscriminator => "my_discriminator_zero",
            Self::YourDiscriminator => "your_discriminator_zero",
            Self::UnknownSession => "unknown_session",
            Self::WrongPath => "wrong_path",
            Self::Ttl => "ttl",
            Self::AuthenticationPresence => "authentication_presence",
            Self::AuthenticationForm => "authentication_form",
            Self::AuthenticationSequence => "authentication_sequence",
            Self::AuthenticationMismatch => "authentication_mismatch",
            Self::PollAndFinal => "poll_and_final",
        }
    }
}

/// Packets dropped, by reason.
#[derive(Debug, Default, Clone)]
pub(crate) struct Drops([u64; Discard::ALL.len()]);

impl Drops {
    pub(crate) fn count(&mut self, reason: Discard) {
        self.0[reason as usize] += 1;
    }

    /// What was dropped, in the order of the reasons; zeroes left out.
    pub(crate) fn list(&self) -> Vec<DropCount> {
        let counted = Discard::ALL.iter().zip(self.0).filter(|(_, packets)| *packets > 0);
        counted.map(|(reason, packets)| DropCount { reason: reason.name().to_owned(), packets }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_counts_under_its_own_number() {
        let mut drops = Drops::default();
        for (number, reason) in Discard::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number);
            (0..=number).for_each(|_| drops.count(*reason));
        }
        let listed = drops.list();
        assert_eq!(listed.len(), Discard::ALL.len());
        for (number, count) in listed.iter().enumerate() {
            assert_eq!(
                (count.packets, count.reason.as_str()),
                (number as u64 + 1, Discard::ALL[number].name())
            );
        }
    }
}
