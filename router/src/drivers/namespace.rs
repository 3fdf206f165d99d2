//! Network namespaces of tenants, kept by a bind mount in `/run/netns` as `ip netns` does, so that they
//! outlive the daemon and an engineer can enter them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use watari_config::Name;
use watari_planner::item::Ns;

use super::DriverError;

/// Where namespaces have their names.
const FOLDER: &str = "/run/netns";

/// The path of a namespace.
pub fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(name)
}

/// Namespaces of this gateway.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(gateway: &Name) -> Result<BTreeSet<String>, DriverError> {
    let prefix = format!("wt-{gateway}.");
    let entries = match fs::read_dir(FOLDER) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(DriverError::system(format!("read {FOLDER}"), error)),
    };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    Ok(names.filter(|n| n.starts_with(&prefix) && is_mounted(&path(n))).collect())
}

/// A file without a namespace mounted on it is left from a creation that was interrupted.
fn is_mounted(path: &Path) -> bool {
    let parent = fs::metadata(FOLDER).map(|m| m.dev()).ok();
    fs::metadata(path).is_ok_and(|m| Some(m.dev()) != parent)
}

/// Identifies a namespace: one deleted and made again under the same name is another.
///
/// # Errors
/// When there is none of that name.
pub fn inode(name: &str) -> io::Result<u64> {
    fs::metadata(path(name)).map(|m| m.ino())
}

/// Makes a namespace, with its loopback up. One that is there is fine.
///
/// # Errors
/// When the kernel refuses.
pub fn create(name: &str) -> Result<(), DriverError> {
    let path = path(name);
    if is_mounted(&path) {
        return Ok(());
    }
    let fail = |what: &str, e: io::Error| DriverError::system(format!("{what} namespace {name}"), e);
    fs::create_dir_all(FOLDER).map_err(|e| fail("make the folder of", e))?;
    fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| fail("name", e))?;
    let target = path.clone();
    let made = thread::spawn(move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        loopback_up()?;
        // Last: what has its name is whole.
        mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(Into::into)
    });
    made.join().expect("the thread does not panic").map_err(|e| fail("make", e))
}

/// Removes a namespace with all that is in it. One that is gone is fine.
///
/// # Errors
/// When the kernel refuses.
pub fn remove(name: &str) -> Result<(), DriverError> {
    let path = path(name);
    if is_mounted(&path) {
        umount2(&path, MntFlags::MNT_DETACH)
            .map_err(|e| DriverError::system(format!("unmount namespace {name}"), e))?;
    }
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(DriverError::system(format!("remove namespace {name}"), e))
        }
        _ => Ok(()),
    }
}

/// Runs `f` on a thread of its own inside `ns`. Sockets opened there stay in that namespace.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn inside<T, F>(ns: &Ns, f: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let file = match ns {
        Ns::Root => None,
        Ns::Tenant(name) => Some(fs::File::open(path(name))?),
    };
    let thread = thread::spawn(move || -> io::Result<T> {
        if let Some(file) = file {
            setns(file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        }
        Ok(f())
    });
    thread.join().map_err(|_| io::Error::other("a thread in a namespace panicked"))?
}

fn loopback_up() -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: an all-zero ifreq is a valid one; the name is set below and ends with a zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    use std::os::fd::AsRawFd as _;
    // SAFETY: the socket is open and `request` is an ifreq, as SIOCSIFFLAGS expects.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
