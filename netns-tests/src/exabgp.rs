//! ExaBGP as a BGP neighbour that says anything, legal or not, and writes down what it hears.
//!
//! ```text
//!  test ── appends commands ──▶ `say` ──▶ tail -f ──▶ [ExaBGP] ──▶ UPDATEs
//!  test ◀── JSON, line by line ── `heard` ◀── cat ◀── [ExaBGP] ◀── UPDATEs, state
//! ```
//! One ExaBGP speaks for any number of neighbours of a router, each from an address of its own. Attributes that it has
//! no words for are written octet by octet: `attribute [ 0x63 0xc0 0x0102 ]`, type, flags, value.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::Process;
use crate::{Ns, registry, wait_until};

/// What a session of ExaBGP is made of.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its own address; sessions are called by it.
    pub local: &'static str,
    /// The router it speaks to.
    pub peer: &'static str,
    /// Its own AS number.
    pub asn: u32,
    /// The router's AS number.
    pub peer_asn: u32,
    /// `ipv4 unicast`, `ipv6 unicast`.
    pub families: &'static [&'static str],
    /// More lines of the neighbour's configuration, e.g. `md5-password "x";`.
    pub lines: String,
    /// Lines of its capabilities, e.g. `asn4 disable;`.
    pub capabilities: &'static str,
}

impl Session {
    /// A session of IPv4 unicast that offers route refresh.
    #[must_use]
    pub fn new(local: &'static str, asn: u32, peer: &'static str, peer_asn: u32) -> Self {
        let (families, capabilities) = (&["ipv4 unicast"][..], "route-refresh enable;");
        Self { local, peer, asn, peer_asn, families, lines: String::new(), capabilities }
    }

    fn config(&self) -> String {
        let families: String = self.families.iter().map(|family| format!("{family}; ")).collect();
        format!(
            "neighbor {} {{
  router-id {}; local-address {}; local-as {}; peer-as {}; hold-time 90;
  {}
  family {{ {families}}}
  capability {{ {} }}
  api {{ processes [ test ]; neighbor-changes; receive {{ parsed; update; notification; refresh; }} }}
}}
",
            self.peer,
            self.router_id(),
            self.local,
            self.asn,
            self.peer_asn,
            self.lines,
            self.capabilities,
        )
    }

    fn router_id(&self) -> String {
        // Of an IPv6 session any identifier will do that no other session has.
        let number = self.local.bytes().map(u32::from).sum::<u32>() % 250 + 1;
        if self.local.contains(':') { format!("192.0.0.{number}") } else { self.local.to_owned() }
    }
}

/// A running ExaBGP; ended on drop.
#[derive(Debug)]
pub struct Exabgp {
    process: Process,
    dir: PathBuf,
}

impl Exabgp {
    /// Starts it with these sessions; they may still be coming up.
    ///
    /// # Errors
    /// When it refuses the configuration.
    pub fn start(ns: &Ns, sessions: &[Session]) -> Result<Self> {
        let dir = registry::scratch_dir("exabgp")?;
        for file in ["say", "heard"] {
            std::fs::write(dir.join(file), "")?;
        }
        // In a list of commands standard input of a background one is /dev/null unless it is given.
        let feed = format!(
            "#!/bin/sh\nexec 3<&0\ncat <&3 >>{0}/heard &\nexec tail -n +1 -s 0.1 -f {0}/say\n",
            dir.display()
        );
        std::fs::write(dir.join("feed.sh"), feed)?;
        let process = format!("process test {{ run /bin/sh {}/feed.sh; encoder json; }}\n", dir.display());
        let config = process + &sessions.iter().map(Session::config).collect::<String>();
        std::fs::write(dir.join("exabgp.conf"), config)?;
        let mut command = ns.command("exabgp");
        command
            .arg(dir.join("exabgp.conf"))
            .env("exabgp_daemon_drop", "false")
            .env("exabgp_api_cli", "false");
        let mut exabgp = Self { process: Process::start(ns, command)?, dir };
        wait_until(Duration::from_secs(20), "ExaBGP to start its sessions", || {
            ensure!(exabgp.process.is_running(), "it ended: {}", exabgp.process.log());
            ensure!(exabgp.process.log().contains("loaded new configuration"), "{}", exabgp.process.log());
            Ok(())
        })?;
        Ok(exabgp)
    }

