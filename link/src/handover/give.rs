//! The side of the running engine.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

use super::{Estate, HANDOVER_VERSION, HandoverError, Preparation, SentFds, frame, word};
use crate::protocol::{Refusal, RefusalCode, TakeOverRequest};

/// How long a successor may take to make things ready while packets flow.
const PREPARE_MAX: Duration = Duration::from_secs(20);
/// How long it may take while they wait. Queues hold about a second of a busy tunnel's packets.
const READY_MAX: Duration = Duration::from_secs(2);

/// A successor that asks, at the other end of its connection.
pub(crate) struct Giver {
    stream: UnixStream,
    pid: u32,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Given {
    /// It was told to go: nothing may be touched any more.
    Gone,
    /// Not, and it is not going to read.
    Kept(HandoverError),
}

fn refusal(code: RefusalCode, message: String) -> Refusal {
    Refusal { code, field: None, message }
}

impl Giver {
    /// A connection that has asked in this version, if it may have what it asks for.
    pub(crate) fn new(stream: &UnixStream, request: &TakeOverRequest) -> Result<Self, Refusal> {
        let system = |error: io::Error| refusal(RefusalCode::System, error.to_string());
        if request.version != HANDOVER_VERSION {
            let message =
                format!("this engine hands over in version {HANDOVER_VERSION}, not {}", request.version);
            return Err(refusal(RefusalCode::Version, message));
        }
        if own_netns().map_err(system)? != request.netns {
            let message = "the successor is in another network namespace".to_owned();
            return Err(refusal(RefusalCode::Foreign, message));
        }
        let peer = getsockopt(stream, PeerCredentials).map_err(|errno| system(errno.into()))?;
        if peer.uid() != nix::unistd::geteuid().as_raw() {
            return Err(refusal(RefusalCode::Foreign, format!("user {} is not ours", peer.uid())));
        }
        let pid = peer.pid().cast_unsigned();
        // A successor outside of the unit would not be ended, restarted and bounded with it.
        if std::env::var_os("NOTIFY_SOCKET").is_some() && cgroup("self") != cgroup(&pid.to_string()) {
            let message = format!("process {pid} is not of our unit: systemctl reload watari-link");
            return Err(refusal(RefusalCode::Foreign, message));
        }
        Ok(Self { stream: stream.try_clone().map_err(system)?, pid })
    }

    /// The successor's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends what can be made ready, and waits until it is.
    pub(crate) fn prepare(&self, preparation: &Preparation) -> Result<(), HandoverError> {
        self.wait_for(word::BEGIN, PREPARE_MAX)?;
        frame::send(&self.stream, preparation, &SentFds::default())?;
        self.wait_for(word::PREPARED, PREPARE_MAX)
    }

    /// Sends the rest, waits until the successor has it, and lets it go.
    pub(crate) fn give(&self, estate: &Estate, fds: &SentFds) -> Given {
        let give = || -> Result<(), HandoverError> {
            let patience = Patience::start(&self.stream, READY_MAX)?;
            frame::send(&self.stream, estate, fds)?;
            self.wait_for(word::READY, READY_MAX)?;
            drop(patience);
            let gone = (&self.stream).write_all(&[word::GO]);
            gone.map_err(|error| HandoverError::Channel("say go", error))
        };
        match give() {
            Ok(()) => Given::Gone,
            Err(error) => {
                // Whatever it says from here on, it gets no answer.
                let _ = self.stream.shutdown(std::net::Shutdown::Both);
                Given::Kept(error)
            }
        }
    }

    fn wait_for(&self, wanted: u8, timeout: Duration) -> Result<(), HandoverError> {
        let failed = |error| HandoverError::Channel("wait for the successor", error);
        self.stream.set_read_timeout(Some(timeout)).map_err(failed)?;
        self.stream.set_write_timeout(Some(timeout)).map_err(failed)?;
        super::hear(&self.stream, wanted, "wait for the successor")
    }
}

/// Ends a conversation that takes longer than it may, whatever it is at: a successor that reads a little now and then would
/// make a limit of each write no limit of the whole. Dropping it ends the watch.
struct Patience {
    ended: Option<mpsc::Sender<()>>,
    watch: Option<thread::JoinHandle<()>>,
}

impl Patience {
    fn start(stream: &UnixStream, limit: Duration) -> Result<Self, HandoverError> {
        let failed = |error| HandoverError::Channel("watch the time", error);
        let stream = stream.try_clone().map_err(failed)?;
        let (ended, end) = mpsc::channel();
        let watch = thread::Builder::new().name("wt-patience".to_owned()).spawn(move || {
            if end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        });
        Ok(Self { ended: Some(ended), watch: Some(watch.map_err(failed)?) })
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        drop(self.ended.take());
        if let Some(watch) = self.watch.take() {
            let _ = watch.join();
        }
    }
}

/// Device and inode of the network namespace of this process.
pub(super) fn own_netns() -> io::Result<(u64, u64)> {
    let meta = fs::metadata("/proc/self/ns/net")?;
    Ok((meta.dev(), meta.ino()))
}

fn cgroup(process: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{process}/cgroup")).ok()
}

pub(super) fn read_word(mut stream: &UnixStream) -> io::Result<u8> {
    let mut found = [0];
    stream.read_exact(&mut found)?;
    Ok(found[0])
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_conversation_that_takes_too_long_is_ended_whatever_it_is_at() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let reader = thread::spawn(move || {
            // A little now and then, until nothing comes any more.
            let mut read = [0; 4096];
            while theirs.read(&mut read).is_ok_and(|read| read > 0) {
                thread::yield_now();
            }
        });
        let started = Instant::now();
        let patience = Patience::start(&ours, Duration::from_millis(100)).unwrap();
        // More than would ever be read.
        let ended = std::iter::repeat(()).find_map(|()| ours.write_all(&[0; 65_536]).err()).unwrap();
        assert_eq!(ended.kind(), io::ErrorKind::BrokenPipe);
        assert!(started.elapsed() >= Duration::from_millis(100));
        drop(patience);
        reader.join().unwrap();
    }

    #[test]
    fn who_is_in_time_is_left_alone() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        drop(Patience::start(&ours, Duration::from_secs(60)).unwrap());
        ours.write_all(b"go").unwrap();
        let mut read = [0; 2];
        theirs.read_exact(&mut read).unwrap();
    }
}
