//! The hands of the daemon: they read back what is there, and carry out one op at a time, without choices.
//!
//! ```text
//!             ┌ namespace   /run/netns
//!             ├ links       vxlan, veth             (netlink)
//!  observe()  ├ wireguard   kernel, or watari-link
//!  apply(op)  ├ sysctl      /proc/sys
//!             ├ addresses   addresses, neighbours, routes (netlink)
//!             ├ bundles     tunnels that share traffic: nexthop groups (netlink)
//!             ├ datapath    maps, programs, attachments   (bpf)
//!             └ probes      watari-link
//! ```
//! Everything made here carries our mark: a link alias, a route protocol, a pin folder, the prefix of a
//! namespace. What does not carry it is seen and never touched.

pub mod addresses;
pub mod bundles;
pub mod datapath;
pub mod error;
pub mod links;
pub mod namespace;
pub mod netlink;
mod nexthops;
pub mod sysctl;
pub mod wireguard;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use watari_config::Name;
use watari_planner::item::{Key, Ns, Value};
use watari_planner::wanted::Wanted;
use watari_planner::{Action, Identity, Observed, Op};

use self::datapath::Datapath;
pub use self::error::DriverError;
use self::netlink::Netlink;
use self::wireguard::Engines;

/// Kernel routes of operator's objects carry this protocol.
pub const PROTOCOL_PLAN: u8 = 219;
/// Kernel routes that were learnt carry this protocol.
pub const PROTOCOL_LEARNT: u8 = 220;

/// Where the drivers find their things.
#[derive(Clone, Debug)]
pub struct Place {
    /// The gateway's name: part of every mark.
    pub gateway: Name,
    /// Folder of the pins.
    pub pins: PathBuf,
    /// Socket of `watari-link`.
    pub link_socket: PathBuf,
    /// State file of `watari-link`.
    pub link_state: PathBuf,
    /// The program `watari-link`.
    pub link_binary: PathBuf,
    /// Use kernel WireGuard where the kernel has it.
    pub kernel_wireguard: bool,
}

impl Place {
    /// The alias of a link of ours.
    pub fn alias(&self) -> String {
        format!("watari:{}", self.gateway)
    }
}

/// All drivers of one gateway.
pub struct Drivers {
    place: Place,
    identity: Identity,
    /// Connections by namespace; a tenant's is dropped when its namespace is gone or is another one.
    netlinks: BTreeMap<Ns, Netlink>,
    /// Maps and programs.
    pub datapath: Datapath,
    engines: Engines,
    wakeup: netlink::Wakeup,
    /// Index of each device of the gateway's namespace, while no op has made or removed one.
    indices: Option<BTreeMap<String, u32>>,
}

impl Drivers {
    /// Opens everything: loads or adopts the datapath, starts or finds `watari-link`.
    ///
    /// # Errors
    /// When the kernel refuses the datapath, or netlink is not to be had.
    pub async fn open(
        place: Place,
        private_key: [u8; 32],
        identity: Identity,
        wakeup: netlink::Wakeup,
    ) -> Result<Self, DriverError> {
        let datapath = Datapath::open(&place.pins)?;
        let root = Netlink::connect(&Ns::Root, wakeup.clone()).await?;
        let engines = Engines::new(&place, private_key);
        let netlinks = BTreeMap::from([(Ns::Root, root)]);
        Ok(Self { place, identity, netlinks, datapath, engines, wakeup, indices: None })
    }

    /// Reads back everything that is ours. Settings are read for `interest` alone, because a setting
    /// carries no mark.
    ///
    /// # Errors
    /// When a dump fails; then nothing is to be concluded from what is missing.
    pub async fn observe(&mut self) -> Result<Observed, DriverError> {
        let mut observed = Observed::nothing(self.identity.clone());
        self.indices = None;
        let namespaces = namespace::list(&self.place.gateway)?;
        self.connect(&namespaces).await?;
        let system = &mut observed.system;
        system.extend(namespaces.iter().map(|n| (Key::Namespace(n.clone()), Value::Present)));
        let mut dumps = BTreeMap::new();
        for (ns, netlink) in &self.netlinks {
            dumps.insert(ns.clone(), netlink.dump().await?);
        }
        let links = &dumps[&Ns::Root].links;
        observed.devices = links.iter().map(|l| l.name.clone()).collect();
        observed.device_mtus = links.iter().map(|l| (l.name.clone(), l.mtu)).collect();
        let plain = links.iter().filter(|l| l.kind.as_deref() == Some("veth"));
        observed.plain_devices = plain.clone().map(|l| l.name.clone()).collect();
        let near = plain.filter(|l| l.crosses && l.queueless);
        observed.near_devices = near.map(|l| l.name.clone()).collect();
        links::observe(&dumps, &self.place.alias(), system);
        addresses::observe(&dumps, &self.place.alias(), system);
        bundles::observe(&dumps[&Ns::Root], system);
        let names: BTreeMap<u32, String> =
            dumps[&Ns::Root].links.iter().map(|l| (l.index, l.name.clone())).collect();
        self.datapath.observe(&names, system)?;
        self.engines.observe(&dumps[&Ns::Root], &self.place.alias(), &mut observed);
        Ok(observed)
    }

