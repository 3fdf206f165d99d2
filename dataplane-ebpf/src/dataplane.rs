//! Opening the datapath: adopt what is pinned, replace what is outdated, load what is missing.

use std::{fs, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, ProgramArray},
    programs::{
        SchedClassifier,
        links::{FdLink, PinnedLink},
    },
};
use watari_abi::{
    Bucket, Config, Entry, FloodPorts, FloodVteps, GuardMacKey, Hook, IpBytes, MacKey, MacLocal, MacRemote,
    MacStatic, NeighKey, NeighLocal, NeighRemote, NeighStatic, Node, NodeKey, Port, PortBucketKey, PortKey,
    Remote, Segment, Stage, Tenant, TunnelKey, Watch, Wire, layout_number,
};

use crate::{
    Error, Events, GuardIps, Routes, Stats, Table,
    object::{self, MAPS, OBJECT, fingerprint, program_of},
    pins::{PinFolder, unpin},
};

/// What [`Dataplane::open`] found, and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// Nothing was pinned: everything is new and empty.
    Fresh,
    /// Everything was there and is the same: nothing was touched.
    Adopted,
    /// The programs were replaced behind their attachments; the tables were kept.
    Replaced,
    /// Layouts had changed: the tables are new and empty, the attachments run the new programs.
    Recreated,
}

