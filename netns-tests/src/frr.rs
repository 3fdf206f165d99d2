//! FRR (zebra and bgpd) as a campus router: two configurations in, `vtysh` out.
//!
//! Both daemons drop to user `frr`, so their run folder belongs to it; zebra's API socket lies there too
//! (`-z`), so that several routers live on one machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::process::{self, Process};
use crate::{Ns, registry, wait_until};

/// Where Debian's package puts the daemons.
const DAEMONS: &str = "/usr/lib/frr";

/// A running zebra and bgpd; ended on drop.
#[derive(Debug)]
pub struct Frr {
    bgpd: Process,
    zebra: Process,
    ns: Ns,
    dir: PathBuf,
}

impl Frr {
    /// Starts zebra, then bgpd, and waits until both answer.
    ///
    /// # Errors
    /// When a configuration is refused or a daemon does not come up.
    pub fn start(ns: &Ns, zebra: &str, bgpd: &str) -> Result<Self> {
        Self::start_with(ns, zebra, bgpd, &[])
    }

    /// The same with more arguments for bgpd.
    ///
    /// # Errors
    /// As [`Frr::start`].
    pub fn start_with(ns: &Ns, zebra: &str, bgpd: &str, bgpd_arguments: &[&str]) -> Result<Self> {
        let dir = registry::scratch_dir("frr")?;
        std::fs::write(dir.join("zebra.conf"), zebra)?;
        std::fs::write(dir.join("bgpd.conf"), bgpd)?;
        std::fs::write(dir.join("vtysh.conf"), "")?;
        let owner = dir.display().to_string();
        ns.exec(&format!("chown -R frr:frrvty {owner}"))?;
        let mut zebra = daemon(ns, &dir, "zebra", &[])?;
        wait_until(Duration::from_secs(10), "zebra to answer", || {
            ensure!(zebra.is_running(), "it ended: {}", zebra.log());
            vtysh(ns, &dir, "show version").map(|_| ())
        })?;
        let mut bgpd = daemon(ns, &dir, "bgpd", bgpd_arguments)?;
        wait_until(Duration::from_secs(10), "bgpd to answer", || {
            ensure!(bgpd.is_running(), "it ended: {}", bgpd.log());
            let answer = vtysh(ns, &dir, "show bgp summary")?;
            ensure!(!answer.contains("not running"), "{answer}");
            Ok(())
        })?;
        Ok(Self { bgpd, zebra, ns: ns.clone(), dir })
    }

    /// What `vtysh` answers to a command.
    ///
    /// # Errors
    /// When FRR does not answer.
    pub fn ask(&self, command: &str) -> Result<String> {
        vtysh(&self.ns, &self.dir, command)
    }

    /// The same as JSON: `command` must end in `json`.
    ///
    /// # Errors
    /// When FRR does not answer, or not in JSON.
    pub fn ask_json(&self, command: &str) -> Result<Value> {
        let text = self.ask(command)?;
        serde_json::from_str(&text).with_context(|| text)
    }

    /// Enters lines of configuration, as after `configure terminal`.
    ///
    /// # Errors
    /// When FRR does not answer or does not know one of them.
    pub fn configure(&self, lines: &[&str]) -> Result<()> {
        let mut command = self.ns.command("vtysh");
        command.arg("--vty_socket").arg(&self.dir).arg("--config_dir").arg(&self.dir);
        command.args(["-c", "configure terminal"]).args(lines.iter().flat_map(|line| ["-c", *line]));
        let answer = process::output(&mut command, Duration::from_secs(10))?;
        ensure!(!answer.contains('%'), "FRR: {answer}");
        Ok(())
    }

    /// Whether the session with that neighbour is established.
    ///
    /// # Errors
    /// When FRR does not answer.
    pub fn established(&self, neighbour: &str) -> Result<bool> {
        let answer = self.ask_json(&format!("show bgp neighbors {neighbour} json"))?;
        Ok(answer[neighbour]["bgpState"] == "Established")
    }

    /// bgpd, for its log and for signals.
    pub fn bgpd(&mut self) -> &mut Process {
        &mut self.bgpd
    }

    /// zebra, for its log and for signals.
    pub fn zebra(&mut self) -> &mut Process {
        &mut self.zebra
    }
}

fn daemon(ns: &Ns, dir: &Path, name: &str, more: &[&str]) -> Result<Process> {
    let mut command = ns.command(&format!("{DAEMONS}/{name}"));
    command.arg("-f").arg(dir.join(format!("{name}.conf")));
    command.arg("-z").arg(dir.join("zserv.api")).arg("--vty_socket").arg(dir);
    command.arg("-i").arg(dir.join(format!("{name}.pid"))).args(["-P", "0", "--log", "stdout"]).args(more);
    Process::start_logging(ns, command, &dir.join(format!("{name}.log")))
}

fn vtysh(ns: &Ns, dir: &Path, line: &str) -> Result<String> {
    let mut command = ns.command("vtysh");
    command.arg("--vty_socket").arg(dir).arg("--config_dir").arg(dir).args(["-c", line]);
    process::output(&mut command, Duration::from_secs(10))
}
