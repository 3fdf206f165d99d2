//! Processes in namespaces: run to the end within a limit, or in the background with a log.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Ns;
use crate::registry;
use crate::wait::patient;

/// How much of a log is shown when something failed.
const TAIL_BYTES: usize = 8_000;

/// A background process in a namespace. Dropping it ends it; if a test is failing just then, the end of
/// its log is printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ns: Ns,
}

impl Process {
    /// Starts `command` (made by [`Ns::command`] of the same namespace) with a fresh log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(ns: &Ns, command: Command) -> Result<Self> {
        let program = Path::new(command.get_program()).file_name().unwrap_or_default();
        let name = program.to_string_lossy().into_owned();
        let log = registry::scratch_dir(&name)?.join("log");
        Self::start_logging(ns, command, &log)
    }

    /// The same, appending to the log at `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_logging(ns: &Ns, mut command: Command, log: &Path) -> Result<Self> {
        let program = Path::new(command.get_program()).file_name().unwrap_or_default();
        let name = program.to_string_lossy().into_owned();
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = spawn_for_good(command).with_context(|| format!("start {name}"))?;
        Ok(Self { name, child, log: log.to_owned(), ns: ns.clone() })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The namespace it was started in.
    #[must_use]
    pub fn ns(&self) -> &Ns {
        &self.ns
    }

    /// The file it writes to.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.nix_pid(), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait_child(&mut self.child, limit).with_context(|| format!("wait for {}", self.name))
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and SIGKILL after `limit`; its exit status.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        let ended = self.wait(limit);
        if ended.is_err() {
            self.kill9()?;
        }
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if registry::keeping() {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {} in {}\n{}", self.name, self.ns.label(), tail(&self.log()));
        }
    }
}

/// Holds the calling thread, and what it starts from then on, to one processor; `None` leaves it free. A
/// processor that is not there is no error: the thread stays where it may run.
pub fn hold_to(processor: Option<usize>) {
    let Some(processor) = processor else { return };
    let mut set = nix::sched::CpuSet::new();
    if set.set(processor).is_ok() {
        let _ = nix::sched::sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// The last part of a log.
#[must_use]
pub fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(TAIL_BYTES);
    let from = (from..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(from);
    &text[from..]
}

/// Spawns from a thread that lives as long as we do: `PR_SET_PDEATHSIG` follows the thread that forked.
fn spawn_for_good(command: Command) -> std::io::Result<Child> {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static ORDERS: OnceLock<Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (send, receive) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in receive {
                let _ = answer.send(command.spawn());
            }
        });
        send
    });
    let (send, receive) = channel();
    let gone = || std::io::Error::other("the spawning thread is gone");
    orders.send((command, send)).map_err(|_| gone())?;
    receive.recv().map_err(|_| gone())?
}

/// Runs to the end; standard output if it succeeded.
///
/// # Errors
/// When it fails or takes longer than `limit`; both outputs are in the message.
pub fn output(command: &mut Command, limit: Duration) -> Result<String> {
    let ended = finish(command, limit)?;
    ensure!(ended.status.success(), "{command:?}: {}\n{}{}", ended.status, ended.out, ended.err);
    Ok(ended.out)
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// Runs to the end, successful or not.
///
/// # Errors
/// When it cannot be started or takes longer than `limit`.
pub fn finish(command: &mut Command, limit: Duration) -> Result<Ended> {
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let ended = wait_child(&mut child, limit);
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (out, err) = (text(&mut out)?, text(&mut err)?);
    match ended {
        Ok(status) => Ok(Ended { status, out, err }),
        Err(error) => Err(error.context(format!("{command:?}\n{out}{err}"))),
    }
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits on the child's pidfd.
fn wait_child(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    // One that was looked at after its end is no process any more, but its status is known.
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    // SAFETY: pidfd_open(2) on a child that was not yet waited for; the descriptor becomes ours.
    let fd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
        ensure!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(i32::try_from(fd)?)
    };
    let limit = patient(limit);
    let timeout = PollTimeout::try_from(limit.as_millis()).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(&fd), PollFlags::POLLIN)];
    while let Err(error) = poll(&mut fds, timeout) {
        ensure!(error == nix::errno::Errno::EINTR, "poll: {error}");
    }
    match child.try_wait()? {
        Some(status) => Ok(status),
        None => bail!("still running after {} ms", limit.as_millis()),
    }
}
