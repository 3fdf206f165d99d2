//! Opens and closes the sockets of the sessions, on a thread of its own: entering a namespace takes as
//! long as it takes, and no packet waits for it. Devices, addresses and namespaces may come and go; what
//! is missing, or may have been replaced, is looked at every [`REOPEN`].

use std::collections::BTreeMap;
use std::io;
use std::net::UdpSocket;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::shell::{Bfd, Common, random};
use super::socket::{self, Opened, Port, Sender};
use crate::lock;
use crate::protocol::BfdConfig;

/// How often sockets are looked at.
const REOPEN: Duration = Duration::from_millis(500);

/// A session as it is before a look.
struct Known {
    config: BfdConfig,
    device_index: Option<u32>,
    has_sender: bool,
}

/// What a look finds for one session.
struct Found {
    config: BfdConfig,
    device_index: Option<u32>,
    /// A socket that was opened, `None` where the former one stays.
    sender: Option<Sender>,
    error: Option<String>,
}

/// The thread.
pub(super) fn run(common: &Common) {
    while !lock(&common.bfd).stop {
        look(common);
        let asked = lock(&common.look.0);
        let waited = common.look.1.wait_timeout_while(asked, REOPEN, |asked| !*asked);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

fn look(common: &Common) {
    let (wanted, former) = lock(&common.bfd).known();
    if wanted.is_empty() && former.is_empty() {
        return;
    }
    let (mut found, mut ports) = (Vec::new(), Vec::new());
    for (netns, sessions) in wanted {
        let identity = netns.as_deref().and_then(|path| socket::identity(path).ok());
        let here = former.iter().filter(|opened| opened.port.netns == netns && opened.netns == identity);
        let mut here: Vec<Arc<Opened>> = here.cloned().collect();
        here.retain(|opened| sessions.iter().any(|known| Port::of(&known.config) == opened.port));
        // In another namespace of the same path nothing of the former one is of use.
        let is_former = netns.is_none() || !here.is_empty();
        match socket::inside(netns.as_deref(), || open(&sessions, &here, is_former)) {
            Ok((opened, senders)) => {
                let opened = opened.into_iter();
                ports.extend(opened.map(|(port, socket)| Arc::new(Opened { port, socket, netns: identity })));
                ports.extend(here);
                found.extend(senders);
            }
            Err(error) => found.extend(sessions.into_iter().map(|known| Found {
                config: known.config,
                device_index: None,
                sender: None,
                error: Some(format!("enter the namespace: {error}")),
            })),
        }
    }
    lock(&common.bfd).install(found, ports);
    common.wake();
}

/// Opens what is missing, in the namespace of the calling thread.
fn open(sessions: &[Known], here: &[Arc<Opened>], is_former: bool) -> (Vec<(Port, UdpSocket)>, Vec<Found>) {
    let mut ports: Vec<(Port, UdpSocket)> = Vec::new();
    let mut found = Vec::new();
    for known in sessions {
        let config = &known.config;
        let port = Port::of(config);
        let is_open = here.iter().any(|opened| opened.port == port) || ports.iter().any(|(p, _)| *p == port);
        let mut one = Found { config: config.clone(), device_index: None, sender: None, error: None };
        let mut try_open = || -> io::Result<()> {
            if !is_open {
                ports.push((port.clone(), socket::open_port(&port)?));
            }
            if let Some(device) = &config.device {
                one.device_index = Some(nix::net::if_::if_nametoindex(device.as_str())?);
            }
            if !known.has_sender || !is_former || one.device_index != known.device_index {
                let [low, high, ..] = random()?.to_ne_bytes();
                let chance = u16::from_ne_bytes([low, high]);
                one.sender = Some(Sender::open(config, one.device_index, chance)?);
            }
            Ok(())
        };
        let error = try_open().err();
        one.error = error.map(|error| format!("open a socket: {error}"));
        found.push(one);
    }
    (ports, found)
}

type Wanted = BTreeMap<Option<String>, Vec<Known>>;

impl Bfd {
    /// The sessions by namespace, and the receiving sockets.
    fn known(&self) -> (Wanted, Arc<Vec<Arc<Opened>>>) {
        let mut wanted = Wanted::new();
        for (name, entry) in &self.table.entries {
            wanted.entry(entry.config.netns.clone()).or_default().push(Known {
                config: entry.config.clone(),
                device_index: entry.device_index,
                has_sender: self.senders.contains_key(name),
            });
        }
        (wanted, Arc::clone(&self.ports))
    }

    /// Puts into use what was found, unless a session is another by now.
    fn install(&mut self, found: Vec<Found>, ports: Vec<Arc<Opened>>) {
        self.ports = Arc::new(ports);
        for one in found {
            let name = one.config.name.clone();
            let Some(entry) = self.table.entries.get_mut(&name) else { continue };
            if !entry.is_same_path(&one.config) {
                continue;
            }
            entry.device_index = one.device_index;
            if one.error.is_some() {
                self.senders.remove(&name);
            } else if let Some(sender) = one.sender {
                self.senders.insert(name.clone(), sender);
                entry.session.path_opened();
            }
            entry.open_error = one.error;
            self.table.reschedule(&name);
        }
    }
}
