//! Capture files: pcapng is written (draft-ietf-opsawg-pcapng), one interface for each place and a comment for each
//! frame; classic pcap and pcapng are read, for `watari trace`.

use watari_config::Problem;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const ENHANCED_PACKET: u32 = 6;
const SIMPLE_PACKET: u32 = 3;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const ETHERNET: u16 = 1;
const OPT_COMMENT: u16 = 1;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
/// Nanoseconds: ten to the minus nine.
const NANOSECONDS: u8 = 9;
/// The most frames that are read from a file.
pub const FRAMES_MAX: usize = 64;

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend_from_slice(&code.to_le_bytes());
    out.extend_from_slice(&(value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}

fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, body, &length].concat()
}

/// The head of a file.
pub fn section() -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&BYTE_ORDER.to_le_bytes());
    body.extend_from_slice(&[1, 0, 0, 0]);
    body.extend_from_slice(&u64::MAX.to_le_bytes());
    block(SECTION, &body)
}

/// A place where frames are seen; the first is number 0.
pub fn interface(name: &str, snap_bytes: u32) -> Vec<u8> {
    let mut body = [ETHERNET.to_le_bytes(), [0, 0]].concat();
    body.extend_from_slice(&snap_bytes.to_le_bytes());
    option(&mut body, IF_NAME, name.as_bytes());
    option(&mut body, IF_TSRESOL, &[NANOSECONDS]);
    option(&mut body, 0, &[]);
    block(INTERFACE, &body)
}

/// A frame as it is written.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Number of the interface.
    pub interface: u32,
    /// Nanoseconds since 1970, UTC.
    pub at_ns: u64,
    /// Its first bytes.
    pub frame: &'a [u8],
    /// Its whole length in bytes.
    pub len: u32,
    /// It came in (1) or went out (2); 0 if that is not known.
    pub direction: u32,
    /// What is to be said of it.
    pub comment: &'a str,
}

/// An enhanced packet block.
pub fn packet(record: &Record<'_>) -> Vec<u8> {
    let mut body = record.interface.to_le_bytes().to_vec();
    body.extend_from_slice(&((record.at_ns >> 32) as u32).to_le_bytes());
    body.extend_from_slice(&(record.at_ns as u32).to_le_bytes());
    body.extend_from_slice(&(record.frame.len() as u32).to_le_bytes());
    body.extend_from_slice(&record.len.to_le_bytes());
    body.extend_from_slice(record.frame);
    body.resize(body.len().next_multiple_of(4), 0);
    option(&mut body, OPT_COMMENT, record.comment.as_bytes());
    option(&mut body, EPB_FLAGS, &record.direction.to_le_bytes());
    option(&mut body, 0, &[]);
    block(ENHANCED_PACKET, &body)
}

/// The Ethernet frames of a capture file, the first [`FRAMES_MAX`] of them.
///
/// # Errors
/// One problem at `path` if it is no capture file of Ethernet, or broken.
pub fn read(bytes: &[u8], path: &str) -> Result<Vec<Vec<u8>>, Vec<Problem>> {
    let wrong = |message: &str| vec![Problem { path: path.to_owned(), message: message.to_owned() }];
    let magic: [u8; 4] =
        bytes.get(..4).and_then(|m| m.try_into().ok()).ok_or_else(|| wrong("it is empty"))?;
    let frames = match u32::from_le_bytes(magic) {
        SECTION => blocks(bytes),
        0xa1b2_c3d4 | 0xa1b2_3c4d => classic(bytes, u32::from_le_bytes),
        0xd4c3_b2a1 | 0x4d3c_b2a1 => classic(bytes, u32::from_be_bytes),
        _ => return Err(wrong("it is neither pcap nor pcapng")),
    };
    let frames = frames.ok_or_else(|| wrong("it is broken, or not of Ethernet"))?;
    if frames.is_empty() { Err(wrong("it has no frame")) } else { Ok(frames) }
}

fn classic(bytes: &[u8], number: fn([u8; 4]) -> u32) -> Option<Vec<Vec<u8>>> {
    let at = |offset: usize| Some(number(bytes.get(offset..offset + 4)?.try_into().ok()?));
    if at(20)? & 0xffff != u32::from(ETHERNET) {
        return None;
    }
    let (mut offset, mut frames) = (24, Vec::new());
    while offset < bytes.len() && frames.len() < FRAMES_MAX {
        let length = at(offset + 8)? as usize;
        frames.push(bytes.get(offset + 16..)?.get(..length)?.to_vec());
        offset += 16 + length;
    }
    Some(frames)
}

fn blocks(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let order: [u8; 4] = bytes.get(8..12)?.try_into().ok()?;
    let number =
        if u32::from_le_bytes(order) == BYTE_ORDER { u32::from_le_bytes } else { u32::from_be_bytes };
    let at = |offset: usize| Some(number(bytes.get(offset..offset + 4)?.try_into().ok()?));
    let (mut offset, mut frames) = (0, Vec::new());
    while offset < bytes.len() && frames.len() < FRAMES_MAX {
        let (kind, length) = (at(offset)?, at(offset + 4)? as usize);
        if length < 12 || offset + length > bytes.len() {
            return None;
        }
        let captured = match kind {
            ENHANCED_PACKET => Some((offset + 28, at(offset + 20)? as usize)),
            SIMPLE_PACKET => Some((offset + 12, (at(offset + 8)? as usize).min(length.checked_sub(16)?))),
            _ => None,
        };
        if let Some((start, length)) = captured {
            frames.push(bytes.get(start..)?.get(..length)?.to_vec());
        }
        offset += length;
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let frames = [vec![1_u8; 15], vec![2; 64]];
        let mut file = [section(), interface("lan", 64)].concat();
        for frame in &frames {
            let record =
                Record { interface: 0, at_ns: 5, frame, len: 99, direction: 1, comment: "segment flat, in" };
            file.extend(packet(&record));
        }
        assert_eq!(file.len() % 4, 0);
        assert_eq!(read(&file, "pcap").unwrap(), frames);
        assert!(read(&file[..file.len() - 3], "pcap").is_err());
    }

    #[test]
    fn classic_files_of_both_orders_are_read_and_others_refused() {
        let file = |order: fn(u32) -> [u8; 4], link: u32| {
            let head = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65535, link, 1, 2, 3, 3].map(order).concat();
            [&head[..], &[7, 8, 9]].concat()
        };
        assert_eq!(read(&file(u32::to_le_bytes, 1), "pcap").unwrap(), [[7, 8, 9]]);
        assert_eq!(read(&file(u32::to_be_bytes, 1), "pcap").unwrap(), [[7, 8, 9]]);
        assert!(read(&file(u32::to_le_bytes, 101), "pcap").is_err());
        assert_eq!(read(b"hello", "pcap").unwrap_err()[0].path, "pcap");
        assert!(read(b"", "pcap").is_err());
    }
}
