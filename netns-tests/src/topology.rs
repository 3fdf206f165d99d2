//! Two sites and a cloud: the drawing that the demo and most tests share.
//!
//! ```text
//!  site A                                                                        site B
//!
//!  host-a ─── VLAN 100 ─┐                                        ┌─ VLAN 200 ─── host-b
//!  .11                  ├─[switch-a]═ trunk0              trunk0 ═[switch-b]      .12
//!  server ─[campus]─ 300┘             │                        │
//!  192.0.2.10                      [gw-a]═ trunk1 ═[sinet]═ trunk1 ═[gw-b]
//!  2001:db8:2::10                     │          VLAN 900         │
//!                                  uplink                      uplink
//!                                198.18.1.2                  198.18.2.2
//!                                     └───────[wan, routes]───────┘
//!                                                   │ 198.18.3.1
//!                                             eth0 [cloud] 198.18.3.2
//!
//!  the flat network: 10.20.0.0/24 and fd20::/64, gateway .1, VNI 1000, in tenant lab (L3VNI 5000)
//!  campus link, VLAN 300: 10.30.0.1 [gw-a] ─ 10.30.0.2 [campus], fd30::1 ─ fd30::2, AS 65100 ─ 65001
//!  direct tunnel, VLAN 900: 10.90.0.1 [gw-a] ─ 10.90.0.2 [gw-b];  VTEPs 10.255.0.1 and 10.255.0.2
//! ```
//!
//! `═` carries 802.1Q tags. The hosts and the campus router tag by themselves ([`crate::tagged`]); the
//! switches and the L2VPN are bridges that pass tagged frames as they are. The WAN is a router, its MTU
//! 1500; every leg is a subnet of its own. host-a, host-b and the cloud's node are to share one subnet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use serde_json::{Value, json};
use watari_dataplane::HostTags;

use crate::Ns;
use crate::links::veth;
use crate::tagged::Tagged;

/// The drawing at the head of this file, for printing.
#[must_use]
pub fn drawing() -> String {
    let source = include_str!("topology.rs").lines();
    let inside = source.skip_while(|line| !line.contains("```text")).skip(1);
    let lines = inside.take_while(|line| !line.contains("```"));
    lines.map(|line| line.trim_start_matches("//!")).collect::<Vec<_>>().join("\n")
}

/// MTU of the flat network: what fits WireGuard over a WAN of 1500 bytes, and VXLAN within.
pub const SEGMENT_MTU: u16 = 1370;
/// Host A in the flat network.
pub const HOST_A: (Ipv4Addr, Ipv6Addr) = flat(0x0b, 11);
/// Host B in the flat network.
pub const HOST_B: (Ipv4Addr, Ipv6Addr) = flat(0x0c, 12);
/// The anycast gateway of the flat network.
pub const GATEWAY: (Ipv4Addr, Ipv6Addr) = flat(1, 1);
/// The server behind the campus router.
pub const SERVER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(192, 0, 2, 10), Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10));
/// Gateway A's address on the WAN.
pub const GW_A_PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
/// Gateway B's address on the WAN.
pub const GW_B_PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
/// The cloud machine's address on the WAN.
pub const CLOUD: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 2);
/// The underlay address of gateway A's VTEP.
pub const VTEP_A: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
/// The underlay address of gateway B's VTEP.
pub const VTEP_B: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
/// Gateway A's VLAN of the flat network.
pub const VID_A: u16 = 100;
/// Gateway B's VLAN of the flat network.
pub const VID_B: u16 = 200;
/// The VLAN between gateway A and the campus router.
pub const VID_CAMPUS: u16 = 300;

const fn flat(v6: u16, v4: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 20, 0, v4), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, v6))
}

/// One site: what hangs on its trunk.
#[derive(Debug)]
pub struct Site {
    /// A host in the flat network, on a VLAN of its own.
    pub host: Ns,
    /// The switch between hosts and gateway.
    pub switch: Ns,
    /// The gateway's machine: `trunk0`, `trunk1`, `uplink`.
    pub gateway: Ns,
    tags: Vec<Tagged>,
    ports: usize,
    /// VLANs as drawn, which have no address in common: the host's, and the campus router's at site A.
    apart: usize,
}

/// The whole drawing, without daemons.
#[derive(Debug)]
pub struct Topology {
    /// Site A.
    pub a: Site,
    /// Site B.
    pub b: Site,
    /// The campus router's machine at site A; which software runs there, the test decides.
    pub campus: Ns,
    /// The server behind it.
    pub server: Ns,
    /// The L2VPN between the sites.
    pub sinet: Ns,
    /// The routed WAN.
    pub wan: Ns,
    /// A cloud machine with nothing but an IP path to the gateways' public side.
    pub cloud: Ns,
}

