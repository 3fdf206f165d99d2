//! A plain blocking client of the control socket. From an async program it is used on a blocking
//! thread; a [`Client`] is one connection and takes requests one after the other.

use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::protocol::{
    Answer, BeaconConfig, BeaconStatus, BeaconsConfig, BfdConfig, BfdSessionsConfig, BfdSessionsStatus,
    Changed, DeviceConfig, DeviceName, DeviceStatus, Event, EventFrame, Hello, HelloRequest, LINE_BYTES_MAX,
    OverlaysConfig, OverlaysStatus, PROTOCOL_VERSION, PathMtusConfig, PathMtusStatus, ProbesConfig,
    ProbesStatus, Refusal, Request, RequestFrame, ResponseFrame, ShutdownRequest,
};

/// How long a request may take before the engine counts as hung, unless told otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("no watari-link at {}", path.display())]
    NotRunning {
        /// Of the socket.
        path: PathBuf,
        /// What connect said.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or the answer took longer than the timeout.
    #[error("connection to watari-link")]
    Io(#[from] io::Error),
    /// The engine closed the connection.
    #[error("watari-link closed the connection")]
    Closed,
    /// A line that is none of the protocol's.
    #[error("watari-link said something that is not the protocol: {0}")]
    Protocol(String),
    /// The engine refused or failed.
    #[error("watari-link refused: {0}")]
    Refused(Refusal),
}

impl ClientError {
    /// True if there is no engine at the socket (it may have to be started), as opposed to one
    /// that refused or misbehaved.
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }
}

/// One connection to a running engine that said hello in our protocol version.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    next_id: u64,
    hello: Hello,
}

