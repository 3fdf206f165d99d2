//! The control socket: one thread per connection, one line at a time. A connection starts with
//! hello; after subscribe a second thread writes events to it.

use std::io::{self, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use sd_notify::NotifyState;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::client::read_line;
use crate::control::{Control, Heirlooms, chain};
use crate::daemon::notify;
use crate::events::EventHub;
use crate::handover::{Given, Giver};
use crate::lock;
use crate::protocol::{
    Answer, ErrorFrame, Event, EventFrame, Hello, HelloRequest, OkFrame, PROTOCOL_VERSION, Refusal,
    RefusalCode, Request, RequestFrame, ResponseFrame,
};
use crate::uapi::{Devices, Errno, Shown, Wanted};

/// Connections at one time; more are closed at once.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may let us wait for its reading.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often an event thread looks whether its connection still is.
const EVENT_POLL: Duration = Duration::from_secs(1);

/// What all connections share.
pub(crate) struct Server {
    pub(crate) hello: Hello,
    pub(crate) control: Mutex<Control>,
    pub(crate) events: Arc<EventHub>,
    pub(crate) stop: Stop,
    own: Heirlooms,
    connections: AtomicUsize,
}

/// How a connection tells the process to end.
pub(crate) struct Stop {
    pub(crate) wake: EventFd,
    /// Some once asked for; true: remove everything.
    pub(crate) asked: Mutex<Option<bool>>,
}

type Writer = Arc<Mutex<UnixStream>>;

impl Server {
    /// `own`: copies of what a successor would take over.
    pub(crate) fn new(
        hello: Hello,
        control: Control,
        events: Arc<EventHub>,
        stop: Stop,
        own: Heirlooms,
    ) -> Self {
        let control = Mutex::new(control);
        Self { hello, control, events, stop, own, connections: AtomicUsize::new(0) }
    }

    /// Serves one accepted connection on a thread of its own.
    pub(crate) fn serve(self: &Arc<Self>, stream: UnixStream) {
        if self.connections.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!(CONNECTIONS_MAX, "too many control connections: one was closed");
            return;
        }
        let server = Arc::clone(self);
        let serve = move || {
            if let Err(error) = server.converse(stream) {
                tracing::debug!(%error, "control connection");
            }
            server.connections.fetch_sub(1, Ordering::AcqRel);
        };
        if let Err(error) = thread::Builder::new().name("control".to_owned()).spawn(serve) {
            self.connections.fetch_sub(1, Ordering::AcqRel);
            tracing::error!(%error, "no thread for a control connection");
        }
    }

    fn converse(&self, stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let writer: Writer = Arc::new(Mutex::new(stream.try_clone()?));
        let mut reader = BufReader::new(stream);
        let mut greeted = false;
        let mut subscribed = false;
        while let Some(line) = read_line(&mut reader)?.map(Zeroizing::new) {
            let (id, result) = match parse(&line) {
                Ok(frame) => {
                    let hello = matches!(frame.request, Request::Hello(_));
                    let result = match frame.request {
                        Request::TakeOver(request) if greeted => match Giver::new(reader.get_ref(), &request)
                        {
                            Ok(giver) => {
                                write_line(&writer, &self::frame(frame.id, Ok(Answer::TakingOver)))?;
                                self.hand_over(&giver);
                                return Ok(());
                            }
                            Err(refusal) => Err(refusal),
                        },
                        request if hello || greeted => self.answer(request),
                        _ => Err(refusal(RefusalCode::Version, "say hello first")),
                    };
                    greeted |= hello && result.is_ok();
                    (frame.id, result)
                }
                Err(refusal) => (0, Err(refusal)),
            };
            // Subscribed before it is said, so that nothing falls between; sent after it is said.
            let subscribe = !subscribed && matches!(result, Ok(Answer::Subscribed));
            let events = subscribe.then(|| self.events.subscribe());
            let stopping = matches!(result, Ok(Answer::Stopping));
            write_line(&writer, &frame(id, result))?;
            if let Some(events) = events {
                subscribed = true;
                send_events(events, &writer)?;
            }
            if stopping {
                self.stop.wake.write(1).map_err(io::Error::from)?;
            }
        }
        Ok(())
    }

    /// Hands everything over and ends the process, or goes on.
    fn hand_over(&self, giver: &Giver) {
        // Held to the end: what else clients ask for is the successor's to answer.
        let mut control = lock(&self.control);
        tracing::info!(successor = giver.pid(), "asked to hand over");
        match control.hand_over(giver, &self.own) {
            Given::Gone => {
                notify(&[NotifyState::MainPid(giver.pid())]);
                tracing::info!(successor = giver.pid(), "handed over");
                // Without any destructor: descriptors, lock and socket are the successor's.
                std::process::exit(0);
            }
            Given::Kept(error) => {
                tracing::warn!(successor = giver.pid(), error = chain(&error), "not handed over; going on");
            }
        }
    }

    fn answer(&self, request: Request) -> Result<Answer, Refusal> {
        let control = || lock(&self.control);
        match request {
            Request::Hello(hello) => self.greet(&hello),
            Request::ListDevices => Ok(control().list_devices()),
            Request::SetDevice(device) => control().set_device(device),
            Request::RemoveDevice(name) => control().remove_device(&name),
            Request::SetProbes(probes) => control().set_probes(probes),
            Request::ListProbes => Ok(control().list_probes()),
            Request::SetPathMtus(paths) => control().set_path_mtus(paths),
            Request::ListPathMtus => Ok(control().list_path_mtus()),
            Request::SetOverlays(overlays) => control().set_overlays(overlays),
            Request::ListOverlays => Ok(control().list_overlays()),
            Request::SetBeacons(beacons) => control().set_beacons(beacons),
            Request::ListBeacons => Ok(control().list_beacons()),
            Request::SetBfd(sessions) => control().set_bfd(sessions),
            Request::ListBfd => Ok(control().list_bfd()),
            // Seen to where the connection is at hand.
            Request::TakeOver(_) => Ok(Answer::TakingOver),
            Request::Subscribe => Ok(Answer::Subscribed),
            Request::Shutdown(how) => {
                *lock(&self.stop.asked) = Some(how.remove);
                Ok(Answer::Stopping)
            }
        }
    }

    fn greet(&self, hello: &HelloRequest) -> Result<Answer, Refusal> {
        if hello.protocol == PROTOCOL_VERSION {
            return Ok(Answer::Hello(self.hello.clone()));
        }
        let message = format!("this engine speaks protocol {PROTOCOL_VERSION}");
        let field = Some("protocol".to_owned());
        Err(Refusal { code: RefusalCode::Version, field, message })
    }
}

