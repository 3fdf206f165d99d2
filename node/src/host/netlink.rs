//! Links, addresses and routes through rtnetlink, as far as a node needs them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, LinkWireguard, RouteMessageBuilder};
use tokio::task::JoinHandle;

use super::HostError;

/// Protocol id of every route that we make.
pub const ROUTE_PROTOCOL: u8 = 221;

/// A link as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Alias, empty when there is none.
    pub alias: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// It is a kernel WireGuard device.
    pub wireguard: bool,
}

/// A unicast route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Through which device.
    pub device: u32,
    /// Next hop on it, if any.
    pub gateway: Option<IpAddr>,
    /// Preferred source address, if any.
    pub source: Option<IpAddr>,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
}

/// A netlink socket and the task that reads it. Belongs to the network namespace of the thread that
/// opened it, and to the runtime that was entered then.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    reader: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The system's error number behind a failed request.
fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> HostError {
    let what = what.into();
    move |error| HostError::Netlink { what, source: io_error(error) }
}

impl Netlink {
    /// Opens a socket.
    ///
    /// # Errors
    /// The kernel gives none.
    pub fn open() -> Result<Self, HostError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|source| HostError::Socket { source })?;
        Ok(Self { handle, reader: tokio::spawn(connection) })
    }

    /// The link of that name, if there is one.
    ///
    /// # Errors
    /// The kernel refused for another reason than that there is none.
    pub async fn link(&self, name: &str) -> Result<Option<Link>, HostError> {
        let mut found = self.handle.link().get().match_name(name).execute();
        match found.try_next().await {
            Ok(message) => Ok(message.map(|m| link_of(&m))),
            Err(error) => {
                let source = io_error(error);
                if source.raw_os_error() == Some(libc::ENODEV) {
                    return Ok(None);
                }
                Err(HostError::Netlink { what: format!("look for {name}"), source })
            }
        }
    }

    /// Makes a kernel WireGuard device with that name and alias. False: the kernel has none.
    ///
    /// # Errors
    /// The kernel refused for another reason.
    pub async fn add_wireguard(&self, name: &str, alias: &str) -> Result<bool, HostError> {
        let message = LinkWireguard::new(name).build();
        match self.handle.link().add(message).execute().await.map_err(io_error) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(false),
            Err(source) => return Err(HostError::Netlink { what: format!("make {name}"), source }),
        }
        let message = LinkUnspec::new_with_name(name).alias(alias).build();
        self.handle.link().set(message).execute().await.map_err(refused(format!("name {name} ours")))?;
        Ok(true)
    }

    /// Sets the MTU of a link and takes it up.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn set_up(&self, index: u32, mtu: u16) -> Result<(), HostError> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu.into()).up().build();
        let what = format!("take device {index} up with MTU {mtu}");
        self.handle.link().set(message).execute().await.map_err(refused(what))
    }

    /// Removes a link, with its addresses and routes.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn delete_link(&self, index: u32) -> Result<(), HostError> {
        self.handle.link().del(index).execute().await.map_err(refused(format!("remove device {index}")))
    }

    /// Makes the addresses of one of our devices be exactly these (link-local ones are left alone).
    /// Returns how many were added and removed.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn sync_addresses(&self, index: u32, wanted: &[IpNet]) -> Result<(usize, usize), HostError> {
        let present = self.address_messages(index).await?;
        let mut counts = (0, 0);
        for address in wanted.iter().filter(|w| present.iter().all(|(p, _)| p != *w)) {
            self.add_address(index, *address).await?;
            counts.0 += 1;
        }
        for (address, message) in present.into_iter().filter(|(p, _)| !wanted.contains(p)) {
            let what = format!("remove the address {address}");
            self.handle.address().del(message).execute().await.map_err(refused(what))?;
            counts.1 += 1;
        }
        Ok(counts)
    }

    /// The addresses of a link, without the link-local ones.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn addresses(&self, index: u32) -> Result<Vec<IpNet>, HostError> {
        Ok(self.address_messages(index).await?.into_iter().map(|(address, _)| address).collect())
    }

    async fn address_messages(&self, index: u32) -> Result<Vec<(IpNet, AddressMessage)>, HostError> {
        let request = self.handle.address().get().set_link_index_filter(index).execute();
        let messages: Vec<_> = request.try_collect().await.map_err(refused("list addresses"))?;
        let known = messages.into_iter().filter_map(|m| address_of(&m).map(|a| (a, m)));
        Ok(known.filter(|(a, _)| !is_link_local(a.addr())).collect())
    }

    /// Adds an address that may be used at once: nobody else can have it, the gateway gave it.
    async fn add_address(&self, index: u32, address: IpNet) -> Result<(), HostError> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(refused(format!("add the address {address}")))
    }

    /// All unicast routes of the main table, both families.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn routes(&self) -> Result<Vec<Route>, HostError> {
        let mut routes = Vec::new();
        for unspecified in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let request = match unspecified {
                IpAddr::V4(_) => RouteMessageBuilder::<Ipv4Addr>::new().build(),
                IpAddr::V6(_) => RouteMessageBuilder::<Ipv6Addr>::new().build(),
            };
            let found = self.handle.route().get(request).execute();
            let messages: Vec<_> = found.try_collect().await.map_err(refused("list routes"))?;
            let main = messages.iter().filter(|m| table_of(m) == u32::from(RouteHeader::RT_TABLE_MAIN));
            routes.extend(main.filter_map(|m| route_of(m, unspecified)));
        }
        Ok(routes)
    }

    /// The way that a packet to `address` takes now; `None` when there is none.
    ///
    /// # Errors
    /// The kernel refused for another reason than that there is none.
    pub async fn route_to(&self, address: IpAddr) -> Result<Option<Route>, HostError> {
        let host = IpNet::from(address);
        let request = route_builder(host)?.build();
        let mut found = self.handle.route().get(request).execute();
        match found.try_next().await {
            Ok(message) => Ok(message.and_then(|m| route_of(&m, address))),
            Err(error) => {
                let source = io_error(error);
                match source.raw_os_error() {
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ESRCH) => Ok(None),
                    _ => Err(HostError::Netlink { what: format!("ask for the way to {address}"), source }),
                }
            }
        }
    }

    /// Adds a route; one that is there already is not replaced.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn add_route(&self, route: &Route) -> Result<(), HostError> {
        let message = message_of(route)?;
        let what = format!("add the route to {}", route.destination);
        self.handle.route().add(message).execute().await.map_err(refused(what))
    }

    /// Removes a route of ours; that it is gone already is no error.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn delete_route(&self, route: &Route) -> Result<(), HostError> {
        let message = message_of(route)?;
        match self.handle.route().del(message).execute().await.map_err(io_error) {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            Err(source) => {
                Err(HostError::Netlink { what: format!("remove the route to {}", route.destination), source })
            }
        }
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        alias: String::new(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        wireguard: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.wireguard = infos.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Wireguard)));
            }
            _ => {}
        }
    }
    link
}

