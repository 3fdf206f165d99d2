//! What lies in bpffs: every map with its shape, the version of its meaning and who fills it. The loader compares
//! what is pinned with this table, map by map, and so knows what it may keep.
//!
//! Whoever changes a key or a value, in size or in meaning, raises the version of that map here and registers how
//! the older form becomes this one (`dataplane-ebpf/src/migrate.rs`); a limit alone may change without it. Numbers are
//! never given twice, names neither.
//!
//! The map `layout` records this: entry 0 is [`layout_number`] and the fingerprint of the programs, entry `n` is the
//! version of the map with the number `n` and its shape ([`MapLayout::shape_number`]).

use crate::{
    Bucket, Config, Entry, FloodPorts, FloodVteps, Flow, GuardIp, GuardIpKey, GuardMacKey, IpBytes, MacKey,
    MacLocal, MacRemote, MacStatic, NeighKey, NeighLocal, NeighRemote, NeighStatic, Node, NodeKey, Port,
    PortBucketKey, PortKey, PortStats, Remote, Route, RouteKey4, RouteKey6, Sample, Scratch, Segment, Tenant,
    TunnelKey, Watch, Wire,
    account::{COUNTERS_MAX, DROP_REASONS_MAX},
    limits::*,
};

/// Entries of the map `layout`: more maps than this there will not be.
pub const LAYOUT_ENTRIES: u32 = 128;
/// Entries of the map `pipeline`.
pub const PIPELINE_ENTRIES: u32 = 16;

/// [`layout_number`] as the first release wrote it, whose map `layout` has one entry: versions of all maps were 1.
pub const FIRST_RELEASE: u64 = 0x9537_1de4_dc1c_a3a8;

/// Kinds of maps, by the kernel's numbers (`enum bpf_map_type`).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`.
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
    /// `BPF_MAP_TYPE_PROG_ARRAY`.
    Programs = 3,
    /// `BPF_MAP_TYPE_PERCPU_HASH`.
    PerCpuHash = 5,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    Trie = 11,
    /// `BPF_MAP_TYPE_RINGBUF`; its limit is in bytes.
    Ring = 27,
}

/// Who fills a map, and so what becomes of it when programs are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The brain writes it; it is kept.
    Written,
    /// The programs write it; it is kept, and what the old programs learn to the last moment comes along.
    Learnt,
    /// The programs count in it; sums are kept.
    Counted,
    /// Records on their way to the brain; it is kept.
    Ring,
    /// Belongs to one generation of programs, is meaningless to another and never shared.
    Own,
}

/// Shape and version of one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLayout {
    /// Its name, also of its pin.
    pub name: &'static str,
    /// Its number: index into the map `layout`, from 1.
    pub id: u32,
    /// Version of key and value and of their meaning, from 1.
    pub version: u64,
    /// Its kind.
    pub kind: MapKind,
    /// Bytes of a key, with the prefix length of a trie.
    pub key: u32,
    /// Bytes of a value, of one CPU.
    pub value: u32,
    /// The most entries; bytes of a ring buffer.
    pub limit: u32,
    /// Who fills it.
    pub role: Role,
}

impl MapLayout {
    const fn new(id: u32, name: &'static str, kind: MapKind, key: usize, value: usize, limit: u32) -> Self {
        Self { name, id, version: 1, kind, key: key as u32, value: value as u32, limit, role: Role::Written }
    }
    const fn hash<K, V>(id: u32, name: &'static str, limit: u32) -> Self {
        Self::new(id, name, MapKind::Hash, size_of::<K>(), size_of::<V>(), limit)
    }
    const fn trie<K, V>(id: u32, name: &'static str, limit: u32) -> Self {
        Self::new(id, name, MapKind::Trie, size_of::<u32>() + size_of::<K>(), size_of::<V>(), limit)
    }
    const fn array<V>(id: u32, name: &'static str, kind: MapKind, limit: u32) -> Self {
        Self::new(id, name, kind, size_of::<u32>(), size_of::<V>(), limit)
    }
    const fn ring(id: u32, name: &'static str, bytes: u32) -> Self {
        Self::new(id, name, MapKind::Ring, 0, 0, bytes).by(Role::Ring)
    }
    const fn by(self, role: Role) -> Self {
        Self { role, ..self }
    }
    const fn version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    /// Kind and sizes in one number, without the limit.
    #[must_use]
    pub const fn shape_number(&self) -> u64 {
        (self.kind as u64) << 48 | (self.key as u64) << 32 | self.value as u64
    }
}

