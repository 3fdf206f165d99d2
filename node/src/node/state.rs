//! What a node keeps on disk, and who may work on it.
//!
//! ```text
//! /var/lib/watari-node/      0700
//!   key                      0600  the WireGuard private key; made here, never sent
//!   node.json                0600  what the gateway gave, and how the node was joined
//!   lock                           held by join, up, leave and the agent's repairs
//!   agent.pid                      held by the agent while it runs; its process id
//!   agent.sock  agent.log
//!   link.sock  link.sock.lock  link.json  link.json.log      of watari-link, where the kernel has no WireGuard
//! ```
//! Files that hold something are written whole: to another name first, then renamed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use watari_link::PrivateKey;

use super::NodeError;
use crate::enrol::{EnrolReply, EnrolUrl, Pin};
use crate::host::device::LinkPaths;

/// Version of `node.json`.
const FORMAT: u32 = 1;
/// How long to wait for another command that works on the node.
const LOCK_LIMIT: Duration = Duration::from_secs(5);
/// Between two tries.
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Largest file that is read back.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Everything that a joined node has to know to come up again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    format: u32,
    /// Where it was enrolled.
    pub url: EnrolUrl,
    /// The certificate that was trusted.
    pub pin: Pin,
    /// When, RFC 3339 in UTC.
    pub enrolled: String,
    /// Name of the tunnel device.
    pub interface: String,
    /// Where `watari-link` is.
    pub link_binary: PathBuf,
    /// What the gateway gave.
    pub reply: EnrolReply,
}

impl Identity {
    /// An identity that was given just now.
    pub(super) fn new(
        url: EnrolUrl,
        pin: Pin,
        interface: String,
        link_binary: PathBuf,
        reply: EnrolReply,
    ) -> Self {
        Self {
            format: FORMAT,
            url,
            pin,
            enrolled: jiff::Timestamp::now().to_string(),
            interface,
            link_binary,
            reply,
        }
    }

    /// The alias that marks the device ours.
    pub fn alias(&self) -> String {
        format!("watari:node:{}", self.interface)
    }
}

/// The state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

/// An exclusive hold on a file; given back when dropped.
#[derive(Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "held for its lock")] Flock<File>);

impl StateDir {
    /// The directory at `path`, whether it is there or not.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Socket of the agent.
    pub fn agent_socket(&self) -> PathBuf {
        self.0.join("agent.sock")
    }

    /// Log of a detached agent.
    pub fn agent_log(&self) -> PathBuf {
        self.0.join("agent.log")
    }

    /// Where `watari-link` keeps its things for this node.
    pub fn link_paths(&self, binary: &Path) -> LinkPaths {
        LinkPaths {
            binary: binary.to_owned(),
            socket: self.0.join("link.sock"),
            state: self.0.join("link.json"),
        }
    }

