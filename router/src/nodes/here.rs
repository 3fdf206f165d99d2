//! What this gateway does inside a tenant from its own addresses: probe and measure.
//!
//! Everything runs on threads inside the tenant's namespace: the overlay is there and nowhere else.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use watari_config::desired::device;
use watari_config::{Desired, Name};
use watari_node::agent::{self, CallError, MeasureRequest};
use watari_node::enrol::AGENT_PORT_DEFAULT;
use watari_node::measure::{self, MeasureError, PORT_DEFAULT, Report, Spec};
use watari_planner::item::Ns;

use super::echo;
use crate::drivers::namespace;

/// Why something could not be done from here.
#[derive(Debug, thiserror::Error)]
pub enum HereError {
    /// The segment is not present at this gateway.
    #[error("gateway {gateway} has no segment with VNI {vni} in the tenant with L3VNI {l3vni}")]
    NoSegment {
        /// This gateway.
        gateway: Name,
        /// The tenant.
        l3vni: u32,
        /// The segment.
        vni: u32,
    },
    /// The target is in no subnet of the segment.
    #[error("{target} is in no subnet of the segment")]
    Foreign {
        /// The target.
        target: IpAddr,
    },
    /// This gateway has no probe address of the target's family.
    #[error("gateway {gateway} has no probe address of the family of {target} in the segment")]
    NoSource {
        /// This gateway.
        gateway: Name,
        /// The target.
        target: IpAddr,
    },
    /// The tenant's namespace cannot be entered.
    #[error("cannot enter the tenant's namespace: {0}")]
    Namespace(std::io::Error),
    /// The probe did not come back.
    #[error(transparent)]
    Echo(#[from] echo::EchoError),
    /// The measurement failed.
    #[error(transparent)]
    Measure(#[from] MeasureError),
    /// The node's agent gave no report.
    #[error(transparent)]
    Agent(#[from] CallError),
}

impl HereError {
    /// Something else is measured there just now: a later try may succeed.
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Measure(MeasureError::Busy { .. }) => true,
            Self::Agent(CallError::Problem { problem, .. }) => problem.kind == agent::PROBLEM_BUSY,
            _ => false,
        }
    }
}

/// A segment as this gateway sees it from inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    gateway: Name,
    ns: Ns,
    sources: Vec<IpAddr>,
    subnets: Vec<IpNet>,
}

impl Here {
    /// The segment with `vni` in the tenant with `l3vni`.
    ///
    /// # Errors
    /// When it is not present at this gateway.
    pub fn find(desired: &Desired, l3vni: u32, vni: u32) -> Result<Self, HereError> {
        let gateway = desired.gateway_name().clone();
        let tenants = &desired.document().tenants;
        let found =
            desired.segments().find(|(_, s)| s.vni.get() == vni && tenants[&s.tenant].l3vni.get() == l3vni);
        let Some((name, segment)) = found else {
            return Err(HereError::NoSegment { gateway, l3vni, vni });
        };
        Ok(Self {
            ns: Ns::Tenant(device::namespace(&gateway, &segment.tenant)),
            sources: desired.probe_addresses(name),
            subnets: segment.subnets.clone(),
            gateway,
        })
    }

    /// This gateway's own address with which it talks to `target`.
    ///
    /// # Errors
    /// When the target is none of the segment's, or this gateway has no address of its family.
    pub fn source(&self, target: IpAddr) -> Result<IpAddr, HereError> {
        if !self.subnets.iter().any(|net| net.contains(&target)) {
            return Err(HereError::Foreign { target });
        }
        let own = self.sources.iter().find(|a| a.is_ipv4() == target.is_ipv4()).copied();
        own.ok_or_else(|| HereError::NoSource { gateway: self.gateway.clone(), target })
    }

    /// Round-trip time of a packet of `bytes` to `target` and back.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn probe(self, target: IpAddr, bytes: u16) -> Result<Duration, HereError> {
        let source = self.source(target)?;
        self.inside(move || echo::probe(source, target, bytes)).await?.map_err(HereError::from)
    }

    /// A measurement from this gateway to the responder at `target`.
    ///
    /// # Errors
    /// When it comes to no result.
    pub async fn measure(self, target: IpAddr, mut spec: Spec) -> Result<Report, HereError> {
        spec.source = Some(self.source(target)?);
        let target = SocketAddr::new(target, PORT_DEFAULT);
        self.inside(move || measure::run(target, &spec)).await?.map_err(HereError::from)
    }

    /// A measurement from the node at `agent` to the responder at `target`.
    ///
    /// # Errors
    /// When its agent cannot be reached or comes to no result.
    pub async fn measure_from(self, agent: IpAddr, target: IpAddr, spec: Spec) -> Result<Report, HereError> {
        let source = self.source(agent)?;
        let agent = SocketAddr::new(agent, AGENT_PORT_DEFAULT);
        let request = MeasureRequest { target, port: PORT_DEFAULT, spec };
        let ask = move || agent::request_measure(agent, Some(source), &request);
        self.inside(ask).await?.map_err(HereError::from)
    }

    async fn inside<T, F>(self, f: F) -> Result<T, HereError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let work = move || namespace::inside(&self.ns, f);
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|e| HereError::Namespace(std::io::Error::other(e)))?.map_err(HereError::Namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::samples;

    #[test]
    fn a_segment_is_probed_from_its_own_address_and_nothing_beyond_it() {
        let desired = samples::head().desired;
        let here = Here::find(&desired, 5000, 1000).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(here.source(ip("10.10.0.7")).unwrap(), ip("10.10.0.129"));
        assert_eq!(here.source(ip("fd00:10::7")).unwrap(), ip("fd00:10::a:1"));
        assert!(matches!(here.source(ip("192.0.2.1")), Err(HereError::Foreign { .. })));
        assert!(matches!(Here::find(&desired, 5000, 1001), Err(HereError::NoSegment { .. })));
        assert!(matches!(Here::find(&desired, 5001, 1000), Err(HereError::NoSegment { .. })));
    }
}
