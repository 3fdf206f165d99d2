//! Listeners: one per namespace, address and port that some peer has, kept open through everything that may
//! happen to the namespace.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::password::{self, Password};
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

/// Whose segments must be signed, and with what (RFC 2385).
pub(super) type Keys = BTreeMap<IpNet, Password>;

#[derive(Debug)]
struct Listening {
    task: AbortHandle,
    keys: watch::Sender<Keys>,
}

/// All listeners; dropping them closes them.
#[derive(Debug, Default)]
pub(super) struct Listeners(BTreeMap<Place, Listening>);

impl Listeners {
    /// Makes these the listeners.
    pub(super) fn set(&mut self, wanted: BTreeMap<Place, Keys>, messages: &mpsc::Sender<Message>) {
        self.0.retain(|place, listening| {
            let keep = wanted.contains_key(place);
            if !keep {
                listening.task.abort();
            }
            keep
        });
        for (place, keys) in wanted {
            let listening = self.0.entry(place.clone()).or_insert_with(|| {
                let (sender, receiver) = watch::channel(Keys::new());
                let task = tokio::spawn(serve(place, receiver, messages.clone())).abort_handle();
                Listening { task, keys: sender }
            });
            listening.keys.send_if_modified(|present| {
                let changed = *present != keys;
                *present = keys;
                changed
            });
        }
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.0.values().for_each(|listening| listening.task.abort());
    }
}

/// Listens for ever: again after a failure, and anew when the namespace is another one.
async fn serve(place: Place, mut keys: watch::Receiver<Keys>, messages: mpsc::Sender<Message>) {
    let mut told = false;
    loop {
        let namespace = socket::namespace_id(place.netns.as_deref());
        match socket::listen(place.netns.clone(), place.local).await {
            Ok(listener) => {
                told = false;
                accept(&place, namespace, &listener, &mut keys, &messages).await;
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

/// Tells the kernel what differs. What is accepted before it knows a key is signed from then on or goes no further: the
/// key is set again on every connection.
fn sign(place: &Place, listener: &tokio::net::TcpListener, present: &Keys, wanted: &Keys) {
    let gone = present.keys().filter(|remote| !wanted.contains_key(remote)).map(|remote| (remote, None));
    let changed = wanted.iter().filter(|(remote, key)| present.get(remote) != Some(key));
    for (remote, key) in gone.chain(changed.map(|(remote, key)| (remote, Some(key)))) {
        if let Err(error) = password::set(listener, *remote, key) {
            tracing::warn!(local = %place.local, %remote, %error, "cannot set a TCP MD5 key");
        }
    }
}

/// Accepts until the listener breaks or the namespace under its name is no longer the one it is in.
async fn accept(
    place: &Place,
    namespace: Option<u64>,
    listener: &tokio::net::TcpListener,
    keys: &mut watch::Receiver<Keys>,
    messages: &mpsc::Sender<Message>,
) {
    let mut check = tokio::time::interval(RETRY);
    let mut set = keys.borrow_and_update().clone();
    sign(place, listener, &Keys::new(), &set);
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, remote)) = accepted else { return };
                let accepted = Accepted { place: place.clone(), remote: remote.ip(), stream };
                if messages.send(Message::Accepted(accepted)).await.is_err() {
                    return;
                }
            }
            Ok(()) = keys.changed() => {
                let wanted = keys.borrow_and_update().clone();
                sign(place, listener, &set, &wanted);
                set = wanted;
            }
            _ = check.tick() => {
                if socket::namespace_id(place.netns.as_deref()) != namespace {
                    return;
                }
            }
        }
    }
}
