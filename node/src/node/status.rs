//! What a node is and whether it works, from what is read back.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::state::{Identity, StateDir};
use super::{NodeError, SESSION_LIMIT};
use crate::agent::call_local;
use crate::host::device::{self, Engine};
use crate::host::netlink::{Link, Netlink};
use crate::host::routes::RouteWish;

/// A node as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// True when nothing is wrong.
    pub healthy: bool,
    /// What is wrong, each in one sentence.
    pub faults: Vec<String>,
    /// The tunnel device.
    pub interface: String,
    /// Who carries its packets, if it is there.
    pub engine: Option<Engine>,
    /// Its MTU in bytes, if it is there.
    pub mtu: Option<u32>,
    /// The node's overlay addresses.
    pub addresses: Vec<IpNet>,
    /// What goes into the tunnel.
    pub prefixes: Vec<IpNet>,
    /// The gateway's public side.
    pub endpoint: SocketAddr,
    /// Seconds since the last handshake with it, if there was one.
    pub handshake_age_s: Option<u64>,
    /// Process id of the agent, if it runs.
    pub agent_pid: Option<i32>,
    /// The lease at enrolment, RFC 3339; the gateway knows the present one.
    pub lease_expires: String,
}

/// Reads everything back.
pub(super) async fn read(dir: &StateDir, identity: &Identity) -> Result<NodeStatus, NodeError> {
    let netlink = Netlink::open()?;
    let reply = &identity.reply;
    let mut faults = Vec::new();
    let link = netlink.link(&identity.interface).await?.filter(|l| l.alias == identity.alias());
    let engine = link.as_ref().map(|l| if l.wireguard { Engine::Kernel } else { Engine::Link });
    match &link {
        None => faults.push(format!("the device {} is not there", identity.interface)),
        Some(link) => check_link(&netlink, link, identity, &mut faults).await?,
    }
    let age = engine.and_then(|engine| handshake_age(dir, identity, engine, &mut faults));
    if link.is_some() && age.is_none_or(|age| age > SESSION_LIMIT) {
        faults.push("there is no session with the gateway".into());
    }
    let agent_pid = dir.agent_process()?.flatten().map(nix::unistd::Pid::as_raw);
    let socket = dir.agent_socket();
    match tokio::task::spawn_blocking(move || call_local(&socket)).await {
        Ok(Ok(_)) => {}
        _ => faults.push("the agent does not answer".into()),
    }
    Ok(NodeStatus {
        node: reply.node.clone(),
        healthy: faults.is_empty(),
        faults,
        interface: identity.interface.clone(),
        engine,
        mtu: link.map(|l| l.mtu),
        addresses: reply.addresses.clone(),
        prefixes: reply.prefixes.clone(),
        endpoint: reply.wireguard.endpoint,
        handshake_age_s: age.map(|age| age.as_secs()),
        agent_pid,
        lease_expires: reply.lease_expires.clone(),
    })
}

fn handshake_age(
    dir: &StateDir,
    identity: &Identity,
    engine: Engine,
    faults: &mut Vec<String>,
) -> Option<Duration> {
    let paths = dir.link_paths(&identity.link_binary);
    device::handshake_age(engine, &identity.interface, &paths).unwrap_or_else(|error| {
        faults.push(error.to_string());
        None
    })
}

async fn check_link(
    netlink: &Netlink,
    link: &Link,
    identity: &Identity,
    faults: &mut Vec<String>,
) -> Result<(), NodeError> {
    let reply = &identity.reply;
    if !link.up {
        faults.push(format!("the device {} is down", identity.interface));
    }
    if link.mtu != u32::from(reply.mtu) {
        faults.push(format!("the device has MTU {}, not {}", link.mtu, reply.mtu));
    }
    let present = netlink.addresses(link.index).await?;
    let missing = reply.addresses.iter().filter(|a| !present.contains(a));
    faults.extend(missing.map(|a| format!("the address {a} is not there")));
    let endpoint: IpAddr = reply.wireguard.endpoint.ip();
    let routes = netlink.routes().await?;
    let path = routes.iter().find(|r| r.destination == IpNet::from(endpoint));
    let wish = RouteWish {
        device: link.index,
        prefixes: &reply.prefixes,
        addresses: &reply.addresses,
        endpoint,
        path,
    };
    match wish.changes(&routes) {
        Ok(changes) => {
            faults.extend(changes.add.iter().map(|r| format!("the route to {} is not there", r.destination)));
        }
        Err(error) => faults.push(error.to_string()),
    }
    Ok(())
}

impl NodeStatus {
    /// For people: one line per fact.
    pub fn render(&self) -> String {
        let join = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let engine = match self.engine {
            None => "absent".to_owned(),
            Some(Engine::Kernel) => "kernel WireGuard".to_owned(),
            Some(Engine::Link) => "watari-link".to_owned(),
        };
        let age = self.handshake_age_s.map_or("never".to_owned(), |s| format!("{s} s ago"));
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.add_row(["node", &self.node]);
        table.add_row(["state", if self.healthy { "healthy" } else { "faulty" }]);
        table.add_row(["device", &format!("{} ({engine})", self.interface)]);
        table.add_row(["addresses", &join(&self.addresses)]);
        table.add_row(["prefixes", &join(&self.prefixes)]);
        table.add_row(["gateway", &format!("{} (handshake {age})", self.endpoint)]);
        table.add_row(["agent", &self.agent_pid.map_or("not running".into(), |p| format!("process {p}"))]);
        table.add_row(["lease", &self.lease_expires]);
        for fault in &self.faults {
            table.add_row(["fault", fault]);
        }
        table.to_string()
    }
}
