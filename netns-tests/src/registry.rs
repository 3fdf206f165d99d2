//! Who made what, so that everything goes away: on drop, on SIGINT and SIGTERM, and, after a `kill -9`,
//! at the start of the next run.
//!
//! A run is known by its process: namespaces are called `wtt<pid>-<n>-<label>`, files lie under one
//! scratch folder `wtt-<pid>`, and `/run/wt-tests/<pid>` records the start time of the process, which
//! tells it from a later one of the same number. A namespace whose process is gone is a leftover. A run
//! that was told to keep its namespaces writes `keep` there; only [`remove_kept`] takes those away.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, Once, OnceLock, PoisonError};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::unistd::Pid;

/// Where the namespaces of this machine have their names.
pub const NETNS_DIR: &str = "/run/netns";
const RECORDS: &str = "/run/wt-tests";
const PREFIX: &str = "wtt";

/// What must be known to take a namespace down: the inodes that its processes can be told by.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Marks {
    /// Inode of the network namespace.
    pub(crate) net: u64,
    /// Inode of the machine's mount namespace, if it has one.
    pub(crate) mnt: Option<u64>,
}

static LIVE: Mutex<BTreeMap<String, Marks>> = Mutex::new(BTreeMap::new());
static KEEP: AtomicBool = AtomicBool::new(false);
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU32 = AtomicU32::new(0);
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

/// From now on nothing is removed: the demo's `--keep`.
pub fn keep_everything() {
    KEEP.store(true, Ordering::SeqCst);
    let _ = fs::create_dir_all(RECORDS).and_then(|()| fs::write(record(std::process::id()), "keep"));
}

/// Whether this run leaves its namespaces and processes behind.
#[must_use]
pub fn keeping() -> bool {
    KEEP.load(Ordering::SeqCst)
}

/// Whether a signal has asked this run to end: what fails from then on fails because everything goes away.
#[must_use]
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// A fresh name for a namespace of this run, on record before the namespace is made: another run's sweep
/// must not take it for a leftover.
pub(crate) fn fresh_name(label: &str) -> String {
    let own = std::process::id();
    let n = NEXT.fetch_add(1, Ordering::SeqCst);
    let name = format!("{PREFIX}{own}-{n}-{label}");
    let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    let mark = if keeping() { "keep".to_owned() } else { start_time(own).unwrap_or_default() };
    let _ = fs::write(record(own), mark);
    live.insert(name.clone(), Marks::default());
    name
}

/// The folder of this run, for sockets, configuration, state and logs of what it starts.
///
/// # Errors
/// When it cannot be made.
pub fn scratch() -> Result<&'static Path> {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| scratch_of(std::process::id()));
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

/// A fresh folder under [`scratch`], readable by all: daemons that drop privileges look into it.
///
/// # Errors
/// When it cannot be made.
pub fn scratch_dir(label: &str) -> Result<PathBuf> {
    let n = NEXT.fetch_add(1, Ordering::SeqCst);
    let dir = scratch()?.join(format!("{n}-{label}"));
    fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}

/// Before the first namespace: root, leftovers swept, signals caught.
pub(crate) fn prepare() -> Result<()> {
    static ONCE: Once = Once::new();
    ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root");
    fs::create_dir_all(RECORDS).with_context(|| format!("make {RECORDS}"))?;
    let own = std::process::id();
    ONCE.call_once(|| {
        let mark = if keeping() { "keep".to_owned() } else { start_time(own).unwrap_or_default() };
        let _ = fs::write(record(own), mark);
        sweep(false);
        catch_signals();
    });
    Ok(())
}

pub(crate) fn enlist(name: &str, marks: Marks) {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), marks);
}

/// Ends what runs in a namespace and removes it.
pub(crate) fn dismiss(name: &str) {
    let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(marks) = live.remove(name) else {
        return;
    };
    if keeping() {
        return;
    }
    remove(name, marks);
    if live.is_empty() {
        forget_own();
    }
}

