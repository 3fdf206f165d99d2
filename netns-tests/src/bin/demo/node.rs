//! A machine of the cloud becomes node c1: asked for by REST, joined with the command of the answer, proved
//! by its receipt, measured, and taken away again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::gateway::program;
use netns_tests::ping::Ping;
use netns_tests::{Ns, Process, wait_until};
use serde_json::{Value, json};

use crate::figures::End;
use crate::gateways::{Gw, Pair};
use crate::progress::{Progress, quote, say};

/// Its name.
const NAME: &str = "c1";
/// How long the join may take until the receipt is ready.
const READY: Duration = Duration::from_secs(40);
/// How long until nothing of it is left anywhere.
const GONE: Duration = Duration::from_secs(20);
/// Folders that a fresh machine has to itself: state and sockets of the node's agent lie there.
const OWN_FOLDERS: [&str; 2] = ["/var/lib", "/run"];

/// The node, before and after it joined.
#[derive(Debug)]
pub(crate) struct Node {
    machine: Ns,
    join_command: String,
    addresses: (Ipv4Addr, Ipv6Addr),
}

impl Node {
    /// Asks gateway B for it and prints the answer.
    ///
    /// # Errors
    /// When it is refused, or something is missing in the answer.
    pub(crate) fn attach(pair: &Pair, machine: &Ns) -> Result<Self> {
        let body = json!({ "name": NAME, "segment": "flat", "kind": "gpu", "lease": "2h" });
        say(&format!("with {body}"));
        let answer = pair.b.change("POST", "/nodes", Some(&body))?;
        let text = |field: &str| -> Result<String> {
            let value = answer[field].as_str();
            Ok(value.with_context(|| format!("no {field} in {answer}"))?.to_owned())
        };
        let (join_command, cloud_init) = (text("join_command")?, text("cloud_init")?);
        let addresses = addresses(&answer).with_context(|| format!("no two addresses in {answer}"))?;
        for (field, value) in answer.as_object().into_iter().flatten() {
            if field != "join_command" && field != "cloud_init" {
                say(&format!("    {field}: {}", plain(value)));
            }
        }
        say("the command to join with:");
        quote(&join_command);
        say("the same for a machine that is yet to start, as cloud-init's user data:");
        quote(&cloud_init);
        Ok(Self { machine: machine.clone(), join_command, addresses })
    }

    /// Its end of a path.
    pub(crate) fn end(&self) -> End {
        End::new(NAME, &self.machine, self.addresses)
    }

    /// Runs the join command, as the API gave it, on the cloud machine, and waits for the receipt.
    ///
    /// # Errors
    /// When the command fails, or the receipt is not ready in time.
    pub(crate) fn join(&self, pair: &Pair, progress: &mut Progress) -> Result<Process> {
        for folder in OWN_FOLDERS {
            self.machine.exec(&format!("mount -t tmpfs -o mode=0755 fresh {folder}"))?;
        }
        let started = Instant::now();
        let mut command = self.machine.command("sh");
        command.args(["-c", &self.join_command]).env("PATH", path_with_programs()?);
        let mut joining = Process::start(&self.machine, command)?;
        progress.watch_log(NAME, joining.log_path().to_owned());
        let receipt = wait_until(READY, &format!("the receipt of {NAME} to be ready"), || {
            ensure!(!has_failed(&mut joining)?, "the join command failed: {}", joining.log());
            let receipt = pair.b.get(&format!("/nodes/{NAME}/receipt"))?;
            ensure!(receipt["ready"] == true, "{receipt}");
            Ok::<_, anyhow::Error>(receipt)
        })?;
        say(&format!(
            "ready {} ms after the command was started; the receipt:",
            started.elapsed().as_millis()
        ));
        print_receipt(&receipt);
        Ok(joining)
    }

