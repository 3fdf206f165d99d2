//! The daemon from its first check to its clean end.

use tokio::sync::watch;

/// Waits until `stop` becomes true, or the daemon is gone.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
