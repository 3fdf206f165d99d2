//! Network namespaces for this test only: named after the process, removed when dropped, with the
//! processes in them; those of an earlier run that was interrupted are removed first.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PREFIX: &str = "wtnode-";

pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// A new namespace with loopback up. Panics without root.
    pub(crate) fn new(role: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root: it makes network namespaces");
        let namespace = Self { name: format!("{PREFIX}{}-{role}", std::process::id()) };
        ip(&["netns", "add", &namespace.name]);
        namespace.ip(&["link", "set", "lo", "up"]);
        namespace
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `ip` inside; panics when it fails.
    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Any program inside.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let exec = ["netns", "exec", &self.name, program];
        Command::new("ip").args(exec).args(arguments).output().expect("ip netns exec runs")
    }

    /// Runs `work` on a thread that has entered the namespace.
    pub(crate) fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let path = PathBuf::from("/run/netns").join(&self.name);
        std::thread::spawn(move || {
            let file = File::open(path).expect("the namespace is there");
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET).expect("it can be entered");
            work()
        })
    }

    /// The processes inside.
    pub(crate) fn processes(&self) -> Vec<Pid> {
        let text = ip(&["netns", "pids", &self.name]);
        let own = Pid::this();
        text.split_whitespace()
            .filter_map(|p| p.parse().ok())
            .map(Pid::from_raw)
            .filter(|p| *p != own)
            .collect()
    }

    /// Ends one process inside, without a chance to clean up.
    pub(crate) fn kill(&self, pid: Pid) {
        assert!(self.processes().contains(&pid), "it is not one of ours");
        kill(pid, Signal::SIGKILL).expect("it is ended");
    }

    /// Ends every process inside, without a chance to clean up.
    pub(crate) fn kill_all(&self) {
        for pid in self.processes() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn remove(name: &str) {
    let output = |arguments: &[&str]| Command::new("ip").args(arguments).output();
    if let Ok(pids) = output(&["netns", "pids", name]) {
        let own = Pid::this();
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace().filter_map(|p| p.parse().ok()) {
            let pid = Pid::from_raw(pid);
            if pid != own {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
    }
    let _ = output(&["netns", "del", name]);
}

/// Removes the namespaces of runs of this test whose process is gone.
pub(crate) fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid: i32| kill(Pid::from_raw(pid), None).is_err()) {
            remove(&name);
        }
    }
}

/// Runs `ip`; panics with its words when it fails.
pub(crate) fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("ip runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {words}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
