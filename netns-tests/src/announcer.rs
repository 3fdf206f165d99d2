//! A gateway that only talks: a BGP session from a namespace to a gateway's VTEP, over which EVPN routes are
//! announced as fast as TCP takes them. For tables of a size that no test could fill with stations.
//!
//! It proposes a hold time of 0 (RFC 4271 §4.4: no keepalives), so the session lives as long as both ends
//! do, however long one of them is stopped. What the gateway says is read and thrown away.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use watari_bgp::wire::{
    Capability, EncodeContext, MessageType, Open, STANDARD_LIMIT, encode_announce, encode_end_of_rib,
    encode_keepalive, next_frame,
};
use watari_bgp::{
    Asn, Esi, ExtCommunity, Family, MacAddr, MacIp, NextHop, Nlri, PathAttributes, Rd, RouteTarget, RouterId,
    Vni,
};

use crate::{Ns, wait_until};

const BGP_PORT: u16 = 179;
/// How long the gateway may take to listen, and to answer an OPEN.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who talks to whom; both are gateways of one AS.
#[derive(Debug, Clone, Copy)]
pub struct Session {
    /// Our VTEP address: next hop of all routes, BGP identifier, and source of the connection.
    pub vtep: Ipv4Addr,
    /// The gateway's VTEP address.
    pub gateway: Ipv4Addr,
    /// The AS number of both.
    pub asn: u32,
}

/// Stations of one segment, numbered: `first`, `first` + 1, … `count` of them.
#[derive(Debug, Clone, Copy)]
pub struct Stations {
    /// VNI of the segment.
    pub vni: u32,
    /// Addresses count up from here.
    pub first: Ipv4Addr,
    /// How many.
    pub count: u32,
}

impl Stations {
    /// MAC and address of each; the MAC is locally administered and carries the VNI's low 8 bits.
    pub fn iter(&self) -> impl Iterator<Item = ([u8; 6], Ipv4Addr)> + use<> {
        let (segment, first) = (self.vni.to_be_bytes()[3], u32::from(self.first));
        (0..self.count).map(move |n| {
            let [a, b, c, d] = n.to_be_bytes();
            ([0x06, segment, a, b, c, d], (first + n).into())
        })
    }
}

/// An established session; closed on drop.
#[derive(Debug)]
pub struct Announcer {
    session: Session,
    stream: TcpStream,
    reader: Option<JoinHandle<()>>,
}

