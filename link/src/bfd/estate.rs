//! BFD sessions on their way to another process: states and timers, and the sockets, so that source ports stay and no packet
//! finds its port closed.

use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Drops;
use super::session::{Moment, Session};
use super::shell::Bfd;
use super::socket::{Opened, Port, Sender};
use super::table::{Entry, Table};
use crate::handover::{Fds, HandoverError, SentFds};
use crate::protocol::BfdConfig;

/// All sessions, and the sockets that receive for them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BfdEstate {
    sessions: Vec<SessionEstate>,
    ports: Vec<PortEstate>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionEstate {
    config: BfdConfig,
    session: Session,
    device_index: Option<u32>,
    leaves_at: Option<Moment>,
    sender: Option<usize>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortEstate {
    netns: Option<String>,
    is_ipv4: bool,
    multihop: bool,
    identity: Option<(u64, u64)>,
    fd: usize,
}

impl Bfd {
    pub(super) fn estate(&self, fds: &mut SentFds) -> io::Result<BfdEstate> {
        let mut estate = BfdEstate { sessions: Vec::new(), ports: Vec::new() };
        for (name, entry) in &self.table.entries {
            let sender = self.senders.get(name).map(|sender| fds.put(sender.socket())).transpose()?;
            estate.sessions.push(SessionEstate {
                config: entry.config.clone(),
                session: entry.session.clone(),
                device_index: entry.device_index,
                leaves_at: entry.leaves_at,
                sender,
            });
        }
        for opened in self.ports.iter() {
            let Port { netns, is_ipv4, multihop } = opened.port.clone();
            let fd = fds.put(&opened.socket)?;
            estate.ports.push(PortEstate { netns, is_ipv4, multihop, identity: opened.netns, fd });
        }
        Ok(estate)
    }

    pub(super) fn take_up(estate: BfdEstate, fds: &mut Fds) -> Result<Self, HandoverError> {
        let (mut table, mut senders) = (Table::default(), BTreeMap::new());
        for one in estate.sessions {
            let name = one.config.name.clone();
            if let Some(place) = one.sender {
                let socket = UdpSocket::from(fds.take(place)?);
                senders.insert(name.clone(), Sender::of(socket, &one.config, one.device_index));
            }
            table.insert(Entry::taken_up(one.config, one.session, one.device_index, one.leaves_at));
            table.reschedule(&name);
        }
        let ports = estate.ports.into_iter().map(|one| {
            let port = Port { netns: one.netns, is_ipv4: one.is_ipv4, multihop: one.multihop };
            Ok(Arc::new(Opened { port, socket: fds.take(one.fd)?.into(), netns: one.identity }))
        });
        let ports = Arc::new(ports.collect::<Result<_, HandoverError>>()?);
        Ok(Self { table, senders, ports, drops: Drops::default(), stop: false })
    }
}
