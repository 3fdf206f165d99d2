//! OPEN (RFC 4271 §4.2 and §6.2) with capabilities (RFC 5492) and long optional parameters (RFC 9072).

use std::net::Ipv4Addr;

use super::capability::Capability;
use super::header::{MessageType, message};
use super::notification::Notification;
use super::reader::Reader;
use crate::types::{Asn, RouterId};

/// The only version.
const VERSION: u8 = 4;
const PARAMETER_CAPABILITIES: u8 = 2;
/// Type and length octet 255 together announce two-octet lengths (RFC 9072 §2).
const PARAMETER_EXTENDED: u8 = 255;

/// An OPEN message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS: from the 4-octet capability if it is there, else the 2 octets of the message.
    pub asn: Asn,
    /// Proposed hold time in seconds: 0 or at least 3.
    pub hold_time_s: u16,
    /// The sender's BGP Identifier.
    pub router_id: RouterId,
    /// Capabilities in their order.
    pub capabilities: Vec<Capability>,
}

impl Open {
    /// The whole message.
    pub fn encode(&self) -> Vec<u8> {
        let mut capabilities = Vec::new();
        for capability in &self.capabilities {
            capability.encode(&mut capabilities);
        }
        let mut body = vec![VERSION];
        body.extend_from_slice(&self.asn.to_two_octets().to_be_bytes());
        body.extend_from_slice(&self.hold_time_s.to_be_bytes());
        body.extend_from_slice(&self.router_id.0.octets());
        match capabilities.len() {
            0 => body.push(0),
            len @ 1..=253 => body.extend_from_slice(&[len as u8 + 2, PARAMETER_CAPABILITIES, len as u8]),
            len => {
                body.extend_from_slice(&[PARAMETER_EXTENDED, PARAMETER_EXTENDED]);
                body.extend_from_slice(&(len as u16 + 3).to_be_bytes());
                body.push(PARAMETER_CAPABILITIES);
                body.extend_from_slice(&(len as u16).to_be_bytes());
            }
        }
        body.extend_from_slice(&capabilities);
        message(MessageType::Open, &body)
    }

    /// From the body of a message.
    ///
    /// # Errors
    /// The NOTIFICATION of RFC 4271 §6.2 for what is wrong with it by itself; whether AS and identifier are the
    /// expected ones is for the session to say.
    pub fn decode(body: &[u8]) -> Result<Open, Notification> {
        let malformed = || Notification::new(Notification::OPEN_UNSPECIFIC);
        let mut reader = Reader::new(body);
        let version = reader.u8().ok_or_else(malformed)?;
        if version != VERSION {
            return Err(Notification::with_data(Notification::BAD_VERSION, [0, VERSION]));
        }
        let asn = Asn(u32::from(reader.u16().ok_or_else(malformed)?));
        let hold_time_s = reader.u16().ok_or_else(malformed)?;
        let router_id = RouterId(reader.ipv4().ok_or_else(malformed)?);
        let capabilities = decode_parameters(&mut reader)?;
        let asn = capabilities
            .iter()
            .find_map(|c| if let Capability::FourOctetAs(asn) = c { Some(*asn) } else { None })
            .unwrap_or(asn);
        if asn == Asn(0) {
            return Err(Notification::new(Notification::BAD_PEER_AS));
        }
        if matches!(hold_time_s, 1 | 2) {
            return Err(Notification::new(Notification::BAD_HOLD_TIME));
        }
        if router_id.0 == Ipv4Addr::UNSPECIFIED {
            return Err(Notification::new(Notification::BAD_IDENTIFIER));
        }
        Ok(Open { asn, hold_time_s, router_id, capabilities })
    }
}

/// The optional parameters: all capabilities, from however many parameters (RFC 5492 §4).
fn decode_parameters(reader: &mut Reader<'_>) -> Result<Vec<Capability>, Notification> {
    let malformed = || Notification::new(Notification::OPEN_UNSPECIFIC);
    let short_len = usize::from(reader.u8().ok_or_else(malformed)?);
    let extended = short_len != 0 && reader.rest().first() == Some(&PARAMETER_EXTENDED);
    let len = if extended {
        reader.u8().ok_or_else(malformed)?;
        usize::from(reader.u16().ok_or_else(malformed)?)
    } else {
        short_len
    };
    if len != reader.len() {
        return Err(malformed());
    }
    let mut capabilities = Vec::new();
    while !reader.is_empty() {
        let kind = reader.u8().ok_or_else(malformed)?;
        let len = if extended { reader.u16().map(usize::from) } else { reader.u8().map(usize::from) };
        let value = reader.take(len.ok_or_else(malformed)?).ok_or_else(malformed)?;
        if kind != PARAMETER_CAPABILITIES {
            return Err(Notification::new(Notification::BAD_PARAMETER));
        }
        Capability::decode_all(value, &mut capabilities).ok_or_else(malformed)?;
    }
    Ok(capabilities)
}
