//! A small HTTP/1.1 listener for machines: one request a connection, everything bounded. Used for the two
//! listeners beside the operator API: enrolment (TLS) and the gateways among each other.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;
/// How long a TLS handshake, and then a request's head, may take.
const HEAD_WAIT_MAX: Duration = Duration::from_secs(5);
/// The most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// The pause after `accept` failed, for want of file descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where a request comes from, in its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What a listener lets happen.
pub struct Gate<A> {
    /// The most connections at a time; more are hung up on.
    pub connections_max: usize,
    /// How long a connection may last in all.
    pub connection_wait_max: Duration,
    /// Whether an address may connect at all.
    pub admit: A,
    /// Speak TLS.
    pub tls: Option<TlsAcceptor>,
}

/// A listener on an address that may come later or go meanwhile.
///
/// # Errors
/// When the port cannot be had.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts until the future is dropped.
pub async fn serve<A>(listener: TcpListener, gate: Gate<A>, router: Router)
where
    A: Fn(IpAddr) -> bool,
{
    let places = Arc::new(Semaphore::new(gate.connections_max));
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !(gate.admit)(address.ip().to_canonical()) {
            tracing::debug!(%address, "hung up on");
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::debug!(%address, "too many connections");
            continue;
        };
        let (router, tls, wait) = (router.clone(), gate.tls.clone(), gate.connection_wait_max);
        tokio::spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            let conversation = async {
                match tls {
                    None => converse(stream, address, router).await,
                    Some(tls) => match tokio::time::timeout(HEAD_WAIT_MAX, tls.accept(stream)).await {
                        Ok(Ok(stream)) => converse(stream, address, router).await,
                        _ => tracing::debug!(%address, "no TLS handshake"),
                    },
                }
            };
            let _ = tokio::time::timeout(wait, conversation).await;
        });
    }
}

async fn converse<IO>(io: IO, address: SocketAddr, router: Router)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(address));
        router.clone().oneshot(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEAD_WAIT_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), service);
    if let Err(error) = connection.await {
        tracing::debug!(%address, %error, "a connection broke");
    }
}
