//! How everything passes from one process to another: the parts of [`crate::handover`]'s conversation that are about what there is.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Instant;

use super::{Control, chain};
use crate::beacon::BeaconShell;
use crate::bfd::BfdShell;
use crate::engine::{DeviceEstate, Engine, EngineError, EngineOptions, LastEndpoints};
use crate::events::EventHub;
use crate::handover::{Estate, Given, Giver, HandoverError, Preparation, SentFds, TakeOverError, Taker};
use crate::path_mtu::PathMtuShell;
use crate::probe::ProbeShell;
use crate::state::StateFile;

/// What a process has besides devices and timers.
pub(crate) struct Heirlooms {
    /// Listens at the control socket.
    pub(crate) listener: UnixListener,
    /// Holds the lock of the control socket: it is free when no process has it open.
    pub(crate) lock: File,
}

impl Control {
    /// Hands everything over to a successor, or goes on as before.
    pub(crate) fn hand_over(&mut self, giver: &Giver, own: &Heirlooms) -> Given {
        let preparation = Preparation { state: self.state.clone(), indices: self.engine.indices() };
        if let Err(error) = giver.prepare(&preparation) {
            return Given::Kept(error);
        }
        drop(preparation);
        let stopped = Instant::now();
        let mut fds = SentFds::default();
        self.pause();
        let kept = match self.estate(own, &mut fds) {
            Ok(estate) => match giver.give(&estate, &fds) {
                Given::Gone => {
                    tracing::info!(microseconds = stopped.elapsed().as_micros(), "nobody read");
                    return Given::Gone;
                }
                Given::Kept(error) => {
                    self.take_back(estate.devices);
                    error
                }
            },
            Err(error) => HandoverError::Channel("copy descriptors", error),
        };
        self.resume();
        Given::Kept(kept)
    }

    /// Stops whatever is no packet's way.
    fn pause(&mut self) {
        self.path_mtus.pause();
        self.beacons.pause();
        self.probes.pause();
        self.bfd.pause();
    }

    fn resume(&mut self) {
        let resumed = self.bfd.resume().and_then(|()| self.probes.resume());
        let resumed = resumed.and_then(|()| self.path_mtus.resume()).and_then(|()| self.beacons.resume());
        if let Err(error) = resumed {
            end(&error);
        }
    }

    /// Takes the devices' peers out last: until then packets flow.
    fn estate(&mut self, own: &Heirlooms, fds: &mut SentFds) -> std::io::Result<Estate> {
        Ok(Estate {
            lock: fds.put(&own.lock)?,
            listener: fds.put(&own.listener)?,
            probes: self.probes.estate(fds)?,
            path_mtus: self.path_mtus.estate(fds)?,
            bfd: self.bfd.estate(fds)?,
            devices: self.engine.hand_over(fds)?,
        })
    }

    fn take_back(&mut self, devices: Vec<DeviceEstate>) {
        if let Err(error) = self.engine.take_back(devices) {
            end(&error);
        }
    }

    /// Takes everything over from a running engine, which ends then.
    pub(crate) fn take_over(
        taker: Taker,
        file: StateFile,
        events: &Arc<EventHub>,
        options: EngineOptions,
    ) -> Result<(Self, Heirlooms), TakeOverError> {
        let failed = |error: EngineError| TakeOverError::Failed(Box::new(error));
        let Preparation { state, indices } = taker.preparation()?;
        let prepared = Engine::prepare(&state.devices, &indices).map_err(failed)?;
        let mut engine = Engine::new(Arc::clone(events), options);
        let (estate, mut fds) = taker.estate()?;
        engine.take_up(prepared, estate.devices, &mut fds)?;
        let mut descriptor = |place: usize| -> Result<OwnedFd, HandoverError> { fds.take(place) };
        let own = Heirlooms {
            lock: File::from(descriptor(estate.lock)?),
            listener: UnixListener::from(descriptor(estate.listener)?),
        };
        let probes = ProbeShell::take_up(estate.probes, &mut fds, Arc::clone(events))?;
        let path_mtus = PathMtuShell::take_up(estate.path_mtus, &mut fds, Arc::clone(events))?;
        let bfd = BfdShell::take_up(estate.bfd, &mut fds, Arc::clone(events))?;
        taker.go()?;
        engine.start().map_err(failed)?;
        let io = |error: std::io::Error| TakeOverError::Failed(Box::new(error));
        let beacons = BeaconShell::start(&state.beacons).map_err(io)?;
        let mut control = Self { engine, probes, path_mtus, beacons, bfd, state, file };
        control.resume_after_takeover();
        Ok((control, own))
    }

    /// What can wait until packets flow.
    fn resume_after_takeover(&mut self) {
        let resumed = self.bfd.resume().and_then(|()| self.probes.resume());
        if let Err(error) = resumed.and_then(|()| self.path_mtus.resume()) {
            end(&error);
        }
        // Devices that the former engine could not have are tried again, as at any start.
        let running = self.engine.indices();
        for (name, device) in self.state.devices.iter().filter(|(name, _)| !running.contains_key(*name)) {
            if let Err(error) = self.engine.set(device.clone(), &LastEndpoints::new()) {
                tracing::error!(device = name, error = chain(&error), "not restored");
            }
        }
        if let Err(error) = self.engine.set_overlays(self.state.overlays.clone()) {
            tracing::error!(error = chain(&error), "overlays are not restored");
        }
        self.state.endpoints = self.engine.endpoints();
        if let Err(refusal) = self.store() {
            tracing::error!(%refusal, "the state is not stored");
        }
    }
}

/// An engine whose threads cannot be started carries nothing: a supervisor starts another one.
fn end(error: &dyn std::error::Error) -> ! {
    tracing::error!(error = chain(error), "threads cannot be started");
    std::process::abort();
}
