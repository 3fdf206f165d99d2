//! WireGuard devices, path probes, BFD sessions and beacons. One configuration, two engines: the kernel's where it has one, else
//! `watari-link`, a process of its own that goes on without us. Probes, BFD and beacons are always the latter's.
//!
//! Which engine it is, is decided once, at the start. A device of the other one (the kernel has got WireGuard
//! since, or the operator asked for user space) is removed before the right one is made under its name.

mod beacons;
mod bfd;
mod genetlink;
mod kernel;
mod overlays;
mod path_mtus;
mod rotation;
mod user;

use std::collections::BTreeMap;

use watari_link::protocol::{
    BeaconConfig, BeaconStatus, BfdConfig, BfdStatus, PathState, ProbeConfig, ProbeStatus,
};
use watari_planner::item::{Key, PortAt, Value, Wireguard};
use watari_planner::wanted::Wanted;
use watari_planner::{Observed, TunnelHealth};

use self::kernel::KernelEngine;
use self::overlays::Overlays;
use self::path_mtus::PathMtus;
use self::user::UserEngine;
use super::netlink::{Dump, Link, Netlink};
use super::{DriverError, Place};

/// Time between two probes of a tunnel.
const PROBE_INTERVAL_MS: u32 = 100;
/// Without an answer for so long a tunnel is down.
const PROBE_DEAD_MS: u32 = 800;

/// All WireGuard engines of this gateway.
pub struct Engines {
    user: UserEngine,
    /// Where it is to be used and the kernel has it.
    kernel: Option<KernelEngine>,
    alias: String,
    /// The probes as they are to be; `watari-link` takes them whole.
    probes: BTreeMap<String, ProbeConfig>,
    probes_changed: bool,
    /// Likewise the measurements of what crosses.
    path_mtus: PathMtus,
    /// Likewise the overlays.
    overlays: Overlays,
    /// Likewise the beacons.
    beacons: BTreeMap<PortAt, BeaconConfig>,
    beacons_changed: bool,
    /// Likewise the BFD sessions.
    bfd: BTreeMap<String, BfdConfig>,
    bfd_changed: bool,
}

impl Engines {
    /// Engines that use `private_key` on every device.
    pub fn new(place: &Place, private_key: [u8; 32]) -> Self {
        Self {
            user: UserEngine::new(place, private_key),
            kernel: place.kernel_wireguard.then(|| KernelEngine::probe(private_key)).flatten(),
            alias: place.alias(),
            probes: BTreeMap::new(),
            probes_changed: false,
            path_mtus: PathMtus::default(),
            overlays: Overlays::default(),
            beacons: BTreeMap::new(),
            beacons_changed: false,
            bfd: BTreeMap::new(),
            bfd_changed: false,
        }
    }

    /// Engines that are only looked at: `watari-link` is not started, and what does not run has nothing.
    pub fn look(place: &Place) -> Self {
        // No device is made with this key.
        let mut engines = Self::new(place, [1; 32]);
        engines.user.never_start();
        engines
    }

