//! What can go wrong in a driver.

use std::io;
use std::path::PathBuf;

/// Why the system could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The kernel refused a netlink request.
    #[error("{what}: {source}")]
    Netlink {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Something of the name is there and does not carry our mark.
    #[error("{what} exists and is not ours; it is left alone")]
    Foreign {
        /// What it is.
        what: String,
    },
    /// Something that must be there is not.
    #[error("{what} does not exist")]
    Missing {
        /// What it is.
        what: String,
    },
    /// The datapath refused.
    #[error("datapath: {0}")]
    Datapath(#[from] watari_dataplane::Error),
    /// More than a table of the datapath holds.
    #[error("{what} exceeds the limit of {limit}")]
    Limit {
        /// What it is.
        what: String,
        /// How many are possible.
        limit: usize,
    },
    /// `watari-link` refused, or is not there.
    #[error("watari-link: {0}")]
    Link(#[from] watari_link::client::ClientError),
    /// The same about `watari-link` as was said before: it was not asked again.
    #[error("{message}")]
    LinkAgain {
        /// What was said.
        message: String,
    },
    /// `watari-link` could not be started.
    #[error("watari-link ({}) could not be started: {message}", path.display())]
    LinkStart {
        /// The program.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

impl DriverError {
    /// A failed system call.
    pub fn system(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::System { what: what.into(), source: source.into() }
    }
}
