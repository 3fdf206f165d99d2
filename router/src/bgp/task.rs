//! The task that owns the speaker: commands, octets and time in, sockets and the feed out. It never waits for
//! a socket or for a reader of the feed.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinHandle};
use watari_bgp::speaker::{Input, Output, Speaker, SpeakerConfig};
use watari_bgp::{ConnId, Instant, PeerId};

use super::connection::Connection;
use super::dynamic::{Admission, Dynamic, place_of, places};
use super::feed::{Feed, PeerChange};
use super::listen::{Accepted, Listeners, Place};
use super::{Command, LocalChange, Neighbour, PeerSettings, password, socket};

/// Messages of sockets that may wait before readers do: with the read size a bound on memory.
const MESSAGES_MAX: usize = 32;
/// Messages taken before commands are looked at again.
const BATCH_MAX: usize = 64;
/// How long a connection attempt may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What sockets report.
#[derive(Debug)]
pub(super) enum Message {
    Connected(PeerId, u64, io::Result<TcpStream>),
    Accepted(Accepted),
    Octets(PeerId, ConnId, Vec<u8>),
    Written(PeerId, ConnId, usize),
    Closed(PeerId, ConnId),
}

/// The latest connection attempt of a peer.
#[derive(Debug)]
struct Attempt {
    number: u64,
    task: AbortHandle,
}

pub(super) struct Task {
    speaker: Speaker,
    feed: Feed,
    started: std::time::Instant,
    peers: BTreeMap<PeerId, PeerSettings>,
    dynamic: Dynamic,
    listeners: Listeners,
    attempts: BTreeMap<PeerId, Attempt>,
    connections: BTreeMap<ConnId, Connection>,
    closing: Vec<JoinHandle<()>>,
    /// Numbers connections and attempts.
    next_number: u64,
    messages: mpsc::Sender<Message>,
    inbox: mpsc::Receiver<Message>,
}

impl Task {
    pub(super) fn new(config: SpeakerConfig, feed: Feed) -> Task {
        let (messages, inbox) = mpsc::channel(MESSAGES_MAX);
        Task {
            speaker: Speaker::new(config),
            feed,
            started: std::time::Instant::now(),
            peers: BTreeMap::new(),
            dynamic: Dynamic::default(),
            listeners: Listeners::default(),
            attempts: BTreeMap::new(),
            connections: BTreeMap::new(),
            closing: Vec::new(),
            next_number: 1,
            messages,
            inbox,
        }
    }

