//! The four things that an operator does with a node: join, up, status, leave.
//!
//! ```text
//!  join ──▶ may this machine? ──▶ key ──▶ enrol ──▶ node.json ─┐
//!  up ─────────────────────────────────────────────(read)──────┤
//!                                                              ▼
//!            device (kernel | watari-link) ──▶ addresses ──▶ routes ──▶ agent ──▶ handshake
//!  leave ◀── the same backwards, then the state
//! ```
//! What can fail without the gateway is tried before the token is used. Everything after `node.json`
//! may be repeated: `up` makes it so whatever was there before.

mod process;
mod state;
mod status;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::{info, warn};
use watari_link::PrivateKey;

pub use state::{Identity, StateDir};
pub use status::NodeStatus;

use crate::agent::{AgentError, CallError};
use crate::enrol::{self, ClientError, ClientOptions, EnrolRequest, EnrolUrl, NodeKind, Pin};
use crate::host::device::{self, DeviceWish, Engine};
use crate::host::netlink::Netlink;
use crate::host::routes::{self, RouteWish};
use crate::host::{HostError, inventory};

/// Where a node keeps its state when nobody says so.
pub const STATE_DEFAULT: &str = "/var/lib/watari-node";
/// Name of the tunnel device when nobody says so.
pub const INTERFACE_DEFAULT: &str = "wt0";
/// How long the first handshake may take when nobody says so.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);
/// A session is dead when its handshake is older (REJECT_AFTER_TIME of WireGuard).
const SESSION_LIMIT: Duration = Duration::from_secs(180);
/// Between two looks at the handshake.
const HANDSHAKE_POLL: Duration = Duration::from_millis(50);
/// Every so many looks a packet is sent into the tunnel.
const NUDGE_EVERY: u32 = 20;
/// Discard (RFC 863): the packet is not meant to be read.
const NUDGE_PORT: u16 = 9;
/// Longest name of a device.
const INTERFACE_BYTES_MAX: usize = 15;

