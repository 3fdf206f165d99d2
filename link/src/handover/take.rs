//! The side of the successor.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::give::own_netns;
use super::{Estate, Fds, HANDOVER_VERSION, HandoverError, Preparation, frame, word};
use crate::client::{Client, ClientError};
use crate::protocol::{Answer, Request, TakeOverRequest};

/// How long the running engine may take for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why nothing was taken over. The running engine goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// It cannot be asked, or says no.
    #[error("the running engine does not hand over")]
    Refused(#[source] ClientError),
    /// It broke off.
    #[error("the handover failed; the former engine goes on")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<HandoverError> for TakeOverError {
    fn from(error: HandoverError) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// A running engine that hands over.
pub(crate) struct Taker {
    stream: UnixStream,
}

impl Taker {
    /// Asks the engine at the socket. `None`: there is none.
    pub(crate) fn ask(socket: &Path) -> Result<Option<Self>, TakeOverError> {
        let mut client = match Client::connect(socket) {
            Ok(client) => client,
            Err(error) if error.is_not_running() => return Ok(None),
            Err(error) => return Err(TakeOverError::Refused(error)),
        };
        let cannot = |error| HandoverError::Channel("look at our network namespace", error);
        let request = Request::TakeOver(TakeOverRequest {
            version: HANDOVER_VERSION,
            netns: own_netns().map_err(cannot)?,
        });
        match client.request(request).map_err(TakeOverError::Refused)? {
            Answer::TakingOver => {}
            _ => return Err(TakeOverError::Refused(ClientError::Protocol("another answer".to_owned()))),
        }
        let stream = client.into_stream();
        let set =
            stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        set.map_err(|error| HandoverError::Channel("set a timeout", error))?;
        Ok(Some(Self { stream }))
    }

    fn say(&self, word: u8) -> Result<(), HandoverError> {
        (&self.stream)
            .write_all(&[word])
            .map_err(|error| HandoverError::Channel("speak to the former engine", error))
    }

    /// What can be made ready.
    pub(crate) fn preparation(&self) -> Result<Preparation, HandoverError> {
        self.say(word::BEGIN)?;
        Ok(frame::receive(&self.stream)?.0)
    }

    /// The rest. From here on packets wait.
    pub(crate) fn estate(&self) -> Result<(Estate, Fds), HandoverError> {
        self.say(word::PREPARED)?;
        frame::receive(&self.stream)
    }

    /// Says that everything is here, and waits for the word. Before it nothing may be read.
    pub(crate) fn go(self) -> Result<(), HandoverError> {
        self.say(word::READY)?;
        super::hear(&self.stream, word::GO, "wait for the former engine")
    }
}
