//! The UDP side of a device: one socket per address family on one port, as kernel WireGuard has it.
//!
//! A run of datagrams of one size to one place is one system call (`UDP_SEGMENT`), and so is the
//! receiving of one (`UDP_GRO`). Where the kernel or a path refuses the first, the run is sent one
//! by one; nothing is lost by the refusal.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockRef, Socket, Type};

use super::offers::{EngineOptions, Offload};
use super::whole::WholeSender;

/// Kernel buffers asked for, in bytes: half a second of what one core can open.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Tries to find a port that is free for both families.
const ANY_PORT_TRIES: usize = 16;
/// How long a sender waits for room in the socket's buffer before the packet is dropped.
const SEND_WAIT: Duration = Duration::from_millis(50);
/// Most datagrams of one send that kernels take: the first from Linux 6.9 on, the second before.
const SEGMENTS_MAX: [usize; 2] = [128, 64];
/// Most octets of one send: what an IPv4 packet can hold behind its header and UDP's.
const SEND_BYTES_MAX: usize = 65_535 - 20 - 8;
/// Most octets that one receive gives.
pub(super) const RECEIVE_BYTES_MAX: usize = 65_535;

/// The sockets of a device. A family that the machine does not have is left out.
#[derive(Debug)]
pub(super) struct UdpPair {
    pub(super) v4: Option<UdpSocket>,
    pub(super) v6: Option<UdpSocket>,
    port: u16,
    /// Most datagrams of one send; 1: the kernel does not take several.
    segments: AtomicUsize,
    gro: bool,
    whole: WholeSender,
}

/// What is known of the path to one place.
#[derive(Debug)]
pub(super) struct PathHint {
    /// Datagrams of this length and above cannot be sent several at once: the path's MTU is smaller, and
    /// the kernel cuts a run only into datagrams that it need not fragment.
    alone_from: AtomicUsize,
}

impl Default for PathHint {
    fn default() -> Self {
        Self { alone_from: AtomicUsize::new(usize::MAX) }
    }
}

impl PathHint {
    /// Forgets: the path may have changed.
    pub(super) fn forget(&self) {
        self.alone_from.store(usize::MAX, Ordering::Relaxed);
    }
}

/// Where datagrams go, and from which address of ours: the one that the peer sent to, so that a gateway with several
/// answers from the one it was asked at. The kernel's choice without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) to: SocketAddr,
    pub(super) from: Option<IpAddr>,
}

impl Way {
    /// There, from whichever address the kernel takes.
    pub(super) fn to(to: SocketAddr) -> Self {
        Self { to, from: None }
    }
}

/// Datagrams of one size to one place, one behind the other; the last may be shorter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) bytes: &'a [u8],
    /// Octets of each datagram but the last.
    pub(super) segment: usize,
    pub(super) way: Way,
    /// TOS or traffic class of the outer packets: DSCP (RFC 2983) and ECN (RFC 6040).
    pub(super) tos: u8,
}

/// One receive: datagrams of one size from one place, one behind the other; the last may be shorter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received {
    pub(super) from: SocketAddr,
    /// The address of ours that it was sent to.
    pub(super) local: Option<IpAddr>,
    pub(super) length: usize,
    pub(super) segment: usize,
    /// TOS or traffic class of the outer packets.
    pub(super) tos: u8,
}

impl Received {
    /// The way back.
    pub(super) fn way(&self) -> Way {
        Way { to: self.from, from: self.local }
    }
}

