//! The listener: who may come in, what is answered, and the limits of both.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ipnet::IpNet;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use super::facts::{self, Identity};
use super::{
    CONNECTIONS_MAX, MeasureRequest, PROBLEM_BUSY, PROBLEM_FACTS, PROBLEM_MEASURE, PROBLEM_REQUEST,
    REQUEST_BYTES_MAX,
};
use crate::enrol::{FieldError, Problem};
use crate::measure::{self, MeasureError, Responder, ResponderOptions, TOTAL_MS_MAX};

/// How long a peer may take for the head of its request.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// How long a whole connection may last: the longest measurement, and what comes around it.
const CONNECTION_LIMIT: Duration = Duration::from_millis(TOTAL_MS_MAX as u64 + 120_000);
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How an agent is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentOptions {
    /// The node's name.
    pub node: String,
    /// The lease at enrolment, RFC 3339.
    pub lease_expires: String,
    /// The node's overlay addresses; they need not exist yet.
    pub addresses: Vec<IpAddr>,
    /// TCP port of the agent.
    pub port: u16,
    /// Who may talk to it over TCP.
    pub controllers: Vec<IpAddr>,
    /// Port of the measurement responder.
    pub measure_port: u16,
    /// Who may measure to this node.
    pub measure_allowed: Vec<IpNet>,
    /// Unix socket with the same routes, for whoever may open it.
    pub socket: Option<PathBuf>,
}

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// An address cannot be listened on.
    #[error("the agent cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The measurement responder cannot listen.
    #[error("the measurement responder cannot listen on port {port}: {source}")]
    Measure {
        /// Its port.
        port: u16,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The Unix socket cannot be made.
    #[error("the agent cannot listen on {path}: {source}", path = path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// An agent that listens and does not answer yet.
#[derive(Debug)]
pub struct Agent {
    listeners: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
    local: Option<UnixListener>,
    responder: Responder,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    identity: Identity,
    controllers: BTreeSet<IpAddr>,
    connections: Semaphore,
    measuring: Arc<Semaphore>,
}

impl Agent {
    /// Opens every socket, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// One of them cannot be opened; none stays open then.
    pub fn bind(options: &AgentOptions) -> Result<Self, AgentError> {
        let at = |port| options.addresses.iter().map(move |a| SocketAddr::new(*a, port)).collect::<Vec<_>>();
        let listeners = at(options.port).into_iter().map(bind_tcp).collect::<Result<Vec<_>, _>>()?;
        let responder = Responder::start(&ResponderOptions {
            listen: at(options.measure_port),
            allowed: Some(options.measure_allowed.clone()),
        })
        .map_err(|source| AgentError::Measure { port: options.measure_port, source })?;
        let local = options.socket.as_ref().map(bind_unix).transpose()?;
        let addresses = listeners.iter().filter_map(|l| l.local_addr().ok()).collect();
        let identity = Identity { node: options.node.clone(), lease_expires: options.lease_expires.clone() };
        let shared = Arc::new(Shared {
            identity,
            controllers: options.controllers.iter().map(IpAddr::to_canonical).collect(),
            connections: Semaphore::new(CONNECTIONS_MAX),
            measuring: Arc::new(Semaphore::new(1)),
        });
        Ok(Self { listeners, addresses, local, responder, shared })
    }

    /// Where it listens, with the ports that were taken.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where its measurement responder listens.
    pub fn measure_addresses(&self) -> &[SocketAddr] {
        self.responder.addresses()
    }

    /// Answers until `stop` comes.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let mut tasks = JoinSet::new();
        for listener in self.listeners {
            tasks.spawn(accept_tcp(listener, Arc::clone(&self.shared)));
        }
        if let Some(local) = self.local {
            tasks.spawn(accept_unix(local, Arc::clone(&self.shared)));
        }
        info!(node = self.shared.identity.node, addresses = ?self.addresses, "the agent answers");
        stop.await;
        tasks.shutdown().await;
        // Its threads are joined, which may take as long as a tick of theirs.
        let responder = self.responder;
        let stopped = tokio::task::spawn_blocking(move || drop(responder)).await;
        debug!(clean = stopped.is_ok(), "the agent has stopped");
    }
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, AgentError> {
    let open = || {
        let listener = measure::listen(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    open().map_err(|source| AgentError::Listen { address, source })
}

/// A socket that a former agent has left behind is replaced: the caller holds the lock that says
/// that no other runs.
fn bind_unix(path: &PathBuf) -> Result<UnixListener, AgentError> {
    let open = || {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    open().map_err(|source| AgentError::Socket { path: path.clone(), source })
}

async fn accept_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) if shared.controllers.contains(&peer.ip().to_canonical()) => {
                connections.spawn(serve_connection(stream, Arc::clone(&shared)));
            }
            Ok((_, peer)) => debug!(%peer, "not a controller"),
            Err(error) => {
                warn!(%error, "agent listener");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_unix(listener: UnixListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(serve_connection(stream, Arc::clone(&shared)));
            }
            Err(error) => {
                warn!(%error, "agent socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let Ok(_place) = shared.connections.try_acquire() else {
        debug!("too many connections");
        return;
    };
    let service = service_fn(|request| answer(request, &shared));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(REQUEST_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "connection"),
        Err(_) => debug!("a connection took too long"),
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Result<Response<Full<Bytes>>, Infallible> {
    let answered = match (request.method(), request.uri().path()) {
        (&Method::GET, "/v1/facts") => answer_facts(shared).await,
        (&Method::POST, "/v1/measure") => answer_measure(request, shared).await,
        (_, "/v1/facts" | "/v1/measure") => Err(Problem::new("about:blank", 405, "Method Not Allowed")),
        _ => Err(Problem::new("about:blank", 404, "Not Found")),
    };
    Ok(answered.unwrap_or_else(|problem| {
        let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        respond(status, "application/problem+json", &problem)
    }))
}

fn respond<T: Serialize>(status: StatusCode, kind: &'static str, body: &T) -> Response<Full<Bytes>> {
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::new(bytes.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

fn ok<T: Serialize>(body: &T) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, "application/json", body)
}

async fn answer_facts(shared: &Shared) -> Result<Response<Full<Bytes>>, Problem> {
    let identity = shared.identity.clone();
    let failed =
        |detail: String| Problem::new(PROBLEM_FACTS, 500, "The facts cannot be read").with_detail(detail);
    let read = tokio::task::spawn_blocking(move || facts::read(&identity)).await;
    let facts = read.map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
    Ok(ok(&facts))
}

async fn answer_measure(
    request: Request<Incoming>,
    shared: &Shared,
) -> Result<Response<Full<Bytes>>, Problem> {
    let wish = read_body(request).await?;
    if let Err(fault) = wish.spec.check() {
        return Err(wrong_field(422, "spec", fault.to_string()));
    }
    let Ok(turn) = Arc::clone(&shared.measuring).try_acquire_owned() else {
        return Err(Problem::new(PROBLEM_BUSY, 409, "Another measurement is running here"));
    };
    let target = SocketAddr::new(wish.target, wish.port);
    info!(%target, "measuring");
    // The turn ends with the measurement, not with the connection that asked for it.
    let work = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        measure::run(target, &wish.spec)
    });
    let failed =
        |detail: String| Problem::new(PROBLEM_MEASURE, 502, "The measurement failed").with_detail(detail);
    match work.await {
        Ok(Ok(report)) => Ok(ok(&report)),
        Ok(Err(MeasureError::Spec(fault))) => Err(wrong_field(422, "spec", fault.to_string())),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

async fn read_body(request: Request<Incoming>) -> Result<MeasureRequest, Problem> {
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect();
    let body = tokio::time::timeout(HEAD_LIMIT, body)
        .await
        .map_err(|_| Problem::new(PROBLEM_REQUEST, 408, "The body did not come in time"))?
        .map_err(|error| {
            if error.is::<LengthLimitError>() {
                Problem::new(PROBLEM_REQUEST, 413, "The body is too long")
            } else {
                Problem::new(PROBLEM_REQUEST, 400, "The body cannot be read").with_detail(error.to_string())
            }
        })?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| wrong_field(400, "", error.to_string()))
}

fn wrong_field(status: u16, path: &str, message: String) -> Problem {
    let mut problem = Problem::new(PROBLEM_REQUEST, status, "The request is wrong");
    problem.errors.push(FieldError::new(path, message));
    problem
}