impl Topology {
    /// Builds it.
    ///
    /// # Errors
    /// Without root, or when the kernel refuses something.
    pub fn build() -> Result<Self> {
        let mut a = site("a", VID_A, HOST_A)?;
        let b = site("b", VID_B, HOST_B)?;
        let (campus, server) = campus(&mut a)?;
        let sinet = Ns::new("sinet")?;
        veth(&a.gateway, "trunk1", &sinet, "site-a")?;
        veth(&b.gateway, "trunk1", &sinet, "site-b")?;
        sinet.bridge("br0", &["site-a", "site-b"])?;
        let cloud = Ns::machine("cloud")?;
        let wan = wan(&a.gateway, &b.gateway, &cloud)?;
        Ok(Self { a, b, campus, server, sinet, wan, cloud })
    }

    /// Every namespace with what it is, for people who look around in a kept topology.
    #[must_use]
    pub fn namespaces(&self) -> Vec<&Ns> {
        vec![
            &self.a.host,
            &self.a.gateway,
            &self.campus,
            &self.server,
            &self.b.host,
            &self.b.gateway,
            &self.cloud,
            &self.a.switch,
            &self.b.switch,
            &self.sinet,
            &self.wan,
        ]
    }
}

impl Site {
    /// Puts another machine on a VLAN of this site's trunk; `interface` is its name there.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn plug(&mut self, ns: &Ns, interface: &str, tags: impl Into<HostTags>) -> Result<()> {
        self.plug_untagged(ns, interface)?;
        self.tags.push(Tagged::attach(ns, interface, tags)?);
        Ok(())
    }

    /// Puts another machine on this site's trunk, untagged.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn plug_untagged(&mut self, ns: &Ns, interface: &str) -> Result<()> {
        let port = format!("p{}", self.ports);
        veth(ns, interface, &self.switch, &port)?;
        self.switch.ip(&format!("link set {port} master br0"))?;
        if self.ports >= self.apart {
            // A real switch has an address table for each VLAN, the bridge has one for all: between VLANs of
            // one segment it would take the short way past the gateway. It floods instead.
            self.switch.ip("link set br0 type bridge ageing_time 0")?;
        }
        self.ports += 1;
        Ok(())
    }
}

fn site(letter: &str, vid: u16, host: (Ipv4Addr, Ipv6Addr)) -> Result<Site> {
    let switch = Ns::new(&format!("switch-{letter}"))?;
    let gateway = Ns::machine(&format!("gw-{letter}"))?;
    veth(&gateway, "trunk0", &switch, "gw")?;
    switch.bridge("br0", &["gw"])?;
    let (machine, apart) = (Ns::new(&format!("host-{letter}"))?, if letter == "a" { 2 } else { 1 });
    let mut site = Site { host: machine, switch, gateway, tags: vec![], ports: 0, apart };
    let ns = site.host.clone();
    site.plug(&ns, "eth0", vid)?;
    put_in_flat_network(&ns, "eth0", host)?;
    Ok(site)
}

/// Addresses of the flat network, its MTU, and its anycast gateway as default router.
///
/// # Errors
/// When the kernel refuses.
pub fn put_in_flat_network(ns: &Ns, interface: &str, host: (Ipv4Addr, Ipv6Addr)) -> Result<()> {
    ns.mtu(interface, u32::from(SEGMENT_MTU))?;
    ns.address(interface, &[&format!("{}/24", host.0), &format!("{}/64", host.1)])?;
    ns.route("default", &GATEWAY.0.to_string())?;
    ns.route("default", &GATEWAY.1.to_string())
}

fn campus(site: &mut Site) -> Result<(Ns, Ns)> {
    let (campus, server) = (Ns::new("campus")?, Ns::new("server")?);
    site.plug(&campus, "up0", VID_CAMPUS)?;
    campus.address("up0", &["10.30.0.2/30", "fd30::2/64"])?;
    veth(&campus, "lan0", &server, "eth0")?;
    campus.address("lan0", &["192.0.2.1/24", "2001:db8:2::1/64"])?;
    campus.forward()?;
    server.address("eth0", &["192.0.2.10/24", "2001:db8:2::10/64"])?;
    server.route("default", "192.0.2.1")?;
    server.route("default", "2001:db8:2::1")?;
    Ok((campus, server))
}

fn wan(gw_a: &Ns, gw_b: &Ns, cloud: &Ns) -> Result<Ns> {
    let wan = Ns::new("wan")?;
    wan.forward()?;
    for (number, ns, interface) in [(1, gw_a, "uplink"), (2, gw_b, "uplink"), (3, cloud, "eth0")] {
        let port = format!("w{number}");
        veth(ns, interface, &wan, &port)?;
        wan.address(&port, &[&format!("198.18.{number}.1/30"), &format!("fd18:{number}::1/64")])?;
        ns.address(interface, &[&format!("198.18.{number}.2/30"), &format!("fd18:{number}::2/64")])?;
        ns.route("default", &format!("198.18.{number}.1"))?;
        ns.route("default", &format!("fd18:{number}::1"))?;
    }
    Ok(wan)
}

