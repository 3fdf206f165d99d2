//! The paths that Watari is measured against.
//!
//! ```text
//! plain         routed: host 10.10.1.2 ─ gateway 198.18.0.1 ─ gateway 198.18.0.2 ─ host 10.10.2.2
//! bridge-vxlan  br0 + vxlan 100, static entries: what EVPN would have written; no netfilter on bridges
//! ovs           two bridges of the user-space datapath: br-int with the VXLAN port, br-phy as its underlay
//! ```

use anyhow::{Context as _, Result};
use netns_tests::Ns;
use netns_tests::ovs::Ovs;

use crate::wires::{FLAT_B, Held, L2_MTU, LAN_A, LAN_B, Path, ROUTED_B, WAN_A, WAN_B, Wires};

pub(crate) fn plain(wires: Wires) -> Result<Path> {
    wires.wan_addresses()?;
    wires.routed_hosts(1500)?;
    wires.gw_a.route(LAN_B, WAN_B)?;
    wires.gw_b.route(LAN_A, WAN_A)?;
    Ok(wires.standing("plain", ROUTED_B, Held::default()))
}

pub(crate) fn bridge_vxlan(wires: Wires) -> Result<Path> {
    wires.wan_addresses()?;
    wires.flat_hosts(L2_MTU)?;
    let ends = [(&wires.gw_a, WAN_A, WAN_B, &wires.host_b), (&wires.gw_b, WAN_B, WAN_A, &wires.host_a)];
    for (gateway, own, far, far_host) in ends {
        gateway.ip(&format!(
            "link add vx0 mtu {L2_MTU} type vxlan id 100 local {own} dstport 4789 nolearning"
        ))?;
        gateway.bridge("br0", &["lan0", "vx0"])?;
        gateway.ip("link set vx0 type bridge_slave learning off")?;
        gateway.ip("link set vx0 up")?;
        let mac = mac(far_host, "eth0")?;
        for entry in [
            format!("append 00:00:00:00:00:00 dev vx0 dst {far}"),
            format!("add {mac} dev vx0 dst {far}"),
            format!("add {mac} dev vx0 master static"),
        ] {
            gateway.exec(&format!("bridge fdb {entry}"))?;
        }
    }
    Ok(wires.standing("bridge-vxlan", FLAT_B, Held::default()))
}

pub(crate) fn ovs(wires: Wires) -> Result<Path> {
    wires.flat_hosts(L2_MTU)?;
    let mut held = Held::default();
    for (gateway, own, far) in [(&wires.gw_a, WAN_A, WAN_B), (&wires.gw_b, WAN_B, WAN_A)] {
        // AF_PACKET without vnet headers: full checksums, no super-packets.
        gateway.offload("wan0", "tx off tso off gso off gro off")?;
        let hwaddr = mac(gateway, "wan0")?;
        let ovs = Ovs::start(gateway)?;
        ovs.vsctl("add-br br-phy -- set bridge br-phy datapath_type=netdev -- add-port br-phy wan0")?;
        ovs.vsctl(&format!("set bridge br-phy other_config:hwaddr=\"{hwaddr}\""))?;
        gateway.address("br-phy", &[&format!("{own}/24")])?;
        gateway.ip("link set br-phy up")?;
        ovs.vsctl(
            "add-br br-int -- set bridge br-int datapath_type=netdev -- add-port br-int lan0 \
             -- set interface lan0 ofport_request=1",
        )?;
        ovs.vsctl(&format!(
            "add-port br-int vx0 -- set interface vx0 type=vxlan options:remote_ip={far} \
             options:local_ip={own} options:key=100 ofport_request=2"
        ))
        .context("the VXLAN port")?;
        held.others.push(Box::new(ovs));
    }
    Ok(wires.standing("ovs", FLAT_B, held))
}

pub(crate) fn mac(ns: &Ns, device: &str) -> Result<String> {
    Ok(ns.mac(device)?.map(|byte| format!("{byte:02x}")).join(":"))
}
