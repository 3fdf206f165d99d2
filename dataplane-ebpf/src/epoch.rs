//! The end of everything that the flow cache remembers: another number in the map `epoch` with every write of the plan.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aya::maps::{Array, Map, MapData};
use nix::time::{ClockId, clock_gettime};

use crate::{Error, dataplane::lock};

const NAME: &str = "epoch";

/// Tells the programs that something has changed. Clones share it.
#[derive(Clone)]
pub(crate) struct Epoch(Arc<Mutex<Array<MapData, u64>>>);

impl std::fmt::Debug for Epoch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Epoch").finish()
    }
}

impl Epoch {
    pub(crate) fn new(map: Map) -> Result<Self, Error> {
        let map = Array::try_from(map).map_err(|error| Error::map(NAME, "open", error))?;
        Ok(Self(Arc::new(Mutex::new(map))))
    }

    /// Begins a new one. The time of the boot clock is another number each time, whoever of several processes writes it.
    ///
    /// # Errors
    /// The kernel refused.
    pub(crate) fn begin(&self) -> Result<(), Error> {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        let number = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        lock(&self.0).set(0, number, 0).map_err(|error| Error::map(NAME, "write", error))
    }
}
