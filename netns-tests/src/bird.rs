//! BIRD 2 as a campus router: a configuration in, `birdc` out.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::process::{self, Process};
use crate::{Ns, registry, wait_until};

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

    /// The process, for its log and for signals.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
