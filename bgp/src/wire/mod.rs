//! The wire.
mod notification;
pub use notification::Notification;
