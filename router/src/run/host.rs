//! Whether this machine can be a gateway, said in one sentence where it cannot; and the lock that keeps a
//! second daemon away.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// The oldest kernel: the first with tcx, which carries every hook (`bpf_mprog`, multi-program tc).
pub const KERNEL_FLOOR: (u32, u32) = (6, 6);
/// The lock in the run folder.
const LOCK: &str = "watari.lock";
/// What is needed, with its bit (capability.h).
const CAPABILITIES: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_SYS_ADMIN", 21)];

/// Why this machine, or this process on it, cannot be a gateway.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel is older than the floor.
    #[error("kernel {found} is too old: watari needs Linux {}.{} or newer, for tcx", KERNEL_FLOOR.0, KERNEL_FLOOR.1)]
    Kernel {
        /// What `uname -r` says.
        found: String,
    },
    /// Capabilities are missing.
    #[error("watari must run as root, or with {} too", .0.join(", "))]
    Capabilities(Vec<&'static str>),
    /// Another daemon has the run folder.
    #[error("another watari (process {pid}) has the lock {}", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// What it wrote there.
        pid: String,
    },
    /// A file or folder cannot be had.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Checks kernel and capabilities.
///
/// # Errors
/// The first thing that is missing, as one sentence.
pub fn check() -> Result<(), HostError> {
    let uname = nix::sys::utsname::uname()
        .map_err(|e| HostError::Io { path: "/proc/sys/kernel/osrelease".into(), source: e.into() })?;
    check_kernel(&uname.release().to_string_lossy())?;
    let path = PathBuf::from("/proc/self/status");
    let status = fs::read_to_string(&path).map_err(|source| HostError::Io { path, source })?;
    check_capabilities(&status)
}

fn check_kernel(release: &str) -> Result<(), HostError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < KERNEL_FLOOR {
        return Err(HostError::Kernel { found: release.to_owned() });
    }
    Ok(())
}

fn check_capabilities(status: &str) -> Result<(), HostError> {
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = effective.and_then(|h| u64::from_str_radix(h.trim(), 16).ok()).unwrap_or(0);
    let missing = CAPABILITIES.into_iter().filter(|(_, bit)| effective >> bit & 1 == 0);
    let missing: Vec<_> = missing.map(|(name, _)| name).collect();
    if missing.is_empty() { Ok(()) } else { Err(HostError::Capabilities(missing)) }
}

/// The lock of a run folder: whoever holds it is the one daemon there. The kernel drops it with the process.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<fs::File>,
}

impl Lock {
    /// Makes the folder where there is none (for its owner alone) and takes its lock.
    ///
    /// # Errors
    /// When another process has it, or the folder cannot be had.
    pub fn take(run_dir: &Path) -> Result<Self, HostError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(run_dir);
        made.map_err(|source| HostError::Io { path: run_dir.to_owned(), source })?;
        let path = run_dir.join(LOCK);
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = opened.map_err(|source| HostError::Io { path: path.clone(), source })?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            if errno != Errno::EWOULDBLOCK {
                return HostError::Io { path: path.clone(), source: errno.into() };
            }
            let pid = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
            HostError::Locked { path: path.clone(), pid }
        })?;
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|source| HostError::Io { path, source })?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_below_the_floor_is_refused_in_one_sentence() {
        let refused = check_kernel("6.1.0-28-cloud-amd64").unwrap_err().to_string();
        assert_eq!(
            refused,
            "kernel 6.1.0-28-cloud-amd64 is too old: watari needs Linux 6.6 or newer, for tcx"
        );
        assert!(check_kernel("5.15").is_err() && check_kernel("nonsense").is_err());
        for new in ["6.6.0", "6.12-cloud", "6.18.5+deb12", "7.0-rc1"] {
            check_kernel(new).unwrap();
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        check_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n").unwrap();
        let refused = check_capabilities("CapEff:\t0000000000001000\n").unwrap_err().to_string();
        assert_eq!(refused, "watari must run as root, or with CAP_NET_RAW, CAP_SYS_ADMIN too");
        assert!(check_capabilities("").is_err());
    }

    #[test]
    fn a_run_folder_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(&dir.path().join("run")).unwrap();
        let second = Lock::take(&dir.path().join("run")).unwrap_err().to_string();
        assert!(second.contains(&format!("process {}", std::process::id())), "{second}");
        drop(first);
        Lock::take(&dir.path().join("run")).unwrap();
    }
}
