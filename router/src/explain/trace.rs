//! `POST /trace`: a packet, by its fields, as bytes or out of a capture file, through the real pipeline by a test
//! run of the kernel. Nothing is sent and no map changes.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use watari_config::{Desired, Name, Problem as FieldProblem};
use watari_dataplane::abi::ip_bytes;
use watari_dataplane::explain::explain;
use watari_dataplane::{Dataplane, DropReason, Hook, Packet, PortKey, Verdict};

use super::Explain;
use super::frame::{self, Fields};
use super::names::{Called, indices};
use super::{pcap, summary::summary};
use crate::api::problem::Problem;
use crate::api::request::Tree;

/// A packet and where it comes in: `attachment`, or `device` with its VLANs, or `from_gateway` with `segment`; and
/// `packet`, `hex` or `pcap`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TraceAsk {
    /// An attachment of this gateway.
    pub attachment: Option<String>,
    /// A device of this gateway.
    pub device: Option<String>,
    /// The VLAN id with which the packet comes in by the device.
    pub vlan: Option<u16>,
    /// The gateway whose VXLAN it comes out of.
    pub from_gateway: Option<String>,
    /// The segment that it comes in, with `from_gateway`.
    pub segment: Option<String>,
    /// The packet by its fields.
    pub packet: Option<Fields>,
    /// The frame in hexadecimal, without tags.
    pub hex: Option<String>,
    /// A capture file, pcap or pcapng, in base64: each of its first 64 frames is traced.
    pub pcap: Option<String>,
}

/// What would become of a frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Traced {
    /// The frame in one line.
    pub packet: String,
    /// `dropped`, `port`, `vtep`, `flooded`, `kernel`, `consumed` or `none`.
    pub verdict: String,
    /// Why it is dropped.
    pub reason: Option<String>,
    /// VNI of the outer header, if it goes to another gateway.
    pub vni: Option<u32>,
    /// Each decision in words.
    pub steps: Vec<String>,
    /// The frame as it leaves, in hexadecimal, without tags and outer header.
    pub leaves: String,
}

/// Where a packet comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// By a device.
    Port(Hook, PortKey),
    /// Out of VXLAN.
    Vtep(u32, IpAddr),
}

fn wrong(path: &str, message: impl Into<String>) -> Vec<FieldProblem> {
    vec![FieldProblem { path: path.to_owned(), message: message.into() }]
}

