//! The UDP side of a device: one socket per address family on one port, as kernel WireGuard has it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::whole::WholeSender;

/// Kernel buffers asked for, in bytes: half a second of what one core can open.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Tries to find a port that is free for both families.
const ANY_PORT_TRIES: usize = 16;
/// How long a sender waits for room in the socket's buffer before the packet is dropped.
const SEND_WAIT: Duration = Duration::from_millis(50);

/// The sockets of a device. A family that the machine does not have is left out.
#[derive(Debug)]
pub(super) struct UdpPair {
    pub(super) v4: Option<UdpSocket>,
    pub(super) v6: Option<UdpSocket>,
    port: u16,
    whole: WholeSender,
}

impl UdpPair {
    /// Binds both families to the port; 0 takes any port that is free in both.
    pub(super) fn bind(port: u16) -> io::Result<Self> {
        let mut tries = if port == 0 { ANY_PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match Self::bind_once(port) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                result => return result,
            }
        }
    }

    fn bind_once(port: u16) -> io::Result<Self> {
        let v4 = optional(bind_family(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))))?;
        let port = match &v4 {
            Some(socket) => socket.local_addr()?.port(),
            None => port,
        };
        let v6 = optional(bind_family(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))))?;
        let port = match (&v4, &v6) {
            (None, None) => return Err(io::ErrorKind::AddrNotAvailable.into()),
            (None, Some(socket)) => socket.local_addr()?.port(),
            _ => port,
        };
        Ok(Self { v4, v6, port, whole: WholeSender::open() })
    }

    /// The port in use.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Sends one datagram that must not be fragmented on its way.
    pub(super) fn send_whole(&self, packet: &[u8], to: SocketAddr) -> io::Result<()> {
        self.whole.send(packet, self.port, to)
    }

    /// Sends one datagram, waiting a moment if the socket's buffer is full.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) -> io::Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let socket = socket.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        match socket.send_to(packet, to) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for_room(socket)?;
                socket.send_to(packet, to).map(drop)
            }
            result => result.map(drop),
        }
    }
}

fn wait_for_room(socket: &UdpSocket) -> io::Result<()> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(SEND_WAIT).unwrap_or(PollTimeout::ZERO);
    poll(&mut fds, timeout)?;
    Ok(())
}

/// A family the kernel was built or booted without is no failure.
fn optional(result: io::Result<UdpSocket>) -> io::Result<Option<UdpSocket>> {
    match result {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn bind_family(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Room for bursts is welcome, not needed: without the privilege the system's limit holds.
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        let bytes = libc::c_int::try_from(SOCKET_BUFFER_BYTES).unwrap_or(libc::c_int::MAX);
        let _ = set_int(socket.as_raw_fd(), libc::SOL_SOCKET, option, bytes);
    }
    // As kernel WireGuard: the outer packet may be fragmented on its way, and is not lost for a
    // path MTU that somebody learnt wrong.
    let (level, option, value) = if address.is_ipv4() {
        (libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
    } else {
        (libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT)
    };
    set_int(socket.as_raw_fd(), level, option, value)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn set_int(fd: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: `value` is an int that outlives the call, and `length` is its size.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_port_is_one_port_for_both_families() {
        let pair = UdpPair::bind(0).unwrap();
        assert_ne!(pair.port(), 0);
        for socket in [&pair.v4, &pair.v6].into_iter().flatten() {
            assert_eq!(socket.local_addr().unwrap().port(), pair.port());
        }
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let pair = UdpPair::bind(0).unwrap();
        let error = UdpPair::bind(pair.port()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
