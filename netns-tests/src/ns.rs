//! Network namespaces, with a mount namespace where a machine of its own is meant.
//!
//! Processes enter with `setns` between fork and exec, threads with `setns` at their start: `ip netns
//! exec` would mount a fresh `/sys` over the bpf file system.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::process::{self, Process};
use crate::registry::{self, Marks, NETNS_DIR};

/// How long a command run to its end may take, unless told otherwise.
const EXEC_LIMIT: Duration = Duration::from_secs(30);

/// A network namespace. Clones are the same namespace; it is removed, with all that runs in it, when the
/// last of them is dropped.
#[derive(Debug, Clone)]
pub struct Ns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    label: String,
    net: File,
    mnt: Option<File>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        registry::dismiss(&self.name);
    }
}

impl Ns {
    /// A host or a router: a network namespace alone. `label` ends up in its name.
    ///
    /// # Errors
    /// Without root, or when the kernel refuses.
    pub fn new(label: &str) -> Result<Self> {
        Self::make(label, false)
    }

    /// A machine: it also has its own `/run/netns`, `/sys` and `/sys/fs/bpf`, which go away with it.
    ///
    /// # Errors
    /// Without root, or when the kernel refuses.
    pub fn machine(label: &str) -> Result<Self> {
        Self::make(label, true)
    }

    fn make(label: &str, machine: bool) -> Result<Self> {
        registry::prepare()?;
        let name = registry::fresh_name(label);
        let added = process::output(Command::new("ip").args(["netns", "add", &name]), EXEC_LIMIT);
        added.inspect_err(|_| registry::dismiss(&name))?;
        let path = Path::new(NETNS_DIR).join(&name);
        let net = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let mut marks = Marks { net: net.metadata()?.ino(), mnt: None };
        registry::enlist(&name, marks);
        let mut inner = Inner { name, label: label.to_owned(), net, mnt: None };
        if machine {
            let mnt = own_mounts(&inner.net).context("mount namespace of a machine")?;
            marks.mnt = Some(mnt.metadata()?.ino());
            inner.mnt = Some(mnt);
            registry::enlist(&inner.name, marks);
        }
        let ns = Self(Arc::new(inner));
        ns.settle().with_context(|| format!("prepare namespace {label}"))?;
        Ok(ns)
    }

    /// Loopback up, and the defaults that make measurements and tests comparable.
    fn settle(&self) -> Result<()> {
        self.ip("link set lo up")?;
        for (key, value) in [
            ("net.ipv6.conf.all.accept_dad", "0"),
            ("net.ipv6.conf.default.accept_dad", "0"),
            ("net.ipv6.conf.default.router_solicitations", "0"),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
        ] {
            self.sysctl(key, value)?;
        }
        // Pacing would outlive the flow that asked for it; a kernel without the choice has reno anyway.
        let _ = self.sysctl("net.ipv4.tcp_congestion_control", "reno");
        Ok(())
    }

    /// The name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it was called by the one who made it.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// The open namespace, for `setns` by others and for `IFLA_NET_NS_FD`.
    #[must_use]
    pub fn net(&self) -> &File {
        &self.0.net
    }

    /// A command that will run inside. Its group is its own: Ctrl-C reaches us first, and we clean.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let ns = self.clone();
        let orphan_lives = registry::keeping();
        // SAFETY: only system calls between fork and exec; the descriptors live in the closure.
        unsafe {
            command.pre_exec(move || {
                if let Some(mnt) = &ns.0.mnt {
                    enter_raw(mnt.as_raw_fd(), libc::CLONE_NEWNS)?;
                }
                enter_raw(ns.0.net.as_raw_fd(), libc::CLONE_NEWNET)?;
                if !orphan_lives {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                }
                Ok(())
            });
        }
        command.process_group(0);
        command
    }

    /// Runs a command line (split at blanks) to its end; its standard output.
    ///
    /// # Errors
    /// When it fails or takes longer than 30 s, with what it said.
    pub fn exec(&self, line: &str) -> Result<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(!words.is_empty(), "an empty command line");
        self.exec_args(&words, EXEC_LIMIT)
    }

    /// Runs a command given as words to its end; its standard output.
    ///
    /// # Errors
    /// When it fails or takes longer than `limit`, with what it said.
    pub fn exec_args(&self, words: &[&str], limit: Duration) -> Result<String> {
        let mut command = self.command(words[0]);
        command.args(&words[1..]);
        process::output(&mut command, limit).with_context(|| format!("in {}", self.label()))
    }

    /// `ip …` inside.
    ///
    /// # Errors
    /// As [`Ns::exec`].
    pub fn ip(&self, arguments: &str) -> Result<String> {
        self.exec(&format!("ip {arguments}"))
    }

    /// Starts a command line in the background; its output goes to a log of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, line: &str) -> Result<Process> {
        let words: Vec<&str> = line.split_whitespace().collect();
        ensure!(!words.is_empty(), "an empty command line");
        let mut command = self.command(words[0]);
        command.args(&words[1..]);
        Process::start(self, command)
    }

    /// Runs a closure in a thread inside and waits for it.
    ///
    /// # Panics
    /// With the closure, and when the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let joined = std::thread::scope(|scope| {
            let inside = || {
                self.enter_thread().expect("enter the namespace");
                work()
            };
            scope.spawn(inside).join()
        });
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts a thread inside.
    ///
    /// # Panics
    /// The thread, when the namespace cannot be entered.
    pub fn thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let ns = self.clone();
        std::thread::spawn(move || {
            ns.enter_thread().expect("enter the namespace");
            drop(ns);
            work()
        })
    }

    /// Moves the calling thread inside, for good.
    fn enter_thread(&self) -> Result<()> {
        if let Some(mnt) = &self.0.mnt {
            unshare(CloneFlags::CLONE_FS).context("unshare the file system view")?;
            setns(mnt, CloneFlags::CLONE_NEWNS).context("enter the mount namespace")?;
        }
        setns(&self.0.net, CloneFlags::CLONE_NEWNET).context("enter the network namespace")
    }

    /// Sets a kernel parameter, e.g. `net.ipv4.ip_forward`.
    ///
    /// # Errors
    /// When the kernel does not have it or refuses the value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(|| std::fs::write(&path, value)).with_context(|| format!("sysctl {key}={value}"))
    }

    /// Whether an interface of that name exists inside.
    #[must_use]
    pub fn has_link(&self, name: &str) -> bool {
        self.run(|| nix::net::if_::if_nametoindex(name)).is_ok()
    }
}

fn enter_raw(fd: i32, kind: libc::c_int) -> std::io::Result<()> {
    // SAFETY: setns(2) on an open namespace descriptor.
    match unsafe { libc::setns(fd, kind) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A mount namespace seen from `net`, with its own `/sys`, `/sys/fs/bpf` and `/run/netns`; it lives as
/// long as the returned descriptor or a process in it.
fn own_mounts(net: &File) -> Result<File> {
    let build = || -> Result<File> {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("unshare")?;
        setns(net, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("private /")?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).context("/sys")?;
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).context("bpf")?;
        // The names of the other namespaces go, else this machine would keep those alive.
        while umount2(NETNS_DIR, MntFlags::MNT_DETACH).is_ok() {}
        mount(Some("tmpfs"), NETNS_DIR, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
            .context(NETNS_DIR)?;
        File::open("/proc/thread-self/ns/mnt").context("open the mount namespace")
    };
    std::thread::scope(|scope| scope.spawn(build).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