/// A loaded and pinned datapath. Dropping it changes nothing in the kernel.
pub struct Dataplane {
    pub(crate) pins: PinFolder,
    adoption: Adoption,
    config: std::sync::Mutex<Array<MapData, Config>>,
    watch: std::sync::Mutex<Array<MapData, Watch>>,
    /// The page of test runs; whoever holds it runs.
    pub(crate) page: std::sync::Mutex<Array<MapData, Entry>>,
    /// Ports: what to do with frames of a device and VLAN. Writer: the plan.
    pub ports: Table<PortKey, Port>,
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
    /// Programs that differ from this library's are replaced atomically behind their attachments, so
    /// packets go on. If layouts differ, tables start empty: the caller writes them as after a first start.
    ///
    /// # Errors
    /// bpffs, the verifier or a pin failed; what was attached before stays attached.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let pins = PinFolder::create(folder)?;
        let adoption = judge(&pins)?;
        if adoption != Adoption::Adopted {
            load(&pins, adoption)?;
        }
        tracing::info!(folder = %folder.display(), ?adoption, "datapath open");
        Self::from_pins(pins, adoption)
    }

    /// Opens the datapath that is pinned in `folder`, if there is one that [`Dataplane::open`] would adopt.
    /// Nothing is mounted, made, loaded or replaced: for those who only look.
    ///
    /// # Errors
    /// A pin is there and cannot be opened.
    pub fn open_existing(folder: &Path) -> Result<Option<Self>, Error> {
        let pins = PinFolder::existing(folder);
        if !pins.map("layout").exists() || judge(&pins)? != Adoption::Adopted {
            return Ok(None);
        }
        Self::from_pins(pins, Adoption::Adopted).map(Some)
    }

    /// What [`Dataplane::open`] found.
    #[must_use]
    pub fn adoption(&self) -> Adoption {
        self.adoption
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
        lock(&self.config).get(&0, 0).map_err(|error| Error::map("config", "look up", error))
    }

    /// Tells the programs about this gateway.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn set_config(&self, config: &Config) -> Result<(), Error> {
        lock(&self.config).set(0, config, 0).map_err(|error| Error::map("config", "write", error))
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

    /// Takes everything down: attachments, programs and tables. Packets stop.
    ///
    /// # Errors
    /// A pin could not be removed.
    pub fn remove(self) -> Result<(), Error> {
        self.pins.remove_all()
    }

    fn from_pins(pins: PinFolder, adoption: Adoption) -> Result<Self, Error> {
        let open = |name: &'static str| open_map(&pins, name);
        Ok(Self {
            adoption,
            config: array(&pins, "config")?,
            watch: array(&pins, "watch")?,
            page: array(&pins, "page")?,
            remotes: Table::new("remotes", open("remotes")?)?,
            wires: Table::new("wires", open("wires")?)?,
            guard_macs: Table::new("guard_macs", open("guard_macs")?)?,
            guard_ips: GuardIps::new(open("guard_ips")?)?,
            port_macs: Table::new("port_macs", open("port_macs")?)?,
            port_buckets: Table::new("portbuckets", open("portbuckets")?)?,
            ports: Table::new("ports", open("ports")?)?,
            segments: Table::new("segments", open("segments")?)?,
            tenants: Table::new("tenants", open("tenants")?)?,
            nodes: Table::new("nodes", open("nodes")?)?,
            vteps: Table::new("vteps", open("vteps")?)?,
            mac_static: Table::new("mac_static", open("mac_static")?)?,
            mac_local: Table::new("mac_local", open("mac_local")?)?,
            mac_remote: Table::new("mac_remote", open("mac_remote")?)?,
            nb_static: Table::new("nb_static", open("nb_static")?)?,
            nb_local: Table::new("nb_local", open("nb_local")?)?,
            nb_remote: Table::new("nb_remote", open("nb_remote")?)?,
            routes: Routes::new(open("routes4")?, open("routes6")?)?,
            flood_ports: Table::new("flood_ports", open("flood_ports")?)?,
            flood_vteps: Table::new("flood_vteps", open("flood_vteps")?)?,
            buckets: Table::new("buckets", open("buckets")?)?,
            stats: Stats::new(open("drops")?, open("counters")?, open("port_stats")?)?,
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
    let data = MapData::from_pin(pins.map(name)).map_err(|error| Error::map(name, "open pin", error))?;
    Map::from_map_data(data).map_err(|error| Error::map(name, "open", error))
}

/// The entry of the map `layout`: number of the layouts, fingerprint of the programs.
type Layout = [u64; 2];

/// What is pinned, compared with this library.
fn judge(pins: &PinFolder) -> Result<Adoption, Error> {
    if !pins.map("layout").exists() {
        let anything = MAPS.iter().any(|name| pins.map(name).exists()) || !pins.links()?.is_empty();
        return Ok(if anything { Adoption::Recreated } else { Adoption::Fresh });
    }
    let layout: Array<MapData, Layout> =
        Array::try_from(open_map(pins, "layout")?).map_err(|error| Error::map("layout", "open", error))?;
    let [number, programs] = layout.get(&0, 0).map_err(|error| Error::map("layout", "look up", error))?;
    let complete = MAPS.iter().all(|name| pins.map(name).exists())
        && object::programs().all(|name| pins.program(name).exists());
    Ok(match (number == layout_number(), programs == fingerprint() && complete) {
        (false, _) => Adoption::Recreated,
        (true, true) => Adoption::Adopted,
        (true, false) => Adoption::Replaced,
    })
}

/// Loads the object onto the pinned maps (or new ones) and puts its programs behind the pinned links.
fn load(pins: &PinFolder, adoption: Adoption) -> Result<(), Error> {
    if adoption == Adoption::Recreated {
        for name in MAPS {
            unpin(&pins.map(name))?;
        }
    }
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut object = loader.load(OBJECT).map_err(|error| Error::Load(Box::new(error)))?;
    for name in object::programs() {
        let program = program_mut(&mut object, name)?;
        program.load().map_err(|error| Error::program(name, error))?;
    }
    fill_pipeline(&mut object)?;
    for (hook, _, path) in pins.links()? {
        relink(program_mut(&mut object, program_of(hook))?, hook, &path)?;
    }
    for name in object::programs() {
        let path = pins.program(name);
        unpin(&path)?;
        program_mut(&mut object, name)?
            .pin(&path)
            .map_err(|error| Error::Pin { path, source: Box::new(error) })?;
    }
    // Last, so that an interrupted replacement is done again.
    let failed = |error| Error::map("layout", "write", error);
    let map = object.map_mut("layout").ok_or_else(|| missing("map", "layout"))?;
    let mut layout: Array<_, Layout> = Array::try_from(map).map_err(failed)?;
    layout.set(0, [layout_number(), fingerprint()], 0).map_err(failed)
}

fn program_mut<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Error> {
    object
        .program_mut(name)
        .ok_or_else(|| missing("program", name))?
        .try_into()
        .map_err(|error| Error::program(name, error))
}

fn missing(what: &'static str, name: &str) -> Error {
    Error::Missing { what, name: name.to_owned() }
}

/// Puts the stages into the array that the hooks jump through.
fn fill_pipeline(object: &mut Ebpf) -> Result<(), Error> {
    let failed = |error| Error::map("pipeline", "write", error);
    let map = object.take_map("pipeline").ok_or_else(|| missing("map", "pipeline"))?;
    let mut pipeline = ProgramArray::try_from(map).map_err(failed)?;
    for stage in Stage::ALL {
        let name = stage.name();
        let program = program_mut(object, name)?;
        let fd = program.fd().map_err(|error| Error::program(name, error))?;
        pipeline.set(*stage as u32, fd, 0).map_err(failed)?;
    }
    Ok(())
}

/// Replaces the program behind a pinned link. A link whose device is gone is unpinned.
fn relink(program: &mut SchedClassifier, hook: Hook, path: &Path) -> Result<(), Error> {
    let link_error = |error| Error::Link { path: path.to_owned(), source: Box::new(error) };
    let link = PinnedLink::from_pin(path).map_err(link_error)?;
    let link = FdLink::from(link).try_into().map_err(link_error)?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // Held by its pin; the handle is let go without detaching.
            drop(program.take_link(id).map_err(|error| Error::program(hook.name(), error))?);
            Ok(())
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "link has no device any more");
            fs::remove_file(path).map_err(|source| Error::PinFolder { path: path.to_owned(), source })
        }
    }
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