/// Why a node did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A file of the state cannot be used.
    #[error("{path}: {source}", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// Another command works on it.
    #[error("another watari-node works on {state}", state = state.display())]
    InUse {
        /// The state directory.
        state: PathBuf,
    },
    /// It is a node already.
    #[error(
        "this machine is the node {node} already: `watari-node up` brings it up, `watari-node leave` ends it"
    )]
    Joined {
        /// Its name.
        node: String,
    },
    /// It is no node.
    #[error("this machine is no node ({state} holds none): `watari-node join` makes it one", state = state.display())]
    NotJoined {
        /// The state directory.
        state: PathBuf,
    },
    /// The name cannot be a device's.
    #[error("`{name}` is no name for a device: 1 to {INTERFACE_BYTES_MAX} letters, digits, `-`, `_` or `.`")]
    Interface {
        /// The name.
        name: String,
    },
    /// Not root.
    #[error("making a tunnel needs root (CAP_NET_ADMIN)")]
    NotRoot,
    /// Enrolment failed.
    #[error(transparent)]
    Enrol(#[from] ClientError),
    /// The kernel or the engine refused.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The agent cannot listen.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The agent was started and does not answer.
    #[error("the agent was started and does not answer; its log is {log} ({source})", log = log.display())]
    AgentSilent {
        /// Of the log file.
        log: PathBuf,
        /// The last try.
        #[source]
        source: CallError,
    },
    /// An agent runs that should not, or cannot be stopped.
    #[error("an agent runs for {state}", state = state.display())]
    AgentRuns {
        /// The state directory.
        state: PathBuf,
    },
    /// No handshake in time.
    #[error(
        "the gateway at {endpoint} did not answer within {limit_s} s: is its UDP port reachable from here? \
         (the node is enrolled, `watari-node up` tries again)"
    )]
    NoHandshake {
        /// The gateway's endpoint.
        endpoint: SocketAddr,
        /// How long it was waited for, in seconds.
        limit_s: u64,
    },
    /// The program could not use its own machinery.
    #[error("cannot {what}: {source}")]
    System {
        /// What failed.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// How to join. Not `Debug`: it holds the token.
#[derive(Clone)]
pub struct JoinOptions {
    /// The gateway's enrolment listener.
    pub url: EnrolUrl,
    /// The certificate to trust.
    pub pin: Pin,
    /// The one-shot token.
    pub token: String,
    /// Where to keep the state.
    pub state: PathBuf,
    /// Name of the tunnel device.
    pub interface: String,
    /// Where `watari-link` is; looked for when `None`.
    pub link_binary: Option<PathBuf>,
    /// What kind of node to say it is; by its GPUs when `None`.
    pub kind: Option<NodeKind>,
    /// Limits of the enrolment.
    pub client: ClientOptions,
}

/// A node that has joined.
#[derive(Debug, Clone)]
pub struct Node {
    dir: StateDir,
    key: PrivateKey,
    identity: Identity,
}

impl Node {
    /// Enrols this machine and keeps what the gateway gave. Nothing is configured yet.
    ///
    /// # Errors
    /// It has joined already, cannot make tunnels, or the gateway refused; then nothing is left
    /// behind but the key.
    pub fn join(options: &JoinOptions) -> Result<Self, NodeError> {
        check_interface(&options.interface)?;
        let dir = StateDir::at(&options.state);
        dir.create()?;
        let _held = dir.lock()?;
        if let Some(identity) = dir.identity()? {
            return Err(NodeError::Joined { node: identity.reply.node });
        }
        let link_binary = options.link_binary.clone().unwrap_or_else(device::find_link_binary);
        let link_binary = std::path::absolute(&link_binary).unwrap_or(link_binary);
        let alias = alias_of(&options.interface);
        let paths = dir.link_paths(&link_binary);
        block_on(async {
            Ok(device::preflight(&Netlink::open()?, &options.interface, &alias, &paths).await?)
        })?;
        let key = dir.key()?;
        let inventory = inventory::read(Path::new("/"))?;
        let request = EnrolRequest {
            token: options.token.clone(),
            public_key: key.public_key(),
            hostname: inventory::hostname(Path::new("/"))?,
            kind: options.kind.unwrap_or_else(|| inventory::kind(&inventory)),
            inventory,
        };
        let reply = enrol::enrol(&options.url, options.pin, &request, &options.client)?;
        let (url, interface) = (options.url.clone(), options.interface.clone());
        let identity = Identity::new(url, options.pin, interface, link_binary, reply);
        dir.save(&identity)?;
        info!(node = identity.reply.node, "enrolled");
        Ok(Self { dir, key, identity })
    }

    /// The node whose state is at `state`.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn load(state: &Path) -> Result<Self, NodeError> {
        let dir = StateDir::at(state);
        let absent = || NodeError::NotJoined { state: state.to_owned() };
        let identity = dir.identity()?.ok_or_else(absent)?;
        let key = dir.stored_key()?.ok_or_else(absent)?;
        Ok(Self { dir, key, identity })
    }

    /// Its identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Makes device, addresses and routes be as the gateway gave them; returns who carries the
    /// tunnel.
    ///
    /// # Errors
    /// Something foreign is in the way, or the kernel or the engine refused. It may be repeated.
    pub fn configure(&self) -> Result<Engine, NodeError> {
        let _held = self.dir.lock()?;
        self.check_current()?;
        block_on(self.apply())
    }

    /// The same, unless another command works on the node: that one has the last word.
    fn repair(&self) -> Result<(), NodeError> {
        let Some(_held) = self.dir.try_lock()? else { return Ok(()) };
        self.check_current()?;
        block_on(self.apply()).map(drop)
    }

    /// Under the lock: the node has not left, and not joined elsewhere, since this was read.
    fn check_current(&self) -> Result<(), NodeError> {
        if self.dir.identity()?.as_ref() == Some(&self.identity) {
            return Ok(());
        }
        Err(NodeError::NotJoined { state: self.dir.path().to_owned() })
    }

    async fn apply(&self) -> Result<Engine, NodeError> {
        let netlink = Netlink::open()?;
        let reply = &self.identity.reply;
        let alias = self.identity.alias();
        let wish = DeviceWish {
            name: &self.identity.interface,
            alias: &alias,
            private_key: &self.key,
            mtu: reply.mtu,
            wireguard: &reply.wireguard,
        };
        let paths = self.dir.link_paths(&self.identity.link_binary);
        let (engine, index) = device::ensure(&netlink, &wish, &paths).await?;
        let (added, removed) = netlink.sync_addresses(index, &reply.addresses).await?;
        let wish = RouteWish {
            device: index,
            prefixes: &reply.prefixes,
            addresses: &reply.addresses,
            endpoint: reply.wireguard.endpoint.ip(),
            path: None,
        };
        let changes = routes::sync(&netlink, wish).await?;
        if added + removed + changes.add.len() + changes.remove.len() > 0 {
            let (to, from) = (changes.add.len(), changes.remove.len());
            info!(
                addresses_added = added,
                addresses_removed = removed,
                routes_added = to,
                routes_removed = from,
                "configured"
            );
        }
        Ok(engine)
    }

    /// Makes sure that the agent runs, detached, and answers.
    ///
    /// # Errors
    /// It cannot be started, or does not answer in time.
    pub fn ensure_agent(&self) -> Result<(), NodeError> {
        process::ensure(&self.dir)
    }

    /// Is the agent, until SIGTERM or SIGINT. Meanwhile it makes what [`Self::configure`] makes
    /// again when somebody has taken it away.
    ///
    /// # Errors
    /// Another agent runs, or it cannot listen.
    pub fn run_agent(&self) -> Result<(), NodeError> {
        block_on(process::run(self.clone()))
    }

    /// Waits until the gateway has answered a handshake, `limit` at most.
    ///
    /// # Errors
    /// It has not.
    pub fn await_handshake(&self, engine: Engine, limit: Duration) -> Result<(), NodeError> {
        let paths = self.dir.link_paths(&self.identity.link_binary);
        let deadline = Instant::now() + limit;
        let mut looks = 0;
        while Instant::now() < deadline {
            let age = device::handshake_age(engine, &self.identity.interface, &paths)?;
            if age.is_some_and(|age| age < SESSION_LIMIT) {
                return Ok(());
            }
            if looks % NUDGE_EVERY == 0 {
                self.nudge();
            }
            looks += 1;
            std::thread::sleep(HANDSHAKE_POLL);
        }
        Err(NodeError::NoHandshake {
            endpoint: self.identity.reply.wireguard.endpoint,
            limit_s: limit.as_secs(),
        })
    }

    /// Sends a packet into the tunnel: without keepalive WireGuard is silent until there is one.
    fn nudge(&self) {
        let reply = &self.identity.reply;
        for address in &reply.addresses {
            let far = reply.agent.controllers.iter().find(|c| c.is_ipv4() == address.addr().is_ipv4());
            if let Some(far) = far
                && let Ok(socket) = UdpSocket::bind((address.addr(), 0))
            {
                // It may be lost as well as answered; only the handshake counts.
                let _ = socket.send_to(&[], (*far, NUDGE_PORT));
            }
        }
    }

    /// What it is and whether it works.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn status(&self) -> Result<NodeStatus, NodeError> {
        block_on(status::read(&self.dir, &self.identity))
    }
}

