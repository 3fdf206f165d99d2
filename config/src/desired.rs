//! The validated document seen from one gateway: complete, ordered, with a generation.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::document::{
    Attachment, Document, Exit, Gateway, Node, Peer, Pool, Route, Segment, StaticHost, Tunnel,
};
use crate::names::{Mac, Name};
use crate::read::Problem;
use crate::validate::validate;

/// A document that holds together, at one generation, for the gateway `gateway`.
///
/// It can only be made by [`Desired::new`], so whoever has one need not check references again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    generation: u64,
    gateway: Name,
    document: Document,
}

impl Gateway {
    /// Its BGP identifier (RFC 6286), also the administrator of its route distinguishers. Validation holds that there
    /// is one.
    pub fn bgp_identifier(&self) -> Option<Ipv4Addr> {
        match (self.router_id, self.vtep) {
            (Some(id), _) => Some(id),
            (None, IpAddr::V4(vtep)) => Some(vtep),
            (None, IpAddr::V6(_)) => None,
        }
    }
}

impl Desired {
    /// Validates `document` for the gateway `gateway` at `generation`.
    ///
    /// # Errors
    /// Every problem of the document, each with its path.
    pub fn new(document: Document, gateway: Name, generation: u64) -> Result<Self, Vec<Problem>> {
        validate(&document)?;
        Ok(Self { generation, gateway, document })
    }

    /// The number of the change that made it; grows by one with each.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The gateway it is seen from.
    pub fn gateway_name(&self) -> &Name {
        &self.gateway
    }

    /// The whole document, other gateways' objects too.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// This gateway's own object; none until the operator has written it.
    pub fn gateway(&self) -> Option<&Gateway> {
        self.document.gateways.get(&self.gateway)
    }

    /// The MAC that is this gateway's alone: Router's MAC of its routes (RFC 9135 section 4.1), source of its probes.
    pub fn own_mac(&self) -> Option<Mac> {
        self.gateway().map(|g| router_mac(g.vtep))
    }

    /// Attachments of this gateway.
    pub fn attachments(&self) -> impl Iterator<Item = (&Name, &Attachment)> {
        self.document.attachments.iter().filter(|(_, a)| a.gateway == self.gateway)
    }

    /// Exits of this gateway.
    pub fn exits(&self) -> impl Iterator<Item = (&Name, &Exit)> {
        self.document.exits.iter().filter(|(_, e)| e.gateway == self.gateway)
    }

    /// Hosts that are pinned to attachments of this gateway, each with its segment.
    pub fn static_hosts(&self) -> impl Iterator<Item = (&Segment, &StaticHost)> {
        let hosts = self.document.segments.values().flat_map(|s| s.static_hosts.iter().map(move |h| (s, h)));
        hosts.filter(|(_, host)| self.document.attachments[&host.attachment].gateway == self.gateway)
    }

    /// BGP neighbours on this gateway's exits.
    pub fn peers(&self) -> impl Iterator<Item = (&Name, &Peer, &Exit)> {
        self.document.peers.iter().filter_map(|(name, peer)| {
            let exit = &self.document.exits[&peer.exit];
            (exit.gateway == self.gateway).then_some((name, peer, exit))
        })
    }

    /// Static routes of this gateway.
    pub fn routes(&self) -> impl Iterator<Item = (&Name, &Route)> {
        self.document.routes.iter().filter(|(_, r)| r.gateway == self.gateway)
    }

    /// Nodes that this gateway serves.
    pub fn nodes(&self) -> impl Iterator<Item = (&Name, &Node)> {
        self.document.nodes.iter().filter(|(_, n)| n.gateway == self.gateway)
    }

    /// Tunnels that end here, each with the gateway at the far end.
    pub fn tunnels(&self) -> impl Iterator<Item = (&Name, &Tunnel, &Name, &Gateway)> {
        self.document.tunnels.iter().filter_map(|(name, tunnel)| {
            let far = tunnel.far(&self.gateway)?;
            Some((name, tunnel, far, &self.document.gateways[far]))
        })
    }

    /// Segments that are present here: with an attachment, a node, or a slice of a pool of this gateway.
    pub fn segments(&self) -> impl Iterator<Item = (&Name, &Segment)> {
        self.document.segments.iter().filter(|(name, _)| self.is_present(name))
    }

    fn is_present(&self, segment: &Name) -> bool {
        self.attachments().any(|(_, a)| a.segment == *segment)
            || self.nodes().any(|(_, n)| n.segment == *segment)
            || self.own_slices(segment).next().is_some()
    }

    /// Tenants that are present here: with a segment or an exit.
    pub fn tenants(&self) -> impl Iterator<Item = (&Name, &crate::document::Tenant)> {
        self.document.tenants.iter().filter(|(name, _)| {
            self.segments().any(|(_, s)| s.tenant == **name) || self.exits().any(|(_, e)| e.tenant == **name)
        })
    }

