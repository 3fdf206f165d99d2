//! All maps. Who writes which: README of `dataplane-ebpf`. Tables that only the brain writes take memory as
//! they fill; tables that the programs write are allocated at once, and are no LRU: nothing is lost silently.
//!
//! Names are the pins' names, hence lower case.
#![allow(non_upper_case_globals)]

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf},
};
use watari_abi::{
    Bucket, Config, Entry, FloodPorts, FloodVteps, Flow, GuardIp, GuardIpKey, GuardMacKey, MacKey, MacLocal,
    MacRemote, MacStatic, NeighKey, NeighLocal, NeighRemote, NeighStatic, Node, NodeKey, Port, PortBucketKey,
    PortKey, PortStats, Remote, Route, RouteKey4, RouteKey6, Sample, Scratch, Segment, Tenant, TunnelKey,
    Watch, Wire,
    account::{COUNTERS_MAX, DROP_REASONS_MAX},
    layout::{LAYOUT_ENTRIES, PIPELINE_ENTRIES},
    limits::*,
};

#[map]
pub static layout: Array<[u64; 2]> = Array::with_max_entries(LAYOUT_ENTRIES, 0);
#[map]
pub static config: Array<Config> = Array::with_max_entries(1, 0);
#[map]
pub static ports: HashMap<PortKey, Port> = HashMap::with_max_entries(PORTS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static segments: HashMap<u32, Segment> = HashMap::with_max_entries(SEGMENTS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static tenants: HashMap<u32, Tenant> = HashMap::with_max_entries(TENANTS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static nodes: HashMap<NodeKey, Node> = HashMap::with_max_entries(NODES_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static vteps: HashMap<TunnelKey, u32> = HashMap::with_max_entries(VTEPS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static remotes: HashMap<[u8; 16], Remote> = HashMap::with_max_entries(REMOTES_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static wires: HashMap<u32, Wire> = HashMap::with_max_entries(WIRES_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static mac_static: HashMap<MacKey, MacStatic> =
    HashMap::with_max_entries(MAC_STATIC_MAX, BPF_F_NO_PREALLOC);
/// Where a station that moves too often was when it was frozen: its frames from other ports are dropped.
#[map]
pub static mac_frozen: HashMap<MacKey, PortKey> =
    HashMap::with_max_entries(MAC_FROZEN_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static mac_local: HashMap<MacKey, MacLocal> = HashMap::with_max_entries(MAC_LOCAL_MAX, 0);
#[map]
pub static mac_remote: HashMap<MacKey, MacRemote> =
    HashMap::with_max_entries(MAC_REMOTE_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static nb_static: HashMap<NeighKey, NeighStatic> =
    HashMap::with_max_entries(NB_STATIC_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static nb_local: HashMap<NeighKey, NeighLocal> = HashMap::with_max_entries(NB_LOCAL_MAX, 0);
#[map]
pub static nb_remote: HashMap<NeighKey, NeighRemote> =
    HashMap::with_max_entries(NB_REMOTE_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static routes4: LpmTrie<RouteKey4, Route> = LpmTrie::with_max_entries(ROUTES_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static routes6: LpmTrie<RouteKey6, Route> = LpmTrie::with_max_entries(ROUTES_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static flood_ports: HashMap<u32, FloodPorts> = HashMap::with_max_entries(SEGMENTS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static flood_vteps: HashMap<u32, FloodVteps> = HashMap::with_max_entries(SEGMENTS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static buckets: HashMap<u32, Bucket> = HashMap::with_max_entries(SEGMENTS_MAX, 0);
#[map]
pub static guard_macs: HashMap<GuardMacKey, u32> =
    HashMap::with_max_entries(GUARD_MACS_MAX, BPF_F_NO_PREALLOC);
#[map]
pub static guard_ips: LpmTrie<GuardIpKey, GuardIp> =
    LpmTrie::with_max_entries(GUARD_IPS_MAX, BPF_F_NO_PREALLOC);
/// MACs learnt on limited attachments. The programs count up, the brain sets what it has counted.
#[map]
pub static port_macs: HashMap<PortKey, u32> = HashMap::with_max_entries(PORT_LIMITS_MAX, 0);
#[map]
pub static portbuckets: HashMap<PortBucketKey, Bucket> = HashMap::with_max_entries(PORT_LIMITS_MAX, 0);
/// Counters of ports by [`Port::slot`]: an array, of which the kernel finds an entry without a call.
#[map]
pub static port_counts: PerCpuArray<PortStats> = PerCpuArray::with_max_entries(PORT_SLOTS_MAX, 0);
/// Counters of what has no slot.
#[map]
pub static port_stats: PerCpuHashMap<PortKey, PortStats> = PerCpuHashMap::with_max_entries(PORTS_MAX, 0);
#[map]
pub static drops: PerCpuArray<u64> = PerCpuArray::with_max_entries(DROP_REASONS_MAX, 0);
#[map]
pub static counters: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS_MAX, 0);
#[map]
pub static events: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);
#[map]
pub static watch: Array<Watch> = Array::with_max_entries(1, 0);
#[map]
pub static samples: RingBuf = RingBuf::with_byte_size(SAMPLES_BYTES, 0);
#[map]
pub static sample: PerCpuArray<Sample> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static page: Array<Entry> = Array::with_max_entries(1, 0);
#[map]
pub static scratch: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static flows: PerCpuArray<Flow> = PerCpuArray::with_max_entries(FLOWS_MAX, 0);
/// Another number with every write of the plan.
#[map]
pub static epoch: Array<u64> = Array::with_max_entries(1, 0);
#[map]
pub static pipeline: ProgramArray = ProgramArray::with_max_entries(PIPELINE_ENTRIES, 0);
