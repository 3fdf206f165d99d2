//! How many entries each map holds. Tables that the programs fill are of fixed size and count what does not fit.

/// Ports of one gateway.
pub const PORTS_MAX: u32 = 4096;
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
/// Bytes of the ring buffer.
pub const EVENTS_BYTES: u32 = 256 * 1024;
/// Events per second and CPU at most.
pub const EVENTS_PER_SECOND: u64 = 1000;

/// Sum of all limits, a part of the layout number.
pub(crate) const SUM: u64 = PORTS_MAX as u64
    + SEGMENTS_MAX as u64
    + TENANTS_MAX as u64
    + NODES_MAX as u64
    + VTEPS_MAX as u64
    + MAC_STATIC_MAX as u64
    + MAC_LOCAL_MAX as u64
    + MAC_REMOTE_MAX as u64
    + NB_STATIC_MAX as u64
    + NB_LOCAL_MAX as u64
    + NB_REMOTE_MAX as u64
    + ROUTES_MAX as u64
    + EVENTS_BYTES as u64;
