//! Whether what a client or the state file asks for can be: every value against its bounds, with
//! the path of the field at fault. What passes here is only refused by the system itself.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::protocol::{
    ALIAS_BYTES_MAX, ALLOWED_IPS_MAX, BEACON_TAGS_MAX, BEACONS_MAX, BFD_INTERVAL_MAX_US, BFD_INTERVAL_MIN_US,
    BFD_NAME_BYTES_MAX, BFD_SESSIONS_MAX, BeaconConfig, BeaconsConfig, BfdAuthenticationKind, BfdConfig,
    BfdHops, BfdSessionsConfig, DEVICE_NAME_BYTES_MAX, DeviceConfig, Dscp, ENDPOINTS_MAX, MTU_MAX, MTU_MIN,
    OVERLAYS_MAX, OverlaysConfig, PATH_MTU_MIN, PEERS_MAX, PROBE_INTERVAL_MIN_MS, PROBE_NAME_BYTES_MAX,
    PROBE_TIME_MAX_MS, PROBES_MAX, PathMtusConfig, PeerConfig, ProbeConfig, ProbesConfig, Refusal,
    RefusalCode,
};

fn invalid(field: impl Into<String>, message: impl Into<String>) -> Refusal {
    refuse(RefusalCode::Invalid, field, message)
}

fn refuse(code: RefusalCode, field: impl Into<String>, message: impl Into<String>) -> Refusal {
    Refusal { code, field: Some(field.into()), message: message.into() }
}

/// Checks a device.
pub(crate) fn device(config: &DeviceConfig) -> Result<(), Refusal> {
    device_name("name", &config.name)?;
    if config.alias.is_empty() || config.alias.len() > ALIAS_BYTES_MAX {
        return Err(invalid("alias", format!("must have 1 to {ALIAS_BYTES_MAX} bytes")));
    }
    if !(MTU_MIN..=MTU_MAX).contains(&config.mtu) {
        return Err(invalid("mtu", format!("must be {MTU_MIN} to {MTU_MAX} bytes")));
    }
    if matches!(config.dscp, Dscp::Fixed(64..)) {
        return Err(invalid("dscp", "must be inherit or fixed from 0 to 63"));
    }
    if config.peers.len() > PEERS_MAX {
        let message = format!("a device has {PEERS_MAX} peers at most");
        return Err(refuse(RefusalCode::Limit, "peers", message));
    }
    let own = config.private_key.public_key();
    let (mut keys, mut prefixes) = (BTreeSet::new(), BTreeSet::new());
    for (position, peer) in config.peers.iter().enumerate() {
        let at = |field: &str| format!("peers[{position}].{field}");
        if peer.public_key == own {
            return Err(invalid(at("public_key"), "is the device's own"));
        }
        if !keys.insert(peer.public_key) {
            return Err(invalid(at("public_key"), "is another peer's as well"));
        }
        self::peer(peer, &at)?;
        for (number, prefix) in peer.allowed_ips.iter().enumerate() {
            if !prefixes.insert(prefix.trunc()) {
                let field = at(&format!("allowed_ips[{number}]"));
                return Err(invalid(field, format!("{prefix} is given twice on this device")));
            }
        }
    }
    if prefixes.len() > ALLOWED_IPS_MAX {
        let message = format!("a device has {ALLOWED_IPS_MAX} allowed-ips at most");
        return Err(refuse(RefusalCode::Limit, "peers", message));
    }
    Ok(())
}

fn peer(config: &PeerConfig, at: &impl Fn(&str) -> String) -> Result<(), Refusal> {
    if config.endpoint.is_none() && !config.more_endpoints.is_empty() {
        return Err(invalid(at("more_endpoints"), "only with endpoint"));
    }
    if config.more_endpoints.len() >= ENDPOINTS_MAX {
        let message = format!("a peer has {ENDPOINTS_MAX} endpoints at most");
        return Err(refuse(RefusalCode::Limit, at("more_endpoints"), message));
    }
    let mut seen = BTreeSet::new();
    for (number, endpoint) in config.endpoints().into_iter().enumerate() {
        let field = match number.checked_sub(1) {
            None => at("endpoint"),
            Some(more) => at(&format!("more_endpoints[{more}]")),
        };
        self::endpoint(endpoint, &field)?;
        if !seen.insert(endpoint) {
            return Err(invalid(field, format!("{endpoint} is given twice")));
        }
    }
    Ok(())
}

