//! The user-space engine: a client of `watari-link`, which is started where nobody answers.

use std::collections::BTreeMap;

use watari_config::WgKey;
use watari_link::client::{Client, ClientError};
use watari_link::key::{PrivateKey, PublicKey};
use watari_link::protocol::{DeviceConfig, DeviceStatus, PeerConfig, ProbeConfig, ProbeStatus, ProbesConfig};
use watari_planner::item::{Key, Value, Wireguard, WireguardPeer};
use watari_planner::{Engine, Observed};

use crate::drivers::netlink::Dump;
use crate::drivers::{DriverError, Place};

/// A connection to `watari-link`, made anew when it breaks.
pub(super) struct UserEngine {
    place: Place,
    private_key: [u8; 32],
    client: Option<Client>,
}

impl UserEngine {
    /// An engine that is not connected yet.
    pub(super) fn new(place: &Place, private_key: [u8; 32]) -> Self {
        Self { place: place.clone(), private_key, client: None }
    }

    /// Runs `f` on the connection. A broken one is forgotten, so that the next call makes another; an engine
    /// that is not there is started.
    fn with<T>(&mut self, f: impl Fn(&mut Client) -> Result<T, ClientError>) -> Result<T, DriverError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => self.connect()?,
        };
        let mut done = f(&mut client);
        if matches!(done, Err(ClientError::Closed | ClientError::Io(_))) {
            client = self.connect()?;
            done = f(&mut client);
        }
        if !matches!(done, Err(ClientError::Closed | ClientError::Io(_) | ClientError::Protocol(_))) {
            self.client = Some(client);
        }
        Ok(done?)
    }

    fn connect(&self) -> Result<Client, DriverError> {
        match Client::connect(&self.place.link_socket) {
            Err(error) if error.is_not_running() => self.start(),
            other => Ok(other?),
        }
    }

    fn start(&self) -> Result<Client, DriverError> {
        let Place { link_binary, link_socket, link_state, .. } = &self.place;
        tracing::info!(binary = %link_binary.display(), "starting watari-link");
        watari_link::spawn::spawn_detached(link_binary, link_socket, link_state).map_err(|error| {
            let message = format!("{:#}", anyhow::Error::new(error));
            DriverError::LinkStart { path: link_binary.clone(), message }
        })?;
        Ok(Client::connect(link_socket)?)
    }

    /// All devices of the engine.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn devices(&mut self) -> Result<Vec<DeviceStatus>, DriverError> {
        self.with(Client::list_devices)
    }

    /// All probes of the engine.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn probes(&mut self) -> Result<Vec<ProbeStatus>, DriverError> {
        Ok(self.with(Client::list_probes)?.probes)
    }

    /// Makes a device be so.
    ///
    /// # Errors
    /// When the engine refuses, e.g. because a device of the name is not ours.
    pub(super) fn set(&mut self, name: &str, device: &Wireguard, alias: &str) -> Result<(), DriverError> {
        let peers = device.peers.iter().map(|(key, peer)| PeerConfig {
            public_key: PublicKey::from_bytes(key.octets()),
            preshared_key: None,
            endpoint: peer.endpoint,
            allowed_ips: peer.allowed_ips.clone(),
            keepalive_s: peer.keepalive_s,
        });
        let config = DeviceConfig {
            name: name.to_owned(),
            alias: alias.to_owned(),
            private_key: PrivateKey::from_bytes(self.private_key),
            listen_port: device.listen_port,
            mtu: device.mtu,
            peers: peers.collect(),
        };
        self.with(|client| client.set_device(config.clone())).map(drop)
    }

    /// Removes a device.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), DriverError> {
        self.with(|client| client.remove_device(name)).map(drop)
    }

    /// Makes the set of probes be so.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) fn set_probes(&mut self, probes: Vec<ProbeConfig>) -> Result<(), DriverError> {
        let config = ProbesConfig { probes, ..ProbesConfig::default() };
        self.with(|client| client.set_probes(config.clone())).map(drop)
    }

    /// Ends the engine and removes its devices; one that does not run is not started for it.
    pub(super) fn shutdown(&mut self) {
        let client = self.client.take().map_or_else(|| Client::connect(&self.place.link_socket), Ok);
        if let Ok(client) = client
            && let Err(error) = client.shutdown(true)
        {
            tracing::warn!(%error, "watari-link could not be ended");
        }
    }
}

/// Adds a device to `observed`. One whose interface is gone is left out: setting it again brings it back.
pub(super) fn observe_device(device: &DeviceStatus, root: &Dump, observed: &mut Observed) {
    let link = root.links.iter().find(|l| l.name == device.name);
    let Some(link) = link.filter(|l| l.up) else { return };
    let Ok(own_key) = WgKey::new(*device.public_key.as_bytes()) else { return };
    let peers: BTreeMap<WgKey, WireguardPeer> = device
        .peers
        .iter()
        .filter_map(|peer| {
            let mut allowed_ips = peer.allowed_ips.clone();
            allowed_ips.sort();
            let value = WireguardPeer {
                endpoint: peer.configured_endpoint,
                allowed_ips,
                keepalive_s: peer.keepalive_s,
            };
            Some((WgKey::new(*peer.public_key.as_bytes()).ok()?, value))
        })
        .collect();
    let mtu = u16::try_from(link.mtu).unwrap_or(0);
    let value = Wireguard { own_key, listen_port: device.listen_port, mtu, peers };
    observed.system.insert(Key::Wireguard(device.name.clone()), Value::Wireguard(value));
    let ages =
        device.peers.iter().map(|p| (p.public_key.to_string(), p.last_handshake_age_ms.map(|ms| ms / 1000)));
    observed.handshakes.insert(device.name.clone(), ages.collect());
    observed.engines.insert(device.name.clone(), Engine::User);
}
