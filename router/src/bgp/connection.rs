//! One TCP connection: a reader and a writer, each a task of its own, so that a peer that does not read or
//! does not send delays nobody else.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use watari_bgp::speaker::Octets;
use watari_bgp::{ConnId, PeerId};

use super::password::{self, Password};
use super::task::Message;

/// Octets read at once.
const READ_MAX: usize = 64 * 1024;
/// Pieces written at once.
const WRITE_PARTS_MAX: usize = 16;
/// How long a closed connection may take to write what is left.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A connection as the task keeps it; dropped, it is closed at once.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: PeerId,
    /// For options of the socket; gone as soon as the connection is to be closed.
    socket: Option<OwnedFd>,
    /// The queue to the writer. Its length is limited by the speaker, which gives no more than its credit.
    octets: mpsc::UnboundedSender<Octets>,
    reader: AbortHandle,
    writer: Option<JoinHandle<()>>,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        peer: PeerId,
        conn: ConnId,
        messages: &mpsc::Sender<Message>,
    ) -> Connection {
        let socket = stream.as_fd().try_clone_to_owned().ok();
        let (read, write) = stream.into_split();
        let (octets, queue) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_all(read, peer, conn, messages.clone())).abort_handle();
        let writer = Some(tokio::spawn(write_all(write, peer, conn, queue, messages.clone())));
        Connection { peer, socket, octets, reader, writer }
    }

    /// Changes the key of its signatures; the other side must do so within the hold time.
    pub(super) fn sign(&self, remote: IpNet, key: Option<&Password>) -> io::Result<()> {
        self.socket.as_ref().map_or(Ok(()), |socket| password::set(socket, remote, key))
    }

    pub(super) fn send(&self, octets: Octets) {
        // A writer that has ended has told so: the connection is about to be closed.
        let _ = self.octets.send(octets);
    }

    /// Closes once everything is written, or cannot be within a short time. The task returned ends then.
    pub(super) fn close(mut self) -> Option<JoinHandle<()>> {
        let mut writer = self.writer.take()?;
        Some(tokio::spawn(async move {
            // Dropping the queue's end lets the writer finish.
            drop(self);
            if tokio::time::timeout(CLOSE_LIMIT, &mut writer).await.is_err() {
                writer.abort();
            }
        }))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        if let Some(writer) = &self.writer {
            writer.abort();
        }
    }
}

async fn read_all(stream: OwnedReadHalf, peer: PeerId, conn: ConnId, messages: mpsc::Sender<Message>) {
    loop {
        let message = match read(&stream).await {
            Some(octets) => Message::Octets(peer, conn, octets),
            None => Message::Closed(peer, conn),
        };
        let last = matches!(message, Message::Closed(..));
        if messages.send(message).await.is_err() || last {
            return;
        }
    }
}

/// What is there, once something is: while nothing is, no buffer waits for it.
async fn read(stream: &OwnedReadHalf) -> Option<Vec<u8>> {
    loop {
        stream.readable().await.ok()?;
        let mut buffer = Vec::with_capacity(READ_MAX);
        match stream.try_read_buf(&mut buffer) {
            Ok(0) => return None,
            Ok(_) => {
                if buffer.len() < READ_MAX / 4 {
                    buffer.shrink_to_fit();
                }
                return Some(buffer);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

async fn write_all(
    mut stream: OwnedWriteHalf,
    peer: PeerId,
    conn: ConnId,
    mut queue: mpsc::UnboundedReceiver<Octets>,
    messages: mpsc::Sender<Message>,
) {
    let mut waiting: Vec<Octets> = Vec::with_capacity(WRITE_PARTS_MAX);
    while queue.recv_many(&mut waiting, WRITE_PARTS_MAX).await > 0 {
        let mut parts: Vec<IoSlice<'_>> = waiting.iter().map(|octets| IoSlice::new(octets)).collect();
        let mut left = &mut parts[..];
        while !left.is_empty() {
            // Progress is told piece by piece: the send hold timer (RFC 9687) watches it.
            let Ok(len @ 1..) = stream.write_vectored(left).await else {
                let _ = messages.send(Message::Closed(peer, conn)).await;
                return;
            };
            IoSlice::advance_slices(&mut left, len);
            // When nobody listens any more, the last words are still to be written.
            let _ = messages.send(Message::Written(peer, conn, len)).await;
        }
        waiting.clear();
    }
    let _ = stream.shutdown().await;
}