fn endpoint(endpoint: SocketAddr, field: &str) -> Result<(), Refusal> {
    let unusable = |address: IpAddr| address.is_unspecified() || address.is_multicast();
    if endpoint.port() == 0 || unusable(endpoint.ip()) {
        return Err(invalid(field, format!("nobody can be at {endpoint}")));
    }
    if let SocketAddr::V6(v6) = endpoint
        && v6.ip().to_ipv4_mapped().is_some()
    {
        return Err(invalid(field, "write an IPv4 address as one"));
    }
    Ok(())
}

/// Checks the overlays.
pub(crate) fn overlays(config: &OverlaysConfig) -> Result<(), Refusal> {
    if config.overlays.len() > OVERLAYS_MAX {
        return Err(refuse(RefusalCode::Limit, "overlays", format!("an engine has {OVERLAYS_MAX} at most")));
    }
    let (mut devices, mut taps) = (BTreeSet::new(), BTreeSet::new());
    for (position, overlay) in config.overlays.iter().enumerate() {
        let at = |field: &str| format!("overlays[{position}].{field}");
        device_name(&at("device"), &overlay.device)?;
        device_name(&at("tap"), &overlay.tap)?;
        if overlay.alias.is_empty() || overlay.alias.len() > ALIAS_BYTES_MAX {
            return Err(invalid(at("alias"), format!("must have 1 to {ALIAS_BYTES_MAX} bytes")));
        }
        if overlay.port == 0 {
            return Err(invalid(at("port"), "must not be 0"));
        }
        if !devices.insert(&overlay.device) {
            return Err(invalid(at("device"), "has another overlay"));
        }
        if !taps.insert(&overlay.tap) || overlay.tap == overlay.device {
            return Err(invalid(at("tap"), "is another interface's name as well"));
        }
    }
    Ok(())
}

/// Checks the name of an interface, as the kernel would.
pub(crate) fn device_name(field: &str, name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > DEVICE_NAME_BYTES_MAX {
        return Err(invalid(field, format!("must have 1 to {DEVICE_NAME_BYTES_MAX} bytes")));
    }
    let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
    if !name.chars().all(allowed) || name == "." || name == ".." {
        return Err(invalid(field, "has a character that no interface name may have"));
    }
    Ok(())
}

/// Checks a set of probes.
pub(crate) fn probes(config: &ProbesConfig) -> Result<(), Refusal> {
    if config.port == 0 {
        return Err(invalid("port", "must not be 0"));
    }
    if config.probes.len() > PROBES_MAX {
        let message = format!("an engine has {PROBES_MAX} probes at most");
        return Err(refuse(RefusalCode::Limit, "probes", message));
    }
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (position, probe) in config.probes.iter().enumerate() {
        let at = |field: &str| format!("probes[{position}].{field}");
        self::probe(probe, &at)?;
        if !names.insert(&probe.name) {
            return Err(invalid(at("name"), "is another probe's as well"));
        }
        if !paths.insert((&probe.device, probe.local, probe.remote)) {
            return Err(invalid(at("remote"), "this path has a probe already"));
        }
    }
    Ok(())
}

/// Checks a set of paths whose MTU is measured.
pub(crate) fn path_mtus(config: &PathMtusConfig) -> Result<(), Refusal> {
    if config.port == 0 {
        return Err(invalid("port", "must not be 0"));
    }
    if config.paths.len() > PROBES_MAX {
        let message = format!("an engine measures {PROBES_MAX} paths at most");
        return Err(refuse(RefusalCode::Limit, "paths", message));
    }
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (position, path) in config.paths.iter().enumerate() {
        let at = |field: &str| format!("paths[{position}].{field}");
        self::path(&path.name, &path.device, [path.local, path.remote], &at)?;
        let least = if path.remote.is_ipv4() { PATH_MTU_MIN } else { MTU_MIN };
        if !(least..=MTU_MAX).contains(&path.max) {
            return Err(invalid(at("max"), format!("must be {least} to {MTU_MAX} bytes")));
        }
        if !names.insert(&path.name) {
            return Err(invalid(at("name"), "is another path's as well"));
        }
        if !paths.insert((&path.device, path.local, path.remote)) {
            return Err(invalid(at("remote"), "this path is measured already"));
        }
    }
    Ok(())
}

