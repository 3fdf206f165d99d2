//! Loader and map sync of the eBPF datapath.
//!
//! [`Dataplane::open`] adopts what is pinned under a folder of bpffs, or loads it; maps, programs and
//! attachments are all pinned, so packets go on while nobody holds a [`Dataplane`]. Every map is a typed
//! handle ([`Table`], [`Routes`]) that can be read back whole: a driver computes wanted − present and
//! present − wanted and applies the difference. What is attached is asked of the kernel, never remembered.
//!
//! ```no_run
//! use watari_dataplane::{Dataplane, Hook, Port, PortKey, Segment};
//! # fn main() -> Result<(), watari_dataplane::Error> {
//! let dataplane = Dataplane::open("/sys/fs/bpf/campus".as_ref())?;
//! dataplane.attach(7, Hook::Trunk)?;
//! dataplane.segments.upsert(&1000, &Segment::l2(1, 1000, 100))?;
//! dataplane.ports.upsert(&PortKey::vlan(7, 100), &Port::segment(1, 1000))?;
//! # Ok(()) }
//! ```
//!
//! All calls act on the network namespace of the calling thread (devices are named by index), block
//! shortly and need root. The handles are cheap to clone and may be used from several threads.

mod attach;
mod batch;
mod dataplane;
mod epoch;
mod error;
mod events;
pub mod explain;
mod fill;
mod generation;
mod guard_ips;
mod host_vlan;
mod migrate;
mod object;
mod packet_run;
mod pins;
mod ports;
mod raw_map;
mod relink;
mod routes;
mod samples;
mod slots;
mod stats;
mod table;

pub use attach::Attachment;
pub use dataplane::{Adoption, Dataplane};
pub use error::Error;
pub use events::Events;
pub use fill::FillLevel;
pub use generation::{Losses, Stop};
pub use guard_ips::{GuardIps, GuardPrefix};
pub use host_vlan::{HostTags, attach_host_vlan, detach_host_vlan};
pub use packet_run::{Outcome, Packet};
pub use pins::ensure_bpffs;
pub use ports::Ports;
pub use routes::{Prefix, Routes};
pub use samples::{Sample, Samples};
pub use stats::Stats;
pub use table::Table;

pub use aya::Pod;
pub use watari_abi as abi;
pub use watari_abi::{
    Bucket, Config, Counter, DropReason, Event, EventKind, FloodPorts, FloodVteps, GuardIp, GuardMacKey,
    Hook, MacKey, MacLocal, MacRemote, MacStatic, NeighKey, NeighLocal, NeighRemote, NeighStatic, Node,
    NodeKey, Port, PortBucketKey, PortKey, PortKind, PortStats, Remote, Route, RouteKind, RouteOrigin,
    SampleHead, Segment, SegmentKind, Step, StepKind, Tenant, TunnelKey, Verdict, Watch, Wire, ip_bytes,
    ip_from_bytes,
};
