//! The ring buffer of events: hints that something is worth a look. Events may be lost; the tables are the truth.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{Map, MapData, RingBuf};
use watari_abi::Event;

use crate::Error;

/// Reader of the ring buffer. One at a time: events are taken, not copied. The descriptor is readable
/// when there are some, so `tokio::io::unix::AsyncFd` can wait for it.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    pub(crate) fn new(map: Map) -> Result<Self, Error> {
        let ring = RingBuf::try_from(map).map_err(|error| Error::map("events", "open", error))?;
        Ok(Self { ring })
    }

    /// Takes the oldest event, if there is one.
    pub fn take(&mut self) -> Option<Event> {
        loop {
            let record = self.ring.next()?;
            if record.len() >= size_of::<Event>() {
                // SAFETY: long enough, and `Event` is valid for every pattern of bits.
                return Some(unsafe { record.as_ptr().cast::<Event>().read_unaligned() });
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("fd", &self.as_raw_fd()).finish()
    }
}
