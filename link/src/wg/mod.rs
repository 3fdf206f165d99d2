//! The WireGuard protocol, pure: no socket, thread, clock or randomness; time and random bytes are arguments.
//! Citations of sections are of the whitepaper (Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel",
//! 2020). Why it is our own: `docs/decisions/0014-the-wireguard-protocol-is-ours.md`.
//!
//! # How an engine uses it
//!
//! A device has an [`Identity`] and a [`Gate`]; each of its peers has a [`Peer`], the machine, behind a lock,
//! and what the machine shares with packet threads without that lock: [`Sessions`] and [`Traffic`].
//!
//! *Out*, a batch of packets for one peer:
//! ```text
//! session = sessions.sealing(now_ms)            none: keep the packets, lock the machine, Input::Want
//! first   = session.take_counters(n)            none: the session is spent, as above
//! session.seal(first + i, buffer, len, mtu)     in any thread, in any order
//! send the datagrams in the order of their counters
//! session.note_sent(now_ms, data, bytes)
//! ```
//! *In*, datagrams of one socket read, after [`Message::parse`]:
//! ```text
//! Data         session = sessions.opening(receiver, now_ms); session.open(datagram) in any thread
//!              session.replay().accept(counter)  in the order of arrival, authentic ones only
//!              session.note_received(now_ms, data, bytes)   true: lock the machine, Input::Confirmed
//! Initiation   gate.judge; identity.introduce; find the peer by its key; lock the machine, Input::Initiation
//! Response     gate.judge; find the peer by receiver >> 8; Input::Response
//! CookieReply  find the peer by receiver >> 8; Input::CookieReply
//! ```
//! *Time*: `Input::Tick` to every machine each 100 ms. What a machine wants done it appends as
//! [`Output`]s. *Upgrade*: threads stopped, [`Peer::hand_over`] there, [`Peer::take_up`] here. Endpoints, roaming, allowed-ips and the queue of packets without a session are the engine's.

pub mod limits;

mod cookie;
mod echo;
mod handover;
mod handshake;
mod message;
mod noise;
mod peer;
mod replay;
mod session;
mod sessions;
mod timers;
mod timestamp;
mod traffic;

#[cfg(test)]
mod attack_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod oracle_timer_tests;
#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod world;

pub use cookie::{Gate, HANDSHAKES_PER_SECOND, HANDSHAKES_UNDER_LOAD_PER_SECOND, Verdict};
pub use echo::{ECHO_LEN, Echo, EchoKey, EchoKind, echo_receiver};
pub use handover::{HandoverError, PeerState, SessionState};
pub use handshake::{HandshakeError, Identity, Introduction};
pub use message::Message;
pub use peer::{Input, Now, Output, Peer};
pub use replay::{REPLAY_WINDOW, ReplayWindow};
pub use session::{Agreed, OpenError, Opened, Role, Session, SessionKeys, receiver_of, sealed_len};
pub use sessions::Sessions;
pub use timers::CALL_AGAIN_MS;
pub use timestamp::Timestamp;
pub use traffic::Traffic;

/// A source of random bytes: fills what it is given. It has to be the system's, or as good.
pub type Random<'a> = dyn FnMut(&mut [u8]) + 'a;
