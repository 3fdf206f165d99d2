//! The WireGuard engine, packet by packet: what the kernel does where it has WireGuard, in user
//! space where it has not. The protocol is boringtun's `noise` (handshake, timers, cookies,
//! transport); interfaces, sockets, routing to peers and threads are ours.
//!
//! ```text
//!            ┌───────────── Device ──────────────┐
//!  kernel ─▶ TUN ─▶ [tun thread] ─ allowed-ips ─▶ Peer ─ seal ─▶ UDP ─▶ network
//!  kernel ◀─ TUN ◀─ allowed-ips ─ open ─ Peer ◀─ index ◀─ [udp thread] ◀─ UDP
//!                                 Peer ◀─ [clock thread] every 100 ms
//!            └─ all read one immutable Plane, replaced whole by SetDevice ─┘
//! ```
//!
//! [`Engine`] is the whole surface: another engine (batches, offloads, more cores) takes its place
//! behind the same five calls.

mod allowed_ips;
mod device;
mod drops;
mod peer;
mod plane;
mod tun;
mod udp;
mod whole;
mod workers;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use device::Device;
pub(crate) use device::LastEndpoints;
pub(crate) use tun::TunError;

use crate::events::EventHub;
use crate::protocol::{DEVICES_MAX, DeviceConfig, DeviceStatus};

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
    events: Arc<EventHub>,
    moved: Arc<AtomicBool>,
}

impl Engine {
    /// An engine without devices.
    pub(crate) fn new(events: Arc<EventHub>) -> Self {
        Self { devices: BTreeMap::new(), events, moved: Arc::new(AtomicBool::new(false)) }
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
        self.devices.insert(name, Device::create(wanted, last, events, moved)?);
        Ok(vec!["created".to_owned()])
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
