//! Reading the facts of this machine.

use std::path::Path;

use super::Facts;
use crate::host::{HostError, inventory};

/// What the agent knows about its node besides what the machine says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) node: String,
    pub(super) lease_expires: String,
}

/// Reads everything anew.
pub(super) fn read(identity: &Identity) -> Result<Facts, HostError> {
    let root = Path::new("/");
    let vitals = inventory::vitals(root)?;
    Ok(Facts {
        node: identity.node.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        hostname: inventory::hostname(root)?,
        inventory: inventory::read(root)?,
        uptime_s: vitals.uptime_s,
        load: vitals.load,
        tasks: vitals.tasks,
        memory_available_bytes: vitals.memory_available_bytes,
        lease_expires: identity.lease_expires.clone(),
    })
}
