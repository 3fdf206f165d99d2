//! Opening the datapath: adopt what is pinned, replace what is outdated, load what is missing.

use std::path::Path;

use aya::maps::{Array, Map, MapData};
use watari_abi::{
    Bucket, Config, Entry, FloodPorts, FloodVteps, GuardMacKey, IpBytes, MacKey, MacLocal, MacRemote,
    MacStatic, NeighKey, NeighLocal, NeighRemote, NeighStatic, Node, NodeKey, PortBucketKey, PortKey, Remote,
    Segment, Tenant, TunnelKey, Watch, Wire,
};

use crate::{
    Error, Events, GuardIps, Losses, Ports, Routes, Stats, Stop, Table,
    epoch::Epoch,
    generation::{self, Found, Replacement},
    object::OBJECT,
    pins::PinFolder,
};

/// What [`Dataplane::open`] found, and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// Nothing was pinned: everything is new and empty.
    Fresh,
    /// Everything was there and is the same: nothing was touched.
    Adopted,
    /// The programs were replaced behind their attachments; the tables were kept.
    Replaced,
    /// Layouts had changed: the programs were replaced and the entries carried over into tables of the new form.
    Migrated(Losses),
    /// Nobody knows what the tables mean that were there: they are new and empty, the attachments run the new programs.
    Recreated,
}

/// A loaded and pinned datapath. Dropping it changes nothing in the kernel.
pub struct Dataplane {
    pub(crate) pins: PinFolder,
    adoption: Adoption,
    watch: std::sync::Mutex<Array<MapData, Watch>>,
    /// The page of test runs; whoever holds it runs.
    pub(crate) page: std::sync::Mutex<Array<MapData, Entry>>,
    /// Ports: what to do with frames of a device and VLAN. Writer: the plan.
    pub ports: Ports,
    /// Segments and L3VNIs by VNI. Writer: the plan.
    pub segments: Table<u32, Segment>,
    /// Tenants. Writer: the plan.
    pub tenants: Table<u32, Tenant>,
    /// Addresses of nodes. Writer: the plan.
    pub nodes: Table<NodeKey, Node>,
    /// VTEPs bound to tunnel devices; the value is 1. Writer: the plan.
    pub vteps: Table<TunnelKey, u32>,
    /// What is known of remote gateways, by VTEP. Writer: the plan.
    pub remotes: Table<IpBytes, Remote>,
    /// Where `direct` tunnels meet the wire, by the kernel's end of their veth. Writer: the plan.
    pub wires: Table<u32, Wire>,
    /// MACs that guarded attachments may use; the value is 1. Writer: the plan.
    pub guard_macs: Table<GuardMacKey, u32>,
    /// Prefixes that guarded attachments may use. Writer: the plan.
    pub guard_ips: GuardIps,
    /// MACs learnt on limited attachments. Writer: the programs; the brain sets what it has counted.
    pub port_macs: Table<PortKey, u32>,
    /// Rates of attachments. Writer: the programs.
    pub port_buckets: Table<PortBucketKey, Bucket>,
    /// Pinned MAC addresses. Writer: the plan.
    pub mac_static: Table<MacKey, MacStatic>,
    /// Stations that move too often, and the port where each is frozen. Writer: the facts.
    pub mac_frozen: Table<MacKey, PortKey>,
    /// MAC addresses learnt on attachments. Writer: the programs; the brain only removes what is too old or gone.
    pub mac_local: Table<MacKey, MacLocal>,
    /// MAC addresses behind other gateways. Writer: the EVPN syncer.
    pub mac_remote: Table<MacKey, MacRemote>,
    /// Own and pinned neighbours. Writer: the plan.
    pub nb_static: Table<NeighKey, NeighStatic>,
    /// Neighbours learnt on attachments. Writer: the programs; the brain only removes what is too old or gone.
    pub nb_local: Table<NeighKey, NeighLocal>,
    /// Neighbours behind other gateways. Writer: the EVPN syncer.
    pub nb_remote: Table<NeighKey, NeighRemote>,
    /// The tenants' routes. Writers: the plan and the syncers, told apart by `Route::origin`.
    pub routes: Routes,
    /// Local receivers of copies, by VNI. Writer: the plan.
    pub flood_ports: Table<u32, FloodPorts>,
    /// Remote receivers of copies, by VNI. Writer: the EVPN syncer.
    pub flood_vteps: Table<u32, FloodVteps>,
    /// What each segment may still flood. Writer: the programs.
    pub buckets: Table<u32, Bucket>,
    /// Counters.
    pub stats: Stats,
    pub(crate) last_walk: std::sync::Mutex<crate::fill::LastWalk>,
}

