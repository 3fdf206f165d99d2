//! The kernel's generic netlink family `wireguard` (include/uapi/linux/wireguard.h): reads a device, sets one.
//!
//! ```text
//!   WG_CMD_GET_DEVICE ──▶ device { port, public key, peers { key, endpoint, keepalive, handshake, allowed ips } }
//!   WG_CMD_SET_DEVICE ◀── device { private key, port, peers { key, flags, … } }
//! ```
//! Requests are few and answered at once: a plain blocking socket with a limit serves. An answer may come in
//! several messages, and one peer may be spread over two of them.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;
use netlink_packet_core::{
    Emitable as _, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlMessage};
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd,
    WireguardMessage, WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_GENERIC;

/// The family's name.
const FAMILY: &str = "wireguard";
/// How long the kernel may take for one answer.
const ANSWER_LIMIT_S: i64 = 5;
/// Most messages of one answer: a device with tens of thousands of peers has fewer.
const MESSAGES_MAX: usize = 65_536;
/// Octets of peers in one request: an attribute has a length of 16 bits.
const REQUEST_OCTETS_MAX: usize = 16_384;
/// Allowed prefixes of one peer in one request; the next ones follow in another.
const ALLOWED_IPS_MAX: usize = 200;

/// A device as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    /// Of the private key it has; all zero where it has none.
    pub(super) public_key: [u8; 32],
    /// UDP port in use.
    pub(super) listen_port: u16,
    /// Peers by public key.
    pub(super) peers: BTreeMap<[u8; 32], Peer>,
}

/// A peer as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Peer {
    /// Where it was heard last, or as configured.
    pub(super) endpoint: Option<SocketAddr>,
    /// Prefixes behind it.
    pub(super) allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives; 0 for none.
    pub(super) keepalive_s: u16,
    /// When the last handshake was.
    pub(super) handshake: Option<SystemTime>,
}

/// What is to be changed of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PeerChange {
    /// It goes.
    Remove([u8; 32]),
    /// It is made, or changed in what is given here. Its session goes on.
    Set {
        /// The peer.
        key: [u8; 32],
        /// Send there from now on.
        endpoint: Option<SocketAddr>,
        /// Seconds between keepalives.
        keepalive_s: Option<u16>,
        /// All prefixes behind it.
        allowed_ips: Option<Vec<IpNet>>,
    },
}

/// Whether the kernel has WireGuard. Asking loads the module where there is one; nothing else is left behind.
pub(super) fn is_there() -> bool {
    Socket::new(NETLINK_GENERIC).and_then(prepared).and_then(|s| family_id(&s, FAMILY)).is_ok()
}

/// Reads a device.
///
/// # Errors
/// When there is none of that name, or it is not a WireGuard device.
pub(super) fn read(name: &str) -> io::Result<Device> {
    let attributes = vec![WireguardAttribute::IfName(name.to_owned())];
    let mut device = Device::default();
    for message in request(WireguardCmd::GetDevice, attributes, NLM_F_DUMP)? {
        merge(&mut device, message);
    }
    Ok(device)
}

/// Sets key and port of a device (0: any port), and changes peers in the order given.
///
/// # Errors
/// What the kernel said.
pub(super) fn write(
    name: &str,
    private_key: [u8; 32],
    listen_port: Option<u16>,
    changes: &[PeerChange],
) -> io::Result<()> {
    let mut attributes =
        vec![WireguardAttribute::IfName(name.to_owned()), WireguardAttribute::PrivateKey(private_key)];
    attributes.extend(listen_port.map(WireguardAttribute::ListenPort));
    request(WireguardCmd::SetDevice, attributes, NLM_F_ACK)?;
    for peers in batches(changes.iter().flat_map(pieces)) {
        let attributes = vec![WireguardAttribute::IfName(name.to_owned()), WireguardAttribute::Peers(peers)];
        request(WireguardCmd::SetDevice, attributes, NLM_F_ACK)?;
    }
    Ok(())
}

fn merge(device: &mut Device, message: WireguardMessage) {
    for attribute in message.attributes {
        match attribute {
            WireguardAttribute::PublicKey(key) => device.public_key = key,
            WireguardAttribute::ListenPort(port) => device.listen_port = port,
            WireguardAttribute::Peers(peers) => peers.iter().for_each(|peer| merge_peer(device, peer)),
            _ => {}
        }
    }
}

