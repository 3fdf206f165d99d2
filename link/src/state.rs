//! The state file: what the engine was told, and where its peers were last. It holds private keys,
//! is readable by its owner only, and is replaced whole (write, sync, rename, sync the folder), so
//! that at every moment it is either the old or the new one.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::engine::LastEndpoints;
use crate::protocol::{
    BeaconConfig, BeaconsConfig, BfdSessionsConfig, DeviceConfig, OverlaysConfig, PathMtusConfig,
    ProbesConfig,
};
use crate::validate;

/// Version of the file's form.
const VERSION: u32 = 1;
/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is no state file of this program: {reason}", path.display())]
    Unreadable { path: PathBuf, reason: String },
}

/// What survives the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    version: u32,
    pub(crate) devices: BTreeMap<String, DeviceConfig>,
    /// Where peers were last, by device.
    pub(crate) endpoints: BTreeMap<String, LastEndpoints>,
    pub(crate) probes: ProbesConfig,
    /// Absent in files of versions that measured none.
    #[serde(default)]
    pub(crate) path_mtus: PathMtusConfig,
    /// Absent in files of versions without overlays, which can so read and take over what has none.
    #[serde(default, skip_serializing_if = "OverlaysConfig::is_empty")]
    pub(crate) overlays: OverlaysConfig,
    /// Absent in files of versions that sent none.
    #[serde(default)]
    pub(crate) beacons: Vec<StoredBeacon>,
    /// Absent in files of versions without BFD.
    #[serde(default)]
    pub(crate) bfd: BfdSessionsConfig,
}

/// A beacon and since when it has been sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredBeacon {
    pub(crate) config: BeaconConfig,
    pub(crate) since_ms: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            devices: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            probes: ProbesConfig::default(),
            path_mtus: PathMtusConfig::default(),
            overlays: OverlaysConfig::default(),
            beacons: Vec::new(),
            bfd: BfdSessionsConfig::default(),
        }
    }
}

impl State {
    fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!("version {} instead of {VERSION}", self.version));
        }
        for (name, device) in &self.devices {
            if *name != device.name {
                return Err(format!("devices.{name} is named {}", device.name));
            }
            validate::device(device).map_err(|refusal| format!("devices.{name}: {refusal}"))?;
        }
        validate::probes(&self.probes).map_err(|refusal| refusal.to_string())?;
        validate::path_mtus(&self.path_mtus).map_err(|refusal| refusal.to_string())?;
        validate::overlays(&self.overlays).map_err(|refusal| refusal.to_string())?;
        let beacons = self.beacons.iter().map(|stored| stored.config.clone()).collect();
        validate::beacons(&BeaconsConfig { beacons }).map_err(|refusal| refusal.to_string())?;
        validate::bfd(&self.bfd).map_err(|refusal| refusal.to_string())
    }
}

