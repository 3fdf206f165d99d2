//! The MTU doctor's measurements: which IP packets cross to a far gateway through one tunnel, in either direction
//! (RFC 8899, RFC 4821). [`core`] decides which sizes to try and what follows from the answers, [`sizes`] which are worth it,
//! [`wire`] is what is sent, [`shell`] has the sockets.

mod core;
mod shell;
mod sizes;
mod wire;

pub(crate) use shell::{PathMtuEstate, PathMtuShell};
pub(crate) use wire::must_stay_whole;
