//! The shell of the BGP speaker: its sockets and its clock.
//!
//! ```text
//!   Bgp ──commands──▶ ┌─ task ────────────┐ ◀──octets── reader ◀─┐
//!   (handle, clones)  │ owns the Speaker, │                      TCP, one pair per connection
//!   Updates ◀──feed── │ never waits       │ ──octets──▶ writer ──┘
//!                     └─ connect, listen ─┘     (sockets made inside the peer's namespace)
//! ```
//! The task waits for nobody: writers have a queue each, whose length the speaker's own credit limits
//! ([`watari_bgp::speaker::SEND_CREDIT`]); readers wait when the task is behind, which TCP tells the peer; and
//! what the rest of the daemon has not taken yet is kept as the latest state per route, not as a list.
//!
//! Ending: the kernel closes the sockets of a killed process, so peers see a lost connection and start their
//! graceful restart; [`Bgp::shutdown`] with `graceful` does just that on purpose.

mod connection;
mod dynamic;
#[cfg(test)]
mod dynamic_tests;
mod feed;
#[cfg(test)]
mod frr_tests;
mod listen;
pub mod password;
#[cfg(test)]
mod secured_tests;
#[cfg(test)]
mod several_tests;
mod socket;
mod task;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot};
use watari_bgp::speaker::{Input, RestartConfig, Speaker, SpeakerConfig};
use watari_bgp::{Asn, InstanceId, Instant, Key, Nlri, PathAttributes, PeerConfig, PeerId, Reset};

pub use feed::{Batch, PeerChange, Updates};
pub use password::Password;
use socket::Ttls;

/// The BGP port.
pub const PORT: u16 = 179;
/// Commands that may wait before their senders do.
const COMMANDS_MAX: usize = 1_024;

/// A neighbour, or all that may come from a prefix, and where the sockets live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// What the speaker needs to know. Of those that may come from a prefix, what holds for each: without its address and AS.
    pub config: PeerConfig,
    /// Whoever connects from a prefix becomes a neighbour.
    pub range: Option<Range>,
    /// Path of the network namespace, `None` for the daemon's own.
    pub netns: Option<PathBuf>,
    /// Time to live of what we send; 1 keeps an external session on its link.
    pub ttl: u8,
    /// The neighbour is at most so many hops away, 1 for one on the link: what has come further is dropped, and what we
    /// send has a TTL of 255 (RFC 5082).
    pub hops_max: Option<u8>,
    /// The key of its TCP MD5 signatures (RFC 2385).
    pub password: Option<Password>,
    /// Port on both sides, [`PORT`] but in tests.
    pub port: u16,
}

impl PeerSettings {
    /// The usual port, and the usual TTL: 1 for an external neighbour, 64 for an internal one.
    pub fn new(config: PeerConfig, netns: Option<PathBuf>) -> PeerSettings {
        let ttl = if config.is_internal() { 64 } else { 1 };
        PeerSettings { config, range: None, netns, ttl, hops_max: None, password: None, port: PORT }
    }

    /// TTL of what we send, and the lowest one that is taken.
    fn ttls(&self) -> Ttls {
        match self.hops_max {
            None => Ttls { sent: self.ttl, least: None },
            Some(hops) => Ttls { sent: u8::MAX, least: Some(u8::MAX - hops.saturating_sub(1)) },
        }
    }
}

/// Who may come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// From where.
    pub prefix: IpNet,
    /// Of which ASes, each the first and the last of a range.
    pub asns: Vec<(Asn, Asn)>,
    /// The most neighbours at a time.
    pub neighbours_max: usize,
}

/// Who is talked of: a peer that was set, or one of the neighbours that came from its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The peer that was set.
    pub peer: PeerId,
    /// The address of one that came from its prefix.
    pub came_from: Option<IpAddr>,
}

/// A change of our own routes.
#[derive(Clone, Debug)]
pub enum LocalChange {
    /// A route, new or with new attributes.
    Originate(InstanceId, Nlri, Box<PathAttributes>),
    /// A route that is gone.
    Withdraw(InstanceId, Key),
}

