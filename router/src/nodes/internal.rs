//! What gateways ask each other: to probe or to measure from their own addresses, and what their
//! datapath makes of a packet.
//!
//! ```text
//!   POST /internal/v1/probe    ProbeAsk   ─▶ ProbeAnswer      on the VTEP address, port 4793,
//!   POST /internal/v1/measure  MeasureAsk ─▶ MeasureAnswer    HTTP/1.1 through the tunnels
//!   POST /internal/v1/why      WhyAsk     ─▶ Half
//! ```
//! Only the VTEP address of another gateway in the document may connect. Who forges it gets no answer: the way
//! back to a VTEP leads into its tunnel, so no connection comes about. What can be asked is bounded: echo
//! and measurement to addresses of the segment, so many at a time, so often.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, watch};
use watari_node::measure::{Report, Spec};

use super::here::Here;
use super::limit::{Limiter, Rate};
use super::listen::{self, Gate, Peer};
use super::{Nodes, echo};
use crate::explain::ask_why::answer;
use crate::explain::why::{Half, WhyAsk};
use crate::run::stopped;

/// TCP port of the gateways among each other.
pub const PORT: u16 = 4793;
/// Path of a probe.
pub const PROBE_PATH: &str = "/internal/v1/probe";
/// Path of a measurement.
pub const MEASURE_PATH: &str = "/internal/v1/measure";
/// Path of the question why a packet does not arrive.
pub const WHY_PATH: &str = "/internal/v1/why";
/// The most bytes of a question.
const ASK_BYTES_MAX: usize = 16 << 10;
/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// The most connections at a time.
const CONNECTIONS_MAX: usize = 64;
/// The most probes at a time.
const PROBES_MAX: usize = 32;
/// What one gateway may ask.
const RATE: Rate = Rate { burst: 400, per_s: 100 };
/// How long a probe's answer may take.
pub const PROBE_WAIT_MAX: Duration = Duration::from_secs(8);
/// How long a connection may last: the longest measurement, and a little more.
const CONNECTION_WAIT_MAX: Duration = Duration::from_secs(240);
/// How long it may take to connect.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(3);
/// The pause before a failed listener is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Asks a gateway to probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeAsk {
    /// The tenant.
    pub l3vni: u32,
    /// The segment.
    pub vni: u32,
    /// Where to; an address of the segment.
    pub target: IpAddr,
    /// Size of the IP packet in bytes.
    pub bytes: u16,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeAnswer {
    /// Round-trip time in microseconds, when it came back.
    pub rtt_us: Option<u64>,
    /// Why it did not.
    pub error: Option<String>,
}

/// Asks a gateway to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasureAsk {
    /// The tenant.
    pub l3vni: u32,
    /// The segment.
    pub vni: u32,
    /// The responder; an address of the segment.
    pub target: IpAddr,
    /// What to measure.
    pub spec: Spec,
}

/// What came of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasureAnswer {
    /// What was found.
    pub report: Option<Report>,
    /// Why nothing was found.
    pub error: Option<String>,
    /// Something else is measured there just now.
    pub busy: bool,
}

/// Why another gateway gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// This gateway is not in the document.
    #[error("this gateway has no VTEP address yet")]
    NoVtep,
    /// It cannot be reached through the tunnels.
    #[error("no answer from the gateway at {at}: {detail}")]
    Silent {
        /// Its VTEP.
        at: IpAddr,
        /// What happened.
        detail: String,
    },
    /// It refused, or said something else.
    #[error("the gateway at {at} answered {status}")]
    Refused {
        /// Its VTEP.
        at: IpAddr,
        /// The HTTP status.
        status: StatusCode,
    },
}

/// Asks the gateway with the VTEP `to`; waits for `wait` at most.
///
/// # Errors
/// When it gives no answer.
pub async fn ask<Q, A>(
    own: Option<IpAddr>,
    to: IpAddr,
    path: &str,
    question: &Q,
    wait: Duration,
) -> Result<A, AskError>
where
    Q: Serialize,
    A: DeserializeOwned,
{
    let own = own.ok_or(AskError::NoVtep)?;
    let silent = |detail: String| AskError::Silent { at: to, detail };
    let body = serde_json::to_vec(question).map_err(|e| silent(e.to_string()))?;
    let exchange = async {
        let socket = if own.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(own, 0))?;
        let connecting = socket.connect(SocketAddr::new(to, PORT));
        let stream = tokio::time::timeout(CONNECT_WAIT_MAX, connecting).await??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        let driver = tokio::spawn(connection);
        let request = Request::post(path)
            .header(header::HOST, "gateway")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(std::io::Error::other)?;
        let response = sender.send_request(request).await.map_err(std::io::Error::other)?;
        let status = response.status();
        let read = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        driver.abort();
        Ok::<_, std::io::Error>((status, read.map_err(std::io::Error::other)?.to_bytes()))
    };
    let answered = tokio::time::timeout(wait, exchange).await;
    let (status, bytes) = match answered {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(silent(error.to_string())),
        Err(_) => return Err(silent(format!("none within {} s", wait.as_secs()))),
    };
    if status != StatusCode::OK {
        return Err(AskError::Refused { at: to, status });
    }
    serde_json::from_slice(&bytes).map_err(|e| silent(e.to_string()))
}

