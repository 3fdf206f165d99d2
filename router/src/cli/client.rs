//! A small HTTP/1.1 client: one connection for each request, over the Unix socket, TCP, or TLS with a pinned certificate.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use watari_node::enrol::{Pin, PinnedVerifier};

use crate::api::PREFIX;
use crate::api::problem::Problem;

/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long it may take to connect, TLS included.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long an answer may take, beyond what the request itself waits for.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The gateway refused.
    #[error("{}", refusal(.0))]
    Refused(Box<Problem>),
    /// The gateway cannot be reached.
    #[error("cannot reach {at}: {source}")]
    Connect {
        /// The socket or address.
        at: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The connection broke or was no HTTP.
    #[error("the connection to {at} broke: {source}")]
    Broken {
        /// The socket or address.
        at: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer took too long.
    #[error("{at} gave no answer within {} s", wait.as_secs())]
    TooSlow {
        /// The socket or address.
        at: String,
        /// How long was waited.
        wait: Duration,
    },
    /// The options do not say where to go, or how.
    #[error("{0}")]
    Options(String),
}

/// A problem for people: what happened, then `path: message` for each wrong field.
fn refusal(problem: &Problem) -> String {
    let mut text = match &problem.detail {
        Some(detail) => format!("{}: {detail}", problem.title),
        None => problem.title.to_string(),
    };
    for error in &problem.errors {
        text.push_str(&format!("\n  {}: {}", error.path, error.message));
    }
    text
}

enum Target {
    Unix(PathBuf),
    Tcp { authority: String, tls: Option<Pin> },
}

/// Where to go and with which token.
pub struct Client {
    target: Target,
    token: Option<String>,
}

/// A body to send.
pub enum Body {
    /// None.
    Empty,
    /// JSON.
    Json(Value),
}

/// An answer in which events go on arriving.
pub struct Lines {
    body: Incoming,
    kept: Vec<u8>,
    at: String,
}

impl Client {
    /// A client of the Unix socket.
    pub fn unix(socket: &Path, token: Option<String>) -> Self {
        Self { target: Target::Unix(socket.to_owned()), token }
    }

    /// A client of `url`: `http://HOST:PORT`, or `https://HOST:PORT` with the fingerprint of the certificate.
    ///
    /// # Errors
    /// When the URL or the fingerprint is malformed, or the fingerprint is missing.
    pub fn url(url: &str, pin: Option<&str>, token: Option<String>) -> Result<Self, ClientError> {
        let wrong = |why: &str| ClientError::Options(format!("{url}: {why}"));
        let uri: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("must end after the port"));
        }
        let host = uri.host().ok_or_else(|| wrong("names no host"))?;
        let (tls, port) = match (uri.scheme_str(), pin) {
            (Some("http"), None) => (None, 80),
            (Some("http"), Some(_)) => return Err(wrong("a fingerprint is of no use without https")),
            (Some("https"), Some(pin)) => {
                (Some(pin.parse().map_err(|_| wrong("--pin is no fingerprint"))?), 443)
            }
            (Some("https"), None) => {
                return Err(wrong("https needs --pin; `watari facts` shows it as tls_fingerprint"));
            }
            _ => return Err(wrong("must begin with http:// or https://")),
        };
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(port));
        Ok(Self { target: Target::Tcp { authority, tls }, token })
    }

    fn at(&self) -> String {
        match &self.target {
            Target::Unix(socket) => socket.display().to_string(),
            Target::Tcp { authority, .. } => authority.clone(),
        }
    }

    /// Sends a request for a path below `/api/v1` and reads its JSON. `wait` is how long the request itself
    /// may wait at the gateway.
    ///
    /// # Errors
    /// A refusal of the gateway, or why it gave no answer.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
        wait: Duration,
    ) -> Result<Value, ClientError> {
        self.send_if(method, path, body, wait, None).await
    }

    /// The same, refused by the gateway unless `revision` is its newest, where one is given.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send_if(
        &self,
        method: Method,
        path: &str,
        body: Body,
        wait: Duration,
        revision: Option<u64>,
    ) -> Result<Value, ClientError> {
        Ok(self.ask(method, path, body, wait, revision).await?.0)
    }

    /// Reads JSON from a path below `/api/v1`, with the revision that it is of (`ETag`), where it has one.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get_with_revision(&self, path: &str) -> Result<(Value, Option<u64>), ClientError> {
        self.ask(Method::GET, path, Body::Empty, Duration::ZERO, None).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Body,
        wait: Duration,
        revision: Option<u64>,
    ) -> Result<(Value, Option<u64>), ClientError> {
        let wait = ANSWER_WAIT_MAX + wait;
        let slow = |_| ClientError::TooSlow { at: self.at(), wait };
        let exchange = async {
            let response = self.request(method, path, body, revision).await?;
            let status = response.status();
            let tag = response.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
            let revision = tag.and_then(|tag| tag.trim_matches('"').parse().ok());
            let read = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let bytes = read.map_err(|source| ClientError::Broken { at: self.at(), source })?.to_bytes();
            if !status.is_success() {
                return Err(ClientError::Refused(Box::new(problem(status.as_u16(), &bytes))));
            }
            let value = serde_json::from_slice(&bytes);
            let value = value.map_err(|e| ClientError::Broken { at: self.at(), source: e.into() })?;
            Ok((value, revision))
        };
        tokio::time::timeout(wait, exchange).await.map_err(slow)?
    }

    /// Reads JSON from a path below `/api/v1`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.send(Method::GET, path, Body::Empty, Duration::ZERO).await
    }

    /// Opens an answer whose lines go on arriving.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let response = self.request(Method::GET, path, Body::Empty, None).await?;
        let status = response.status();
        if !status.is_success() {
            let read = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let bytes = read.map_err(|source| ClientError::Broken { at: self.at(), source })?.to_bytes();
            return Err(ClientError::Refused(Box::new(problem(status.as_u16(), &bytes))));
        }
        Ok(Lines { body: response.into_body(), kept: Vec::new(), at: self.at() })
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Body,
        revision: Option<u64>,
    ) -> Result<Response<Incoming>, ClientError> {
        let host = match &self.target {
            Target::Unix(_) => "watari",
            Target::Tcp { authority, .. } => authority,
        };
        let mut request = Request::builder().method(method).uri(format!("{PREFIX}/{path}"));
        request = request.header(header::HOST, host).header(header::CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(revision) = revision {
            request = request.header(header::IF_MATCH, format!("\"{revision}\""));
        }
        let bytes = match body {
            Body::Empty => Bytes::new(),
            Body::Json(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(value.to_string())
            }
        };
        let request = request.body(Full::new(bytes));
        let request =
            request.map_err(|e| ClientError::Options(format!("{path} cannot be asked for: {e}")))?;
        match &self.target {
            Target::Unix(socket) => {
                let stream = self.in_time(UnixStream::connect(socket)).await?;
                self.exchange(stream, request).await
            }
            Target::Tcp { authority, tls: None } => {
                let stream = self.in_time(TcpStream::connect(authority.as_str())).await?;
                self.exchange(stream, request).await
            }
            Target::Tcp { authority, tls: Some(pin) } => {
                let stream = self.in_time(TcpStream::connect(authority.as_str())).await?;
                // The name means nothing where the certificate itself is pinned.
                let name = ServerName::try_from("watari").expect("a name");
                let stream = self.in_time(connector(*pin)?.connect(name, stream)).await?;
                self.exchange(stream, request).await
            }
        }
    }

    async fn in_time<T>(&self, connect: impl Future<Output = std::io::Result<T>>) -> Result<T, ClientError> {
        let in_time = tokio::time::timeout(CONNECT_WAIT_MAX, connect).await;
        let connected =
            in_time.map_err(|_| ClientError::TooSlow { at: self.at(), wait: CONNECT_WAIT_MAX })?;
        connected.map_err(|source| ClientError::Connect { at: self.at(), source })
    }

    async fn exchange<IO>(
        &self,
        io: IO,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |e: hyper::Error| ClientError::Broken { at: self.at(), source: e.into() };
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(broken)?;
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(broken)
    }
}

