//! Sockets of BFD: one that receives per (namespace, family, port), which tells by which device and with
//! which TTL a datagram came; one that sends per session, whose source port is the session's own
//! (RFC 5881 §4, RFC 5883 §2).

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::table::{Arrival, TTL};
use crate::protocol::{BfdConfig, BfdHops};

/// UDP port of single-hop sessions (RFC 5881 §4).
const PORT_SINGLE: u16 = 3784;
/// UDP port of multihop sessions (RFC 5883 §5).
const PORT_MULTI: u16 = 4784;
/// Source ports (RFC 5881 §4): 49152 to 65535.
const SOURCE_PORT_FIRST: u16 = 49_152;
const SOURCE_PORTS: u16 = u16::MAX - SOURCE_PORT_FIRST;
/// Source ports that are tried until one is free.
const SOURCE_PORT_TRIES: u16 = 64;
/// Room for what arrives while the thread does something else, in bytes.
const RECEIVE_BUFFER_BYTES: usize = 512 << 10;
/// Control packets ask for the class of network control (RFC 4594 §3.1).
const TOS_NETWORK_CONTROL: u32 = 0xc0;

/// A receiving socket's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) netns: Option<String>,
    pub(super) is_ipv4: bool,
    pub(super) multihop: bool,
}

impl Port {
    /// Where a session's packets arrive.
    pub(super) fn of(config: &BfdConfig) -> Self {
        Self {
            netns: config.netns.clone(),
            is_ipv4: config.remote.is_ipv4(),
            multihop: config.hops != BfdHops::Single,
        }
    }

    fn number(&self) -> u16 {
        if self.multihop { PORT_MULTI } else { PORT_SINGLE }
    }
}

/// A receiving socket.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) port: Port,
    pub(super) socket: UdpSocket,
    /// Identity of its namespace when it was opened.
    pub(super) netns: Option<(u64, u64)>,
}

/// Identity of a namespace: another one of the same path has another.
pub(super) fn identity(netns: &str) -> io::Result<(u64, u64)> {
    std::fs::metadata(netns).map(|meta| (meta.dev(), meta.ino()))
}

