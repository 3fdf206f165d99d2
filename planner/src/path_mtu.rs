//! What the tunnels carry: how large a packet each may be asked to take, what was measured, and what follows for the datapath.
//!
//! ```text
//!   underlay device ─ less WireGuard's headers ─▶ bound ◀─ the document's number, where it is not `auto`
//!                                                   │ padded probes go up to it, the tunnel's device has it
//!   watari-link: what crosses ──────────────────────┴─▶ carried ─▶ MTU of the route to the far VTEP
//!                                                            └─ less VXLAN ─▶ overlay: too-big errors, segment size of TCP
//! ```
//!
//! The device keeps the bound, so that probes can find that the path carries more again; everything else goes by what is carried.

use std::net::IpAddr;

use serde::Serialize;
use watari_config::desired::device;
use watari_config::document::{Gateway, Tunnel};
use watari_config::endpoint::Endpoint;
use watari_config::validate::vxlan_overhead_bytes;
use watari_config::{Desired, Name};

use crate::observed::{Engine, Observed};

/// What WireGuard adds to an IP packet, bytes: outer IPv4 20 or IPv6 40, UDP 8, its own header 16, authentication 16.
pub const fn wireguard_overhead_bytes(ipv4_outside: bool) -> u16 {
    if ipv4_outside { 60 } else { 80 }
}

/// MTU of an underlay device that cannot be told, bytes: Ethernet's.
const ETHERNET: u16 = 1500;
/// Bounds of the MTU of a tunnel's device, bytes.
const DEVICE_MIN: u16 = 1280;
const DEVICE_MAX: u16 = 9216;

/// What was measured of a tunnel's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PathMtu {
    /// Where the search is.
    pub phase: PathMtuPhase,
    /// The largest IP packet that crosses to the far gateway, bytes.
    pub mtu: Option<u16>,
    /// The same from the far gateway to here, as it says.
    pub far_mtu: Option<u16>,
    /// The smallest size that does not cross, bytes; none if the largest one tried does.
    pub breaks_at: Option<u16>,
    /// How often large packets vanished where small ones did not.
    pub black_holes: u64,
    /// Seconds since `mtu` changed.
    pub since_s: u64,
}

/// Where the search for a path's MTU is (RFC 8899 section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathMtuPhase {
    /// No answer comes.
    Silent,
    /// It goes on.
    Searching,
    /// It is known, and confirmed all the time.
    Complete,
    /// Small packets cross, but not even 576 bytes do.
    Error,
}

/// Up to which size a tunnel is tried, and why not further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    /// IP packets, bytes.
    pub(crate) bytes: u16,
    /// Why.
    pub(crate) limit: Limit,
    /// The device below the tunnel.
    pub(crate) underlay: Option<String>,
    /// What the tunnel itself adds, bytes.
    pub(crate) overhead: u16,
}

/// What limits a tunnel from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// The number in the document.
    Document,
    /// The device below it.
    Device,
    /// Kernel WireGuard fragments outside and does not say so: more than fits any Ethernet is not tried unasked.
    KernelEngine,
}

/// Up to which size `tunnel` is tried from this gateway.
pub(crate) fn bound(desired: &Desired, observed: &Observed, name: &Name, tunnel: &Tunnel) -> Bound {
    let (underlay, overhead) = below(desired, tunnel);
    let device = underlay.as_ref().and_then(|d| observed.device_mtus.get(d).copied());
    let room = device.and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(ETHERNET).saturating_sub(overhead);
    let is_kernel = observed.engines.get(&device::wireguard(name)) == Some(&Engine::Kernel);
    let (bytes, limit) = match tunnel.mtu.bytes() {
        Some(mtu) => (mtu.get(), Limit::Document),
        None if is_kernel && tunnel.wireguard.is_some() && room > tunnel.assumed_mtu() => {
            (tunnel.assumed_mtu(), Limit::KernelEngine)
        }
        None => (room.clamp(DEVICE_MIN, DEVICE_MAX), Limit::Device),
    };
    Bound { bytes, limit, underlay, overhead }
}

