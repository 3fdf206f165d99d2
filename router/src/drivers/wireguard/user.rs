//! The user-space engine: a client of `watari-link`, which is started where nobody answers.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor};
use watari_config::WgKey;
use watari_config::validate::{PATH_MTU_PORT, PROBE_PORT};
use watari_link::client::{Client, ClientError, REQUEST_TIMEOUT};
use watari_link::key::{PrivateKey, PublicKey};
use watari_link::protocol::{
    BeaconConfig, BeaconStatus, BfdConfig, BfdStatus, DeviceConfig, DeviceStatus, Dscp, OverlayConfig,
    OverlaysConfig, OverlaysStatus, PathMtuConfig, PathMtuStatus, PathMtusConfig, PathState, PeerConfig,
    PeerStatus, ProbeConfig, ProbeStatus, ProbesConfig, RefusalCode,
};
use watari_planner::item::{Key, Value, Wireguard, WireguardPeer};
use watari_planner::{EndpointHealth, Engine, Observed};

use crate::drivers::netlink::Dump;
use crate::drivers::{DriverError, Place};

/// How long a look may wait for an answer: the loop waits with it.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest time that an engine which failed is left alone.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A connection to `watari-link`, made anew when it breaks.
pub(super) struct UserEngine {
    place: Place,
    private_key: [u8; 32],
    client: Option<Client>,
    /// Whether an engine that is not there is started.
    may_start: bool,
    /// Whether it was looked if the engine runs the program that is installed.
    looked: bool,
    /// Why the engine could not be started or did not answer, while it is left alone.
    failed: Option<Failed>,
}

/// A failure that is answered again, without another try, until its time is over.
struct Failed {
    message: String,
    wait: Duration,
    next: Instant,
}

impl UserEngine {
    /// An engine that is not connected yet.
    pub(super) fn new(place: &Place, private_key: [u8; 32]) -> Self {
        Self { place: place.clone(), private_key, client: None, may_start: true, looked: false, failed: None }
    }

    /// From now on no engine is started; one that does not run has no devices and no probes.
    pub(super) fn never_start(&mut self) {
        self.may_start = false;
    }

    /// Runs `f` on the connection, `timeout` for each answer. A broken connection is forgotten, so that the next
    /// call makes another; an engine that is not there is started. One that failed is left alone for 1, 2, 4 … 30
    /// seconds: what it said is said again meanwhile.
    fn with<T>(
        &mut self,
        timeout: Duration,
        f: impl Fn(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, DriverError> {
        if let Some(failed) = self.failed.as_ref().filter(|failed| Instant::now() < failed.next) {
            return Err(DriverError::LinkAgain { message: failed.message.clone() });
        }
        let done = blocking(|| self.ask(timeout, f));
        match &done {
            // An engine that refuses is well.
            Ok(_) | Err(DriverError::Link(ClientError::Refused(_))) => self.failed = None,
            Err(error) => self.failed = Some(Failed::after(self.failed.take(), error)),
        }
        done
    }

    fn ask<T>(
        &mut self,
        timeout: Duration,
        f: impl Fn(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, DriverError> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => self.connect(timeout)?,
        };
        let mut done = client.set_timeout(timeout).and_then(|()| f(&mut client));
        if matches!(done, Err(ClientError::Closed | ClientError::Io(_))) {
            client = self.connect(timeout)?;
            done = f(&mut client);
        }
        if !matches!(done, Err(ClientError::Closed | ClientError::Io(_) | ClientError::Protocol(_))) {
            self.client = Some(client);
        }
        Ok(done?)
    }

    fn connect(&mut self, timeout: Duration) -> Result<Client, DriverError> {
        match Client::connect_timeout(&self.place.link_socket, timeout) {
            Err(error) if error.is_not_running() && self.may_start => self.start(),
            Ok(client) if self.may_start && !self.looked => {
                self.looked = true;
                Ok(self.renew(client, timeout)?)
            }
            other => Ok(other?),
        }
    }

    /// An engine of ours that was started from a file which is another one by now hands over to that one. Under a service manager that is
    /// its unit's business (`systemctl reload watari-link`).
    fn renew(&self, client: Client, timeout: Duration) -> Result<Client, ClientError> {
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            return Ok(client);
        }
        let Place { link_binary, link_socket, link_state, .. } = &self.place;
        match watari_link::spawn::renew(link_binary, link_socket, link_state) {
            Ok(None) => return Ok(client),
            Ok(Some(hello)) => {
                tracing::info!(pid = hello.pid, version = hello.version, "watari-link was renewed")
            }
            Err(error) => {
                let error = anyhow::Error::new(error);
                tracing::warn!(
                    "the watari-link that runs is not the one that is installed, and goes on: {error:#}"
                );
            }
        }
        Client::connect_timeout(link_socket, timeout)
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

    /// What a look finds; nothing where no engine runs and none is to be started.
    fn look<T: Default>(
        &mut self,
        f: impl Fn(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, DriverError> {
        match self.with(LOOK_TIMEOUT, f) {
            Err(DriverError::Link(error)) if error.is_not_running() && !self.may_start => {
                self.failed = None;
                Ok(T::default())
            }
            other => other,
        }
    }

    /// All devices of the engine.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn devices(&mut self) -> Result<Vec<DeviceStatus>, DriverError> {
        self.look(Client::list_devices)
    }

    /// All probes of the engine.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn probes(&mut self) -> Result<Vec<ProbeStatus>, DriverError> {
        self.look(|client| Ok(client.list_probes()?.probes))
    }

    /// All paths of the engine whose MTU is measured; none of one of a former version, as with BFD.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn path_mtus(&mut self) -> Result<Vec<PathMtuStatus>, DriverError> {
        self.look(|client| match client.list_path_mtus() {
            Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Malformed => Ok(Vec::new()),
            other => Ok(other?.paths),
        })
    }

    /// All overlays of the engine; one of a former version makes none, as with BFD.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn overlays(&mut self) -> Result<OverlaysStatus, DriverError> {
        let look = self.look(|client| match client.list_overlays() {
            Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Malformed => Ok(None),
            other => Ok(Some(other?)),
        })?;
        Ok(look.unwrap_or(OverlaysStatus { possible: false, overlays: Vec::new() }))
    }

