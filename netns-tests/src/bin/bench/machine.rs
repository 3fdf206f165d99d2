//! The machine that measures: what it is, how busy it is, and processor time spent.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Below this share of busy time the machine counts as quiet.
const QUIET: f64 = 0.10;
/// Over this time the share is taken.
const LOOK: Duration = Duration::from_millis(250);
/// Clock ticks a second, as `/proc` counts them (`USER_HZ`, fixed in the kernel's interface).
const TICKS_PER_S: f64 = 100.0;

/// Processor time since boot, of all processors together, in seconds.
#[derive(Debug, Clone, Copy)]
struct Spent {
    busy_s: f64,
    idle_s: f64,
}

impl Spent {
    fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        Self::parse(&text).context("/proc/stat has no line of all processors")
    }

    /// user nice system idle iowait irq softirq steal: stolen time is nobody's work here.
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| line.starts_with("cpu "))?;
        let ticks: Vec<f64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
        let at = |places: &[usize]| places.iter().map(|&at| ticks.get(at)).sum::<Option<f64>>();
        Some(Self { busy_s: at(&[0, 1, 2, 5, 6])? / TICKS_PER_S, idle_s: at(&[3, 4])? / TICKS_PER_S })
    }

    /// Share of work in the time since `before`, 0 to 1.
    fn share_since(self, before: Self) -> f64 {
        let (busy, idle) = (self.busy_s - before.busy_s, self.idle_s - before.idle_s);
        if busy + idle > 0.0 { busy / (busy + idle) } else { 0.0 }
    }
}

/// Waits until the machine is quiet, at most `patience`; the share of busy time of the last look.
pub(crate) fn quiet(patience: Duration) -> Result<f64> {
    let start = Instant::now();
    loop {
        let before = Spent::now()?;
        std::thread::sleep(LOOK);
        let share = Spent::now()?.share_since(before);
        if share < QUIET || start.elapsed() >= patience {
            return Ok(share);
        }
    }
}

/// Processors that this process may use.
pub(crate) fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The processors for the sender and the receiver of a measurement: one each, where there are two.
pub(crate) fn two_processors() -> Option<(usize, usize)> {
    (processors() >= 2).then_some((0, 1))
}

/// Goes ahead of whatever else runs here: a scheduling group of our own, preferred. What is started
/// afterwards inherits both, every path alike.
pub(crate) fn prefer_us() {
    let _ = nix::unistd::setsid();
    let _ = std::fs::write("/proc/self/autogroup", "-20");
    // SAFETY: setpriority(2) on this process; without the privilege it stays as it is.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -15) };
}

/// Does the same for all processes in these network namespaces (by inode): one that has detached itself has a scheduling
/// group of its own, which nobody prefers.
pub(crate) fn prefer_within(namespaces: &[u64]) {
    for pid in processes().filter(|pid| is_within(*pid, namespaces)) {
        let _ = std::fs::write(format!("/proc/{pid}/autogroup"), "-20");
    }
}

/// Kernel, processors, memory, build and load, for the head of a table.
pub(crate) fn describe() -> String {
    let first = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let model = first("/proc/cpuinfo");
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
    format!(
        "kernel {}, {} processors ({}), {} build, load {}",
        first("/proc/sys/kernel/osrelease"),
        processors(),
        model.trim_start_matches([' ', '\t', ':']),
        profile(),
        first("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
    )
}

/// The folder that Cargo put this program into is called after the profile.
fn profile() -> String {
    let own = std::env::current_exe().unwrap_or_default();
    let folder = own.parent().and_then(Path::file_name).unwrap_or_default();
    folder.to_string_lossy().into_owned()
}

/// Processor seconds that the processes in these network namespaces (by inode) have used so far, and the
/// kernel's softirq threads with them: what a data path costs beside the two ends of a measurement. The
/// kernel charges softirq work to whom it interrupts, so the rest of the path is in the ends' own time.
pub(crate) fn used_within(namespaces: &[u64]) -> f64 {
    processes().filter(|pid| is_within(*pid, namespaces) || is_softirq_thread(*pid)).map(used_by).sum()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_within(pid: u32, namespaces: &[u64]) -> bool {
    let net = std::fs::metadata(format!("/proc/{pid}/ns/net")).map(|meta| meta.ino());
    net.is_ok_and(|ino| namespaces.contains(&ino))
}

fn is_softirq_thread(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
}

/// Processor seconds that a process has used so far, user and system; 0 once it is gone.
fn used_by(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = |n: usize| fields.split_whitespace().nth(n).and_then(|word| word.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / TICKS_PER_S
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_here_is_counted_here() {
        let own = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        let before = used_within(&[own]);
        // At least a tick of work of our own.
        let spin = || used_by(std::process::id());
        let start = spin();
        while spin() < start + 2.0 / TICKS_PER_S {}
        assert!(used_within(&[own]) > before);
    }

    #[test]
    fn work_is_what_is_neither_idle_nor_stolen() {
        let before = Spent::parse("cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 1 1 1 1\n").unwrap();
        let after = Spent::parse("cpu  150 10 120 1090 10 5 15 300 0 0\n").unwrap();
        assert!((after.busy_s - before.busy_s - 1.0).abs() < 1e-9);
        assert!((after.share_since(before) - 0.5).abs() < 1e-9);
        assert!(Spent::parse("intr 1").is_none());
    }
}