/// The device below a tunnel, and what the tunnel adds to a packet there.
fn below(desired: &Desired, tunnel: &Tunnel) -> (Option<String>, u16) {
    let own = desired.gateway_name();
    if let Some(direct) = &tunnel.direct {
        return (direct.ends.get(own).map(|end| end.vlan.trunk.to_string()), 0);
    }
    let endpoints = tunnel.wireguard.iter().flat_map(|wireguard| &wireguard.endpoints);
    let far = endpoints.into_iter().find(|(gateway, _)| *gateway != own).map(|(_, places)| places);
    let uplink = desired.gateway().and_then(|gateway| gateway.uplink.as_ref()).map(ToString::to_string);
    // A far side that calls us may do so over either family, a name may have addresses of both, and of several places
    // each may be the one in use: only where all are IPv4 the shorter header is counted on.
    let is_four = |place: &Endpoint| place.ip().is_some_and(|ip| ip.is_ipv4());
    (uplink, wireguard_overhead_bytes(far.is_some_and(|places| places.iter().all(is_four))))
}

/// What `tunnel` carries from here, IP packets in bytes: what was measured; before that, what is usual for its kind or written
/// in the document.
pub(crate) fn carried(desired: &Desired, observed: &Observed, name: &Name, tunnel: &Tunnel) -> u16 {
    let bound = bound(desired, observed, name, tunnel).bytes;
    let measured = observed.path_mtus.get(name).and_then(|path| path.mtu);
    measured.unwrap_or_else(|| tunnel.assumed_mtu()).min(bound)
}

/// One hop that a tenant's packet takes on this side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// What it is: `segment lab`, `overlay`, `tunnel`, `underlay`.
    pub hop: String,
    /// Its device, where it has one.
    pub device: Option<String>,
    /// MTU of the device, or of the hosts of a segment, bytes.
    pub device_mtu: Option<u32>,
    /// IP packets that it carries towards the far gateway, bytes.
    pub carries: Option<u32>,
    /// What it adds to a packet for the next hop, bytes.
    pub adds: u16,
}

/// Everything about the sizes that one tunnel carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TunnelMtu {
    /// The tunnel.
    pub tunnel: String,
    /// The gateway at its far end.
    pub far_gateway: String,
    /// From the hosts to the wire.
    pub hops: Vec<Hop>,
    /// What was measured.
    pub measured: Option<PathMtu>,
    /// Up to which size it is tried, bytes.
    pub tried_up_to: u16,
    /// IP packets that the tunnel is asked to carry, bytes.
    pub carried: u16,
    /// IP packets of tenants that fit, bytes.
    pub overlay: u16,
    /// Segment size that TCP over IPv4 is held to.
    pub mss_ipv4: u16,
    /// The same over IPv6.
    pub mss_ipv6: u16,
    /// What limits it, in a sentence.
    pub limited_by: String,
    /// What could be done, in sentences.
    pub advice: Vec<String>,
}

/// What there is to say about the size of packets, for each tunnel of this gateway.
pub fn explained(desired: &Desired, observed: &Observed) -> Vec<TunnelMtu> {
    desired
        .tunnels()
        .map(|(name, tunnel, far_name, far)| one(desired, observed, name, tunnel, (far_name, far)))
        .collect()
}

fn one(
    desired: &Desired,
    observed: &Observed,
    name: &Name,
    tunnel: &Tunnel,
    (far_name, far): (&Name, &Gateway),
) -> TunnelMtu {
    let bound = bound(desired, observed, name, tunnel);
    let carried = carried(desired, observed, name, tunnel);
    let overlay = carried.saturating_sub(vxlan_overhead_bytes(far.vtep));
    let measured = observed.path_mtus.get(name).copied();
    TunnelMtu {
        tunnel: name.to_string(),
        far_gateway: far_name.to_string(),
        hops: hops(desired, observed, name, tunnel, (&bound, carried, far.vtep)),
        measured,
        tried_up_to: bound.bytes,
        carried,
        overlay,
        mss_ipv4: overlay.saturating_sub(40),
        mss_ipv6: overlay.saturating_sub(60),
        limited_by: limited_by(&bound, measured, observed),
        advice: advice(desired, observed, &bound, (measured, overlay)),
    }
}

