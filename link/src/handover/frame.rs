//! How a state and its descriptors cross a Unix stream: 4 bytes with the number of descriptors, 8 bytes with the length of the text, the
//! descriptors on a byte for each [`FDS_AT_ONCE`], the text (JSON).

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::{Fds, HandoverError, SentFds};

/// Descriptors of one message: the kernel takes 253 (`SCM_MAX_FD`).
const FDS_AT_ONCE: usize = 128;
/// Most descriptors of a state: sockets of every device, probe, path and BFD session that there may be, and some.
const FDS_MAX: usize = 8_192;
/// Longest text, in bytes: 64 devices with thousands of peers in mid-handshake.
const TEXT_BYTES_MAX: u64 = 1 << 30;

/// Counts what would be written.
#[derive(Default)]
struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn channel(action: &'static str) -> impl FnOnce(io::Error) -> HandoverError {
    move |source| HandoverError::Channel(action, source)
}

/// Writes a value and its descriptors.
pub(super) fn send(
    mut stream: &UnixStream,
    value: &impl Serialize,
    fds: &SentFds,
) -> Result<(), HandoverError> {
    let encode = |error: serde_json::Error| HandoverError::Channel("encode the state", error.into());
    // Measured before it is written: text that outgrows its memory would leave keys behind.
    let mut counter = Counter::default();
    serde_json::to_writer(&mut counter, value).map_err(encode)?;
    let mut text = Zeroizing::new(Vec::with_capacity(counter.0));
    serde_json::to_writer(&mut *text, value).map_err(encode)?;
    let count = u32::try_from(fds.0.len()).unwrap_or(u32::MAX);
    let header = [&count.to_be_bytes()[..], &(text.len() as u64).to_be_bytes()].concat();
    stream.write_all(&header).map_err(channel("send the header"))?;
    let raw: Vec<RawFd> = fds.0.iter().map(|fd| fd.as_raw_fd()).collect();
    for chunk in raw.chunks(FDS_AT_ONCE) {
        let rights = [ControlMessage::ScmRights(chunk)];
        let sent =
            sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::MSG_NOSIGNAL, None);
        sent.map_err(|errno| channel("send descriptors")(errno.into()))?;
    }
    stream.write_all(&text).map_err(channel("send the state"))
}

/// Reads a value and its descriptors.
pub(super) fn receive<T: DeserializeOwned>(mut stream: &UnixStream) -> Result<(T, Fds), HandoverError> {
    let mut header = [0; 12];
    stream.read_exact(&mut header).map_err(channel("read the header"))?;
    let [a, b, c, d, length @ ..] = header;
    let count = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    let length = u64::from_be_bytes(length);
    if count > FDS_MAX || length > TEXT_BYTES_MAX {
        return Err(HandoverError::Unreadable(format!("{count} descriptors, {length} bytes")));
    }
    let mut fds = Vec::with_capacity(count);
    while fds.len() < count {
        let wanted = (count - fds.len()).min(FDS_AT_ONCE);
        receive_fds(stream, wanted, &mut fds).map_err(channel("receive descriptors"))?;
    }
    let mut text = Zeroizing::new(vec![0; usize::try_from(length).unwrap_or(usize::MAX)]);
    stream.read_exact(&mut text).map_err(channel("read the state"))?;
    // The parser's own words may quote the state, which holds keys: say only where it stopped.
    let value = serde_json::from_slice(&text).map_err(|error| {
        HandoverError::Unreadable(format!("line {} column {}", error.line(), error.column()))
    })?;
    Ok((value, Fds(fds)))
}

fn receive_fds(stream: &UnixStream, wanted: usize, fds: &mut Vec<Option<OwnedFd>>) -> io::Result<()> {
    let mut byte = [0];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; FDS_AT_ONCE]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let before = fds.len();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows of them.
            fds.extend(raw.into_iter().map(|raw| Some(unsafe { OwnedFd::from_raw_fd(raw) })));
        }
    }
    if message.bytes == 0 || fds.len() - before != wanted {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::thread;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (a, b) = UnixStream::pair().unwrap();
        for end in [&a, &b] {
            end.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        }
        (a, b)
    }

    #[test]
    fn a_state_arrives_with_its_descriptors_in_their_order() {
        let (from, to) = pair();
        let folder = tempfile::tempdir().unwrap();
        let mut fds = SentFds::default();
        for number in 0..300 {
            let path = folder.path().join(number.to_string());
            std::fs::write(&path, number.to_string()).unwrap();
            assert_eq!(fds.put(File::open(&path).unwrap()).unwrap(), number);
        }
        let text = "x".repeat(1 << 20);
        let sent = text.clone();
        let sender = thread::spawn(move || send(&from, &sent, &fds).unwrap());
        let (received, mut fds): (String, Fds) = receive(&to).unwrap();
        sender.join().unwrap();
        assert_eq!(received, text);
        for number in [0, 127, 128, 299] {
            let content = io::read_to_string(File::from(fds.take(number).unwrap())).unwrap();
            assert_eq!(content, number.to_string());
        }
        assert!(matches!(fds.take(0), Err(HandoverError::NoDescriptor(0))), "each is taken once");
        assert!(fds.take(300).is_err());
    }

    #[test]
    fn what_is_no_state_is_refused_without_quoting_it_and_without_its_memory() {
        let (mut from, to) = pair();
        let text = br#"{"key":"c2VjcmV0"}"#;
        let header = |count: u32, length: u64| [&count.to_be_bytes()[..], &length.to_be_bytes()].concat();
        from.write_all(&[&header(0, text.len() as u64)[..], text].concat()).unwrap();
        let error = receive::<Vec<u32>>(&to).unwrap_err();
        assert!(matches!(&error, HandoverError::Unreadable(why) if !why.contains("c2Vj")), "{error}");
        from.write_all(&header(0, u64::MAX)).unwrap();
        assert!(matches!(receive::<Vec<u32>>(&to), Err(HandoverError::Unreadable(_))));
        from.write_all(&header(u32::MAX, 0)).unwrap();
        assert!(matches!(receive::<Vec<u32>>(&to), Err(HandoverError::Unreadable(_))));
        // Descriptors that were announced and do not come.
        from.write_all(&[&header(2, 2)[..], b"\0[]"].concat()).unwrap();
        assert!(matches!(receive::<Vec<u32>>(&to), Err(HandoverError::Channel(..))));
        drop(from);
        assert!(matches!(receive::<Vec<u32>>(&to), Err(HandoverError::Channel(..))));
    }
}
