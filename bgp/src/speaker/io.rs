//! The two enums of the speaker: everything that can happen to it, and everything it asks for.

use std::net::IpAddr;
use std::sync::Arc;

use crate::attrs::PathAttributes;
use crate::nlri::{Key, Nlri, NlriData};
use crate::peer::PeerConfig;
use crate::rib::Octets;
use crate::session::{DownReason, State};
use crate::types::{ConnId, Family, InstanceId, PeerId};

/// Something that happened. Connections are numbered by the shell, which never reuses a number.
#[derive(Clone, Debug)]
pub enum Input {
    /// A neighbour was configured; the session starts at once.
    AddPeer(PeerId, Box<PeerConfig>),
    /// A neighbour's configuration changed; only what changed is touched.
    UpdatePeer(PeerId, Box<PeerConfig>),
    /// A neighbour is gone: its session is ceased, its routes leave at once.
    RemovePeer(PeerId),
    /// The connection asked for by the latest [`Output::Connect`] of the peer is there.
    TcpConnected(PeerId, ConnId),
    /// The peer connected to us.
    TcpAccepted(PeerId, ConnId),
    /// The latest [`Output::Connect`] of the peer failed.
    TcpFailed(PeerId),
    /// The other side closed the connection, or it broke. Not sent for [`Output::Close`].
    TcpClosed(PeerId, ConnId),
    /// Octets arrived, in order, in pieces of any size.
    Bytes(PeerId, ConnId, Vec<u8>),
    /// So many octets of what [`Output::Send`] gave were handed to the kernel. Without these reports the
    /// speaker stops after [`super::SEND_CREDIT`] octets of updates: a slow peer delays only itself.
    Written(PeerId, ConnId, usize),
    /// BFD found the path to the peer down (RFC 5882 §4.3): an established session ends with Cease / BFD Down
    /// (RFC 9384) and its routes leave at once.
    PathDown {
        /// The peer.
        peer: PeerId,
        /// Its C bit was set: its forwarding is dead, and not its control plane alone. What is kept of it while it
        /// restarts leaves as well.
        forwarding_is_dead: bool,
    },
    /// A route of our own; replaces an earlier one with the same key.
    Originate {
        /// Whose table.
        instance: InstanceId,
        /// The route.
        nlri: Nlri,
        /// Its attributes. Without a next hop, unicast routes get our address of each session.
        attrs: Box<PathAttributes>,
    },
    /// A route of our own is gone.
    Withdraw {
        /// Whose table.
        instance: InstanceId,
        /// The route.
        key: Key,
    },
    /// Whether best paths of an instance are reported; they are until this says otherwise. Those of a route server are
    /// of interest to its peers alone. A change reports all of them, as new or as gone.
    Report {
        /// Whose tables.
        instance: InstanceId,
        /// Whether.
        report: bool,
    },
    /// We restart (RFC 4724 §4.1). To be given once, before the first peer. Nothing is selected, advertised or
    /// reported until [`Input::LocalRoutesComplete`] and every peer's End-of-RIB were given, or the limit is over.
    StartRestart(RestartConfig),
    /// All peers are added, and all routes of our own that existed before the restart are originated again.
    LocalRoutesComplete,
    /// Ask a peer to send a family again (RFC 2918).
    RequestRefresh(PeerId, Family),
    /// The operator wants a peer to begin anew.
    Reset(PeerId, Reset),
    /// The daemon stops. Graceful: connections with graceful restart are closed without a NOTIFICATION, so
    /// that the peers keep our routes; else, and for all other peers, Cease / Administrative Shutdown.
    Shutdown {
        /// Whether the daemon will be back within the restart time.
        graceful: bool,
    },
    /// Time has passed.
    Tick,
}

/// How much of a session begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// All of it: it ends with Cease / Administrative Reset (RFC 4486) and is tried again at once, also one that rests after an
    /// error. Where both sides can, the routes are kept meanwhile (RFC 8538 §4).
    Hard,
    /// What the peer tells: it is asked for everything (RFC 2918). Nothing happens where it cannot be asked.
    SoftIn,
    /// What it is told: it is told everything again.
    SoftOut,
}

/// How we restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartConfig {
    /// The data plane kept its state: the F bit of every family.
    pub forwarding_preserved: bool,
    /// The longest wait for [`Input::LocalRoutesComplete`] and the peers' End-of-RIB, in milliseconds.
    pub selection_deferral_ms: u64,
}

/// Something to do or to know, in order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Open a connection to the peer. An earlier attempt still under way is void.
    Connect(PeerId),
    /// Close the connection once everything sent before is written.
    Close(PeerId, ConnId),
    /// Send octets, which may be those that other peers are sent too.
    Send(PeerId, ConnId, Octets),
    /// The best path of a key changed.
    BestChanged {
        /// Whose table.
        instance: InstanceId,
        /// The key; it tells the family.
        key: Key,
        /// The path, `None` when the last one is gone.
        best: Option<Best>,
    },
    /// A session changed its state.
    PeerState {
        /// The peer.
        peer: PeerId,
        /// From.
        old: State,
        /// To.
        new: State,
        /// Why, when it went down.
        reason: Option<DownReason>,
    },
    /// Nothing is left of a dynamic neighbour: it is known no longer, and its number may be given to another.
    PeerGone(PeerId),
    /// The peer has sent so many paths of a family that its limit is near; told once until they are fewer again.
    NearLimit {
        /// The peer.
        peer: PeerId,
        /// The family.
        family: Family,
        /// Paths that it has.
        paths: usize,
        /// Paths that it may have.
        limit: u32,
    },
    /// The peer sent its End-of-RIB.
    EndOfRib(PeerId, Family),
    /// After a restart: best paths of the family are selected and were reported; what the system still has
    /// beyond them is to be removed.
    SelectionDone(InstanceId, Family),
}

/// A selected path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    /// Attributes, next hop included.
    pub attrs: Arc<PathAttributes>,
    /// Labels, ESI and gateway of an EVPN route.
    pub data: NlriData,
    /// Where it came from.
    pub source: Source,
    /// Kept while its peer restarts.
    pub stale: bool,
}

impl Best {
    /// The (global) next hop; `None` for a local route without one.
    pub fn next_hop(&self) -> Option<IpAddr> {
        self.attrs.next_hop.map(|n| n.addr())
    }
}

/// Where a path came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Originated here.
    Local,
    /// Learnt from a peer.
    Peer(PeerId),
}
