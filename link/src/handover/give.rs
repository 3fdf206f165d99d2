//! The side of the running engine.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
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
            frame::send(&self.stream, estate, fds)?;
            self.wait_for(word::READY, READY_MAX)?;
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
