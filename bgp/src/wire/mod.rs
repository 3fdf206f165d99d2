//! Messages and values: RFC 4271 §4 with its extensions, one file per message or attribute group.
//!
//! Decoding borrows from the received octets wherever a value is walked and not kept (NLRI); encoding appends
//! to a buffer. Nothing here panics on any input; what is wrong comes back as the NOTIFICATION for it, or, for
//! UPDATE, in the milder ways of RFC 7606.

mod attributes;
mod capability;
mod encode;
mod evpn;
mod header;
mod nlri;
mod notification;
mod open;
mod path;
mod reader;
mod refresh;
mod rewrite;
mod update;
mod writer;

pub use capability::{AddPathMode, Capability, GracefulRestart};
pub use encode::{
    AttributesTooLarge, EncodeContext, encode_announce, encode_announce_paths, encode_end_of_rib,
    encode_withdraw, encode_withdraw_paths,
};
pub(crate) use encode::{encode_attributes, encode_attributes_for, put_next_hop};
pub use header::{Frame, HEADER_LEN, MessageType, STANDARD_LIMIT, next_frame};
pub(crate) use nlri::encode as encode_nlri;
pub use nlri::{NlriIter, NlriSyntax};
pub use notification::Notification;
pub use open::Open;
pub use refresh::RouteRefresh;
pub(crate) use rewrite::{decode_attributes, rewrite_attributes};
pub use update::{MpReach, ParseContext, Update};
pub(crate) use writer::UpdateWriter;

/// A whole KEEPALIVE message (RFC 4271 §4.4).
pub fn encode_keepalive() -> Vec<u8> {
    header::message(MessageType::Keepalive, &[])
}