/// All maps, in the order of their numbers.
pub const MAPS: &[MapLayout] = &[
    MapLayout::array::<[u64; 2]>(1, "layout", MapKind::Array, LAYOUT_ENTRIES).by(Role::Own),
    MapLayout::array::<Config>(2, "config", MapKind::Array, 1).version(3),
    MapLayout::hash::<PortKey, Port>(3, "ports", PORTS_MAX).version(3),
    MapLayout::hash::<u32, Segment>(4, "segments", SEGMENTS_MAX),
    MapLayout::hash::<u32, Tenant>(5, "tenants", TENANTS_MAX),
    MapLayout::hash::<NodeKey, Node>(6, "nodes", NODES_MAX),
    MapLayout::hash::<TunnelKey, u32>(7, "vteps", VTEPS_MAX).version(2),
    MapLayout::hash::<MacKey, MacStatic>(8, "mac_static", MAC_STATIC_MAX),
    MapLayout::hash::<MacKey, MacLocal>(9, "mac_local", MAC_LOCAL_MAX).by(Role::Learnt),
    MapLayout::hash::<MacKey, MacRemote>(10, "mac_remote", MAC_REMOTE_MAX).version(2),
    MapLayout::hash::<NeighKey, NeighStatic>(11, "nb_static", NB_STATIC_MAX),
    MapLayout::hash::<NeighKey, NeighLocal>(12, "nb_local", NB_LOCAL_MAX).by(Role::Learnt).version(2),
    MapLayout::hash::<NeighKey, NeighRemote>(13, "nb_remote", NB_REMOTE_MAX).version(2),
    MapLayout::trie::<RouteKey4, Route>(14, "routes4", ROUTES_MAX).version(2),
    MapLayout::trie::<RouteKey6, Route>(15, "routes6", ROUTES_MAX).version(2),
    MapLayout::hash::<u32, FloodPorts>(16, "flood_ports", SEGMENTS_MAX),
    MapLayout::hash::<u32, FloodVteps>(17, "flood_vteps", SEGMENTS_MAX).version(2),
    MapLayout::hash::<u32, Bucket>(18, "buckets", SEGMENTS_MAX).by(Role::Learnt),
    MapLayout::hash::<PortKey, PortStats>(19, "port_stats", PORTS_MAX).per_cpu().by(Role::Counted),
    MapLayout::array::<u64>(20, "drops", MapKind::PerCpuArray, DROP_REASONS_MAX).by(Role::Counted),
    MapLayout::array::<u64>(21, "counters", MapKind::PerCpuArray, COUNTERS_MAX).by(Role::Counted),
    MapLayout::ring(22, "events", EVENTS_BYTES),
    MapLayout::array::<Scratch>(23, "scratch", MapKind::PerCpuArray, 1).by(Role::Own),
    MapLayout::array::<u32>(24, "pipeline", MapKind::Programs, PIPELINE_ENTRIES).by(Role::Own),
    MapLayout::hash::<IpBytes, Remote>(25, "remotes", REMOTES_MAX),
    MapLayout::hash::<u32, Wire>(26, "wires", WIRES_MAX).version(2),
    MapLayout::hash::<GuardMacKey, u32>(27, "guard_macs", GUARD_MACS_MAX),
    MapLayout::trie::<GuardIpKey, GuardIp>(28, "guard_ips", GUARD_IPS_MAX),
    MapLayout::hash::<PortKey, u32>(29, "port_macs", PORT_LIMITS_MAX).by(Role::Learnt),
    MapLayout::hash::<PortBucketKey, Bucket>(30, "portbuckets", PORT_LIMITS_MAX).by(Role::Learnt),
    MapLayout::array::<Watch>(31, "watch", MapKind::Array, 1),
    MapLayout::ring(32, "samples", SAMPLES_BYTES),
    MapLayout::array::<Sample>(33, "sample", MapKind::PerCpuArray, 1).by(Role::Own),
    MapLayout::array::<Entry>(34, "page", MapKind::Array, 1).by(Role::Own),
    MapLayout::hash::<MacKey, PortKey>(35, "mac_frozen", MAC_FROZEN_MAX),
    MapLayout::array::<Flow>(36, "flows", MapKind::PerCpuArray, FLOWS_MAX).by(Role::Own),
    MapLayout::array::<u64>(37, "epoch", MapKind::Array, 1),
    MapLayout::array::<PortStats>(38, "port_counts", MapKind::PerCpuArray, PORT_SLOTS_MAX).by(Role::Counted),
];

impl MapLayout {
    const fn per_cpu(self) -> Self {
        Self { kind: MapKind::PerCpuHash, ..self }
    }
}

/// One number for [`MAPS`] whole: number, version, shape and limit of each.
#[must_use]
pub const fn layout_number() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut index = 0;
    while index < MAPS.len() {
        let map = &MAPS[index];
        let facts = [map.id as u64, map.version, map.shape_number(), map.limit as u64];
        let mut fact = 0;
        while fact < facts.len() {
            hash = (hash ^ facts[fact]).wrapping_mul(0x0100_0000_01b3);
            fact += 1;
        }
        index += 1;
    }
    hash
}

const _: () = assert!(MAPS.len() < LAYOUT_ENTRIES as usize);
