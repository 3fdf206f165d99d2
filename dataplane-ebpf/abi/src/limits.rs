//! How many entries each map holds. Tables that the programs fill are of fixed size and count what does not fit.

/// Ports of one gateway.
pub const PORTS_MAX: u32 = 4096;
/// Slots of the counters of ports: one for each port and for the VXLAN device, one for another VXLAN device before the
/// former's is given back, and slot 0, which stands for none.
pub const PORT_SLOTS_MAX: u32 = PORTS_MAX + 3;
/// Segments and L3VNIs.
pub const SEGMENTS_MAX: u32 = 4096;
/// Tenants.
pub const TENANTS_MAX: u32 = 1024;
/// Addresses of nodes.
pub const NODES_MAX: u32 = 16_384;
/// Pairs of tunnel device and VTEP.
pub const VTEPS_MAX: u32 = 4096;
/// Pinned MAC addresses.
pub const MAC_STATIC_MAX: u32 = 16_384;
/// MAC addresses that move too often and are frozen at a port.
pub const MAC_FROZEN_MAX: u32 = 16_384;
/// MAC addresses learnt on attachments.
pub const MAC_LOCAL_MAX: u32 = 65_536;
/// MAC addresses behind other gateways.
pub const MAC_REMOTE_MAX: u32 = 262_144;
/// Own and pinned neighbours.
pub const NB_STATIC_MAX: u32 = 32_768;
/// Neighbours learnt on attachments.
pub const NB_LOCAL_MAX: u32 = 65_536;
/// Neighbours behind other gateways.
pub const NB_REMOTE_MAX: u32 = 262_144;
/// Routes of all tenants, per address family.
pub const ROUTES_MAX: u32 = 262_144;
/// Remote gateways.
pub const REMOTES_MAX: u32 = 4096;
/// Devices of `direct` tunnels.
pub const WIRES_MAX: u32 = 1024;
/// MAC addresses that guarded attachments may use.
pub const GUARD_MACS_MAX: u32 = 65_536;
/// Prefixes that guarded attachments may use.
pub const GUARD_IPS_MAX: u32 = 65_536;
/// Attachments whose MACs are counted or whose rates are limited.
pub const PORT_LIMITS_MAX: u32 = 8192;
/// Flows that each CPU remembers; a power of two.
pub const FLOWS_MAX: u32 = 4096;
/// Bytes of the ring buffer of samples.
pub const SAMPLES_BYTES: u32 = 4 * 1024 * 1024;
/// Bytes of the ring buffer.
pub const EVENTS_BYTES: u32 = 256 * 1024;
/// Events per second and CPU at most.
pub const EVENTS_PER_SECOND: u64 = 1000;
/// Beacons reported per second and CPU at most, apart from other events.
pub const BEACONS_PER_SECOND: u64 = 256;
/// Drops of guards reported per second and CPU at most, apart from other events.
pub const GUARD_EVENTS_PER_SECOND: u64 = 64;
