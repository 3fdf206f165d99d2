//! The page that a test run shares with the programs: how the packet enters, what was decided and, step by step, why.
//!
//! `watari trace` and the tests write the upper part, run the entry program, and read the lower part. One run at a
//! time uses the page; it is no table of the datapath.

use crate::{IpBytes, MacBytes, PortKey};

/// The most steps that a run records.
pub const STEPS_MAX: usize = 48;

/// Map `page`, one entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// A [`crate::Hook`].
    pub hook: u8,
    /// [`crate::Meta::TRACE`] and so on.
    pub flags: u8,
    /// Zero.
    pub pad: u16,
    /// VNI, for the hook of the VXLAN device.
    pub vni: u32,
    /// The port that it comes in by.
    pub port: PortKey,
    /// Outer source, for the hook of the VXLAN device.
    pub vtep: IpBytes,
    /// What was decided.
    pub report: Report,
    /// How many of `steps` are valid; more were taken than recorded if it is greater than [`STEPS_MAX`].
    pub count: u32,
    /// Zero.
    pub pad2: u32,
    /// How it came to that.
    pub steps: [Step; STEPS_MAX],
}

/// What was decided, as the programs write it; see [`crate::Verdict`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// [`crate::Verdict::PASS`] and so on; 0 for nothing.
    pub action: u32,
    /// Drop: a [`crate::DropReason`]. Consumed: a [`crate::Counter`].
    pub reason: u32,
    /// Where it went out.
    pub port: PortKey,
    /// VNI of the outer header.
    pub vni: u32,
    /// Copies made.
    pub copies: u32,
    /// The remote gateway.
    pub vtep: IpBytes,
}

/// One decision of the pipeline: its kind and the key and value of the table entry that it rests on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// A [`StepKind`].
    pub kind: u32,
    /// A number: VNI, reason, size, as the kind says.
    pub number: u32,
    /// A port.
    pub port: PortKey,
    /// A MAC.
    pub mac: MacBytes,
    /// Flags, as the kind says.
    pub flags: u16,
    /// An address or VTEP.
    pub ip: IpBytes,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = $number:literal;)*) => {
        /// What a [`Step`] says.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum StepKind { $($(#[$doc])* $variant = $number,)* }
        impl StepKind {
            /// The kind with this number.
            #[must_use]
            pub const fn from_u32(number: u32) -> Option<Self> {
                Some(match number { $($number => Self::$variant,)* _ => return None })
            }
        }
    };
}

