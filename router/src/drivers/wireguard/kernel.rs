//! The kernel's engine: a link of kind `wireguard` with our alias, set over generic netlink.
//!
//! What the kernel reads back is what it uses, not what it was told: a peer's endpoint follows the peer, and a
//! port of 0 became some number. Both are read back as they were configured; what is remembered of that lives
//! as long as the daemon. After a restart the first look takes what is wanted as what was configured: the
//! document does not change while no daemon is there to take it.
//!
//! Changing a device changes only what differs, so that sessions go on.

use std::collections::BTreeMap;
use std::io;
use std::time::{Instant, SystemTime};

use ipnet::IpNet;
use rtnetlink::{LinkUnspec, LinkWireguard};
use watari_config::WgKey;
use watari_config::desired::device;
use watari_config::document::Dscp;
use watari_planner::item::{Key, Value, Wireguard, WireguardPeer};
use watari_planner::wanted::Wanted;
use watari_planner::{EndpointHealth, Engine, Observed};

use super::genetlink::{self, Device, PeerChange};
use super::rotation::Rotation;
use crate::drivers::netlink::{Link, Netlink, failed, gone_is_fine};
use crate::drivers::{DriverError, links};

/// What rtnetlink calls the kind.
pub(super) const KIND: &str = "wireguard";

/// The kernel's engine.
pub(super) struct KernelEngine {
    private_key: [u8; 32],
    /// Devices as they were configured.
    configured: BTreeMap<String, Wireguard>,
    /// Which of its places each peer that has several is tried at.
    rotations: BTreeMap<(String, WgKey), Rotation>,
    began: Instant,
}

impl KernelEngine {
    /// The engine, where the kernel has one.
    pub(super) fn probe(private_key: [u8; 32]) -> Option<Self> {
        let found = genetlink::is_there();
        tracing::info!(found, "kernel WireGuard");
        found.then(|| Self {
            private_key,
            configured: BTreeMap::new(),
            rotations: BTreeMap::new(),
            began: Instant::now(),
        })
    }

    /// Adds a device to `observed`. One that is down, or that goes away just now, is not reported as it should
    /// be: setting it again mends it.
    pub(super) fn observe(&self, link: &Link, observed: &mut Observed) {
        let read = match genetlink::read(&link.name) {
            Ok(device) => device,
            Err(error) => return tracing::warn!(%error, device = link.name, "could not be read"),
        };
        let now = SystemTime::now();
        let ages = read.peers.iter().filter_map(|(key, peer)| {
            let age = peer.handshake.map(|at| now.duration_since(at).unwrap_or_default().as_secs());
            Some((WgKey::new(*key).ok()?.to_string(), age))
        });
        observed.handshakes.insert(link.name.clone(), ages.collect());
        observed.engines.insert(link.name.clone(), Engine::Kernel);
        observed.endpoints.insert(link.name.clone(), self.places(&link.name, &read));
        let mtu = if link.up { u16::try_from(link.mtu).unwrap_or(0) } else { 0 };
        let Some(mut device) = value(&read, mtu) else { return observe_unusable(&link.name, observed) };
        if let Some(configured) = self.configured.get(&link.name) {
            as_configured(&mut device, configured);
        }
        observed.system.insert(Key::Wireguard(link.name.clone()), Value::Wireguard(device));
    }

    /// Where the peers of a device are reached.
    fn places(&self, name: &str, read: &Device) -> Vec<EndpointHealth> {
        let configured = self.configured.get(name);
        let of = |(key, peer): (&[u8; 32], &genetlink::Peer)| {
            let was = WgKey::new(*key).ok().and_then(|key| configured?.peers.get(&key));
            EndpointHealth::unmeasured(was.map_or(&[], |was| &was.endpoints), peer.endpoint)
        };
        read.peers.iter().flat_map(of).collect()
    }

    /// Moves each peer whose tunnel carries nothing to its next place. Its session goes on there.
    pub(super) fn tend(&mut self, observed: &Observed) {
        let now = self.began.elapsed();
        for (tunnel, health) in &observed.tunnels {
            let name = device::wireguard(tunnel);
            let Some(configured) = self.configured.get(&name) else { continue };
            for (key, peer) in configured.peers.iter().filter(|(_, peer)| peer.endpoints.len() > 1) {
                let rotation = self.rotations.entry((name.clone(), *key)).or_default();
                let Some(place) = rotation.next(health.up, peer.endpoints.len(), now) else { continue };
                let endpoint = peer.endpoints[place];
                let change = PeerChange::Set {
                    key: key.octets(),
                    endpoint: Some(endpoint),
                    keepalive_s: None,
                    allowed_ips: None,
                };
                match genetlink::write(&name, self.private_key, None, &[change]) {
                    Ok(()) => tracing::info!(device = name, %endpoint, "another place is tried"),
                    Err(error) => tracing::warn!(device = name, %error, "another place could not be set"),
                }
            }
        }
        self.rotations.retain(|(name, _), _| self.configured.contains_key(name));
    }

