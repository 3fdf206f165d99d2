//! A small HTTP/1.1 listener for machines: one request a connection, everything bounded. Used for the two
//! listeners beside the operator API: enrolment (TLS) and the gateways among each other.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// The most of them from one address.
    pub per_address_max: usize,
    /// How long a connection may last in all.
    pub connection_wait_max: Duration,
    /// Whether an address may connect at all.
    pub admit: A,
    /// Speak TLS.
    pub tls: Option<TlsAcceptor>,
}

/// Open connections by address.
type Seats = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One of the connections that an address may have; free again when dropped.
struct Seat {
    seats: Seats,
    address: IpAddr,
}

impl Seat {
    fn take(seats: &Seats, address: IpAddr, most: usize) -> Option<Self> {
        let mut taken = seats.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(address).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Self { seats: seats.clone(), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
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
    let seats = Seats::default();
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
        let place = places.clone().try_acquire_owned().ok();
        let seat = Seat::take(&seats, address.ip().to_canonical(), gate.per_address_max);
        let (Some(place), Some(seat)) = (place, seat) else {
            tracing::debug!(%address, "too many connections");
            continue;
        };
        let (router, tls, wait) = (router.clone(), gate.tls.clone(), gate.connection_wait_max);
        tokio::spawn(async move {
            let _held = (place, seat);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_seats_and_gets_them_back() {
        let (seats, address) = (Seats::default(), "192.0.2.1".parse().unwrap());
        let held: Vec<_> = (0..2).map(|_| Seat::take(&seats, address, 2)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(Seat::take(&seats, address, 2).is_none());
        assert!(Seat::take(&seats, "192.0.2.2".parse().unwrap(), 2).is_some());
        drop(held);
        assert!(Seat::take(&seats, address, 2).is_some());
        assert!(seats.lock().unwrap().is_empty(), "nothing is kept of who has gone");
    }
}
