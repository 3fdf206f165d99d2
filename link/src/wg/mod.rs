//! The WireGuard protocol, pure: no socket, thread, clock or randomness; time and random bytes are arguments.
//!
//! Transport is [`Session`]: packet threads hold an `Arc` of it, take counters by the batch, seal and open on
//! their own, and tell the peer's timers by marks ([`Session::note_sent`], [`Session::note_received`]), without
//! a lock for a packet. Citations of sections are of the whitepaper
//! (Donenfeld, "WireGuard: Next Generation Kernel Network Tunnel", 2020).

pub mod limits;
mod replay;
mod session;
mod traffic;

pub use replay::{REPLAY_WINDOW, ReplayWindow};
pub use session::{Agreed, OpenError, Opened, Role, Session, SessionKeys, receiver_of, sealed_len};
pub use traffic::Traffic;
