//! Explaining: why a packet does not arrive.
//!
//! * [`trace`]: one packet through the real pipeline, each decision in words. [`frame`], [`pcap`]: where it comes from.
//! * [`live`]: what happens just now, by [`watching`]: drops, flows, captures.
//! * [`why`], asked by [`ask_why`]: two hosts, what each gateway knows of them, a trace at both ends.
//! * [`names`], [`summary`]: words for people.
//!
//! Pure: [`frame`], [`pcap`], [`summary`].

pub mod ask_why;
pub mod frame;
pub mod live;
pub mod names;
pub mod pcap;
pub mod summary;
pub mod trace;
pub mod watching;
pub mod why;

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use watari_dataplane::Dataplane;

use crate::api::problem::Problem;
use crate::brain::Brain;
use watching::Watching;

/// What the routes of this module share.
pub struct Explain {
    brain: Arc<Brain>,
    maps: Arc<Dataplane>,
    watching: Arc<Watching>,
    stop: watch::Receiver<bool>,
}

/// The routes for the API; starts the reader of samples, which ends when `stop` becomes true.
pub fn start(
    brain: &Arc<Brain>,
    maps: &Arc<Dataplane>,
    stop: &watch::Receiver<bool>,
    tasks: &mut JoinSet<()>,
) -> OpenApiRouter {
    let watching = Watching::new(maps.clone());
    tasks.spawn(watching.clone().run(stop.clone()));
    let explain = Explain { brain: brain.clone(), maps: maps.clone(), watching, stop: stop.clone() };
    routes().with_state(Arc::new(explain))
}

/// The routes of this module.
pub fn routes() -> OpenApiRouter<Arc<Explain>> {
    OpenApiRouter::new()
        .routes(routes!(trace::trace))
        .routes(routes!(live::monitor))
        .routes(routes!(live::capture))
        .routes(routes!(ask_why::why))
}

impl From<watari_dataplane::Error> for Problem {
    fn from(error: watari_dataplane::Error) -> Self {
        tracing::error!(%error, "the datapath failed");
        Self::internal().with_detail(error.to_string())
    }
}
