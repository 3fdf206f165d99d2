//! The constants of WireGuard (whitepaper §6.1) in milliseconds and messages, and the sizes of its four
//! messages (§5.4) in bytes.

/// A session that has sealed so many messages is renewed.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// A session neither seals nor opens a message with this counter or a higher one.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// A session of this age is renewed by the side that made it, when it sends, in ms.
pub const REKEY_AFTER_TIME_MS: u64 = 120_000;
/// A session of this age is used no more, in ms.
pub const REJECT_AFTER_TIME_MS: u64 = 180_000;
/// So long handshake initiations are repeated without an answer, in ms.
pub const REKEY_ATTEMPT_TIME_MS: u64 = 90_000;
/// Between two handshake initiations, in ms.
pub const REKEY_TIMEOUT_MS: u64 = 5_000;
/// A random time up to this is added between repeated initiations, in ms.
pub const REKEY_JITTER_MS: u64 = 333;
/// What was received is answered after this time at the latest, if by an empty message, in ms.
pub const KEEPALIVE_TIMEOUT_MS: u64 = 10_000;
/// A cookie is good for this long, and the secret that cookies are made of lives so long, in ms.
pub const COOKIE_TIME_MS: u64 = 120_000;

/// Bytes of a handshake initiation.
pub const INITIATION_LEN: usize = 148;
/// Bytes of a handshake response.
pub const RESPONSE_LEN: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Bytes in front of the ciphertext of a data message: type, receiver, counter.
pub const HEADER_LEN: usize = 16;
/// Bytes of the authentication tag behind the ciphertext.
pub const TAG_LEN: usize = 16;
/// Bytes that a data message is longer than what it carries.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;
