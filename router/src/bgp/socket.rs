//! TCP sockets of BGP sessions, made inside a network namespace: a socket stays in the namespace of the thread
//! that made it, so each is made on a thread of its own that enters the namespace and ends.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Runs `make` in a namespace; `None` is the daemon's own.
async fn inside<T, F>(netns: Option<PathBuf>, make: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    let Some(path) = netns else { return make() };
    let (done, result) = tokio::sync::oneshot::channel();
    let work = move || {
        let made = File::open(&path).and_then(|file| {
            setns(file, CloneFlags::CLONE_NEWNET)?;
            make()
        });
        let _ = done.send(made);
    };
    std::thread::Builder::new().name("bgp-socket".into()).spawn(work)?;
    result.await.unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace ended")))
}

/// A socket that may be bound to an address that is not there yet: addresses come and go beside it.
fn bound(local: SocketAddr, ttl: u8) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if local.is_ipv4() {
        socket.set_freebind_v4(true)?;
        socket.set_ttl_v4(u32::from(ttl))?;
        // Routing protocols are network control (RFC 4594 §3.1).
        socket.set_tos_v4(0xc0)?;
    } else {
        socket.set_freebind_v6(true)?;
        socket.set_only_v6(true)?;
        socket.set_unicast_hops_v6(u32::from(ttl))?;
        socket.set_tclass_v6(0xc0)?;
    }
    socket.bind(&local.into())?;
    Ok(socket)
}

/// A listener on `local`.
///
/// # Errors
/// The namespace or the port cannot be had.
pub(super) async fn listen(netns: Option<PathBuf>, local: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let make = move || {
        let socket = bound(local, 64)?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    let socket = inside(netns, make).await?;
    tokio::net::TcpListener::from_std(socket.into())
}

/// Connects from `local` to `remote`.
///
/// # Errors
/// The namespace cannot be had, or the connection not be made.
pub(super) async fn connect(
    netns: Option<PathBuf>,
    local: IpAddr,
    remote: SocketAddr,
    ttl: u8,
) -> io::Result<tokio::net::TcpStream> {
    let socket = inside(netns, move || bound(SocketAddr::new(local, 0), ttl)).await?;
    tokio::net::TcpSocket::from_std_stream(socket.into()).connect(remote).await
}

/// Gives an accepted connection the TTL of its peer.
pub(super) fn set_ttl(stream: &tokio::net::TcpStream, ttl: u8) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    if stream.local_addr()?.is_ipv4() {
        socket.set_ttl_v4(u32::from(ttl))
    } else {
        socket.set_unicast_hops_v6(u32::from(ttl))
    }
}

/// Tells one namespace from another that later got its name; 0 for the daemon's own, `None` if it is gone.
pub(super) fn namespace_id(netns: Option<&Path>) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    match netns {
        None => Some(0),
        Some(path) => std::fs::metadata(path).ok().map(|m| m.ino()),
    }
}
