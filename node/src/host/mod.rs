//! What the node's kernel is told, and what it is asked.
//!
//! Everything made here carries our mark: the device its alias, routes protocol 221. Only what
//! carries it is ever changed or removed.
//!
//! - [`inventory`]: processors, memory, kernel, GPUs.
//! - [`netlink`]: links, addresses and routes.
//! - [`device`]: the tunnel device: kernel WireGuard where the kernel has it, else an engine in user
//!   space (`watari-link`), started detached.
//! - [`routes`]: which routes are to be there, and the difference to those that are.

pub mod device;
pub mod inventory;
pub mod netlink;
pub mod routes;
mod wireguard;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

/// Why the kernel or the engine did not do what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A netlink socket could not be used at all.
    #[error("netlink: {source}")]
    Socket {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused one request.
    #[error("cannot {what}: {source}")]
    Netlink {
        /// What was asked for.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A device of that name belongs to somebody else.
    #[error(
        "there is a device {name} already that is not ours: remove it, or choose another name with --interface"
    )]
    ForeignDevice {
        /// Its name.
        name: String,
    },
    /// The device went away.
    #[error("the device {name} is gone")]
    NoDevice {
        /// Its name.
        name: String,
    },
    /// A route to one of the overlay's prefixes belongs to somebody else.
    #[error(
        "there is a route to {prefix} already that is not ours ({route}): it stays, and the node cannot join"
    )]
    ForeignRoute {
        /// The prefix.
        prefix: IpNet,
        /// The route in words.
        route: String,
    },
    /// The gateway's public address is not reachable, so a route that covers it cannot be made.
    #[error("there is no route to the gateway's endpoint {endpoint}")]
    NoPath {
        /// The address.
        endpoint: IpAddr,
    },
    /// The kernel has no WireGuard and the engine is not there either.
    #[error(
        "this kernel has no WireGuard and there is no watari-link to do without ({path}): install it or name it with --link-binary",
        path = path.display()
    )]
    NoEngine {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The engine could not be started.
    #[error("watari-link: {0}")]
    Spawn(#[from] watari_link::SpawnError),
    /// The engine refused.
    #[error("watari-link: {0}")]
    Engine(#[from] watari_link::ClientError),
    /// The machine's own description could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}