/// Removes agent, routes, device and state; returns the node's name.
///
/// # Errors
/// There is no node, or something cannot be removed; the state is kept then, so that it may be
/// repeated.
pub fn leave(state: &Path) -> Result<String, NodeError> {
    let dir = StateDir::at(state);
    let absent = || NodeError::NotJoined { state: state.to_owned() };
    dir.identity()?.ok_or_else(absent)?;
    let held = dir.lock()?;
    // Read again under the lock: another command may have ended it meanwhile.
    let identity = dir.identity()?.ok_or_else(absent)?;
    if process::stop(&dir)? {
        info!("the agent has stopped");
    }
    block_on(async {
        let netlink = Netlink::open()?;
        let link = netlink.link(&identity.interface).await?.filter(|l| l.alias == identity.alias());
        let endpoint = identity.reply.wireguard.endpoint.ip();
        let removed = routes::remove_all(&netlink, link.map(|l| l.index), endpoint).await?;
        let paths = dir.link_paths(&identity.link_binary);
        let found = device::remove(&netlink, &identity.interface, &identity.alias(), &paths).await?;
        if !found {
            warn!(interface = identity.interface, "the device was gone already");
        }
        info!(routes = removed, "the tunnel is removed");
        Ok::<_, NodeError>(())
    })?;
    dir.remove()?;
    drop(held);
    Ok(identity.reply.node)
}

fn alias_of(interface: &str) -> String {
    format!("watari:node:{interface}")
}

fn check_interface(name: &str) -> Result<(), NodeError> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if name.is_empty() || name.len() > INTERFACE_BYTES_MAX || !plain || matches!(name, "." | "..") {
        return Err(NodeError::Interface { name: name.to_owned() });
    }
    Ok(())
}

/// Runs on a runtime of its own, which lives on this thread only: sockets belong to its network
/// namespace.
fn block_on<T>(work: impl Future<Output = Result<T, NodeError>>) -> Result<T, NodeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| NodeError::System { what: "start a runtime", source })?;
    runtime.block_on(work)
}