/// `IFA_LOCAL` is the address itself; without it (IPv6) `IFA_ADDRESS` is.
fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn table_of(message: &RouteMessage) -> u32 {
    let wide = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    wide.unwrap_or_else(|| message.header.table.into())
}

fn plain(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// Reads a route; `fallback` is its destination when it names none. `None`: it is no unicast route.
fn route_of(message: &RouteMessage, fallback: IpAddr) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut destination = fallback;
    let (mut device, mut gateway, mut source) = (0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = plain(address)?,
            RouteAttribute::Gateway(address) => gateway = plain(address),
            RouteAttribute::PrefSource(address) => source = plain(address),
            RouteAttribute::Oif(index) => device = *index,
            _ => {}
        }
    }
    let destination = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { destination, device, gateway, source, protocol: message.header.protocol.into() })
}

fn route_builder(destination: IpNet) -> Result<RouteMessageBuilder<IpAddr>, HostError> {
    let builder = RouteMessageBuilder::<IpAddr>::new();
    builder.destination_prefix(destination.addr(), destination.prefix_len()).map_err(|error| {
        HostError::Netlink { what: format!("write {destination}"), source: io::Error::other(error) }
    })
}

fn message_of(route: &Route) -> Result<RouteMessage, HostError> {
    let wrong = |error| HostError::Netlink {
        what: format!("write the route to {}", route.destination),
        source: io::Error::other(error),
    };
    let mut builder = route_builder(route.destination)?
        .output_interface(route.device)
        .protocol(RouteProtocol::from(route.protocol))
        .table_id(RouteHeader::RT_TABLE_MAIN.into());
    builder = match route.gateway {
        Some(gateway) => builder.gateway(gateway).map_err(wrong)?,
        // IPv6 knows no scopes of routes: the kernel ignores it there.
        None => builder.scope(RouteScope::Link),
    };
    if let Some(source) = route.source {
        builder = builder.pref_source(source).map_err(wrong)?;
    }
    Ok(builder.build())
}