impl Lines {
    /// The next bytes as they came; `None` when the gateway has closed the answer.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn bytes(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        match self.body.frame().await {
            Some(Ok(frame)) => Ok(Some(frame.into_data().map(|data| data.to_vec()).unwrap_or_default())),
            Some(Err(e)) => Err(ClientError::Broken { at: self.at.clone(), source: e.into() }),
            None => Ok(None),
        }
    }

    /// The next line, without its end; `None` when the gateway has closed the answer.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.kept.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.kept.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.kept.extend_from_slice(frame.data_ref().map_or(&[], |d| d)),
                Some(Err(e)) => return Err(ClientError::Broken { at: self.at.clone(), source: e.into() }),
                None => return Ok(None),
            }
        }
    }
}

fn connector(pin: Pin) -> Result<TlsConnector, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(PinnedVerifier::new(pin, provider.clone()));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ClientError::Options(e.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The problem in the body of a refusal, or one made of what came instead.
fn problem(status: u16, body: &[u8]) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text: String = String::from_utf8_lossy(body).chars().take(500).collect();
        Problem { status, ..Problem::internal() }.with_detail(format!("HTTP status {status}: {text}"))
    })
}

/// The token of a file: its first line.
///
/// # Errors
/// When it cannot be read or is empty.
pub fn token_file(path: &Path) -> Result<String, ClientError> {
    let wrong = |why: String| ClientError::Options(format!("{}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    match text.lines().next().map(str::trim) {
        Some(token) if !token.is_empty() => Ok(token.to_owned()),
        _ => Err(wrong("its first line is empty".to_owned())),
    }
}
