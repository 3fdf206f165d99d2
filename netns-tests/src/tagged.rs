//! A host that speaks 802.1Q or QinQ on its only interface, on a kernel without VLAN devices: an eBPF program
//! pushes the tag on the way out and pops it on the way in.

use anyhow::{Context as _, Result};

use watari_dataplane::HostTags;

use crate::Ns;

/// An interface whose frames all belong to one VLAN; other VLANs are not heard.
#[derive(Debug)]
pub struct Tagged {
    ns: Ns,
    interface: String,
}

impl Tagged {
    /// From now on every frame of `interface` carries the tag `tags`, a VLAN id or two.
    ///
    /// # Errors
    /// When the programs cannot be loaded or attached.
    pub fn attach(ns: &Ns, interface: &str, tags: impl Into<HostTags>) -> Result<Self> {
        let tags = tags.into();
        let attached = ns.run(|| watari_dataplane::attach_host_vlan(interface, tags));
        attached.with_context(|| format!("{tags:?} on {interface} of {}", ns.label()))?;
        Ok(Self { ns: ns.clone(), interface: interface.to_owned() })
    }

    /// The namespace of the interface.
    #[must_use]
    pub fn ns(&self) -> &Ns {
        &self.ns
    }

    /// The interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }
}
