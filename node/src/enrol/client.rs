//! The node's side of enrolment: one HTTPS request to a server whose certificate is pinned.
//!
//! What may be repeated is repeated: a connection that could not be made, with growing pauses. Once
//! the request was sent nothing is sent again here, because its token is good once; the caller may
//! run the whole thing again with the same key.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::info;

use super::{
    ENROL_PATH, EnrolReply, EnrolRequest, EnrolUrl, FieldError, PROBLEM_TOKEN, Pin, PinnedVerifier, Problem,
    REPLY_BYTES_MAX,
};

/// Limits of one enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientOptions {
    /// How often to try to connect, at least once.
    pub attempts: u32,
    /// Pause after the first failure; it doubles each time.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
    /// For one connection with its handshake.
    pub connect_limit: Duration,
    /// For request and reply.
    pub reply_limit: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            attempts: 8,
            backoff_min: Duration::from_millis(250),
            backoff_max: Duration::from_secs(8),
            connect_limit: Duration::from_secs(5),
            reply_limit: Duration::from_secs(30),
        }
    }
}

/// Why a node was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The request is outside its own limits.
    #[error("the enrolment request is wrong: {0}")]
    Request(FieldError),
    /// No connection after all attempts.
    #[error("cannot connect to {url} after {attempts} attempts: {source}")]
    Connect {
        /// Where to.
        url: EnrolUrl,
        /// How often it was tried.
        attempts: u32,
        /// The last failure.
        #[source]
        source: io::Error,
    },
    /// Another certificate than the pinned one. Nothing was sent.
    #[error("the server at {url} has another certificate than {pin}: nothing was sent to it")]
    Pin {
        /// Where to.
        url: EnrolUrl,
        /// What was expected.
        pin: Pin,
    },
    /// The TLS handshake failed for another reason.
    #[error("no TLS with {url}: {source}")]
    Tls {
        /// Where to.
        url: EnrolUrl,
        /// The failure.
        #[source]
        source: io::Error,
    },
    /// The token is unknown, used or expired: a new one is needed.
    #[error("the gateway does not accept the token: {0}")]
    Token(Problem),
    /// The gateway refused for another reason.
    #[error("the gateway refused: {0}")]
    Refused(Problem),
    /// The connection broke after the request was sent, or the reply took too long.
    #[error("no reply from {url}: {detail} (the same command may be run again)")]
    NoReply {
        /// Where to.
        url: EnrolUrl,
        /// What happened.
        detail: String,
    },
    /// The reply is not what it should be.
    #[error("{url} sent a reply that cannot be used: {detail}")]
    Reply {
        /// Where to.
        url: EnrolUrl,
        /// What is wrong with it.
        detail: String,
    },
    /// The program could not start its own machinery.
    #[error("cannot set up a connection")]
    System(#[source] io::Error),
}

/// Enrols at `url`, trusting only the certificate of `pin`. Blocks; from inside an async runtime
/// call it on a thread for blocking work.
///
/// # Errors
/// See [`ClientError`]; only failures to connect are retried.
pub fn enrol(
    url: &EnrolUrl,
    pin: Pin,
    request: &EnrolRequest,
    options: &ClientOptions,
) -> Result<EnrolReply, ClientError> {
    if let Err(mut faults) = request.check() {
        return Err(ClientError::Request(faults.swap_remove(0)));
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ClientError::System)?;
    runtime.block_on(async {
        let stream = connect(url, pin, options).await?;
        let lost = |detail: String| ClientError::NoReply { url: url.clone(), detail };
        timeout(options.reply_limit, exchange(url, stream, request))
            .await
            .map_err(|_| lost(format!("it took longer than {} s", options.reply_limit.as_secs())))?
    })
}

/// One failed attempt to connect: worth another, or final.
enum Attempt {
    Again(io::Error),
    Final(ClientError),
}

