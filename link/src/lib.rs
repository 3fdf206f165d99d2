//! `watari-link`: the user-space WireGuard engine and path prober of Watari, a process of its own.
//!
//! It has no policy: it is told what to do over one Unix socket, and goes on forwarding and
//! answering probes while the brain is away. This library is both sides of that socket:
//! [`protocol`] (what is said), [`client`] (how to say it), [`spawn`] (how to start an engine that
//! outlives its starter), and the engine itself.

pub mod client;
pub mod key;
pub mod protocol;
pub mod spawn;

pub use client::{Client, ClientError, Events};
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use spawn::{SpawnError, spawn_detached};
