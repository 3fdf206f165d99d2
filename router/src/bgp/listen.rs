//! Listeners: one per namespace, address and port that some peer has, kept open through everything that may
//! happen to the namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::socket;
use super::task::Message;

/// Wait before a failed listener is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) netns: Option<PathBuf>,
    pub(super) local: SocketAddr,
}

/// A connection that somebody made to us.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) place: Place,
    pub(super) remote: IpAddr,
    pub(super) stream: TcpStream,
}

/// All listeners; dropping them closes them.
#[derive(Debug, Default)]
pub(super) struct Listeners(BTreeMap<Place, AbortHandle>);

impl Listeners {
    /// Makes these the listeners.
    pub(super) fn set(&mut self, wanted: &BTreeSet<Place>, messages: &mpsc::Sender<Message>) {
        self.0.retain(|place, task| {
            let keep = wanted.contains(place);
            if !keep {
                task.abort();
            }
            keep
        });
        for place in wanted {
            self.0
                .entry(place.clone())
                .or_insert_with(|| tokio::spawn(serve(place.clone(), messages.clone())).abort_handle());
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.0.values().for_each(AbortHandle::abort);
    }
}

/// Listens for ever: again after a failure, and anew when the namespace is another one.
async fn serve(place: Place, messages: mpsc::Sender<Message>) {
    let mut told = false;
    loop {
        let namespace = socket::namespace_id(place.netns.as_deref());
        match socket::listen(place.netns.clone(), place.local).await {
            Ok(listener) => {
                told = false;
                accept(&place, namespace, &listener, &messages).await;
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(local = %place.local, netns = ?place.netns, %error, "cannot listen for BGP");
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Accepts until the listener breaks or the namespace under its name is no longer the one it is in.
async fn accept(
    place: &Place,
    namespace: Option<u64>,
    listener: &tokio::net::TcpListener,
    messages: &mpsc::Sender<Message>,
) {
    let mut check = tokio::time::interval(RETRY);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, remote)) = accepted else { return };
                let accepted = Accepted { place: place.clone(), remote: remote.ip(), stream };
                if messages.send(Message::Accepted(accepted)).await.is_err() {
                    return;
                }
            }
            _ = check.tick() => {
                if socket::namespace_id(place.netns.as_deref()) != namespace {
                    return;
                }
            }
        }
    }
}