impl std::fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataplane")
            .field("folder", &self.pins.path())
            .field("adoption", &self.adoption)
            .finish_non_exhaustive()
    }
}

impl Dataplane {
    /// Opens the datapath of one instance, pinned in `folder` (mounting bpffs on `/sys/fs/bpf` if needed).
    ///
    /// Programs that differ from this library's are replaced behind their attachments without losing a packet, and
    /// tables of older forms are carried over: [`Adoption`]. An interrupted replacement is finished or undone first.
    ///
    /// # Errors
    /// bpffs, the verifier or a pin failed; what was there stays and forwards.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        Self::open_with(folder, OBJECT, None)
    }

    /// [`Dataplane::open`] with other programs than this library's, or stopped on the way: for tests.
    ///
    /// # Errors
    /// As [`Dataplane::open`]; [`Error::Stopped`] after the step `stop`.
    #[doc(hidden)]
    pub fn open_with(folder: &Path, object: &[u8], stop: Option<Stop>) -> Result<Self, Error> {
        let pins = PinFolder::create(folder)?;
        generation::settle(&pins)?;
        let found = generation::find(&pins, object)?;
        let adoption = match &found {
            Found::Known { same: true, .. } => Adoption::Adopted,
            _ => replace(&pins, &found, object, stop)?,
        };
        tracing::info!(folder = %folder.display(), ?adoption, "datapath open");
        let opened = Self::from_pins(pins, adoption)?;
        opened.ports.give_slots()?;
        Ok(opened)
    }

    /// The programs of this library.
    #[doc(hidden)]
    #[must_use]
    pub fn object() -> &'static [u8] {
        OBJECT
    }

    /// Opens the datapath that is pinned in `folder`, if there is one that [`Dataplane::open`] would adopt.
    /// Nothing is mounted, made, loaded or replaced: for those who only look.
    ///
    /// # Errors
    /// A pin is there and cannot be opened.
    pub fn open_existing(folder: &Path) -> Result<Option<Self>, Error> {
        let pins = PinFolder::existing(folder);
        let found =
            if pins.map("layout").exists() { generation::find(&pins, OBJECT)? } else { Found::Nothing };
        if !matches!(found, Found::Known { same: true, .. }) {
            return Ok(None);
        }
        Self::from_pins(pins, Adoption::Adopted).map(Some)
    }

    /// What [`Dataplane::open`] found.
    #[must_use]
    pub fn adoption(&self) -> &Adoption {
        &self.adoption
    }

    /// The pin folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.pins.path()
    }

    /// What the programs know about this gateway; zeros before the first [`Dataplane::set_config`].
    ///
    /// # Errors
    /// The kernel refused.
    pub fn config(&self) -> Result<Config, Error> {
        self.ports.config()
    }

    /// Tells the programs about this gateway.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn set_config(&self, config: &Config) -> Result<(), Error> {
        self.ports.set_config(config)
    }

    /// What is being looked at; see [`Watch`].
    ///
    /// # Errors
    /// The kernel refused.
    pub fn watch(&self) -> Result<Watch, Error> {
        lock(&self.watch).get(&0, 0).map_err(|error| Error::map("watch", "look up", error))
    }

    /// Starts or ends looking at live traffic.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn set_watch(&self, watch: &Watch) -> Result<(), Error> {
        lock(&self.watch).set(0, watch, 0).map_err(|error| Error::map("watch", "write", error))
    }

    /// A reader of the ring buffer of events. Only one should be used at a time.
    ///
    /// # Errors
    /// The ring buffer could not be mapped.
    pub fn events(&self) -> Result<Events, Error> {
        Events::new(open_map(&self.pins, "events")?)
    }

    /// A reader of the ring buffer of samples, which fills while [`Dataplane::set_watch`] asks for it. Only one should be
    /// used at a time.
    ///
    /// # Errors
    /// The ring buffer could not be mapped.
    pub fn samples(&self) -> Result<crate::Samples, Error> {
        crate::Samples::new(open_map(&self.pins, "samples")?)
    }

    /// Takes everything down: attachments, programs and tables. Packets stop.
    ///
    /// # Errors
    /// A pin could not be removed.
    pub fn remove(self) -> Result<(), Error> {
        self.pins.remove_all()
    }

    fn from_pins(pins: PinFolder, adoption: Adoption) -> Result<Self, Error> {
        let open = |name: &'static str| open_map(&pins, name);
        let epoch = Epoch::new(open("epoch")?)?;
        let ports = Ports::new(open("ports")?, open("config")?, open("port_counts")?, &epoch)?;
        Ok(Self {
            adoption,
            last_walk: std::sync::Mutex::default(),
            watch: array(&pins, "watch")?,
            page: array(&pins, "page")?,
            remotes: Table::new("remotes", open("remotes")?)?.ending(&epoch),
            wires: Table::new("wires", open("wires")?)?.ending(&epoch),
            guard_macs: Table::new("guard_macs", open("guard_macs")?)?.ending(&epoch),
            guard_ips: GuardIps::new(open("guard_ips")?, &epoch)?,
            port_macs: Table::new("port_macs", open("port_macs")?)?,
            port_buckets: Table::new("portbuckets", open("portbuckets")?)?,
            segments: Table::new("segments", open("segments")?)?.ending(&epoch),
            tenants: Table::new("tenants", open("tenants")?)?.ending(&epoch),
            nodes: Table::new("nodes", open("nodes")?)?.ending(&epoch),
            vteps: Table::new("vteps", open("vteps")?)?.ending(&epoch),
            mac_static: Table::new("mac_static", open("mac_static")?)?.ending(&epoch),
            mac_local: Table::new("mac_local", open("mac_local")?)?,
            mac_frozen: Table::new("mac_frozen", open("mac_frozen")?)?.ending(&epoch),
            mac_remote: Table::new("mac_remote", open("mac_remote")?)?,
            nb_static: Table::new("nb_static", open("nb_static")?)?,
            nb_local: Table::new("nb_local", open("nb_local")?)?,
            nb_remote: Table::new("nb_remote", open("nb_remote")?)?,
            routes: Routes::new(open("routes4")?, open("routes6")?)?,
            flood_ports: Table::new("flood_ports", open("flood_ports")?)?,
            flood_vteps: Table::new("flood_vteps", open("flood_vteps")?)?,
            buckets: Table::new("buckets", open("buckets")?)?,
            stats: Stats::new(open("drops")?, open("counters")?, open("port_stats")?, ports.clone())?,
            ports,
            pins,
        })
    }
}