impl UdpPair {
    /// Binds both families to the port; 0 takes any port that is free in both.
    pub(super) fn bind(port: u16, options: &EngineOptions) -> io::Result<Self> {
        let mut tries = if port == 0 { ANY_PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            match Self::bind_once(port, options) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
                result => return result,
            }
        }
    }

    fn bind_once(port: u16, options: &EngineOptions) -> io::Result<Self> {
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
        Ok(Self::of(v4, v6, port, options))
    }

    /// The sockets of a former process.
    pub(super) fn take_up(
        v4: Option<UdpSocket>,
        v6: Option<UdpSocket>,
        options: &EngineOptions,
    ) -> io::Result<Self> {
        let port = match v4.as_ref().or(v6.as_ref()) {
            Some(socket) => socket.local_addr()?.port(),
            None => return Err(io::ErrorKind::AddrNotAvailable.into()),
        };
        Ok(Self::of(v4, v6, port, options))
    }

    fn of(v4: Option<UdpSocket>, v6: Option<UdpSocket>, port: u16, options: &EngineOptions) -> Self {
        let supports = |offload, option, value| {
            options.allows(offload)
                && [&v4, &v6].into_iter().flatten().all(|socket: &UdpSocket| {
                    set_int(socket.as_raw_fd(), libc::SOL_UDP, option, value).is_ok()
                })
        };
        // A segment size of 0 changes nothing; a kernel that knows the option takes it.
        let segments = if supports(Offload::UdpSegment, libc::UDP_SEGMENT, 0) { SEGMENTS_MAX[0] } else { 1 };
        let gro = supports(Offload::UdpGro, libc::UDP_GRO, 1);
        if !options.allows(Offload::UdpGro) {
            // A former process may have asked for it.
            for socket in [&v4, &v6].into_iter().flatten() {
                let _ = set_int(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 0);
            }
        }
        Self { v4, v6, port, segments: AtomicUsize::new(segments), gro, whole: WholeSender::open() }
    }

    /// Marks what is sent (`SO_MARK`); 0: not.
    pub(super) fn set_mark(&self, mark: u32) -> io::Result<()> {
        for socket in [&self.v4, &self.v6].into_iter().flatten() {
            SockRef::from(socket).set_mark(mark)?;
        }
        self.whole.set_mark(mark)
    }

    /// The port in use.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Most datagrams of one send; 1: `UDP_SEGMENT` is not used.
    pub(super) fn segments_max(&self) -> usize {
        self.segments.load(Ordering::Relaxed)
    }

    /// True if one receive may give several datagrams.
    pub(super) fn gro(&self) -> bool {
        self.gro
    }

    /// Sends one datagram that must not be fragmented on its way.
    pub(super) fn send_whole(&self, packet: &[u8], way: Way) -> io::Result<()> {
        self.whole.send(packet, self.port, way)
    }

    /// Sends a handshake message, cookie or keepalive, and waits for nothing: whoever sends one has other peers to see to. Where
    /// data fills the socket's buffer it leaves by the raw socket, which has a buffer of its own.
    pub(super) fn send(&self, packet: &[u8], way: Way) -> io::Result<()> {
        self.send_marked(packet, way, 0)
    }

    /// The same with a TOS or traffic class.
    pub(super) fn send_marked(&self, packet: &[u8], way: Way, tos: u8) -> io::Result<()> {
        let run = Run { bytes: packet, segment: packet.len(), way, tos };
        match send_message(self.socket(way.to)?, &run, packet, false) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.send_whole(packet, way),
            result => result,
        }
    }

    /// Sends a run. The result is how many datagrams could not be sent, and why the last of them.
    pub(super) fn send_run(&self, run: &Run<'_>, hint: &PathHint) -> Result<(), (usize, io::Error)> {
        let mut failed = None;
        let mut rest = run.bytes;
        let mut most = self.segments_max();
        while !rest.is_empty() {
            let several = if run.segment >= hint.alone_from.load(Ordering::Relaxed) {
                1
            } else {
                most.min(SEND_BYTES_MAX / run.segment).max(1)
            };
            let (now, later) = rest.split_at(rest.len().min(several * run.segment));
            match self.send_at_once(run, now, run.segment) {
                // So many it takes, and more it refused: that is the kernel's limit, not the path's.
                Ok(()) if now.len().div_ceil(run.segment) == most => {
                    self.segments.fetch_min(most, Ordering::Relaxed);
                }
                Ok(()) => {}
                // It goes again in smaller pieces.
                Err(error) if now.len() > run.segment => match self.learn(&error, several, run.segment, hint)
                {
                    Some(fewer) => {
                        most = fewer;
                        continue;
                    }
                    None => failed = Some(lost(failed, now, run.segment, error)),
                },
                Err(error) => failed = Some(lost(failed, now, run.segment, error)),
            }
            rest = later;
        }
        failed.map_or(Ok(()), Err)
    }

    /// Draws the conclusion of a refused run: how many to try together instead. `None`: the refusal is not about there
    /// being several.
    fn learn(&self, error: &io::Error, several: usize, segment: usize, hint: &PathHint) -> Option<usize> {
        match error.raw_os_error() {
            // An older kernel, or too long for the path: fewer tell which.
            Some(libc::EINVAL) if several > SEGMENTS_MAX[1] => return Some(SEGMENTS_MAX[1]),
            Some(libc::EINVAL | libc::EMSGSIZE) => {
                hint.alone_from.fetch_min(segment, Ordering::Relaxed);
            }
            // A device without checksum offload below an older kernel's socket, or no such option.
            Some(libc::EIO | libc::EOPNOTSUPP | libc::ENOPROTOOPT) => {
                if self.segments.swap(1, Ordering::Relaxed) > 1 {
                    tracing::warn!(port = self.port, %error, "UDP_SEGMENT is refused and not used any more");
                }
            }
            _ => return None,
        }
        Some(self.segments_max())
    }

    fn socket(&self, to: SocketAddr) -> io::Result<&UdpSocket> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        Ok(socket.as_ref().ok_or(io::ErrorKind::Unsupported)?)
    }

    fn send_at_once(&self, run: &Run<'_>, bytes: &[u8], segment: usize) -> io::Result<()> {
        let socket = self.socket(run.way.to)?;
        let several = bytes.len() > segment;
        match send_message(socket, run, bytes, several) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait_for_room(socket)?;
                send_message(socket, run, bytes, several)
            }
            result => result,
        }
    }
}