async fn connect(
    url: &EnrolUrl,
    pin: Pin,
    options: &ClientOptions,
) -> Result<TlsStream<TcpStream>, ClientError> {
    let connector = TlsConnector::from(Arc::new(tls_config(pin)?));
    let mut pause = options.backoff_min;
    let mut attempt = 1;
    loop {
        let tried = timeout(options.connect_limit, connect_once(url, pin, &connector)).await;
        let source = match tried {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(Attempt::Final(error))) => return Err(error),
            Ok(Err(Attempt::Again(source))) => source,
            Err(_) => io::Error::new(io::ErrorKind::TimedOut, "no connection in time"),
        };
        if attempt >= options.attempts {
            return Err(ClientError::Connect { url: url.clone(), attempts: attempt, source });
        }
        info!(%url, attempt, error = %source, "cannot connect, will try again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(options.backoff_max);
        attempt += 1;
    }
}

fn tls_config(pin: Pin) -> Result<rustls::ClientConfig, ClientError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(PinnedVerifier::new(pin, Arc::clone(&provider)));
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::System(io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn connect_once(
    url: &EnrolUrl,
    pin: Pin,
    connector: &TlsConnector,
) -> Result<TlsStream<TcpStream>, Attempt> {
    let tls_error = |source| Attempt::Final(ClientError::Tls { url: url.clone(), source });
    let name = ServerName::try_from(url.host.clone()).map_err(|e| tls_error(io::Error::other(e)))?;
    let stream = TcpStream::connect((url.host.as_str(), url.port)).await.map_err(Attempt::Again)?;
    connector.connect(name, stream).await.map_err(|error| match rustls_error(&error) {
        Some(rustls::Error::InvalidCertificate(_)) => {
            Attempt::Final(ClientError::Pin { url: url.clone(), pin })
        }
        Some(_) => tls_error(error),
        None => Attempt::Again(error),
    })
}

/// The TLS failure inside an I/O error, if it is one.
fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

/// Sends the request and reads the reply.
async fn exchange(
    url: &EnrolUrl,
    stream: TlsStream<TcpStream>,
    request: &EnrolRequest,
) -> Result<EnrolReply, ClientError> {
    let lost = |error: hyper::Error| ClientError::NoReply { url: url.clone(), detail: error.to_string() };
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(http_request(url, request)?).await.map_err(lost)?;
    let result = read_reply(url, response).await;
    driver.abort();
    result
}

fn http_request(url: &EnrolUrl, request: &EnrolRequest) -> Result<Request<Full<Bytes>>, ClientError> {
    let system =
        |error: Box<dyn std::error::Error + Send + Sync>| ClientError::System(io::Error::other(error));
    let body = serde_json::to_vec(request).map_err(|e| system(e.into()))?;
    let authority = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    Request::post(ENROL_PATH)
        .header(HOST, format!("{authority}:{}", url.port))
        .header(CONTENT_TYPE, "application/json")
        .header(ACCEPT, "application/json, application/problem+json")
        .body(Full::new(body.into()))
        .map_err(|e| system(e.into()))
}

async fn read_reply(
    url: &EnrolUrl,
    response: Response<hyper::body::Incoming>,
) -> Result<EnrolReply, ClientError> {
    let status = response.status();
    let body = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            reply_error(url, format!("it is longer than {REPLY_BYTES_MAX} bytes"))
        } else {
            ClientError::NoReply { url: url.clone(), detail: error.to_string() }
        }
    })?;
    let body = body.to_bytes();
    if status == StatusCode::OK {
        let reply: EnrolReply = serde_json::from_slice(&body).map_err(|e| reply_error(url, e.to_string()))?;
        reply.check().map_err(|faults| reply_error(url, faults[0].to_string()))?;
        return Ok(reply);
    }
    let problem = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Problem::new("about:blank", status.as_u16(), &format!("HTTP status {status}")));
    if problem.kind == PROBLEM_TOKEN || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Err(ClientError::Token(problem));
    }
    Err(ClientError::Refused(problem))
}

fn reply_error(url: &EnrolUrl, detail: String) -> ClientError {
    ClientError::Reply { url: url.clone(), detail }
}