/// Calls `work` inside a namespace, on a thread of its own; on this one without a namespace.
pub(super) fn inside<T: Send>(netns: Option<&str>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let Some(path) = netns else { return Ok(work()) };
    let file = File::open(path)?;
    let enter = move || {
        setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        Ok(work())
    };
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("wt-bfd-netns".to_owned()).spawn_scoped(scope, enter)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

/// Opens a receiving socket in the namespace of the calling thread.
pub(super) fn open_port(port: &Port) -> io::Result<UdpSocket> {
    let any =
        if port.is_ipv4 { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let address = SocketAddr::new(any, port.number());
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // More room is welcome, not needed: without the privilege the system's limit holds.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES);
    if !port.multihop {
        from_this_link_only(&socket, port.is_ipv4)?;
    }
    if port.is_ipv4 {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
    } else {
        socket.set_only_v6(true)?;
        setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Lets nothing into the socket's queue that was not sent on this link (RFC 5881 §5): a flood from further away must not push
/// out what the neighbour sends. Whatever is in the queue is judged again.
fn from_this_link_only(socket: &Socket, is_ipv4: bool) -> io::Result<()> {
    // Where TTL or hop limit is, from the network header on.
    let at = if is_ipv4 { 8 } else { 7 };
    let step = |code: u32, jt, jf, k| SockFilter::new(u16::try_from(code).unwrap_or(0), jt, jf, k);
    let program = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, libc::SKF_NET_OFF.cast_unsigned() + at),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::from(TTL)),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ];
    socket.attach_filter(&program)
}

/// A session's own socket.
#[derive(Debug)]
pub(super) struct Sender {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Sender {
    /// Opens it in the namespace of the calling thread. `random` chooses the source port.
    pub(super) fn open(config: &BfdConfig, device_index: Option<u32>, random: u16) -> io::Result<Self> {
        let scope = device_index.unwrap_or(0);
        let any = match config.remote {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let local = config.local.unwrap_or(any);
        let socket = Socket::new(Domain::for_address((local, 0).into()), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if let Some(device) = &config.device {
            socket.bind_device(Some(device.as_bytes()))?;
        }
        if local.is_ipv4() {
            socket.set_ttl_v4(TTL.into())?;
            socket.set_tos_v4(TOS_NETWORK_CONTROL)?;
        } else {
            socket.set_only_v6(true)?;
            socket.set_unicast_hops_v6(TTL.into())?;
            socket.set_tclass_v6(TOS_NETWORK_CONTROL)?;
        }
        bind_source(&socket, local, scope, random)?;
        Ok(Self::of(socket.into(), config, device_index))
    }

    /// The session's socket that is open already.
    pub(super) fn of(socket: UdpSocket, config: &BfdConfig, device_index: Option<u32>) -> Self {
        let to = address(config.remote, Port::of(config).number(), device_index.unwrap_or(0));
        Self { socket, to }
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_to(bytes, self.to).map(drop)
    }
}

/// Takes a free source port, the first that is tried by chance.
fn bind_source(socket: &Socket, local: IpAddr, scope: u32, random: u16) -> io::Result<()> {
    let mut tries = 0;
    loop {
        let port = SOURCE_PORT_FIRST + random.wrapping_add(tries) % (SOURCE_PORTS + 1);
        match socket.bind(&address(local, port, scope).into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < SOURCE_PORT_TRIES => tries += 1,
            done => return done,
        }
    }
}

/// With the device as scope where the address needs one.
fn address(ip: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => SocketAddrV6::new(v6, port, 0, scope).into(),
        other => SocketAddr::new(other, port),
    }
}

/// Takes one datagram from a receiving socket; `None` when there is none left.
pub(super) fn receive(
    socket: &UdpSocket,
    port: &Port,
    buffer: &mut [u8],
) -> io::Result<Option<(usize, Arrival)>> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo, libc::c_int);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
        Ok(message) => message,
        Err(nix::Error::EAGAIN) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let from = message.address.as_ref().and_then(ip).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let mut arrival = Arrival {
        netns: port.netns.clone(),
        multihop: port.multihop,
        from,
        to: from,
        device_index: 0,
        // What the kernel does not tell passes no check.
        ttl: 0,
    };
    for part in message.cmsgs()? {
        match part {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                arrival.to = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into();
                arrival.device_index = info.ipi_ifindex.cast_unsigned();
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                arrival.to = Ipv6Addr::from(info.ipi6_addr.s6_addr).into();
                arrival.device_index = info.ipi6_ifindex;
            }
            ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                arrival.ttl = u8::try_from(ttl).unwrap_or(0);
            }
            _ => {}
        }
    }
    Ok(Some((message.bytes, arrival)))
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_was_sent_further_away_gets_into_the_queue() {
        for address in ["127.0.0.1", "::1"] {
            let address = SocketAddr::new(address.parse().unwrap(), 0);
            let new = || Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP)).unwrap();
            let (to, from) = (new(), new());
            from_this_link_only(&to, address.is_ipv4()).unwrap();
            to.bind(&address.into()).unwrap();
            for ttl in [64, 254, 255, 1] {
                if address.is_ipv4() {
                    from.set_ttl_v4(ttl).unwrap();
                } else {
                    from.set_unicast_hops_v6(ttl).unwrap();
                }
                from.send_to(&[u8::try_from(ttl).unwrap()], &to.local_addr().unwrap()).unwrap();
            }
            let to = UdpSocket::from(to);
            to.set_nonblocking(true).unwrap();
            let mut buffer = [0; 8];
            assert_eq!(to.recv(&mut buffer).unwrap(), 1);
            assert_eq!(buffer[0], 255);
            assert_eq!(to.recv(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }
}
