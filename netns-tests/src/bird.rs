//! BIRD 2 as a campus router: a configuration in, `birdc` out.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::process::{self, Process};
use crate::{Ns, registry, wait_until};

/// What a protocol was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Routes, new ones and changes.
    pub updates: u64,
    /// Withdrawals.
    pub withdrawals: u64,
    /// The line of `show protocols`: state, and since when.
    pub since: String,
}

/// A running `bird`; ended on drop.
#[derive(Debug)]
pub struct Bird {
    process: Process,
    ns: Ns,
    socket: PathBuf,
    config: PathBuf,
}

impl Bird {
    /// Starts it with the text of a `bird.conf` and waits until it answers.
    ///
    /// # Errors
    /// When it refuses the configuration or does not come up.
    pub fn start(ns: &Ns, config: &str) -> Result<Self> {
        let dir = registry::scratch_dir("bird")?;
        let (file, socket) = (dir.join("bird.conf"), dir.join("bird.ctl"));
        std::fs::write(&file, config)?;
        let mut command = ns.command("bird");
        command.arg("-f").arg("-c").arg(&file).arg("-s").arg(&socket);
        command.arg("-P").arg(dir.join("bird.pid"));
        let process = Process::start(ns, command)?;
        let mut bird = Self { process, ns: ns.clone(), socket, config: file };
        wait_until(Duration::from_secs(10), "BIRD to answer", || {
            ensure!(bird.process.is_running(), "it ended: {}", bird.process.log());
            bird.ask("show status")
        })?;
        Ok(bird)
    }

    /// What `birdc` answers to a command.
    ///
    /// # Errors
    /// When BIRD does not answer.
    pub fn ask(&self, command: &str) -> Result<String> {
        let mut birdc = self.ns.command("birdc");
        birdc.arg("-r").arg("-s").arg(&self.socket).args(command.split_whitespace());
        process::output(&mut birdc, Duration::from_secs(10))
    }

    /// Replaces its configuration without a restart.
    ///
    /// # Errors
    /// When BIRD refuses it.
    pub fn reconfigure(&self, config: &str) -> Result<()> {
        std::fs::write(&self.config, config)?;
        let mut birdc = self.ns.command("birdc");
        birdc.arg("-s").arg(&self.socket).arg("configure");
        let answer = process::output(&mut birdc, Duration::from_secs(10))?;
        ensure!(answer.contains("Reconfigur"), "BIRD: {answer}");
        Ok(())
    }

    /// Whether the session of that protocol name is established.
    ///
    /// # Errors
    /// When BIRD does not answer.
    pub fn established(&self, protocol: &str) -> Result<bool> {
        Ok(self.ask(&format!("show protocols {protocol}"))?.contains("Established"))
    }

    /// The routes that match, e.g. `10.20.0.0/24 all`, `for 10.20.0.7`.
    ///
    /// # Errors
    /// When BIRD does not answer.
    pub fn routes(&self, what: &str) -> Result<String> {
        self.ask(&format!("show route {what}"))
    }

    /// What a protocol with one channel has been told since its session came up: routes and withdrawals, each
    /// counted as often as it was told.
    ///
    /// # Errors
    /// When BIRD does not answer, or not with counters.
    pub fn imported(&self, protocol: &str) -> Result<Imported> {
        let text = self.ask(&format!("show protocols all {protocol}"))?;
        let count = |row: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(row));
            line.and_then(|line| line.split_whitespace().next()?.parse().ok()).with_context(|| text.clone())
        };
        let since = text.lines().find(|line| line.starts_with(protocol)).unwrap_or_default().to_owned();
        Ok(Imported { updates: count("Import updates:")?, withdrawals: count("Import withdraws:")?, since })
    }

    /// The process, for its log and for signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
