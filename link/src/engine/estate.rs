//! A device on its way to another process: its descriptors, and what its peers have agreed on.
//!
//! The former owner stops its threads, takes everything out ([`Device::hand_over`]) and either ends or takes it back
//! ([`Device::take_back`]). The successor makes peers while packets still flow ([`PreparedDevice::new`]), since each
//! costs a Diffie-Hellman operation, and takes the rest up while they wait ([`PreparedDevice::take_up`]).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::EngineError;
use super::device::{Device, LastEndpoints, Peers};
use super::offers::EngineOptions;
use super::overlay::Overlay;
use super::plane::{Identity, Shared};
use super::tun::Tun;
use super::udp::UdpPair;
use crate::events::EventHub;
use crate::handover::{Fds, HandoverError, SentFds};
use crate::key::PublicKey;
use crate::protocol::{DeviceConfig, DropCount, OverlayConfig};
use crate::wg;

/// Index of every peer of a device.
pub(crate) type Indices = BTreeMap<PublicKey, u32>;

/// A device on its way.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceEstate {
    pub(super) name: String,
    tun: usize,
    /// The interface was attached with a virtio header, which stays so.
    header: bool,
    index: u32,
    v4: Option<usize>,
    v6: Option<usize>,
    /// The TAP of its overlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tap: Option<TapEstate>,
    pub(super) peers: BTreeMap<PublicKey, PeerEstate>,
    drops: Vec<DropCount>,
}

/// The TAP of an overlay on its way.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TapEstate {
    config: OverlayConfig,
    fd: usize,
    index: u32,
}

/// A peer on its way.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerEstate {
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) machine: wg::PeerState,
    /// What waits for a session, as it was read from the interface.
    pub(super) held: Vec<HeldRead>,
}

/// Bytes, in base64.
pub(crate) struct HeldRead(pub(super) Vec<u8>);

impl Serialize for HeldRead {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for HeldRead {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(de::Error::custom)
    }
}

/// Descriptors of a device, as places in the list.
pub(super) struct Places {
    tun: usize,
    tap: Option<usize>,
    v4: Option<usize>,
    v6: Option<usize>,
}

impl Device {
    /// Copies of the descriptors: what may fail, before anything is taken out.
    pub(super) fn put_fds(&self, fds: &mut SentFds) -> io::Result<Places> {
        let plane = self.shared().plane();
        let mut put = |socket: &Option<UdpSocket>| socket.as_ref().map(|socket| fds.put(socket)).transpose();
        let (v4, v6) = (put(&plane.udp.v4)?, put(&plane.udp.v6)?);
        let tap = self.open_overlay().map(|overlay| fds.put(overlay.tap.as_fd())).transpose()?;
        Ok(Places { tun: fds.put(plane.tun.as_fd())?, tap, v4, v6 })
    }

    /// Takes everything out. The threads have stopped.
    pub(super) fn hand_over(&self, places: Places) -> DeviceEstate {
        self.shared().advance_clock();
        let plane = self.shared().plane();
        let peers = plane.peers.iter().map(|(key, peer)| (*key, peer.hand_over(self.shared().now_ms())));
        let Places { tun, tap, v4, v6 } = places;
        let tap = plane.overlay.as_ref().zip(tap).map(|(overlay, fd)| TapEstate {
            config: overlay.config.clone(),
            fd,
            index: overlay.tap.index(),
        });
        DeviceEstate {
            name: self.name().to_owned(),
            tun,
            header: plane.tun.offers().header,
            index: plane.tun.index(),
            v4,
            v6,
            tap,
            peers: peers.collect(),
            drops: self.shared().drops.read(),
        }
    }

    /// Puts everything in again.
    pub(super) fn take_back(&self, estate: DeviceEstate) {
        self.shared().advance_clock();
        for (key, peer) in estate.peers {
            if let Err(error) = take_up_peer(self.shared(), key, peer) {
                tracing::error!(device = self.name(), peer = %key, %error, "not taken back; it is called again");
            }
        }
    }
}

fn take_up_peer(shared: &Shared, key: PublicKey, estate: PeerEstate) -> Result<(), wg::HandoverError> {
    let plane = shared.plane();
    match plane.peers.get(&key) {
        Some(peer) => peer.take_up(estate, shared.now_ms()),
        None => Ok(()),
    }
}

/// A device with its peers, without descriptors.
pub(crate) struct PreparedDevice {
    config: DeviceConfig,
    identity: Arc<Identity>,
    peers: Peers,
}

impl PreparedDevice {
    /// Makes the peers, with the indices that they had.
    pub(super) fn new(config: DeviceConfig, indices: &Indices) -> Result<Self, EngineError> {
        let identity = Arc::new(Identity::new(&config.private_key));
        let peers = Peers::build(&identity, None, &config, &LastEndpoints::new(), indices)?;
        Ok(Self { config, identity, peers })
    }

    /// Makes the device of it. Its threads are not started.
    pub(super) fn take_up(
        self,
        estate: DeviceEstate,
        fds: &mut Fds,
        options: Arc<EngineOptions>,
        events: Arc<EventHub>,
        moved: Arc<AtomicBool>,
    ) -> Result<Device, HandoverError> {
        let Self { config, identity, peers } = self;
        let tun = File::from(fds.take(estate.tun)?);
        let tun = Arc::new(Tun::take_up(tun, &config.name, (estate.index, estate.header), &options));
        let mut socket =
            |place: Option<usize>| place.map(|place| fds.take(place).map(UdpSocket::from)).transpose();
        let (v4, v6) = (socket(estate.v4)?, socket(estate.v6)?);
        let failed = |error: io::Error| HandoverError::Channel("take up the sockets", error);
        let udp = Arc::new(UdpPair::take_up(v4, v6, &options).map_err(failed)?);
        let overlay = match estate.tap {
            Some(TapEstate { config, fd, index }) => {
                Overlay::take_up(config, File::from(fds.take(fd)?), index, &options).map(Arc::new)
            }
            None => None,
        };
        let plane = peers.into_plane(identity, tun, overlay, udp, &config);
        let shared = Arc::new(Shared::new(config.name.clone(), plane, events, moved));
        shared.drops.restore(&estate.drops);
        for (key, peer) in estate.peers {
            take_up_peer(&shared, key, peer)
                .map_err(|error| HandoverError::Device(format!("{}, peer {key}: {error}", config.name)))?;
        }
        Ok(Device::of(config, options, shared))
    }
}