/// A name, a device, and the two addresses between which something is sent through it.
fn path(
    name: &str,
    device: &str,
    [local, remote]: [IpAddr; 2],
    at: &impl Fn(&str) -> String,
) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > PROBE_NAME_BYTES_MAX {
        return Err(invalid(at("name"), format!("must have 1 to {PROBE_NAME_BYTES_MAX} bytes")));
    }
    device_name(&at("device"), device)?;
    for (field, address) in [("local", local), ("remote", remote)] {
        if address.is_unspecified() || address.is_multicast() {
            return Err(invalid(at(field), "must be one host's address"));
        }
    }
    if local.is_ipv4() != remote.is_ipv4() {
        return Err(invalid(at("remote"), "must be of the same family as local"));
    }
    if local == remote {
        return Err(invalid(at("remote"), "must not be the local address"));
    }
    Ok(())
}

fn probe(config: &ProbeConfig, at: &impl Fn(&str) -> String) -> Result<(), Refusal> {
    path(&config.name, &config.device, [config.local, config.remote], at)?;
    let times = PROBE_INTERVAL_MIN_MS..=PROBE_TIME_MAX_MS;
    if !times.contains(&config.interval_ms) {
        let message = format!("must be {PROBE_INTERVAL_MIN_MS} to {PROBE_TIME_MAX_MS} ms");
        return Err(invalid(at("interval_ms"), message));
    }
    if config.dead_after_ms < 2 * config.interval_ms || config.dead_after_ms > PROBE_TIME_MAX_MS {
        let message = format!("must be twice the interval to {PROBE_TIME_MAX_MS} ms");
        return Err(invalid(at("dead_after_ms"), message));
    }
    Ok(())
}

/// Ethernet types of tags (IEEE 802.1Q §9.6): customer and service.
const TAG_TYPES: [u16; 2] = [0x8100, 0x88a8];

/// Checks a set of beacons.
pub(crate) fn beacons(config: &BeaconsConfig) -> Result<(), Refusal> {
    if config.beacons.len() > BEACONS_MAX {
        let message = format!("an engine has {BEACONS_MAX} beacons at most");
        return Err(refuse(RefusalCode::Limit, "beacons", message));
    }
    let mut places = BTreeSet::new();
    for (position, beacon) in config.beacons.iter().enumerate() {
        let at = |field: &str| format!("beacons[{position}].{field}");
        self::beacon(beacon, &at)?;
        if !places.insert((&beacon.device, &beacon.tags)) {
            return Err(invalid(at("tags"), "this place has a beacon already"));
        }
    }
    Ok(())
}

fn beacon(config: &BeaconConfig, at: &impl Fn(&str) -> String) -> Result<(), Refusal> {
    device_name(&at("device"), &config.device)?;
    if config.tags.len() > BEACON_TAGS_MAX {
        return Err(invalid(at("tags"), format!("a frame has {BEACON_TAGS_MAX} tags at most")));
    }
    for (number, tag) in config.tags.iter().enumerate() {
        if !TAG_TYPES.contains(&tag.tpid) {
            return Err(invalid(at(&format!("tags[{number}].tpid")), "must be 33024 or 34984"));
        }
        if !(1..=4094).contains(&tag.vid) {
            return Err(invalid(at(&format!("tags[{number}].vid")), "must be 1 to 4094"));
        }
    }
    if config.origin[0] & 1 != 0 || config.origin == [0; 6] {
        return Err(invalid(at("origin"), "must be one device's address"));
    }
    if !(1..1 << 24).contains(&config.vni) {
        return Err(invalid(at("vni"), "must be 1 to 16777215"));
    }
    Ok(())
}

/// Checks a set of BFD sessions.
pub(crate) fn bfd(config: &BfdSessionsConfig) -> Result<(), Refusal> {
    if config.sessions.len() > BFD_SESSIONS_MAX {
        let message = format!("an engine has {BFD_SESSIONS_MAX} sessions at most");
        return Err(refuse(RefusalCode::Limit, "sessions", message));
    }
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (position, session) in config.sessions.iter().enumerate() {
        let at = |field: &str| format!("sessions[{position}].{field}");
        bfd_session(session, &at)?;
        if !names.insert(&session.name) {
            return Err(invalid(at("name"), "is another session's as well"));
        }
        let multihop = session.hops != BfdHops::Single;
        if !paths.insert((&session.netns, &session.device, session.local, session.remote, multihop)) {
            return Err(invalid(at("remote"), "there is a session with this neighbour already"));
        }
    }
    Ok(())
}

