//! ROUTE-REFRESH (RFC 2918 §3).

use super::header::{MessageType, message};
use super::notification::Notification;
use super::reader::Reader;

/// A request to send a family again. Subtypes other than 0 are those of RFC 7313 and are ignored by who did
/// not announce it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Address family.
    pub afi: u16,
    /// Message subtype, 0 for a request.
    pub subtype: u8,
    /// Subsequent address family.
    pub safi: u8,
}

impl RouteRefresh {
    /// The whole message.
    pub fn encode(&self) -> Vec<u8> {
        let [a0, a1] = self.afi.to_be_bytes();
        message(MessageType::RouteRefresh, &[a0, a1, self.subtype, self.safi])
    }

    /// From the body of a message.
    ///
    /// # Errors
    /// The NOTIFICATION of RFC 7313 §5 for a wrong length.
    pub fn decode(body: &[u8]) -> Result<RouteRefresh, Notification> {
        let mut reader = Reader::new(body);
        match (reader.u16(), reader.u8(), reader.u8(), reader.is_empty()) {
            (Some(afi), Some(subtype), Some(safi), true) => Ok(RouteRefresh { afi, subtype, safi }),
            _ => Err(Notification::with_data(Notification::REFRESH_LENGTH, body)),
        }
    }
}
