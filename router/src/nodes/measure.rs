//! Measurement between two of site, gateway and node: the initiator runs where the path starts, whoever asked.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use watari_config::read::Read;
use watari_config::{Desired, Document, Name, Problems};
use watari_node::measure::{Report, Spec, TestKind};

use super::ends::{self, Path, Place};
use super::here::{Here, HereError};
use super::internal::{self, AskError, MEASURE_PATH, MeasureAnswer, MeasureAsk};
use super::{Nodes, join};
use crate::api::problem::Problem;
use crate::api::request::Tree;

/// The most seconds of one test.
const SECONDS_MAX: u32 = 30;
/// How much longer than its tests a measurement at another gateway may take.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// IPv6 and UDP headers in bytes: what is not payload.
const HEADERS: u16 = 48;
/// The fields of a request.
const FIELDS: [&str; 6] = ["from", "to", "seconds", "streams", "tests", "udp_rate_bit_s"];

/// What is to be measured.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "it is the schema; the body is read field by field, so that each wrong one is named"
)]
struct MeasureRequest {
    /// From where: `site:NAME`, `gateway:NAME`, `node:NAME`, or a name that only one of them has.
    from: String,
    /// To where.
    to: String,
    /// Seconds of each test, 1 to 30; 1 where absent.
    seconds: Option<u32>,
    /// Parallel TCP streams, 1 to 16; 4 where absent.
    streams: Option<u8>,
    /// `tcp`, `tcp-reverse`, `udp`, `udp-reverse`, `rr-tcp`, `rr-udp`; where absent the first, third, fifth
    /// and sixth of these.
    tests: Option<Vec<String>>,
    /// UDP payload sent in bit/s; 100 Mbit/s where absent.
    udp_rate_bit_s: Option<u64>,
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
struct Measured {
    /// Where it started, e.g. `gateway:gw-a`.
    from: String,
    /// Where it led.
    to: String,
    /// The segment in which it was measured.
    #[schema(value_type = String)]
    segment: Name,
    /// Throughput, loss, transactions and latency; rates in bit/s, times in microseconds.
    #[schema(value_type = Object)]
    report: Report,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum MeasureFailure {
    /// From this gateway.
    #[error(transparent)]
    Here(#[from] HereError),
    /// The other gateway cannot be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The other gateway says so.
    #[error("gateway {gateway}: {said}")]
    There {
        /// The gateway.
        gateway: Name,
        /// Its words.
        said: String,
        /// Something else is measured there.
        busy: bool,
    },
    /// The node is another gateway's.
    #[error("node {0} is served by another gateway: ask that one")]
    NotOurs(Name),
    /// Something else is measured here.
    #[error("another measurement begins at this gateway just now")]
    Busy,
}

impl MeasureFailure {
    fn problem(self) -> Problem {
        let busy = match &self {
            Self::Busy | Self::There { busy: true, .. } => true,
            Self::Here(error) => error.is_busy(),
            _ => false,
        };
        let problem = if busy { Problem::conflict() } else { Problem::unavailable() };
        problem.with_detail(self.to_string())
    }
}

/// Measures throughput, request/response and latency between two of site, gateway and node.
#[utoipa::path(post, path = "/measure", tag = "measure", request_body = MeasureRequest,
    responses((status = 200, body = Measured), (status = "4XX", body = Problem, content_type = "application/problem+json"),
        (status = 503, body = Problem, content_type = "application/problem+json")))]
async fn measure(State(nodes): State<Arc<Nodes>>, Tree(tree): Tree) -> Result<Json<Measured>, Problem> {
    let desired = nodes.brain.desired();
    let read = read(&desired, &tree);
    let (path, spec) = read.map_err(|problems| Problem::request().with_errors(problems))?;
    let report = run(&nodes, &desired, &path, spec).await.map_err(MeasureFailure::problem)?;
    let (from, to) = (path.from.0.to_string(), path.to.0.to_string());
    Ok(Json(Measured { from, to, segment: path.segment, report }))
}

async fn run(nodes: &Nodes, desired: &Desired, path: &Path, spec: Spec) -> Result<Report, MeasureFailure> {
    let _place = nodes.measuring.try_acquire().map_err(|_| MeasureFailure::Busy)?;
    let document = desired.document();
    let segment = &document.segments[&path.segment];
    let (l3vni, vni) = (document.tenants[&segment.tenant].l3vni.get(), segment.vni.get());
    let target = path.to.1;
    match &path.from.0 {
        Place::Gateway(name) if name == desired.gateway_name() => {
            Ok(Here::find(desired, l3vni, vni)?.measure(target, spec).await?)
        }
        Place::Gateway(name) => {
            let far = document.gateways[name].vtep;
            let wait = Duration::from_millis(spec.limit_ms()) + ANSWER_WAIT;
            let ask = MeasureAsk { l3vni, vni, target, spec };
            let own = desired.gateway().map(|g| g.vtep);
            let answer: MeasureAnswer = internal::ask(own, far, MEASURE_PATH, &ask, wait).await?;
            let MeasureAnswer { report, error, busy } = answer;
            let said = error.unwrap_or_else(|| "no reason given".to_owned());
            report.ok_or(MeasureFailure::There { gateway: name.clone(), said, busy })
        }
        Place::Node(name) if document.nodes[name].gateway == *desired.gateway_name() => {
            Ok(Here::find(desired, l3vni, vni)?.measure_from(path.from.1, target, spec).await?)
        }
        Place::Node(name) => Err(MeasureFailure::NotOurs(name.clone())),
    }
}

/// Reads the body of a request.
fn read(desired: &Desired, tree: &Value) -> Result<(Path, Spec), Vec<watari_config::Problem>> {
    let mut problems = Problems::default();
    let root = watari_config::Path::root();
    let Some(fields) = tree.as_object() else {
        problems.add(&root, "must be an object");
        return Err(problems.into_vec());
    };
    for field in fields.keys().filter(|f| !FIELDS.contains(&f.as_str())) {
        problems.add(&root.field(field), format!("unknown field; known are {}", FIELDS.join(", ")));
    }
    let document = desired.document();
    let from = read_end(document, tree, "from", &mut problems);
    let to = read_end(document, tree, "to", &mut problems);
    let path = from.zip(to).and_then(|(from, to)| {
        ends::path(document, &from, &to).map_err(|why| problems.add(&root.field("to"), why)).ok()
    });
    let spec = read_spec(tree, &mut problems);
    match (path, spec) {
        (Some(path), Some(mut spec)) => {
            let room = join::node_mtu(document, &document.segments[&path.segment]).saturating_sub(HEADERS);
            spec.udp_payload_bytes = spec.udp_payload_bytes.min(room);
            problems.or((path, spec))
        }
        _ => Err(problems.into_vec()),
    }
}

fn read_end(document: &Document, tree: &Value, field: &str, problems: &mut Problems) -> Option<ends::End> {
    let here = watari_config::Path::root().field(field);
    let text = match tree.get(field) {
        Some(value) => String::read(value, &here, problems)?,
        None => String::absent(&here, problems)?,
    };
    ends::end(document, &text).map_err(|why| problems.add(&here, why)).ok()
}

fn read_spec(tree: &Value, problems: &mut Problems) -> Option<Spec> {
    let root = watari_config::Path::root();
    let field = |name: &str| tree.get(name).unwrap_or(&Value::Null);
    let seconds = Option::<u32>::read(field("seconds"), &root.field("seconds"), problems)?.unwrap_or(1);
    let streams = Option::<u8>::read(field("streams"), &root.field("streams"), problems)?;
    let rate = Option::<u64>::read(field("udp_rate_bit_s"), &root.field("udp_rate_bit_s"), problems)?;
    let tests = Option::<Vec<String>>::read(field("tests"), &root.field("tests"), problems)?;
    if !(1..=SECONDS_MAX).contains(&seconds) {
        problems.add(&root.field("seconds"), format!("must be from 1 to {SECONDS_MAX}"));
        return None;
    }
    let default = Spec::default();
    let tests = match tests {
        None => default.tests.clone(),
        Some(words) => {
            let read: Result<Vec<TestKind>, _> = words.iter().map(|word| word.parse()).collect();
            read.map_err(|e| problems.add(&root.field("tests"), e.to_string())).ok()?
        }
    };
    let spec = Spec {
        tests,
        test_ms: seconds * 1000,
        streams: streams.unwrap_or(default.streams),
        udp_rate_bit_s: rate.or(default.udp_rate_bit_s),
        ..default
    };
    spec.check().map_err(|e| problems.add(&root, e.to_string())).ok()?;
    Some(spec)
}

/// The route of measurements.
pub fn routes() -> OpenApiRouter<Arc<Nodes>> {
    OpenApiRouter::new().routes(routes!(measure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::samples;
    use serde_json::json;

    fn read_of(tree: Value) -> Result<(Path, Spec), Vec<String>> {
        let desired = samples::with_node(None, Some(samples::KEY));
        read(&desired, &tree).map_err(|problems| problems.into_iter().map(|p| p.path).collect())
    }

    #[test]
    fn a_request_is_read_with_its_defaults() {
        let (path, spec) = read_of(json!({"from": "site:a", "to": "gpu-1", "seconds": 2})).unwrap();
        assert_eq!(
            (path.from.0.to_string(), path.to.0.to_string()),
            ("gateway:gw-a".into(), "node:gpu-1".into())
        );
        assert_eq!((spec.test_ms, spec.streams, spec.tests.len()), (2000, 4, 4));
        assert_eq!(spec.udp_payload_bytes, 1200, "it fits into 1370");
    }

    #[test]
    fn every_wrong_field_is_named() {
        assert_eq!(read_of(json!({"from": "nobody", "colour": 1})).unwrap_err(), ["colour", "from", "to"]);
        assert_eq!(read_of(json!({"from": "gw-a", "to": "site:a"})).unwrap_err(), ["to"]);
        let wrong = json!({"from": "gw-a", "to": "gw-b", "seconds": 31});
        assert_eq!(read_of(wrong).unwrap_err(), ["seconds"]);
        let wrong = json!({"from": "gw-a", "to": "gw-b", "tests": ["sctp"]});
        assert_eq!(read_of(wrong).unwrap_err(), ["tests"]);
    }
}
