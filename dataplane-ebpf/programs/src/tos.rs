//! DSCP and ECN between inner and outer headers (RFC 2983, RFC 6040).

use watari_abi::{Config, DropReason};

use crate::{
    headers::{ETH_BYTES, IPV4, IPV6},
    out::Pkt,
};

pub const ECN_MASK: u8 = 0x03;
pub const ECN_CE: u8 = 0x03;
pub const ECN_ECT1: u8 = 0x01;

impl Pkt {
    /// The octet of DSCP and ECN of the packet behind the Ethernet header; 0 if it is not IP.
    #[inline(always)]
    pub fn tos(&self) -> Result<u8, DropReason> {
        match self.meta().ethertype {
            IPV4 => Ok(self.skb.load::<2>(ETH_BYTES)?[1]),
            IPV6 => {
                let [high, low] = self.skb.load::<2>(ETH_BYTES)?;
                Ok(high << 4 | low >> 4)
            }
            _ => Ok(0),
        }
    }

    /// The octet for an outer header, without ECN: the VXLAN device adds that.
    #[inline(always)]
    pub fn outer_dscp(&self, config: &Config) -> Result<u8, DropReason> {
        if config.dscp == Config::DSCP_INNER { Ok(self.tos()? & !ECN_MASK) } else { Ok(config.dscp << 2) }
    }
}

/// DSCP as configured or from the inner header; ECN is copied (RFC 6040 §4.1, normal mode).
#[inline(always)]
pub fn outer_tos(config: &Config, inner: u8) -> u8 {
    let dscp = if config.dscp == Config::DSCP_INNER { inner & !ECN_MASK } else { config.dscp << 2 };
    dscp | inner & ECN_MASK
}
