//! Listens to what `watari-link` has to say: rings for the reconcile loop when a path came or went, and tells the
//! facts when BFD has found the path to a BGP neighbour dead.
//!
//! A connection that breaks may have swallowed an event. What was up before and is down in the same engine after is
//! told then; an engine that was started anew has found nothing yet, and is believed only from its next word on.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use watari_link::client::{Client, ClientError};
use watari_link::protocol::{BfdState, BfdStatus, Event};

/// How soon `watari-link` is called again when it does not answer.
const AGAIN: Duration = Duration::from_millis(500);
/// Paths that may wait to be taken by the facts.
const WAITING_MAX: usize = 4096;

/// BFD found the path to a neighbour down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathDown {
    /// The neighbour's object, e.g. `peers.campus`.
    pub path: String,
    /// Its C bit was set: not its control plane alone is gone (RFC 5882 section 4.3).
    pub forwarding_is_dead: bool,
}

/// What is known of the sessions of one engine.
#[derive(Debug, Default)]
struct Heard {
    /// The engine: its process and when it was started.
    engine: Option<(u32, u64)>,
    up: BTreeSet<String>,
}

impl Heard {
    /// Takes an event; answers what it means for a BGP session. A neighbour that shut its BFD session down, or took it
    /// out, has not failed (RFC 5882 section 3.2).
    fn event(&mut self, event: Event) -> Option<PathDown> {
        let Event::Bfd { name, former, state, remote_state, remote_control_plane_independent, .. } = event
        else {
            return None;
        };
        match state {
            BfdState::Up => drop(self.up.insert(name)),
            _ => {
                self.up.remove(&name);
                let failed = (former, state) == (BfdState::Up, BfdState::Down);
                let forwarding_is_dead = remote_control_plane_independent;
                if failed && remote_state != BfdState::AdminDown {
                    return Some(PathDown { path: name, forwarding_is_dead });
                }
            }
        }
        None
    }

    /// Takes the state of all sessions, after a connection was made; answers what was missed meanwhile.
    fn look(&mut self, engine: (u32, u64), sessions: &[BfdStatus]) -> Vec<PathDown> {
        let before = std::mem::take(&mut self.up);
        let is_same = self.engine.replace(engine) == Some(engine);
        let up = sessions.iter().filter(|s| s.state == BfdState::Up);
        self.up = up.map(|s| s.config.name.clone()).collect();
        let failed = sessions.iter().filter(|s| {
            let is_down = matches!(s.state, BfdState::Down | BfdState::Init);
            is_same && is_down && s.remote_state != BfdState::AdminDown && before.contains(&s.config.name)
        });
        // Of a neighbour that is not heard its C bit is not known any more.
        let down = |s: &BfdStatus| PathDown { path: s.config.name.clone(), forwarding_is_dead: false };
        failed.map(down).collect()
    }
}

/// Starts the thread; it ends with the daemon. `wakeup` is rung at every event and after every connection.
pub fn spawn(socket: PathBuf, wakeup: Arc<Notify>) -> mpsc::Receiver<PathDown> {
    let (told, out) = mpsc::channel(WAITING_MAX);
    std::thread::spawn(move || {
        let mut heard = Heard::default();
        while !told.is_closed() {
            if let Err(error) = listen(&socket, &wakeup, &told, &mut heard) {
                tracing::debug!(%error, "watari-link is not heard");
            }
            std::thread::sleep(AGAIN);
        }
    });
    out
}

