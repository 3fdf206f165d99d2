//! The WireGuard engine, packet by packet: what the kernel does where it has WireGuard, in user
//! space where it has not. The protocol is [`crate::wg`]; interfaces, sockets, routing to peers and threads
//! are here.
//!
//! ```text
//!            ┌──────────────────────── Device ────────────────────────┐
//!  kernel ─▶ TUN ─ super-packets ─▶ split ─ allowed-ips ─▶ seal ─ runs ─▶ UDP ─▶ network
//!                                 [lane NAME-tun: a thread for each core]
//!  kernel ◀─ TUN ◀─ super-packets ─ coalesce ◀─ allowed-ips ◀─ open ◀─ runs ─ UDP ◀─ network
//!                                 [lane NAME-udp: a thread for each core]
//!                   Peer ◀─ handshakes;  Peer ◀─ [NAME-clock] every 100 ms
//!            └─ all read one immutable Plane, replaced whole by SetDevice ────┘
//! ```
//!
//! A packet costs the machine little as long as it is one of many: what the kernel hands over whole
//! stays whole as far as possible ([`offload`]), is numbered, sealed and sent by the batch
//! ([`outbound`]), received, opened and put together by the batch ([`inbound`]), and several cores share
//! the work without changing the order ([`lane`]). Which offloads the kernel gives is tried, and told in the
//! device's status.

mod allowed_ips;
#[cfg(test)]
mod bench;
mod device;
mod drops;
mod estate;
mod handshake;
mod inbound;
mod lane;
mod offers;
mod offload;
mod outbound;
mod overlay;
mod overlays;
mod peer;
mod plane;
mod several;
mod spare;
mod tun;
mod udp;
mod whole;
mod workers;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::Device;
pub(crate) use device::LastEndpoints;
pub(crate) use estate::{DeviceEstate, Indices, PreparedDevice};
pub use offers::{EngineOptions, Offload};
use overlay::Overlay;
pub(crate) use tun::TunError;

use crate::events::EventHub;
use crate::handover::{Fds, HandoverError, SentFds};
use crate::protocol::{
    DEVICES_MAX, DeviceConfig, DeviceStatus, OverlayConfig, OverlaysConfig, OverlaysStatus,
};

/// Why a device is not as wanted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error(transparent)]
    Tun(#[from] TunError),
    #[error("UDP port {port}")]
    Bind {
        port: u16,
        #[source]
        source: io::Error,
    },
    #[error("{action} for device {name}")]
    System {
        action: &'static str,
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("random source: {0}")]
    Random(String),
    #[error("an engine runs {DEVICES_MAX} devices at most")]
    TooManyDevices,
}

impl EngineError {
    fn system(action: &'static str, name: &str, source: io::Error) -> Self {
        Self::System { action, name: name.to_owned(), source }
    }
}

/// All devices of this process.
pub(crate) struct Engine {
    devices: BTreeMap<String, Device>,
    overlays: BTreeMap<String, OverlayConfig>,
    options: Arc<EngineOptions>,
    events: Arc<EventHub>,
    moved: Arc<AtomicBool>,
}

impl Engine {
    /// An engine without devices.
    pub(crate) fn new(events: Arc<EventHub>, options: EngineOptions) -> Self {
        let moved = Arc::new(AtomicBool::new(false));
        let (devices, overlays) = (BTreeMap::new(), BTreeMap::new());
        Self { devices, overlays, options: Arc::new(options), events, moved }
    }

    /// Makes a device be as wanted (it was validated); returns what was touched. `last` is where
    /// its peers were when a former engine knew them; it matters only if the device is new.
    pub(crate) fn set(
        &mut self,
        wanted: DeviceConfig,
        last: &LastEndpoints,
    ) -> Result<Vec<String>, EngineError> {
        if let Some(device) = self.devices.get_mut(&wanted.name) {
            return device.update(wanted);
        }
        if self.devices.len() >= DEVICES_MAX {
            return Err(EngineError::TooManyDevices);
        }
        let name = wanted.name.clone();
        let (events, moved) = (Arc::clone(&self.events), Arc::clone(&self.moved));
        let mut device = Device::create(wanted, last, Arc::clone(&self.options), events, moved)?;
        device.set_overlay(self.overlays.get(&name))?;
        self.devices.insert(name, device);
        Ok(vec!["created".to_owned()])
    }

    /// Makes the overlays be as wanted (they were validated); returns what was touched. Where overlays are not possible they
    /// are only noted.
    pub(crate) fn set_overlays(&mut self, wanted: OverlaysConfig) -> Result<Vec<String>, EngineError> {
        if !self.overlays_possible() {
            // What a former engine has left has no reader any more.
            wanted.overlays.iter().for_each(|overlay| Overlay::discard(overlay, &self.options));
            return Ok(Vec::new());
        }
        self.overlays =
            wanted.overlays.into_iter().map(|overlay| (overlay.device.clone(), overlay)).collect();
        let mut touched = Vec::new();
        for (name, device) in &mut self.devices {
            touched.extend(device.set_overlay(self.overlays.get(name))?);
        }
        Ok(touched)
    }