fn array<V: aya::Pod>(
    pins: &PinFolder,
    name: &'static str,
) -> Result<std::sync::Mutex<Array<MapData, V>>, Error> {
    let array = Array::try_from(open_map(pins, name)?).map_err(|error| Error::map(name, "open", error))?;
    Ok(std::sync::Mutex::new(array))
}

pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn open_map(pins: &PinFolder, name: &'static str) -> Result<Map, Error> {
    open_pin(name, &pins.map(name))
}

pub(crate) fn open_pin(name: &'static str, pin: &Path) -> Result<Map, Error> {
    let data = MapData::from_pin(pin).map_err(|error| Error::map(name, "open pin", error))?;
    Map::from_map_data(data).map_err(|error| Error::map(name, "open", error))
}

/// Loads a new generation in the place of what was found.
fn replace(pins: &PinFolder, found: &Found, object: &[u8], stop: Option<Stop>) -> Result<Adoption, Error> {
    let replacement = Replacement::plan(pins, found, object, stop)?;
    let keeps_tables = replacement.keeps_tables();
    let losses = replacement.run()?;
    for table in &losses.emptied {
        tracing::warn!(table, "the table had a form that is not known: it starts empty");
    }
    for table in &losses.shortened {
        tracing::error!(table, "the table has less room than the one before: entries are missing");
    }
    Ok(match found {
        Found::Nothing => Adoption::Fresh,
        Found::Unknown => Adoption::Recreated,
        Found::Known { .. } if keeps_tables => Adoption::Replaced,
        Found::Known { .. } => Adoption::Migrated(losses),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn handles_may_be_used_from_several_threads() {
        fn shared<T: Send + Sync>() {}
        fn sent<T: Send>() {}
        shared::<super::Dataplane>();
        shared::<crate::Routes>();
        shared::<crate::Table<u32, crate::Segment>>();
        sent::<crate::Events>();
    }
}
