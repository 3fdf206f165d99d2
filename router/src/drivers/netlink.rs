//! One netlink connection to one namespace: dumps, and a wake-up when somebody changes something there.

use std::net::IpAddr;
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteType, RouteVia,
};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::Notify;
use watari_planner::item::Ns;

use super::{DriverError, PROTOCOL_LEARNT, PROTOCOL_PLAN, namespace};

/// Rings when a link, address or route of ours may have been changed by somebody else.
pub type Wakeup = Arc<Notify>;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Alias: our mark, if it is ours.
    pub alias: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// MAC, where it has one of six octets.
    pub mac: Option<[u8; 6]>,
    /// `veth`, `vxlan` and so on.
    pub kind: Option<String>,
    /// Its other end, or the device beneath it, is in another namespace.
    pub crosses: bool,
    /// What it sends waits in no queue: its queueing discipline is `noqueue`.
    pub queueless: bool,
    /// UDP port, of a VXLAN device.
    pub vxlan_port: Option<u16>,
}

/// A kernel route with one of our protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// Where to.
    pub prefix: IpNet,
    /// Next hop; of an IPv4 prefix it may be an IPv6 address (RFC 8950). Without it and without a device, what is sent
    /// there is dropped.
    pub via: Option<IpAddr>,
    /// Index of the device.
    pub oif: Option<u32>,
    /// Preferred source.
    pub source: Option<IpAddr>,
    /// Metric.
    pub metric: u32,
    /// MTU of what goes that way, bytes; that of the device without it.
    pub mtu: Option<u16>,
    /// [`PROTOCOL_PLAN`] or [`PROTOCOL_LEARNT`].
    pub protocol: u8,
    /// The nexthop object that it goes through, of a bundle of tunnels.
    pub nexthop: Option<u32>,
}

/// What is in a namespace.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// All devices.
    pub links: Vec<Link>,
    /// Addresses by index of the device.
    pub addresses: Vec<(u32, IpNet)>,
    /// Permanent neighbours by index of the device.
    pub neighbours: Vec<(u32, IpAddr, [u8; 6])>,
    /// Routes with our protocols.
    pub routes: Vec<KernelRoute>,
}

/// A connection to one namespace.
pub struct Netlink {
    /// Requests go through here.
    pub handle: Handle,
    /// Of the namespace, where it is a tenant's.
    pub inode: Option<u64>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Drop for Netlink {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

impl Netlink {
    /// Connects to `ns` and rings `wakeup` whenever something changes there.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or netlink is not to be had.
    pub async fn connect(ns: &Ns, wakeup: Wakeup) -> Result<Self, DriverError> {
        let what = format!("netlink{ns}");
        let runtime = tokio::runtime::Handle::current();
        let opened = namespace::inside(ns, move || {
            let _entered = runtime.enter();
            rtnetlink::new_multicast_connection(&GROUPS)
        });
        let (connection, handle, mut messages) =
            opened.and_then(|o| o).map_err(|e| DriverError::system(what, e))?;
        let inode = match ns {
            Ns::Root => None,
            Ns::Tenant(name) => namespace::inode(name).ok(),
        };
        let watch = async move {
            while let Some((message, _)) = messages.next().await {
                if concerns_us(&message.payload) {
                    wakeup.notify_one();
                }
            }
        };
        Ok(Self { handle, inode, tasks: [tokio::spawn(connection), tokio::spawn(watch)] })
    }

    /// Everything in the namespace that a driver may ask for.
    ///
    /// # Errors
    /// When a dump fails.
    pub async fn dump(&self) -> Result<Dump, DriverError> {
        Ok(Dump {
            links: self.links().await?,
            addresses: self.addresses().await?,
            neighbours: self.neighbours().await?,
            routes: self.routes().await?,
        })
    }

    /// All devices.
    ///
    /// # Errors
    /// When the dump fails.
    pub async fn links(&self) -> Result<Vec<Link>, DriverError> {
        let dump: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed("dump links"))?;
        Ok(dump.iter().map(link).collect())
    }

    /// Index of the device `name`.
    ///
    /// # Errors
    /// When there is none.
    pub async fn index(&self, name: &str) -> Result<u32, DriverError> {
        let what = || format!("device {name}");
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Ok(Some(message)) => Ok(message.header.index),
            Ok(None) => Err(DriverError::Missing { what: what() }),
            Err(e) if is_errno(&e, &[libc::ENODEV]) => Err(DriverError::Missing { what: what() }),
            Err(e) => Err(failed(what())(e)),
        }
    }

    async fn addresses(&self) -> Result<Vec<(u32, IpNet)>, DriverError> {
        let dump: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(failed("dump addresses"))?;
        Ok(dump.iter().filter_map(address).collect())
    }

