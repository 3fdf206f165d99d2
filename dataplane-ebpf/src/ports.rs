//! The map `ports`, and where each port counts: a slot in the per-CPU array `port_counts`, which a program finds without
//! a look-up of its own, since the number stands in the port's entry.
//!
//! Slots are given out here and nowhere else. A port keeps its slot for as long as it has an entry, whatever the plan writes
//! into that, and over restarts and replacements of the programs, since both maps are pinned. A slot's counters are cleared
//! before it is given out. Entries without a slot are those that an older form of the table brought along: their traffic is
//! in `port_stats`, by key, and what is shown of a port is the sum of both, so that no figure jumps when it gets its slot.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Instant,
};

use aya::maps::{Array, Map, MapData, PerCpuArray, PerCpuValues};
use watari_abi::{Config, Port, PortKey, PortStats, limits::PORT_SLOTS_MAX};

use crate::{
    Error, Table,
    dataplane::lock,
    epoch::Epoch,
    relink::wait_for_running_programs,
    slots::{Given, Slots},
};

const COUNTS: &str = "port_counts";

/// Ports of this gateway. Clones share them. One process writes; others may read.
#[derive(Clone)]
pub struct Ports {
    table: Table<PortKey, Port>,
    config: Arc<Mutex<Array<MapData, Config>>>,
    counts: Arc<Mutex<Counts>>,
    epoch: Epoch,
}

/// Counters by slot, and which slots are in use.
struct Counts {
    map: PerCpuArray<MapData, PortStats>,
    slots: Slots,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ports").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Ports {
    /// The ports as they are pinned, with the slots that they have.
    pub(crate) fn new(ports: Map, config: Map, counts: Map, epoch: &Epoch) -> Result<Self, Error> {
        let opened = |name| move |error| Error::map(name, "open", error);
        let map = PerCpuArray::try_from(counts).map_err(opened(COUNTS))?;
        let config = Array::try_from(config).map_err(opened("config"))?;
        let ports = Self {
            table: Table::new("ports", ports)?.ending(epoch),
            config: Arc::new(Mutex::new(config)),
            counts: Arc::new(Mutex::new(Counts { map, slots: Slots::new(PORT_SLOTS_MAX) })),
            epoch: epoch.clone(),
        };
        for slot in ports.slots()?.into_values() {
            lock(&ports.counts).slots.occupy(slot);
        }
        Ok(ports)
    }

    /// Gives a slot to each entry that has none, or one that is another's. Slots that a former process took back may
    /// still be warm: this waits for the programs that know them.
    pub(crate) fn give_slots(&self) -> Result<(), Error> {
        wait_for_running_programs();
        let mut seen = Slots::new(PORT_SLOTS_MAX);
        for (key, mut port) in self.table.entries()? {
            if !seen.occupy(port.slot) {
                port.slot = lock(&self.counts).give()?;
                seen.occupy(port.slot);
                self.table.upsert(&key, &port)?;
            }
        }
        let config = self.written_config()?;
        if config.vxlan_ifindex != 0 && !seen.occupy(config.vxlan_slot) {
            let vxlan_slot = lock(&self.counts).give()?;
            self.write_config(&Config { vxlan_slot, ..config })?;
        }
        Ok(())
    }

    /// What was written for `key`.
    ///
    /// # Errors
    /// The kernel refused the look-up.
    pub fn get(&self, key: &PortKey) -> Result<Option<Port>, Error> {
        Ok(self.table.get(key)?.map(without_slot))
    }