    /// All beacons of the engine.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn beacons(&mut self) -> Result<Vec<BeaconStatus>, DriverError> {
        self.look(Client::list_beacons)
    }

    /// All BFD sessions of the engine; none of one that does not know the word, because it is of a former version and
    /// lives on while the daemon is replaced.
    ///
    /// # Errors
    /// When it does not answer.
    pub(super) fn bfd(&mut self) -> Result<Vec<BfdStatus>, DriverError> {
        self.look(|client| match client.list_bfd() {
            Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Malformed => Ok(Vec::new()),
            other => Ok(other?.sessions),
        })
    }

    /// Makes a device be so.
    ///
    /// # Errors
    /// When the engine refuses, e.g. because a device of the name is not ours.
    pub(super) fn set(&mut self, name: &str, device: &Wireguard, alias: &str) -> Result<(), DriverError> {
        let peers = device.peers.iter().map(|(key, peer)| PeerConfig {
            public_key: PublicKey::from_bytes(key.octets()),
            preshared_key: None,
            endpoint: peer.endpoints.first().copied(),
            more_endpoints: peer.endpoints.iter().skip(1).copied().collect(),
            allowed_ips: peer.allowed_ips.clone(),
            keepalive_s: peer.keepalive_s,
        });
        let config = DeviceConfig {
            name: name.to_owned(),
            alias: alias.to_owned(),
            private_key: PrivateKey::from_bytes(self.private_key),
            listen_port: device.listen_port,
            mtu: device.mtu,
            dscp: match device.dscp {
                watari_config::document::Dscp::Inherit => Dscp::Inherit,
                watari_config::document::Dscp::Fixed(number) => Dscp::Fixed(number),
            },
            peers: peers.collect(),
        };
        self.with(REQUEST_TIMEOUT, |client| client.set_device(config.clone())).map(drop)
    }

    /// Removes a device.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), DriverError> {
        self.with(REQUEST_TIMEOUT, |client| client.remove_device(name)).map(drop)
    }

    /// Makes the set of probes be so.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) fn set_probes(&mut self, probes: Vec<ProbeConfig>) -> Result<(), DriverError> {
        let config = ProbesConfig { port: PROBE_PORT, probes };
        self.with(REQUEST_TIMEOUT, |client| client.set_probes(config.clone())).map(drop)
    }

    /// Makes the set of paths whose MTU is measured be so.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) fn set_path_mtus(&mut self, paths: Vec<PathMtuConfig>) -> Result<(), DriverError> {
        let config = PathMtusConfig { port: PATH_MTU_PORT, paths };
        self.with(REQUEST_TIMEOUT, |client| client.set_path_mtus(config.clone())).map(drop)
    }

    /// Makes the set of overlays be so.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) fn set_overlays(&mut self, overlays: Vec<OverlayConfig>) -> Result<(), DriverError> {
        let config = OverlaysConfig { overlays };
        self.with(REQUEST_TIMEOUT, |client| client.set_overlays(config.clone())).map(drop)
    }

    /// Makes the set of beacons be so.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) fn set_beacons(&mut self, beacons: Vec<BeaconConfig>) -> Result<(), DriverError> {
        self.with(REQUEST_TIMEOUT, |client| client.set_beacons(beacons.clone())).map(drop)
    }

    /// Makes the set of BFD sessions be so.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) fn set_bfd(&mut self, sessions: Vec<BfdConfig>) -> Result<(), DriverError> {
        self.with(REQUEST_TIMEOUT, |client| client.set_bfd(sessions.clone())).map(drop)
    }

    /// Ends the engine and removes its devices; one that does not run is not started for it.
    pub(super) fn shutdown(&mut self) {
        let client = self.client.take().map_or_else(|| Client::connect(&self.place.link_socket), Ok);
        if let Ok(mut client) = client
            && let Err(error) =
                blocking(|| client.set_timeout(REQUEST_TIMEOUT).and_then(|()| client.shutdown(true)))
        {
            tracing::warn!(%error, "watari-link could not be ended");
        }
    }
}

