//! ROUTE-REFRESH (RFC 2918 §3, RFC 7313 §3.2).

use super::header::{MessageType, message};
use super::notification::Notification;
use super::reader::Reader;
use crate::types::Family;

/// A request to send a family again, or the beginning or end of the answer (RFC 7313). Other subtypes are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefresh {
    /// Address family.
    pub afi: u16,
    /// Message subtype: [`RouteRefresh::REQUEST`], [`RouteRefresh::BEGIN`], [`RouteRefresh::END`].
    pub subtype: u8,
    /// Subsequent address family.
    pub safi: u8,
}

impl RouteRefresh {
    /// Please send it again (RFC 2918).
    pub const REQUEST: u8 = 0;
    /// BoRR: all of it follows (RFC 7313 §3.2).
    pub const BEGIN: u8 = 1;
    /// EoRR: that was all (RFC 7313 §3.2).
    pub const END: u8 = 2;

    /// A message of this subtype about a family.
    pub const fn of(family: Family, subtype: u8) -> RouteRefresh {
        let (afi, safi) = family.afi_safi();
        RouteRefresh { afi, subtype, safi }
    }

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