    /// Every overlay of a device that is there.
    pub(crate) fn overlays(&self) -> OverlaysStatus {
        let overlays = self.devices.values().filter_map(Device::overlay_status).collect();
        OverlaysStatus { possible: self.overlays_possible(), overlays }
    }

    fn overlays_possible(&self) -> bool {
        self.options.allows(Offload::OverlayTap)
    }

    /// Opens again what was deleted of the overlays' interfaces, or could not be opened.
    pub(crate) fn mend_overlays(&mut self) {
        self.devices.values_mut().for_each(Device::mend_overlay);
    }

    /// Removes a device and its interface. False: there was none.
    pub(crate) fn remove(&mut self, name: &str) -> Result<bool, EngineError> {
        match self.devices.get(name) {
            Some(device) => device.make_transient()?,
            None => return Ok(false),
        }
        self.devices.remove(name);
        Ok(true)
    }

    /// Has the interface vanish with this process.
    pub(crate) fn let_go_with_process(&self, name: &str) -> Result<(), EngineError> {
        self.devices.get(name).map_or(Ok(()), Device::make_transient)
    }

    /// Marks the outer packets of a device, for policy routing; 0: not.
    pub(crate) fn set_mark(&mut self, name: &str, mark: u32) -> Result<(), EngineError> {
        self.devices.get_mut(name).map_or(Ok(()), |device| device.set_mark(mark))
    }

    /// Indices of the peers of every device.
    pub(crate) fn indices(&self) -> BTreeMap<String, Indices> {
        self.devices.iter().map(|(name, device)| (name.clone(), device.indices())).collect()
    }

    /// Stops every thread and takes everything out, for a successor. Fails before anything is taken out; the threads run again then.
    pub(crate) fn hand_over(&mut self, fds: &mut SentFds) -> io::Result<Vec<DeviceEstate>> {
        let places: Vec<_> =
            self.devices.values().map(|device| device.put_fds(fds)).collect::<io::Result<_>>()?;
        self.devices.values_mut().for_each(Device::pause);
        Ok(self.devices.values().zip(places).map(|(device, places)| device.hand_over(places)).collect())
    }

    /// Goes on with what no successor took.
    pub(crate) fn take_back(&mut self, estates: Vec<DeviceEstate>) -> Result<(), EngineError> {
        for estate in estates {
            if let Some(device) = self.devices.get(&estate.name) {
                device.take_back(estate);
            }
        }
        self.start()
    }

    /// What can be made while the former engine still works: its devices without their descriptors.
    pub(crate) fn prepare(
        devices: &BTreeMap<String, DeviceConfig>,
        indices: &BTreeMap<String, Indices>,
    ) -> Result<BTreeMap<String, PreparedDevice>, EngineError> {
        let running = devices.iter().filter_map(|(name, config)| Some((name, config, indices.get(name)?)));
        running
            .map(|(name, config, of)| Ok((name.clone(), PreparedDevice::new(config.clone(), of)?)))
            .collect()
    }

    /// Takes the devices of the former engine up; [`Engine::start`] follows.
    pub(crate) fn take_up(
        &mut self,
        mut prepared: BTreeMap<String, PreparedDevice>,
        estates: Vec<DeviceEstate>,
        fds: &mut Fds,
    ) -> Result<(), HandoverError> {
        for estate in estates {
            let name = estate.name.clone();
            let missing = || HandoverError::Device(format!("{name} was not announced"));
            let device = prepared.remove(&name).ok_or_else(missing)?;
            let (options, events, moved) =
                (Arc::clone(&self.options), Arc::clone(&self.events), Arc::clone(&self.moved));
            self.devices.insert(name, device.take_up(estate, fds, options, events, moved)?);
        }
        Ok(())
    }

    /// Starts the threads of devices that were taken up.
    pub(crate) fn start(&mut self) -> Result<(), EngineError> {
        self.devices.values_mut().try_for_each(Device::start)?;
        self.devices.values().for_each(Device::resume_peers);
        Ok(())
    }

    /// Every device as it is, ordered by name.
    pub(crate) fn list(&self) -> Vec<DeviceStatus> {
        self.devices.values().map(Device::status).collect()
    }

    /// True once after any peer's endpoint moved.
    pub(crate) fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::AcqRel)
    }

    /// Where the peers of every device are.
    pub(crate) fn endpoints(&self) -> BTreeMap<String, LastEndpoints> {
        self.devices.iter().map(|(name, device)| (name.clone(), device.endpoints())).collect()
    }
}

/// Which address of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// An address of an IP packet that is known to have a whole header.
fn inner_address(packet: &[u8], side: Side) -> IpAddr {
    let second = usize::from(side == Side::Destination);
    if packet[0] >> 4 == 4 {
        let at = 12 + 4 * second;
        return Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]).into();
    }
    let at = 8 + 16 * second;
    let mut octets = [0; 16];
    octets.copy_from_slice(&packet[at..at + 16]);
    Ipv6Addr::from(octets).into()
}