impl Failed {
    /// The failure `error` that came after `before`.
    fn after(before: Option<Self>, error: &DriverError) -> Self {
        let wait = before.map_or(Duration::from_secs(1), |failed| (failed.wait * 2).min(WAIT_MAX));
        Self { message: error.to_string(), wait, next: Instant::now() + wait }
    }
}

/// Runs what waits for the engine without keeping other tasks of the runtime waiting, where it can be told so.
fn blocking<T>(f: impl FnOnce() -> T) -> T {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(f),
        _ => f(),
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
                endpoints: peer.configured_endpoint.iter().chain(&peer.more_endpoints).copied().collect(),
                allowed_ips,
                keepalive_s: peer.keepalive_s,
            };
            Some((WgKey::new(*peer.public_key.as_bytes()).ok()?, value))
        })
        .collect();
    let mtu = u16::try_from(link.mtu).unwrap_or(0);
    let dscp = match device.dscp {
        Dscp::Inherit => watari_config::document::Dscp::Inherit,
        Dscp::Fixed(number) => watari_config::document::Dscp::Fixed(number),
    };
    let value = Wireguard { own_key, listen_port: device.listen_port, mtu, dscp, peers };
    observed.system.insert(Key::Wireguard(device.name.clone()), Value::Wireguard(value));
    let ages =
        device.peers.iter().map(|p| (p.public_key.to_string(), p.last_handshake_age_ms.map(|ms| ms / 1000)));
    observed.handshakes.insert(device.name.clone(), ages.collect());
    observed.engines.insert(device.name.clone(), Engine::User);
    observed.endpoints.insert(device.name.clone(), device.peers.iter().flat_map(places).collect());
}

/// Where a peer is reached: as measured, or the one place where nothing is.
fn places(peer: &PeerStatus) -> Vec<EndpointHealth> {
    let measured = peer.measured.iter().map(|place| EndpointHealth {
        endpoint: place.endpoint,
        in_use: place.in_use,
        up: place.state.map(|state| state == PathState::Up),
        rtt_us: place.rtt_us,
        loss_percent: place.state.map(|_| f64::from(place.loss_permille) / 10.0),
        roamed: !place.configured,
    });
    let mut places: Vec<_> = measured.collect();
    if places.is_empty() {
        let configured: Vec<_> =
            peer.configured_endpoint.iter().chain(&peer.more_endpoints).copied().collect();
        places = EndpointHealth::unmeasured(&configured, peer.endpoint);
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An engine whose program cannot be started, with a folder of its own.
    fn engine() -> (tempfile::TempDir, UserEngine) {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Place {
            gateway: "gw".parse().expect("a name"),
            pins: folder.path().join("pins"),
            link_socket: folder.path().join("link.sock"),
            link_state: folder.path().join("link.state"),
            link_binary: folder.path().join("watari-link"),
            kernel_wireguard: false,
        };
        (folder, UserEngine::new(&place, [1; 32]))
    }

    #[test]
    fn a_failed_start_is_answered_again_until_its_time_is_over() {
        let (folder, mut engine) = engine();
        let first = engine.devices().expect_err("no program");
        assert!(matches!(first, DriverError::LinkStart { .. }), "{first}");
        let log = folder.path().join("link.state.log");
        std::fs::remove_file(&log).expect("each try opens the log");
        let again = engine.remove("wtt1").expect_err("not tried again");
        assert_eq!(again.to_string(), first.to_string());
        assert!(!log.exists(), "it was tried again at once");

        let failed = engine.failed.as_mut().expect("a failure");
        assert_eq!(failed.wait, Duration::from_secs(1));
        failed.next = Instant::now();
        let second = engine.probes().expect_err("no program");
        assert!(matches!(second, DriverError::LinkStart { .. }), "{second}");
        assert_eq!(engine.failed.as_ref().map(|f| f.wait), Some(Duration::from_secs(2)));
    }

    #[test]
    fn a_look_starts_nothing_and_finds_nothing() {
        let (folder, mut engine) = engine();
        engine.never_start();
        assert!(engine.devices().expect("nothing").is_empty());
        assert!(engine.probes().expect("nothing").is_empty());
        assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
    }
}