impl Announcer {
    /// Connects from `ns`, which must have the VTEP's address, and waits until the session is established.
    ///
    /// # Errors
    /// When the gateway does not answer or refuses.
    pub fn connect(ns: &Ns, session: Session) -> Result<Self> {
        let what = format!("a BGP session from {} to {}", session.vtep, session.gateway);
        let mut stream = wait_until(PATIENCE, &what, || ns.run(|| dial(session)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (afi, safi) = Family::L2vpnEvpn.afi_safi();
        let open = Open {
            asn: Asn(session.asn),
            hold_time_s: 0,
            router_id: RouterId(session.vtep),
            capabilities: vec![
                Capability::MultiProtocol(afi, safi),
                Capability::FourOctetAs(Asn(session.asn)),
            ],
        };
        stream.write_all(&open.encode())?;
        let mut received = Vec::new();
        expect(&mut stream, &mut received, MessageType::Open).with_context(|| what.clone())?;
        stream.write_all(&encode_keepalive())?;
        expect(&mut stream, &mut received, MessageType::Keepalive).with_context(|| what)?;
        stream.set_read_timeout(None)?;
        let mut reading = stream.try_clone()?;
        let reader = std::thread::spawn(move || {
            let mut thrown = vec![0; 65_536];
            while matches!(reading.read(&mut thrown), Ok(1..)) {}
        });
        Ok(Self { session, stream, reader: Some(reader) })
    }

    /// Announces the stations (type 2, MAC with address) and, for the first time, the end of the RIB.
    ///
    /// # Errors
    /// When the gateway has closed the session.
    pub fn announce(&mut self, stations: &Stations) -> Result<()> {
        self.update(stations, 0)?;
        self.stream.write_all(&encode_end_of_rib(Family::L2vpnEvpn))?;
        Ok(())
    }

    /// Announces the stations again as ones that have moved: with that sequence (RFC 7432 section 7.7).
    ///
    /// # Errors
    /// When the gateway has closed the session.
    pub fn announce_moved(&mut self, stations: &Stations, sequence: u32) -> Result<()> {
        self.update(stations, sequence)
    }

    fn update(&mut self, stations: &Stations, sequence: u32) -> Result<()> {
        for message in self.updates(stations, sequence)? {
            self.stream.write_all(&message).context("the gateway has closed the BGP session")?;
        }
        Ok(())
    }

    fn updates(&self, stations: &Stations, sequence: u32) -> Result<Vec<Vec<u8>>> {
        let vni = Vni::new(stations.vni).context("a VNI has 24 bits")?;
        let target = RouteTarget::new(Asn(self.session.asn), stations.vni);
        let mut communities = vec![target.community(), ExtCommunity::ENCAP_VXLAN];
        if sequence > 0 {
            communities.push(ExtCommunity::mac_mobility(false, sequence));
        }
        let attributes = PathAttributes {
            next_hop: Some(NextHop::V4(self.session.vtep)),
            local_pref: Some(PathAttributes::DEFAULT_LOCAL_PREF),
            ext_communities: communities,
            ..PathAttributes::default()
        };
        let rd = Rd::from_ip(self.session.vtep, (stations.vni & 0xffff) as u16);
        let route = |(mac, ip)| MacIp {
            rd,
            esi: Esi([0; 10]),
            tag: 0,
            mac: MacAddr(mac),
            ip: Some(IpAddr::V4(ip)),
            vni,
            l3_vni: None,
        };
        let routes: Vec<Nlri> = stations.iter().map(|station| route(station).into()).collect();
        let context = EncodeContext { four_octet_as: true, message_limit: STANDARD_LIMIT };
        Ok(encode_announce(Family::L2vpnEvpn, &attributes, &routes, &context)?)
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Connects from the VTEP's own address, which the gateway knows us by.
fn dial(session: Session) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::from((session.vtep, 0)).into())?;
    let to = SocketAddr::from((session.gateway, BGP_PORT));
    socket.connect_timeout(&to.into(), Duration::from_secs(1))?;
    Ok(socket.into())
}

/// Reads the next message, which must be of that type, and takes it off what was received.
fn expect(stream: &mut TcpStream, received: &mut Vec<u8>, kind: MessageType) -> Result<()> {
    loop {
        let frame = next_frame(received, STANDARD_LIMIT).map_err(|n| anyhow::anyhow!("{n:?}"))?;
        if let Some(frame) = frame {
            if frame.kind != kind {
                bail!("{:?} instead of {kind:?}: {:?}", frame.kind, frame.body);
            }
            let length = frame.len;
            received.drain(..length);
            return Ok(());
        }
        let mut part = [0; 4_096];
        let length = stream.read(&mut part)?;
        ensure!(length > 0, "the gateway has closed the connection");
        received.extend_from_slice(&part[..length]);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn stations_differ_and_their_macs_are_locally_administered() {
        let stations = Stations { vni: 1000, first: Ipv4Addr::new(10, 20, 8, 0), count: 70_000 };
        let macs: BTreeSet<[u8; 6]> = stations.iter().map(|(mac, _)| mac).collect();
        let addresses: BTreeSet<Ipv4Addr> = stations.iter().map(|(_, ip)| ip).collect();
        assert_eq!((macs.len(), addresses.len()), (70_000, 70_000));
        assert!(macs.iter().all(|mac| mac[0] & 3 == 2), "unicast, locally administered");
        assert!(addresses.contains(&Ipv4Addr::new(10, 21, 25, 111)));
    }
}
