//! The states of RFC 4271 §8.2.2 and the reasons for leaving them.

use std::fmt;

use crate::wire::Notification;

/// State of a neighbour: that of its most advanced connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Refuses connections, waits before it starts again.
    Idle,
    /// Waits for a connection of its own.
    Connect,
    /// Waits for the other side to connect, or for the retry timer.
    Active,
    /// Has sent OPEN, waits for the other's.
    OpenSent,
    /// Has both OPENs, waits for KEEPALIVE.
    OpenConfirm,
    /// Exchanges routes.
    Established,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Idle => "idle",
            State::Connect => "connect",
            State::Active => "active",
            State::OpenSent => "open-sent",
            State::OpenConfirm => "open-confirm",
            State::Established => "established",
        })
    }
}

/// Why a session went down or a connection failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// The connection was closed or broke without a NOTIFICATION.
    #[error("connection lost")]
    ConnectionLost,
    /// The connection could not be opened.
    #[error("connection failed")]
    ConnectFailed,
    /// We sent a NOTIFICATION.
    #[error("sent {0}")]
    Sent(Notification),
    /// The peer sent a NOTIFICATION.
    #[error("received {0}")]
    Received(Notification),
    /// Closed by us without a NOTIFICATION: the daemon restarts gracefully.
    #[error("graceful shutdown")]
    GracefulShutdown,
    /// The peer opened a new connection in place of an established one (RFC 4724 §5).
    #[error("replaced by a new connection")]
    Replaced,
}
