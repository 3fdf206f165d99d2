//! What a node is told: the parameters of its end, the command that joins it, and the same as user data
//! for cloud-init. Pure, from the desired state.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use watari_config::bootstrap::Enrol;
use watari_config::desired::probe_addresses;
use watari_config::document::{Gateway, Node, Segment};
use watari_config::validate::vxlan_overhead_bytes;
use watari_config::{Desired, Document, Name, WgKey};
use watari_node::enrol::{
    AGENT_PORT_DEFAULT, AgentParameters, EnrolReply, Pin, PublicKey, WireguardParameters,
};
use watari_planner::wanted::NODE_DEVICE_MTU;

/// Seconds between keepalives of a node: most NATs forget a UDP flow after 30 s.
const KEEPALIVE_S: u16 = 15;

/// The address and port at which nodes enrol, as seen from outside.
pub fn enrol_address(enrol: &Enrol, gateway: &Gateway) -> Option<SocketAddr> {
    let listen = enrol.listen;
    match enrol.public {
        Some(public) => Some(public),
        None if listen.ip().is_unspecified() => Some(SocketAddr::new(gateway.public_address?, listen.port())),
        None => Some(listen),
    }
}

/// MTU of a node in `segment`, bytes: that of the segment, or less where its own tunnel or one between gateways
/// carries less. Hosts find out what does not fit; a node need not.
pub fn node_mtu(document: &Document, segment: &Segment) -> u16 {
    let crosses = document.tunnels.values().filter_map(|tunnel| {
        let vtep = tunnel.between.iter().find_map(|end| document.gateways.get(end))?.vtep;
        Some(tunnel.assumed_mtu().saturating_sub(vxlan_overhead_bytes(vtep)))
    });
    crosses.chain([segment.mtu.get(), NODE_DEVICE_MTU]).min().unwrap_or(NODE_DEVICE_MTU)
}

/// What the node `name` is told when it enrols; `None` when the document no longer has what it takes.
pub fn reply(desired: &Desired, name: &Name, own_key: WgKey) -> Option<EnrolReply> {
    let node = desired.document().nodes.get(name)?;
    let segment = desired.document().segments.get(&node.segment)?;
    let prefixes = prefixes(desired, segment);
    Some(EnrolReply {
        node: name.to_string(),
        addresses: node.addresses.iter().map(|a| IpNet::from(*a)).collect(),
        mtu: node_mtu(desired.document(), segment),
        prefixes: prefixes.clone(),
        wireguard: wireguard(desired, segment, own_key, prefixes)?,
        lease_expires: node.expires.to_string(),
        agent: AgentParameters { port: AGENT_PORT_DEFAULT, controllers: controllers(desired, node) },
    })
}

fn wireguard(
    desired: &Desired,
    segment: &Segment,
    own_key: WgKey,
    allowed_ips: Vec<IpNet>,
) -> Option<WireguardParameters> {
    let port = desired.document().tenants.get(&segment.tenant)?.node_port;
    let endpoint = SocketAddr::new(desired.gateway()?.public_address?, port);
    let public_key = PublicKey::from_bytes(own_key.octets());
    Some(WireguardParameters { public_key, endpoint, keepalive_s: KEEPALIVE_S, allowed_ips })
}

/// What lies behind the gateway for a node: the tenant's subnets, its exits and static routes, and what
/// campus routers may tell. A default route is not among it: a node keeps its own way to the world.
fn prefixes(desired: &Desired, segment: &Segment) -> Vec<IpNet> {
    let document = desired.document();
    let tenant = &segment.tenant;
    let segments = document.segments.values().filter(|s| s.tenant == *tenant);
    let subnets = segments.flat_map(|s| s.subnets.iter().copied());
    let exits = document.exits.values().filter(|e| e.tenant == *tenant);
    let links = exits.flat_map(|e| e.addresses.iter().map(IpNet::trunc));
    let routes = document.routes.values().filter(|r| r.tenant.as_ref() == Some(tenant)).map(|r| r.prefix);
    let peers = document.peers.values().filter(|p| document.exits[&p.exit].tenant == *tenant);
    let told = peers.flat_map(|p| p.accept.iter().copied());
    let all: BTreeSet<IpNet> = subnets.chain(links).chain(routes).chain(told).collect();
    let own: Vec<IpNet> = all.into_iter().filter(|net| net.prefix_len() > 0).collect();
    IpNet::aggregate(&own)
}

