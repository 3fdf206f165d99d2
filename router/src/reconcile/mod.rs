//! The reconcile loop: desired − observed, carried out by the drivers.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use watari_config::Bootstrap;

use crate::brain::Brain;

/// Starts the loop; it ends when `stop` becomes true and leaves everything as it is.
pub fn spawn(
    brain: Arc<Brain>,
    bootstrap: Arc<Bootstrap>,
    mut stop: watch::Receiver<bool>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let _keep = (brain, bootstrap);
        let _ = stop.wait_for(|stop| *stop).await;
    })
}