/// The task has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the BGP speaker has ended")]
pub struct Stopped;

type Query = Box<dyn FnOnce(&Speaker, Instant) + Send>;

/// What the handle asks of the task.
enum Command {
    Input(Box<Input>),
    Local(Vec<LocalChange>),
    Peers(BTreeMap<PeerId, PeerSettings>),
    Query(Query),
    Shutdown { graceful: bool, done: oneshot::Sender<()> },
}

/// The handle of the running speaker. When the last clone is dropped, the task ends as if killed.
#[derive(Clone, Debug)]
pub struct Bgp {
    commands: mpsc::Sender<Command>,
}

/// Starts the speaker on the current runtime.
pub fn spawn(config: SpeakerConfig) -> (Bgp, Updates) {
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let (feed, updates) = feed::feed();
    tokio::spawn(task::Task::new(config, feed).run(receiver));
    (Bgp { commands }, updates)
}

impl Bgp {
    /// Announces that this start is a restart; to be called before [`Bgp::set_peers`].
    ///
    /// # Errors
    /// The task has ended.
    pub async fn start_restart(&self, config: RestartConfig) -> Result<(), Stopped> {
        self.input(Input::StartRestart(config)).await
    }

    /// All peers are set and all own routes originated again.
    ///
    /// # Errors
    /// The task has ended.
    pub async fn local_routes_complete(&self) -> Result<(), Stopped> {
        self.input(Input::LocalRoutesComplete).await
    }

    /// Makes these the neighbours: new ones are started, missing ones removed, of the others only what differs
    /// is changed.
    ///
    /// # Errors
    /// The task has ended.
    pub async fn set_peers(&self, peers: BTreeMap<PeerId, PeerSettings>) -> Result<(), Stopped> {
        self.send(Command::Peers(peers)).await
    }

    /// Changes our own routes, in order.
    ///
    /// # Errors
    /// The task has ended.
    pub async fn apply(&self, changes: Vec<LocalChange>) -> Result<(), Stopped> {
        self.send(Command::Local(changes)).await
    }

    /// Whether best paths of an instance are told; see [`Input::Report`].
    ///
    /// # Errors
    /// The task has ended.
    pub async fn report(&self, instance: InstanceId, report: bool) -> Result<(), Stopped> {
        self.input(Input::Report { instance, report }).await
    }

    /// BFD found the path to a neighbour down; see [`Input::PathDown`].
    ///
    /// # Errors
    /// The task has ended.
    pub async fn path_down(&self, peer: PeerId, forwarding_is_dead: bool) -> Result<(), Stopped> {
        self.input(Input::PathDown { peer, forwarding_is_dead }).await
    }

    /// A neighbour begins anew; see [`Input::Reset`].
    ///
    /// # Errors
    /// The task has ended.
    pub async fn reset(&self, peer: PeerId, reset: Reset) -> Result<(), Stopped> {
        self.input(Input::Reset(peer, reset)).await
    }

    /// Asks the speaker something; the time is the one that its own times are on.
    ///
    /// # Errors
    /// The task has ended.
    pub async fn query<R, F>(&self, ask: F) -> Result<R, Stopped>
    where
        R: Send + 'static,
        F: FnOnce(&Speaker, Instant) -> R + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let query = move |speaker: &Speaker, now| drop(answer.send(ask(speaker, now)));
        self.send(Command::Query(Box::new(query))).await?;
        answered.await.map_err(|_| Stopped)
    }

    /// Ends the task: gracefully, so that peers keep our routes for the restart time, or for good. Returns when
    /// what had to be said is written, or could not be within a short time.
    ///
    /// # Errors
    /// The task had ended before.
    pub async fn shutdown(&self, graceful: bool) -> Result<(), Stopped> {
        let (done, ended) = oneshot::channel();
        self.send(Command::Shutdown { graceful, done }).await?;
        ended.await.map_err(|_| Stopped)
    }

    async fn input(&self, input: Input) -> Result<(), Stopped> {
        self.send(Command::Input(Box::new(input))).await
    }

    async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.commands.send(command).await.map_err(|_| Stopped)
    }
}