/// One more failure of a run: how many datagrams it cost so far, and why the last of them.
fn lost(
    before: Option<(usize, io::Error)>,
    bytes: &[u8],
    segment: usize,
    error: io::Error,
) -> (usize, io::Error) {
    (before.map_or(0, |(count, _)| count) + bytes.len().div_ceil(segment), error)
}

fn is_about_source(error: &io::Error) -> bool {
    let about = [libc::EINVAL, libc::EADDRNOTAVAIL, libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENODEV];
    error.raw_os_error().is_some_and(|code| about.contains(&code))
}

/// Room for control messages, aligned as their headers are.
#[repr(align(8))]
struct Control([u8; 128]);

/// Sends octets; `several`: the kernel cuts them into datagrams of the run's size.
fn send_message(socket: &UdpSocket, run: &Run<'_>, bytes: &[u8], several: bool) -> io::Result<()> {
    match send_once(socket, run, bytes, several) {
        // The address that the peer sent to may be ours no more, or lead there no more.
        Err(error) if run.way.from.is_some() && is_about_source(&error) => {
            let run = Run { way: Way::to(run.way.to), ..*run };
            send_once(socket, &run, bytes, several)
        }
        result => result,
    }
}

/// One `sendmsg`; `several`: the kernel cuts the octets into datagrams of the run's size.
fn send_once(socket: &UdpSocket, run: &Run<'_>, bytes: &[u8], several: bool) -> io::Result<()> {
    let address = SockAddr::from(run.way.to);
    let mut slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = Control([0; 128]);
    // SAFETY: msghdr is plain data for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.len();
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    let mut used = 0;
    if several {
        let segment = u16::try_from(run.segment).map_err(|_| io::ErrorKind::InvalidInput)?;
        used += put_control(&mut control.0[used..], libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    if let Some(from) = run.way.from {
        used += put_source(&mut control.0[used..], from);
    }
    if run.tos != 0 {
        let value = libc::c_int::from(run.tos).to_ne_bytes();
        let (level, option) = if run.way.to.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_TOS)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        };
        used += put_control(&mut control.0[used..], level, option, &value);
    }
    message.msg_controllen = used;
    if used == 0 {
        message.msg_control = std::ptr::null_mut();
    }
    // SAFETY: every pointer of the message is to something that outlives the call, with its length;
    // the kernel writes to none of it.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes the control message that chooses the source address, and no device (ip(7), RFC 3542 §6.2).
fn put_source(room: &mut [u8], from: IpAddr) -> usize {
    match from {
        IpAddr::V4(from) => {
            // struct in_pktinfo: device, source, destination as it stood in the header.
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&from.octets());
            put_control(room, libc::IPPROTO_IP, libc::IP_PKTINFO, &info)
        }
        IpAddr::V6(from) => {
            // struct in6_pktinfo: source, device.
            let mut info = [0; 20];
            info[..16].copy_from_slice(&from.octets());
            put_control(room, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info)
        }
    }
}

