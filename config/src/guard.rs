//! Guards: what an attachment may send, whoever is behind it.

use ipnet::IpNet;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::document::Permit;
use crate::names::Mac;
use crate::read::{Path, Problems, Read, object};

object! {
    /// What the hosts behind an attachment may send. What is not said is not restricted.
    pub struct Guard {
        /// Source MACs that may be used; any if the list is empty.
        pub macs: Vec<Mac>,
        /// Source addresses that may be used, in IP, ARP and ND; any if the list is empty. A prefix, or an object
        /// of `prefix` and the `mac` that must go with it.
        pub addresses: Vec<GuardAddress>,
        /// Whether a DHCP server may be there (DHCPv4 and DHCPv6).
        pub dhcp_server: Permit = Permit::Allow,
        /// Whether a router may be there: router advertisements and redirects (RFC 6105).
        pub routers: Permit = Permit::Allow,
        /// The most MACs that are learnt there; 0 for no limit.
        pub macs_max: u32 = 0,
        /// Broadcast, multicast and unknown-unicast frames per second at most; 0 for no limit of its own.
        pub storm_rate: u32 = 0,
    }
}

object! {
    /// A prefix with the MAC that must go with it.
    pub struct BoundPrefix {
        /// The prefix.
        pub prefix: IpNet,
        /// The MAC; any without one.
        pub mac: Option<Mac>,
    }
}

/// A prefix that an attachment may use: written as text, or as an object with the MAC that must go with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardAddress {
    /// The prefix.
    pub prefix: IpNet,
    /// The MAC that must go with it; any without one.
    pub mac: Option<Mac>,
}

impl Read for GuardAddress {
    fn read(value: &Value, at: &Path, problems: &mut Problems) -> Option<Self> {
        if value.is_object() {
            let BoundPrefix { prefix, mac } = BoundPrefix::read(value, at, problems)?;
            return Some(Self { prefix, mac });
        }
        IpNet::read(value, at, problems).map(|prefix| Self { prefix, mac: None })
    }

    #[cfg(feature = "schema")]
    fn schema() -> crate::schema::Schema {
        crate::schema::either(crate::schema::text(), BoundPrefix::schema())
    }
}

impl Serialize for GuardAddress {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.mac {
            None => s.collect_str(&self.prefix),
            mac => BoundPrefix { prefix: self.prefix, mac }.serialize(s),
        }
    }
}