/// Which tunnels join the two gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tunnel {
    /// WireGuard over the WAN.
    Wireguard,
    /// Plain VXLAN over VLAN 900 of the L2VPN.
    Direct,
}

/// The operator's document for this drawing: both gateways, their attachments, the campus exit with its
/// two peers, the pools, and the tunnels asked for, the first with the lowest preference number. `keys`
/// are the gateways' WireGuard public keys, A's first.
#[must_use]
pub fn document(tunnels: &[Tunnel], keys: [&str; 2]) -> Value {
    let gateway = |site: &str, vtep: Ipv4Addr, public: Ipv4Addr, key: &str| {
        json!({
            "site": site, "vtep": vtep, "asn": 65100, "uplink": "uplink",
            "trunks": ["trunk0", "trunk1"], "public_address": public, "wireguard_key": key,
        })
    };
    json!({
        "sites": { "a": {}, "b": {} },
        "gateways": {
            "gw-a": gateway("a", VTEP_A, GW_A_PUBLIC, keys[0]),
            "gw-b": gateway("b", VTEP_B, GW_B_PUBLIC, keys[1]),
        },
        "tenants": { "lab": { "l3vni": 5000 } },
        "segments": { "flat": {
            "tenant": "lab", "vni": 1000, "mtu": SEGMENT_MTU,
            "subnets": ["10.20.0.0/24", "fd20::/64"],
            "gateway": [GATEWAY.0.to_string(), GATEWAY.1.to_string()],
        } },
        "attachments": {
            "host-a": { "gateway": "gw-a", "segment": "flat", "vlan": { "trunk": "trunk0", "vid": VID_A } },
            "host-b": { "gateway": "gw-b", "segment": "flat", "vlan": { "trunk": "trunk0", "vid": VID_B } },
        },
        "tunnels": tunnel_objects(tunnels),
        "exits": { "campus": {
            "tenant": "lab", "gateway": "gw-a", "vlan": { "trunk": "trunk0", "vid": VID_CAMPUS },
            "addresses": ["10.30.0.1/30", "fd30::1/64"],
        } },
        "peers": {
            "campus4": {
                "exit": "campus", "address": "10.30.0.2", "asn": 65001,
                "accept": ["192.0.2.0/24"], "announce": ["10.20.0.0/24"],
            },
            "campus6": {
                "exit": "campus", "address": "fd30::2", "asn": 65001,
                "accept": ["2001:db8:2::/48"], "announce": ["fd20::/64"],
            },
        },
        "pools": { "flat-nodes": { "segment": "flat", "slices": {
            "gw-a": ["10.20.0.64/26", "fd20::a:0/112"],
            "gw-b": ["10.20.0.128/26", "fd20::b:0/112"],
        } } },
    })
}

fn tunnel_objects(tunnels: &[Tunnel]) -> Value {
    let mut objects = json!({});
    for (rank, tunnel) in tunnels.iter().enumerate() {
        let preference = 100 * (rank + 1);
        let end = |address: &str| json!({ "vlan": { "trunk": "trunk1", "vid": 900 }, "address": address });
        let (name, body) = match tunnel {
            Tunnel::Wireguard => (
                "ab-wg",
                json!({
                    "between": ["gw-a", "gw-b"], "mtu": 1420, "preference": preference,
                    "wireguard": { "endpoints": {
                        "gw-a": format!("{GW_A_PUBLIC}:51820"), "gw-b": format!("{GW_B_PUBLIC}:51820"),
                    } },
                }),
            ),
            Tunnel::Direct => (
                "ab-direct",
                json!({
                    "between": ["gw-a", "gw-b"], "mtu": 1500, "preference": preference,
                    "direct": { "ends": { "gw-a": end("10.90.0.1/30"), "gw-b": end("10.90.0.2/30") } },
                }),
            ),
        };
        objects[name] = body;
    }
    objects
}

/// Both addresses of a host.
#[must_use]
pub fn both(host: (Ipv4Addr, Ipv6Addr)) -> [IpAddr; 2] {
    [host.0.into(), host.1.into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 2] =
        ["XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=", "YGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk="];

    #[test]
    fn the_document_is_one_that_a_gateway_takes() {
        for tunnels in [&[][..], &[Tunnel::Direct], &[Tunnel::Wireguard, Tunnel::Direct]] {
            let read = watari_config::read_document(&document(tunnels, KEYS));
            let document = read.unwrap_or_else(|problems| panic!("{problems:#?}"));
            assert_eq!(document.tunnels.len(), tunnels.len());
        }
    }

    #[test]
    fn the_drawing_is_there() {
        assert!(drawing().contains("[wan, routes]") && !drawing().contains("//!"));
    }
}
