//! Path probes: does the far side hear us, and do we hear it? The protocol is [`core`] (state out
//! of answers), [`delay`] (each direction's variation) and [`wire`] (bytes); [`shell`] is the thread with the sockets.

pub(crate) mod core;
mod delay;
mod live;
mod shell;
mod wire;

pub(crate) use shell::{ProbeEstate, ProbeShell};
