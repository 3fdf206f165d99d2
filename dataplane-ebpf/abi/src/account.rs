//! What is counted: every drop under a number that never changes its meaning, what the pipeline did of its
//! own accord, and the traffic of each port. Events are hints for the control plane, never the truth.

use crate::{IpBytes, MacBytes, PortKey};

macro_rules! numbered {
    ($(#[$doc:meta])* $vis:vis enum $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis enum $name { $($(#[$vdoc])* $variant = $number,)* }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The name that operators see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            /// The one with this number.
            #[must_use]
            pub const fn from_u8(number: u8) -> Option<Self> {
                Some(match number { $($number => Self::$variant,)* _ => return None })
            }
        }
    };
}

/// Entries of the map `drops` (one per reason, per CPU). Numbers are stable: new reasons are appended.
pub const DROP_REASONS_MAX: u32 = 64;

numbered! {
    /// Why a packet was dropped: index into the per-CPU map `drops`.
    pub enum DropReason {
        /// Too short for the headers that it claims, or a header that contradicts itself.
        Malformed = 1, "malformed";
        /// A frame from a device of ours that no port entry knows.
        UnknownPort = 2, "unknown-port";
        /// VXLAN with a VNI that stands for nothing here.
        UnknownVni = 3, "unknown-vni";
        /// VXLAN that did not come out of a tunnel (the VXLAN socket binds to any address).
        VxlanNotFromTunnel = 4, "vxlan-not-from-tunnel";
        /// VXLAN out of a tunnel, from an outer source that is not bound to that tunnel.
        VtepNotBound = 5, "vtep-not-bound";
        /// VXLAN on an uplink, outside every tunnel.
        VxlanOnUplink = 6, "vxlan-on-uplink";
        /// Source MAC is a group address or zero.
        SourceMacInvalid = 7, "source-mac-invalid";
        /// Source MAC is the gateway's own: a loop, or somebody pretends.
        SourceMacOwn = 8, "source-mac-own";
        /// Source MAC is pinned to another port or gateway.
        SourceMacPinned = 9, "source-mac-pinned";
        /// ARP or ND claims an address that is ours or pinned to another MAC.
        NeighbourSpoofed = 10, "neighbour-spoofed";
        /// Source address is not one of the node's own.
        SourceIpUnknown = 11, "source-ip-unknown";
        /// LLDP, BPDU and other frames that must not leave their link (IEEE 802.1Q §8.6.3).
        LinkLocalProtocol = 12, "link-local-protocol";
        /// Unicast to a MAC that nobody knows, in a segment that does not flood those.
        UnknownUnicast = 13, "unknown-unicast";
        /// Broadcast or multicast in a segment that does not flood it.
        FloodDisabled = 14, "flood-disabled";
        /// More copies than the segment's rate allows.
        FloodRate = 15, "flood-rate";
        /// The destination is behind the port that the frame came from.
        SamePort = 16, "same-port";
        /// From one remote gateway to another: never through us.
        MeshToMesh = 17, "mesh-to-mesh";
        /// No route of the tenant matches.
        NoRoute = 18, "no-route";
        /// A route that says so.
        Blackhole = 19, "blackhole";
        /// The namespace routed a packet to us that we would route back to it.
        CoreLoop = 20, "core-loop";
        /// The neighbour is not known yet; a question was sent instead of the packet.
        NeighbourUnknown = 21, "neighbour-unknown";
        /// A packet for the tenant's namespace, and there is none.
        NoCore = 22, "no-core";
        /// A packet for a remote gateway, and there is no VXLAN device.
        NoVxlan = 23, "no-vxlan";
        /// To the gateway's MAC, and neither IPv4 nor IPv6.
        NotRoutable = 24, "not-routable";
        /// A group address where only one receiver is possible.
        MulticastNotRouted = 25, "multicast-not-routed";
        /// The kernel refused to change the packet (memory, size).
        RewriteFailed = 26, "rewrite-failed";
        /// A stage of the pipeline is missing: the loader has not finished.
        StageMissing = 27, "stage-missing";
        /// A frame with a tag more than the port has.
        UnexpectedTag = 28, "unexpected-tag";
        /// Routed traffic that came by a VNI of another kind or tenant.
        WrongVni = 29, "wrong-vni";
        /// Source address is a group, loopback or unspecified address.
        SourceIpInvalid = 30, "source-ip-invalid";
        /// The attachment is blocked: it would close a loop.
        LoopBlocked = 31, "loop-blocked";
        /// Source MAC is not one that the attachment may use.
        GuardMac = 32, "guard-mac";
        /// Source address is not one that the attachment may use.
        GuardIp = 33, "guard-ip";
        /// ARP or ND claims an address that the attachment may not use.
        GuardNeighbour = 34, "guard-neighbour";
        /// A DHCP server speaks where none may (DHCPv4 and DHCPv6).
        GuardDhcpServer = 35, "guard-dhcp-server";
        /// A router advertisement or redirect where no router may be (RFC 6105, RFC 7113).
        GuardRouter = 36, "guard-router";
        /// The attachment has as many MACs as it may have; this one is not among them.
        MacLimit = 37, "mac-limit";
        /// More broadcast, multicast and unknown unicast than the attachment may send.
        StormRate = 38, "storm-rate";
        /// The IPv6 header chain is too long or too broken to be judged by a guard (RFC 7113 §3).
        HeaderChain = 39, "header-chain";
        /// Larger than the way to the far gateway carries; the sender was told.
        TooBig = 40, "too-big";
        /// Larger than the way to the far gateway carries; the sender was not told (rate, or nobody to tell).
        TooBigSilent = 41, "too-big-silent";
        /// Congestion was marked on the outer header of a packet that cannot carry the mark (RFC 6040 §4.2).
        EcnInvalid = 42, "ecn-invalid";
        /// VXLAN with flags or headers that contradict themselves (RFC 7348 §5).
        VxlanInvalid = 43, "vxlan-invalid";
        /// Source MAC moves too often between ports here, and is frozen at another one.
        SourceMacFrozen = 44, "source-mac-frozen";
    }
}

