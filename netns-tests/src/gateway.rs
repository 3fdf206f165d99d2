//! The real `watari` in a machine of its own: started from a bootstrap file, asked over its API, killed,
//! restarted.
//!
//! The state and run folders outlive the process and go with the [`Gateway`]; what the daemon detaches
//! (`watari-link`) goes with the machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::http::Api;
use crate::process::{self, Ended, Process};
use crate::{Ns, registry, wait_until};

/// How long a daemon may take until its API answers.
const READY: Duration = Duration::from_secs(60);
/// How long a clean shutdown may take.
const STOP: Duration = Duration::from_secs(10);

/// Where Cargo has put the programs: `WATARI_BIN_DIR`, or the folder of the program that asks.
///
/// # Errors
/// When `name` is not there: build it first.
pub fn program(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("WATARI_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe().context("where am I")?;
            let folder = own.parent().context("a program in a folder")?;
            // Test programs lie one folder deeper than the others.
            let deps = folder.file_name().is_some_and(|name| name == "deps");
            if deps { folder.parent().unwrap_or(folder).to_owned() } else { folder.to_owned() }
        }
    };
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is missing: cargo build --workspace", path.display());
    Ok(path)
}

/// A gateway: its machine, its folders and its daemon.
#[derive(Debug)]
pub struct Gateway {
    name: String,
    ns: Ns,
    dir: PathBuf,
    environment: Vec<(String, String)>,
    daemon: Option<Process>,
}

impl Gateway {
    /// Starts `watari run` in `ns`, with `more` bootstrap fields (`enrol`, `api` …) beside the folders,
    /// and waits until its API answers.
    ///
    /// # Errors
    /// When it ends or does not answer in time, with its log.
    pub fn start(ns: &Ns, name: &str, more: &Value) -> Result<Self> {
        Self::start_in(ns, name, more, &[])
    }

    /// The same with variables in the daemon's environment.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn start_in(ns: &Ns, name: &str, more: &Value, environment: &[(&str, &str)]) -> Result<Self> {
        let dir = registry::scratch_dir(name)?;
        std::fs::create_dir_all(dir.join("state"))?;
        std::fs::create_dir_all(dir.join(name))?;
        let mut bootstrap = json!({
            "gateway": name,
            "state_dir": dir.join("state"),
            "run_dir": dir.join(name),
            "api": {},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            bootstrap[key] = value.clone();
        }
        std::fs::write(dir.join("watari.yaml"), yaml(&bootstrap, ""))?;
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let mut gateway = Self { name: name.to_owned(), ns: ns.clone(), dir, environment, daemon: None };
        gateway.launch()?;
        Ok(gateway)
    }

    /// Starts the daemon from the folders as they are.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub fn launch(&mut self) -> Result<()> {
        let mut command = self.ns.command(program("watari")?.to_str().unwrap_or_default());
        command.arg("run").arg("--config").arg(self.config());
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        if std::env::var_os("RUST_LOG").is_none() {
            command.env("RUST_LOG", "info");
        }
        let mut daemon = Process::start_logging(&self.ns, command, &self.log_path())?;
        let api = self.api();
        let ready = wait_until(READY, &format!("the API of {}", self.name), || {
            ensure!(daemon.is_running(), "it has ended");
            api.get("/api/v1/status")?.success()
        });
        ready.with_context(|| process::tail(&daemon.log()).to_owned())?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Its name in the documents.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its machine.
    #[must_use]
    pub fn ns(&self) -> &Ns {
        &self.ns
    }