/// The second part of a peer has its key and further prefixes alone.
fn merge_peer(device: &mut Device, attributes: &[WireguardPeerAttribute]) {
    let key = attributes.iter().find_map(|a| match a {
        WireguardPeerAttribute::PublicKey(key) => Some(*key),
        _ => None,
    });
    let Some(key) = key else { return };
    let peer = device.peers.entry(key).or_default();
    for attribute in attributes {
        match attribute {
            WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(*endpoint),
            WireguardPeerAttribute::PersistentKeepalive(seconds) => peer.keepalive_s = *seconds,
            WireguardPeerAttribute::LastHandshake(at) if at.seconds > 0 => {
                let nanoseconds = u32::try_from(at.nano_seconds).unwrap_or(0);
                peer.handshake = Some(UNIX_EPOCH + Duration::new(at.seconds.unsigned_abs(), nanoseconds));
            }
            WireguardPeerAttribute::AllowedIps(nets) => {
                peer.allowed_ips.extend(nets.iter().filter_map(|net| allowed_ip(net)));
            }
            _ => {}
        }
    }
}

fn allowed_ip(attributes: &[WireguardAllowedIpAttr]) -> Option<IpNet> {
    let (mut ip, mut length) = (None, None);
    for attribute in attributes {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(address) => ip = Some(*address),
            WireguardAllowedIpAttr::Cidr(bits) => length = Some(*bits),
            _ => {}
        }
    }
    IpNet::new(ip?, length?).ok()
}

/// A change as the kernel takes it: one with many prefixes in several pieces, of which the first replaces
/// those that were there.
fn pieces(change: &PeerChange) -> Vec<WireguardPeer> {
    let (key, endpoint, keepalive_s, allowed_ips) = match change {
        PeerChange::Remove(key) => {
            let flags = WireguardPeerFlags::RemoveMe;
            let gone = vec![WireguardPeerAttribute::PublicKey(*key), WireguardPeerAttribute::Flags(flags)];
            return vec![WireguardPeer(gone)];
        }
        PeerChange::Set { key, endpoint, keepalive_s, allowed_ips } => {
            (*key, *endpoint, *keepalive_s, allowed_ips)
        }
    };
    let mut first = vec![WireguardPeerAttribute::PublicKey(key)];
    first.extend(endpoint.map(WireguardPeerAttribute::Endpoint));
    first.extend(keepalive_s.map(WireguardPeerAttribute::PersistentKeepalive));
    let Some(nets) = allowed_ips else { return vec![WireguardPeer(first)] };
    first.push(WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps));
    let mut chunks = nets.chunks(ALLOWED_IPS_MAX);
    first.push(allowed_ips_attribute(chunks.next().unwrap_or_default()));
    let more = chunks.map(|chunk| {
        WireguardPeer(vec![WireguardPeerAttribute::PublicKey(key), allowed_ips_attribute(chunk)])
    });
    std::iter::once(WireguardPeer(first)).chain(more).collect()
}

fn allowed_ips_attribute(nets: &[IpNet]) -> WireguardPeerAttribute {
    let attribute = |net: &IpNet| {
        let family = match net.addr() {
            IpAddr::V4(_) => WireguardAddressFamily::Ipv4,
            IpAddr::V6(_) => WireguardAddressFamily::Ipv6,
        };
        WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Family(family),
            WireguardAllowedIpAttr::IpAddr(net.network()),
            WireguardAllowedIpAttr::Cidr(net.prefix_len()),
        ])
    };
    WireguardPeerAttribute::AllowedIps(nets.iter().map(attribute).collect())
}

/// Peers in portions that fit one request.
fn batches(peers: impl Iterator<Item = WireguardPeer>) -> Vec<Vec<WireguardPeer>> {
    let mut batches: Vec<Vec<WireguardPeer>> = Vec::new();
    let mut octets = usize::MAX;
    for peer in peers {
        let length = peer.buffer_len();
        match batches.last_mut() {
            Some(batch) if octets + length <= REQUEST_OCTETS_MAX => {
                batch.push(peer);
                octets += length;
            }
            _ => {
                batches.push(vec![peer]);
                octets = length;
            }
        }
    }
    batches
}

/// Sends one request to the WireGuard family and gathers what comes back.
fn request(
    cmd: WireguardCmd,
    attributes: Vec<WireguardAttribute>,
    flags: u16,
) -> io::Result<Vec<WireguardMessage>> {
    let socket = prepared(Socket::new(NETLINK_GENERIC)?)?;
    let mut message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
    message.set_resolved_family_id(family_id(&socket, FAMILY)?);
    let answers = exchange(&socket, message, flags)?;
    Ok(answers.into_iter().map(|answer| answer.payload).collect())
}

fn prepared(mut socket: Socket) -> io::Result<Socket> {
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    let limit = nix::sys::time::TimeVal::new(ANSWER_LIMIT_S, 0);
    // SAFETY: the descriptor is open for as long as `socket` lives, which is longer than this borrow.
    let borrowed = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    nix::sys::socket::setsockopt(&borrowed, nix::sys::socket::sockopt::ReceiveTimeout, &limit)?;
    Ok(socket)
}

