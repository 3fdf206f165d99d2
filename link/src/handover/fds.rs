//! Descriptors on their way to another process: a list, and places in it that the state refers to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::HandoverError;

/// Descriptors that go to the other process. They are copies: the sender keeps its own.
#[derive(Debug, Default)]
pub(crate) struct SentFds(pub(super) Vec<OwnedFd>);

impl SentFds {
    /// Adds a copy; the result is its place.
    pub(crate) fn put(&mut self, fd: impl AsFd) -> io::Result<usize> {
        self.0.push(fd.as_fd().try_clone_to_owned()?);
        Ok(self.0.len() - 1)
    }
}

/// Descriptors that came.
#[derive(Debug, Default)]
pub(crate) struct Fds(pub(super) Vec<Option<OwnedFd>>);

impl Fds {
    /// Takes the one at a place out: each belongs to one thing.
    pub(crate) fn take(&mut self, place: usize) -> Result<OwnedFd, HandoverError> {
        self.0.get_mut(place).and_then(Option::take).ok_or(HandoverError::NoDescriptor(place))
    }
}

impl From<SentFds> for Fds {
    /// For a former owner that takes its own back.
    fn from(sent: SentFds) -> Self {
        Self(sent.0.into_iter().map(Some).collect())
    }
}
