//! The few things asked of rtnetlink: look at one interface, set its alias, MTU and up flag.
//!
//! Every call opens its own socket: these are control operations, and a socket belongs to the
//! network namespace of the thread that opened it.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// An interface as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) alias: Option<String>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) is_tun: bool,
}

/// The interface of that name, if there is one.
pub(crate) fn find(name: &str) -> io::Result<Option<Link>> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    match exchange(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST) {
        Ok(Some(RouteNetlinkMessage::NewLink(found))) => Ok(Some(read(&found))),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "no link in the kernel's answer")),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How many packets an interface has received since it was made.
pub(crate) fn received_packets(index: u32) -> io::Result<u64> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    let nothing = || io::Error::new(io::ErrorKind::InvalidData, "no statistics in the kernel's answer");
    match exchange(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)? {
        Some(RouteNetlinkMessage::NewLink(found)) => {
            let stats = found.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Stats64(stats) => Some(stats.rx_packets),
                _ => None,
            });
            stats.ok_or_else(nothing)
        }
        _ => Err(nothing()),
    }
}

fn read(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        alias: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        is_tun: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.is_tun = infos.contains(&LinkInfo::Kind(InfoKind::Tun));
            }
            _ => {}
        }
    }
    link
}

/// Sets the alias, which is our mark.
pub(crate) fn set_alias(index: u32, alias: &str) -> io::Result<()> {
    set(index, |message| message.attributes.push(LinkAttribute::IfAlias(alias.to_owned())))
}

/// Sets the MTU, in bytes.
pub(crate) fn set_mtu(index: u32, mtu: u32) -> io::Result<()> {
    set(index, |message| message.attributes.push(LinkAttribute::Mtu(mtu)))
}

/// Sets how many packets may wait for the interface's reader. The kernel drops what is sent at this moment while the interface is
/// up.
pub(crate) fn set_queue(index: u32, length: u32) -> io::Result<()> {
    set(index, |message| message.attributes.push(LinkAttribute::TxQueueLen(length)))
}

/// Brings the interface up.
pub(crate) fn set_up(index: u32) -> io::Result<()> {
    set(index, |message| {
        message.header.flags |= LinkFlags::Up;
        message.header.change_mask |= LinkFlags::Up;
    })
}

fn set(index: u32, fill: impl FnOnce(&mut LinkMessage)) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    fill(&mut message);
    exchange(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
}

/// Sends one request and returns its one answer; `None` is a bare acknowledgement.
fn exchange(request: RouteNetlinkMessage, flags: u16) -> io::Result<Option<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = 1;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    match answer.payload {
        NetlinkPayload::InnerMessage(inner) => Ok(Some(inner)),
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(None),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "unexpected netlink answer")),
    }
}
