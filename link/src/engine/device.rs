//! One device: its configuration, its plane and its threads; and how it is brought from what it is
//! to what is wanted by touching only what differs.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::EngineError;
use super::allowed_ips::AllowedIps;
use super::estate::Indices;
use super::lane::Worker;
use super::offers::EngineOptions;
use super::overlay::Overlay;
use super::overlays::Retry;
use super::peer::Peer;
use super::plane::{Context, Identity, Plane, Shared, View};
use super::tun::{Layer, Tun};
use super::udp::UdpPair;
use super::workers;
use crate::events::EventHub;
use crate::key::PublicKey;
use crate::protocol::{DeviceConfig, DeviceStatus, LinkStatus, OffloadStatus, OverlayConfig, PeerConfig};
use crate::{lock, netdev};

/// Last known endpoints of a device's peers, out of a former engine's state.
pub(crate) type LastEndpoints = BTreeMap<PublicKey, SocketAddr>;

/// One running device.
pub(super) struct Device {
    config: DeviceConfig,
    pub(super) options: Arc<EngineOptions>,
    pub(super) shared: Arc<Shared>,
    /// The overlay as it is wanted, and why its interface is not there.
    pub(super) overlay: Option<OverlayConfig>,
    pub(super) overlay_error: Option<String>,
    pub(super) overlay_retry: Retry,
    pub(super) tun_worker: Option<Worker>,
    udp_worker: Option<Worker>,
    clock: Option<Worker>,
    /// Of outer packets; 0: none.
    mark: u32,
}

impl Device {
    /// Makes the interface (or adopts ours), binds, starts, and calls every peer.
    pub(super) fn create(
        config: DeviceConfig,
        last: &LastEndpoints,
        options: Arc<EngineOptions>,
        events: Arc<EventHub>,
        moved: Arc<AtomicBool>,
    ) -> Result<Self, EngineError> {
        let identity = Arc::new(Identity::new(&config.private_key));
        let udp = Arc::new(bind(config.listen_port, &options)?);
        let (tun, _) = Tun::open(Layer::Ip, &config.name, &config.alias, &options)?;
        let tun = Arc::new(tun);
        let peers = Peers::build(&identity, None, &config, last, &Indices::new())?;
        let plane = peers.into_plane(identity, Arc::clone(&tun), None, Arc::clone(&udp), &config);
        let shared = Arc::new(Shared::new(config.name.clone(), plane, events, moved));
        let mut touched = Vec::new();
        mend_link(&config, tun.index(), &mut touched)?;
        let mut device = Self::of(config, options, shared);
        device.start()?;
        tun.set_persistent(true)?;
        device.call(|_| true);
        Ok(device)
    }

    /// A device without threads.
    pub(super) fn of(config: DeviceConfig, options: Arc<EngineOptions>, shared: Arc<Shared>) -> Self {
        let overlay = shared.plane().overlay.as_ref().map(|overlay| overlay.config.clone());
        let (overlay_error, overlay_retry) = (None, Retry::default());
        let (tun_worker, udp_worker, clock) = (None, None, None);
        Self {
            config,
            options,
            shared,
            overlay,
            overlay_error,
            overlay_retry,
            tun_worker,
            udp_worker,
            clock,
            mark: 0,
        }
    }

    /// Starts the threads.
    pub(super) fn start(&mut self) -> Result<(), EngineError> {
        let thread = |source| EngineError::system("start a thread", &self.config.name, source);
        let (plane, threads) = (self.shared.plane(), self.options.threads());
        self.shared.advance_clock();
        let udp = workers::start_udp(&self.shared, Arc::clone(&plane.udp), threads).map_err(thread)?;
        let tap = plane.overlay.as_ref().map(|overlay| Arc::clone(&overlay.tap));
        let tun = workers::start_tun(&self.shared, Arc::clone(&plane.tun), tap, threads).map_err(thread)?;
        let clock = workers::start_clock(&self.shared).map_err(thread)?;
        (self.udp_worker, self.tun_worker, self.clock) = (Some(udp), Some(tun), Some(clock));
        Ok(())
    }

    /// Ends the threads when they have finished what they took; what comes after it waits in the kernel.
    pub(super) fn pause(&mut self) {
        (self.tun_worker, self.udp_worker, self.clock) = (None, None, None);
    }

