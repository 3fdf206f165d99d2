//! Beacons of the loop guard: told to the brain by the attachment where they were seen, and ended there.

use watari_abi::{Counter, EventKind, IpBytes, beacon};

use crate::{
    headers::{part, same_mac},
    out::{Decision, Pkt},
};

impl Pkt {
    /// True for a frame to the group and of the type of beacons.
    #[inline(always)]
    pub fn is_beacon(&self) -> bool {
        let meta = self.meta();
        meta.ethertype == beacon::ETHERTYPE && same_mac(meta.dst, beacon::DESTINATION)
    }

    /// Ends a beacon. One of another form or version is none: it goes no further either, and nobody is told.
    #[inline(always)]
    pub fn beacon(&self) -> Decision {
        let payload = self.skb.load::<{ beacon::PAYLOAD_BYTES }>(beacon::MAGIC_AT as u32)?;
        let known = [payload[0], payload[1], payload[2], payload[3]] == beacon::MAGIC;
        if known && payload[4] == beacon::VERSION {
            let origin = part(&payload, beacon::ORIGIN_AT - beacon::MAGIC_AT);
            let vni = beacon::VNI_AT - beacon::MAGIC_AT;
            let vni = [payload[vni], payload[vni + 1], payload[vni + 2], payload[vni + 3]];
            let ages: IpBytes = part(&payload, beacon::SINCE_AT - beacon::MAGIC_AT);
            let flags = payload[beacon::FLAGS_AT - beacon::MAGIC_AT];
            self.event_of(EventKind::Beacon, origin, ages, flags, u32::from_be_bytes(vni));
        }
        self.consumed(Counter::BeaconSeen)
    }
}
