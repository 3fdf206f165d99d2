//! WireGuard's cross-platform userspace interface: the text protocol that `wg(8)` and `wg-quick(8)` speak over
//! `FOLDER/DEVICE.sock` (<https://www.wireguard.com/xplatform/>).
//!
//! ```text
//!  get=1                 set=1
//!                        private_key=<64 hex digits>      of the device, up to the first peer
//!  private_key=…         public_key=<64 hex digits>       begins a peer
//!  …                     allowed_ip=10.0.0.0/8
//!  errno=0
//!                        errno=0
//! ```
//!
//! [`text`] reads and writes it, [`change`] says what a device becomes by it, [`shell`] has the sockets. What is said here
//! means nothing to devices that are told otherwise by documents: they are shown and not changed
//! (`docs/decisions/0020-an-engine-passes-on-what-it-has.md`).

mod change;
mod shell;
mod text;

pub(crate) use change::Wanted;
pub(crate) use shell::{Devices, Sockets};
pub(crate) use text::{Errno, Shown};

/// Where `wg(8)` looks for sockets.
pub const UAPI_FOLDER: &str = "/var/run/wireguard";
