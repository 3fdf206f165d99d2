//! A trace in words: each step as a sentence that names the table entry, and at the end what becomes of the packet.

use std::net::IpAddr;

use watari_abi::{
    Counter, DropReason, IpBytes, MacBytes, PortKey, RouteKind, RouteOrigin, Step, StepKind, Verdict,
    ip_from_bytes,
};

/// What things are called. Every method has a default that goes by numbers.
pub trait Names {
    /// A device with its tags, e.g. `eth1 VLAN 900`.
    fn port(&self, port: PortKey) -> String {
        numbered(port, format!("device {}", port.ifindex))
    }
    /// A segment.
    fn segment(&self, vni: u32) -> String {
        format!("VNI {vni}")
    }
    /// A tenant.
    fn tenant(&self, tenant: u32) -> String {
        format!("tenant {tenant}")
    }
    /// A far gateway by its VTEP.
    fn gateway(&self, vtep: IpAddr) -> String {
        format!("VTEP {vtep}")
    }
    /// The prefix of the tenant's longest match for an address; `None` from who has no tables to look it up in.
    fn route(&self, _tenant: u32, _address: IpAddr) -> Option<String> {
        None
    }
}

/// Names by number.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers;

impl Names for Numbers {}

/// A device, already named, with its tags.
#[must_use]
pub fn numbered(port: PortKey, device: String) -> String {
    let vid = port.outer & !PortKey::S_TAG;
    match (port.outer, port.inner) {
        (0, 0) => device,
        (outer, 0) if outer & PortKey::S_TAG != 0 => format!("{device} S-VLAN {vid}"),
        (_, 0) => format!("{device} VLAN {vid}"),
        (_, inner) => format!("{device} S-VLAN {vid} C-VLAN {inner}"),
    }
}

/// The steps of a trace in words, one sentence each, and then what becomes of the packet.
#[must_use]
pub fn explain(steps: &[Step], verdict: &Verdict, names: &dyn Names) -> Vec<String> {
    let mut lines: Vec<String> = steps.iter().filter_map(|step| sentence(step, names)).collect();
    lines.push(ending(verdict, names));
    lines
}

fn mac(mac: MacBytes) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn sentence(step: &Step, names: &dyn Names) -> Option<String> {
    let kind = StepKind::from_u32(step.kind)?;
    let (port, ip, number) = (names.port(step.port), ip_from_bytes(step.ip), step.number);
    Some(match kind {
        StepKind::Attachment => {
            let guard = if step.flags == 0 { "" } else { ", with a guard" };
            format!("ports: {port} is an attachment of {}{guard}", names.segment(number))
        }
        StepKind::CorePort => format!("ports: {port} leads to the tenant's namespace"),
        StepKind::NodePort => format!("ports: behind {port} are nodes"),
        StepKind::CrossPort => format!("ports: {port} is one end of a wire"),
        StepKind::NoPort => format!("ports: {port} is not there"),
        StepKind::FromVtep => {
            format!("segments: {} comes from {}", names.segment(number), far(step.ip, names))
        }
        StepKind::NoSegment => {
            format!("segments: VNI {number} from {} stands for nothing here", far(step.ip, names))
        }
        StepKind::VtepBound => format!("vteps: {} is bound to the tunnel {port}", far(step.ip, names)),
        StepKind::VtepNotBound => format!("vteps: {} is not bound to the tunnel {port}", far(step.ip, names)),
        StepKind::Guarded => format!("the guard of {port} lets it through"),
        StepKind::PathMtu if number == 0 => {
            format!("remotes: {} is known, its path MTU is not", far(step.ip, names))
        }
        StepKind::PathMtu => {
            format!("remotes: IP packets of {number} bytes cross to {}", far(step.ip, names))
        }
        StepKind::MssClamp => format!("the TCP segment size is lowered to {number} bytes"),
        StepKind::Hop => format!("one hop less: {number} are left"),
        StepKind::Ask => format!("a question for {ip} is asked in {}", names.segment(number)),
        StepKind::CopyPort => format!("flood_ports: a copy goes out by {port}"),
        StepKind::CopyVtep => format!("flood_vteps: a copy goes to {}", far(step.ip, names)),
        StepKind::NoCopies => format!("no copies: {}", reason(number as u8)),
        StepKind::OwnDecap => {
            format!("the VXLAN header is taken off: VNI {number} from {}", far(step.ip, names))
        }
        StepKind::OwnEncap => {
            let (vtep, hop) = (far(step.ip, names), mac(step.mac));
            format!("own encapsulation to {vtep}, VNI {number}, leaves by {port} to {hop}")
        }
        StepKind::EngineEncap => {
            let vtep = far(step.ip, names);
            format!(
                "as an inner frame to the WireGuard engine by {port}: it writes VXLAN to {vtep}, VNI {number}, and seals"
            )
        }
        StepKind::DeviceEncap => {
            format!("the VXLAN device writes the outer header to {}, VNI {number}", far(step.ip, names))
        }
        _ => return address_sentence(kind, step, names),
    })
}

