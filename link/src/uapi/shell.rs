//! The sockets: one for each device, which only its owner may open, and a thread that answers there. One client is answered at a time,
//! and only so long as it keeps talking.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use zeroize::Zeroizing;

use super::change::{Wanted, apply};
use super::text::{self, Errno, LINE_BYTES_MAX, Operation, Reader, Shown};
use crate::daemon::bind_private;

/// How long a client may be silent, or not read, before it is left.
const PATIENCE: Duration = Duration::from_secs(2);

/// Who has the devices.
pub(crate) trait Devices: Send + Sync + 'static {
    /// A device as it is.
    fn show(&self, name: &str) -> Result<Shown, Errno>;

    /// Makes a device be what `change` makes of it.
    fn change(&self, name: &str, change: &dyn Fn(Wanted) -> Wanted) -> Result<(), Errno>;
}

/// The sockets of all devices in one folder.
pub(crate) struct Sockets<D> {
    folder: PathBuf,
    devices: Arc<D>,
    open: BTreeMap<String, Answering>,
    /// Devices whose socket is somebody else's, or could not be made; said once.
    refused: BTreeSet<String>,
}

impl<D: Devices> Sockets<D> {
    /// Sockets in a folder, none yet.
    pub(crate) fn new(folder: &Path, devices: Arc<D>) -> Self {
        Self { folder: folder.to_owned(), devices, open: BTreeMap::new(), refused: BTreeSet::new() }
    }

    /// Has a socket for each of these devices, and no other.
    pub(crate) fn sync(&mut self, names: &BTreeSet<String>) {
        self.open.retain(|name, _| names.contains(name));
        self.refused.retain(|name| names.contains(name));
        for name in names.iter().filter(|name| !self.open.contains_key(*name)).cloned().collect::<Vec<_>>() {
            match self.answer(&name) {
                Ok(answering) => {
                    self.refused.remove(&name);
                    self.open.insert(name, answering);
                }
                Err(error) => {
                    if self.refused.insert(name.clone()) {
                        tracing::warn!(device = name, %error, "wg(8) will not find the device; tried again");
                    }
                }
            }
        }
    }

    /// Opens the socket of one device.
    fn answer(&self, name: &str) -> io::Result<Answering> {
        DirBuilder::new().recursive(true).mode(0o755).create(&self.folder)?;
        let path = self.folder.join(format!("{name}.sock"));
        if UnixStream::connect(&path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let listener = bind_private(&path)?;
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (seen, devices, device) = (Arc::clone(&stop), Arc::clone(&self.devices), name.to_owned());
        let run = move || listen(&listener, &seen, &*devices, &device);
        let thread = thread::Builder::new().name(format!("{name}-uapi")).spawn(run)?;
        Ok(Answering { path, stop, thread: Some(thread) })
    }
}

/// A socket with its thread. Dropping it closes both.
struct Answering {
    path: PathBuf,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        let _ = fs::remove_file(&self.path);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("a thread that answers wg(8) had panicked");
        }
    }
}

fn listen(listener: &UnixListener, stop: &EventFd, devices: &impl Devices, name: &str) {
    loop {
        let mut fds = [stop.as_fd(), listener.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return tracing::error!(%error, "poll"),
        }
        if fds[0].any().unwrap_or(false) {
            return;
        }
        if let Ok((stream, _)) = listener.accept()
            && let Err(error) = converse(&stream, devices, name)
        {
            tracing::debug!(device = name, %error, "wg(8)");
        }
    }
}

/// Answers one client until it goes, or says nothing for [`PATIENCE`].
fn converse(stream: &UnixStream, devices: &impl Devices, name: &str) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut input = BufReader::new(stream);
    let mut reader = Reader::default();
    while let Some(line) = read_line(&mut input)? {
        if let Some(operation) = reader.line(&line) {
            let answer = operation.and_then(|operation| carry_out(operation, devices, name));
            let answer =
                answer.unwrap_or_else(|Errno(number)| Zeroizing::new(format!("errno=-{number}\n\n")));
            let mut output = stream;
            output.write_all(answer.as_bytes())?;
        }
    }
    Ok(())
}

fn carry_out(operation: Operation, devices: &impl Devices, name: &str) -> Result<Zeroizing<String>, Errno> {
    match operation {
        Operation::Get => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(text::answer(&devices.show(name)?, now.as_nanos()))
        }
        Operation::Set(changes) => {
            devices.change(name, &|wanted| apply(wanted, &changes))?;
            Ok(Zeroizing::new("errno=0\n\n".to_owned()))
        }
    }
}

/// One line without its end, cut behind what no line of the protocol has; `None` at the end of the stream.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX) + 2;
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX + 2));
    input.take(limit).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => {
            line.pop();
            Ok(Some(line))
        }
        Some(_) => Err(io::ErrorKind::InvalidData.into()),
    }
}