fn bfd_session(config: &BfdConfig, at: &impl Fn(&str) -> String) -> Result<(), Refusal> {
    if config.name.is_empty() || config.name.len() > BFD_NAME_BYTES_MAX {
        return Err(invalid(at("name"), format!("must have 1 to {BFD_NAME_BYTES_MAX} bytes")));
    }
    if let Some(netns) = &config.netns
        && !netns.starts_with('/')
    {
        return Err(invalid(at("netns"), "must be a path from the root"));
    }
    if let Some(device) = &config.device {
        device_name(&at("device"), device)?;
    }
    for (field, address) in [("local", config.local), ("remote", Some(config.remote))] {
        if address.is_some_and(|address| address.is_unspecified() || address.is_multicast()) {
            return Err(invalid(at(field), "must be one host's address"));
        }
    }
    if config.local.is_some_and(|local| local.is_ipv4() != config.remote.is_ipv4()) {
        return Err(invalid(at("local"), "must be of the same family as remote"));
    }
    if config.local == Some(config.remote) {
        return Err(invalid(at("remote"), "must not be the local address"));
    }
    let is_link_local = matches!(config.remote, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if is_link_local && config.device.is_none() {
        return Err(invalid(at("device"), "a link-local neighbour is on one device: say which"));
    }
    let intervals = BFD_INTERVAL_MIN_US..=BFD_INTERVAL_MAX_US;
    let message = || format!("must be {BFD_INTERVAL_MIN_US} to {BFD_INTERVAL_MAX_US} µs");
    if !intervals.contains(&config.desired_min_tx_us) {
        return Err(invalid(at("desired_min_tx_us"), message()));
    }
    if !intervals.contains(&config.required_min_rx_us) {
        return Err(invalid(at("required_min_rx_us"), message()));
    }
    if config.detect_mult == 0 {
        return Err(invalid(at("detect_mult"), "must be 1 to 255"));
    }
    if config.hops == (BfdHops::Multi { ttl_min: 0 }) {
        return Err(invalid(at("hops.multi.ttl_min"), "must be 1 to 255"));
    }
    if let Some(authentication) = &config.authentication {
        let most = if authentication.kind == BfdAuthenticationKind::Simple { 16 } else { 20 };
        if !(1..=most).contains(&authentication.secret.as_bytes().len()) {
            return Err(invalid(at("authentication.secret"), format!("must have 1 to {most} bytes")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{PrivateKey, PublicKey};
    use crate::protocol::{PathMtuConfig, VlanTag};

    fn good_device() -> DeviceConfig {
        let peer = |n: u8, allowed: &str| PeerConfig {
            public_key: PublicKey::from_bytes([n; 32]),
            preshared_key: None,
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            more_endpoints: Vec::new(),
            allowed_ips: vec![allowed.parse().unwrap()],
            keepalive_s: 0,
        };
        DeviceConfig {
            name: "wtwg0".to_owned(),
            alias: "watari:a:tunnel/x".to_owned(),
            private_key: PrivateKey::from_bytes([1; 32]),
            listen_port: 51820,
            mtu: 1420,
            dscp: Dscp::default(),
            peers: vec![peer(2, "10.0.0.0/24"), peer(3, "10.0.1.0/24")],
        }
    }

    fn field_of(change: impl FnOnce(&mut DeviceConfig)) -> String {
        let mut config = good_device();
        device(&config).unwrap();
        change(&mut config);
        device(&config).unwrap_err().field.unwrap()
    }

    #[test]
    fn a_device_is_refused_by_the_field_at_fault() {
        assert_eq!(field_of(|d| d.name = "a-name-too-long-".to_owned()), "name");
        assert_eq!(field_of(|d| d.name = "a/b".to_owned()), "name");
        assert_eq!(field_of(|d| d.name.clear()), "name");
        assert_eq!(field_of(|d| d.alias.clear()), "alias");
        assert_eq!(field_of(|d| d.mtu = 1279), "mtu");
        assert_eq!(field_of(|d| d.mtu = 65_500), "mtu");
        let own = good_device().private_key.public_key();
        assert_eq!(field_of(|d| d.peers[1].public_key = own), "peers[1].public_key");
        assert_eq!(field_of(|d| d.peers[1].public_key = d.peers[0].public_key), "peers[1].public_key");
        assert_eq!(
            field_of(|d| d.peers[0].endpoint = Some("0.0.0.0:1".parse().unwrap())),
            "peers[0].endpoint"
        );
        assert_eq!(
            field_of(|d| d.peers[0].endpoint = Some("[::ffff:1.2.3.4]:1".parse().unwrap())),
            "peers[0].endpoint"
        );
        assert_eq!(
            field_of(|d| d.peers[1].allowed_ips.push("10.0.0.9/24".parse().unwrap())),
            "peers[1].allowed_ips[1]"
        );
    }

    fn probe_field(change: impl FnOnce(&mut ProbesConfig)) -> String {
        let one = ProbeConfig {
            name: "a".to_owned(),
            local: "10.255.0.1".parse().unwrap(),
            remote: "10.255.0.2".parse().unwrap(),
            device: "wtwg0".to_owned(),
            interval_ms: 100,
            dead_after_ms: 500,
        };
        let mut two = one.clone();
        two.name = "b".to_owned();
        two.device = "wtwg1".to_owned();
        let mut config = ProbesConfig { port: 4790, probes: vec![one, two] };
        probes(&config).unwrap();
        change(&mut config);
        probes(&config).unwrap_err().field.unwrap()
    }

    #[test]
    fn a_probe_is_refused_by_the_field_at_fault() {
        assert_eq!(probe_field(|p| p.port = 0), "port");
        assert_eq!(probe_field(|p| p.probes[1].name = "a".to_owned()), "probes[1].name");
        assert_eq!(probe_field(|p| p.probes[1].device = "wtwg0".to_owned()), "probes[1].remote");
        let v6 = "fd00::1".parse().unwrap();
        assert_eq!(probe_field(|p| p.probes[0].remote = v6), "probes[0].remote");
        assert_eq!(probe_field(|p| p.probes[0].interval_ms = 9), "probes[0].interval_ms");
        assert_eq!(probe_field(|p| p.probes[0].dead_after_ms = 199), "probes[0].dead_after_ms");
        assert_eq!(probe_field(|p| p.probes[0].local = "224.0.0.1".parse().unwrap()), "probes[0].local");
    }

    fn bfd_field(change: impl FnOnce(&mut Vec<BfdConfig>)) -> String {
        let one = BfdConfig {
            name: "peers.a".to_owned(),
            netns: Some("/run/netns/wt-a".to_owned()),
            device: Some("wte0".to_owned()),
            local: Some("192.0.2.1".parse().unwrap()),
            remote: "192.0.2.2".parse().unwrap(),
            hops: BfdHops::Single,
            desired_min_tx_us: 50_000,
            required_min_rx_us: 50_000,
            detect_mult: 3,
            passive: false,
            admin_down: false,
            authentication: None,
        };
        let multi = BfdHops::Multi { ttl_min: 254 };
        let two = BfdConfig { name: "peers.b".to_owned(), hops: multi, ..one.clone() };
        let mut sessions = vec![one, two];
        bfd(&BfdSessionsConfig { sessions: sessions.clone() }).unwrap();
        change(&mut sessions);
        bfd(&BfdSessionsConfig { sessions }).unwrap_err().field.unwrap()
    }

    #[test]
    fn a_bfd_session_is_refused_by_the_field_at_fault() {
        let secret = |kind, text: &str| {
            let secret = crate::key::BfdSecret::new(text);
            Some(crate::protocol::BfdAuthentication { kind, key_id: 1, secret })
        };
        assert_eq!(bfd_field(|s| s[0].name.clear()), "sessions[0].name");
        assert_eq!(bfd_field(|s| s[1].name = "peers.a".to_owned()), "sessions[1].name");
        assert_eq!(bfd_field(|s| s[1].hops = BfdHops::Single), "sessions[1].remote");
        assert_eq!(bfd_field(|s| s[0].netns = Some("wt-a".to_owned())), "sessions[0].netns");
        assert_eq!(bfd_field(|s| s[0].device = Some("a/b".to_owned())), "sessions[0].device");
        assert_eq!(bfd_field(|s| s[0].local = Some("::1".parse().unwrap())), "sessions[0].local");
        assert_eq!(bfd_field(|s| s[0].local = Some(s[0].remote)), "sessions[0].remote");
        assert_eq!(bfd_field(|s| s[0].remote = "0.0.0.0".parse().unwrap()), "sessions[0].remote");
        let link_local = |s: &mut Vec<BfdConfig>| {
            (s[0].remote, s[0].local, s[0].device) = ("fe80::1".parse().unwrap(), None, None);
        };
        assert_eq!(bfd_field(link_local), "sessions[0].device");
        assert_eq!(bfd_field(|s| s[0].desired_min_tx_us = 9_999), "sessions[0].desired_min_tx_us");
        assert_eq!(bfd_field(|s| s[0].required_min_rx_us = 60_000_001), "sessions[0].required_min_rx_us");
        assert_eq!(bfd_field(|s| s[0].detect_mult = 0), "sessions[0].detect_mult");
        assert_eq!(
            bfd_field(|s| s[1].hops = BfdHops::Multi { ttl_min: 0 }),
            "sessions[1].hops.multi.ttl_min"
        );
        let long = secret(BfdAuthenticationKind::Simple, "seventeen letters");
        assert_eq!(bfd_field(|s| s[0].authentication = long), "sessions[0].authentication.secret");
        let empty = secret(BfdAuthenticationKind::KeyedSha1, "");
        assert_eq!(bfd_field(|s| s[0].authentication = empty), "sessions[0].authentication.secret");
        assert_eq!(bfd_field(|s| *s = vec![s[0].clone(); BFD_SESSIONS_MAX + 1]), "sessions");
    }

    fn path_mtu_field(change: impl FnOnce(&mut PathMtusConfig)) -> String {
        let one = PathMtuConfig {
            name: "a".to_owned(),
            local: "10.255.0.1".parse().unwrap(),
            remote: "10.255.0.2".parse().unwrap(),
            device: "wtwg0".to_owned(),
            max: 1420,
        };
        let mut two = one.clone();
        (two.name, two.device) = ("b".to_owned(), "wtwg1".to_owned());
        let mut config = PathMtusConfig { port: 4792, paths: vec![one, two] };
        path_mtus(&config).unwrap();
        change(&mut config);
        path_mtus(&config).unwrap_err().field.unwrap()
    }

    #[test]
    fn a_path_to_be_measured_is_refused_by_the_field_at_fault() {
        assert_eq!(path_mtu_field(|p| p.port = 0), "port");
        assert_eq!(path_mtu_field(|p| p.paths[1].name = "a".to_owned()), "paths[1].name");
        assert_eq!(path_mtu_field(|p| p.paths[1].device = "wtwg0".to_owned()), "paths[1].remote");
        assert_eq!(path_mtu_field(|p| p.paths[0].max = 575), "paths[0].max");
        assert_eq!(path_mtu_field(|p| p.paths[0].max = 65_401), "paths[0].max");
        let six = |p: &mut PathMtusConfig| {
            p.paths[0].local = "fd00::1".parse().unwrap();
            p.paths[0].remote = "fd00::2".parse().unwrap();
            p.paths[0].max = 1279;
        };
        assert_eq!(path_mtu_field(six), "paths[0].max");
    }

    fn beacon_field(change: impl FnOnce(&mut BeaconsConfig)) -> String {
        let tag = VlanTag { tpid: 0x8100, vid: 7 };
        let one = BeaconConfig {
            device: "eth1".to_owned(),
            tags: vec![tag],
            origin: [2, 0, 0, 0, 0, 1],
            vni: 1000,
            port_id: 1,
            blocked: false,
        };
        let mut two = one.clone();
        two.tags[0].vid = 8;
        let mut config = BeaconsConfig { beacons: vec![one, two] };
        beacons(&config).unwrap();
        change(&mut config);
        beacons(&config).unwrap_err().field.unwrap()
    }

    #[test]
    fn a_beacon_is_refused_by_the_field_at_fault() {
        assert_eq!(beacon_field(|b| b.beacons[1].tags[0].vid = 7), "beacons[1].tags");
        assert_eq!(beacon_field(|b| b.beacons[1].tags[0].vid = 4095), "beacons[1].tags[0].vid");
        assert_eq!(beacon_field(|b| b.beacons[1].tags[0].tpid = 0x9100), "beacons[1].tags[0].tpid");
        assert_eq!(beacon_field(|b| b.beacons[0].tags = vec![b.beacons[0].tags[0]; 3]), "beacons[0].tags");
        assert_eq!(beacon_field(|b| b.beacons[0].device.clear()), "beacons[0].device");
        assert_eq!(beacon_field(|b| b.beacons[0].origin[0] = 3), "beacons[0].origin");
        assert_eq!(beacon_field(|b| b.beacons[0].origin = [0; 6]), "beacons[0].origin");
        assert_eq!(beacon_field(|b| b.beacons[0].vni = 1 << 24), "beacons[0].vni");
        assert_eq!(beacon_field(|b| b.beacons = vec![b.beacons[0].clone(); BEACONS_MAX + 1]), "beacons");
    }
}