/// Sentences about MACs, neighbours and routes.
fn address_sentence(kind: StepKind, step: &Step, names: &dyn Names) -> Option<String> {
    let (port, mac, ip, number) = (names.port(step.port), mac(step.mac), ip_from_bytes(step.ip), step.number);
    Some(match kind {
        StepKind::Learn => learnt(step, &mac, &port),
        StepKind::SourcePinned => format!("mac_static: the source {mac} is pinned to {port}, not here"),
        StepKind::SourceFrozen => {
            format!("mac_frozen: the source {mac} moves too often and is frozen at {port}, not here")
        }
        StepKind::SourceSticky => {
            format!(
                "mac_remote: the source {mac} is pinned behind {}, sequence {number}",
                far(step.ip, names)
            )
        }
        StepKind::MacStatic if step.flags & 1 != 0 => format!("mac_static: {mac} is a node behind {port}"),
        StepKind::MacStatic => format!("mac_static: {mac} of {} is at {port}", names.segment(number)),
        StepKind::MacLocal => format!("mac_local: {mac} of {} is at {port}", names.segment(number)),
        StepKind::MacRemote => {
            let sticky = if step.flags & 1 != 0 { ", sticky" } else { "" };
            format!("mac_remote: {mac} is behind {}, sequence {number}{sticky}", far(step.ip, names))
        }
        StepKind::MacUnknown => format!("no table has {mac} of {}", names.segment(number)),
        StepKind::Neighbour => format!("{}: {ip} is at {mac}", neighbour_table(number)),
        StepKind::NeighbourUnknown => format!("no table says who has {ip} in {}", names.segment(number)),
        StepKind::NeighbourLearn => match step.flags {
            Step::KNOWN => format!("nb_local: {ip} is at {mac}, as known"),
            Step::MOVES => format!("nb_local: {ip} would move to {mac} at {port}"),
            _ => format!("nb_local: that {ip} is at {mac} would be learnt"),
        },
        StepKind::NeighbourPinned => format!("nb_static: {ip} is at {mac}, and not at the sender"),
        StepKind::NeighbourPinnedAfar => {
            format!("nb_remote: {ip} is pinned to {mac} behind another gateway, and is not at the sender")
        }
        StepKind::Answered => format!("the question for {ip} is answered here: {mac}"),
        StepKind::Kept => match number {
            StepKind::SAME_SIDE => format!("the owner of {ip} is on the asker's own side and hears it"),
            StepKind::OTHERS_ANSWER => format!("the answer for {ip} is another gateway's matter"),
            _ => format!("the announcement of {ip} says nothing new: far gateways get no copy"),
        },
        StepKind::Route => route(step, ip, names),
        StepKind::RouteVia => return via(step, names),
        StepKind::NoRoute => format!("routes: no route of {} matches {ip}", names.tenant(number)),
        StepKind::NodeAddress => format!("nodes: {ip} is a node of {} with {mac}", names.segment(number)),
        StepKind::ToCore => {
            let why = Counter::from_u8(number as u8).map_or("?", Counter::name);
            format!("tenants: to the tenant's namespace by {port} ({why})")
        }
        _ => return None,
    })
}

fn learnt(step: &Step, mac: &str, port: &str) -> String {
    match step.flags {
        Step::KNOWN => format!("mac_local: the source {mac} is known here"),
        Step::MOVES => format!("mac_local: the source {mac} would move here from {port}"),
        Step::PINNED => format!("mac_static: the source {mac} is pinned here"),
        _ => format!("mac_local: the source {mac} would be learnt here"),
    }
}

fn far(vtep: IpBytes, names: &dyn Names) -> String {
    names.gateway(ip_from_bytes(vtep))
}

fn neighbour_table(number: u32) -> &'static str {
    match number {
        StepKind::STATIC => "nb_static",
        StepKind::LOCAL => "nb_local",
        _ => "nb_remote",
    }
}

fn route(step: &Step, ip: IpAddr, names: &dyn Names) -> String {
    let kind = match RouteKind::from_u8(step.number as u8) {
        Some(RouteKind::Own) => "an address of this gateway",
        Some(RouteKind::Connected) => "a subnet here",
        Some(RouteKind::Remote) => "behind another gateway",
        Some(RouteKind::Exit) => "out of the overlay",
        Some(RouteKind::Node) => "a node",
        Some(RouteKind::Blackhole) => "nowhere",
        None => "of no known kind",
    };
    let origin = match RouteOrigin::from_u8(step.flags as u8) {
        Some(RouteOrigin::Plan) => "the document",
        Some(RouteOrigin::Evpn) => "EVPN",
        Some(RouteOrigin::Bgp) => "BGP",
        None => "nobody known",
    };
    let tenant = names.tenant(step.port.ifindex);
    match names.route(step.port.ifindex, ip) {
        Some(prefix) => format!("routes: {prefix} of {tenant} matches {ip}: {kind}, from {origin}"),
        None => format!("routes: a route of {tenant} matches {ip}: {kind}, from {origin}"),
    }
}

