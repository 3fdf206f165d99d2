//! Counters, summed over the CPUs.

use std::collections::BTreeMap;

use aya::maps::{Map, MapData, MapError, PerCpuArray, PerCpuHashMap};
use watari_abi::{Counter, DropReason, PortKey, PortStats};

use crate::{Error, Ports, table::is_absent};

/// Reader of all counters.
pub struct Stats {
    drops: PerCpuArray<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    /// What was counted by key.
    by_key: std::sync::Mutex<PerCpuHashMap<MapData, PortKey, PortStats>>,
    /// What was counted by slot.
    ports: Ports,
}

impl std::fmt::Debug for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stats").finish_non_exhaustive()
    }
}

impl Stats {
    pub(crate) fn new(drops: Map, counters: Map, by_key: Map, ports: Ports) -> Result<Self, Error> {
        let open = |name| move |error: MapError| Error::map(name, "open", error);
        Ok(Self {
            drops: PerCpuArray::try_from(drops).map_err(open("drops"))?,
            counters: PerCpuArray::try_from(counters).map_err(open("counters"))?,
            by_key: std::sync::Mutex::new(PerCpuHashMap::try_from(by_key).map_err(open("port_stats"))?),
            ports,
        })
    }

    /// Packets dropped, by reason; reasons that never occurred are included.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn drops(&self) -> Result<BTreeMap<DropReason, u64>, Error> {
        read(DropReason::ALL, |reason| sum(&self.drops, "drops", *reason as u32))
    }

    /// What the pipeline did by itself.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn counters(&self) -> Result<BTreeMap<Counter, u64>, Error> {
        read(Counter::ALL, |counter| sum(&self.counters, "counters", *counter as u32))
    }

    /// Traffic of every port that has seen some.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn ports(&self) -> Result<BTreeMap<PortKey, PortStats>, Error> {
        let mut entries = BTreeMap::new();
        for entry in self.lock_by_key().iter() {
            match entry {
                Ok((key, values)) => drop(entries.insert(key, total(&values))),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(Error::map("port_stats", "walk", error)),
            }
        }
        for (key, slot) in self.ports.slots()? {
            let counted = total(&self.ports.counted(slot)?);
            if counted != PortStats::default() {
                let entry = entries.entry(key).or_default();
                *entry = total(&[*entry, counted]);
            }
        }
        Ok(entries)
    }

    /// Traffic of one port; zeros if it has seen none.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn port(&self, key: &PortKey) -> Result<PortStats, Error> {
        let by_key = match self.lock_by_key().get(key, 0) {
            Ok(values) => total(&values),
            Err(error) if is_absent(&error) => PortStats::default(),
            Err(error) => return Err(Error::map("port_stats", "look up", error)),
        };
        match self.ports.slot(key)? {
            0 => Ok(by_key),
            slot => Ok(total(&[by_key, total(&self.ports.counted(slot)?)])),
        }
    }

    /// Sets the counters of a port to zero; of one that is gone, what is left of it goes. Returns whether it had counted.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn forget_port(&self, key: &PortKey) -> Result<bool, Error> {
        let had_counted = self.port(key)? != PortStats::default();
        let slot = self.ports.slot(key)?;
        if slot != 0 {
            self.ports.clear(slot)?;
        }
        match self.lock_by_key().remove(key) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(had_counted),
            Err(error) => Err(Error::map("port_stats", "remove", error)),
        }
    }

    fn lock_by_key(&self) -> std::sync::MutexGuard<'_, PerCpuHashMap<MapData, PortKey, PortStats>> {
        self.by_key.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn read<K: Copy + Ord>(
    all: &[K],
    value: impl Fn(&K) -> Result<u64, Error>,
) -> Result<BTreeMap<K, u64>, Error> {
    all.iter().map(|key| Ok((*key, value(key)?))).collect()
}

fn sum(map: &PerCpuArray<MapData, u64>, name: &'static str, index: u32) -> Result<u64, Error> {
    let values = map.get(&index, 0).map_err(|error| Error::map(name, "look up", error))?;
    Ok(values.iter().sum())
}

fn total(values: &[PortStats]) -> PortStats {
    values.iter().fold(PortStats::default(), |sum, one| PortStats {
        rx_packets: sum.rx_packets + one.rx_packets,
        rx_bytes: sum.rx_bytes + one.rx_bytes,
        tx_packets: sum.tx_packets + one.tx_packets,
        tx_bytes: sum.tx_bytes + one.tx_bytes,
        drops: sum.drops + one.drops,
    })
}