    /// `watari measure` between gateway A and the node, as the command prints it.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn measure(&self, pair: &Pair) -> Result<()> {
        let table = pair.b.gateway.cli(&["measure", pair.a.name(), NAME])?;
        say(&format!("watari measure {} {NAME}", pair.a.name()));
        quote(&table);
        Ok(())
    }

    /// Detaches it and looks for what could be left: at both gateways and in the flat network.
    ///
    /// # Errors
    /// When something is left after 20 s.
    pub(crate) fn detach(&self, pair: &Pair, host: &End) -> Result<()> {
        pair.b.change("DELETE", &format!("/nodes/{NAME}"), None)?;
        for gw in [&pair.a, &pair.b] {
            wait_until(GONE, &format!("{} to forget {NAME}", gw.name()), || self.is_forgotten(gw))?;
            say(&format!("{}: not in its document, status, facts, routes and devices", gw.name()));
        }
        for address in [IpAddr::from(self.addresses.0), self.addresses.1.into()] {
            wait_until(GONE, &format!("{address} to fall silent"), || {
                let report = Ping::to(address).send(&host.ns)?;
                ensure!(report.received == 0, "it answers {}:\n{}", host.name, report.text);
                Ok::<_, anyhow::Error>(())
            })?;
        }
        say(&format!("{}: no answer from {} and {}", host.name, self.addresses.0, self.addresses.1));
        Ok(())
    }

    fn is_forgotten(&self, gw: &Gw) -> Result<()> {
        for path in ["/document", "/status", "/facts"] {
            let text = gw.get(path)?.to_string();
            for trace in [
                format!("\"{}", self.addresses.0),
                format!("\"{}", self.addresses.1),
                format!("nodes.{NAME}"),
            ] {
                ensure!(!text.contains(&trace), "{trace} is still in {path} of {}", gw.name());
            }
        }
        ensure!(gw.get(&format!("/nodes/{NAME}")).is_err(), "{} still has {NAME}", gw.name());
        let left: Vec<_> = gw.ns().ip_json("link show")?.iter().filter_map(node_device).collect();
        ensure!(left.is_empty(), "{} still has {left:?}", gw.name());
        gw.settled()
    }
}

/// The name of a link that serves nodes.
fn node_device(link: &Value) -> Option<String> {
    link["ifname"].as_str().filter(|name| name.starts_with("wtn")).map(str::to_owned)
}

/// Whether a process has ended with another status than success.
fn has_failed(process: &mut Process) -> Result<bool> {
    if process.is_running() {
        return Ok(false);
    }
    Ok(!process.wait(Duration::from_secs(1))?.success())
}

/// The first address of each family in `addresses`, with or without a prefix length.
fn addresses(answer: &Value) -> Option<(Ipv4Addr, Ipv6Addr)> {
    let texts = answer["addresses"].as_array()?.iter().filter_map(Value::as_str);
    let all: Vec<IpAddr> = texts.filter_map(|text| text.split('/').next()?.parse().ok()).collect();
    let v4 = all.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None })?;
    let v6 = all.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None })?;
    Some((v4, v6))
}

/// The programs just built come first, as if they were installed.
fn path_with_programs() -> Result<String> {
    let folder = program("watari-node")?.parent().map(PathBuf::from).unwrap_or_default();
    Ok(format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default()))
}

/// Its stages one a line, whatever else it tells before them.
fn print_receipt(receipt: &Value) {
    for (field, value) in receipt.as_object().into_iter().flatten() {
        match value.as_array().filter(|entries| entries.iter().any(Value::is_object)) {
            Some(entries) => {
                quote(&format!("{field}:"));
                entries.iter().for_each(|entry| quote(&format!("  {}", plain(entry))));
            }
            None => quote(&format!("{field}: {}", plain(value))),
        }
    }
}

/// A value as people write it: `name value, name value`.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(entries) => entries.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let shown = fields.iter().filter(|(_, value)| !value.is_null());
            shown.map(|(name, value)| format!("{name} {}", plain(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_with_and_without_a_length() {
        let wanted = Some(("10.20.0.129".parse().unwrap(), "fd20::b:1".parse().unwrap()));
        assert_eq!(addresses(&json!({ "addresses": ["10.20.0.129", "fd20::b:1"] })), wanted);
        assert_eq!(addresses(&json!({ "addresses": ["fd20::b:1/128", "10.20.0.129/32"] })), wanted);
        assert_eq!(addresses(&json!({ "addresses": ["10.20.0.129"] })), None);
    }

    #[test]
    fn values_read_like_words() {
        assert_eq!(plain(&json!({ "stage": "enrolled", "ms": 12, "why": null })), "stage enrolled, ms 12");
    }
}
