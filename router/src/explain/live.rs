//! `GET /monitor`: drops with their reason and sampled flows, as server-sent events. `GET /capture`: the frames of an
//! attachment as pcapng. Both end by themselves.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use watari_config::{Name, Problem as FieldProblem};
use watari_dataplane::abi::{ip_from_bytes, watch::SNAP_BYTES_MAX};
use watari_dataplane::explain::Names as _;
use watari_dataplane::{DropReason, PortKey, Sample, SampleHead, Watch};

use super::Explain;
use super::names::Called;
use super::pcap::{self, Record};
use super::summary::summary;
use super::watching::{Looking, Want, boot_ns};
use crate::api::problem::Problem;
use crate::api::request::{Query, at_most};
use crate::events::ServerSent;
use crate::run::stopped;

/// The longest time of one look, in seconds.
const SECONDS_MAX: u32 = 3600;
/// The most frames of one look.
const FRAMES_MAX: u32 = 1_000_000;
/// The largest number of frames of which one is shown: of the format `int32`.
const FLOWS_MAX: u64 = i32::MAX as u64;
/// Bytes of a frame that a monitor needs: as far as the ports.
const MONITOR_BYTES: u32 = 128;
/// Records per second and CPU.
const MONITOR_RATE: u32 = 500;
const CAPTURE_RATE: u32 = 50_000;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a monitor shows.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MonitorArgs {
    /// Show one of so many frames that come in; 0 for drops alone.
    #[serde(deserialize_with = "at_most::<FLOWS_MAX, _, _>")]
    flows: u32,
    /// Only this segment.
    segment: Option<String>,
    /// Seconds until it ends, 1 … 3600.
    seconds: u32,
    /// Frames after which it ends, 1 … 1,000,000.
    count: u32,
}

impl Default for MonitorArgs {
    fn default() -> Self {
        Self { flows: 0, segment: None, seconds: 60, count: 1000 }
    }
}

/// What a capture takes.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CaptureArgs {
    /// The attachment; all ports of this gateway where it is absent.
    attachment: Option<String>,
    /// Seconds until it ends, 1 … 3600.
    seconds: u32,
    /// Frames after which it ends, 1 … 1,000,000.
    packets: u32,
    /// Bytes of each frame, 14 … 1536.
    snap: u32,
}

impl Default for CaptureArgs {
    fn default() -> Self {
        Self { attachment: None, seconds: 60, packets: 1000, snap: SNAP_BYTES_MAX as u32 }
    }
}

/// A frame that was seen.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Sighting {
    /// When, UTC.
    #[schema(value_type = String)]
    at: Timestamp,
    /// `drop` or `flow`.
    kind: &'static str,
    /// Why it was dropped.
    reason: Option<&'static str>,
    /// Where it came in.
    port: String,
    /// Its segment, if that was known.
    segment: Option<String>,
    /// The gateway that it came from.
    from: Option<String>,
    /// Its bytes.
    bytes: u32,
    /// Packets that it stands for.
    packets: u32,
    /// The frame in one line.
    packet: String,
}

fn range(path: &str, value: u32, least: u32, most: u32) -> Option<FieldProblem> {
    let message = format!("{value} is not in {least} … {most}");
    (!(least..=most).contains(&value)).then(|| FieldProblem { path: path.to_owned(), message })
}

fn refuse(problems: Vec<FieldProblem>) -> Result<(), Problem> {
    if problems.is_empty() { Ok(()) } else { Err(Problem::request().with_errors(problems)) }
}

/// When it was, nanoseconds since 1970 UTC: samples carry the boot clock.
fn utc_ns(boot: u64) -> u64 {
    let age = boot_ns().saturating_sub(boot);
    (Timestamp::now().as_nanosecond() as u64).saturating_sub(age)
}

/// What ends a look: time, number of frames, the daemon.
struct Bounded {
    looking: Looking,
    until: Instant,
    left: u32,
    stop: watch::Receiver<bool>,
}

impl Bounded {
    async fn next(&mut self) -> Option<Arc<Sample>> {
        self.left = self.left.checked_sub(1)?;
        tokio::select! {
            sample = self.looking.next() => sample,
            () = tokio::time::sleep_until(self.until) => None,
            () = stopped(&mut self.stop) => None,
        }
    }
}

impl Explain {
    fn bounded(&self, want: Want, seconds: u32, frames: u32) -> Result<Bounded, Problem> {
        let looking = self.watching.look(want)?;
        let until = Instant::now() + Duration::from_secs(seconds.into());
        Ok(Bounded { looking, until, left: frames, stop: self.stop.clone() })
    }

    fn sighting(&self, sample: &Sample) -> Sighting {
        let desired = self.brain.desired();
        let called = Called::new(&desired, &self.maps);
        let head = &sample.head;
        let dropped = head.direction == SampleHead::DROP;
        let at = Timestamp::from_nanosecond(utc_ns(head.time_ns).into()).unwrap_or(Timestamp::UNIX_EPOCH);
        Sighting {
            at,
            kind: if dropped { "drop" } else { "flow" },
            reason: if dropped { DropReason::from_u8(head.reason).map(DropReason::name) } else { None },
            port: called.port(head.port),
            segment: (head.vni != 0).then(|| called.segment(head.vni)),
            from: (head.vtep != [0; 16]).then(|| called.gateway(ip_from_bytes(head.vtep))),
            bytes: head.len,
            packets: head.packets,
            packet: summary(&sample.frame),
        }
    }
}

