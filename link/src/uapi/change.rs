//! What a device becomes by a set operation: the changes in their order, as kernel WireGuard makes them. Pure.

use ipnet::IpNet;

use super::text::Change;
use crate::key::PublicKey;
use crate::protocol::{DeviceConfig, PeerConfig};

/// A device that `wg(8)` configures.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) config: DeviceConfig,
    /// It was given a private key. If not, `config` has one that nobody knows; where one was taken away, whoever carries
    /// out the change makes that.
    pub(crate) has_key: bool,
    /// Mark of its outer packets; 0: none.
    pub(crate) mark: u32,
}

/// The device after all changes.
pub(super) fn apply(mut wanted: Wanted, changes: &[Change]) -> Wanted {
    let mut place = None;
    let mut begun = None;
    for change in changes {
        match change {
            Change::Peer(key) => {
                begun = Some(*key);
                place = Some(place_of(&mut wanted.config, *key));
            }
            Change::UpdateOnly => {
                // Only the peer's first line may have made it.
                if let Some(at) = place.filter(|at: &Place| at.is_new) {
                    wanted.config.peers.remove(at.index);
                    place = None;
                }
            }
            Change::Remove => {
                if let Some(at) = place.take() {
                    wanted.config.peers.remove(at.index);
                }
            }
            _ if begun.is_none() => of_device(&mut wanted, change),
            _ => {
                if let Some(at) = place {
                    of_peer(&mut wanted.config, at.index, change);
                }
            }
        }
    }
    // A device is no peer of itself; kernel WireGuard drops such a peer as well.
    let own = wanted.config.private_key.public_key();
    wanted.config.peers.retain(|peer| peer.public_key != own);
    wanted
}

/// Where a peer is.
#[derive(Debug, Clone, Copy)]
struct Place {
    index: usize,
    is_new: bool,
}

fn place_of(config: &mut DeviceConfig, key: PublicKey) -> Place {
    if let Some(index) = config.peers.iter().position(|peer| peer.public_key == key) {
        return Place { index, is_new: false };
    }
    config.peers.push(PeerConfig {
        public_key: key,
        preshared_key: None,
        endpoint: None,
        more_endpoints: Vec::new(),
        allowed_ips: Vec::new(),
        keepalive_s: 0,
    });
    Place { index: config.peers.len() - 1, is_new: true }
}

fn of_device(wanted: &mut Wanted, change: &Change) {
    match change {
        Change::PrivateKey(key) => {
            wanted.has_key = key.is_some();
            if let Some(key) = key {
                wanted.config.private_key = key.clone();
            }
        }
        Change::ListenPort(port) => wanted.config.listen_port = *port,
        Change::Mark(mark) => wanted.mark = *mark,
        Change::ReplacePeers => wanted.config.peers.clear(),
        _ => {}
    }
}

fn of_peer(config: &mut DeviceConfig, index: usize, change: &Change) {
    if let Change::AllowedIp(prefix) = change {
        // It belongs to the last one that is given it.
        config.peers.iter_mut().for_each(|peer| forget(peer, prefix));
    }
    let peer = &mut config.peers[index];
    match change {
        Change::PresharedKey(key) => peer.preshared_key = key.clone(),
        Change::Endpoint(endpoint) => {
            peer.endpoint = Some(*endpoint);
            peer.more_endpoints.clear();
        }
        Change::Keepalive(seconds) => peer.keepalive_s = *seconds,
        Change::ReplaceAllowedIps => peer.allowed_ips.clear(),
        Change::AllowedIp(prefix) => peer.allowed_ips.push(*prefix),
        Change::RemoveAllowedIp(prefix) => forget(peer, prefix),
        _ => {}
    }
}

fn forget(peer: &mut PeerConfig, prefix: &IpNet) {
    peer.allowed_ips.retain(|other| other.trunc() != *prefix);
}
