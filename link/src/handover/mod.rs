//! The upgrade of a running engine: a successor takes descriptors and state from it, and packets go on.
//!
//! ```text
//!  the running engine                          its successor (--take-over)
//!        │ ◀──────────── hello, take_over ────────── │  on the control socket
//!        │ ── taking_over ─────────────────────────▶ │
//!        │ ◀──────────────────────────────── begin ─ │
//!        │ ── Preparation: configuration, indices ─▶ │  makes identities and peers: what costs time
//!        │ ◀───────────────────────────── prepared ─ │
//!  stops reading; packets wait in TUN queues and     │
//!  socket buffers                                    │
//!        │ ── Estate: sessions, timers, descriptors▶ │
//!        │ ◀──────────────────────────────── ready ─ │
//!        │ ── go ──────────────────────────────────▶ │  reads
//!      exits                                         │
//! ```
//!
//! Up to *go* the running engine may take everything back, and does when its successor fails, says nothing, or vanishes; from
//! then on it touches nothing. The successor reads nothing before *go*. So at no moment do both read, and no message
//! counter is used twice: what is handed over is closed for its former owner ([`crate::wg::PeerState`]).
//!
//! The state holds keys. It crosses a socket that only its owner may open, to a process of the same user whose credentials the kernel
//! tells, and is never on a disk. Its form has a version ([`HANDOVER_VERSION`]): engines that do not share one refuse each
//! other, and the running one goes on.
//!
//! What begins anew: what clients subscribed to (they connect again), beacons' counters (their age goes on; each leaves at
//! once), the budget of answers to probes, counters of BFD packets dropped, what is known of a path's runs
//! of datagrams, cookies (120 s of life at most).

mod fds;
mod frame;
mod give;
mod take;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub(crate) use fds::{Fds, SentFds};
pub(crate) use give::{Given, Giver};
pub use take::TakeOverError;
pub(crate) use take::Taker;

use crate::bfd::BfdEstate;
use crate::engine::{DeviceEstate, Indices};
use crate::path_mtu::PathMtuEstate;
use crate::probe::ProbeEstate;
use crate::state::State;

/// Version of what is handed over. Engines of another one do not take over from this one, nor this one from them.
pub const HANDOVER_VERSION: u32 = 1;

/// What a successor can make ready while packets still flow.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Preparation {
    pub(crate) state: State,
    /// Of the peers of each device that runs.
    pub(crate) indices: BTreeMap<String, Indices>,
}

/// What only one process can have. Descriptors are places in the list that comes with it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Estate {
    /// The lock of the control socket.
    pub(crate) lock: usize,
    /// The control socket.
    pub(crate) listener: usize,
    pub(crate) devices: Vec<DeviceEstate>,
    pub(crate) probes: ProbeEstate,
    pub(crate) path_mtus: PathMtuEstate,
    pub(crate) bfd: BfdEstate,
}

/// A socket that is bound to a device and one of our addresses.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SocketEstate {
    pub(crate) device: String,
    pub(crate) local: IpAddr,
    /// Of the device when the socket was opened.
    pub(crate) device_index: u32,
    pub(crate) fd: usize,
}

/// Why a handover ended before *go*.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandoverError {
    #[error("{0}")]
    Channel(&'static str, #[source] io::Error),
    #[error("the other side said {found:#04x} instead of {wanted:#04x}")]
    OutOfStep { wanted: u8, found: u8 },
    #[error("what was handed over cannot be read: {0}")]
    Unreadable(String),
    #[error("descriptor {0} is missing")]
    NoDescriptor(usize),
    #[error("{0}")]
    Device(String),
}

/// The words of the conversation.
mod word {
    pub(super) const BEGIN: u8 = b'B';
    pub(super) const PREPARED: u8 = b'P';
    pub(super) const READY: u8 = b'R';
    pub(super) const GO: u8 = b'G';
}

/// Waits for a word.
fn hear(
    stream: &std::os::unix::net::UnixStream,
    wanted: u8,
    action: &'static str,
) -> Result<(), HandoverError> {
    match give::read_word(stream).map_err(|error| HandoverError::Channel(action, error))? {
        found if found == wanted => Ok(()),
        found => Err(HandoverError::OutOfStep { wanted, found }),
    }
}