    /// This gateway's slices of the pools of `segment`.
    pub fn own_slices<'a>(&'a self, segment: &'a Name) -> impl Iterator<Item = IpNet> + 'a {
        let pools = self.document.pools.values().filter(move |p| p.segment == *segment);
        pools.filter_map(|p| p.slices.get(&self.gateway)).flatten().copied()
    }

    /// This gateway's own addresses in `segment`, for probes: the first host address of its slice, one of
    /// each family. An answer to the anycast address would go to the nearest gateway instead.
    pub fn probe_addresses(&self, segment: &Name) -> Vec<IpAddr> {
        probe_addresses(&self.document, &self.gateway, segment)
    }
}

/// The probe addresses of `gateway` in `segment`.
pub fn probe_addresses(document: &Document, gateway: &Name, segment: &Name) -> Vec<IpAddr> {
    let pools = document.pools.values().filter(|p| p.segment == *segment);
    let slices = pools.filter_map(|p: &Pool| p.slices.get(gateway)).flatten();
    let (mut v4, mut v6) = (None, None);
    for slice in slices {
        match slice {
            IpNet::V4(_) if v4.is_none() => v4 = Some(first_address(slice)),
            IpNet::V6(_) if v6.is_none() => v6 = Some(first_address(slice)),
            _ => {}
        }
    }
    v4.into_iter().chain(v6).collect()
}

/// The first address of a slice that a host may have: a slice is a part of a subnet, so its own lowest
/// address is an ordinary one; it is left out all the same, so that a slice that begins with its subnet works.
fn first_address(slice: &IpNet) -> IpAddr {
    match slice {
        IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + 1).into()),
        IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + 1).into()),
    }
}

/// The unique MAC of the gateway with VTEP `vtep`, locally administered: made of the low three octets of an IPv4
/// address, or of a hash of an IPv6 one, whose low octets often are the same at every site. Validation holds it
/// unique.
pub fn router_mac(vtep: IpAddr) -> Mac {
    let octets = match vtep {
        IpAddr::V4(v4) => {
            let [_, b, c, d] = v4.octets();
            [0x02, 0x57, 0x54 ^ 0x80, b, c, d]
        }
        IpAddr::V6(v6) => {
            // FNV-1a, its halves folded into one.
            let step = |hash: u64, octet: u8| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
            let hash = v6.octets().into_iter().fold(0xcbf2_9ce4_8422_2325, step);
            let [a, b, c, d] = ((hash >> 32) as u32 ^ hash as u32).to_be_bytes();
            [0x02, 0x56, a, b, c, d]
        }
    };
    Mac::new(octets).expect("an individual address")
}

/// Names of devices, namespaces and pins, made of the names of the objects they serve.
pub mod device {
    use super::Name;

    /// The collect-metadata VXLAN device of a port.
    pub fn vxlan(port: u16) -> String {
        format!("wtvx{port}")
    }

    /// The WireGuard device of a tunnel.
    pub fn wireguard(tunnel: &Name) -> String {
        tunnel.device("wtwg", "")
    }

    /// The TAP beside the WireGuard device of a tunnel, by which VXLAN goes to an engine in user space whole.
    pub fn overlay(tunnel: &Name) -> String {
        tunnel.device("wto", "")
    }

    /// Whether a device has the name of such a TAP.
    pub fn is_overlay(device: &str) -> bool {
        device.starts_with("wto")
    }

    /// Both ends of the veth of a direct tunnel: the kernel's, and the one cross-connected to the VLAN.
    pub fn direct(tunnel: &Name) -> (String, String) {
        (tunnel.device("wtd", ""), tunnel.device("wtd", "p"))
    }

    /// The core port of a tenant: the end in the gateway's namespace. The other is [`CORE_INNER`].
    pub fn core(tenant: &Name) -> String {
        tenant.device("wtc", "")
    }

    /// The core port's end in the tenant's namespace.
    pub const CORE_INNER: &str = "wt-core";

    /// Both ends of the veth of an exit: the one cross-connected to the VLAN, and that in the tenant's namespace.
    pub fn exit(exit: &Name) -> (String, String) {
        (exit.device("wtx", "p"), exit.device("wtx", ""))
    }

    /// The node-facing WireGuard device of a tenant.
    pub fn node(tenant: &Name) -> String {
        tenant.device("wtn", "")
    }

    /// The network namespace of a tenant at a gateway, below `/run/netns`. No name of an object has a dot,
    /// so the namespaces of one gateway are found by their prefix.
    pub fn namespace(gateway: &Name, tenant: &Name) -> String {
        format!("wt-{gateway}.{tenant}")
    }
}