    /// Takes what is wanted of a device as what it was configured with, where nothing is remembered of it.
    pub(super) fn adopt(&mut self, wanted: &Wanted, observed: &mut Observed) {
        for (key, value) in &mut observed.system {
            let (Key::Wireguard(name), Value::Wireguard(device)) = (key, value) else { continue };
            if observed.engines.get(name) != Some(&Engine::Kernel) || self.configured.contains_key(name) {
                continue;
            }
            if let Some(Value::Wireguard(wish)) =
                wanted.items.get(&Key::Wireguard(name.clone())).map(|item| &item.value)
            {
                as_configured(device, wish);
                self.configured.insert(name.clone(), device.clone());
            }
        }
    }

    /// Makes a device be so. `existing` is the link of that name, if there is one: it is ours.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) async fn set(
        &mut self,
        root: &Netlink,
        existing: Option<&Link>,
        name: &str,
        wanted: &Wireguard,
        alias: &str,
    ) -> Result<(), DriverError> {
        let index = match existing {
            Some(link) => link.index,
            None => make(root, name, alias).await?,
        };
        let what = |e: io::Error| DriverError::system(format!("configure wireguard device {name}"), e);
        let present = genetlink::read(name).map_err(what)?;
        let configured = self.configured.get(name);
        let changes = changes(&present, configured, wanted);
        let port = (wanted.listen_port != 0 || existing.is_none()).then_some(wanted.listen_port);
        genetlink::write(name, self.private_key, port, &changes).map_err(what)?;
        let message = LinkUnspec::new_with_index(index).mtu(u32::from(wanted.mtu)).up().build();
        let set = root.handle.link().set(message).execute().await;
        set.map_err(failed(format!("set device {name}")))?;
        self.configured.insert(name.to_owned(), wanted.clone());
        Ok(())
    }

    /// Forgets what a device was configured with.
    pub(super) fn forget(&mut self, name: &str) {
        self.configured.remove(name);
    }
}

/// Adds a device that is there but not as anybody wants it: of the engine that is not to be used, or without a
/// key.
pub(super) fn observe_unusable(name: &str, observed: &mut Observed) {
    let value = Wireguard {
        own_key: observed.identity.wireguard_key,
        listen_port: 0,
        mtu: 0,
        dscp: Dscp::Fixed(0),
        peers: BTreeMap::new(),
    };
    observed.system.insert(Key::Wireguard(name.to_owned()), Value::Wireguard(value));
}

/// Removes a link. One that is gone is fine.
///
/// # Errors
/// When the kernel refuses.
pub(super) async fn remove(root: &Netlink, link: &Link) -> Result<(), DriverError> {
    let gone = root.handle.link().del(link.index).execute().await;
    gone_is_fine(gone, format!("remove device {}", link.name))
}

/// Makes a device under a passing name; its own comes together with its mark.
async fn make(root: &Netlink, name: &str, alias: &str) -> Result<u32, DriverError> {
    let unnamed = format!("{name}q");
    links::passing(root, &[&unnamed]).await?;
    let made = root.handle.link().add(LinkWireguard::new(&unnamed).build()).execute().await;
    made.map_err(failed(format!("make wireguard device {name}")))?;
    let index = root.index(&unnamed).await?;
    let message = LinkUnspec::new_with_index(index).name(name).alias(alias).build();
    let named = root.handle.link().set(message).execute().await;
    named.map_err(failed(format!("name device {name}")))?;
    Ok(index)
}

/// A device as the planner compares it; none without a key.
fn value(device: &Device, mtu: u16) -> Option<Wireguard> {
    let peers = device.peers.iter().filter_map(|(key, peer)| {
        let value = WireguardPeer {
            endpoints: peer.endpoint.into_iter().collect(),
            allowed_ips: sorted(&peer.allowed_ips),
            keepalive_s: peer.keepalive_s,
        };
        Some((WgKey::new(*key).ok()?, value))
    });
    Some(Wireguard {
        own_key: WgKey::new(device.public_key).ok()?,
        listen_port: device.listen_port,
        mtu,
        dscp: Dscp::Fixed(0),
        peers: peers.collect(),
    })
}

