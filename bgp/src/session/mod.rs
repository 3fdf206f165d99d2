//! One neighbour's finite state machine.
mod state;
pub use state::{DownReason, State};