    async fn neighbours(&self) -> Result<Vec<(u32, IpAddr, [u8; 6])>, DriverError> {
        let dump: Vec<NeighbourMessage> = self
            .handle
            .neighbours()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(failed("dump neighbours"))?;
        Ok(dump.iter().filter_map(neighbour).collect())
    }

    /// Routes with our protocols.
    ///
    /// # Errors
    /// When the dump fails.
    pub async fn routes(&self) -> Result<Vec<KernelRoute>, DriverError> {
        let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
        let mut routes = Vec::new();
        for filter in [v4, v6] {
            let dump: Vec<RouteMessage> = self
                .handle
                .route()
                .get(filter)
                .execute()
                .try_collect()
                .await
                .map_err(failed("dump routes"))?;
            routes.extend(dump.iter().filter_map(route));
        }
        Ok(routes)
    }
}

/// Turns a netlink error into ours.
pub fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> DriverError {
    let what = what.into();
    move |source| DriverError::Netlink { what, source }
}

/// Whether the kernel said that it was so already (`EEXIST`), or that it is gone (`ENOENT`, `ESRCH`,
/// `ENODEV`, `EADDRNOTAVAIL`).
pub fn is_errno(error: &rtnetlink::Error, codes: &[i32]) -> bool {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            message.code.is_some_and(|code| codes.contains(&code.get().abs()))
        }
        _ => false,
    }
}

/// `Ok` where the error only says that the thing is gone already.
pub fn gone_is_fine(done: Result<(), rtnetlink::Error>, what: String) -> Result<(), DriverError> {
    match done {
        Err(e) if is_errno(&e, &[libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL]) => Ok(()),
        other => other.map_err(failed(what)),
    }
}

fn concerns_us(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    match payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => route.header.protocol == RouteProtocol::Other(PROTOCOL_PLAN),
        NetlinkPayload::InnerMessage(_) => true,
        // An overrun: something was missed, so look.
        _ => true,
    }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        mac: None,
        kind: None,
        crosses: false,
        queueless: false,
        vxlan_port: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::LinkNetNsId(_) => link.crosses = true,
            LinkAttribute::Qdisc(kind) => link.queueless = kind == "noqueue",
            LinkAttribute::LinkInfo(infos) => link_info(infos, &mut link),
            _ => {}
        }
    }
    link
}

fn link_info(infos: &[LinkInfo], link: &mut Link) {
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Veth) => link.kind = Some("veth".to_owned()),
            LinkInfo::Kind(InfoKind::Vxlan) => link.kind = Some("vxlan".to_owned()),
            LinkInfo::Kind(InfoKind::Wireguard) => link.kind = Some("wireguard".to_owned()),
            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
            LinkInfo::Data(InfoData::Vxlan(data)) => {
                link.vxlan_port =
                    data.iter().find_map(|d| if let InfoVxlan::Port(p) = d { Some(*p) } else { None });
            }
            _ => {}
        }
    }
}

fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => found = Some(*ip),
            AddressAttribute::Address(ip) if found.is_none() => found = Some(*ip),
            _ => {}
        }
    }
    Some((message.header.index, IpNet::new(found?, message.header.prefix_len).ok()?))
}

fn neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, [u8; 6])> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some((message.header.ifindex, ip?, mac?))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn route(message: &RouteMessage) -> Option<KernelRoute> {
    let RouteProtocol::Other(protocol @ (PROTOCOL_PLAN | PROTOCOL_LEARNT)) = message.header.protocol else {
        return None;
    };
    let is_blackhole = message.header.kind == RouteType::BlackHole;
    if message.header.kind != RouteType::Unicast && !is_blackhole {
        return None;
    }
    let is_v4 = message.header.address_family == netlink_packet_route::AddressFamily::Inet;
    let any = if is_v4 { IpAddr::V4([0; 4].into()) } else { IpAddr::V6([0; 16].into()) };
    let (mut to, mut via, mut oif, mut source, mut metric) = (any, None, None, None, 0);
    let (mut mtu, mut nexthop) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(a) => to = ip(a)?,
            RouteAttribute::Gateway(a) => via = ip(a),
            RouteAttribute::Via(RouteVia::Inet6(a)) => via = Some(IpAddr::V6(*a)),
            RouteAttribute::PrefSource(a) => source = ip(a),
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::NhId(id) => nexthop = Some(*id),
            RouteAttribute::Metrics(metrics) => mtu = metrics.iter().find_map(metric_mtu),
            _ => {}
        }
    }
    let prefix = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    // Of IPv6 the kernel names the loopback device.
    let oif = oif.filter(|_| !is_blackhole);
    Some(KernelRoute { prefix, via, oif, source, metric, mtu, protocol, nexthop })
}

fn metric_mtu(metric: &RouteMetric) -> Option<u16> {
    match metric {
        RouteMetric::Mtu(mtu) => u16::try_from(*mtu).ok(),
        _ => None,
    }
}