impl Devices for Server {
    fn show(&self, name: &str) -> Result<Shown, Errno> {
        lock(&self.control).show(name).ok_or(Errno::NODEV)
    }

    /// What a device is to be comes over the control socket only: two who say it would undo each other's words.
    fn change(&self, name: &str, _: &dyn Fn(Wanted) -> Wanted) -> Result<(), Errno> {
        tracing::warn!(device = name, "wg(8) may look at this device and not change it");
        Err(Errno::PERM)
    }
}

fn send_events(events: Receiver<Event>, writer: &Writer) -> io::Result<()> {
    let writer = Arc::downgrade(writer);
    let send = move || {
        // The connection's own thread holds the writer as long as the client is there.
        while let Some(event) = next_event(&events, || writer.strong_count() > 0) {
            let Some(writer) = writer.upgrade() else { return };
            if write_line(&writer, &EventFrame { event }).is_err() {
                let _ = lock(&writer).shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    };
    thread::Builder::new().name("events".to_owned()).spawn(send).map(drop)
}

fn next_event(events: &Receiver<Event>, wanted: impl Fn() -> bool) -> Option<Event> {
    while wanted() {
        match events.recv_timeout(EVENT_POLL) {
            Ok(event) => return Some(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    None
}

/// Reads a request; what is wrong with it is said by the path of the field, never by its value.
fn parse(line: &[u8]) -> Result<RequestFrame, Refusal> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let (mut track, mut unknown) = (serde_path_to_error::Track::new(), None);
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let read = serde_ignored::deserialize(tracked, |path| {
        unknown.get_or_insert_with(|| plain_path(&path.to_string()));
    });
    let malformed = |path: &str, message: String| Refusal {
        code: RefusalCode::Malformed,
        field: body_path(path).map(str::to_owned),
        message,
    };
    let frame =
        read.map_err(|error: serde_json::Error| malformed(&track.path().to_string(), error.to_string()))?;
    if let Some(path) = unknown {
        return Err(malformed(&path, "this engine does not know the field".to_owned()));
    }
    json.end().map_err(|_| refusal(RefusalCode::Malformed, "more than one request on a line"))?;
    Ok(frame)
}

/// A path as the other errors have it: `request.?.peers.0.colour` becomes `request.?.peers[0].colour`.
fn plain_path(path: &str) -> String {
    let mut plain = String::new();
    for step in path.split('.') {
        match step.parse::<usize>() {
            Ok(number) => plain.push_str(&format!("[{number}]")),
            Err(_) if plain.is_empty() => plain.push_str(step),
            Err(_) => plain.push_str(&format!(".{step}")),
        }
    }
    plain
}

/// The part of a path that is inside the request's body: `request.set_device.mtu` is `mtu`.
fn body_path(path: &str) -> Option<&str> {
    let Some(rest) = path.strip_prefix("request.") else {
        return (path != ".").then_some(path);
    };
    Some(rest.split_once('.').map_or(rest, |(_, body)| body))
}

fn refusal(code: RefusalCode, message: &str) -> Refusal {
    Refusal { code, field: None, message: message.to_owned() }
}

fn frame(id: u64, result: Result<Answer, Refusal>) -> ResponseFrame {
    match result {
        Ok(ok) => ResponseFrame::Ok(OkFrame { id, ok }),
        Err(error) => ResponseFrame::Error(ErrorFrame { id, error }),
    }
}

fn write_line(writer: &Writer, line: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    lock(writer).write_all(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> Refusal {
        parse(line.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_field_that_is_not_known_is_refused_wherever_it_is() {
        let request = |body: &str| refused(&format!(r#"{{"id":1,"request":{body}}}"#));
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let peer = format!(r#"{{"public_key":"{key}","allowed_ips":[],"colour":1}}"#);
        let device = format!(
            r#"{{"set_device":{{"name":"a","alias":"b","private_key":"{key}","listen_port":0,"mtu":1420,"peers":[{peer}]}}}}"#
        );
        assert_eq!(request(&device).field.as_deref(), Some("peers[0].colour"));
        assert_eq!(request(r#"{"remove_device":{"name":"a","soon":true}}"#).field.as_deref(), Some("soon"));
        assert_eq!(refused(r#"{"id":1,"request":"subscribe","extra":2}"#).field.as_deref(), Some("extra"));
    }

    #[test]
    fn a_malformed_request_names_the_field() {
        let unknown = refused(r#"{"id":1,"request":{"set_device":{"name":"a","colour":1}}}"#);
        assert!(unknown.message.contains("missing field"), "{unknown}");
        let typed = refused(r#"{"id":1,"request":{"set_device":{"name":"a","mtu":"x"}}}"#);
        assert_eq!(typed.field.as_deref(), Some("mtu"));
        let peer = r#"{"id":1,"request":{"set_device":{"peers":[{"public_key":"AAAA"}]}}}"#;
        assert_eq!(refused(peer).field.as_deref(), Some("peers[0].public_key"));
        let missing = refused(r#"{"id":1,"request":{"remove_device":{}}}"#);
        assert!(missing.message.contains("`name`"), "{missing}");
    }

    #[test]
    fn an_unknown_verb_and_a_torn_line_are_refused() {
        assert_eq!(refused(r#"{"id":1,"request":"dance"}"#).code, RefusalCode::Malformed);
        assert_eq!(refused(r#"{"id":1,"#).code, RefusalCode::Malformed);
        assert_eq!(refused(r#"{"id":1,"request":"subscribe"} {}"#).code, RefusalCode::Malformed);
    }

    #[test]
    fn a_secret_is_not_repeated_in_a_refusal() {
        let line = r#"{"id":1,"request":{"set_device":{"private_key":"c2VjcmV0LXNlY3JldA=="}}}"#;
        let refusal = refused(line);
        assert_eq!(refusal.field.as_deref(), Some("private_key"));
        assert!(!refusal.to_string().contains("c2Vj"), "{refusal}");
    }
}