fn hops(
    desired: &Desired,
    observed: &Observed,
    name: &Name,
    tunnel: &Tunnel,
    (bound, carried, vtep): (&Bound, u16, IpAddr),
) -> Vec<Hop> {
    let vxlan = vxlan_overhead_bytes(vtep);
    let overlay = carried.saturating_sub(vxlan);
    let mut hops: Vec<Hop> = desired
        .segments()
        .map(|(segment, spec)| Hop {
            hop: format!("segment {segment}"),
            device: None,
            device_mtu: Some(spec.mtu.get().into()),
            carries: Some(u32::from(spec.mtu.get().min(overlay))),
            adds: 0,
        })
        .collect();
    hops.push(Hop {
        hop: "overlay".to_owned(),
        device: Some(device::vxlan(desired.document().fabric.vxlan_port)),
        device_mtu: None,
        carries: Some(overlay.into()),
        adds: vxlan,
    });
    let own = if tunnel.direct.is_some() { device::direct(name).0 } else { device::wireguard(name) };
    hops.push(Hop {
        hop: "tunnel".to_owned(),
        device_mtu: observed.device_mtus.get(&own).copied(),
        device: Some(own),
        carries: Some(carried.into()),
        adds: bound.overhead,
    });
    hops.push(Hop {
        hop: "underlay".to_owned(),
        device_mtu: bound.underlay.as_ref().and_then(|d| observed.device_mtus.get(d).copied()),
        device: bound.underlay.clone(),
        carries: Some(u32::from(carried) + u32::from(bound.overhead)),
        adds: 0,
    });
    hops
}

fn limited_by(bound: &Bound, measured: Option<PathMtu>, observed: &Observed) -> String {
    let Some(mtu) = measured.and_then(|path| path.mtu) else {
        return "nothing was measured: what is usual, or written in the document, is taken for granted"
            .to_owned();
    };
    if mtu < bound.bytes {
        let outside = mtu + bound.overhead;
        return format!(
            "the path: packets of more than {outside} bytes on the underlay do not reach the far gateway whole"
        );
    }
    let device = bound.underlay.as_deref().unwrap_or("the underlay");
    match bound.limit {
        Limit::Document => format!("the document: mtu is {}", bound.bytes),
        Limit::KernelEngine => {
            "kernel WireGuard: it fragments outside without saying so, so no more is tried unless the document says so".to_owned()
        }
        Limit::Device => match observed.device_mtus.get(device) {
            Some(mtu) => format!("{device}: its MTU is {mtu}"),
            None => format!("{device}: its MTU is not known, {ETHERNET} is assumed"),
        },
    }
}

fn advice(
    desired: &Desired,
    observed: &Observed,
    bound: &Bound,
    (measured, overlay): (Option<PathMtu>, u16),
) -> Vec<String> {
    let mut advice = Vec::new();
    match measured {
        None => advice.push("watari-link does not measure this path: see the state of the tunnel".to_owned()),
        Some(path) => of_the_path(path, bound, &mut advice),
    }
    let device = bound.underlay.as_ref().and_then(|d| observed.device_mtus.get(d));
    let room = device.map_or(0, |mtu| mtu.saturating_sub(bound.overhead.into()));
    let is_full = measured.is_some_and(|path| path.mtu >= Some(bound.bytes));
    if is_full && bound.limit == Limit::Document && room > u32::from(bound.bytes) {
        advice.push(format!("with `mtu: auto` sizes up to {room} would be tried as well"));
    }
    for (segment, spec) in desired.segments().filter(|(_, spec)| spec.mtu.get() > overlay) {
        let mtu = spec.mtu.get();
        advice.push(format!(
            "hosts of segment {segment} have an MTU of {mtu}, and {overlay} crosses: TCP is held to smaller segments, other senders \
             get packet-too-big, and what may be fragmented is; an MTU of {overlay} there would spare that"
        ));
    }
    advice
}

fn of_the_path(path: PathMtu, bound: &Bound, advice: &mut Vec<String>) {
    match (path.phase, path.mtu) {
        (PathMtuPhase::Silent, None) => advice.push(
            "the far gateway answers no padded probe: the tunnel is down, or watari-link there does not know them yet".to_owned(),
        ),
        (PathMtuPhase::Silent, Some(_)) => {
            advice.push("no answer comes for the moment: what was measured last stays in force".to_owned());
        }
        (PathMtuPhase::Error, _) => {
            advice.push("small packets cross, larger ones do not: the underlay is broken for any use".to_owned());
        }
        (_, Some(mtu)) if mtu < bound.bytes => {
            let (wanted, given) = (bound.bytes + bound.overhead, mtu + bound.overhead);
            advice.push(format!(
                "some link between the gateways carries {given} bytes and not {wanted}: ask who runs it; until then nothing is lost, \
                 packets are smaller"
            ));
        }
        _ => {}
    }
    if let (Some(mtu), Some(far)) = (path.mtu, path.far_mtu)
        && mtu != far
    {
        advice
            .push(format!("{mtu} bytes cross from here and {far} from the far gateway: the two ways differ"));
    }
    if path.black_holes > 0 {
        let times = path.black_holes;
        advice.push(format!(
            "large packets vanished {times} times while small ones crossed: somewhere the MTU changes, and no ICMP says so"
        ));
    }
}
