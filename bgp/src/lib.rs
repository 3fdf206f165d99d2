//! PURE: a BGP-4 and EVPN speaker without sockets, clock, threads or randomness.
//!
//! ```text
//!            Input ──▶ ┌──────────────────────── Speaker ────────────────────────┐ ──▶ Output
//!  TcpConnected, Bytes │ session/ one FSM per neighbour   policy  what may pass  │ Connect, Send, Close
//!  Originate, Withdraw │ wire/    messages ⇄ values       rib/    paths, decision,│ BestChanged, EndOfRib
//!  Tick, AddPeer …     │ evpn/    routes, mobility                what was sent  │ PeerState, SelectionDone
//!                      └──────────────────────────────────────────────────────────┘
//! ```
//!
//! The shell owns sockets and the clock: it feeds [`speaker::Speaker::handle`] with an [`speaker::Input`] and a
//! reading of its monotonic clock, does what the [`speaker::Output`]s say, and comes back with
//! [`speaker::Input::Tick`] at [`speaker::Speaker::next_deadline`]. The same inputs at the same times give the
//! same outputs. The README lists the RFCs section by section.

pub mod attrs;
pub mod community;
pub mod evpn;
pub mod nlri;
pub mod peer;
pub mod policy;
pub mod rib;
pub mod role;
pub mod session;
pub mod speaker;
pub mod time;
pub mod types;
pub mod wire;

pub use attrs::{AsPath, AsSegment, NextHop, Origin, PathAttributes, PmsiTunnel};
pub use community::{Community, ExtCommunity, LargeCommunity, NeighbourFlags, RouteTarget};
pub use evpn::{EvpnKey, Imet, IpPrefix, MacIp};
pub use nlri::{Key, Nlri, NlriData};
pub use peer::{AddPath, Dynamic, GracefulRestartConfig, Negotiated, PathsSent, PeerConfig};
pub use policy::{Filter, Policy, PrefixRule};
pub use role::Role;
pub use session::{DownReason, State};
pub use speaker::{Best, Input, Output, Reset, RestartConfig, Source};
pub use time::Instant;
pub use types::{
    Asn, ConnId, Esi, Family, FamilySet, InstanceId, MacAddr, PathId, PeerId, Rd, RouterId, Vni,
};
pub use wire::Notification;
