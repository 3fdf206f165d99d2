//! What the verbs do: one object that owns engine, probes, beacons, BFD and state file, behind one lock. Every
//! change is applied, then stored, then acknowledged.

mod succession;

use std::collections::BTreeSet;
use std::error::Error;
use std::io;
use std::sync::Arc;

pub(crate) use succession::Heirlooms;

use crate::beacon::BeaconShell;
use crate::bfd::BfdShell;
use crate::engine::{Engine, EngineError, EngineOptions, LastEndpoints, TunError};
use crate::events::EventHub;
use crate::path_mtu::PathMtuShell;
use crate::probe::ProbeShell;
use crate::protocol::{
    Answer, BeaconsConfig, BfdSessionsConfig, Changed, DeviceConfig, DeviceName, OverlaysConfig,
    PathMtusConfig, ProbesConfig, Refusal, RefusalCode,
};
use crate::state::{State, StateFile};
use crate::uapi::Shown;
use crate::validate;

/// Engine, probes, beacons, BFD and their stored configuration.
pub(crate) struct Control {
    engine: Engine,
    probes: ProbeShell,
    path_mtus: PathMtuShell,
    beacons: BeaconShell,
    bfd: BfdShell,
    state: State,
    file: StateFile,
}

impl Control {
    /// Takes up what the state file says: interfaces are attached to, sockets bound, peers called.
    /// A device that cannot be taken up is logged and stays in the file, for the next try.
    pub(crate) fn restore(
        file: StateFile,
        events: &Arc<EventHub>,
        options: EngineOptions,
    ) -> io::Result<Self> {
        let state = match file.load() {
            Ok(state) => state,
            Err(error) => {
                tracing::error!(error = chain(&error), "state");
                let aside = file.set_aside().map_err(io::Error::other)?;
                tracing::error!(aside = %aside.display(), "starting without state");
                State::default()
            }
        };
        let mut engine = Engine::new(Arc::clone(events), options);
        let nowhere = LastEndpoints::new();
        for (name, device) in &state.devices {
            let last = state.endpoints.get(name).unwrap_or(&nowhere);
            match engine.set(device.clone(), last) {
                Ok(_) => tracing::info!(device = name, peers = device.peers.len(), "restored"),
                Err(error) => {
                    tracing::error!(device = name, error = chain(&error), "not restored");
                }
            }
        }
        if let Err(error) = engine.set_overlays(state.overlays.clone()) {
            tracing::error!(error = chain(&error), "overlays are not restored");
        }
        let probes = ProbeShell::start(Arc::clone(events))?;
        probes.set(state.probes.clone());
        let path_mtus = PathMtuShell::start(Arc::clone(events))?;
        path_mtus.set(state.path_mtus.clone());
        let beacons = BeaconShell::start(&state.beacons)?;
        let bfd = BfdShell::start(Arc::clone(events))?;
        bfd.set(state.bfd.clone())?;
        Ok(Self { engine, probes, path_mtus, beacons, bfd, state, file })
    }

    pub(crate) fn list_devices(&self) -> Answer {
        Answer::Devices(self.engine.list())
    }

    /// Names of the devices that there are.
    pub(crate) fn device_names(&self) -> BTreeSet<String> {
        self.engine.indices().into_keys().collect()
    }

    /// A device as `wg(8)` shows it.
    pub(crate) fn show(&self, name: &str) -> Option<Shown> {
        let status = self.engine.list().into_iter().find(|device| device.name == name)?;
        let config = self.state.devices.get(name)?.clone();
        Some(Shown { config, status, has_key: true, mark: 0 })
    }

    pub(crate) fn list_probes(&self) -> Answer {
        Answer::Probes(self.probes.list())
    }

    pub(crate) fn set_device(&mut self, wanted: DeviceConfig) -> Result<Answer, Refusal> {
        validate::device(&wanted)?;
        let nowhere = LastEndpoints::new();
        let last = self.state.endpoints.get(&wanted.name).unwrap_or(&nowhere);
        let touched = self.engine.set(wanted.clone(), last)?;
        if !touched.is_empty() {
            tracing::info!(device = wanted.name, touched = touched.len(), "device set");
        }
        if self.state.devices.get(&wanted.name) != Some(&wanted) {
            self.state.devices.insert(wanted.name.clone(), wanted);
            self.state.endpoints = self.engine.endpoints();
            self.store()?;
        }
        Ok(Answer::Changed(Changed { touched }))
    }

    pub(crate) fn remove_device(&mut self, device: &DeviceName) -> Result<Answer, Refusal> {
        validate::device_name("name", &device.name)?;
        let mut touched = Vec::new();
        if self.engine.remove(&device.name)? {
            tracing::info!(device = device.name, "device removed");
            touched.push("removed".to_owned());
        }
        self.state.endpoints.remove(&device.name);
        if self.state.devices.remove(&device.name).is_some() {
            self.store()?;
        }
        Ok(Answer::Changed(Changed { touched }))
    }

