//! The ring buffer of samples: frames that came in, went out or were dropped, while [`Watch`](crate::Watch) asks for
//! them. Samples may be lost; [`Counter::SampleLost`](crate::Counter::SampleLost) says how many.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{Map, MapData, RingBuf};
use watari_abi::SampleHead;

use crate::Error;

/// One frame that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What is said of it.
    pub head: SampleHead,
    /// Its first bytes, from the Ethernet header on, without the tags of the port.
    pub frame: Vec<u8>,
}

/// Reader of the ring buffer. One at a time: samples are taken, not copied. The descriptor is readable when there
/// are some, so `tokio::io::unix::AsyncFd` can wait for it.
pub struct Samples {
    ring: RingBuf<MapData>,
}

impl Samples {
    pub(crate) fn new(map: Map) -> Result<Self, Error> {
        let ring = RingBuf::try_from(map).map_err(|error| Error::map("samples", "open", error))?;
        Ok(Self { ring })
    }

    /// Takes the oldest sample, if there is one.
    pub fn take(&mut self) -> Option<Sample> {
        loop {
            let record = self.ring.next()?;
            if let Some(sample) = read(&record) {
                return Some(sample);
            }
        }
    }
}

/// A record, taken apart; `None` if it is shorter than it says.
fn read(record: &[u8]) -> Option<Sample> {
    let (head, frame) = record.split_at_checked(size_of::<SampleHead>())?;
    // SAFETY: long enough, and `SampleHead` is valid for every pattern of bits.
    let head = unsafe { head.as_ptr().cast::<SampleHead>().read_unaligned() };
    let frame = frame.get(..head.captured as usize)?.to_vec();
    Some(Sample { head, frame })
}

impl AsFd for Samples {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Samples {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl std::fmt::Debug for Samples {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Samples").field("fd", &self.as_raw_fd()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_taken_apart_and_a_short_one_is_none() {
        let mut record = vec![0; size_of::<SampleHead>()];
        let captured = std::mem::offset_of!(SampleHead, captured);
        record[captured..captured + 4].copy_from_slice(&3_u32.to_ne_bytes());
        record.extend_from_slice(&[7, 8]);
        assert_eq!(read(&record), None);
        record.extend_from_slice(&[9, 0, 0]);
        assert_eq!(read(&record).unwrap().frame, [7, 8, 9]);
        assert_eq!(read(&record[..10]), None);
    }
}
