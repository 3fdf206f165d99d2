//! The bytes of a control packet (RFC 5880 §4.1). What §6.8.6 demands of a packet alone, without
//! looking at any session, is demanded here.
//!
//! ```text
//!  0                   1                   2                   3
//! |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//! |                       My Discriminator                        |
//! |                      Your Discriminator                       |
//! |                    Desired Min TX Interval                    |
//! |                   Required Min RX Interval                    |
//! |                 Required Min Echo RX Interval                 |
//! |   Auth Type   |   Auth Len    |    Authentication Data …      |   if A is set
//! ```

use serde::{Deserialize, Serialize};

use super::Discard;

/// Octets of the mandatory section.
pub(super) const MANDATORY_LENGTH: usize = 24;
/// Octets of the longest packet that is sent: with a SHA1 section.
pub(super) const LENGTH_MAX: usize = MANDATORY_LENGTH + 28;
/// Octets of the shortest authentication section that can be told apart: type and length.
const AUTH_HEADER_LENGTH: usize = 2;
const VERSION: u8 = 1;

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const CONTROL_PLANE_INDEPENDENT: u8 = 0x08;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// Session state (Sta).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    AdminDown,
    Down,
    Init,
    Up,
}

impl State {
    fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }

    fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }
}

/// Diagnostic (Diag): five bits, of which 0 to 8 are named in RFC 5880 §4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Diagnostic(pub(crate) u8);

impl Diagnostic {
    pub(crate) const NONE: Self = Self(0);
    pub(crate) const DETECTION_TIME_EXPIRED: Self = Self(1);
    pub(crate) const NEIGHBOR_SIGNALED_DOWN: Self = Self(3);
    pub(crate) const ADMINISTRATIVELY_DOWN: Self = Self(7);

    /// Its name, for people and for the control socket.
    pub(crate) fn name(self) -> &'static str {
        match self.0 {
            0 => "none",
            1 => "control_detection_time_expired",
            2 => "echo_function_failed",
            3 => "neighbor_signaled_session_down",
            4 => "forwarding_plane_reset",
            5 => "path_down",
            6 => "concatenated_path_down",
            7 => "administratively_down",
            8 => "reverse_concatenated_path_down",
            _ => "reserved",
        }
    }
}

/// The mandatory section, without version, lengths and the multipoint bit. Intervals are
/// microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) diagnostic: Diagnostic,
    pub(crate) state: State,
    pub(crate) poll: bool,
    pub(crate) is_final: bool,
    /// C: forwarding detection goes on while the sender's control plane is away.
    pub(crate) control_plane_independent: bool,
    pub(crate) demand: bool,
    pub(crate) detect_mult: u8,
    pub(crate) my_discriminator: u32,
    pub(crate) your_discriminator: u32,
    pub(crate) desired_min_tx_us: u32,
    pub(crate) required_min_rx_us: u32,
    pub(crate) required_min_echo_rx_us: u32,
}

/// A received packet: its mandatory section and, where A is set, its authentication section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received<'a> {
    pub(crate) packet: Packet,
    /// Type, length and data: what follows the mandatory section up to Auth Len.
    pub(super) authentication: Option<&'a [u8]>,
    /// Everything up to Length: what a hash is computed over.
    pub(super) whole: &'a [u8],
}

impl<'a> Received<'a> {
    /// Reads a datagram. What follows Length is ignored, as the RFC does.
    pub(crate) fn decode(datagram: &'a [u8]) -> Result<Self, Discard> {
        let head = datagram.first_chunk::<MANDATORY_LENGTH>().ok_or(Discard::Truncated)?;
        if head[0] >> 5 != VERSION {
            return Err(Discard::Version);
        }
        let authenticated = head[1] & AUTHENTICATION != 0;
        let least = MANDATORY_LENGTH + if authenticated { AUTH_HEADER_LENGTH } else { 0 };
        let length = usize::from(head[3]);
        if length < least {
            return Err(Discard::Length);
        }
        let whole = datagram.get(..length).ok_or(Discard::Length)?;
        let packet = Packet::read(head);
        packet.check(head[1])?;
        let authentication = if authenticated { Some(section(whole)?) } else { None };
        Ok(Self { packet, authentication, whole })
    }
}

/// The authentication section, if it is within the packet.
fn section(whole: &[u8]) -> Result<&[u8], Discard> {
    let section = &whole[MANDATORY_LENGTH..];
    let length = usize::from(section[1]);
    if length < AUTH_HEADER_LENGTH {
        return Err(Discard::AuthenticationForm);
    }
    section.get(..length).ok_or(Discard::AuthenticationForm)
}

impl Packet {
    fn read(head: &[u8; MANDATORY_LENGTH]) -> Self {
        let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let flag = |bit: u8| head[1] & bit != 0;
        Self {
            diagnostic: Diagnostic(head[0] & 0x1f),
            state: State::from_bits(head[1] >> 6),
            poll: flag(POLL),
            is_final: flag(FINAL),
            control_plane_independent: flag(CONTROL_PLANE_INDEPENDENT),
            demand: flag(DEMAND),
            detect_mult: head[2],
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_min_tx_us: word(12),
            required_min_rx_us: word(16),
            required_min_echo_rx_us: word(20),
        }
    }

    /// §6.8.6, in its order.
    fn check(&self, flags: u8) -> Result<(), Discard> {
        if self.detect_mult == 0 {
            return Err(Discard::DetectMult);
        }
        if flags & MULTIPOINT != 0 {
            return Err(Discard::Multipoint);
        }
        if self.my_discriminator == 0 {
            return Err(Discard::MyDiscriminator);
        }
        if self.your_discriminator == 0 && !matches!(self.state, State::Down | State::AdminDown) {
            return Err(Discard::YourDiscriminator);
        }
        if self.poll && self.is_final {
            return Err(Discard::PollAndFinal);
        }
        Ok(())
    }

    /// The mandatory section as it is sent; an authentication section of `authentication` octets is
    /// going to follow it.
    pub(super) fn encode(&self, authentication: usize) -> [u8; MANDATORY_LENGTH] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let mut bytes = [0; MANDATORY_LENGTH];
        bytes[0] = VERSION << 5 | self.diagnostic.0 & 0x1f;
        bytes[1] = self.state.bits() << 6
            | flag(self.poll, POLL)
            | flag(self.is_final, FINAL)
            | flag(self.control_plane_independent, CONTROL_PLANE_INDEPENDENT)
            | flag(authentication > 0, AUTHENTICATION)
            | flag(self.demand, DEMAND);
        bytes[2] = self.detect_mult;
        bytes[3] = (MANDATORY_LENGTH + authentication).to_le_bytes()[0];
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx_us,
            self.required_min_rx_us,
            self.required_min_echo_rx_us,
        ];
        for (word, place) in words.iter().zip(bytes[4..].chunks_exact_mut(4)) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