    pub(crate) fn set_probes(&mut self, wanted: ProbesConfig) -> Result<Answer, Refusal> {
        validate::probes(&wanted)?;
        let touched = self.probes.set(wanted.clone());
        if self.state.probes != wanted {
            self.state.probes = wanted;
            self.store()?;
        }
        Ok(Answer::Changed(Changed { touched }))
    }

    pub(crate) fn list_path_mtus(&self) -> Answer {
        Answer::PathMtus(self.path_mtus.list())
    }

    pub(crate) fn set_path_mtus(&mut self, wanted: PathMtusConfig) -> Result<Answer, Refusal> {
        validate::path_mtus(&wanted)?;
        let touched = self.path_mtus.set(wanted.clone());
        if self.state.path_mtus != wanted {
            self.state.path_mtus = wanted;
            self.store()?;
        }
        Ok(Answer::Changed(Changed { touched }))
    }

    pub(crate) fn list_overlays(&self) -> Answer {
        Answer::Overlays(self.engine.overlays())
    }

    pub(crate) fn set_overlays(&mut self, wanted: OverlaysConfig) -> Result<Answer, Refusal> {
        validate::overlays(&wanted)?;
        let touched = self.engine.set_overlays(wanted.clone())?;
        if self.state.overlays != wanted {
            self.state.overlays = wanted;
            self.store()?;
        }
        Ok(Answer::Changed(Changed { touched }))
    }

    /// Opens again what is missing of the overlays' interfaces.
    pub(crate) fn mend_overlays(&mut self) {
        self.engine.mend_overlays();
    }

    pub(crate) fn list_beacons(&self) -> Answer {
        Answer::Beacons(self.beacons.list())
    }

    pub(crate) fn set_beacons(&mut self, wanted: BeaconsConfig) -> Result<Answer, Refusal> {
        validate::beacons(&wanted)?;
        let touched = self.beacons.set(wanted.beacons);
        let stored = self.beacons.stored();
        if self.state.beacons != stored {
            self.state.beacons = stored;
            self.store()?;
        }
        Ok(Answer::Changed(Changed { touched }))
    }

    pub(crate) fn list_bfd(&self) -> Answer {
        Answer::Bfd(self.bfd.list())
    }

    pub(crate) fn set_bfd(&mut self, wanted: BfdSessionsConfig) -> Result<Answer, Refusal> {
        validate::bfd(&wanted)?;
        let touched = self.bfd.set(wanted.clone()).map_err(|error| Refusal {
            code: RefusalCode::System,
            field: None,
            message: format!("no random bytes: {error}"),
        })?;
        if self.state.bfd != wanted {
            self.state.bfd = wanted;
            self.store()?;
        }
        Ok(Answer::Changed(Changed { touched }))
    }

    /// Stores where peers are, if any moved since the last time.
    pub(crate) fn store_endpoints(&mut self) {
        if !self.engine.take_moved() {
            return;
        }
        let endpoints = self.engine.endpoints();
        if endpoints != self.state.endpoints {
            self.state.endpoints = endpoints;
            if let Err(refusal) = self.store() {
                tracing::error!(%refusal, "endpoints are not stored");
            }
        }
    }

    /// Removes every interface and forgets everything.
    pub(crate) fn remove_all(&mut self) {
        for name in self.state.devices.keys() {
            if let Err(error) = self.engine.remove(name) {
                tracing::error!(device = name, error = chain(&error), "not removed");
            }
        }
        self.beacons.set(Vec::new());
        if let Err(error) = self.bfd.set(BfdSessionsConfig::default()) {
            tracing::error!(%error, "BFD sessions end without a word");
        }
        self.state = State::default();
        if let Err(refusal) = self.store() {
            tracing::error!(%refusal, "the stored configuration stays");
        }
    }

    fn store(&self) -> Result<(), Refusal> {
        self.file.save(&self.state).map_err(|error| Refusal {
            code: RefusalCode::System,
            field: None,
            message: format!("applied, but not stored: {}", chain(&error)),
        })
    }
}

impl From<EngineError> for Refusal {
    fn from(error: EngineError) -> Self {
        let (code, field) = match &error {
            EngineError::Tun(TunError::NotTun(_) | TunError::Foreign { .. } | TunError::Busy(_)) => {
                (RefusalCode::Foreign, Some("name"))
            }
            EngineError::Bind { .. } => (RefusalCode::System, Some("listen_port")),
            EngineError::TooManyDevices => (RefusalCode::Limit, Some("name")),
            _ => (RefusalCode::System, None),
        };
        Self { code, field: field.map(str::to_owned), message: chain(&error) }
    }
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
