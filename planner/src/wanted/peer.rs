//! BGP neighbours on exits: of the system they need a BFD session, where one is asked for. It lives in `watari-link`,
//! inside the tenant's namespace, and outlives us as the packets do.

use watari_config::desired::device;

use super::{Making, frames};
use crate::item::{Key, Value};

impl Making<'_> {
    pub(super) fn peers(&mut self) {
        let peers: Vec<_> = self.desired.peers().collect();
        for (name, peer, exit) in peers {
            let (Some(bfd), Some(remote)) = (&peer.bfd, peer.address.one()) else { continue };
            // Without its device the exit says what is wrong.
            let wire = frames(exit.vlan.as_ref(), exit.interface.as_ref());
            if !wire.is_some_and(|wire| self.observed.devices.contains(&wire.device)) {
                continue;
            }
            let Some(local) = peer.local(exit) else { continue };
            let (_, inner) = device::exit(&peer.exit);
            let owner = format!("peers.{name}");
            let session = Value::Bfd {
                ns: self.tenant_ns(&exit.tenant),
                device: inner,
                local,
                remote,
                interval_ms: bfd.interval_ms,
                multiplier: bfd.multiplier,
            };
            self.want(&owner, Key::Bfd(owner.clone()), session);
        }
    }
}
