//! The drawing that every path is built on, and a path that stands.
//!
//! ```text
//! [host-a] eth0 ── lan0 [gw-a] wan0 ── [wan: bridge] ── wan0 [gw-b] lan0 ── eth0 [host-b]
//! ```
//!
//! Wire mode: the WAN devices have TSO and UDP segmentation off, so that segments cross one by one, and the
//! receiving gateway has GRO on, as on a NIC; a super-packet handed through a veth would measure a memory
//! copy.

use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;
use netns_tests::links::veth;
use netns_tests::{Gateway, Ns};

/// What 50 bytes of VXLAN leave of a wire's 1500.
pub(crate) const L2_MTU: u32 = 1450;
/// The gateways on the WAN.
pub(crate) const WAN_A: &str = "198.18.0.1";
pub(crate) const WAN_B: &str = "198.18.0.2";
/// The hosts where the path is one flat network.
pub(crate) const FLAT_A: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 11);
pub(crate) const FLAT_B: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 12);

/// The hosts where each has a subnet of its own.
pub(crate) const LAN_A: &str = "10.10.1.0/24";
pub(crate) const LAN_B: &str = "10.10.2.0/24";
pub(crate) const ROUTED_B: Ipv4Addr = Ipv4Addr::new(10, 10, 2, 2);

/// How the hosts send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hosts {
    /// Super-packets (TSO, GSO), as the kernel has it by default.
    Tso,
    /// Packet by packet; the gateways merge what they receive (GRO on lan0), as a NIC would.
    TsoOff,
    /// Packet by packet, and nobody merges them: not the gateways on lan0 or wan0, nor the receiving host.
    Packets,
    /// Packet by packet with full checksums, nothing merged: for what reads raw frames.
    Bare,
}

impl Hosts {
    /// What follows the name of the path, after a slash.
    pub(crate) fn variant(self) -> Option<&'static str> {
        match self {
            Self::Tso | Self::Bare => None,
            Self::TsoOff => Some("tso-off"),
            Self::Packets => Some("packets"),
        }
    }
}

/// Five namespaces, wired.
pub(crate) struct Wires {
    pub(crate) host_a: Ns,
    pub(crate) gw_a: Ns,
    pub(crate) wan: Ns,
    pub(crate) gw_b: Ns,
    pub(crate) host_b: Ns,
}

impl Wires {
    pub(crate) fn new() -> Result<Self> {
        let wires = Self {
            host_a: Ns::new("host-a")?,
            gw_a: Ns::machine("gw-a")?,
            wan: Ns::new("wan")?,
            gw_b: Ns::machine("gw-b")?,
            host_b: Ns::new("host-b")?,
        };
        veth(&wires.host_a, "eth0", &wires.gw_a, "lan0")?;
        veth(&wires.host_b, "eth0", &wires.gw_b, "lan0")?;
        veth(&wires.gw_a, "wan0", &wires.wan, "wan-a")?;
        veth(&wires.gw_b, "wan0", &wires.wan, "wan-b")?;
        wires.wan.bridge("br0", &["wan-a", "wan-b"])?;
        for (ns, device) in
            [(&wires.gw_a, "wan0"), (&wires.gw_b, "wan0"), (&wires.wan, "wan-a"), (&wires.wan, "wan-b")]
        {
            ns.offload(device, "tso off tx-udp-segmentation off")?;
        }
        for gateway in [&wires.gw_a, &wires.gw_b] {
            gateway.offload("wan0", "gro on")?;
        }
        Ok(wires)
    }

    pub(crate) fn wan_addresses(&self) -> Result<()> {
        self.gw_a.address("wan0", &[&format!("{WAN_A}/24")])?;
        self.gw_b.address("wan0", &[&format!("{WAN_B}/24")])
    }

    /// Both hosts in one subnet, with the MTU that the encapsulation leaves.
    pub(crate) fn flat_hosts(&self, mtu: u32) -> Result<()> {
        for (host, address) in [(&self.host_a, FLAT_A), (&self.host_b, FLAT_B)] {
            host.mtu("eth0", mtu)?;
            host.address("eth0", &[&format!("{address}/16")])?;
        }
        Ok(())
    }

    /// A subnet for each host behind its gateway, which forwards; what joins the gateways is left to be done.
    pub(crate) fn routed_hosts(&self, mtu: u32) -> Result<()> {
        for (host, gateway, lan) in [(&self.host_a, &self.gw_a, 1), (&self.host_b, &self.gw_b, 2)] {
            host.mtu("eth0", mtu)?;
            host.address("eth0", &[&format!("10.10.{lan}.2/24")])?;
            host.route("default", &format!("10.10.{lan}.1"))?;
            gateway.address("lan0", &[&format!("10.10.{lan}.1/24")])?;
            gateway.forward()?;
        }
        Ok(())
    }

    /// The path that these wires have become.
    pub(crate) fn standing(self, name: &'static str, target: Ipv4Addr, held: Held) -> Path {
        Path { name, wires: self, target, held }
    }
}

/// What lives as long as a path, and ends before its namespaces.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) others: Vec<Box<dyn std::any::Any + Send + Sync>>,
}

/// One data path, standing.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) held: Held,
    pub(crate) wires: Wires,
    /// Host B's address.
    pub(crate) target: Ipv4Addr,
}

impl Path {
    /// Inodes of its five network namespaces.
    pub(crate) fn namespaces(&self) -> Result<Vec<u64>> {
        let Wires { host_a, gw_a, wan, gw_b, host_b } = &self.wires;
        let inode = |ns: &Ns| Ok(ns.net().metadata()?.ino());
        [host_a, gw_a, wan, gw_b, host_b].into_iter().map(inode).collect()
    }

    /// Sets how the hosts send.
    pub(crate) fn set_hosts(&self, hosts: Hosts) -> Result<()> {
        let (host, lan, wan) = match hosts {
            Hosts::Tso => ("tso on gso on", "gro off", "gro on"),
            Hosts::TsoOff => ("tso off gso off gro off", "gro on", "gro on"),
            Hosts::Packets => ("tso off gso off gro off", "gro off", "gro off"),
            Hosts::Bare => ("tx off tso off gso off gro off", "gro off", "gro off"),
        };
        for ns in [&self.wires.host_a, &self.wires.host_b] {
            ns.offload("eth0", host)?;
        }
        for ns in [&self.wires.gw_a, &self.wires.gw_b] {
            ns.offload("lan0", lan)?;
            ns.offload("wan0", wan)?;
        }
        Ok(())
    }
}
