//! Wires between namespaces, and what stands on them: veth pairs, bridges, addresses, offloads.

use anyhow::Result;

use crate::Ns;

/// A wire: interface `a_name` in `a` to interface `b_name` in `b`, both up.
///
/// # Errors
/// When a name is taken or too long.
pub fn veth(a: &Ns, a_name: &str, b: &Ns, b_name: &str) -> Result<()> {
    let (a_ns, b_ns) = (a.name(), b.name());
    let line = format!("link add {a_name} netns {a_ns} type veth peer name {b_name} netns {b_ns}");
    // From the first namespace's view the names under /run/netns may be a machine's own: ask outside.
    let mut command = std::process::Command::new("ip");
    command.args(line.split_whitespace());
    crate::process::output(&mut command, std::time::Duration::from_secs(10))?;
    a.ip(&format!("link set {a_name} up"))?;
    b.ip(&format!("link set {b_name} up"))?;
    Ok(())
}

impl Ns {
    /// Gives an interface addresses, v4 or v6, written `ADDRESS/LENGTH`.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn address(&self, interface: &str, addresses: &[&str]) -> Result<()> {
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.ip(&format!("addr add {address} dev {interface} {nodad}"))?;
        }
        Ok(())
    }

    /// Adds a route, e.g. `default`, `10.1.0.0/16`, through a neighbour.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn route(&self, prefix: &str, via: &str) -> Result<()> {
        let family = if via.contains(':') { "-6 " } else { "" };
        self.ip(&format!("{family}route add {prefix} via {via}"))?;
        Ok(())
    }

    /// Sets an interface's MTU, in bytes.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn mtu(&self, interface: &str, mtu: u32) -> Result<()> {
        self.ip(&format!("link set {interface} mtu {mtu}"))?;
        Ok(())
    }

    /// Switches offloads, in `ethtool -K` words: `tso off gro on`.
    ///
    /// # Errors
    /// When ethtool refuses.
    pub fn offload(&self, interface: &str, words: &str) -> Result<()> {
        self.exec(&format!("ethtool -K {interface} {words}"))?;
        Ok(())
    }

    /// Routes between its interfaces, IPv4 and IPv6.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", "1")?;
        self.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// A learning bridge that knows no VLANs, so tagged frames cross it as they are, untaxed by netfilter.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bridge(&self, name: &str, ports: &[&str]) -> Result<()> {
        for table in ["iptables", "ip6tables", "arptables"] {
            // Without br_netfilter the knob is not there, nor the tax.
            let _ = self.sysctl(&format!("net.bridge.bridge-nf-call-{table}"), "0");
        }
        self.ip(&format!("link add {name} type bridge mcast_snooping 0"))?;
        for port in ports {
            self.ip(&format!("link set {port} master {name}"))?;
        }
        self.ip(&format!("link set {name} up"))?;
        Ok(())
    }

    /// The MAC address of an interface.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let links: serde_json::Value =
            serde_json::from_str(&self.ip(&format!("-j link show dev {interface}"))?)?;
        let text = links[0]["address"].as_str().unwrap_or_default();
        let mut mac = [0; 6];
        for (byte, part) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(part, 16)?;
        }
        Ok(mac)
    }

    /// What `ip -j …` answers, e.g. `route show proto 219`.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn ip_json(&self, arguments: &str) -> Result<Vec<serde_json::Value>> {
        let text = self.ip(&format!("-j {arguments}"))?;
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        Ok(serde_json::from_str(&text)?)
    }
}