/// The address of ours in what the kernel says of an arriving datagram. One that is of a single link alone says nothing
/// without its device.
fn local_address(kind: libc::c_int, data: &[u8]) -> Option<IpAddr> {
    match kind {
        libc::IP_PKTINFO if data.len() == 12 => {
            let octets: [u8; 4] = data.get(4..8)?.try_into().ok()?;
            Some(IpAddr::V4(octets.into()))
        }
        libc::IPV6_PKTINFO => {
            let octets: [u8; 16] = data.get(..16)?.try_into().ok()?;
            let address = Ipv6Addr::from(octets);
            (!address.is_unicast_link_local() && !address.is_multicast()).then_some(IpAddr::V6(address))
        }
        _ => None,
    }
}

/// Writes one control message and returns the room that it takes.
fn put_control(room: &mut [u8], level: libc::c_int, kind: libc::c_int, data: &[u8]) -> usize {
    let header = size_of::<libc::cmsghdr>();
    let length = header + data.len();
    // struct cmsghdr: length, level, kind, in the machine's order; the data behind it is aligned.
    room[..8].copy_from_slice(&(length as u64).to_ne_bytes());
    room[8..12].copy_from_slice(&level.to_ne_bytes());
    room[12..16].copy_from_slice(&kind.to_ne_bytes());
    room[header..length].copy_from_slice(data);
    length.next_multiple_of(size_of::<usize>())
}

/// One `recvmsg` into the buffer, which should have room for [`RECEIVE_BYTES_MAX`]. `WouldBlock`: there
/// is nothing.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut storage = SockAddrStorage::zeroed();
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = Control([0; 128]);
    // SAFETY: msghdr is plain data for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut storage).cast();
    message.msg_namelen = storage.size_of();
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: every pointer of the message is to something that outlives the call, with its length.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel wrote an address of this length.
    let from = unsafe { SockAddr::new(storage, message.msg_namelen) };
    let from = from.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    let mut result = Received { from, local: None, length, segment: length, tos: 0 };
    let mut rest = control.0.get(..message.msg_controllen).unwrap_or_default();
    while let Some((level, kind, data, next)) = take_control(rest) {
        let number = match (data.first_chunk(), data.first()) {
            (Some(int), _) => u32::from_ne_bytes(*int),
            (None, first) => first.copied().unwrap_or_default().into(),
        };
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                result.segment = usize::try_from(number).unwrap_or(length).clamp(1, length.max(1));
            }
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                result.tos = u8::try_from(number & 0xff).unwrap_or(0);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) | (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                result.local = local_address(kind, data);
            }
            _ => {}
        }
        rest = next;
    }
    Ok(result)
}

