//! The flat network over a trusted wire: Watari beside plain forwarding, Linux bridge with kernel VXLAN, and
//! Open vSwitch in user space.

use anyhow::Result;

use crate::rounds::{self, Known, Suite};
use crate::wires::{Hosts, Path, Wires};
use crate::{Options, peers, watari};

const BOTH: &[Hosts] = &[Hosts::Tso, Hosts::TsoOff];

/// The suite.
pub(crate) const OVERLAY: Suite = Suite {
    name: "overlay",
    bases: &["plain", "bridge-vxlan"],
    paths: &[
        Known("plain", BOTH),
        Known("bridge-vxlan", BOTH),
        Known("ovs", &[Hosts::Bare]),
        Known("watari", BOTH),
    ],
    lacks: |_| None,
    stand,
};

fn stand(name: &str, wires: Wires, options: &Options) -> Result<Path> {
    match name {
        "plain" => peers::plain(wires),
        "bridge-vxlan" => peers::bridge_vxlan(wires),
        "ovs" => peers::ovs(wires),
        _ => watari::watari(wires, options.entries),
    }
}

/// What a reader must know of how it was run.
pub(crate) fn conditions(options: &Options) -> String {
    format!(
        "{}\novs: hosts without offloads\n\
         watari: {} stations announced by BGP in each gateway, brains running while their path is measured",
        rounds::conditions(options),
        options.entries,
    )
}
