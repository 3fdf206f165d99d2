//! TCP MD5 signatures (RFC 2385): the key of a session, and how the kernel is told.
//!
//! Linux keeps keys per socket and neighbour (`TCP_MD5SIG_EXT`, tcp(7)). A listener has those of all neighbours that
//! may come to it, and a connection that is accepted inherits its own. A key may be changed under a living
//! connection: it goes on if the neighbour changes its own within the hold time.

use std::fmt;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::fd::AsRawFd as _;

use ipnet::IpNet;

/// The longest key, in bytes (`TCP_MD5SIG_MAXKEYLEN`).
pub const KEY_BYTES_MAX: usize = 80;
/// The length of the prefix counts.
const FLAG_PREFIX: u8 = 1;

/// The key of a session; `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

/// Why a text is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// There is nothing.
    #[error("the password is empty")]
    Empty,
    /// Too long.
    #[error("the password has {0} bytes, and TCP MD5 takes {KEY_BYTES_MAX} at most")]
    Long(usize),
}

impl Password {
    /// The key, 1 … [`KEY_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// It is empty or too long.
    pub fn new(key: &[u8]) -> Result<Password, PasswordError> {
        match key.len() {
            0 => Err(PasswordError::Empty),
            1..=KEY_BYTES_MAX => Ok(Password(key.to_vec())),
            long => Err(PasswordError::Long(long)),
        }
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_len: u8,
    key_len: u16,
    ifindex: libc::c_int,
    key: [u8; KEY_BYTES_MAX],
}

/// Gives a socket the key for a neighbour, or for all in a prefix; without a key takes it away.
///
/// # Errors
/// The kernel has no TCP MD5, or the socket is of another family. A key to take away that is not there is fine.
pub(super) fn set(socket: &impl AsFd, remote: IpNet, key: Option<&Password>) -> io::Result<()> {
    let key = key.map_or(&[][..], |key| &key.0);
    let address = socket2::SockAddr::from(SocketAddr::new(remote.addr(), 0));
    // SAFETY: a value of integers, for which all zeros are valid.
    let mut option: TcpMd5Sig = unsafe { zeroed() };
    // SAFETY: a sockaddr_storage has room for any address, and `len` octets of it are valid.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            (&raw mut option.address).cast::<u8>(),
            address.len() as usize,
        );
    }
    (option.flags, option.prefix_len) = (FLAG_PREFIX, remote.prefix_len());
    option.key_len = key.len() as u16;
    option.key[..key.len()].copy_from_slice(key);
    // SAFETY: the descriptor is open for as long as it is borrowed, and the option is read only.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_MD5SIG_EXT,
            (&raw const option).cast(),
            size_of::<TcpMd5Sig>() as libc::socklen_t,
        )
    };
    if done == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if key.is_empty() && error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        error => Err(error),
    }
}

/// The prefix of one host.
pub(super) fn host(remote: IpAddr) -> IpNet {
    IpNet::from(remote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_a_length_and_is_not_shown() {
        assert_eq!(Password::new(b""), Err(PasswordError::Empty));
        assert_eq!(Password::new(&[b'x'; 81]), Err(PasswordError::Long(81)));
        let key = Password::new(&[b'x'; 80]).unwrap();
        assert!(!format!("{key:?}").contains('x'));
    }

    #[test]
    fn the_kernel_knows_the_layout() {
        // linux/tcp.h: 128 + 1 + 1 + 2 + 4 + 80.
        assert_eq!(size_of::<TcpMd5Sig>(), 216);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let key = Password::new(b"secret").unwrap();
        set(&listener, "127.0.0.0/8".parse().unwrap(), Some(&key)).unwrap();
        set(&listener, host([127, 0, 0, 1].into()), Some(&key)).unwrap();
        set(&listener, host([127, 0, 0, 1].into()), None).unwrap();
        set(&listener, host([127, 0, 0, 1].into()), None).unwrap();
    }
}
