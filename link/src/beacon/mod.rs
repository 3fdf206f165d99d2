//! Beacons of the loop guard: one frame from each attachment, again and again, also while the brain is away: a
//! gateway that fell silent would be taken for one that left, and the loop would close. [`set`] is which frames there
//! are and when each is due (pure, time is an argument), [`shell`] the thread with the socket.

mod set;
mod shell;

pub(crate) use shell::BeaconShell;