struct Internal {
    nodes: Arc<Nodes>,
    limiter: Mutex<Limiter>,
    probes: Semaphore,
}

/// Listens on the VTEP address for as long as there is one, on another when it changes.
pub async fn run(nodes: Arc<Nodes>, mut stop: watch::Receiver<bool>) {
    let internal = Internal {
        nodes: nodes.clone(),
        limiter: Mutex::new(Limiter::new(RATE)),
        probes: Semaphore::new(PROBES_MAX),
    };
    let router = Router::new()
        .route(PROBE_PATH, post(probe))
        .route(MEASURE_PATH, post(measure))
        .route(WHY_PATH, post(why))
        .layer(DefaultBodyLimit::max(ASK_BYTES_MAX))
        .with_state(Arc::new(internal));
    let mut head = nodes.brain.watch_desired();
    loop {
        let vtep = head.borrow_and_update().desired.gateway().map(|g| g.vtep);
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = listening(&nodes, vtep, router.clone()) => {}
            () = async {
                // A change of the document that leaves the address alone interrupts nothing.
                let another = |h: &Arc<crate::brain::Head>| h.desired.gateway().map(|g| g.vtep) != vtep;
                if head.wait_for(another).await.is_err() {
                    std::future::pending::<()>().await;
                }
            } => {}
        }
    }
}

async fn listening(nodes: &Arc<Nodes>, vtep: Option<IpAddr>, router: Router) {
    let Some(vtep) = vtep else { return std::future::pending().await };
    match listen::bind(SocketAddr::new(vtep, PORT)) {
        Ok(listener) => {
            let gate = Gate {
                connections_max: CONNECTIONS_MAX,
                per_address_max: CONNECTIONS_MAX,
                connection_wait_max: CONNECTION_WAIT_MAX,
                admit: |from| is_gateway(nodes, from),
                tls: None,
            };
            listen::serve(listener, gate, router).await;
        }
        Err(error) => {
            tracing::warn!(%vtep, %error, "cannot listen for other gateways");
            tokio::time::sleep(RETRY).await;
        }
    }
}

fn is_gateway(nodes: &Nodes, from: IpAddr) -> bool {
    let desired = nodes.brain.desired();
    let own = desired.gateway_name();
    let others = desired.document().gateways.iter().filter(|(name, _)| *name != own);
    others.map(|(_, gateway)| gateway.vtep).any(|vtep| vtep == from)
}

impl Internal {
    fn admit(&self, peer: Peer) -> Result<(), StatusCode> {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        let admitted = limiter.admit(peer.0.ip(), Instant::now());
        if admitted { Ok(()) } else { Err(StatusCode::TOO_MANY_REQUESTS) }
    }
}

async fn probe(
    State(internal): State<Arc<Internal>>,
    Extension(peer): Extension<Peer>,
    Json(ask): Json<ProbeAsk>,
) -> Result<Json<ProbeAnswer>, StatusCode> {
    internal.admit(peer)?;
    let _place = internal.probes.try_acquire().map_err(|_| StatusCode::TOO_MANY_REQUESTS)?;
    if ask.bytes > echo::BYTES_MAX {
        return Err(StatusCode::UNPROCESSABLE_ENTITY);
    }
    let here = Here::find(&internal.nodes.brain.desired(), ask.l3vni, ask.vni);
    let answer = match here {
        Ok(here) => here.probe(ask.target, ask.bytes).await,
        Err(error) => Err(error),
    };
    Ok(Json(match answer {
        Ok(rtt) => ProbeAnswer { rtt_us: Some(rtt.as_micros() as u64), error: None },
        Err(error) => ProbeAnswer { rtt_us: None, error: Some(error.to_string()) },
    }))
}

async fn why(
    State(internal): State<Arc<Internal>>,
    Extension(peer): Extension<Peer>,
    Json(ask): Json<WhyAsk>,
) -> Result<Json<Half>, StatusCode> {
    internal.admit(peer)?;
    let maps = internal.nodes.maps.get().cloned().ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    let (brain, vtep) = (internal.nodes.brain.clone(), peer.0.ip());
    let looked = tokio::task::spawn_blocking(move || answer(&brain, &maps, &ask, vtep)).await;
    match looked {
        Ok(Ok(half)) => Ok(Json(half)),
        _ => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

async fn measure(
    State(internal): State<Arc<Internal>>,
    Extension(peer): Extension<Peer>,
    Json(ask): Json<MeasureAsk>,
) -> Result<Json<MeasureAnswer>, StatusCode> {
    internal.admit(peer)?;
    let Ok(_place) = internal.nodes.measuring.try_acquire() else {
        let error = Some("it measures something else just now".to_owned());
        return Ok(Json(MeasureAnswer { report: None, error, busy: true }));
    };
    let here = Here::find(&internal.nodes.brain.desired(), ask.l3vni, ask.vni);
    let measured = match here {
        Ok(here) => here.measure(ask.target, ask.spec).await,
        Err(error) => Err(error),
    };
    Ok(Json(match measured {
        Ok(report) => MeasureAnswer { report: Some(report), error: None, busy: false },
        Err(error) => MeasureAnswer { report: None, busy: error.is_busy(), error: Some(error.to_string()) },
    }))
}
