//! Open vSwitch with its user-space datapath in one namespace: own database, own sockets, no kernel module.
//!
//! Ports are AF_PACKET sockets without vnet headers: checksum and segmentation offload must be off on every
//! device that feeds one, else a ping passes and TCP and UDP are lost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::process::{self, Process};
use crate::{Ns, registry, wait_until};

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
const READY: Duration = Duration::from_secs(10);

/// A running ovsdb-server and ovs-vswitchd; ended on drop.
#[derive(Debug)]
pub struct Ovs {
    switch: Process,
    _database: Process,
    ns: Ns,
    dir: PathBuf,
}

impl Ovs {
    /// Starts both in `ns` with an empty database.
    ///
    /// # Errors
    /// When Open vSwitch is not installed or does not come up.
    pub fn start(ns: &Ns) -> Result<Self> {
        ensure!(
            Path::new(SCHEMA).is_file(),
            "Open vSwitch is not installed ({SCHEMA} is missing): script/bootstrap --with-ovs"
        );
        let dir = registry::scratch_dir("ovs")?;
        let at = |file: &str| dir.join(file).display().to_string();
        let mut create = Command::new("ovsdb-tool");
        process::output(create.args(["create", &at("conf.db"), SCHEMA]), READY)?;
        let mut command = within(ns, &dir, "ovsdb-server");
        command.arg(at("conf.db")).arg(format!("--remote=punix:{}", at("db.sock")));
        command.arg(format!("--pidfile={}", at("db.pid"))).arg(format!("--unixctl={}", at("db.ctl")));
        let database = Process::start_logging(ns, command, &dir.join("db.log"))?;
        wait_until(READY, "the database's socket", || dir.join("db.sock").exists())
            .with_context(|| database.log())?;
        vsctl(ns, &dir, "--no-wait init")?;
        let mut command = within(ns, &dir, "ovs-vswitchd");
        command.arg(format!("unix:{}", at("db.sock"))).args(["--disable-system", "-vsyslog:off"]);
        command.arg(format!("--pidfile={}", at("switch.pid")));
        command.arg(format!("--unixctl={}", at("switch.ctl")));
        let switch = Process::start_logging(ns, command, &dir.join("switch.log"))?;
        Ok(Self { switch, _database: database, ns: ns.clone(), dir })
    }

    /// `ovs-vsctl …`, waiting until the switch has done it.
    ///
    /// # Errors
    /// When it refuses or takes longer than 10 s.
    pub fn vsctl(&self, arguments: &str) -> Result<String> {
        vsctl(&self.ns, &self.dir, &format!("--timeout=10 {arguments}"))
            .with_context(|| process::tail(&self.switch.log()).to_owned())
    }
}

fn within(ns: &Ns, dir: &Path, program: &str) -> Command {
    let mut command = ns.command(program);
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
        command.env(variable, dir);
    }
    command
}

fn vsctl(ns: &Ns, dir: &Path, arguments: &str) -> Result<String> {
    let mut command = within(ns, dir, "ovs-vsctl");
    command.arg(format!("--db=unix:{}", dir.join("db.sock").display()));
    command.args(arguments.split_whitespace());
    process::output(&mut command, READY + Duration::from_secs(5))
}
