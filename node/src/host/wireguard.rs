//! Kernel WireGuard through generic netlink: set a device, read its last handshake.
//!
//! Requests are few and answered at once, so a plain blocking socket with a receive timeout serves.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlMessage};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardDeviceFlags, WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

use super::HostError;
use super::device::DeviceWish;

/// How long the kernel may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Most messages that one answer has.
const MESSAGES_MAX: usize = 4096;

/// Makes a kernel WireGuard device be exactly as wished. A session that is there goes on: peers are
/// replaced only when there is another one than ours.
pub(super) fn set_device(wish: &DeviceWish<'_>) -> Result<(), HostError> {
    let what = || format!("configure {}", wish.name);
    let present = read_device(wish.name)?;
    let ours = wish.wireguard.public_key.as_bytes();
    let foreign = present.iter().flat_map(|a| &a.attributes).any(|a| has_other_peer(a, ours));
    let attributes = device_attributes(wish, foreign);
    let message = WireguardMessage { cmd: WireguardCmd::SetDevice, attributes };
    request(message, NLM_F_REQUEST | NLM_F_ACK)
        .map_err(|source| HostError::Netlink { what: what(), source })?;
    Ok(())
}

fn has_other_peer(attribute: &WireguardAttribute, ours: &[u8; 32]) -> bool {
    let WireguardAttribute::Peers(peers) = attribute else { return false };
    let mut attributes = peers.iter().flat_map(|p| p.0.iter());
    attributes.any(|a| matches!(a, WireguardPeerAttribute::PublicKey(key) if key != ours))
}

fn read_device(name: &str) -> Result<Vec<WireguardMessage>, HostError> {
    let attributes = vec![WireguardAttribute::IfName(name.into())];
    let message = WireguardMessage { cmd: WireguardCmd::GetDevice, attributes };
    request(message, NLM_F_REQUEST | NLM_F_DUMP)
        .map_err(|source| HostError::Netlink { what: format!("read {name}"), source })
}

/// How long ago the last handshake with any peer of the device was; `None` when there was none.
pub(super) fn handshake_age(name: &str) -> Result<Option<Duration>, HostError> {
    let answers = read_device(name)?;
    let latest = answers.iter().flat_map(|a| &a.attributes).filter_map(latest_handshake).max();
    Ok(latest.map(|at| SystemTime::now().duration_since(at).unwrap_or_default()))
}

fn latest_handshake(attribute: &WireguardAttribute) -> Option<SystemTime> {
    let WireguardAttribute::Peers(peers) = attribute else { return None };
    let times = peers.iter().flat_map(|p| p.0.iter()).filter_map(|a| match a {
        WireguardPeerAttribute::LastHandshake(at) => Some(at),
        _ => None,
    });
    times
        .filter(|at| at.seconds > 0)
        .map(|at| {
            UNIX_EPOCH + Duration::new(at.seconds.unsigned_abs(), at.nano_seconds.unsigned_abs() as u32)
        })
        .max()
}

fn device_attributes(wish: &DeviceWish<'_>, replace_peers: bool) -> Vec<WireguardAttribute> {
    let mut key = [0; 32];
    let text = wish.private_key.reveal();
    // The key is a key: its base64 has exactly 32 bytes.
    if let Ok(bytes) = STANDARD.decode(text) {
        key.copy_from_slice(&bytes);
    }
    let flags =
        if replace_peers { WireguardDeviceFlags::ReplacePeers } else { WireguardDeviceFlags::empty() };
    vec![
        WireguardAttribute::IfName(wish.name.to_owned()),
        WireguardAttribute::PrivateKey(key),
        WireguardAttribute::Flags(flags),
        WireguardAttribute::Peers(vec![WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(*wish.wireguard.public_key.as_bytes()),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
            WireguardPeerAttribute::Endpoint(wish.wireguard.endpoint),
            WireguardPeerAttribute::PersistentKeepalive(wish.wireguard.keepalive_s),
            WireguardPeerAttribute::AllowedIps(wish.wireguard.allowed_ips.iter().map(allowed_ip).collect()),
        ])]),
    ]
}

fn allowed_ip(net: &IpNet) -> WireguardAllowedIp {
    let family = match net.addr() {
        IpAddr::V4(_) => WireguardAddressFamily::Ipv4,
        IpAddr::V6(_) => WireguardAddressFamily::Ipv6,
    };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(net.network()),
        WireguardAllowedIpAttr::Cidr(net.prefix_len()),
    ])
}

