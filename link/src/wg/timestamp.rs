//! TAI64N time stamps of handshake initiations (whitepaper §5.1): not for the time, but so that an initiation
//! that was recorded and sent again is older than what has been accepted since.

/// TAI's second that is the Unix epoch, with its offset of then.
const UNIX_EPOCH: u64 = (1 << 62) + 10;
const NANOSECONDS: u64 = 1_000_000_000;
/// Stamps go in steps of 2^24 ns (17 ms): how exactly our clock runs is nobody's business.
const STEP_NS: u64 = 1 << 24;

/// 8 bytes of seconds, 4 bytes of nanoseconds, big endian: ordered as bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp([u8; 12]);

impl Timestamp {
    /// A stamp as it is on the wire.
    pub const fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// The bytes on the wire.
    pub const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    /// The stamp for `unix_ns` nanoseconds since the Unix epoch, later than `last` even where the clock is
    /// not: it may be set back, and two initiations may fall into one step.
    pub fn after(last: &Self, unix_ns: u64) -> Self {
        let stamp = Self::new(UNIX_EPOCH + unix_ns / NANOSECONDS, (unix_ns % NANOSECONDS) & !(STEP_NS - 1));
        if stamp > *last { stamp } else { last.next() }
    }

    fn new(seconds: u64, nanoseconds: u64) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        // Below 2^30.
        bytes[8..].copy_from_slice(&(nanoseconds as u32).to_be_bytes());
        Self(bytes)
    }

    fn next(&self) -> Self {
        let mut bytes = [0; 16];
        bytes[4..].copy_from_slice(&self.0);
        let seconds = (u128::from_be_bytes(bytes) >> 32) as u64;
        let nanoseconds = u128::from_be_bytes(bytes) as u32;
        if u64::from(nanoseconds) + 1 < NANOSECONDS {
            Self::new(seconds, u64::from(nanoseconds) + 1)
        } else {
            Self::new(seconds.saturating_add(1), 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unix_epoch_is_djbs() {
        // cr.yp.to/libtai/tai64.html: 1970-01-01 00:00:10 TAI is hexadecimal 40 00 00 00 00 00 00 0a.
        let epoch = Timestamp::after(&Timestamp::default(), 0);
        assert_eq!(epoch.as_bytes(), &[0x40, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0]);
    }

    #[test]
    fn stamps_rise_with_the_clock_and_without_it() {
        let mut last = Timestamp::default();
        let clock = [
            5,
            5,
            5_999_999_999,
            6_000_000_000,
            6_000_000_001,
            3,
            6_999_999_999,
            6_999_999_999,
            7_000_000_000,
        ];
        for unix_ns in clock {
            let stamp = Timestamp::after(&last, unix_ns);
            assert!(stamp > last, "at {unix_ns}");
            last = stamp;
        }
    }

    #[test]
    fn the_last_nanosecond_of_a_second_is_followed_by_the_next_second() {
        let last = Timestamp::new(7, NANOSECONDS - 1);
        assert_eq!(last.next(), Timestamp::new(8, 0));
    }

    #[test]
    fn a_stamp_does_not_tell_the_time_to_the_nanosecond() {
        let one = Timestamp::after(&Timestamp::default(), 1_000_000_001);
        let other = Timestamp::after(&Timestamp::default(), 1_016_000_000);
        assert_eq!(one, other);
    }
}