/// The first control message: level, kind, data, and what follows.
fn take_control(room: &[u8]) -> Option<(libc::c_int, libc::c_int, &[u8], &[u8])> {
    let header = size_of::<libc::cmsghdr>();
    let int = |at: usize| Some(libc::c_int::from_ne_bytes(room.get(at..at + 4)?.try_into().ok()?));
    let length = usize::from_ne_bytes(room.get(..8)?.try_into().ok()?);
    let data = room.get(header..length)?;
    let next = room.get(length.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    Some((int(8)?, int(12)?, data, next))
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
    // Of what arrives, the outer ECN (RFC 6040 §4.2) and the address of ours that it was sent to.
    let (level, options) = if address.is_ipv4() {
        (libc::SOL_IP, [libc::IP_RECVTOS, libc::IP_PKTINFO])
    } else {
        (libc::SOL_IPV6, [libc::IPV6_RECVTCLASS, libc::IPV6_RECVPKTINFO])
    };
    for option in options {
        set_int(socket.as_raw_fd(), level, option, 1)?;
    }
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

    fn pair(without: &[Offload]) -> UdpPair {
        UdpPair::bind(0, &EngineOptions { without: without.to_vec(), threads: None }).unwrap()
    }

    fn all(socket: &UdpSocket, count: usize) -> Vec<Received> {
        let mut buffer = vec![0; RECEIVE_BYTES_MAX];
        let mut received = Vec::new();
        let mut datagrams = 0;
        while datagrams < count {
            match receive(socket, &mut buffer) {
                Ok(one) => {
                    datagrams += one.length.div_ceil(one.segment);
                    received.push(one);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                    assert_eq!(poll(&mut fds, 5_000_u16), Ok(1), "{datagrams} of {count} arrived");
                }
                Err(error) => panic!("{error}"),
            }
        }
        received
    }

    #[test]
    fn any_port_is_one_port_for_both_families() {
        let pair = pair(&[]);
        assert_ne!(pair.port(), 0);
        for socket in [&pair.v4, &pair.v6].into_iter().flatten() {
            assert_eq!(socket.local_addr().unwrap().port(), pair.port());
        }
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let taken = pair(&[]);
        let error = UdpPair::bind(taken.port(), &EngineOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_run_arrives_whole_with_its_ecn_with_and_without_the_offloads() {
        let settings: [&[Offload]; 3] = [&[], &[Offload::UdpGro], &[Offload::UdpSegment, Offload::UdpGro]];
        for without in settings {
            let (from, to) = (pair(without), pair(without));
            for address in ["127.0.0.1", "::1"] {
                let to_address = SocketAddr::new(address.parse().unwrap(), to.port());
                // More than one send can hold, and a shorter last one.
                let bytes = vec![7; 70 * 1_452 + 32];
                let way = Way { to: to_address, from: Some(to_address.ip()) };
                let run = Run { bytes: &bytes, segment: 1_452, way, tos: 0b10 };
                from.send_run(&run, &PathHint::default()).unwrap();
                let socket = if to_address.is_ipv4() { &to.v4 } else { &to.v6 };
                let received = all(socket.as_ref().unwrap(), 71);
                assert_eq!(received.iter().map(|one| one.length).sum::<usize>(), bytes.len());
                assert!(received.iter().all(|one| one.tos == 0b10 && one.from.port() == from.port()));
                assert!(received.iter().all(|one| one.local == Some(to_address.ip())), "{received:?}");
                let largest = received.iter().map(|one| one.length).max();
                assert!(to.gro() || largest == Some(1_452), "{without:?}: {largest:?}");
            }
        }
    }

    #[test]
    fn a_run_of_many_small_ones_is_as_many_datagrams() {
        let (from, to) = (pair(&[]), pair(&[]));
        let to_address = SocketAddr::new("127.0.0.1".parse().unwrap(), to.port());
        let bytes = vec![7; 300 * 32];
        let run = Run { bytes: &bytes, segment: 32, way: Way::to(to_address), tos: 0 };
        from.send_run(&run, &PathHint::default()).unwrap();
        let received = all(to.v4.as_ref().unwrap(), 300);
        assert_eq!(received.iter().map(|one| one.length / 32).sum::<usize>(), 300);
    }

    #[test]
    fn what_is_sent_leaves_from_the_address_that_was_asked_for_while_that_is_ours() {
        let (from, to) = (pair(&[]), pair(&[]));
        let to_address = SocketAddr::new("127.0.0.1".parse().unwrap(), to.port());
        for (wanted, seen) in [("127.0.0.7", "127.0.0.7"), ("192.0.2.77", "127.0.0.1")] {
            let way = Way { to: to_address, from: Some(wanted.parse().unwrap()) };
            from.send(b"hello", way).unwrap();
            let received = all(to.v4.as_ref().unwrap(), 1)[0];
            assert_eq!(received.from.ip(), seen.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn refusals_are_learnt_from() {
        let pair = pair(&[]);
        let hint = PathHint::default();
        let refused = |code| io::Error::from_raw_os_error(code);
        let learnt = || (pair.segments_max(), hint.alone_from.load(Ordering::Relaxed));
        // Too many for the kernel, or each too long for the path: nothing is concluded before fewer were tried.
        assert_eq!(pair.learn(&refused(libc::EINVAL), 128, 32, &hint), Some(64));
        assert_eq!(learnt(), (128, usize::MAX));
        assert_eq!(pair.learn(&refused(libc::EINVAL), 64, 1_452, &hint), Some(128));
        assert_eq!(learnt(), (128, 1_452));
        assert_eq!(pair.learn(&refused(libc::EMSGSIZE), 44, 1_400, &hint), Some(128));
        assert_eq!(learnt(), (128, 1_400));
        assert_eq!(pair.learn(&refused(libc::ENETUNREACH), 44, 1_452, &hint), None);
        assert_eq!(pair.learn(&refused(libc::EIO), 44, 1_452, &hint), Some(1));
        assert_eq!(pair.segments_max(), 1);
    }
}