/// The number that the kernel gave the family: it is not fixed.
fn family_id(socket: &Socket, name: &str) -> io::Result<u16> {
    let nlas = vec![GenlCtrlAttrs::FamilyName(name.to_owned())];
    let message = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas });
    let answers = exchange(socket, message, NLM_F_ACK)?;
    let id = answers.iter().flat_map(|a| &a.payload.nlas).find_map(|nla| match nla {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    });
    id.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
}

/// Sends a message and reads until the kernel says that it is done.
fn exchange<T>(socket: &Socket, message: GenlMessage<T>, flags: u16) -> io::Result<Vec<GenlMessage<T>>>
where
    T: GenlFamily + Clone + std::fmt::Debug + PartialEq + Eq,
    GenlMessage<T>: NetlinkSerializable + NetlinkDeserializable,
{
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut octets = vec![0; message.buffer_len()];
    message.serialize(&mut octets);
    socket.send(&octets, 0)?;
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
            NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
            NetlinkPayload::Done(_) | NetlinkPayload::Error(_) => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    fn octets(peer: WireguardPeer) -> String {
        let message = WireguardMessage {
            cmd: WireguardCmd::SetDevice,
            attributes: vec![WireguardAttribute::Peers(vec![peer])],
        };
        let mut octets = vec![0; message.buffer_len()];
        netlink_packet_core::Emitable::emit(&message, &mut octets);
        hex::encode(octets)
    }

    /// The numbers of include/uapi/linux/wireguard.h, little-endian as on every machine we build for.
    #[test]
    fn a_peer_is_written_as_the_kernel_reads_it() {
        let change = PeerChange::Set {
            key: [7; 32],
            endpoint: Some("192.0.2.1:51820".parse().expect("an endpoint")),
            keepalive_s: Some(25),
            allowed_ips: Some(nets(&["10.1.2.3/8"])),
        };
        let text = octets(pieces(&change).remove(0));
        assert!(text.contains(&format!("24000100{}", "07".repeat(32))), "{text}");
        assert!(text.contains("14000400 0200ca6cc0000201".replace(' ', "").as_str()), "{text}");
        assert!(text.contains("0600050019000000"), "keepalive: {text}");
        assert!(text.contains("0800030002000000"), "WGPEER_F_REPLACE_ALLOWEDIPS: {text}");
        assert!(
            text.contains("080002000a000000") && text.contains("0500030008000000"),
            "no host bits: {text}"
        );
        let text = octets(pieces(&PeerChange::Remove([7; 32])).remove(0));
        assert!(text.contains("0800030001000000"), "WGPEER_F_REMOVE_ME: {text}");
    }

    #[test]
    fn what_is_not_given_is_not_touched() {
        let change =
            PeerChange::Set { key: [7; 32], endpoint: None, keepalive_s: Some(0), allowed_ips: None };
        let [peer] = pieces(&change).try_into().expect("one piece");
        let [key, keepalive] = <[_; 2]>::try_from(peer.0).expect("two attributes");
        assert_eq!(key, WireguardPeerAttribute::PublicKey([7; 32]));
        assert_eq!(keepalive, WireguardPeerAttribute::PersistentKeepalive(0));
    }

    #[test]
    fn many_prefixes_and_peers_go_in_portions_that_fit_and_come_back_whole() {
        let all: Vec<IpNet> =
            (0..1000_u32).map(|n| IpNet::new(IpAddr::V4((n << 8).into()), 24).expect("a prefix")).collect();
        let changes = (1..=5).map(|n| PeerChange::Set {
            key: [n; 32],
            endpoint: None,
            keepalive_s: None,
            allowed_ips: Some(all.clone()),
        });
        let sent = batches(changes.collect::<Vec<_>>().iter().flat_map(pieces));
        let mut device = Device::default();
        for peers in sent {
            assert!(peers.iter().map(|p| p.buffer_len()).sum::<usize>() <= REQUEST_OCTETS_MAX);
            let attributes = vec![WireguardAttribute::Peers(peers)];
            merge(&mut device, WireguardMessage { cmd: WireguardCmd::GetDevice, attributes });
        }
        assert_eq!(device.peers.len(), 5);
        assert!(device.peers.values().all(|peer| peer.allowed_ips == all));
    }

    #[test]
    fn a_family_that_the_kernel_lacks_is_not_there() {
        let socket = prepared(Socket::new(NETLINK_GENERIC).expect("a socket")).expect("a bound socket");
        let error = family_id(&socket, "watari-none").expect_err("no such family");
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert_eq!(family_id(&socket, "nlctrl").expect("always there"), 16);
    }
}
