//! Which session a packet is for (RFC 5880 §6.8.6, RFC 5881 §3, RFC 5883 §3), and whether it came by
//! the way that its session's packets come: from the neighbour's address, over the session's device,
//! and with a TTL that shows how far away it was sent. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::Discard;
use super::session::{Moment, Session, Settings};
use super::wire::Packet;
use crate::protocol::{BfdConfig, BfdHops};

/// TTL and hop limit of every packet that is sent, and of what is taken over a single hop.
pub(crate) const TTL: u8 = 255;

/// How a datagram came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// The namespace of the socket.
    pub(crate) netns: Option<String>,
    /// It came to the port of single-hop (3784) or of multihop (4784) sessions.
    pub(crate) multihop: bool,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// Device it came in by.
    pub(crate) device_index: u32,
    pub(crate) ttl: u8,
}

/// A session with what it was made of.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) config: BfdConfig,
    pub(crate) session: Session,
    /// Of the configured device, while it is there.
    pub(crate) device_index: Option<u32>,
    /// Why there is no socket to send by, if there is none.
    pub(crate) open_error: Option<String>,
    /// Why the last packet did not leave, if it did not.
    pub(crate) send_error: Option<String>,
    /// Taken out of the configuration: it says AdminDown until then.
    pub(crate) leaves_at: Option<Moment>,
    /// Where it is in the schedule.
    scheduled: Option<Moment>,
}

impl Entry {
    pub(crate) fn new(config: BfdConfig, discriminator: NonZeroU32, sequence: u32, now: Moment) -> Self {
        let session = Session::new(settings(&config), discriminator, sequence, now);
        let (open_error, send_error) = (None, None);
        Self { config, session, device_index: None, open_error, send_error, leaves_at: None, scheduled: None }
    }

    /// A session that was another process's.
    pub(crate) fn taken_up(
        config: BfdConfig,
        session: Session,
        device_index: Option<u32>,
        leaves_at: Option<Moment>,
    ) -> Self {
        Self { config, session, device_index, open_error: None, send_error: None, leaves_at, scheduled: None }
    }

    /// Whether it goes on under another configuration: with the same neighbour, by the same way.
    pub(crate) fn is_same_path(&self, other: &BfdConfig) -> bool {
        let path = |c: &BfdConfig| (c.netns.clone(), c.device.clone(), c.local, c.remote, c.hops);
        path(&self.config) == path(other)
    }

    fn check(&self, arrival: &Arrival) -> Result<(), Discard> {
        let config = &self.config;
        let multihop = matches!(config.hops, BfdHops::Multi { .. });
        let device = config.device.is_none() || self.device_index == Some(arrival.device_index);
        let ours = config.local.is_none_or(|local| local == arrival.to);
        if config.netns != arrival.netns
            || multihop != arrival.multihop
            || config.remote != arrival.from
            || !device
            || !ours
        {
            return Err(Discard::WrongPath);
        }
        let least = match config.hops {
            BfdHops::Single => TTL,
            BfdHops::Multi { ttl_min } => ttl_min,
        };
        if arrival.ttl < least { Err(Discard::Ttl) } else { Ok(()) }
    }
}

/// All sessions, by name.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) entries: BTreeMap<String, Entry>,
    /// Names by local discriminator.
    names: BTreeMap<u32, String>,
    /// What is due when, by local discriminator.
    schedule: BTreeSet<(Moment, u32)>,
}

impl Table {
    pub(crate) fn insert(&mut self, entry: Entry) {
        let name = entry.config.name.clone();
        self.remove(&name);
        self.names.insert(entry.session.local_discriminator().get(), name.clone());
        self.entries.insert(name, entry);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if let Some(entry) = self.entries.remove(name) {
            let discriminator = entry.session.local_discriminator().get();
            self.names.remove(&discriminator);
            if let Some(at) = entry.scheduled {
                self.schedule.remove(&(at, discriminator));
            }
        }
    }

    /// To be called after anything happened to a session: puts it where its next deadline is.
    pub(crate) fn reschedule(&mut self, name: &str) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let discriminator = entry.session.local_discriminator().get();
        let next = [entry.session.next_deadline(), entry.leaves_at].into_iter().flatten().min();
        if let Some(former) = std::mem::replace(&mut entry.scheduled, next) {
            self.schedule.remove(&(former, discriminator));
        }
        self.schedule.extend(next.map(|at| (at, discriminator)));
    }

    /// When the first session is due.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.schedule.first().map(|(at, _)| *at)
    }

    /// The names of the sessions that are due, soonest first.
    pub(crate) fn due(&self, now: Moment) -> Vec<String> {
        let due = self.schedule.range(..=(now, u32::MAX));
        due.filter_map(|(_, discriminator)| self.names.get(discriminator).cloned()).collect()
    }

    /// Whether a discriminator is in use.
    pub(crate) fn has(&self, discriminator: u32) -> bool {
        self.names.contains_key(&discriminator)
    }

    /// The session of a packet: by our discriminator where the packet has it, by the way it came where
    /// the neighbour does not know it yet.
    ///
    /// # Errors
    /// There is none, or the packet came by another way than its session's.
    pub(crate) fn find(&mut self, packet: &Packet, arrival: &Arrival) -> Result<&mut Entry, Discard> {
        if packet.your_discriminator != 0 {
            let name = self.names.get(&packet.your_discriminator).ok_or(Discard::UnknownSession)?;
            let entry = self.entries.get_mut(name).ok_or(Discard::UnknownSession)?;
            entry.check(arrival)?;
            return Ok(entry);
        }
        let mut found = Err(Discard::UnknownSession);
        let mut leaving = None;
        for (name, entry) in &self.entries {
            match entry.check(arrival) {
                // One that is on its way out is the last to be meant: the same way may have another by this time.
                Ok(()) if entry.leaves_at.is_some() => leaving = Some(name.clone()),
                Ok(()) => {
                    let name = name.clone();
                    return self.entries.get_mut(&name).ok_or(Discard::UnknownSession);
                }
                Err(Discard::Ttl) => found = Err(Discard::Ttl),
                Err(_) => {}
            }
        }
        match leaving {
            Some(name) => self.entries.get_mut(&name).ok_or(Discard::UnknownSession),
            None => found,
        }
    }
}

/// The part of a configuration that the state machine goes by.
pub(crate) fn settings(config: &BfdConfig) -> Settings {
    Settings {
        desired_min_tx_us: config.desired_min_tx_us,
        required_min_rx_us: config.required_min_rx_us,
        detect_mult: config.detect_mult,
        passive: config.passive,
        admin_down: config.admin_down,
        authentication: config.authentication.clone(),
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
