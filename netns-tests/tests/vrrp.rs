//! keepalived at two sites of one segment: VRRP over IPv4 and IPv6 (RFC 9568) works through the overlay, and its
//! virtual addresses move from site to site. Needs root.
//!
//! ```text
//!   host-a: keepalived, priority 150 ─ VLAN 100 ═ [gw-a] ── VXLAN ── [gw-b] ═ VLAN 200 ─ host-b: keepalived, 100
//!   client ────────────────────────── VLAN 101 ═ [gw-a]              [gw-b] ═ VLAN 201 ─ far client
//!                 10.20.0.100, fd20::100
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::ping::ping;
use netns_tests::topology::{Tunnel, put_in_flat_network};
use netns_tests::world::{SOON, World};
use netns_tests::{Ns, Process, registry, wait_until};
use serde_json::json;

const VIRTUAL: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 20, 0, 100), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x100));
const CLIENT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 20, 0, 21), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x21));
const FAR_CLIENT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 20, 0, 22), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x22));
const ROUTER_ID: u8 = 51;

/// A running keepalived; ended on drop.
struct Keepalived(Process);

impl Keepalived {
    /// `virtual_mac`: the addresses move with a MAC of their own (RFC 9568 §7.3), else they change theirs.
    fn start(ns: &Ns, priority: u8, virtual_mac: bool) -> Result<Self> {
        let dir = registry::scratch_dir("keepalived")?;
        let file = dir.join("keepalived.conf");
        fs::write(&file, config(priority, virtual_mac))?;
        let mut command = ns.command("keepalived");
        command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp", "-f"]).arg(&file);
        command.arg("-p").arg(dir.join("main.pid")).arg("-r").arg(dir.join("vrrp.pid"));
        Ok(Self(Process::start(ns, command)?))
    }

    /// It says goodbye (priority 0), as on a planned stop.
    fn stop(mut self) -> Result<()> {
        self.0.stop(Duration::from_secs(5)).map(drop)
    }
}

fn config(priority: u8, virtual_mac: bool) -> String {
    let vmac =
        |name: &str| if virtual_mac { format!("use_vmac {name}\n    vmac_xmit_base") } else { String::new() };
    let instance = |family: &str, addresses: &str, device: &str| {
        format!(
            "vrrp_instance {family} {{\n    state BACKUP\n    interface eth0\n    virtual_router_id {ROUTER_ID}\n    \
             priority {priority}\n    advert_int 0.2\n    {}\n    virtual_ipaddress {{\n{addresses}    }}\n}}\n",
            vmac(device)
        )
    };
    let v4 = instance("v4", &format!("        {}/24\n", VIRTUAL.0), "vrrp4");
    let v6 = instance("v6", &format!("        fe80::100/64\n        {}/64\n", VIRTUAL.1), "vrrp6");
    format!("global_defs {{\n    vrrp_version 3\n}}\n{v4}{v6}")
}

struct Pair {
    world: World,
    clients: [Ns; 2],
}

fn pair() -> Result<Pair> {
    let clients = [Ns::new("client")?, Ns::new("far-client")?];
    let world = World::start_with(&[Tunnel::Direct], |topology, document| {
        topology.a.plug(&clients[0], "eth0", 101)?;
        put_in_flat_network(&clients[0], "eth0", CLIENT)?;
        topology.b.plug(&clients[1], "eth0", 201)?;
        put_in_flat_network(&clients[1], "eth0", FAR_CLIENT)?;
        for (name, gateway, vid) in [("client", "gw-a", 101), ("far-client", "gw-b", 201)] {
            document["attachments"][name] =
                json!({ "gateway": gateway, "segment": "flat", "vlan": { "trunk": "trunk0", "vid": vid } });
        }
        Ok(())
    })?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    Ok(Pair { world, clients })
}

impl Pair {
    fn has(host: &Ns, address: IpAddr) -> Result<bool> {
        let shown = host.ip("addr show")?;
        Ok(shown.lines().any(|l| l.contains(&format!("{address}/")) && !l.contains("tentative")))
    }

    /// Both virtual addresses are at one host alone, and both clients reach them there.
    fn is_at(&self, host: &Ns, other: &Ns) -> Result<()> {
        for address in [VIRTUAL.0.into(), VIRTUAL.1.into()] {
            wait_until(SOON, &format!("{address} to be at {} alone", host.label()), || {
                ensure!(Self::has(host, address)?, "not there");
                ensure!(!Self::has(other, address)?, "at {} too", other.label());
                Ok(())
            })?;
            for client in &self.clients {
                wait_until(SOON, &format!("{} to reach {address}", client.label()), || {
                    ping(client, address)
                })?;
            }
        }
        Ok(())
    }

    fn moves_to_and_fro(&self, virtual_mac: bool) -> Result<()> {
        let (a, b) = (&self.world.topology.a.host, &self.world.topology.b.host);
        let backup = Keepalived::start(b, 100, virtual_mac)?;
        let master = Keepalived::start(a, 150, virtual_mac)?;
        self.is_at(a, b).with_context(|| master.0.log())?;
        // Planned: the master takes its leave. Then it comes back and takes over.
        master.stop()?;
        self.is_at(b, a).with_context(|| backup.0.log())?;
        let mut master = Keepalived::start(a, 150, virtual_mac)?;
        self.is_at(a, b).with_context(|| master.0.log())?;
        // Unplanned: the backup hears nothing any more. What the dead master had goes with its machine's link.
        a.ip("link set eth0 down")?;
        master.0.kill9()?;
        for address in [VIRTUAL.0.into(), VIRTUAL.1.into()] {
            wait_until(SOON, &format!("{address} to be at host-b"), || {
                ensure!(Self::has(b, address)?, "not there");
                ping(&self.clients[0], address)?;
                ping(&self.clients[1], address)
            })
            .with_context(|| backup.0.log())?;
        }
        Ok(())
    }
}

#[test]
fn root_virtual_addresses_move_between_sites() -> Result<()> {
    pair()?.moves_to_and_fro(false)
}

#[test]
fn root_virtual_routers_move_with_their_mac() -> Result<()> {
    pair()?.moves_to_and_fro(true)
}