/// Listens until the connection breaks, or events were missed.
fn listen(
    socket: &std::path::Path,
    wakeup: &Notify,
    told: &mpsc::Sender<PathDown>,
    heard: &mut Heard,
) -> Result<(), ClientError> {
    // Subscribed before the look, so that nothing falls between.
    let mut events = Client::connect(socket)?.subscribe()?;
    let mut client = Client::connect(socket)?;
    let engine = (client.hello().pid, client.hello().started_at_ms);
    let sessions = match client.list_bfd() {
        Ok(status) => status.sessions,
        // An engine of a former version, which lives on while the daemon is replaced, has none.
        Err(ClientError::Refused(_)) => Vec::new(),
        Err(error) => return Err(error),
    };
    let missed = heard.look(engine, &sessions);
    drop(client);
    wakeup.notify_one();
    for down in missed {
        tell(told, down);
    }
    loop {
        let Some(event) = events.next(Duration::from_secs(3600))? else { continue };
        wakeup.notify_one();
        if matches!(event, Event::Missed { .. }) {
            return Ok(());
        }
        if let Some(down) = heard.event(event) {
            tell(told, down);
        }
    }
}

fn tell(told: &mpsc::Sender<PathDown>, down: PathDown) {
    tracing::info!(path = down.path, dead = down.forwarding_is_dead, "BFD: the path is down");
    // The receiver is gone only when the daemon ends.
    let _ = told.blocking_send(down);
}

#[cfg(test)]
mod tests {
    use watari_link::protocol::{BfdConfig, BfdHops};

    use super::*;

    fn event(former: BfdState, state: BfdState, remote_state: BfdState) -> Event {
        Event::Bfd {
            name: "peers.x".to_owned(),
            former,
            state,
            diagnostic: String::new(),
            remote_state,
            remote_control_plane_independent: true,
        }
    }

    fn session(state: BfdState, remote_state: BfdState) -> BfdStatus {
        let config = BfdConfig {
            name: "peers.x".to_owned(),
            netns: None,
            device: None,
            local: None,
            remote: "192.0.2.1".parse().expect("an address"),
            hops: BfdHops::Single,
            desired_min_tx_us: 50_000,
            required_min_rx_us: 50_000,
            detect_mult: 3,
            passive: false,
            admin_down: false,
            authentication: None,
        };
        BfdStatus {
            config,
            authentication: None,
            state,
            since_ms: 0,
            changes: 0,
            diagnostic: String::new(),
            local_discriminator: 1,
            remote_discriminator: 0,
            remote_state,
            remote_diagnostic: String::new(),
            remote_control_plane_independent: false,
            interval_us: 0,
            detection_time_us: 0,
            sent: 0,
            received: 0,
            error: None,
        }
    }

    #[test]
    fn only_what_was_up_and_was_not_shut_down_has_failed() {
        use BfdState::{AdminDown, Down, Init, Up};
        let mut heard = Heard::default();
        assert_eq!(heard.event(event(Down, Init, Down)), None);
        assert_eq!(heard.event(event(Init, Up, Init)), None);
        assert_eq!(heard.event(event(Up, Down, AdminDown)), None, "the neighbour shut it down");
        assert_eq!(heard.event(event(Up, AdminDown, Up)), None, "we did");
        assert_eq!(heard.event(event(Init, Down, Down)), None);
        let down = PathDown { path: "peers.x".to_owned(), forwarding_is_dead: true };
        assert_eq!(heard.event(event(Up, Down, Up)), Some(down));
    }

    #[test]
    fn what_went_down_unheard_is_told_unless_the_engine_is_another() {
        use BfdState::{AdminDown, Down, Up};
        let mut heard = Heard::default();
        assert!(heard.look((1, 1), &[session(Down, Down)]).is_empty(), "it was never up");
        assert!(heard.look((1, 1), &[session(Up, Up)]).is_empty());
        assert_eq!(heard.look((1, 1), &[session(Down, Down)]).len(), 1);
        assert!(heard.look((1, 1), &[session(Down, Down)]).is_empty(), "once");
        heard.look((1, 1), &[session(Up, Up)]);
        assert!(heard.look((1, 1), &[session(Down, AdminDown)]).is_empty());
        heard.look((1, 1), &[session(Up, Up)]);
        assert!(heard.look((2, 5), &[session(Down, Down)]).is_empty(), "started anew");
    }
}