    /// The bootstrap file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("watari.yaml")
    }

    /// The folder of the store and the keys.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The folder of the sockets.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// The folder of its pins, as its machine sees it.
    #[must_use]
    pub fn pin_dir(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(format!("wt-{}", self.name))
    }

    /// Its API over the Unix socket.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::Unix(self.run_dir().join("api.sock"))
    }

    /// Runs the `watari` command line against it: `["status", "--json"]`.
    ///
    /// # Errors
    /// When it cannot run or takes longer than a minute; a failing status is in the answer.
    pub fn try_cli(&self, arguments: &[&str]) -> Result<Ended> {
        let mut command = self.ns.command(program("watari")?.to_str().unwrap_or_default());
        command.env("WATARI_SOCKET", self.run_dir().join("api.sock")).args(arguments);
        process::finish(&mut command, Duration::from_secs(60))
    }

    /// The same for a command that must succeed; its standard output.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn cli(&self, arguments: &[&str]) -> Result<String> {
        let ended = self.try_cli(arguments)?;
        let line = arguments.join(" ");
        ensure!(ended.status.success(), "watari {line}: {}\n{}{}", ended.status, ended.out, ended.err);
        Ok(ended.out)
    }

    /// Writes a document to a file and applies it as an operator would: `watari apply -f`.
    ///
    /// # Errors
    /// When it is refused, with every problem named.
    pub fn apply(&self, document: &Value) -> Result<String> {
        let file = self.write_document(document)?;
        self.cli(&["apply", "-f", file.to_str().unwrap_or_default()])
    }

    /// Writes a document to a fresh file of this gateway's folder.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_document(&self, document: &Value) -> Result<PathBuf> {
        let file = registry::scratch_dir("document")?.join("document.json");
        std::fs::write(&file, serde_json::to_string_pretty(document)?)?;
        Ok(file)
    }

    /// `GET …` of its API, successful, as JSON.
    ///
    /// # Errors
    /// When it answers otherwise.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.api().get(path)?.success()
    }

    /// The process id of the running daemon.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Process::pid)
    }

    /// `kill -9` of the brain; packets go on.
    ///
    /// # Errors
    /// When it was not running.
    pub fn kill9(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("the daemon is not running")?;
        daemon.kill9()
    }

    /// SIGTERM, and a clean end.
    ///
    /// # Errors
    /// When it does not end in time or with a failure.
    pub fn stop(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("the daemon is not running")?;
        let status = daemon.stop(STOP)?;
        ensure!(status.success(), "{} ended with {status}\n{}", self.name, daemon.log());
        Ok(())
    }

    /// A clean end and a new start.
    ///
    /// # Errors
    /// As [`Gateway::stop`] and [`Gateway::launch`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch()
    }

    /// Sends the daemon a signal.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon.as_ref().context("the daemon is not running")?.signal(signal)
    }

    /// All that its daemons have logged, over restarts.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The file that its daemons log to.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("watari.log")
    }
}

/// A tree of fields as YAML, a field a line; scalars as JSON, which YAML takes as it is.
fn yaml(tree: &Value, indent: &str) -> String {
    let mut text = String::new();
    for (key, value) in tree.as_object().into_iter().flatten() {
        match value.as_object().filter(|fields| !fields.is_empty()) {
            Some(_) => text += &format!("{indent}{key}:\n{}", yaml(value, &format!("{indent}  "))),
            None => text += &format!("{indent}{key}: {value}\n"),
        }
    }
    text
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if std::thread::panicking() && self.daemon.is_none() {
            eprintln!("--- {} (not running)\n{}", self.name, process::tail(&self.log()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bootstrap_file_is_yaml_that_a_daemon_takes() {
        let tree = json!({
            "gateway": "gw-a", "state_dir": "/s", "run_dir": "/r",
            "api": { "listen": "127.0.0.1:8480", "token": "0123456789abcdef" },
            "enrol": { "listen": "198.18.1.2:8443" },
        });
        let text = yaml(&tree, "");
        assert!(text.contains("api:\n  listen: \"127.0.0.1:8480\"\n"), "{text}");
        let read = watari_config::Bootstrap::parse(&text).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert_eq!(read.state_dir, "/s");
        let empty = yaml(&json!({ "gateway": "g", "state_dir": "/s", "run_dir": "/r", "api": {} }), "");
        assert!(watari_config::Bootstrap::parse(&empty).is_ok(), "{empty}");
    }
}
