//! The listeners: a Unix socket for root, TCP and TLS when told. HTTP/1.1, everything bounded.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use watari_config::bootstrap::Api;

use super::auth::Caller;
use crate::run::stopped;
use crate::store::{Secrets, SecretsError};

/// The socket in the run folder.
pub const SOCKET: &str = "api.sock";
/// The most connections of one listener; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// How long a request's head may take, and an idle connection live.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(15);
/// How long a TLS handshake may take.
const HANDSHAKE_WAIT_MAX: Duration = Duration::from_secs(10);
/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long connections may finish when the daemon ends.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(2);
/// The pause after `accept` failed, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The socket or port cannot be had.
    #[error("cannot listen on {at}: {source}")]
    Bind {
        /// The socket or port.
        at: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is no usable certificate.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
}

/// Opened listeners that serve nothing yet.
pub struct Listeners {
    unix: UnixListener,
    socket: PathBuf,
    tcp: Option<(TcpListener, Option<TlsAcceptor>)>,
}

impl Listeners {
    /// Opens the socket in `run_dir` and, where `api` says so, the port. A socket that is there is taken to
    /// be left over: whoever calls holds the lock of the run folder.
    ///
    /// # Errors
    /// When one of them cannot be had.
    pub async fn open(run_dir: &Path, api: &Api, secrets: &Secrets) -> Result<Self, ListenError> {
        let socket = run_dir.join(SOCKET);
        let unix = open_unix(&socket)
            .map_err(|source| ListenError::Bind { at: socket.display().to_string(), source })?;
        let tcp = match api.listen {
            Some(address) => {
                let bound = TcpListener::bind(address).await;
                let listener =
                    bound.map_err(|source| ListenError::Bind { at: address.to_string(), source })?;
                let tls = if api.tls { Some(TlsAcceptor::from(secrets.tls_server()?)) } else { None };
                Some((listener, tls))
            }
            None => None,
        };
        Ok(Self { unix, socket, tcp })
    }

    /// Serves `router` until `stop` becomes true, then lets requests finish for a short while.
    pub async fn serve(self, router: Router, stop: watch::Receiver<bool>) {
        let unix = Listener::Unix(self.unix).serve(router.clone(), stop.clone());
        match self.tcp {
            Some((listener, tls)) => {
                tokio::join!(unix, Listener::Tcp(listener, tls).serve(router, stop));
            }
            None => unix.await,
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn open_unix(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// An open listener of either kind.
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener, Option<TlsAcceptor>),
}

/// A connection before its first octet.
enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr, Option<TlsAcceptor>),
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
            Self::Tcp(listener, tls) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream, address, tls.clone()))
            }
        }
    }

    /// Accepts until `stop` becomes true, at most [`CONNECTIONS_MAX`] at a time, then waits for what is open.
    async fn serve(self, router: Router, mut stop: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut open = JoinSet::new();
        loop {
            let next = async {
                let place = places.clone().acquire_owned().await.expect("never closed");
                (place, self.accept().await)
            };
            let (place, accepted) = tokio::select! {
                next = next => next,
                Some(_) = open.join_next() => continue,
                () = stopped(&mut stop) => break,
            };
            match accepted {
                Ok(accepted) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    open.spawn(async move {
                        let _place = place;
                        connect(accepted, router, stop).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        let _ = tokio::time::timeout(DRAIN_WAIT_MAX, open.join_all()).await;
    }
}

async fn connect(accepted: Accepted, router: Router, stop: watch::Receiver<bool>) {
    match accepted {
        Accepted::Unix(stream) => match stream.peer_cred() {
            Ok(other) => {
                let caller = Caller::Unix { uid: other.uid(), pid: other.pid() };
                converse(stream, caller, router, stop).await;
            }
            Err(error) => tracing::debug!(%error, "a caller without credentials"),
        },
        Accepted::Tcp(stream, address, None) => converse(stream, Caller::Tcp(address), router, stop).await,
        Accepted::Tcp(stream, address, Some(tls)) => connect_tls(stream, address, tls, router, stop).await,
    }
}

async fn connect_tls(
    stream: TcpStream,
    address: SocketAddr,
    tls: TlsAcceptor,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    match tokio::time::timeout(HANDSHAKE_WAIT_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => converse(stream, Caller::Tcp(address), router, stop).await,
        Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
    }
}

/// Serves one connection; when the daemon ends, its running request is still answered.
async fn converse<IO>(io: IO, caller: Caller, router: Router, mut stop: watch::Receiver<bool>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(caller.clone());
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke");
    }
}
