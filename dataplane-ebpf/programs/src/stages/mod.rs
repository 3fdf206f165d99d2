//! The stages of the pipeline, one file each.

pub mod answer;
pub mod classify;
pub mod cross;
pub mod decap;
pub mod encap;
pub mod flood;
pub mod guard;
pub mod mtu;
pub mod route;