    /// Gives a command to the session of that address, e.g. `announce route 192.0.2.0/24 next-hop self`.
    ///
    /// # Errors
    /// When it cannot be written down.
    pub fn say(&self, session: &Session, command: &str) -> Result<()> {
        let mut file = std::fs::File::options().append(true).open(self.dir.join("say"))?;
        let Session { local, peer, .. } = session;
        file.write_all(format!("neighbor {peer} local-ip {local} {command}\n").as_bytes())?;
        Ok(())
    }

    /// All it has been told so far, oldest first.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn heard(&self) -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(self.dir.join("heard")).context("what ExaBGP heard")?;
        // Beside JSON it answers each command with a word; the last line may be half written.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// What of it a session heard, by the type of the message: `update`, `state`, `notification`.
    ///
    /// # Errors
    /// As [`Exabgp::heard`].
    pub fn heard_by(&self, session: &Session, kind: &str) -> Result<Vec<Value>> {
        let mut all = self.heard()?;
        all.retain(|one| one["type"] == kind && one["neighbor"]["address"]["local"] == session.local);
        Ok(all)
    }

    /// Whether a session is up, by the last word about it.
    ///
    /// # Errors
    /// As [`Exabgp::heard`].
    pub fn established(&self, session: &Session) -> Result<bool> {
        let states = self.heard_by(session, "state")?;
        Ok(states.last().is_some_and(|state| state["neighbor"]["state"] == "up"))
    }

    /// How often a session went down after it was up: connections that came to nothing do not count.
    ///
    /// # Errors
    /// As [`Exabgp::heard`].
    pub fn downs(&self, session: &Session) -> Result<usize> {
        let states = self.heard_by(session, "state")?;
        let since = states.iter().skip_while(|state| state["neighbor"]["state"] != "up");
        Ok(since.filter(|state| state["neighbor"]["state"] == "down").count())
    }

    /// The routes that a session was told and that were not taken back, since it came up last.
    ///
    /// # Errors
    /// As [`Exabgp::heard`].
    pub fn routes(&self, session: &Session) -> Result<BTreeMap<String, Heard>> {
        let mut routes = BTreeMap::new();
        for one in self.heard()? {
            if one["neighbor"]["address"]["local"] == session.local {
                fold(&mut routes, &one);
            }
        }
        Ok(routes)
    }

    /// The process, for its log and for signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// A route as ExaBGP heard it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heard {
    /// The next hop.
    pub next_hop: String,
    /// Attributes by ExaBGP's names: `as-path`, `community`, `attribute-0x63-0xE0` …
    pub attributes: Value,
    /// How often it was told since it was last taken back.
    pub times: usize,
}

/// What a message changes in a table of routes.
fn fold(routes: &mut BTreeMap<String, Heard>, message: &Value) {
    if message["type"] == "state" {
        routes.clear();
        return;
    }
    let update = &message["neighbor"]["message"]["update"];
    let names = |list: &Value| -> Vec<String> {
        let entries = list.as_array().into_iter().flatten();
        entries.filter_map(|entry| entry["nlri"].as_str().map(str::to_owned)).collect()
    };
    for (_, list) in update["withdraw"].as_object().into_iter().flatten() {
        for name in names(list) {
            routes.remove(&name);
        }
    }
    let families = update["announce"].as_object().into_iter().flatten();
    for (next_hop, list) in families.filter_map(|(_, hops)| hops.as_object()).flatten() {
        for name in names(list) {
            let entry = routes.entry(name).or_default();
            entry.next_hop.clone_from(next_hop);
            entry.attributes = update["attribute"].clone();
            entry.times += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn update(part: Value) -> Value {
        json!({ "type": "update", "neighbor": { "message": { "update": part } } })
    }

    #[test]
    fn a_table_follows_what_is_heard() {
        let told = update(json!({
            "attribute": { "med": 7 },
            "announce": { "ipv4 unicast": { "10.30.0.1": [{ "nlri": "192.0.2.0/24" }, { "nlri": "198.51.100.0/24" }] } },
        }));
        let taken = update(json!({ "withdraw": { "ipv4 unicast": [{ "nlri": "192.0.2.0/24" }] } }));
        let mut routes = BTreeMap::new();
        fold(&mut routes, &told);
        fold(&mut routes, &told);
        assert_eq!(
            (routes["192.0.2.0/24"].times, routes["192.0.2.0/24"].next_hop.as_str()),
            (2, "10.30.0.1")
        );
        assert_eq!(routes["198.51.100.0/24"].attributes["med"], 7);
        fold(&mut routes, &taken);
        assert_eq!(routes.keys().collect::<Vec<_>>(), ["198.51.100.0/24"]);
        fold(&mut routes, &json!({ "type": "state" }));
        assert!(routes.is_empty());
    }
}