    /// Runs until it is told to end, or nobody holds the handle any more.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let due = self.due();
            tokio::select! {
                command = commands.recv() => match command {
                    None => return,
                    Some(Command::Shutdown { graceful, done }) => {
                        self.shut_down(graceful, done).await;
                        return;
                    }
                    Some(command) => self.command(command),
                },
                Some(message) = self.inbox.recv() => {
                    self.messages(message);
                    // Readers that have something are heard first.
                    tokio::task::yield_now().await;
                    if self.inbox.is_empty() {
                        self.settle();
                    }
                }
                () = tokio::time::sleep_until(due.into()) => self.input(Input::Tick),
            }
        }
    }

    fn now(&self) -> Instant {
        let elapsed = self.started.elapsed().as_millis();
        Instant::from_millis(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// When the speaker must be ticked; a millisecond is added because its clock has no finer grain.
    fn due(&self) -> std::time::Instant {
        const FAR: Duration = Duration::from_secs(3_600);
        let deadline = self.speaker.next_deadline().map(|d| Duration::from_millis(d.as_millis() + 1));
        deadline.map_or_else(|| std::time::Instant::now() + FAR, |d| self.started + d)
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Input(input) => self.input(*input),
            Command::Local(changes) => self.change(changes),
            Command::Peers(peers) => self.set_peers(peers),
            Command::Query(query) => query(&self.speaker, self.now()),
            Command::Shutdown { .. } => {}
        }
    }

    /// Changes of our own routes follow each other in masses: they are settled together.
    fn change(&mut self, changes: Vec<LocalChange>) {
        let now = self.now();
        for change in changes {
            let input = match change {
                LocalChange::Originate(instance, nlri, attrs) => Input::Originate { instance, nlri, attrs },
                LocalChange::Withdraw(instance, key) => Input::Withdraw { instance, key },
            };
            let outputs = self.speaker.push(input, now);
            self.perform_all(outputs);
        }
        self.settle();
    }

    /// Takes a message and those that wait behind it; what follows from them is done when no more are there: a best
    /// path that changes several times meanwhile is told once. Commands wait no longer than so many messages take.
    fn messages(&mut self, first: Message) {
        self.message(first);
        for _ in 1..BATCH_MAX {
            let Ok(message) = self.inbox.try_recv() else { break };
            self.message(message);
        }
    }

    fn settle(&mut self) {
        let now = self.now();
        let outputs = self.speaker.settle(now);
        self.perform_all(outputs);
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Connected(peer, number, result) => self.connected(peer, number, result),
            Message::Accepted(accepted) => self.accepted(accepted),
            Message::Octets(peer, conn, octets) => self.push(conn, Input::Bytes(peer, conn, octets)),
            Message::Written(peer, conn, len) => self.push(conn, Input::Written(peer, conn, len)),
            Message::Closed(peer, conn) => {
                self.push(conn, Input::TcpClosed(peer, conn));
                self.connections.remove(&conn);
            }
        }
    }

    /// An input about a connection, one of several perhaps, unless it was closed meanwhile.
    fn push(&mut self, conn: ConnId, input: Input) {
        if self.connections.contains_key(&conn) {
            let now = self.now();
            let outputs = self.speaker.push(input, now);
            self.perform_all(outputs);
        }
    }

    fn input(&mut self, input: Input) {
        let now = self.now();
        let outputs = self.speaker.handle(input, now);
        self.perform_all(outputs);
    }

    fn perform_all(&mut self, outputs: Vec<Output>) {
        outputs.into_iter().for_each(|output| self.perform(output));
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Connect(peer) => self.connect(peer),
            Output::Close(_, conn) => {
                self.closing.retain(|task| !task.is_finished());
                self.closing.extend(self.connections.remove(&conn).and_then(Connection::close));
            }
            Output::Send(_, conn, octets) => {
                if let Some(connection) = self.connections.get(&conn) {
                    connection.send(octets);
                }
            }
            Output::BestChanged { instance, key, best } => self.feed.best(instance, key, best),
            Output::PeerState { peer, old, new, reason } => {
                tracing::debug!(peer = peer.0, %old, %new, ?reason, "BGP session");
                self.feed.peer(PeerChange { neighbour: self.neighbour(peer), old, new, reason });
            }
            Output::PeerGone(peer) => drop(self.peers.remove(&peer)),
            Output::NearLimit { peer, family, paths, limit } => {
                self.feed.near_limit(self.neighbour(peer), family, paths, limit);
            }
            Output::EndOfRib(peer, family) => self.feed.end_of_rib(peer, family),
            Output::SelectionDone(instance, family) => self.feed.selection_done(instance, family),
        }
    }

    /// Under which name a peer of the speaker is known outside.
    fn neighbour(&self, peer: PeerId) -> Neighbour {
        let config = self.peers.get(&peer).map(|settings| &settings.config);
        let came = config.and_then(|c| Some((c.dynamic.as_ref()?.of, c.remote_addr)));
        match came {
            Some((of, address)) => Neighbour { peer: of, came_from: Some(address) },
            None => Neighbour { peer, came_from: None },
        }
    }

    fn set_peers(&mut self, wanted: BTreeMap<PeerId, PeerSettings>) {
        let places = places(&wanted);
        let wanted = self.dynamic.set(wanted, &self.peers);
        let moved = |old: &PeerSettings, new: &PeerSettings| {
            (&old.netns, old.port, old.ttls()) != (&new.netns, new.port, new.ttls())
        };
        let gone: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(peer, old)| wanted.get(peer).is_none_or(|new| moved(old, new)))
            .map(|(peer, _)| *peer)
            .collect();
        gone.into_iter().for_each(|peer| self.remove(peer));
        self.listeners.set(places, &self.messages);
        // One that came by itself and is gone comes again by itself, if it does.
        let stays = |(peer, settings): &(PeerId, PeerSettings)| {
            settings.config.dynamic.is_none() || self.peers.contains_key(peer)
        };
        for (peer, settings) in wanted.into_iter().filter(stays).collect::<Vec<_>>() {
            let config = Box::new(settings.config.clone());
            let known = self.peers.insert(peer, settings);
            self.sign_again(peer, known.as_ref());
            let known = known.is_some();
            self.input(if known { Input::UpdatePeer(peer, config) } else { Input::AddPeer(peer, config) });
        }
    }

    /// The end of its session is still told under its name.
    fn remove(&mut self, peer: PeerId) {
        self.input(Input::RemovePeer(peer));
        self.abort_attempt(peer);
        self.peers.remove(&peer);
    }

    /// Gives the connections of a peer the key that is another one since `before`.
    fn sign_again(&self, peer: PeerId, before: Option<&PeerSettings>) {
        let (Some(before), Some(now)) = (before, self.peers.get(&peer)) else { return };
        if before.password == now.password {
            return;
        }
        let remote = password::host(now.config.remote_addr);
        for connection in self.connections.values().filter(|c| c.peer == peer) {
            if let Err(error) = connection.sign(remote, now.password.as_ref()) {
                tracing::warn!(peer = peer.0, %error, "cannot change a TCP MD5 key");
            }
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn abort_attempt(&mut self, peer: PeerId) {
        if let Some(attempt) = self.attempts.remove(&peer) {
            attempt.task.abort();
        }
    }

    /// Starts a connection attempt in the place of an earlier one.
    fn connect(&mut self, peer: PeerId) {
        let Some(settings) = self.peers.get(&peer).cloned() else { return };
        self.abort_attempt(peer);
        let number = self.number();
        let messages = self.messages.clone();
        let task = tokio::spawn(async move {
            let remote = SocketAddr::new(settings.config.remote_addr, settings.port);
            let (ttls, local) = (settings.ttls(), settings.config.local_addr);
            let attempt = socket::connect(settings.netns, local, remote, ttls, settings.password);
            let timeout = |_| Err(io::ErrorKind::TimedOut.into());
            let result = tokio::time::timeout(CONNECT_LIMIT, attempt).await.unwrap_or_else(timeout);
            let _ = messages.send(Message::Connected(peer, number, result)).await;
        });
        self.attempts.insert(peer, Attempt { number, task: task.abort_handle() });
    }

    fn connected(&mut self, peer: PeerId, number: u64, result: io::Result<TcpStream>) {
        if self.attempts.get(&peer).is_none_or(|a| a.number != number) {
            return;
        }
        self.attempts.remove(&peer);
        match result {
            Ok(stream) if self.is_signed_as_wanted(peer, &stream) => {
                let conn = self.adopt(peer, stream);
                self.input(Input::TcpConnected(peer, conn));
            }
            Ok(_) => self.input(Input::TcpFailed(peer)),
            Err(error) => {
                tracing::debug!(peer = peer.0, %error, "BGP connection failed");
                self.input(Input::TcpFailed(peer));
            }
        }
    }

    /// The key may have become another while the connection was made.
    fn is_signed_as_wanted(&self, peer: PeerId, stream: &TcpStream) -> bool {
        let Some(settings) = self.peers.get(&peer) else { return false };
        let Some(key) = &settings.password else { return true };
        let signed = password::set(stream, password::host(settings.config.remote_addr), Some(key));
        signed.inspect_err(|error| tracing::warn!(peer = peer.0, %error, "cannot set a TCP MD5 key")).is_ok()
    }

    /// A connection of somebody who is no peer of that place is closed without a word.
    fn accepted(&mut self, accepted: Accepted) {
        let Accepted { place, remote, stream } = accepted;
        let fits = |s: &PeerSettings| s.config.remote_addr == remote && place_of(s) == place;
        let known = self.peers.iter().find(|(_, settings)| fits(settings)).map(|(peer, _)| *peer);
        let Some(peer) = known.or_else(|| self.admit(&place, remote)) else {
            tracing::debug!(%remote, local = %place.local, "BGP connection of a stranger");
            return;
        };
        let Some(settings) = self.peers.get(&peer) else { return };
        let signed = match &settings.password {
            Some(key) => password::set(&stream, password::host(remote), Some(key)),
            None => Ok(()),
        };
        match signed.and_then(|()| socket::set_ttls(&stream, settings.ttls())) {
            Ok(()) => {
                let conn = self.adopt(peer, stream);
                self.input(Input::TcpAccepted(peer, conn));
            }
            Err(error) => {
                tracing::debug!(peer = peer.0, %remote, %error, "cannot take a BGP connection");
                // It was admitted for this connection, and has no other that it could go with.
                if known.is_none() {
                    self.remove(peer);
                }
            }
        }
    }

    /// Takes a neighbour that came by itself, if it may and there is room.
    fn admit(&mut self, place: &Place, remote: IpAddr) -> Option<PeerId> {
        match self.dynamic.admit(place, remote, &self.peers)? {
            Admission::Taken(peer, settings) => {
                let config = Box::new(settings.config.clone());
                self.peers.insert(peer, *settings);
                self.input(Input::AddPeer(peer, config));
                Some(peer)
            }
            Admission::Full(of) => {
                self.feed.full(of, remote);
                None
            }
            Admission::FullStill => None,
        }
    }

    fn adopt(&mut self, peer: PeerId, stream: TcpStream) -> ConnId {
        let conn = ConnId(self.number());
        self.connections.insert(conn, Connection::new(stream, peer, conn, &self.messages));
        conn
    }

    async fn shut_down(mut self, graceful: bool, done: oneshot::Sender<()>) {
        self.listeners = Listeners::default();
        self.input(Input::Shutdown { graceful });
        // Writers must not wait for an inbox that nobody empties.
        self.inbox.close();
        for task in std::mem::take(&mut self.closing) {
            let _ = task.await;
        }
        let _ = done.send(());
    }
}