/// Traces a packet.
#[utoipa::path(post, path = "/trace", tag = "explain", request_body = TraceAsk,
    responses((status = 200, body = Vec<Traced>),
        (status = 422, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn trace(
    State(explain): State<Arc<Explain>>,
    Tree(tree): Tree,
) -> Result<Json<Vec<Traced>>, Problem> {
    let ask: TraceAsk =
        serde_json::from_value(tree).map_err(|e| Problem::request().with_detail(e.to_string()))?;
    let work = move || -> Result<Vec<Traced>, Problem> {
        let desired = explain.brain.desired();
        let called = Called::new(&desired, &explain.maps);
        let (place, frames) = (ask.place(&desired, &explain.maps, &called), ask.frames());
        let (place, frames) = match (place, frames) {
            (Ok(place), Ok(frames)) => (place, frames),
            (place, frames) => {
                let problems = place.err().into_iter().chain(frames.err()).flatten().collect();
                return Err(Problem::request().with_errors(problems));
            }
        };
        let run = |frame: &Vec<u8>| run(&explain.maps, &called, place, frame);
        frames.iter().map(run).collect::<Result<_, _>>().map_err(Into::into)
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| Problem::internal())?.map(Json)
}

impl TraceAsk {
    fn frames(&self) -> Result<Vec<Vec<u8>>, Vec<FieldProblem>> {
        match (&self.packet, &self.hex, &self.pcap) {
            (Some(fields), None, None) => fields.frame("packet").map(|frame| vec![frame]),
            (None, Some(hex), None) => frame::from_hex(hex, "hex").map(|frame| vec![frame]),
            (None, None, Some(file)) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(file);
                let bytes = bytes.map_err(|e| wrong("pcap", e.to_string()))?;
                let frames = pcap::read(&bytes, "pcap")?;
                frames.into_iter().map(|f| frame::check(f, "pcap")).collect()
            }
            _ => Err(wrong("packet", "one of packet, hex and pcap is needed")),
        }
    }

    fn place(
        &self,
        desired: &Desired,
        maps: &Dataplane,
        called: &Called<'_>,
    ) -> Result<Place, Vec<FieldProblem>> {
        match (&self.attachment, &self.device, &self.from_gateway) {
            (Some(name), None, None) => {
                let missing =
                    || wrong("attachment", format!("this gateway has no attachment {name} in place"));
                let port = called.attachment(name).ok_or_else(missing)?;
                Ok(Place::Port(hook_of(maps, port.ifindex, "attachment")?, port))
            }
            (None, Some(device), None) => {
                let missing = || wrong("device", format!("there is no device {device}"));
                let ifindex = indices().get(device).copied().ok_or_else(missing)?;
                let port = PortKey { ifindex, outer: self.vlan.unwrap_or(0), inner: 0 };
                Ok(Place::Port(hook_of(maps, ifindex, "device")?, port))
            }
            (None, None, Some(gateway)) => {
                let far = gateway.parse().ok().and_then(|n: Name| desired.document().gateways.get(&n));
                let far =
                    far.ok_or_else(|| wrong("from_gateway", format!("there is no gateway {gateway}")))?;
                let segment = self.segment.as_ref().ok_or_else(|| wrong("segment", "it is needed"))?;
                let known = segment.parse().ok().and_then(|n: Name| desired.document().segments.get(&n));
                let known =
                    known.ok_or_else(|| wrong("segment", format!("there is no segment {segment}")))?;
                Ok(Place::Vtep(known.vni.get(), far.vtep))
            }
            _ => Err(wrong("attachment", "one of attachment, device and from_gateway is needed")),
        }
    }
}

/// The hook on a device by which frames come in.
///
/// # Errors
/// One problem at `path` if there is none.
pub fn hook_of(maps: &Dataplane, ifindex: u32, path: &str) -> Result<Hook, Vec<FieldProblem>> {
    let attached = maps.attachments().map_err(|e| wrong(path, e.to_string()))?;
    let mut hooks = attached.iter().filter(|a| a.ifindex == ifindex).map(|a| a.hook);
    let into = |hook: &Hook| !matches!(hook, Hook::Tunnel | Hook::Uplink | Hook::Vxlan);
    hooks.find(into).ok_or_else(|| wrong(path, "no program of the datapath is on this device"))
}

/// Traces one frame.
///
/// # Errors
/// The kernel refused.
pub fn run(
    maps: &Dataplane,
    called: &Called<'_>,
    place: Place,
    frame: &[u8],
) -> Result<Traced, watari_dataplane::Error> {
    let outcome = match place {
        Place::Port(hook, port) => maps.trace(&Packet::from_port(hook, port, frame))?,
        Place::Vtep(vni, vtep) => {
            let vxlan = maps.config()?.vxlan_ifindex;
            maps.trace(&Packet::from_vtep(vxlan, vni, ip_bytes(vtep), frame))?
        }
    };
    let (verdict, reason) = match outcome.verdict {
        Verdict::Drop(number) => ("dropped", DropReason::from_u8(number).map(|r| r.name().to_owned())),
        Verdict::Port(_) => ("port", None),
        Verdict::Vtep { .. } => ("vtep", None),
        Verdict::Flooded { .. } => ("flooded", None),
        Verdict::Pass => ("kernel", None),
        Verdict::Consumed => ("consumed", None),
        Verdict::None => ("none", None),
    };
    let vni = match outcome.verdict {
        Verdict::Vtep { vni, .. } => Some(vni),
        _ => None,
    };
    Ok(Traced {
        packet: summary(frame),
        verdict: verdict.to_owned(),
        reason,
        vni,
        steps: explain(&outcome.steps, &outcome.verdict, called),
        leaves: hex::encode(&outcome.frame),
    })
}
