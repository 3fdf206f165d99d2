//! DNS names of tunnels' far ends: asked of the system's resolver by threads of their own, because its call blocks for as
//! long as servers are silent. When something was found the reconcile loop is rung for.
//!
//! ```text
//!   reconcile loop ── names that are needed ──▶ [schedule] ── due ──▶ thread: getaddrinfo
//!        ▲                                          ▲                      │
//!        └────────────── ring ◀─────────────────────┴──────── answers ◀────┘
//! ```

mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::thread;
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use watari_config::Desired;
use watari_config::endpoint::Endpoint;
use watari_planner::{Observed, Resolution};

use self::schedule::Schedule;
use crate::drivers::netlink::Wakeup;

type Answer = (String, Result<Vec<IpAddr>, String>);

/// What is known of the names, and the way back of the answers.
pub(crate) struct Resolver {
    schedule: Schedule,
    began: Instant,
    wakeup: Wakeup,
    answer: UnboundedSender<Answer>,
    /// At most one for each name that is needed.
    answers: UnboundedReceiver<Answer>,
}

impl Resolver {
    /// A resolver that knows nothing. `wakeup` is rung for each answer.
    pub(crate) fn new(wakeup: Wakeup) -> Self {
        let (answer, answers) = unbounded_channel();
        Self { schedule: Schedule::default(), began: Instant::now(), wakeup, answer, answers }
    }

    /// What is known at this moment.
    pub(crate) fn known(&mut self) -> BTreeMap<String, Resolution> {
        let now = self.began.elapsed();
        while let Ok((host, answer)) = self.answers.try_recv() {
            if let Err(error) = &answer {
                tracing::warn!(host, error, "DNS name");
            }
            self.schedule.answered(&host, answer, now, chance());
        }
        self.schedule.known(now)
    }

    /// Asks for what is due among the names that are needed, the more often where a tunnel carries nothing.
    pub(crate) fn need(&mut self, needed: &BTreeSet<String>, desired: &Desired, observed: &Observed) {
        let now = self.began.elapsed();
        for host in self.schedule.due(needed, &in_trouble(desired, observed), now) {
            if let Err(error) = self.ask(&host) {
                self.schedule.answered(&host, Err(error.to_string()), now, chance());
            }
        }
    }

    /// A thread for each question: a server that is silent keeps no other name waiting.
    fn ask(&self, host: &str) -> std::io::Result<()> {
        let (host, answer, wakeup) = (host.to_owned(), self.answer.clone(), self.wakeup.clone());
        let thread = move || {
            let found = resolve(&host);
            // Nobody waits for it once the daemon ends.
            let _ = answer.send((host, found));
            wakeup.notify_one();
        };
        thread::Builder::new().name("wt-resolver".to_owned()).spawn(thread).map(drop)
    }
}

/// The names that lead to tunnels which carry nothing: their far ends may have moved.
fn in_trouble(desired: &Desired, observed: &Observed) -> BTreeSet<String> {
    let down = desired.tunnels().filter(|(name, ..)| !observed.tunnels.get(name).is_some_and(|t| t.up));
    let places = down.filter_map(|(_, tunnel, far, _)| tunnel.wireguard.as_ref()?.endpoints.get(far));
    let hosts = places.flat_map(|places| places.iter()).filter_map(|place| match place {
        Endpoint::Named { host, .. } => Some(host.clone()),
        Endpoint::Address(_) => None,
    });
    hosts.collect()
}

fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    let found = (host, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    Ok(found.map(|address| address.ip()).collect())
}

fn chance() -> u64 {
    let mut octets = [0; 8];
    // Without chance the pauses are regular, and that is all.
    let _ = getrandom::fill(&mut octets);
    u64::from_ne_bytes(octets)
}