/// The probe addresses of all gateways in the node's segment: who may talk to its agent.
fn controllers(desired: &Desired, node: &Node) -> Vec<IpAddr> {
    let document = desired.document();
    document.gateways.keys().flat_map(|g| probe_addresses(document, g, &node.segment)).collect()
}

/// The command that makes a machine the node.
pub fn join_command(enrol: SocketAddr, token: &str, pin: &Pin) -> String {
    format!("watari-node join https://{enrol} --token {token} --pin {pin}")
}

/// The same for cloud-init (`#cloud-config`). Of secrets it carries the one-shot token alone.
pub fn cloud_init(name: &Name, enrol: SocketAddr, token: &str, pin: &Pin) -> String {
    format!(
        "#cloud-config\n\
         # Makes this machine the node {name}. The image must have watari-node; the token works once.\n\
         runcmd:\n  - [watari-node, join, \"https://{enrol}\", --token, \"{token}\", --pin, \"{pin}\"]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::samples;

    fn own_key() -> WgKey {
        "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=".parse().unwrap()
    }

    #[test]
    fn a_node_is_told_all_it_needs_and_the_reply_is_within_its_limits() {
        let desired = samples::with_node(None, Some(samples::KEY));
        let told = reply(&desired, &"gpu-1".parse().unwrap(), own_key()).unwrap();
        told.check().unwrap();
        assert_eq!(told.wireguard.endpoint.to_string(), "203.0.113.1:51900");
        assert_eq!(told.mtu, 1370);
        let prefixes: Vec<String> = told.prefixes.iter().map(ToString::to_string).collect();
        assert!(prefixes.contains(&"10.10.0.0/24".to_owned()), "{prefixes:?}");
        assert!(prefixes.contains(&"172.16.0.0/12".to_owned()), "{prefixes:?}");
        let controllers: Vec<String> = told.agent.controllers.iter().map(ToString::to_string).collect();
        assert_eq!(controllers, ["10.10.0.129", "fd00:10::a:1", "10.10.0.193", "fd00:10::b:1"]);
        assert_eq!(reply(&desired, &"nobody".parse().unwrap(), own_key()), None);
    }

    #[test]
    fn user_data_is_yaml_and_carries_the_token_and_no_other_secret() {
        let (token, pin) = ("0123abcd", Pin::of_certificate(b"certificate"));
        let text = cloud_init(&"gpu-1".parse().unwrap(), "192.0.2.1:7443".parse().unwrap(), token, &pin);
        assert!(text.starts_with("#cloud-config\n"));
        let tree = watari_config::parse_text(&text).unwrap();
        let command = &tree["runcmd"][0];
        assert_eq!(command[2], "https://192.0.2.1:7443");
        assert_eq!((command[4].as_str(), command[6].as_str()), (Some(token), Some(pin.to_string().as_str())));
        assert_eq!(text.matches(token).count(), 1);
        assert!(!text.to_lowercase().contains("key"), "{text}");
    }

    #[test]
    fn an_unspecified_listener_is_reached_at_the_public_address() {
        let head = samples::head();
        let gateway = head.desired.gateway().unwrap();
        let mut enrol = Enrol { listen: "0.0.0.0:7443".parse().unwrap(), public: None };
        let told = |enrol: &Enrol| enrol_address(enrol, gateway).unwrap().to_string();
        assert_eq!(told(&enrol), "203.0.113.1:7443");
        enrol.public = Some("192.0.2.9:443".parse().unwrap());
        assert_eq!(told(&enrol), "192.0.2.9:443");
    }
}