    /// All ports, as they were written.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn entries(&self) -> Result<BTreeMap<PortKey, Port>, Error> {
        Ok(self.table.list()?.into_iter().map(|(key, port)| (key, without_slot(port))).collect())
    }

    /// Writes `port` under `key`, whether or not there was one. One that is new counts from zero, in a slot of its own;
    /// one that was there counts on. [`Port::slot`] of what is given does not matter.
    ///
    /// # Errors
    /// [`Error::TableFull`], or the kernel refused.
    pub fn upsert(&self, key: &PortKey, port: &Port) -> Result<(), Error> {
        let mut counts = lock(&self.counts);
        let old = self.table.get(key)?.map_or(0, |old| old.slot);
        let slot = if old == 0 { counts.give()? } else { old };
        let written = self.table.upsert(key, &Port { slot, ..*port });
        // Also a write that is told as failed may have been done.
        if written.is_err() && self.table.get(key)?.is_none_or(|port| port.slot != slot) {
            counts.slots.free(slot, Instant::now());
        }
        written
    }

    /// Removes a port. Its slot, and with it what it has counted, is somebody else's then. Returns whether it was there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self, key: &PortKey) -> Result<bool, Error> {
        let mut counts = lock(&self.counts);
        let old = self.table.get(key)?.map_or(0, |old| old.slot);
        let removed = self.table.remove(key)?;
        counts.slots.free(old, Instant::now());
        Ok(removed)
    }

    /// What the programs know about this gateway, as it was written.
    pub(crate) fn config(&self) -> Result<Config, Error> {
        Ok(Config { vxlan_slot: 0, ..self.written_config()? })
    }

    /// Tells the programs about this gateway. Another VXLAN device counts from zero.
    pub(crate) fn set_config(&self, config: &Config) -> Result<(), Error> {
        let mut counts = lock(&self.counts);
        let old = self.written_config()?;
        let is_same = old.vxlan_ifindex == config.vxlan_ifindex && old.vxlan_slot != 0;
        let vxlan_slot = match config.vxlan_ifindex {
            0 => 0,
            _ if is_same => old.vxlan_slot,
            _ => counts.give()?,
        };
        self.write_config(&Config { vxlan_slot, ..*config })?;
        if vxlan_slot != old.vxlan_slot {
            counts.slots.free(old.vxlan_slot, Instant::now());
        }
        Ok(())
    }

    /// The slot of every port that has one, and of the VXLAN device.
    pub(crate) fn slots(&self) -> Result<BTreeMap<PortKey, u32>, Error> {
        let ports = self.table.list()?.into_iter().map(|(key, port)| (key, port.slot));
        let mut slots: BTreeMap<_, _> = ports.filter(|(_, slot)| *slot != 0).collect();
        let config = self.written_config()?;
        if config.vxlan_slot != 0 {
            slots.insert(PortKey::untagged(config.vxlan_ifindex), config.vxlan_slot);
        }
        Ok(slots)
    }

    /// The slot of one of them; 0 for none.
    pub(crate) fn slot(&self, key: &PortKey) -> Result<u32, Error> {
        let config = self.written_config()?;
        if *key == PortKey::untagged(config.vxlan_ifindex) && config.vxlan_slot != 0 {
            return Ok(config.vxlan_slot);
        }
        Ok(self.table.get(key)?.map_or(0, |port| port.slot))
    }

    /// What was counted in a slot, of all CPUs.
    pub(crate) fn counted(&self, slot: u32) -> Result<Vec<PortStats>, Error> {
        let values = lock(&self.counts).map.get(&slot, 0);
        values.map(|values| values.to_vec()).map_err(|error| Error::map(COUNTS, "look up", error))
    }

    /// Sets the counters of a slot to zero.
    pub(crate) fn clear(&self, slot: u32) -> Result<(), Error> {
        lock(&self.counts).clear(slot)
    }

    fn written_config(&self) -> Result<Config, Error> {
        lock(&self.config).get(&0, 0).map_err(|error| Error::map("config", "look up", error))
    }

    fn write_config(&self, config: &Config) -> Result<(), Error> {
        lock(&self.config).set(0, config, 0).map_err(|error| Error::map("config", "write", error))?;
        self.epoch.begin()
    }
}

impl Counts {
    /// A slot whose counters are zero; 0, which is none, if all are taken: its holder then counts by key.
    fn give(&mut self) -> Result<u32, Error> {
        let Some(Given { slot, is_warm }) = self.slots.give(Instant::now()) else { return Ok(0) };
        if is_warm {
            wait_for_running_programs();
        }
        match self.clear(slot) {
            Ok(()) => Ok(slot),
            Err(error) => {
                self.slots.free(slot, Instant::now());
                Err(error)
            }
        }
    }

    fn clear(&mut self, slot: u32) -> Result<(), Error> {
        let failed = |error| Error::map(COUNTS, "clear", error);
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| Error::Element {
            map: COUNTS,
            operation: "count CPUs",
            source,
        })?;
        let zeros = PerCpuValues::try_from(vec![PortStats::default(); cpus]);
        let zeros = zeros.map_err(|source| Error::Element { map: COUNTS, operation: "clear", source })?;
        self.map.set(slot, zeros, 0).map_err(failed)
    }
}

/// The slot is the loader's own matter.
fn without_slot(port: Port) -> Port {
    Port { slot: 0, ..port }
}