fn sorted(nets: &[IpNet]) -> Vec<IpNet> {
    let mut nets = nets.to_vec();
    nets.sort();
    nets
}

/// Puts what was configured in the place of what became of it: the endpoints of a peer that has one, the port where any
/// would do, and the DSCP, which the kernel does not know.
fn as_configured(device: &mut Wireguard, configured: &Wireguard) {
    device.dscp = configured.dscp;
    if configured.listen_port == 0 {
        device.listen_port = 0;
    }
    for (key, peer) in &mut device.peers {
        if let Some(was) = configured.peers.get(key)
            && (!peer.endpoints.is_empty() || was.endpoints.is_empty())
        {
            peer.endpoints.clone_from(&was.endpoints);
        }
    }
}

/// What must be done to the peers. A prefix that moves from one peer to another is taken from the first by
/// giving it to the second.
fn changes(present: &Device, configured: Option<&Wireguard>, wanted: &Wireguard) -> Vec<PeerChange> {
    let wanted_keys: BTreeMap<[u8; 32], (&WgKey, &WireguardPeer)> =
        wanted.peers.iter().map(|(key, peer)| (key.octets(), (key, peer))).collect();
    let gone = present.peers.keys().filter(|key| !wanted_keys.contains_key(*key));
    let mut changes: Vec<PeerChange> = gone.map(|key| PeerChange::Remove(*key)).collect();
    for (octets, (key, wish)) in &wanted_keys {
        let was = configured.and_then(|c| c.peers.get(key)).map(|peer| &peer.endpoints);
        let first = wish.endpoints.first().copied();
        let change = match present.peers.get(octets) {
            None => PeerChange::Set {
                key: *octets,
                endpoint: first,
                keepalive_s: Some(wish.keepalive_s),
                allowed_ips: Some(wish.allowed_ips.clone()),
            },
            Some(peer) => {
                // One that was heard from elsewhere stays there until another endpoint is configured; one that is at any
                // of its places stays there.
                let is_there = peer.endpoint.is_some_and(|endpoint| wish.endpoints.contains(&endpoint));
                let keeps_endpoint = is_there || (peer.endpoint.is_some() && was == Some(&wish.endpoints));
                let same_nets = sorted(&peer.allowed_ips) == sorted(&wish.allowed_ips);
                PeerChange::Set {
                    key: *octets,
                    endpoint: first.filter(|_| !keeps_endpoint),
                    keepalive_s: Some(wish.keepalive_s).filter(|s| *s != peer.keepalive_s),
                    allowed_ips: (!same_nets).then(|| wish.allowed_ips.clone()),
                }
            }
        };
        if !matches!(change, PeerChange::Set { endpoint: None, keepalive_s: None, allowed_ips: None, .. }) {
            changes.push(change);
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::super::genetlink::Peer;
    use super::*;

    const CONFIGURED: &str = "192.0.2.1:51820";
    const ROAMED: &str = "198.51.100.9:40000";

    fn key(octet: u8) -> WgKey {
        WgKey::new([octet; 32]).expect("a key")
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    fn wish(peers: &[(u8, Option<&str>, &[&str])]) -> Wireguard {
        let peer = |(octet, endpoint, allowed): &(u8, Option<&str>, &[&str])| {
            let endpoints = endpoint.iter().map(|e| e.parse().expect("an endpoint")).collect();
            (key(*octet), WireguardPeer { endpoints, allowed_ips: nets(allowed), keepalive_s: 25 })
        };
        let peers = peers.iter().map(peer).collect();
        Wireguard { own_key: key(99), listen_port: 51820, mtu: 1420, dscp: Dscp::Fixed(0), peers }
    }

    /// What the kernel says after it was told `wish`.
    fn told(wish: &Wireguard) -> Device {
        let peer = |(key, peer): (&WgKey, &WireguardPeer)| {
            let allowed_ips = peer.allowed_ips.iter().rev().copied().collect();
            let peer = Peer {
                endpoint: peer.endpoints.first().copied(),
                allowed_ips,
                keepalive_s: peer.keepalive_s,
                handshake: None,
            };
            (key.octets(), peer)
        };
        Device {
            public_key: [99; 32],
            listen_port: if wish.listen_port == 0 { 33333 } else { wish.listen_port },
            peers: wish.peers.iter().map(peer).collect(),
        }
    }

    fn read_back(device: &Device, configured: &Wireguard) -> Wireguard {
        let mut value = value(device, 1420).expect("it has a key");
        as_configured(&mut value, configured);
        value
    }

    #[test]
    fn what_was_told_reads_back_equal_and_needs_no_change() {
        let mut wish = wish(&[(1, Some(CONFIGURED), &["10.0.0.0/8", "fd00::/8"]), (2, None, &[])]);
        wish.listen_port = 0;
        let device = told(&wish);
        assert_eq!(read_back(&device, &wish), wish);
        assert_eq!(changes(&device, Some(&wish), &wish), []);
    }

    #[test]
    fn a_peer_that_roamed_reads_back_as_configured_and_stays_where_it_is() {
        let wish = wish(&[(1, Some(CONFIGURED), &["10.0.0.0/8"]), (2, None, &["fd00::/8"])]);
        let mut device = told(&wish);
        for peer in device.peers.values_mut() {
            peer.endpoint = Some(ROAMED.parse().expect("an endpoint"));
        }
        assert_eq!(read_back(&device, &wish), wish);
        assert_eq!(changes(&device, Some(&wish), &wish), []);
    }

    #[test]
    fn a_new_endpoint_or_a_lost_one_is_set_and_nothing_else() {
        let old = wish(&[(1, Some(CONFIGURED), &["10.0.0.0/8"])]);
        let new = wish(&[(1, Some("203.0.113.7:51820"), &["10.0.0.0/8"])]);
        let only_endpoint = |endpoint: &str| {
            let endpoint = Some(endpoint.parse().expect("an endpoint"));
            vec![PeerChange::Set { key: [1; 32], endpoint, keepalive_s: None, allowed_ips: None }]
        };
        assert_ne!(read_back(&told(&old), &old), new);
        assert_eq!(changes(&told(&old), Some(&old), &new), only_endpoint("203.0.113.7:51820"));
        let mut lost = told(&old);
        lost.peers.get_mut(&[1; 32]).expect("the peer").endpoint = None;
        assert_ne!(read_back(&lost, &old), old);
        assert_eq!(changes(&lost, Some(&old), &old), only_endpoint(CONFIGURED));
    }

    #[test]
    fn a_peer_that_is_at_another_of_its_places_stays_there() {
        let mut wish = wish(&[(1, Some(CONFIGURED), &["10.0.0.0/8"])]);
        let mut device = told(&wish);
        let peer = wish.peers.get_mut(&key(1)).expect("the peer");
        peer.endpoints.push(ROAMED.parse().expect("an endpoint"));
        device.peers.get_mut(&[1; 32]).expect("the peer").endpoint =
            Some(ROAMED.parse().expect("an endpoint"));
        assert_eq!(read_back(&device, &wish), wish);
        assert_eq!(changes(&device, None, &wish), []);
    }

    #[test]
    fn a_peer_comes_and_another_goes_without_touching_the_third() {
        let old = wish(&[(1, Some(CONFIGURED), &["10.0.0.0/8"]), (2, None, &["fd00::/8"])]);
        let new = wish(&[(1, Some(CONFIGURED), &["10.0.0.0/8"]), (3, None, &["fd00::/8"])]);
        let added = PeerChange::Set {
            key: [3; 32],
            endpoint: None,
            keepalive_s: Some(25),
            allowed_ips: Some(nets(&["fd00::/8"])),
        };
        assert_eq!(changes(&told(&old), Some(&old), &new), [PeerChange::Remove([2; 32]), added]);
    }

    #[test]
    fn prefixes_and_keepalive_are_set_where_they_differ() {
        let old = wish(&[(1, Some(CONFIGURED), &["10.0.0.0/8"])]);
        let mut new = wish(&[(1, Some(CONFIGURED), &["10.0.0.0/8", "10.9.0.0/16"])]);
        new.peers.get_mut(&key(1)).expect("the peer").keepalive_s = 0;
        let change = PeerChange::Set {
            key: [1; 32],
            endpoint: None,
            keepalive_s: Some(0),
            allowed_ips: Some(nets(&["10.0.0.0/8", "10.9.0.0/16"])),
        };
        assert_eq!(changes(&told(&old), Some(&old), &new), [change]);
    }
}
