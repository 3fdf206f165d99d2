//! The message header (RFC 4271 §4.1 and §6.1): finding messages in a stream of octets.
//!
//! ```text
//!  16 octets of ones | length (2), header included | type (1)
//! ```

use super::notification::Notification;

/// Octets of the header.
pub const HEADER_LEN: usize = 19;
/// Longest message without RFC 8654, and longest OPEN and KEEPALIVE with it.
pub const STANDARD_LIMIT: usize = 4_096;

pub(super) const MARKER: [u8; 16] = [0xff; 16];

/// The five messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// RFC 4271 §4.2.
    Open = 1,
    /// RFC 4271 §4.3.
    Update = 2,
    /// RFC 4271 §4.5.
    Notification = 3,
    /// RFC 4271 §4.4.
    Keepalive = 4,
    /// RFC 2918.
    RouteRefresh = 5,
}

impl MessageType {
    const fn from_code(code: u8) -> Option<MessageType> {
        Some(match code {
            1 => MessageType::Open,
            2 => MessageType::Update,
            3 => MessageType::Notification,
            4 => MessageType::Keepalive,
            5 => MessageType::RouteRefresh,
            _ => return None,
        })
    }

    /// Whether a message of this type may have `len` octets, header included.
    const fn accepts(self, len: usize, limit: usize) -> bool {
        match self {
            MessageType::Open => len >= 29 && len <= STANDARD_LIMIT,
            MessageType::Update => len >= 23 && len <= limit,
            MessageType::Notification => len >= 21 && len <= limit,
            MessageType::Keepalive => len == HEADER_LEN,
            // Its length is judged where RFC 7313 §5 wants it judged.
            MessageType::RouteRefresh => len >= HEADER_LEN && len <= limit,
        }
    }
}

/// One message in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its type.
    pub kind: MessageType,
    /// What follows the header.
    pub body: &'a [u8],
    /// Octets of the stream it takes, header included.
    pub len: usize,
}

/// The first message in `stream`, `None` if it is not complete yet.
///
/// `limit` is the longest acceptable message: [`STANDARD_LIMIT`], or 65,535 with RFC 8654.
///
/// # Errors
/// The NOTIFICATION for a wrong marker, length or type, as soon as the header is there.
pub fn next_frame(stream: &[u8], limit: usize) -> Result<Option<Frame<'_>>, Notification> {
    let Some((header, _)) = stream.split_first_chunk::<HEADER_LEN>() else {
        let marker_part = &stream[..stream.len().min(MARKER.len())];
        if marker_part.iter().any(|b| *b != 0xff) {
            return Err(Notification::new(Notification::NOT_SYNCHRONIZED));
        }
        return Ok(None);
    };
    if header[..16] != MARKER {
        return Err(Notification::new(Notification::NOT_SYNCHRONIZED));
    }
    let length_field = [header[16], header[17]];
    let len = usize::from(u16::from_be_bytes(length_field));
    let Some(kind) = MessageType::from_code(header[18]) else {
        return Err(Notification::with_data(Notification::BAD_TYPE, [header[18]]));
    };
    if !kind.accepts(len, limit) {
        return Err(Notification::with_data(Notification::BAD_LENGTH, length_field));
    }
    Ok(stream.get(HEADER_LEN..len).map(|body| Frame { kind, body, len }))
}

/// A whole message. The caller keeps `body` within the limits of the length field.
pub(super) fn message(kind: MessageType, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN + body.len());
    out.extend_from_slice(&MARKER);
    let len = u16::try_from(HEADER_LEN + body.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.push(kind as u8);
    out.extend_from_slice(body);
    out
}

impl Notification {
    /// The whole message; data beyond the standard limit is cut off.
    pub fn encode(&self) -> Vec<u8> {
        let room = STANDARD_LIMIT - HEADER_LEN - 2;
        let mut body = vec![self.code, self.subcode];
        body.extend_from_slice(&self.data[..self.data.len().min(room)]);
        message(MessageType::Notification, &body)
    }

    /// From the body of a message; `None` if it is too short for a code, which [`next_frame`] rules out.
    pub fn decode(body: &[u8]) -> Option<Notification> {
        match body {
            [code, subcode, data @ ..] => Some(Notification::with_data((*code, *subcode), data)),
            _ => None,
        }
    }
}
