//! TCP sockets of BGP sessions, made inside a network namespace: a socket stays in the namespace of the thread
//! that made it, so each is made on a thread of its own that enters the namespace and ends.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

use super::password::{self, Password};

/// linux/in6.h; libc does not name it.
const IPV6_MINHOPCOUNT: libc::c_int = 73;
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
fn bound(local: SocketAddr, ttls: Ttls) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    if local.is_ipv4() {
        socket.set_freebind_v4(true)?;
        // Routing protocols are network control (RFC 4594 §3.1).
        socket.set_tos_v4(0xc0)?;
    } else {
        socket.set_freebind_v6(true)?;
        socket.set_only_v6(true)?;
        socket.set_tclass_v6(0xc0)?;
    }
    limit_ttl(&socket, local.is_ipv4(), ttls)?;
    socket.bind(&local.into())?;
    Ok(socket)
}

/// A listener on `local`.
///
/// # Errors
/// The namespace or the port cannot be had.
pub(super) async fn listen(netns: Option<PathBuf>, local: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let make = move || {
        // The answer to a neighbour that takes what is near alone (RFC 5082) comes before it is known who asks.
        let socket = bound(local, Ttls { sent: u8::MAX, least: None })?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    let socket = inside(netns, make).await?;
    tokio::net::TcpListener::from_std(socket.into())
}

/// TTL of what is sent, and the lowest one that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ttls {
    pub(super) sent: u8,
    pub(super) least: Option<u8>,
}

/// Connects from `local` to `remote`, with signatures if there is a key.
///
/// # Errors
/// The namespace cannot be had, or the connection not be made.
pub(super) async fn connect(
    netns: Option<PathBuf>,
    local: IpAddr,
    remote: SocketAddr,
    ttls: Ttls,
    key: Option<Password>,
) -> io::Result<tokio::net::TcpStream> {
    let make = move || {
        let socket = bound(SocketAddr::new(local, 0), ttls)?;
        if key.is_some() {
            password::set(&socket, password::host(remote.ip()), key.as_ref())?;
        }
        Ok(socket)
    };
    let socket = inside(netns, make).await?;
    tokio::net::TcpSocket::from_std_stream(socket.into()).connect(remote).await
}

/// Gives an accepted connection the TTLs of its peer.
pub(super) fn set_ttls(stream: &tokio::net::TcpStream, ttls: Ttls) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    limit_ttl(&socket, stream.local_addr()?.is_ipv4(), ttls)
}

fn limit_ttl(socket: &Socket, is_ipv4: bool, ttls: Ttls) -> io::Result<()> {
    let (sent, least) = (u32::from(ttls.sent), libc::c_int::from(ttls.least.unwrap_or(0)));
    let (level, name) = if is_ipv4 {
        socket.set_ttl_v4(sent)?;
        (libc::IPPROTO_IP, libc::IP_MINTTL)
    } else {
        socket.set_unicast_hops_v6(sent)?;
        (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT)
    };
    if ttls.least.is_none() {
        return Ok(());
    }
    // SAFETY: the descriptor is open for as long as it is borrowed, and the option is an integer that is read only.
    let done = unsafe {
        let size = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const least).cast(), size)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Tells one namespace from another that later got its name; 0 for the daemon's own, `None` if it is gone.
pub(super) fn namespace_id(netns: Option<&Path>) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    match netns {
        None => Some(0),
        Some(path) => std::fs::metadata(path).ok().map(|m| m.ino()),
    }
}