/// Entries of the map `counters`.
pub const COUNTERS_MAX: u32 = 64;

numbered! {
    /// What the pipeline did by itself: index into the per-CPU map `counters`.
    pub enum Counter {
        /// A MAC was learnt on an attachment.
        MacLearnt = 1, "mac-learnt";
        /// A known MAC was seen at another attachment.
        MacMoved = 2, "mac-moved";
        /// `mac_local` is full: an address was not learnt.
        MacTableFull = 3, "mac-table-full";
        /// A neighbour was learnt or changed its MAC.
        NeighbourLearnt = 4, "neighbour-learnt";
        /// `nb_local` is full: a neighbour was not learnt.
        NeighbourTableFull = 5, "neighbour-table-full";
        /// An ARP request was answered.
        ArpAnswered = 6, "arp-answered";
        /// A neighbour solicitation was answered.
        NdAnswered = 7, "nd-answered";
        /// A question whose owner is on the asker's own side was not spread.
        QuestionKept = 8, "question-kept";
        /// A frame was copied to more than one receiver.
        Flooded = 9, "flooded";
        /// Copies made of those frames.
        FloodCopies = 10, "flood-copies";
        /// A question for an unknown neighbour was sent.
        Gleaned = 11, "gleaned";
        /// A packet for the gateway itself went to the tenant's namespace.
        PuntedOwn = 12, "punted-own";
        /// A packet with no hop left went to the namespace, which makes the ICMP error.
        PuntedTtl = 13, "punted-ttl";
        /// A packet left the overlay through the namespace.
        Exited = 14, "exited";
        /// ARP or ND that ended at the gateway: learnt from, not forwarded.
        Consumed = 15, "consumed";
        /// An event was not reported because there were too many.
        EventLost = 16, "event-lost";
        /// A frame was handed to the kernel untouched.
        PassedToKernel = 17, "passed-to-kernel";
        /// A packet was routed (one hop less).
        Routed = 18, "routed";
        /// VXLAN out of a tunnel was accepted.
        TunnelAccepted = 19, "tunnel-accepted";
        /// A TCP segment size was clamped to what the way to a far gateway carries.
        MssClamped = 20, "mss-clamped";
        /// A packet was encapsulated by the programs themselves.
        Encapsulated = 21, "encapsulated";
        /// A packet was decapsulated by the programs themselves.
        Decapsulated = 22, "decapsulated";
        /// A packet for a far gateway went through the VXLAN device.
        ThroughDevice = 23, "through-device";
        /// "Fragmentation needed" or "packet too big" was sent to the sender of a switched packet.
        TooBigSent = 24, "too-big-sent";
        /// A packet was larger than the way to a far gateway carries and was left to be fragmented.
        Fragmented = 25, "fragmented";
        /// A beacon of the loop guard was seen.
        BeaconSeen = 26, "beacon-seen";
        /// A gratuitous announcement that says nothing new was kept from the far gateways.
        AnnouncementKept = 27, "announcement-kept";
        /// Congestion of the outer header was copied to the inner one (RFC 6040 §4.2).
        EcnMarked = 28, "ecn-marked";
        /// A packet was written to the ring buffer `samples`.
        Sampled = 29, "sampled";
        /// A packet was not written there: no room, or more than the rate that was asked for.
        SampleLost = 30, "sample-lost";
        /// A table of rates or counts of attachments is full: its guard does not hold for that attachment.
        GuardTableFull = 31, "guard-table-full";
        /// `port_stats` is full: a packet of a port without a slot was not counted there.
        StatsTableFull = 32, "stats-table-full";
        /// `buckets` is full: a segment's copies were not limited.
        FloodTableFull = 33, "flood-table-full";
        /// A frame took the way of the one before it, by the flow cache.
        FlowKnown = 34, "flow-known";
    }
}

