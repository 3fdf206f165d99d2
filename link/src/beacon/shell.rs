//! The thread with the one socket through which all beacons leave. The socket receives nothing (protocol 0) and is
//! bound to no device, so devices may come, go and be made anew: each frame names the index of its own.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::{Domain, Socket, Type};

use super::set::{BeaconSet, Entry, SLOT, SLOTS};
use crate::lock;
use crate::protocol::{BeaconConfig, BeaconStatus};
use crate::state::StoredBeacon;

/// How long the index of a device is believed: one that was renamed keeps its own.
const INDEX_AGE_MAX: Duration = Duration::from_secs(1);

struct Common {
    set: Mutex<(BeaconSet, bool)>,
    wake: EventFd,
}

/// The running sender. Dropping it stops the thread.
pub(crate) struct BeaconShell {
    common: Arc<Common>,
    thread: Option<JoinHandle<()>>,
}

impl BeaconShell {
    /// Starts the thread with the beacons of a former process.
    pub(crate) fn start(stored: &[StoredBeacon]) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let common = Arc::new(Common { set: Mutex::new((BeaconSet::restored(stored), false)), wake });
        let mut shell = Self { common, thread: None };
        shell.resume()?;
        Ok(shell)
    }

    /// Ends the thread; everything else stays as it is.
    pub(crate) fn pause(&mut self) {
        lock(&self.common.set).1 = true;
        self.common.wake();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the beacon thread had panicked");
        }
    }

    /// Goes on after [`BeaconShell::pause`].
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        lock(&self.common.set).1 = false;
        let seen = Arc::clone(&self.common);
        let run = move || Sender { common: seen, socket: None, indices: Indices::default() }.run();
        self.thread = Some(thread::Builder::new().name("wt-beacons".to_owned()).spawn(run)?);
        Ok(())
    }

    /// Makes the set of beacons be as wanted (it was validated).
    pub(crate) fn set(&self, wanted: Vec<BeaconConfig>) -> Vec<String> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let touched = lock(&self.common.set).0.set(wanted, now_ms);
        if !touched.is_empty() {
            tracing::info!(touched = touched.len(), "beacons set");
        }
        self.common.wake();
        touched
    }

    /// Every beacon as it is.
    pub(crate) fn list(&self) -> Vec<BeaconStatus> {
        lock(&self.common.set).0.list()
    }

    /// For the state file.
    pub(crate) fn stored(&self) -> Vec<StoredBeacon> {
        lock(&self.common.set).0.stored()
    }
}

impl Drop for BeaconShell {
    fn drop(&mut self) {
        self.pause();
    }
}

impl Common {
    fn wake(&self) {
        // A full eventfd is readable as well, which is all that is wanted.
        let _ = self.wake.write(1);
    }
}

struct Sender {
    common: Arc<Common>,
    /// None until a beacon is to be sent, and while the system refuses one.
    socket: Option<Socket>,
    indices: Indices,
}

impl Sender {
    fn run(mut self) {
        let (mut slot, mut due) = (0, Instant::now());
        loop {
            let now = Instant::now();
            let common = Arc::clone(&self.common);
            let mut guard = lock(&common.set);
            let (set, stop) = &mut *guard;
            if *stop {
                return;
            }
            if now >= due {
                self.send(set.take_due(slot), now);
                // After a pause (the machine slept, nothing was to be sent) the rhythm begins anew.
                due = if now > due + SLOT * SLOTS as u32 { now + SLOT } else { due + SLOT };
                slot = (slot + 1) % SLOTS;
            } else {
                self.send(set.take_urgent(), now);
            }
            let busy = set.busy_slots();
            drop(guard);
            if busy == 0 {
                self.wait(None);
                continue;
            }
            while slot >= busy {
                due += SLOT;
                slot = (slot + 1) % SLOTS;
            }
            self.wait(Some(due.saturating_duration_since(Instant::now())));
        }
    }

    /// Waits for a change, or as long as said.
    fn wait(&self, timeout: Option<Duration>) {
        // Rounded up: a slot that is looked at early is only looked at again.
        let rounded = timeout.map(|t| PollTimeout::try_from(t + Duration::from_millis(1)));
        let timeout = rounded.map_or(PollTimeout::NONE, |t| t.unwrap_or(PollTimeout::MAX));
        let mut fds = [PollFd::new(self.common.wake.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => drop(self.common.wake.read()),
            Err(error) => tracing::error!(%error, "poll"),
        }
    }

    fn send<'a>(&mut self, beacons: impl Iterator<Item = (&'a str, &'a mut Entry)>, now: Instant) {
        for (device, entry) in beacons {
            let sent = self.send_one(device, &entry.frame, now);
            entry.note(sent.map_err(|error| error.to_string()));
        }
    }

    fn send_one(&mut self, device: &str, frame: &[u8], now: Instant) -> io::Result<()> {
        if self.socket.is_none() {
            self.socket = Some(open()?);
        }
        let Some(socket) = &self.socket else { return Ok(()) };
        let index = self.indices.of(device, now)?;
        match send_to(socket, index, frame) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) => {
                self.indices.forget(device);
                send_to(socket, self.indices.of(device, now)?, frame)
            }
            done => done,
        }
    }
}

/// Indices of devices by name, each believed for [`INDEX_AGE_MAX`].
#[derive(Default)]
struct Indices(BTreeMap<String, (u32, Instant)>);

impl Indices {
    fn of(&mut self, device: &str, now: Instant) -> io::Result<u32> {
        if let Some((index, read)) = self.0.get(device)
            && now.saturating_duration_since(*read) < INDEX_AGE_MAX
        {
            return Ok(*index);
        }
        self.forget(device);
        let index = nix::net::if_::if_nametoindex(device)?;
        self.0.insert(device.to_owned(), (index, now));
        Ok(index)
    }

    fn forget(&mut self, device: &str) {
        self.0.remove(device);
    }
}

/// A socket that sends whole frames and receives none.
fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    // A device that is choked must not choke the others: what does not fit is counted as not sent.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn send_to(socket: &Socket, index: u32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain integers, for which all zeroes are valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    // The type behind the addresses, as it lies on the wire: of the outer tag, where there is one.
    address.sll_protocol = u16::from_ne_bytes([frame[12], frame[13]]);
    address.sll_ifindex = libc::c_int::try_from(index).map_err(io::Error::other)?;
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: frame and address live through the call, each with its length.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            length,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