/// A place for the state.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push(suffix);
        path.into()
    }

    fn io(&self, action: &'static str) -> impl FnOnce(io::Error) -> StateError {
        let path = self.path.clone();
        move |source| StateError::Io { action, path, source }
    }

    /// Reads the state; an absent file is the empty state.
    pub(crate) fn load(&self) -> Result<State, StateError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(error) => return Err(self.io("open")(error)),
        };
        let mut text = Zeroizing::new(Vec::new());
        file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(self.io("read"))?;
        let unreadable = |reason| StateError::Unreadable { path: self.path.clone(), reason };
        // The parser's own words may quote the file, which holds keys: say only where it stopped.
        let state: State = serde_json::from_slice(&text)
            .map_err(|error| unreadable(format!("line {} column {}", error.line(), error.column())))?;
        state.check().map_err(unreadable)?;
        Ok(state)
    }

    /// Moves an unreadable file out of the way, for people to look at; returns where to.
    pub(crate) fn set_aside(&self) -> Result<PathBuf, StateError> {
        let aside = self.beside(".unreadable");
        fs::rename(&self.path, &aside).map_err(self.io("set aside"))?;
        Ok(aside)
    }

    /// Replaces the state.
    pub(crate) fn save(&self, state: &State) -> Result<(), StateError> {
        let next = self.beside(".next");
        let text = serde_json::to_vec_pretty(state).map_err(io::Error::other).map_err(self.io("encode"))?;
        let text = Zeroizing::new(text);
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.io("replace the leftover of")(error));
            }
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&next)
            .map_err(self.io("create the successor of"))?;
        file.write_all(&text).map_err(self.io("write"))?;
        file.sync_all().map_err(self.io("sync"))?;
        fs::rename(&next, &self.path).map_err(self.io("replace"))?;
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(self.io("sync the folder of"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::key::{PresharedKey, PrivateKey, PublicKey};
    use crate::protocol::{OverlayConfig, PeerConfig};

    fn state() -> State {
        let peer = PublicKey::from_bytes([2; 32]);
        let device = DeviceConfig {
            name: "wtwg0".to_owned(),
            alias: "watari:a:tunnel/x".to_owned(),
            private_key: PrivateKey::from_bytes([1; 32]),
            listen_port: 0,
            mtu: 1420,
            dscp: crate::protocol::Dscp::default(),
            peers: vec![PeerConfig {
                public_key: peer,
                preshared_key: Some(PresharedKey::from_bytes([3; 32])),
                endpoint: None,
                more_endpoints: Vec::new(),
                allowed_ips: vec!["10.0.0.0/8".parse().unwrap()],
                keepalive_s: 25,
            }],
        };
        let last = LastEndpoints::from([(peer, "192.0.2.1:5".parse().unwrap())]);
        State {
            devices: BTreeMap::from([("wtwg0".to_owned(), device)]),
            endpoints: BTreeMap::from([("wtwg0".to_owned(), last)]),
            ..State::default()
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link.state");
        let file = StateFile::new(&path);
        assert_eq!(file.load().unwrap(), State::default());
        file.save(&state()).unwrap();
        file.save(&state()).unwrap();
        assert_eq!(file.load().unwrap(), state());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no leftovers");
    }

    /// Former versions take no file, and nothing over, with a field that they do not know.
    #[test]
    fn without_overlays_it_is_what_former_versions_write() {
        let fields = |state: &State| serde_json::to_value(state).unwrap().as_object().unwrap().clone();
        assert!(!fields(&state()).contains_key("overlays"));
        let overlay = OverlayConfig {
            device: "wtwg0".to_owned(),
            tap: "wto0".to_owned(),
            alias: "watari:a:tunnel/x".to_owned(),
            vtep: "10.0.0.1".parse().unwrap(),
            port: 4789,
            inbound: true,
        };
        let overlays = OverlaysConfig { overlays: vec![overlay] };
        let with_one = State { overlays, ..state() };
        let fields = fields(&with_one);
        assert!(fields.contains_key("overlays"));
        assert_eq!(serde_json::from_value::<State>(fields.into()).unwrap(), with_one);
    }

    #[test]
    fn a_leftover_of_a_crash_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link.state");
        let file = StateFile::new(&path);
        fs::write(file.beside(".next"), "half a sta").unwrap();
        file.save(&state()).unwrap();
        assert_eq!(file.load().unwrap(), state());
    }

    #[test]
    fn a_broken_file_is_refused_without_quoting_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("link.state");
        let file = StateFile::new(&path);
        file.save(&state()).unwrap();
        let secret = PrivateKey::from_bytes([1; 32]).reveal();
        let broken = fs::read_to_string(&path).unwrap().replace(&secret, &secret[..40]);
        fs::write(&path, broken).unwrap();
        let error = file.load().unwrap_err();
        assert!(matches!(error, StateError::Unreadable { .. }));
        assert!(!format!("{error} {error:?}").contains(&secret[..40]));
        let aside = file.set_aside().unwrap();
        assert!(aside.exists() && file.load().unwrap() == State::default());
    }
}