/// Drops with their reason, and sampled frames, as they happen; server-sent events.
#[utoipa::path(get, path = "/monitor", tag = "explain", params(MonitorArgs),
    responses((status = 200, content_type = "text/event-stream", body = ServerSent),
        (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn monitor(
    State(explain): State<Arc<Explain>>,
    Query(args): Query<MonitorArgs>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let mut problems = Vec::new();
    problems.extend(range("seconds", args.seconds, 1, SECONDS_MAX));
    problems.extend(range("count", args.count, 1, FRAMES_MAX));
    let desired = explain.brain.desired();
    let vni = match &args.segment {
        None => 0,
        Some(name) => {
            let known = name.parse().ok().and_then(|n: Name| desired.document().segments.get(&n));
            known.map_or(0, |s| s.vni.get())
        }
    };
    if let (Some(name), 0) = (&args.segment, vni) {
        let message = format!("there is no segment {name}");
        problems.push(FieldProblem { path: "segment".to_owned(), message });
    }
    refuse(problems)?;
    let flows = if args.flows == 0 { 0 } else { Watch::FLOWS };
    let want = Want {
        flags: Watch::DROPS | flows,
        sample_every: args.flows,
        snap_bytes: MONITOR_BYTES,
        vni,
        port: PortKey::default(),
        rate: MONITOR_RATE,
    };
    let bounded = explain.bounded(want, args.seconds, args.count)?;
    let stream = stream::unfold((explain, bounded), |(explain, mut bounded)| async move {
        let sample = bounded.next().await?;
        let data = serde_json::to_string(&explain.sighting(&sample)).unwrap_or_default();
        Some((Ok(sse::Event::default().event("seen").data(data)), (explain, bounded)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// A capture that is being written.
struct Writing {
    explain: Arc<Explain>,
    bounded: Bounded,
    snap: u32,
    interfaces: BTreeMap<PortKey, u32>,
    ready: VecDeque<Vec<u8>>,
}

impl Writing {
    async fn next(&mut self) -> Option<Vec<u8>> {
        if let Some(block) = self.ready.pop_front() {
            return Some(block);
        }
        let sample = self.bounded.next().await?;
        self.write(&sample);
        self.ready.pop_front()
    }

    fn write(&mut self, sample: &Sample) {
        let desired = self.explain.brain.desired();
        let called = Called::new(&desired, &self.explain.maps);
        let head = &sample.head;
        let number = self.interfaces.len() as u32;
        let interface = *self.interfaces.entry(head.port).or_insert(number);
        if interface == number {
            self.ready.push_back(pcap::interface(&called.port(head.port), self.snap));
        }
        let segment = if head.vni == 0 {
            "no segment".to_owned()
        } else {
            format!("segment {}", called.segment(head.vni))
        };
        let far = (head.vtep != [0; 16]).then(|| called.gateway(ip_from_bytes(head.vtep)));
        let what = match (head.direction, far) {
            (SampleHead::IN, None) => "in".to_owned(),
            (SampleHead::IN, Some(far)) => format!("in from {far}"),
            (SampleHead::DROP, _) => {
                format!("dropped: {}", DropReason::from_u8(head.reason).map_or("unknown", DropReason::name))
            }
            (_, None) => "out".to_owned(),
            (_, Some(far)) => format!("out to {far}"),
        };
        let comment = format!("{segment}, {what}");
        let frame = sample.frame.get(..self.snap as usize).unwrap_or(&sample.frame);
        let direction = u32::from(head.direction == SampleHead::OUT) + 1;
        let at_ns = utc_ns(head.time_ns);
        let record = Record { interface, at_ns, frame, len: head.len, direction, comment: &comment };
        self.ready.push_back(pcap::packet(&record));
    }
}

/// The frames of an attachment as pcapng, as they come and go; segment, direction and why one was dropped are comments.
#[utoipa::path(get, path = "/capture", tag = "explain", params(CaptureArgs),
    responses((status = 200, content_type = "application/x-pcapng", body = Vec<u8>),
        (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn capture(
    State(explain): State<Arc<Explain>>,
    Query(args): Query<CaptureArgs>,
) -> Result<Response, Problem> {
    let mut problems = Vec::new();
    problems.extend(range("seconds", args.seconds, 1, SECONDS_MAX));
    problems.extend(range("packets", args.packets, 1, FRAMES_MAX));
    problems.extend(range("snap", args.snap, 14, SNAP_BYTES_MAX as u32));
    let desired = explain.brain.desired();
    let port = match &args.attachment {
        None => Some(PortKey::default()),
        Some(name) => Called::new(&desired, &explain.maps).attachment(name),
    };
    if port.is_none() {
        let message = "this gateway has no such attachment in place".to_owned();
        problems.push(FieldProblem { path: "attachment".to_owned(), message });
    }
    refuse(problems)?;
    let want = Want {
        flags: Watch::CAPTURE | Watch::DROPS,
        snap_bytes: args.snap,
        port: port.unwrap_or_default(),
        rate: CAPTURE_RATE,
        ..Want::default()
    };
    let bounded = explain.bounded(want, args.seconds, args.packets)?;
    let ready = VecDeque::from([pcap::section()]);
    let writing = Writing { explain, bounded, snap: args.snap, interfaces: BTreeMap::new(), ready };
    let blocks = stream::unfold(writing, |mut writing| async move {
        let block = writing.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(block)), writing))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-pcapng")], Body::from_stream(blocks)).into_response())
}