impl Client {
    /// Connects and says hello, with [`REQUEST_TIMEOUT`].
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] if nobody listens there; [`ClientError::Refused`] with code
    /// `version` if the engine speaks another protocol version.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        Self::connect_timeout(socket, REQUEST_TIMEOUT)
    }

    /// Connects and says hello; `timeout` bounds this and every later request.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_timeout(socket: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket)
            .map_err(|source| ClientError::NotRunning { path: socket.to_owned(), source })?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let hello = Hello { protocol: 0, version: String::new(), pid: 0, started_at_ms: 0 };
        let mut client = Self { reader: BufReader::new(stream), next_id: 1, hello };
        let request = Request::Hello(HelloRequest { protocol: PROTOCOL_VERSION });
        match client.request(request)? {
            Answer::Hello(hello) => client.hello = hello,
            other => return Err(unexpected(&other)),
        }
        Ok(client)
    }

    /// Bounds every later request by `timeout`, which must not be zero.
    ///
    /// # Errors
    /// [`ClientError::Io`] if the system refuses.
    pub fn set_timeout(&mut self, timeout: Duration) -> Result<(), ClientError> {
        let stream = self.reader.get_ref();
        stream.set_read_timeout(Some(timeout))?;
        Ok(stream.set_write_timeout(Some(timeout))?)
    }

    /// What the engine said about itself when this connection was made.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Every device with its configuration and state, ordered by name.
    ///
    /// # Errors
    /// See [`ClientError`]; so for all methods here.
    pub fn list_devices(&mut self) -> Result<Vec<DeviceStatus>, ClientError> {
        match self.request(Request::ListDevices)? {
            Answer::Devices(devices) => Ok(devices),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a device be exactly so; returns what had to be touched.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with code `foreign` if an interface of that name is not ours.
    pub fn set_device(&mut self, device: DeviceConfig) -> Result<Changed, ClientError> {
        self.change(Request::SetDevice(device))
    }

    /// Removes a device and its interface; nothing is touched if there is none.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn remove_device(&mut self, name: &str) -> Result<Changed, ClientError> {
        self.change(Request::RemoveDevice(DeviceName { name: name.to_owned() }))
    }

    /// Makes the set of probes be exactly so; an unchanged probe keeps its state.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_probes(&mut self, probes: ProbesConfig) -> Result<Changed, ClientError> {
        self.change(Request::SetProbes(probes))
    }

    /// Every probe with its state, ordered by name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list_probes(&mut self) -> Result<ProbesStatus, ClientError> {
        match self.request(Request::ListProbes)? {
            Answer::Probes(probes) => Ok(probes),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes the set of paths whose MTU is measured be exactly so; an unchanged path keeps its state.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_path_mtus(&mut self, paths: PathMtusConfig) -> Result<Changed, ClientError> {
        self.change(Request::SetPathMtus(paths))
    }

    /// Every path whose MTU is measured, ordered by name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list_path_mtus(&mut self) -> Result<PathMtusStatus, ClientError> {
        match self.request(Request::ListPathMtus)? {
            Answer::PathMtus(paths) => Ok(paths),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes the set of overlays be exactly so.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_overlays(&mut self, overlays: OverlaysConfig) -> Result<Changed, ClientError> {
        self.change(Request::SetOverlays(overlays))
    }

    /// Every overlay of a device that is there, ordered by device, and whether the engine makes any.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list_overlays(&mut self) -> Result<OverlaysStatus, ClientError> {
        match self.request(Request::ListOverlays)? {
            Answer::Overlays(overlays) => Ok(overlays),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes the set of beacons be exactly so; one whose device, tags and VNI stay keeps its age.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_beacons(&mut self, beacons: Vec<BeaconConfig>) -> Result<Changed, ClientError> {
        self.change(Request::SetBeacons(BeaconsConfig { beacons }))
    }

    /// Every beacon with its state, ordered by device and tags.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list_beacons(&mut self) -> Result<Vec<BeaconStatus>, ClientError> {
        match self.request(Request::ListBeacons)? {
            Answer::Beacons(beacons) => Ok(beacons),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes the set of BFD sessions be exactly so; one that stays with its neighbour keeps its state.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn set_bfd(&mut self, sessions: Vec<BfdConfig>) -> Result<Changed, ClientError> {
        self.change(Request::SetBfd(BfdSessionsConfig { sessions }))
    }

    /// Every BFD session with its state, ordered by name.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list_bfd(&mut self) -> Result<BfdSessionsStatus, ClientError> {
        match self.request(Request::ListBfd)? {
            Answer::Bfd(sessions) => Ok(sessions),
            other => Err(unexpected(&other)),
        }
    }

    /// Stops the engine, see [`ShutdownRequest::remove`], and waits until it has ended.
    ///
    /// # Errors
    /// See [`ClientError`]; [`ClientError::Io`] if it does not end within the timeout.
    pub fn shutdown(mut self, remove: bool) -> Result<(), ClientError> {
        match self.request(Request::Shutdown(ShutdownRequest { remove }))? {
            Answer::Stopping => {}
            other => return Err(unexpected(&other)),
        }
        // The connection ends with the process, when everything is done.
        match self.reader.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(ClientError::Protocol("it speaks on after its last words".to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Turns this connection into a stream of events.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn subscribe(mut self) -> Result<Events, ClientError> {
        match self.request(Request::Subscribe)? {
            Answer::Subscribed => Ok(Events { reader: self.reader }),
            other => Err(unexpected(&other)),
        }
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn request(&mut self, request: Request) -> Result<Answer, ClientError> {
        let id = self.next_id;
        self.next_id += 1;
        let line = serde_json::to_vec(&RequestFrame { id, request })
            .map_err(|error| ClientError::Protocol(error.to_string()))?;
        let mut line = Zeroizing::new(line);
        line.push(b'\n');
        self.reader.get_mut().write_all(&line)?;
        let line = read_line(&mut self.reader)?.ok_or(ClientError::Closed)?;
        match parse::<ResponseFrame>(&line)? {
            ResponseFrame::Ok(frame) if frame.id == id => Ok(frame.ok),
            ResponseFrame::Error(frame) if frame.id == id || frame.id == 0 => {
                Err(ClientError::Refused(frame.error))
            }
            _ => Err(ClientError::Protocol("an answer to another request".to_owned())),
        }
    }

    /// The connection, after an answer with which it became another one's ([`Answer::TakingOver`]).
    pub(crate) fn into_stream(self) -> UnixStream {
        self.reader.into_inner()
    }

    fn change(&mut self, request: Request) -> Result<Changed, ClientError> {
        match self.request(request)? {
            Answer::Changed(changed) => Ok(changed),
            other => Err(unexpected(&other)),
        }
    }
}

/// A connection that carries events only.
#[derive(Debug)]
pub struct Events {
    reader: BufReader<UnixStream>,
}

impl Events {
    /// The next event; `None` if there was none within `timeout`, or one of a kind that this client does not know.
    ///
    /// # Errors
    /// [`ClientError::Closed`] when the engine is gone: connect again and read everything back.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Event>, ClientError> {
        self.reader.get_mut().set_read_timeout(Some(timeout.max(Duration::from_millis(1))))?;
        // A timeout must not tear a line in two: wait for its first byte only, then read it whole.
        match self.reader.fill_buf() {
            Ok(_) => {}
            Err(error) if is_timeout(&error) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        self.reader.get_mut().set_read_timeout(Some(REQUEST_TIMEOUT))?;
        let line = read_line(&mut self.reader)?.ok_or(ClientError::Closed)?;
        event(&line)
    }
}

/// The event of a line; `None`: one of a kind that only later engines know.
fn event(line: &[u8]) -> Result<Option<Event>, ClientError> {
    let known = parse::<EventFrame>(line);
    match &known {
        Err(_) if parse::<Stranger>(line).is_ok() => Ok(None),
        _ => known.map(|frame| Some(frame.event)),
    }
}

/// An event line, whatever happened.
#[derive(serde::Deserialize)]
struct Stranger {
    #[expect(dead_code, reason = "it has to be there")]
    event: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn parse<T: serde::de::DeserializeOwned>(line: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(line).map_err(|error| ClientError::Protocol(error.to_string()))
}

fn unexpected(answer: &Answer) -> ClientError {
    let kind = match answer {
        Answer::Hello(_) => "hello",
        Answer::Devices(_) => "devices",
        Answer::Probes(_) => "probes",
        Answer::Beacons(_) => "beacons",
        Answer::Bfd(_) => "bfd",
        Answer::Changed(_) => "changed",
        Answer::Subscribed => "subscribed",
        Answer::PathMtus(_) => "path_mtus",
        Answer::TakingOver => "taking_over",
        Answer::Overlays(_) => "overlays",
        Answer::Stopping => "stopping",
    };
    ClientError::Protocol(format!("`{kind}` answers another question"))
}

/// Reads one line of at most [`LINE_BYTES_MAX`]; `None` at the end of the stream.
pub(crate) fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    reader.take(limit).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() >= LINE_BYTES_MAX => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "line too long"))
        }
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer in which every object has a field that nobody knows.
    fn extended(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(object) => {
                object.values_mut().for_each(extended);
                object.insert("of_a_later_engine".to_owned(), 7.into());
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(extended),
            _ => {}
        }
    }

    #[test]
    fn what_a_later_engine_says_beyond_what_we_know_is_passed_over() {
        let peer = serde_json::json!({
            "public_key": "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=", "preshared_key_fingerprint": null,
            "configured_endpoint": null, "endpoint": null, "allowed_ips": ["10.0.0.0/8"], "keepalive_s": 0,
            "handshakes": 1, "last_handshake_age_ms": 5, "rx_bytes": 1, "tx_bytes": 2,
            "session": {"local_index": 1, "age_ms": 2},
        });
        let mut device = serde_json::json!({
            "name": "wtwg0", "alias": "a", "public_key": peer["public_key"], "listen_port": 1, "bound_port": 1, "mtu": 1420,
            "link": {"index": 1, "mtu": 1420, "up": true}, "peers": [peer], "drops": [{"reason": "no_peer", "packets": 1}],
            "error": null,
        });
        extended(&mut device);
        let mut probe = serde_json::json!({
            "config": {"name": "p", "local": "10.0.0.1", "remote": "10.0.0.2", "device": "d", "interval_ms": 100,
                       "dead_after_ms": 800},
            "state": "up", "since_ms": 1, "changes": 1, "loss_permille": 0, "sent": 1, "received": 1, "answered": 1,
        });
        extended(&mut probe);
        let answers = [
            serde_json::json!({"hello": {"protocol": 1, "version": "9", "pid": 1, "started_at_ms": 1, "mood": "good"}}),
            serde_json::json!({ "devices": [device] }),
            serde_json::json!({"probes": {"port": 1, "probes": [probe], "more": []}}),
            serde_json::json!({"changed": {"touched": [], "took_ms": 1}}),
        ];
        for answer in answers {
            let line = serde_json::json!({"id": 3, "ok": answer, "took_us": 5}).to_string();
            let read =
                parse::<ResponseFrame>(line.as_bytes()).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert!(matches!(read, ResponseFrame::Ok(frame) if frame.id == 3), "{line}");
        }
        let refusal = br#"{"id":4,"error":{"code":"system","message":"no","hint":"x"},"took_us":5}"#;
        assert!(matches!(parse::<ResponseFrame>(refusal), Ok(ResponseFrame::Error(frame)) if frame.id == 4));
    }

    #[test]
    fn events_of_kinds_that_nobody_knows_are_passed_over_and_nonsense_is_not() {
        let known = br#"{"event":{"probe":{"name":"a","state":"up","by":"traffic"}}}"#;
        assert!(matches!(event(known), Ok(Some(Event::Probe { name, .. })) if name == "a"));
        assert!(matches!(event(br#"{"event":{"eclipse":{"of":"the moon"}}}"#), Ok(None)));
        for line in [&b"{\"event\":"[..], b"7", br#"{"id":1,"ok":"subscribed"}"#] {
            assert!(matches!(event(line), Err(ClientError::Protocol(_))));
        }
    }
}