/// Traffic of a port, per CPU. A super-frame counts as the packets that it stands for. Map `port_counts`, by
/// [`crate::Port::slot`]; map `port_stats`, by [`PortKey`], where no slot is known: drops at tunnel devices, at uplinks and at
/// ports that nobody has configured, and what was counted before slots were given out. A port's traffic is the sum of both.
/// The VXLAN device counts as `PortKey::untagged(vxlan_ifindex)`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets that came in by this port.
    pub rx_packets: u64,
    /// Their bytes, without the tag and with the Ethernet header.
    pub rx_bytes: u64,
    /// Packets sent out by this port.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets among the received ones that were dropped.
    pub drops: u64,
}

numbered! {
    /// What an [`Event`] says.
    pub enum EventKind {
        /// A MAC appeared on an attachment.
        MacNew = 1, "mac-new";
        /// A MAC moved from one attachment to another.
        MacMoved = 2, "mac-moved";
        /// A neighbour appeared, or changed its MAC.
        NeighbourNew = 3, "neighbour-new";
        /// `mac_local` is full.
        MacTableFull = 4, "mac-table-full";
        /// `nb_local` is full.
        NeighbourTableFull = 5, "neighbour-table-full";
        /// An ARP or ND message claimed an address of ours or a pinned one.
        NeighbourSpoofed = 6, "neighbour-spoofed";
        /// A question for an unknown neighbour was sent.
        Gleaned = 7, "gleaned";
        /// A frame with our own source MAC came back: a loop.
        OwnMacSeen = 8, "own-mac-seen";
        /// A beacon of the loop guard: `mac` is the origin's Router's MAC, `ip` holds `since_ms` and the port
        /// id as in [`crate::beacon`].
        Beacon = 9, "beacon";
        /// An attachment has as many MACs as it may have.
        MacLimit = 10, "mac-limit";
        /// An attachment sends more broadcast, multicast and unknown unicast than it may.
        StormRate = 11, "storm-rate";
        /// A guard dropped a packet of an attachment.
        Guarded = 12, "guarded";
        /// A frame of an attachment was dropped because its source MAC is pinned or frozen elsewhere.
        SourceRefused = 13, "source-refused";
    }
}

/// A record of the ring buffer `events`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// When, boot clock.
    pub time_ns: u64,
    /// Where.
    pub port: PortKey,
    /// The segment.
    pub vni: u32,
    /// An [`EventKind`].
    pub kind: u8,
    /// A beacon's flags ([`crate::beacon`]), the [`DropReason`] of a guard or a refused source; else zero.
    pub flags: u8,
    /// The MAC concerned, or zero.
    pub mac: MacBytes,
    /// The segment that a beacon names; else zero.
    pub origin_vni: u32,
    /// The address concerned, or zero.
    pub ip: IpBytes,
}
