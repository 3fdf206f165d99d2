//! One TCP connection: a reader and a writer, each a task of its own, so that a peer that does not read or
//! does not send delays nobody else.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use watari_bgp::{ConnId, PeerId};

use super::task::Message;

/// Octets read at once.
const READ_MAX: usize = 64 * 1024;
/// How long a closed connection may take to write what is left.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A connection as the task keeps it; dropped, it is closed at once.
#[derive(Debug)]
pub(super) struct Connection {
    /// The queue to the writer. Its length is limited by the speaker, which gives no more than its credit.
    octets: mpsc::UnboundedSender<Vec<u8>>,
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
        let (read, write) = stream.into_split();
        let (octets, queue) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_all(read, peer, conn, messages.clone())).abort_handle();
        let writer = Some(tokio::spawn(write_all(write, peer, conn, queue, messages.clone())));
        Connection { octets, reader, writer }
    }

    pub(super) fn send(&self, octets: Vec<u8>) {
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

async fn read_all(mut stream: OwnedReadHalf, peer: PeerId, conn: ConnId, messages: mpsc::Sender<Message>) {
    let mut buffer = vec![0; READ_MAX];
    loop {
        let message = match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => Message::Closed(peer, conn),
            Ok(len) => Message::Octets(peer, conn, buffer[..len].to_vec()),
        };
        let last = matches!(message, Message::Closed(..));
        if messages.send(message).await.is_err() || last {
            return;
        }
    }
}

async fn write_all(
    mut stream: OwnedWriteHalf,
    peer: PeerId,
    conn: ConnId,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    messages: mpsc::Sender<Message>,
) {
    while let Some(octets) = queue.recv().await {
        let mut left = &octets[..];
        while !left.is_empty() {
            // Progress is told piece by piece: the send hold timer (RFC 9687) watches it.
            let Ok(len @ 1..) = stream.write(left).await else {
                let _ = messages.send(Message::Closed(peer, conn)).await;
                return;
            };
            left = &left[len..];
            // When nobody listens any more, the last words are still to be written.
            let _ = messages.send(Message::Written(peer, conn, len)).await;
        }
    }
    let _ = stream.shutdown().await;
}
