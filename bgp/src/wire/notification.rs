//! NOTIFICATION (RFC 4271 §4.5 and §6, RFC 4486, RFC 8538, RFC 9003): every protocol error is the message that
//! goes on the wire.

use std::fmt;

/// An error as it goes on the wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// Data, of a meaning that depends on code and subcode.
    pub data: Vec<u8>,
}

macro_rules! notifications {
    ($($(#[$doc:meta])* $name:ident = ($code:literal, $subcode:literal, $text:literal);)*) => {
        impl Notification {
            $($(#[$doc])* pub const $name: (u8, u8) = ($code, $subcode);)*

            /// What code and subcode mean, in words.
            pub fn meaning(&self) -> &'static str {
                match (self.code, self.subcode) {
                    $(($code, $subcode) => $text,)*
                    (1, _) => "message header error",
                    (2, _) => "OPEN message error",
                    (3, _) => "UPDATE message error",
                    (5, _) => "finite state machine error",
                    (6, _) => "cease",
                    _ => "unknown error",
                }
            }
        }
    };
}

notifications! {
    /// Marker is not all ones.
    NOT_SYNCHRONIZED = (1, 1, "connection not synchronized");
    /// Length field; data: the field.
    BAD_LENGTH = (1, 2, "bad message length");
    /// Type field; data: the field.
    BAD_TYPE = (1, 3, "bad message type");
    /// Version; data: the version we speak, 2 octets.
    BAD_VERSION = (2, 1, "unsupported version number");
    /// Not the configured AS.
    BAD_PEER_AS = (2, 2, "bad peer AS");
    /// Zero, or our own within the AS.
    BAD_IDENTIFIER = (2, 3, "bad BGP identifier");
    /// Optional parameter.
    BAD_PARAMETER = (2, 4, "unsupported optional parameter");
    /// 1 or 2 seconds.
    BAD_HOLD_TIME = (2, 6, "unacceptable hold time");
    /// No family in common.
    BAD_CAPABILITY = (2, 7, "unsupported capability");
    /// Roles that do not fit (RFC 9234 §4.2).
    ROLE_MISMATCH = (2, 11, "role mismatch");
    /// Anything else about OPEN.
    OPEN_UNSPECIFIC = (2, 0, "OPEN message error");
    /// Lengths of UPDATE that do not add up.
    MALFORMED_ATTRIBUTES = (3, 1, "malformed attribute list");
    /// A mandatory attribute that cannot be told apart.
    UNRECOGNIZED_WELL_KNOWN = (3, 2, "unrecognized well-known attribute");
    /// An optional attribute that makes NLRI unreadable; data: the attribute.
    OPTIONAL_ATTRIBUTE = (3, 9, "optional attribute error");
    /// NLRI field.
    INVALID_NETWORK = (3, 10, "invalid network field");
    /// Nothing heard in time.
    HOLD_TIMER_EXPIRED = (4, 0, "hold timer expired");
    /// A message that does not belong into OpenSent.
    FSM_OPEN_SENT = (5, 1, "unexpected message in OpenSent");
    /// A message that does not belong into OpenConfirm.
    FSM_OPEN_CONFIRM = (5, 2, "unexpected message in OpenConfirm");
    /// A message that does not belong into Established.
    FSM_ESTABLISHED = (5, 3, "unexpected message in Established");
    /// Too many prefixes (RFC 4486).
    MAX_PREFIXES = (6, 1, "maximum number of prefixes reached");
    /// Stopped by the operator (RFC 4486, RFC 9003).
    ADMIN_SHUTDOWN = (6, 2, "administrative shutdown");
    /// No longer configured.
    DECONFIGURED = (6, 3, "peer de-configured");
    /// Restarted by the operator.
    ADMIN_RESET = (6, 4, "administrative reset");
    /// Refused.
    REJECTED = (6, 5, "connection rejected");
    /// A new configuration needs a new session.
    CONFIG_CHANGE = (6, 6, "other configuration change");
    /// Two connections, this one loses (§6.8).
    COLLISION = (6, 7, "connection collision resolution");
    /// No memory.
    OUT_OF_RESOURCES = (6, 8, "out of resources");
    /// BFD found the path down (RFC 9384).
    BFD_DOWN = (6, 10, "BFD down");
    /// Drop the routes, no graceful restart (RFC 8538 §3); data: the code, subcode and data within.
    HARD_RESET = (6, 9, "hard reset");
    /// ROUTE-REFRESH length (RFC 7313).
    REFRESH_LENGTH = (7, 1, "invalid ROUTE-REFRESH length");
    /// The peer does not read (RFC 9687).
    SEND_HOLD_TIMER_EXPIRED = (8, 0, "send hold timer expired");
}

impl Notification {
    /// A notification without data.
    pub const fn new((code, subcode): (u8, u8)) -> Notification {
        Notification { code, subcode, data: Vec::new() }
    }

    /// A notification with data.
    pub fn with_data((code, subcode): (u8, u8), data: impl Into<Vec<u8>>) -> Notification {
        Notification { code, subcode, data: data.into() }
    }

    /// Whether it is of this kind.
    pub fn is(&self, (code, subcode): (u8, u8)) -> bool {
        self.code == code && self.subcode == subcode
    }

    /// The same wrapped in Cease / Hard Reset (RFC 8538 §3.1).
    pub fn into_hard_reset(self) -> Notification {
        let mut data = vec![self.code, self.subcode];
        data.extend_from_slice(&self.data);
        Notification::with_data(Self::HARD_RESET, data)
    }

    /// What a hard reset carries, else the notification itself (RFC 8538 §3.1).
    pub fn within(&self) -> Notification {
        match (self.is(Self::HARD_RESET), &self.data[..]) {
            (true, [code, subcode, data @ ..]) => Notification::with_data((*code, *subcode), data),
            _ => self.clone(),
        }
    }

    /// The same with a shutdown communication, cut to 255 octets of whole characters (RFC 9003 §2).
    #[must_use]
    pub fn with_message(mut self, text: &str) -> Notification {
        let end = (0..=text.len().min(255)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        if end > 0 {
            self.data = vec![end as u8];
            self.data.extend_from_slice(&text.as_bytes()[..end]);
        }
        self
    }

    /// The shutdown communication of an administrative shutdown or reset (RFC 9003 §2): at most 255 octets of
    /// UTF-8, `None` if there is none or it is not one.
    pub fn shutdown_message(&self) -> Option<&str> {
        let (kind, data) = match (self.is(Self::HARD_RESET), &self.data[..]) {
            (true, [code, subcode, data @ ..]) => ((*code, *subcode), data),
            (_, data) => ((self.code, self.subcode), data),
        };
        if kind != Self::ADMIN_SHUTDOWN && kind != Self::ADMIN_RESET {
            return None;
        }
        let (len, text) = data.split_first()?;
        std::str::from_utf8(text.get(..usize::from(*len))?).ok().filter(|t| !t.is_empty())
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.meaning(), self.code, self.subcode)?;
        if self.is(Self::HARD_RESET) {
            let inner = self.within();
            write!(f, ": {} ({}/{})", inner.meaning(), inner.code, inner.subcode)?;
        }
        if let Some(text) = self.shutdown_message() {
            write!(f, ": {text:?}")?;
        }
        Ok(())
    }
}