    /// Goes on with peers that were taken up: with calls and packets that were under way.
    pub(super) fn resume_peers(&self) {
        let mut view = View::new(Arc::clone(&self.shared));
        let context = view.context();
        context.plane.peers.values().for_each(|peer| peer.resume(&context));
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn name(&self) -> &str {
        &self.config.name
    }

    /// Of every peer.
    pub(super) fn indices(&self) -> Indices {
        self.shared.plane().peers.iter().map(|(key, peer)| (*key, peer.index())).collect()
    }

    /// Brings the device to what is wanted; returns what was touched. What can fail is done first,
    /// so that a refusal leaves the packet path as it was.
    pub(super) fn update(&mut self, wanted: DeviceConfig) -> Result<Vec<String>, EngineError> {
        let mut touched = Vec::new();
        let before = self.shared.plane();
        let (tun, new_tun) = self.wanted_tun(&wanted, &before, &mut touched)?;
        let rebind = wanted.listen_port != self.config.listen_port;
        let udp = if rebind && wanted.listen_port != before.udp.port() {
            touched.push("listen_port".to_owned());
            let udp = bind(wanted.listen_port, &self.options)?;
            self.apply_mark(&udp, self.mark)?;
            Arc::new(udp)
        } else {
            Arc::clone(&before.udp)
        };
        let same_key = wanted.private_key == self.config.private_key;
        let identity = if same_key {
            Arc::clone(&before.identity)
        } else {
            touched.push("private_key".to_owned());
            Arc::new(Identity::new(&wanted.private_key))
        };
        let kept = same_key.then_some(&*before);
        let peers = Peers::build(&identity, kept, &wanted, &self.endpoints(), &Indices::new())?;
        mend_link(&wanted, tun.index(), &mut touched)?;
        if wanted.dscp != self.config.dscp {
            touched.push("dscp".to_owned());
        }
        let called = self.diff_peers(&wanted, &before, &peers, &mut touched);
        let old_udp = Arc::clone(&before.udp);
        let overlay = before.overlay.clone();
        let tap = overlay.as_ref().map(|overlay| Arc::clone(&overlay.tap));
        let plane = peers.into_plane(identity, Arc::clone(&tun), overlay, Arc::clone(&udp), &wanted);
        self.shared.replace_plane(plane);
        self.config = wanted;
        let name = self.config.name.clone();
        let thread = |source| EngineError::system("start a thread", &name, source);
        let threads = self.options.threads();
        if !Arc::ptr_eq(&udp, &old_udp) || self.udp_worker.is_none() {
            self.udp_worker = None;
            self.udp_worker = Some(workers::start_udp(&self.shared, udp, threads).map_err(thread)?);
        }
        // An old socket is closed, and its port free, only when no lane holds on to the former plane.
        self.workers().for_each(Worker::nudge);
        if new_tun || self.tun_worker.is_none() {
            self.tun_worker = None;
            self.tun_worker =
                Some(workers::start_tun(&self.shared, Arc::clone(&tun), tap, threads).map_err(thread)?);
            tun.set_persistent(true)?;
            self.shared.link_lost.store(false, Ordering::Release);
        }
        *lock(&self.shared.error) = None;
        self.call(|peer| called.contains(&peer));
        Ok(touched)
    }

    /// The interface to go on with: the one we have, or a new one if it was deleted. True: new.
    fn wanted_tun(
        &self,
        wanted: &DeviceConfig,
        before: &Plane,
        touched: &mut Vec<String>,
    ) -> Result<(Arc<Tun>, bool), EngineError> {
        let system = |action| {
            let name = wanted.name.clone();
            move |source| EngineError::system(action, &name, source)
        };
        let link = netdev::find(&wanted.name).map_err(system("look up"))?;
        match link {
            Some(link) if link.index == before.tun.index() => {
                if link.alias.as_deref() != Some(wanted.alias.as_str()) {
                    netdev::set_alias(link.index, &wanted.alias).map_err(system("set alias"))?;
                    touched.push("alias".to_owned());
                }
                Ok((Arc::clone(&before.tun), false))
            }
            _ => {
                let (tun, _) = Tun::open(Layer::Ip, &wanted.name, &wanted.alias, &self.options)?;
                touched.push("created".to_owned());
                Ok((Arc::new(tun), true))
            }
        }
    }

    /// Applies what differs in the peers that stay, names every difference, and returns who has to
    /// be called: the new ones and those that are now elsewhere.
    fn diff_peers(
        &self,
        wanted: &DeviceConfig,
        before: &Plane,
        peers: &Peers,
        touched: &mut Vec<String>,
    ) -> Vec<PublicKey> {
        let context = Context { shared: &self.shared, plane: before };
        let old: HashMap<PublicKey, &PeerConfig> =
            self.config.peers.iter().map(|peer| (peer.public_key, peer)).collect();
        let mut called = Vec::new();
        for config in &wanted.peers {
            let key = config.public_key;
            let peer = &peers.by_key[&key];
            let kept = before.peers.get(&key).is_some_and(|former| Arc::ptr_eq(former, peer));
            let Some(old) = old.get(&key) else {
                touched.push(format!("peers[{key}].added"));
                called.push(key);
                continue;
            };
            if !kept {
                called.push(key);
            }
            if config.preshared_key != old.preshared_key {
                touched.push(format!("peers[{key}].preshared_key"));
            }
            if config.endpoints() != old.endpoints() {
                peer.configure_endpoints(&context, config);
                touched.push(format!("peers[{key}].endpoint"));
                called.push(key);
            }
            if config.keepalive_s != old.keepalive_s {
                peer.configure_keepalive(config.keepalive_s);
                touched.push(format!("peers[{key}].keepalive_s"));
            }
            if sorted(config) != sorted(old) {
                touched.push(format!("peers[{key}].allowed_ips"));
            }
        }
        for key in old.keys().filter(|key| !peers.by_key.contains_key(key)) {
            touched.push(format!("peers[{key}].removed"));
        }
        touched.sort();
        called
    }

    fn workers(&self) -> impl Iterator<Item = &Worker> {
        [&self.tun_worker, &self.udp_worker, &self.clock].into_iter().flatten()
    }

    /// Calls the peers that fit, wherever it is known where they are.
    fn call(&self, fits: impl Fn(PublicKey) -> bool) {
        let mut view = View::new(Arc::clone(&self.shared));
        self.shared.advance_clock();
        let context = view.context();
        for peer in context.plane.peers.values().filter(|peer| fits(peer.public_key())) {
            peer.call(&context);
        }
    }

    /// Marks outer packets (`SO_MARK`); 0: not.
    pub(super) fn set_mark(&mut self, mark: u32) -> Result<(), EngineError> {
        if mark != self.mark {
            self.apply_mark(&self.shared.plane().udp, mark)?;
            self.mark = mark;
        }
        Ok(())
    }

    fn apply_mark(&self, udp: &UdpPair, mark: u32) -> Result<(), EngineError> {
        udp.set_mark(mark).map_err(|source| EngineError::system("mark packets", &self.config.name, source))
    }

    /// Lets the interfaces vanish with this device.
    pub(super) fn make_transient(&self) -> Result<(), EngineError> {
        if let Some(overlay) = self.open_overlay() {
            overlay.tap.set_persistent(false)?;
        }
        if !self.shared.link_lost.load(Ordering::Acquire) {
            self.shared.plane().tun.set_persistent(false)?;
        }
        Ok(())
    }

    /// Where every peer is, as far as known.
    pub(super) fn endpoints(&self) -> LastEndpoints {
        self.shared.plane().peers.iter().filter_map(|(key, peer)| Some((*key, peer.endpoint()?))).collect()
    }

    /// The device as it is, read back.
    pub(super) fn status(&self) -> DeviceStatus {
        let plane = self.shared.plane();
        let link = match netdev::find(&self.config.name) {
            Ok(Some(link)) if link.index == plane.tun.index() => {
                Some(LinkStatus { index: link.index, mtu: link.mtu, up: link.up })
            }
            _ => None,
        };
        self.shared.advance_clock();
        let mut configs: Vec<&PeerConfig> = self.config.peers.iter().collect();
        configs.sort_by_key(|peer| peer.public_key);
        DeviceStatus {
            name: self.config.name.clone(),
            alias: self.config.alias.clone(),
            public_key: self.config.private_key.public_key(),
            listen_port: self.config.listen_port,
            bound_port: plane.udp.port(),
            mtu: self.config.mtu,
            dscp: self.config.dscp,
            link,
            offloads: offloads(&plane),
            peers: configs
                .into_iter()
                .filter_map(|config| Some(plane.peers.get(&config.public_key)?.status(config, &self.shared)))
                .collect(),
            drops: self.shared.drops.read(),
            error: lock(&self.shared.error).clone(),
        }
    }
}

fn offloads(plane: &Plane) -> OffloadStatus {
    let tun = plane.tun.offers();
    OffloadStatus {
        tun_header: tun.header,
        tun_checksum: tun.checksum,
        tun_tso: tun.tso,
        tun_uso: tun.uso,
        udp_segments_max: u16::try_from(plane.udp.segments_max()).unwrap_or(u16::MAX),
        udp_gro: plane.udp.gro(),
    }
}

fn bind(port: u16, options: &EngineOptions) -> Result<UdpPair, EngineError> {
    UdpPair::bind(port, options).map_err(|source| EngineError::Bind { port, source })
}

fn sorted(peer: &PeerConfig) -> Vec<ipnet::IpNet> {
    let mut prefixes: Vec<_> = peer.allowed_ips.iter().map(ipnet::IpNet::trunc).collect();
    prefixes.sort_unstable();
    prefixes
}

/// Sets MTU and up flag where the kernel has others.
fn mend_link(config: &DeviceConfig, index: u32, touched: &mut Vec<String>) -> Result<(), EngineError> {
    let system = |action| move |source| EngineError::system(action, &config.name, source);
    let link = netdev::find(&config.name)
        .map_err(system("look up"))?
        .ok_or_else(|| system("look up")(std::io::ErrorKind::NotFound.into()))?;
    if link.mtu != u32::from(config.mtu) {
        netdev::set_mtu(index, config.mtu.into()).map_err(system("set MTU"))?;
        touched.push("mtu".to_owned());
    }
    if !link.up {
        netdev::set_up(index).map_err(system("bring up"))?;
        touched.push("up".to_owned());
    }
    Ok(())
}

fn random() -> Result<u64, EngineError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| EngineError::Random(error.to_string()))?;
    Ok(u64::from_le_bytes(bytes))
}

