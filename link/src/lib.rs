//! `watari-link`: the user-space WireGuard engine, path prober and beacon sender of Watari, a process
//! of its own.
//!
//! It has no policy: it is told what to do over one Unix socket, and goes on forwarding and
//! answering probes while the brain is away. This library is both sides of that socket:
//! [`protocol`] (what is said), [`client`] (how to say it), [`spawn`] (how to start an engine that
//! outlives its starter), and the engine itself behind [`daemon::run`].

mod beacon;
mod bfd;
mod clock;
mod control;
mod endpoint;
mod engine;
mod events;
mod handover;
mod netdev;
mod path_mtu;
mod probe;
mod server;
mod state;
mod uapi;
mod validate;

pub mod client;
pub mod daemon;
pub mod key;
pub mod protocol;
pub mod spawn;
pub mod standalone;
pub mod wg;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use client::{Client, ClientError, Events};
pub use handover::{HANDOVER_VERSION, TakeOverError};
pub use key::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use spawn::{SpawnError, spawn_detached};
pub use uapi::UAPI_FOLDER;

/// Locks. A thread that panicked with the lock left the data as far as it came; every holder keeps
/// it usable at each step, so the others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