fn via(step: &Step, names: &dyn Names) -> Option<String> {
    let router = mac(step.mac);
    match RouteKind::from_u8(step.flags as u8)? {
        RouteKind::Connected => Some(format!("it leads into {}", names.segment(step.number))),
        RouteKind::Remote => {
            Some(format!("it leads to {} by L3VNI {}, router {router}", far(step.ip, names), step.number))
        }
        RouteKind::Node => Some(format!("it leads to the node device {}", names.port(step.port))),
        _ => None,
    }
}

fn reason(number: u8) -> &'static str {
    DropReason::from_u8(number).map_or("unknown", DropReason::name)
}

fn ending(verdict: &Verdict, names: &dyn Names) -> String {
    match verdict {
        Verdict::None => "the programs decided nothing: none of their business".to_owned(),
        Verdict::Pass => "handed to the kernel".to_owned(),
        Verdict::Drop(number) => format!("dropped: {}", reason(*number)),
        Verdict::Consumed => "ends here, on purpose".to_owned(),
        Verdict::Port(port) => format!("goes out by {}", names.port(*port)),
        Verdict::Vtep { vni, vtep } => format!("goes to {} with VNI {vni}", far(*vtep, names)),
        Verdict::Flooded { copies } => format!("copied to {copies} receivers"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lab;

    impl Names for Lab {
        fn port(&self, port: PortKey) -> String {
            numbered(port, "eth1".to_owned())
        }
        fn segment(&self, _: u32) -> String {
            "flat".to_owned()
        }
        fn gateway(&self, vtep: IpAddr) -> String {
            format!("gw-b ({vtep})")
        }
        fn route(&self, _: u32, _: IpAddr) -> Option<String> {
            Some("10.9.0.0/16".to_owned())
        }
    }

    const HOST: MacBytes = [2, 0, 0, 0, 0, 0x12];

    fn step(kind: StepKind) -> Step {
        let vtep = watari_abi::ip_bytes("10.255.0.2".parse().unwrap());
        Step { kind: kind as u32, number: 3, port: PortKey::vlan(7, 900), mac: HOST, flags: 0, ip: vtep }
    }

    #[test]
    fn known_unicast_to_a_far_gateway_in_words() {
        let vtep = watari_abi::ip_bytes("10.255.0.2".parse().unwrap());
        let steps =
            [StepKind::Attachment, StepKind::Learn, StepKind::MacRemote, StepKind::OwnEncap].map(step);
        let lines = explain(&steps, &Verdict::Vtep { vni: 1000, vtep }, &Lab);
        assert_eq!(
            lines,
            [
                "ports: eth1 VLAN 900 is an attachment of flat",
                "mac_local: the source 02:00:00:00:00:12 would be learnt here",
                "mac_remote: 02:00:00:00:00:12 is behind gw-b (10.255.0.2), sequence 3",
                "own encapsulation to gw-b (10.255.0.2), VNI 3, leaves by eth1 VLAN 900 to 02:00:00:00:00:12",
                "goes to gw-b (10.255.0.2) with VNI 1000",
            ]
        );
    }

    #[test]
    fn routes_and_drops_in_words() {
        let to = watari_abi::ip_bytes("10.9.1.1".parse().unwrap());
        let route = Step { ip: to, flags: RouteOrigin::Evpn as u16, ..step(StepKind::Route) };
        let via = Step { flags: RouteKind::Remote as u16, number: 5001, ..step(StepKind::RouteVia) };
        let lines = explain(&[route, via], &Verdict::Drop(DropReason::MeshToMesh as u8), &Lab);
        assert_eq!(
            lines,
            [
                "routes: 10.9.0.0/16 of tenant 7 matches 10.9.1.1: behind another gateway, from EVPN",
                "it leads to gw-b (10.255.0.2) by L3VNI 5001, router 02:00:00:00:00:12",
                "dropped: mesh-to-mesh",
            ]
        );
    }

    #[test]
    fn every_kind_of_step_has_words() {
        for number in 1.. {
            let Some(kind) = StepKind::from_u32(number) else { break };
            let step = Step { flags: 2, ..step(kind) };
            assert!(sentence(&step, &Numbers).is_some_and(|words| !words.is_empty()), "{kind:?}");
        }
    }

    #[test]
    fn tags_are_named() {
        assert_eq!(Numbers.port(PortKey::untagged(4)), "device 4");
        assert_eq!(Numbers.port(PortKey::qinq(4, 10, 20)), "device 4 S-VLAN 10 C-VLAN 20");
    }
}
