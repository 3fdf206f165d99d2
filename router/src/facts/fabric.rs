//! The fabric as the facts see it: who we are, which VNIs mean what here, and the numbers of EVPN.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use watari_bgp::community::RouteTarget;
use watari_bgp::types::{Asn, InstanceId, MacAddr, Rd};
use watari_config::{Desired, Name, Vni};

/// The table of the fabric's EVPN routes. A tenant's unicast routes are in the instance of its L3VNI.
pub const EVPN: InstanceId = InstanceId(0);

/// The instance of a tenant.
pub fn tenant_instance(l3vni: Vni) -> InstanceId {
    InstanceId(l3vni.get())
}

/// What the facts need of the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fabric {
    /// Our VTEP address.
    pub vtep: IpAddr,
    /// Our BGP identifier, administrator of our route distinguishers (RFC 7432 section 7.9).
    pub identifier: Ipv4Addr,
    /// Our AS number.
    pub asn: u32,
    /// Our Router's MAC.
    pub router_mac: MacAddr,
    /// VTEPs at the far ends of our tunnels.
    pub far: BTreeSet<IpAddr>,
    /// Segments that are present here: VNI → L3VNI of the tenant.
    pub segments: BTreeMap<Vni, Vni>,
    /// Nanoseconds without a frame after which a station of each of these segments is forgotten.
    pub ages_ns: BTreeMap<Vni, u64>,
    /// Tenants that are present here: L3VNI → name.
    pub tenants: BTreeMap<Vni, Name>,
    /// Route distinguisher of each VNI.
    rds: BTreeMap<Vni, Rd>,
}

impl Fabric {
    /// The fabric as `desired` has it; `None` until this gateway has an object of its own.
    pub fn new(desired: &Desired) -> Option<Self> {
        let gateway = desired.gateway()?;
        let identifier = gateway.bgp_identifier()?;
        let document = desired.document();
        let segments: BTreeMap<Vni, Vni> =
            desired.segments().map(|(_, s)| (s.vni, document.tenants[&s.tenant].l3vni)).collect();
        let tenants = desired.tenants().map(|(name, t)| (t.l3vni, name.clone())).collect();
        let all = document.segments.values().map(|s| s.vni).chain(document.tenants.values().map(|t| t.l3vni));
        let router_mac = watari_config::desired::router_mac(gateway.vtep);
        Some(Self {
            vtep: gateway.vtep,
            identifier,
            asn: gateway.asn.get(),
            router_mac: MacAddr(router_mac.octets()),
            far: desired.tunnels().map(|(_, _, _, gateway)| gateway.vtep).collect(),
            ages_ns: desired
                .segments()
                .map(|(_, s)| (s.vni, u64::from(s.mac_age_s) * 1_000_000_000))
                .collect(),
            segments,
            tenants,
            rds: distinguishers(identifier, all),
        })
    }

    /// The route distinguisher of a VNI of the document (RFC 7432 section 7.9: our identifier and a number).
    pub fn rd(&self, vni: Vni) -> Rd {
        self.rds.get(&vni).copied().unwrap_or_else(|| Rd::from_ip(self.identifier, 0))
    }

    /// The route target of a VNI (RFC 8365 section 5.1.2.1), with the low 16 bits of the AS number, since
    /// a four-octet one would leave no room for a VNI.
    pub fn route_target(&self, vni: Vni) -> RouteTarget {
        RouteTarget::new(Asn(self.asn & 0xffff), vni.get())
    }
}

/// A VNI has 24 bits and the number of a distinguisher 16: where two VNIs meet, the higher one steps on.
fn distinguishers(identifier: Ipv4Addr, vnis: impl Iterator<Item = Vni>) -> BTreeMap<Vni, Rd> {
    let mut sorted: Vec<Vni> = vnis.collect();
    sorted.sort();
    let mut taken = BTreeSet::new();
    let mut rds = BTreeMap::new();
    for vni in sorted {
        let mut number = (vni.get() & 0xffff) as u16;
        while !taken.insert(number) {
            number = number.wrapping_add(1);
        }
        rds.insert(vni, Rd::from_ip(identifier, number));
    }
    rds
}

/// The VNI that a route target of any AS stands for: the low 24 bits of a two-octet-AS target. Gateways of
/// different AS numbers derive different targets for one VNI, and import each other's all the same.
pub fn target_vni(target: RouteTarget) -> Option<Vni> {
    match target.community().0 {
        [0x00, 0x02, _, _, 0, a, b, c] => Vni::new(u32::from_be_bytes([0, a, b, c])).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_vnis_that_meet_in_16_bits_have_different_distinguishers() {
        let vnis = [1000, 66_536, 1001].map(|v| Vni::new(v).unwrap());
        let rds = distinguishers(Ipv4Addr::new(10, 0, 0, 1), vnis.into_iter());
        let different: std::collections::BTreeSet<_> = rds.values().collect();
        assert_eq!(different.len(), 3);
        assert_eq!(rds[&vnis[0]].to_string(), "10.0.0.1:1000");
    }

    #[test]
    fn a_target_of_another_as_stands_for_the_same_vni() {
        let vni = Vni::new(70_000).unwrap();
        assert_eq!(target_vni(RouteTarget::new(Asn(65_001), 70_000)), Some(vni));
        assert_eq!(target_vni("192.0.2.1:5".parse().unwrap()), None);
    }
}
