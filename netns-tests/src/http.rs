//! A small HTTP/1.1 client (RFC 9112) for the gateways' API, over a Unix socket or TCP: one request a
//! connection. The API's own clients are not used here: a test must see what is on the wire.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::Ns;
use crate::wait::patient;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where an API listens.
#[derive(Debug, Clone)]
pub enum Api {
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP address, seen from a namespace.
    Tcp(Ns, SocketAddr),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header field of that (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `null` where it is empty.
    ///
    /// # Errors
    /// When it is something else.
    pub fn json(&self) -> Result<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).with_context(|| self.text())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON of a successful answer.
    ///
    /// # Errors
    /// When the status is not 2xx, with the body.
    pub fn success(&self) -> Result<Value> {
        ensure!((200..300).contains(&self.status), "HTTP {}: {}", self.status, self.text());
        self.json()
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Api {
    fn connect(&self) -> Result<Box<dyn Stream>> {
        match self {
            Self::Unix(path) => {
                let stream =
                    UnixStream::connect(path).with_context(|| format!("connect to {}", path.display()))?;
                stream.set_read_timeout(Some(patient(PATIENCE)))?;
                Ok(Box::new(stream))
            }
            Self::Tcp(ns, address) => {
                let stream = ns.run(|| TcpStream::connect_timeout(address, patient(PATIENCE)));
                let stream = stream.with_context(|| format!("connect to {address}"))?;
                stream.set_read_timeout(Some(patient(PATIENCE)))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// One request with any method, extra header fields and body.
    ///
    /// # Errors
    /// When no well-formed answer comes; an answer of any status is not an error.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: watari\r\nconnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        let mut stream = self.connect()?;
        stream.write_all(&[head.as_bytes(), body].concat())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).with_context(|| format!("{method} {path}"))?;
        parse(&answer).with_context(|| format!("{method} {path}"))
    }

    /// GET.
    ///
    /// # Errors
    /// As [`Api::request`].
    pub fn get(&self, path: &str) -> Result<Response> {
        self.request("GET", path, &[], b"")
    }

    /// DELETE.
    ///
    /// # Errors
    /// As [`Api::request`].
    pub fn delete(&self, path: &str) -> Result<Response> {
        self.request("DELETE", path, &[], b"")
    }

    /// POST of a JSON value.
    ///
    /// # Errors
    /// As [`Api::request`].
    pub fn post(&self, path: &str, body: &Value) -> Result<Response> {
        let json = [("content-type", "application/json")];
        self.request("POST", path, &json, body.to_string().as_bytes())
    }

    /// PUT of a JSON value.
    ///
    /// # Errors
    /// As [`Api::request`].
    pub fn put(&self, path: &str, body: &Value) -> Result<Response> {
        let json = [("content-type", "application/json")];
        self.request("PUT", path, &json, body.to_string().as_bytes())
    }

    /// Whether something answers there.
    #[must_use]
    pub fn answers(&self, path: &str) -> bool {
        self.get(path).is_ok()
    }
}

fn parse(answer: &[u8]) -> Result<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.context("an answer without an end of its header")?;
    let head = std::str::from_utf8(&answer[..end])?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned()))
        .collect();
    let rest = &answer[end + 4..];
    let chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let body = if chunked { join_chunks(rest)? } else { rest.to_vec() };
    Ok(Response { status: status.parse()?, headers, body })
}

/// RFC 9112 §7.1.
fn join_chunks(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else {
            bail!("a chunk without a size");
        };
        let line = std::str::from_utf8(&rest[..end])?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)?;
        if size == 0 {
            return Ok(body);
        }
        let chunk = rest.get(end + 2..end + 2 + size).context("a chunk cut short")?;
        body.extend_from_slice(chunk);
        rest = rest.get(end + 4 + size..).context("a chunk without an end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_chunks() {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            4\r\n[1,2\r\n3\r\n,3]\r\n0\r\n\r\n";
        let response = parse(answer).unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(response.json().unwrap(), serde_json::json!([1, 2, 3]));
    }

    #[test]
    fn a_failure_carries_its_body() {
        let answer = b"HTTP/1.1 422 Unprocessable Content\r\n\
            content-type: application/problem+json\r\n\r\n{\"title\":\"no\"}";
        let response = parse(answer).unwrap();
        assert_eq!(response.header("content-type"), Some("application/problem+json"));
        assert!(response.success().unwrap_err().to_string().contains("\"no\""));
    }
}