/// Removes every namespace of this run and its files, and ends the process: a thread that would drop or
/// make a namespace meanwhile waits at the lock for ever.
pub fn clean_up_and_exit(status: i32) -> ! {
    let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    for (name, marks) in std::mem::take(&mut *live) {
        remove(&name, marks);
    }
    forget_own();
    // SAFETY: ends the process without running drops that other threads may be inside of.
    unsafe { libc::_exit(status) }
}

/// Removes what runs with `--keep` left; the number of namespaces.
#[must_use]
pub fn remove_kept() -> usize {
    sweep(true)
}

fn forget_own() {
    let own = std::process::id();
    let _ = fs::remove_dir_all(scratch_of(own));
    let _ = fs::remove_file(record(own));
}

fn record(pid: u32) -> PathBuf {
    Path::new(RECORDS).join(pid.to_string())
}

fn scratch_of(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("{PREFIX}-{pid}"))
}

/// Field 22 of `/proc/<pid>/stat`: tells two processes of one number apart.
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

fn pid_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Whether the run of process `pid` still wants its namespaces.
fn wanted(pid: u32, kept_too: bool) -> bool {
    match fs::read_to_string(record(pid)) {
        Ok(mark) if mark.trim() == "keep" => !kept_too,
        Ok(mark) => start_time(pid).is_some_and(|now| now == mark.trim()),
        Err(_) => false,
    }
}

/// Removes the namespaces, files and records of runs that are over.
fn sweep(kept_too: bool) -> usize {
    let own = std::process::id();
    let over = |pid: u32| pid != own && !wanted(pid, kept_too);
    let mut removed = 0;
    for name in names(NETNS_DIR) {
        if pid_of(&name).is_some_and(over) {
            let net = fs::metadata(Path::new(NETNS_DIR).join(&name)).map_or(0, |m| m.ino());
            remove(&name, Marks { net, mnt: None });
            removed += 1;
        }
    }
    for name in names(RECORDS) {
        if let Some(pid) = name.parse().ok().filter(|&pid| over(pid)) {
            let _ = fs::remove_dir_all(scratch_of(pid));
            let _ = fs::remove_file(record(pid));
        }
    }
    removed
}

fn names(dir: &str) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn remove(name: &str, marks: Marks) {
    end_processes(marks);
    let path = Path::new(NETNS_DIR).join(name);
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(&path);
}

/// Kills, by pid, what runs in the namespace: a daemon's detached children too.
fn end_processes(marks: Marks) {
    let own_net = inode("/proc/self/ns/net");
    let own_mnt = inode("/proc/self/ns/mnt");
    let is_ours = |pid: &str| {
        let net = inode(&format!("/proc/{pid}/ns/net"));
        let mnt = inode(&format!("/proc/{pid}/ns/mnt"));
        (net.is_some() && net != own_net && net == Some(marks.net))
            || (mnt.is_some() && mnt != own_mnt && mnt == marks.mnt)
    };
    let pids = || names("/proc").into_iter().filter(|name| is_ours(name));
    for _ in 0..50 {
        let mut some = false;
        for pid in pids().filter_map(|name| name.parse().ok()) {
            let _ = signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
            some |= !is_zombie(pid);
        }
        if !some {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z') || rest.starts_with('X'))
}

pub(crate) fn inode(path: &str) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.ino())
}

/// SIGINT and SIGTERM write to a pipe; a thread at its other end cleans up and leaves with 130.
fn catch_signals() {
    let Ok((read, write)) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC) else {
        return;
    };
    SIGNAL_PIPE.store(std::os::fd::IntoRawFd::into_raw_fd(write), Ordering::SeqCst);
    let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler only calls write(2), which is async-signal-safe.
        let _ = unsafe { signal::sigaction(signal, &action) };
    }
    std::thread::spawn(move || {
        let mut byte = [0_u8];
        while !matches!(nix::unistd::read(&read, &mut byte), Ok(1)) {}
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("interrupted: removing namespaces");
        clean_up_and_exit(130);
    });
}

extern "C" fn on_signal(_: libc::c_int) {
    let fd = SIGNAL_PIPE.load(Ordering::SeqCst);
    // SAFETY: one byte from a static buffer to a pipe that is never closed.
    let _ = unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) };
}
