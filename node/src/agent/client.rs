//! Calling an agent: from a gateway's namespace of the tenant, or from the node itself.
//!
//! Blocking calls. Their sockets are made on the calling thread, so that a thread that has entered a
//! network namespace calls from there. From inside an async runtime use a thread for blocking work.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::time::timeout;

use super::{ANSWER_BYTES_MAX, Facts, MeasureRequest};
use crate::enrol::Problem;
use crate::measure::Report;

/// For one connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// For a short answer, and beyond the length of a measurement.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Why an agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It cannot be reached, or hung up (it does so on everybody who is no controller).
    #[error("no answer from the agent at {agent}: {source}")]
    Io {
        /// Where it should be.
        agent: String,
        /// What happened.
        #[source]
        source: io::Error,
    },
    /// It refused, or failed.
    #[error("the agent at {agent} says: {problem}")]
    Problem {
        /// The agent.
        agent: String,
        /// Its words.
        problem: Box<Problem>,
    },
    /// Its answer is not what it should be.
    #[error("the agent at {agent} sent an answer that cannot be used: {detail}")]
    Answer {
        /// The agent.
        agent: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// Has the agent measure; waits for the report as long as the measurement may take.
///
/// # Errors
/// See [`CallError`]; `urn:watari:problem:agent-busy` when a measurement is running there already.
pub fn request_measure(
    agent: SocketAddr,
    source: Option<IpAddr>,
    request: &MeasureRequest,
) -> Result<Report, CallError> {
    let body = serde_json::to_vec(request)
        .map_err(|e| CallError::Answer { agent: agent.to_string(), detail: e.to_string() })?;
    let http = Request::post("/v1/measure").header(CONTENT_TYPE, "application/json");
    let limit = Duration::from_millis(request.spec.limit_ms()) + ANSWER_LIMIT;
    call(agent.to_string(), || connect(agent, source), http, body, limit)
}

/// Asks the agent for its facts.
///
/// # Errors
/// See [`CallError`].
pub fn fetch_facts(agent: SocketAddr, source: Option<IpAddr>) -> Result<Facts, CallError> {
    call(agent.to_string(), || connect(agent, source), Request::get("/v1/facts"), Vec::new(), ANSWER_LIMIT)
}

/// Asks the agent of this machine for its facts, over its Unix socket.
///
/// # Errors
/// See [`CallError`].
pub fn call_local(socket: &Path) -> Result<Facts, CallError> {
    let agent = socket.display().to_string();
    call(agent, || UnixStream::connect(socket), Request::get("/v1/facts"), Vec::new(), ANSWER_LIMIT)
}

async fn connect(agent: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if agent.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(agent).await
}

/// One call on a runtime of its own, which lives on this thread only.
fn call<S, F, T>(
    agent: String,
    connect: impl FnOnce() -> F,
    http: hyper::http::request::Builder,
    body: Vec<u8>,
    limit: Duration,
) -> Result<T, CallError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<S>>,
    T: DeserializeOwned,
{
    let failed = |source| CallError::Io { agent: agent.clone(), source };
    let late = |_| failed(io::Error::from(io::ErrorKind::TimedOut));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let stream = timeout(CONNECT_LIMIT, connect()).await.map_err(late)?.map_err(failed)?;
        let request = http
            .header(HOST, "agent")
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| failed(io::Error::other(e)))?;
        let (status, bytes) =
            timeout(limit, exchange(stream, request)).await.map_err(late)?.map_err(failed)?;
        read_answer(&agent, status, &bytes)
    })
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> io::Result<(StatusCode, Bytes)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body =
        Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(io::Error::other)?;
    driver.abort();
    Ok((status, body.to_bytes()))
}

fn read_answer<T: DeserializeOwned>(agent: &str, status: StatusCode, bytes: &[u8]) -> Result<T, CallError> {
    let agent = agent.to_owned();
    if status == StatusCode::OK {
        return serde_json::from_slice(bytes).map_err(|e| CallError::Answer { agent, detail: e.to_string() });
    }
    let problem = serde_json::from_slice(bytes)
        .unwrap_or_else(|_| Problem::new("about:blank", status.as_u16(), &format!("HTTP status {status}")));
    Err(CallError::Problem { agent, problem: Box::new(problem) })
}
