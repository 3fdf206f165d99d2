//! GoBGP as a BGP neighbour: a configuration in, `gobgp` out.
//!
//! It writes no kernel routes of its own accord: what it learns is its table. It prints routes as lists of attributes
//! by their number; [`Gobgp::route`] gives those of the best path.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::process::{self, Process};
use crate::{Ns, registry, wait_until};

/// Where its API listens, in its own namespace.
const API: &str = "127.0.0.1:50051";
/// `session_state` of an established session.
const ESTABLISHED: u64 = 6;

/// A running `gobgpd`; ended on drop.
#[derive(Debug)]
pub struct Gobgp {
    process: Process,
    ns: Ns,
}

impl Gobgp {
    /// Starts it with the text of a configuration in TOML and waits until it answers.
    ///
    /// # Errors
    /// When it refuses the configuration or does not come up.
    pub fn start(ns: &Ns, config: &str) -> Result<Self> {
        let dir = registry::scratch_dir("gobgp")?;
        let file = dir.join("gobgpd.toml");
        std::fs::write(&file, config)?;
        let mut command = ns.command("gobgpd");
        command.arg("-f").arg(&file).args([
            "-t",
            "toml",
            "--api-hosts",
            API,
            "--pprof-disable",
            "--log-plain",
        ]);
        let mut gobgp = Self { process: Process::start(ns, command)?, ns: ns.clone() };
        wait_until(Duration::from_secs(20), "GoBGP to answer", || {
            ensure!(gobgp.process.is_running(), "it ended: {}", gobgp.process.log());
            gobgp.ask("global")
        })?;
        Ok(gobgp)
    }

    /// What `gobgp` answers to a line of words, e.g. `global rib add 192.0.2.0/24`.
    ///
    /// # Errors
    /// When GoBGP does not answer or refuses.
    pub fn ask(&self, line: &str) -> Result<String> {
        let mut command = self.ns.command("gobgp");
        command.args(line.split_whitespace());
        process::output(&mut command, Duration::from_secs(10))
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// When GoBGP does not answer, or not in JSON.
    pub fn ask_json(&self, line: &str) -> Result<Value> {
        let text = self.ask(&format!("-j {line}"))?;
        // Of a route that it does not have it says so in words.
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// What it knows of a neighbour: `state`, `afi_safis` and more.
    ///
    /// # Errors
    /// When GoBGP does not answer.
    pub fn neighbour(&self, address: &str) -> Result<Value> {
        self.ask_json(&format!("neighbor {address}"))
    }

    /// Whether the session with that neighbour is established.
    ///
    /// # Errors
    /// When GoBGP does not answer.
    pub fn established(&self, address: &str) -> Result<bool> {
        Ok(self.neighbour(address)?["state"]["session_state"] == ESTABLISHED)
    }

    /// The best path to exactly this prefix, of a neighbour or its own.
    ///
    /// # Errors
    /// When GoBGP does not answer.
    pub fn route(&self, prefix: &str) -> Result<Option<Path>> {
        let table = self.ask_json(&format!("global rib -a {}", family(prefix)))?;
        let paths = table[prefix].as_array().cloned().unwrap_or_default();
        Ok(paths.into_iter().find(|path| path["best"] == true).map(Path))
    }

    /// Tells its neighbours a prefix, with attributes in the words of `gobgp global rib add`.
    ///
    /// # Errors
    /// When GoBGP refuses it.
    pub fn announce(&self, prefix: &str, attributes: &str) -> Result<()> {
        self.ask(&format!("global rib add {prefix} {attributes} -a {}", family(prefix))).map(drop)
    }

    /// Takes a prefix back.
    ///
    /// # Errors
    /// When GoBGP refuses.
    pub fn withdraw(&self, prefix: &str) -> Result<()> {
        self.ask(&format!("global rib del {prefix} -a {}", family(prefix))).map(drop)
    }

    /// The process, for its log and for signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn family(prefix: &str) -> &'static str {
    if prefix.contains(':') { "ipv6" } else { "ipv4" }
}

/// A path as GoBGP tells it.
#[derive(Debug, Clone)]
pub struct Path(pub Value);

impl Path {
    /// A path attribute by its type code; null where there is none.
    #[must_use]
    pub fn attribute(&self, code: u64) -> &Value {
        let attributes = self.0["attrs"].as_array();
        attributes.into_iter().flatten().find(|one| one["type"] == code).unwrap_or(&Value::Null)
    }

    /// The AS numbers of the path's first segment.
    #[must_use]
    pub fn as_path(&self) -> Vec<u64> {
        let numbers = self.attribute(2)["as_paths"][0]["asns"].as_array().cloned().unwrap_or_default();
        numbers.iter().filter_map(Value::as_u64).collect()
    }

    /// The next hop: of NEXT_HOP, or of MP_REACH_NLRI.
    #[must_use]
    pub fn next_hop(&self) -> Option<&str> {
        [3, 14].into_iter().find_map(|code| self.attribute(code)["nexthop"].as_str())
    }

    /// Whether it is kept for a neighbour that restarts (RFC 4724).
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.0["stale"] == true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_a_path_as_gobgp_tells_it() {
        let path = Path(json!({ "best": true, "stale": false, "attrs": [
            { "type": 1, "value": 2 },
            { "type": 2, "as_paths": [{ "segment_type": 2, "num": 2, "asns": [65100, 4_200_000_001_u32] }] },
            { "type": 3, "nexthop": "10.30.0.1" },
        ] }));
        assert_eq!(path.as_path(), [65_100, 4_200_000_001]);
        assert_eq!((path.next_hop(), path.is_stale()), (Some("10.30.0.1"), false));
        assert_eq!(*path.attribute(4), Value::Null);
    }
}