    /// Adds to `observed` the settings that `wanted` speaks of, and what else cannot be told without it.
    pub fn observe_settings(&mut self, wanted: &Wanted, observed: &mut Observed) {
        let keys = wanted.items.keys().filter_map(|key| match key {
            Key::Sysctl(ns, path) => Some((ns.clone(), path.clone())),
            _ => None,
        });
        observed.system.extend(sysctl::read(keys.collect()));
        self.engines.adopt(wanted, observed);
    }

    /// Sees to what follows health and no plan: which of several places of a peer the kernel's WireGuard uses.
    pub fn tend(&mut self, observed: &Observed) {
        self.engines.tend(observed);
    }

    /// Carries out one op.
    ///
    /// # Errors
    /// What the system said. An op that finds itself done already succeeds.
    pub async fn apply(&mut self, op: &Op) -> Result<(), DriverError> {
        let remove = op.action == Action::Remove;
        if matches!(op.key, Key::Namespace(_) | Key::Vxlan(_) | Key::Veth(_) | Key::Wireguard(_)) {
            self.indices = None;
        }
        match &op.key {
            Key::Namespace(name) if remove => {
                self.netlinks.remove(&Ns::Tenant(name.clone()));
                namespace::remove(name)
            }
            Key::Namespace(name) => namespace::create(name),
            Key::Vxlan(_) | Key::Veth(_) => links::apply(self, op).await,
            Key::Wireguard(name) => {
                self.engines.apply_device(name, &op.value, remove, &self.netlinks[&Ns::Root]).await
            }
            key @ (Key::Overlay(_) | Key::OverlayInbound(_)) => {
                // The TAP comes and goes with it.
                self.indices = None;
                self.engines.apply_overlay(key, &op.value, remove);
                Ok(())
            }
            Key::Probe(name) => self.engines.apply_probe(name, &op.value, remove),
            Key::PathMtu(name) => {
                self.engines.apply_path_mtu(name, &op.value, remove);
                Ok(())
            }
            Key::Bfd(name) => {
                self.engines.apply_bfd(name, &op.value, remove);
                Ok(())
            }
            Key::Beacon(at) => {
                self.engines.apply_beacon(at, &op.value, remove);
                Ok(())
            }
            Key::Sysctl(ns, path) => match &op.value {
                Value::Setting(text) if !remove => sysctl::write(ns, path, text),
                _ => Ok(()),
            },
            Key::Bundle(_) => bundles::apply(self.netlink(&Ns::Root).await?, op).await,
            Key::Address(ns, ..) | Key::Neighbour(ns, ..) | Key::Route(ns, ..) => {
                addresses::apply(self.netlink(ns).await?, op).await
            }
            _ => {
                self.read_indices().await?;
                self.datapath.apply(op, self.indices.as_ref().unwrap_or(&BTreeMap::new()))
            }
        }
    }

    /// To be called after the last op of a plan: some engines take their configuration whole.
    ///
    /// # Errors
    /// What the engine said.
    pub fn flush(&mut self) -> Result<(), DriverError> {
        let (probes, bfd) = (self.engines.flush_probes(), self.engines.flush_bfd());
        let path_mtus = self.engines.flush_path_mtus();
        let overlays = self.engines.flush_overlays();
        probes.and(bfd).and(path_mtus).and(overlays).and(self.engines.flush_beacons())
    }

    /// The connection to a namespace, made where there is none yet.
    pub(crate) async fn netlink(&mut self, ns: &Ns) -> Result<&Netlink, DriverError> {
        if !self.netlinks.contains_key(ns) {
            let netlink = Netlink::connect(ns, self.wakeup.clone()).await?;
            self.netlinks.insert(ns.clone(), netlink);
        }
        Ok(&self.netlinks[ns])
    }

    async fn read_indices(&mut self) -> Result<(), DriverError> {
        if self.indices.is_none() {
            let links = self.netlinks[&Ns::Root].links().await?;
            self.indices = Some(links.into_iter().map(|l| (l.name, l.index)).collect());
        }
        Ok(())
    }

    async fn connect(&mut self, namespaces: &BTreeSet<String>) -> Result<(), DriverError> {
        self.netlinks.retain(|ns, netlink| match ns {
            Ns::Root => true,
            Ns::Tenant(name) => namespaces.contains(name) && netlink.inode == namespace::inode(name).ok(),
        });
        for name in namespaces {
            self.netlink(&Ns::Tenant(name.clone())).await?;
        }
        Ok(())
    }

    /// The mark on our links.
    pub(crate) fn alias(&self) -> String {
        self.place.alias()
    }

    /// Takes everything down that carries our mark, packets included.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest was tried all the same.
    pub async fn remove_everything(mut self) -> Result<(), DriverError> {
        let observed = self.observe().await?;
        let mut first = Ok(());
        for (key, value) in observed.system.iter().rev() {
            let op =
                Op { action: Action::Remove, key: key.clone(), value: value.clone(), owner: String::new() };
            let done = self.apply(&op).await;
            first = first.and(done);
        }
        let flushed = self.flush();
        self.engines.shutdown();
        let unpinned = self.datapath.remove();
        first.and(flushed).and(unpinned)
    }
}