kinds! {
    /// `ports` knows `port`: an attachment of segment `number`; `flags` is what its guard checks.
    Attachment = 1;
    /// `ports` knows `port`: the tenant's namespace.
    CorePort = 2;
    /// `ports` knows `port`: nodes.
    NodePort = 3;
    /// `ports` knows `port`: one end of a wire; the other is `port` of the verdict.
    CrossPort = 4;
    /// No entry of `ports` knows `port`.
    NoPort = 5;
    /// `segments` knows VNI `number`, from VTEP `ip`.
    FromVtep = 6;
    /// The guard of `port` let the frame through.
    Guarded = 7;
    /// The source `mac` of segment `number` would be learnt. `flags`: [`Step::MOVES`] if it is known on `port` so far,
    /// [`Step::KNOWN`] if it is known here, [`Step::PINNED`] if nothing is to be learnt, 0 if it is unknown.
    Learn = 8;
    /// `mac_static` has the destination `mac` on `port`; `flags` 1 for a node.
    MacStatic = 9;
    /// `mac_local` has the destination `mac` on `port`.
    MacLocal = 10;
    /// `mac_remote` has the destination `mac` at VTEP `ip`, sequence `number`, `flags` 1 for sticky.
    MacRemote = 11;
    /// No table has the destination `mac`.
    MacUnknown = 12;
    /// `nb_static`, `nb_local` or `nb_remote` (`number` 1, 2, 3) says that `ip` is at `mac`.
    Neighbour = 13;
    /// Nobody knows who has `ip`.
    NeighbourUnknown = 14;
    /// `ip` is asked for and answered with `mac`.
    Answered = 15;
    /// The question for `ip` is not passed on (`number`: [`StepKind::SAME_SIDE`], [`StepKind::OTHERS_ANSWER`],
    /// [`StepKind::NOTHING_NEW`]).
    Kept = 16;
    /// A route of tenant `port.ifindex` matches `ip`: kind `number` (a [`crate::RouteKind`]), origin `flags`.
    Route = 17;
    /// No route of tenant `number` matches `ip`.
    NoRoute = 18;
    /// One hop less: `number` are left.
    Hop = 19;
    /// A copy goes out by `port`.
    CopyPort = 20;
    /// A copy goes to VTEP `ip`.
    CopyVtep = 21;
    /// `remotes` says that packets of `number` bytes cross to VTEP `ip`.
    PathMtu = 22;
    /// The TCP segment size is clamped to `number`.
    MssClamp = 23;
    /// The outer header is written by the program and leaves by `port`.
    OwnEncap = 24;
    /// The VXLAN device writes the outer header.
    DeviceEncap = 25;
    /// The outer header (VTEP `ip`, VNI `number`) was taken off by the program.
    OwnDecap = 26;
    /// A question for `ip` would be sent.
    Ask = 27;
    /// The segment may copy no more frames now, or not of this kind (`number`: a [`crate::DropReason`]).
    NoCopies = 28;
    /// `segments` has no VNI `number`; the packet came from VTEP `ip`.
    NoSegment = 29;
    /// `vteps` binds VTEP `ip` to the tunnel device `port`.
    VtepBound = 30;
    /// `vteps` does not bind VTEP `ip` to the tunnel device `port`.
    VtepNotBound = 31;
    /// `mac_static` has the source `mac` on another port: `port`.
    SourcePinned = 32;
    /// `mac_remote` has the source `mac` sticky at VTEP `ip`, sequence `number`.
    SourceSticky = 33;
    /// That `ip` is at `mac` would be learnt in segment `number`; `flags` as of [`StepKind::Learn`].
    NeighbourLearn = 34;
    /// `nb_static` says that `ip` is at `mac`, which is not the sender; `flags` 1 for an address of the gateway.
    NeighbourPinned = 35;
    /// The next step of the route before: kind `flags`; segment or L3VNI `number`, VTEP or our address `ip`, Router's
    /// MAC `mac`, device `port`.
    RouteVia = 36;
    /// `nodes` knows the source `ip`: a node of segment `number` with `mac`.
    NodeAddress = 37;
    /// To the tenant's namespace, `port`; why: a [`crate::Counter`] `number`.
    ToCore = 38;
    /// `nb_remote` says that another gateway has pinned `ip` of segment `number` to `mac`, which is not the sender.
    NeighbourPinnedAfar = 39;
    /// `mac_frozen` has the source `mac` of segment `number` at another port: `port`.
    SourceFrozen = 40;
    /// The frame goes whole to the WireGuard engine in user space, by its TAP `port`: VTEP `ip`, VNI `number`. The engine writes
    /// the outer header before every segment.
    EngineEncap = 41;
}

impl Step {
    /// [`Step::flags`] of [`StepKind::Learn`]: known elsewhere so far.
    pub const MOVES: u16 = 1;
    /// Known here already.
    pub const KNOWN: u16 = 2;
    /// Pinned: nothing is learnt.
    pub const PINNED: u16 = 4;
}

impl StepKind {
    /// [`Step::number`] of [`StepKind::Kept`]: the owner is on the asker's own side and hears it.
    pub const SAME_SIDE: u32 = 1;
    /// [`Step::number`] of [`StepKind::Kept`]: out of VXLAN, and the answer is another gateway's matter.
    pub const OTHERS_ANSWER: u32 = 2;
    /// [`Step::number`] of [`StepKind::Kept`]: an announcement that says nothing new, not sent to far gateways.
    pub const NOTHING_NEW: u32 = 3;
    /// [`Step::number`] of [`StepKind::Neighbour`]: the tables.
    pub const STATIC: u32 = 1;
    /// See [`StepKind::STATIC`].
    pub const LOCAL: u32 = 2;
    /// See [`StepKind::STATIC`].
    pub const REMOTE: u32 = 3;
}