    /// Adds devices, probes and the state of tunnels to `observed`. An engine that does not answer has
    /// nothing; the ops that follow will say why.
    pub fn observe(&mut self, root: &Dump, alias: &str, observed: &mut Observed) {
        match self.user.devices() {
            Ok(devices) => {
                for device in devices.iter().filter(|d| d.alias == alias) {
                    user::observe_device(device, root, observed);
                    if self.kernel.is_some() {
                        kernel::observe_unusable(&device.name, observed);
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the devices of watari-link could not be read"),
        }
        for link in root.links.iter().filter(|l| is_kernel_device(l) && l.alias.as_deref() == Some(alias)) {
            match &self.kernel {
                Some(kernel) => kernel.observe(link, observed),
                None => kernel::observe_unusable(&link.name, observed),
            }
        }
        match self.user.probes() {
            Ok(probes) => self.observe_probes(&probes, observed),
            Err(error) => tracing::warn!(%error, "the probes of watari-link could not be read"),
        }
        match self.user.path_mtus() {
            Ok(paths) => self.path_mtus.observe(&paths, observed),
            Err(error) => {
                tracing::warn!(%error, "the path MTUs of watari-link could not be read");
                self.path_mtus.as_before(observed);
            }
        }
        match self.user.overlays() {
            Ok(overlays) => self.overlays.observe(overlays, alias, observed),
            Err(error) => {
                tracing::warn!(%error, "the overlays of watari-link could not be read");
                self.overlays.as_before(alias, observed);
            }
        }
        match self.user.bfd() {
            Ok(sessions) => self.observe_bfd(&sessions, observed),
            Err(error) => tracing::warn!(%error, "the BFD sessions of watari-link could not be read"),
        }
        match self.user.beacons() {
            Ok(beacons) => self.observe_beacons(&beacons, observed),
            Err(error) => tracing::warn!(%error, "the beacons of watari-link could not be read"),
        }
    }

    fn observe_bfd(&mut self, sessions: &[BfdStatus], observed: &mut Observed) {
        self.bfd.clear();
        for session in sessions {
            let name = session.config.name.clone();
            // What no plan could have made reads as there and different.
            let value = bfd::item(session).unwrap_or(Value::Present);
            observed.system.insert(Key::Bfd(name.clone()), value);
            observed.bfd.insert(name.clone(), bfd::health(session));
            self.bfd.insert(name, session.config.clone());
        }
    }

    fn observe_beacons(&mut self, beacons: &[BeaconStatus], observed: &mut Observed) {
        self.beacons.clear();
        for beacon in beacons {
            let Some((at, value)) = beacons::item(beacon) else { continue };
            observed.beacons.insert(at.clone(), beacon.since_ms);
            observed.system.insert(Key::Beacon(at.clone()), value);
            self.beacons.insert(at, beacon.config.clone());
        }
    }

    fn observe_probes(&mut self, probes: &[ProbeStatus], observed: &mut Observed) {
        self.probes.clear();
        for probe in probes {
            let config = &probe.config;
            self.probes.insert(config.name.clone(), config.clone());
            let (local, remote, device) = (config.local, config.remote, config.device.clone());
            let value = Value::Probe { local, remote, device };
            observed.system.insert(Key::Probe(config.name.clone()), value);
            let health = TunnelHealth {
                up: probe.state == PathState::Up,
                by_traffic: probe.by_traffic,
                rtt_us: probe.rtt_us,
                loss_percent: Some(f64::from(probe.loss_permille) / 10.0),
                jitter_out_us: probe.jitter_out_us,
                jitter_in_us: probe.jitter_in_us,
                delay_change_out_us: probe.delay_change_out_us,
                delay_change_in_us: probe.delay_change_in_us,
            };
            if let Ok(tunnel) = config.name.parse() {
                observed.tunnels.insert(tunnel, health);
            }
        }
    }

    /// To be called once it is known what is wanted: what an engine does not remember of the configuration of
    /// its devices, it takes from there.
    pub fn adopt(&mut self, wanted: &Wanted, observed: &mut Observed) {
        if let Some(kernel) = &mut self.kernel {
            kernel.adopt(wanted, observed);
        }
    }

    /// Moves peers of the kernel's engine that do not answer to their next place. The user-space engine does so by itself.
    pub fn tend(&mut self, observed: &Observed) {
        if let Some(kernel) = &mut self.kernel {
            kernel.tend(observed);
        }
    }

    /// Makes, changes or removes a device.
    ///
    /// # Errors
    /// What the engine said, or that a device of the name is not ours.
    pub async fn apply_device(
        &mut self,
        name: &str,
        value: &Value,
        remove: bool,
        root: &Netlink,
    ) -> Result<(), DriverError> {
        let existing = root.links().await?.into_iter().find(|l| l.name == name);
        // Of a device in user space, its engine knows best whose it is.
        let is_ours = existing.as_ref().is_none_or(|l| {
            l.alias.as_deref() == Some(self.alias.as_str()) || (self.kernel.is_none() && !is_kernel_device(l))
        });
        let in_kernel = existing.filter(is_kernel_device);
        match value {
            _ if remove && !is_ours => Ok(()),
            _ if remove => self.remove_device(name, in_kernel.as_ref(), root).await,
            Value::Wireguard(_) if !is_ours => Err(DriverError::Foreign { what: format!("device {name}") }),
            Value::Wireguard(device) => self.set_device(name, device, in_kernel.as_ref(), root).await,
            _ => Ok(()),
        }
    }

    async fn set_device(
        &mut self,
        name: &str,
        device: &Wireguard,
        in_kernel: Option<&Link>,
        root: &Netlink,
    ) -> Result<(), DriverError> {
        if let Some(kernel) = &mut self.kernel {
            // The kernel's engine needs no other; where a device in user space stands in its way, making it fails.
            if in_kernel.is_none()
                && let Err(error) = self.user.remove(name)
            {
                tracing::warn!(%error, device = name, "watari-link cannot be asked to let go of the device");
            }
            return kernel.set(root, in_kernel, name, device, &self.alias).await;
        }
        if let Some(link) = in_kernel {
            kernel::remove(root, link).await?;
        }
        self.user.set(name, device, &self.alias)
    }

    async fn remove_device(
        &mut self,
        name: &str,
        in_kernel: Option<&Link>,
        root: &Netlink,
    ) -> Result<(), DriverError> {
        if let Some(kernel) = &mut self.kernel {
            kernel.forget(name);
        }
        match in_kernel {
            Some(link) => kernel::remove(root, link).await,
            None => self.user.remove(name),
        }
    }

    /// Notes a probe; [`Engines::flush_probes`] sends them all.
    ///
    /// # Errors
    /// None for now: the engine speaks when all are sent.
    pub fn apply_probe(&mut self, name: &str, value: &Value, remove: bool) -> Result<(), DriverError> {
        self.probes_changed = true;
        match value {
            _ if remove => drop(self.probes.remove(name)),
            Value::Probe { local, remote, device } => {
                let config = ProbeConfig {
                    name: name.to_owned(),
                    local: *local,
                    remote: *remote,
                    device: device.clone(),
                    interval_ms: PROBE_INTERVAL_MS,
                    dead_after_ms: PROBE_DEAD_MS,
                };
                self.probes.insert(name.to_owned(), config);
            }
            _ => {}
        }
        Ok(())
    }

    /// Notes a measurement of what crosses; [`Engines::flush_path_mtus`] sends them all.
    pub fn apply_path_mtu(&mut self, name: &str, value: &Value, remove: bool) {
        self.path_mtus.apply(name, value, remove);
    }

    /// Sends the measurements that are to be made, if they changed.
    ///
    /// # Errors
    /// What the engine said.
    pub fn flush_path_mtus(&mut self) -> Result<(), DriverError> {
        match self.path_mtus.take_changed() {
            Some(paths) => self.user.set_path_mtus(paths),
            None => Ok(()),
        }
    }

    /// Notes an overlay, or that what arrives there comes out of its interface; [`Engines::flush_overlays`] sends them all.
    pub fn apply_overlay(&mut self, key: &Key, value: &Value, remove: bool) {
        self.overlays.apply(key, value, &self.alias, remove);
    }

    /// Sends the overlays, if they changed.
    ///
    /// # Errors
    /// What the engine said.
    pub fn flush_overlays(&mut self) -> Result<(), DriverError> {
        match self.overlays.take_changed() {
            Some(overlays) => self.user.set_overlays(overlays),
            None => Ok(()),
        }
    }

    /// Notes a beacon; [`Engines::flush_beacons`] sends them all.
    pub fn apply_beacon(&mut self, at: &PortAt, value: &Value, remove: bool) {
        self.beacons_changed = true;
        match beacons::config(at, value).filter(|_| !remove) {
            Some(config) => drop(self.beacons.insert(at.clone(), config)),
            None => drop(self.beacons.remove(at)),
        }
    }

    /// Notes a BFD session; [`Engines::flush_bfd`] sends them all.
    pub fn apply_bfd(&mut self, name: &str, value: &Value, remove: bool) {
        self.bfd_changed = true;
        match bfd::config(name, value).filter(|_| !remove) {
            Some(config) => drop(self.bfd.insert(name.to_owned(), config)),
            None => drop(self.bfd.remove(name)),
        }
    }

    /// Sends the BFD sessions, if they changed.
    ///
    /// # Errors
    /// What the engine said.
    pub fn flush_bfd(&mut self) -> Result<(), DriverError> {
        if std::mem::take(&mut self.bfd_changed) {
            self.user.set_bfd(self.bfd.values().cloned().collect())?;
        }
        Ok(())
    }

    /// Sends the beacons, if they changed.
    ///
    /// # Errors
    /// What the engine said.
    pub fn flush_beacons(&mut self) -> Result<(), DriverError> {
        if std::mem::take(&mut self.beacons_changed) {
            self.user.set_beacons(self.beacons.values().cloned().collect())?;
        }
        Ok(())
    }

    /// Sends the probes, if they changed.
    ///
    /// # Errors
    /// What the engine said.
    pub fn flush_probes(&mut self) -> Result<(), DriverError> {
        if std::mem::take(&mut self.probes_changed) {
            self.user.set_probes(self.probes.values().cloned().collect())?;
        }
        Ok(())
    }

    /// Ends `watari-link` and removes its devices: for `watari cleanup`.
    pub fn shutdown(&mut self) {
        self.user.shutdown();
    }
}

fn is_kernel_device(link: &Link) -> bool {
    link.kind.as_deref() == Some(kernel::KIND)
}
