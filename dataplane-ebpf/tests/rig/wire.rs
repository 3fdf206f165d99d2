//! A packet socket on a device of a namespace: frames with their tags as they are on the wire.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::{
    io,
    mem::zeroed,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use super::netns::Netns;

const ETH_P_ALL: u16 = 0x0003;
const VLAN_VALID: u32 = 1 << 4;

pub struct Wire {
    socket: OwnedFd,
    ifindex: i32,
}

impl Wire {
    pub fn open(space: &Netns, device: &str) -> Self {
        let ifindex = space.index_of(device) as i32;
        let socket = space.enter(|| {
            // SAFETY: plain system calls with valid arguments; the descriptor is owned at once.
            unsafe {
                let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
                let fd = libc::socket(libc::AF_PACKET, kind, i32::from(ETH_P_ALL.to_be()));
                assert!(fd >= 0, "{}", io::Error::last_os_error());
                let socket = OwnedFd::from_raw_fd(fd);
                let mut address: libc::sockaddr_ll = zeroed();
                address.sll_family = libc::AF_PACKET as u16;
                address.sll_protocol = ETH_P_ALL.to_be();
                address.sll_ifindex = ifindex;
                let size = size_of::<libc::sockaddr_ll>() as u32;
                assert_eq!(libc::bind(fd, (&raw const address).cast(), size), 0);
                let on = 1_i32;
                let on = (&raw const on).cast();
                assert_eq!(libc::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_AUXDATA, on, 4), 0);
                socket
            }
        });
        Self { socket, ifindex }
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: a valid descriptor and buffer.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
    }

    /// The next frame that came in, with all its tags in its bytes.
    pub fn receive(&self) -> Option<Vec<u8>> {
        loop {
            let (frame, outgoing) = self.take()?;
            if !outgoing {
                return Some(frame);
            }
        }
    }

    fn take(&self) -> Option<(Vec<u8>, bool)> {
        let mut buffer = [0_u8; 2048];
        let mut control = [0_u64; 16];
        // SAFETY: all pointers are to live memory of the told size; ancillary data is walked as libc says.
        unsafe {
            let mut from: libc::sockaddr_ll = zeroed();
            let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let mut message: libc::msghdr = zeroed();
            message.msg_name = (&raw mut from).cast();
            message.msg_namelen = size_of::<libc::sockaddr_ll>() as u32;
            message.msg_iov = &raw mut piece;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            let length = libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0);
            if length < 0 {
                return None;
            }
            let mut frame = buffer[..length as usize].to_vec();
            let head = libc::CMSG_FIRSTHDR(&raw const message);
            if !head.is_null() && (*head).cmsg_type == libc::PACKET_AUXDATA {
                let aux = libc::CMSG_DATA(head).cast::<libc::tpacket_auxdata>().read_unaligned();
                if aux.tp_status & VLAN_VALID != 0 {
                    let [a, b] = aux.tp_vlan_tpid.to_be_bytes();
                    let [c, d] = aux.tp_vlan_tci.to_be_bytes();
                    frame.splice(12..12, [a, b, c, d]);
                }
            }
            Some((frame, from.sll_pkttype == libc::PACKET_OUTGOING))
        }
    }
}