/// Sends one request to the WireGuard family and gathers what comes back.
fn request(message: WireguardMessage, flags: u16) -> io::Result<Vec<WireguardMessage>> {
    let socket = open()?;
    let family = family_id(&socket, WireguardMessage::family_name())?;
    let mut message = GenlMessage::from_payload(message);
    message.set_resolved_family_id(family);
    let answers = exchange(&socket, message, flags)?;
    Ok(answers.into_iter().map(|a: GenlMessage<WireguardMessage>| a.payload).collect())
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let limit = nix::sys::time::TimeVal::new(ANSWER_LIMIT.as_secs() as i64, 0);
    // SAFETY: the descriptor is open for as long as `socket` lives, which is longer than this borrow.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    nix::sys::socket::setsockopt(&borrowed, nix::sys::socket::sockopt::ReceiveTimeout, &limit)?;
    Ok(socket)
}

/// The number that the kernel gave the family (it is not fixed).
fn family_id(socket: &Socket, name: &str) -> io::Result<u16> {
    let message = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(name.to_owned())],
    });
    let answers: Vec<GenlMessage<GenlCtrl>> = exchange(socket, message, NLM_F_REQUEST | NLM_F_ACK)?;
    let ids = answers.iter().flat_map(|a| &a.payload.nlas).find_map(|nla| match nla {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    });
    ids.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

/// Sends a message and reads until the kernel says that it is done.
fn exchange<T>(socket: &Socket, message: GenlMessage<T>, flags: u16) -> io::Result<Vec<GenlMessage<T>>>
where
    T: GenlFamily + Clone + std::fmt::Debug + PartialEq + Eq,
    GenlMessage<T>: NetlinkSerializable + NetlinkDeserializable,
{
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    while answers.len() < MESSAGES_MAX {
        let (packet, _) = socket.recv_from_full()?;
        if take_answers(&packet, &mut answers)? {
            return Ok(answers);
        }
    }
    Err(io::Error::other("an endless answer"))
}

/// Reads the messages of one datagram; true when the last was the end.
fn take_answers<T>(packet: &[u8], answers: &mut Vec<GenlMessage<T>>) -> io::Result<bool>
where
    T: GenlFamily,
    GenlMessage<T>: NetlinkDeserializable,
{
    let mut rest = packet;
    while !rest.is_empty() {
        let message = NetlinkMessage::<GenlMessage<T>>::deserialize(rest).map_err(io::Error::other)?;
        let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
        rest = &rest[length.max(1)..];
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => answers.push(inner),
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            NetlinkPayload::Error(_) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable as _;

    use super::*;
    use crate::enrol::WireguardParameters;

    /// The attributes as the kernel's `include/uapi/linux/wireguard.h` numbers them.
    #[test]
    fn a_device_is_written_as_the_kernel_reads_it() {
        let key: watari_link::PrivateKey =
            "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=".parse().expect("a key");
        let wireguard = WireguardParameters {
            public_key: key.public_key(),
            endpoint: "192.0.2.1:51820".parse().expect("an endpoint"),
            keepalive_s: 25,
            allowed_ips: vec!["10.1.2.3/8".parse().expect("a prefix")],
        };
        let wish =
            DeviceWish { name: "wt0", alias: "a", private_key: &key, mtu: 1420, wireguard: &wireguard };
        let message =
            WireguardMessage { cmd: WireguardCmd::SetDevice, attributes: device_attributes(&wish, true) };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let text = hex::encode(&bytes);
        // WGDEVICE_A_IFNAME "wt0\0", WGDEVICE_A_PRIVATE_KEY of 32 bytes, WGDEVICE_F_REPLACE_PEERS.
        assert!(text.starts_with("08000200777430002400030077076d0a7318a57d"), "{text}");
        assert!(text.contains("0800050001000000"), "{text}");
        // The endpoint is a sockaddr_in, the keepalive 25 s, the prefix without its host bits.
        assert!(text.contains("0200ca6cc0000201"), "{text}");
        assert!(text.contains("0600050019000000"), "{text}");
        assert!(text.contains("080002000a000000") && text.contains("0500030008000000"), "{text}");
    }

    #[test]
    fn without_the_family_the_kernel_says_so() {
        let socket = open().expect("a generic netlink socket");
        let error = family_id(&socket, "watari-none").expect_err("no such family");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert_eq!(family_id(&socket, "nlctrl").expect("it is always there"), 16);
    }
}