    /// Makes the directory if it is not there.
    pub(super) fn create(&self) -> Result<(), NodeError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.map_err(|source| self.state_error(&self.0, source))
    }

    /// Keeps every other join, up and leave away; waits for one that runs, [`LOCK_LIMIT`] at most.
    pub(super) fn lock(&self) -> Result<Held, NodeError> {
        let deadline = Instant::now() + LOCK_LIMIT;
        loop {
            match self.try_lock()? {
                Some(held) => return Ok(held),
                None if Instant::now() >= deadline => return Err(NodeError::InUse { state: self.0.clone() }),
                None => std::thread::sleep(LOCK_POLL),
            }
        }
    }

    /// The same without waiting; `None` when another one runs.
    pub(super) fn try_lock(&self) -> Result<Option<Held>, NodeError> {
        Ok(self.hold(&self.0.join("lock"))?.map(|(held, _)| held))
    }

    /// Says that this process is the agent; `None` when another one is.
    pub(super) fn hold_agent(&self) -> Result<Option<Held>, NodeError> {
        let path = self.0.join("agent.pid");
        let Some((held, mut file)) = self.hold(&path)? else { return Ok(None) };
        let mut write = || {
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())
        };
        write().map_err(|source| self.state_error(&path, source))?;
        Ok(Some(held))
    }

    fn hold(&self, path: &Path) -> Result<Option<(Held, File)>, NodeError> {
        let open = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)?;
            Ok((file.try_clone()?, file))
        };
        let (copy, file) = open().map_err(|source| self.state_error(path, source))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some((Held(lock), copy))),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(self.state_error(path, errno.into())),
        }
    }

    /// The agent's process, if one runs. `Some(None)`: it has not said its number yet.
    pub(super) fn agent_process(&self) -> Result<Option<Option<Pid>>, NodeError> {
        let path = self.0.join("agent.pid");
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.state_error(&path, source)),
        };
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(|source| self.state_error(&path, source))?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(None),
            Err((_, Errno::EWOULDBLOCK)) => Ok(Some(text.trim().parse().ok().map(Pid::from_raw))),
            Err((_, errno)) => Err(self.state_error(&path, errno.into())),
        }
    }

    /// The node's key, made now if there is none.
    pub(super) fn key(&self) -> Result<PrivateKey, NodeError> {
        if let Some(key) = self.stored_key()? {
            return Ok(key);
        }
        let path = self.0.join("key");
        let key = PrivateKey::generate().map_err(|source| self.state_error(&path, source))?;
        self.write(&path, format!("{}\n", key.reveal()).as_bytes())?;
        Ok(key)
    }

    /// The node's key, if it has one.
    pub(super) fn stored_key(&self) -> Result<Option<PrivateKey>, NodeError> {
        let path = self.0.join("key");
        let Some(text) = self.read(&path)? else { return Ok(None) };
        let key = text.trim().parse().map_err(|e| self.state_error(&path, io::Error::other(e)))?;
        Ok(Some(key))
    }

    /// The identity, if the node has joined.
    pub(super) fn identity(&self) -> Result<Option<Identity>, NodeError> {
        let path = self.0.join("node.json");
        let Some(text) = self.read(&path)? else { return Ok(None) };
        let wrong =
            |detail: String| self.state_error(&path, io::Error::new(io::ErrorKind::InvalidData, detail));
        let identity: Identity = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if identity.format != FORMAT {
            return Err(wrong(format!("format {}, not {FORMAT}", identity.format)));
        }
        identity.reply.check().map_err(|faults| wrong(faults[0].to_string()))?;
        Ok(Some(identity))
    }

    /// Keeps the identity.
    pub(super) fn save(&self, identity: &Identity) -> Result<(), NodeError> {
        let path = self.0.join("node.json");
        let text = serde_json::to_vec_pretty(identity).map_err(|e| self.state_error(&path, e.into()))?;
        self.write(&path, &text)
    }

    /// Removes every file of a node, and the directory when nothing else is in it.
    pub(super) fn remove(&self) -> Result<(), NodeError> {
        const FILES: [&str; 10] = [
            "node.json",
            "key",
            "agent.pid",
            "agent.sock",
            "agent.log",
            "link.sock",
            "link.sock.lock",
            "link.json",
            "link.json.log",
            "lock",
        ];
        for name in FILES {
            let path = self.0.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.state_error(&path, error));
                }
                _ => {}
            }
        }
        // What others have put there stays, and the directory with it.
        let _ = fs::remove_dir(&self.0);
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<Option<String>, NodeError> {
        let mut text = String::new();
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.state_error(path, source)),
        };
        file.take(FILE_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|source| self.state_error(path, source))?;
        Ok(Some(text))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), NodeError> {
        let draft = path.with_extension("new");
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, path)?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(|source| self.state_error(path, source))
    }

    fn state_error(&self, path: &Path, source: io::Error) -> NodeError {
        NodeError::State { path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn folder() -> (tempfile::TempDir, StateDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = StateDir::at(folder.path().join("node"));
        dir.create().expect("it is made");
        (folder, dir)
    }

    #[test]
    fn a_key_is_made_once_and_nobody_else_can_read_it() {
        let (_folder, dir) = folder();
        let key = dir.key().expect("a key");
        assert!(dir.key().expect("a key") == key);
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(dir.path()), mode(&dir.path().join("key"))), (0o700, 0o600));
    }

    #[test]
    fn a_broken_key_is_an_error_and_not_replaced() {
        let (_folder, dir) = folder();
        fs::write(dir.path().join("key"), "nonsense").expect("it is written");
        assert!(matches!(dir.key(), Err(NodeError::State { .. })));
        assert_eq!(fs::read_to_string(dir.path().join("key")).expect("it is there"), "nonsense");
    }

    #[test]
    fn a_lock_keeps_others_away_until_it_is_given_back() {
        let (_folder, dir) = folder();
        let held = dir.lock().expect("a lock");
        assert!(matches!(dir.lock(), Err(NodeError::InUse { .. })));
        drop(held);
        dir.lock().expect("a lock");
    }

    #[test]
    fn the_agents_process_is_known_while_it_holds_its_file() {
        let (_folder, dir) = folder();
        assert_eq!(dir.agent_process().expect("readable"), None);
        let held = dir.hold_agent().expect("writable").expect("free");
        let own = Pid::from_raw(std::process::id().cast_signed());
        assert_eq!(dir.agent_process().expect("readable"), Some(Some(own)));
        assert!(dir.hold_agent().expect("writable").is_none(), "only one agent");
        drop(held);
        assert_eq!(dir.agent_process().expect("readable"), None);
    }

    #[test]
    fn removal_leaves_what_others_have_put_there() {
        let (_folder, dir) = folder();
        dir.key().expect("a key");
        fs::write(dir.path().join("foreign"), "").expect("it is written");
        dir.remove().expect("it is removed");
        assert!(!dir.path().join("key").exists() && dir.path().join("foreign").exists());
        fs::remove_file(dir.path().join("foreign")).expect("it is removed");
        dir.remove().expect("it is removed");
        assert!(!dir.path().exists());
    }
}