/// The peers of a plane in the making.
pub(super) struct Peers {
    by_key: BTreeMap<PublicKey, Arc<Peer>>,
    by_index: HashMap<u32, Arc<Peer>>,
    allowed: AllowedIps<Arc<Peer>>,
}

impl Peers {
    /// Takes over every peer of the former plane that can go on, with its session, and makes the
    /// others, with the indices that they had in a former process.
    pub(super) fn build(
        identity: &Identity,
        former: Option<&Plane>,
        config: &DeviceConfig,
        last: &LastEndpoints,
        indices: &Indices,
    ) -> Result<Self, EngineError> {
        let mut peers =
            Self { by_key: BTreeMap::new(), by_index: HashMap::new(), allowed: AllowedIps::default() };
        for peer_config in &config.peers {
            let key = peer_config.public_key;
            let former_peer = former.and_then(|plane| plane.peers.get(&key));
            let peer = match former_peer {
                Some(peer) if peer.serves(peer_config) => Arc::clone(peer),
                _ => {
                    let given = indices.get(&key).filter(|index| !peers.by_index.contains_key(index));
                    let index = match given {
                        Some(index) => *index,
                        None => peers.free_index(former)?,
                    };
                    let endpoint = last.get(&key).copied();
                    Arc::new(Peer::new(identity, index, peer_config, endpoint, random()?))
                }
            };
            peers.by_index.insert(peer.index(), Arc::clone(&peer));
            for prefix in &peer_config.allowed_ips {
                peers.allowed.insert(*prefix, Arc::clone(&peer));
            }
            peers.by_key.insert(key, peer);
        }
        Ok(peers)
    }

    /// A random 24-bit index that no peer has: a session of a former engine must not fit a peer of
    /// this one by its number.
    fn free_index(&self, former: Option<&Plane>) -> Result<u32, EngineError> {
        loop {
            let index = u32::try_from(random()? >> 40).unwrap_or(0);
            let taken = self.by_index.contains_key(&index)
                || former.is_some_and(|plane| plane.by_index.contains_key(&index));
            if !taken {
                return Ok(index);
            }
        }
    }

    pub(super) fn into_plane(
        self,
        identity: Arc<Identity>,
        tun: Arc<Tun>,
        overlay: Option<Arc<Overlay>>,
        udp: Arc<UdpPair>,
        config: &DeviceConfig,
    ) -> Plane {
        let Self { by_key: peers, by_index, allowed } = self;
        Plane {
            identity,
            peers,
            by_index,
            allowed,
            tun,
            overlay,
            udp,
            mtu: config.mtu.into(),
            dscp: config.dscp,
        }
    }
}
