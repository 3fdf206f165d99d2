//! One neighbour's finite state machine (RFC 4271 §8), sans-IO.
//!
//! ```text
//!   Idle ──start──▶ Connect ──TCP up──▶ OpenSent ──OPEN──▶ OpenConfirm ──KEEPALIVE──▶ Established
//!    ▲                │ ▲                  ▲
//!    │ error,         ▼ │ retry timer      │ TCP accepted
//!    └─ idle hold   Active ────────────────┘
//! ```
//! Idle, Connect and Active belong to the neighbour; the other three to each of its connections, of which
//! there may be two until §6.8 has chosen one. The neighbour's state is that of the most advanced connection.
//! After an error the neighbour stays in Idle for a time that doubles with each error in a row
//! (DampPeerOscillations, §8.1.1); after a mere loss of the connection it goes to Active.

mod conn;
mod negotiate;
mod state;

pub use negotiate::RestartFlags;
pub use state::{DownReason, State};

use crate::peer::{Negotiated, PeerConfig};
use crate::time::{Instant, Jitter};
use crate::types::{ConnId, RouterId};
use crate::wire::{MessageType, Notification, Open, RouteRefresh, encode_keepalive};
use conn::{Conn, Direction};

/// The longest stay in Idle after errors in a row.
const IDLE_HOLD_MAX_MS: u64 = 120_000;
/// The wait before connecting again after an established session was lost.
const RECONNECT_MS: u64 = 1_000;
/// An established session younger than this has not been replaced by a restarted neighbour: a second
/// connection is the collision of §6.8.
const COLLISION_WINDOW_MS: u64 = 3_000;

/// What the machine asks for or tells, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection.
    Connect,
    /// Close it once everything is written.
    Close(ConnId),
    /// Send octets.
    Send(ConnId, Vec<u8>),
    /// The neighbour's state changed.
    State {
        /// From.
        old: State,
        /// To.
        new: State,
        /// Why, when it went back.
        reason: Option<DownReason>,
    },
    /// Established.
    Up(ConnId, Negotiated),
    /// No longer established.
    Down(DownReason),
    /// The neighbour wants a family again.
    Refresh(RouteRefresh),
}

/// The machine of one neighbour.
#[derive(Debug)]
pub struct Session {
    config: PeerConfig,
    router_id: RouterId,
    restart: RestartFlags,
    jitter: Jitter,
    /// Idle, Connect or Active.
    base: State,
    reported: State,
    conns: Vec<Conn>,
    connect_deadline: Option<Instant>,
    idle_deadline: Option<Instant>,
    errors_in_a_row: u32,
    /// Messages received and sent since the last establishment.
    pub(crate) messages: (u64, u64),
}

impl Session {
    /// A machine in Idle. `seed` makes its timers' jitter.
    pub fn new(config: PeerConfig, router_id: RouterId, seed: u64) -> Session {
        Session {
            config,
            router_id,
            restart: RestartFlags::default(),
            jitter: Jitter::new(seed),
            base: State::Idle,
            reported: State::Idle,
            conns: Vec::new(),
            connect_deadline: None,
            idle_deadline: None,
            errors_in_a_row: 0,
            messages: (0, 0),
        }
    }

    /// The neighbour's state.
    pub fn state(&self) -> State {
        self.conns.iter().map(|c| c.state).max().unwrap_or(self.base)
    }

    /// The established connection and its agreement.
    pub fn established(&self) -> Option<(ConnId, &Negotiated)> {
        let conn = self.conns.iter().find(|c| c.state == State::Established)?;
        Some((conn.id, conn.negotiated.as_ref()?))
    }

    /// Flags of the next OPEN.
    pub fn set_restart_flags(&mut self, flags: RestartFlags) {
        self.restart = flags;
    }

    /// Takes over a configuration that does not need a new session, timers included from now on.
    pub fn set_config(&mut self, config: PeerConfig) {
        self.config = config;
    }

    /// When [`Session::tick`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let timers = self.conns.iter().flat_map(|c| [c.hold_deadline, c.keepalive_deadline]);
        timers.chain([self.connect_deadline, self.idle_deadline]).flatten().min()
    }

    /// ManualStart (Event 1) or the end of the idle hold (Event 13).
    pub fn start(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.base != State::Idle || self.config.admin_down.is_some() {
            return;
        }
        self.idle_deadline = None;
        if self.config.passive {
            self.base = State::Active;
        } else {
            self.connect(now, out);
        }
        self.report(None, out);
    }

    /// ManualStop (Event 2): every connection is ceased with `notification`, or just closed without one.
    pub fn stop(&mut self, notification: Option<Notification>, out: &mut Vec<Action>) {
        self.base = State::Idle;
        (self.idle_deadline, self.connect_deadline) = (None, None);
        let reason = notification.clone().map_or(DownReason::GracefulShutdown, DownReason::Sent);
        for index in (0..self.conns.len()).rev() {
            self.drop_conn(index, notification.clone(), &reason, out);
        }
        self.report(Some(reason), out);
    }

    /// ManualStop and ManualStart: every connection is ceased with `notification`, and what was to be waited for is not.
    pub fn reset(&mut self, notification: Notification, now: Instant, out: &mut Vec<Action>) {
        self.errors_in_a_row = 0;
        self.stop(Some(notification), out);
        self.start(now, out);
    }

    /// Our connection attempt succeeded (Event 16).
    pub fn connected(&mut self, id: ConnId, now: Instant, out: &mut Vec<Action>) {
        if self.base == State::Idle || self.established().is_some() {
            out.push(Action::Close(id));
            return;
        }
        self.open(id, Direction::Outgoing, now, out);
    }

    /// The neighbour connected (Event 17). Next to an established session the connection is followed until
    /// its OPEN tells whether the neighbour has restarted (RFC 4724 §5).
    pub fn accepted(&mut self, id: ConnId, now: Instant, out: &mut Vec<Action>) {
        if self.base == State::Idle {
            out.push(Action::Close(id));
            return;
        }
        let older = |c: &Conn| c.direction == Direction::Incoming && c.state != State::Established;
        if let Some(index) = self.conns.iter().position(older) {
            self.drop_conn(
                index,
                Some(Notification::new(Notification::COLLISION)),
                &DownReason::Replaced,
                out,
            );
        }
        self.open(id, Direction::Incoming, now, out);
    }

    /// Our connection attempt failed (Event 18).
    pub fn connect_failed(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.base == State::Connect {
            self.base = State::Active;
            if self.conns.is_empty() {
                self.connect_deadline = Some(now + self.jitter.apply(self.config.connect_retry_ms));
            }
            self.report(Some(DownReason::ConnectFailed), out);
        }
    }

    /// A connection was lost without a word (Event 18).
    pub fn closed(&mut self, id: ConnId, now: Instant, out: &mut Vec<Action>) {
        if let Some(index) = self.index(id) {
            let conn = self.conns.remove(index);
            if conn.state == State::Established {
                out.push(Action::Down(DownReason::ConnectionLost));
            }
            self.after_loss(conn.state, now);
            self.report(Some(DownReason::ConnectionLost), out);
        }
    }

    /// Octets of a connection; [`Session::next_update`] works on them.
    pub fn receive(&mut self, id: ConnId, octets: &[u8]) {
        if let Some(index) = self.index(id) {
            self.conns[index].push(octets);
        }
    }

    /// Works on received messages up to and including the next UPDATE of an established session, whose body
    /// it returns. `None` when no whole message is left.
    pub fn next_update(&mut self, id: ConnId, now: Instant, out: &mut Vec<Action>) -> Option<Vec<u8>> {
        loop {
            let index = self.index(id)?;
            match self.conns[index].next_message() {
                Ok(None) => return None,
                Err(notification) => self.fail(id, notification, now, out),
                Ok(Some((kind, body))) => {
                    self.messages.0 += 1;
                    let established = self.conns[index].state == State::Established;
                    if kind == MessageType::Update && established {
                        self.conns[index].restart_hold(now);
                        return Some(body);
                    }
                    if let Err(notification) = self.message(index, kind, &body, now, out) {
                        self.fail(id, notification, now, out);
                    }
                }
            }
        }
    }

    /// An error of this connection: its NOTIFICATION goes out and the connection ends.
    pub fn fail(&mut self, id: ConnId, notification: Notification, now: Instant, out: &mut Vec<Action>) {
        let Some(index) = self.index(id) else { return };
        let reason = DownReason::Sent(notification.clone());
        self.drop_conn(index, Some(notification), &reason, out);
        self.after_error(now);
        self.report(Some(reason), out);
    }

    /// An error for which the neighbour is left alone: every connection ends, those beside the one at fault without another
    /// word of it, and it stays in Idle, for `ms` from now or as after any error.
    pub fn reject(
        &mut self,
        id: ConnId,
        notification: Notification,
        ms: Option<u64>,
        now: Instant,
        out: &mut Vec<Action>,
    ) {
        while let Some(index) = self.conns.iter().position(|conn| conn.id != id) {
            let rejected = Notification::new(Notification::REJECTED);
            self.drop_conn(index, Some(rejected), &DownReason::Replaced, out);
        }
        self.fail(id, notification, now, out);
        if let (Some(ms), State::Idle) = (ms, self.base) {
            self.idle_deadline = Some(now + ms);
        }
    }

    /// Whether there is neither a connection nor a rest that has to be kept.
    pub fn is_forsaken(&self) -> bool {
        self.conns.is_empty() && self.idle_deadline.is_none()
    }

    /// The path is down: an established connection ends with `notification`, and is tried again soon.
    pub fn path_down(&mut self, notification: Notification, now: Instant, out: &mut Vec<Action>) {
        let established = |c: &Conn| c.state == State::Established;
        let Some(index) = self.conns.iter().position(established) else { return };
        let reason = DownReason::Sent(notification.clone());
        self.drop_conn(index, Some(notification), &reason, out);
        self.after_loss(State::Established, now);
        self.report(Some(reason), out);
    }

    /// The peer does not read (RFC 9687): the connection ends with a reason, but nothing more is sent on it.
    pub fn abandon(&mut self, id: ConnId, notification: Notification, now: Instant, out: &mut Vec<Action>) {
        let Some(index) = self.index(id) else { return };
        let reason = DownReason::Sent(notification);
        self.drop_conn(index, None, &reason, out);
        self.after_error(now);
        self.report(Some(reason), out);
    }

    /// Timers (Events 9, 10, 11, 13).
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.idle_deadline.is_some_and(|d| d <= now) {
            self.start(now, out);
        }
        if self.connect_deadline.is_some_and(|d| d <= now) {
            self.connect(now, out);
            self.report(None, out);
        }
        let expired = |c: &&Conn| c.hold_deadline.is_some_and(|d| d <= now);
        while let Some(id) = self.conns.iter().find(expired).map(|c| c.id) {
            self.hold_expired(id, now, out);
        }
        for index in 0..self.conns.len() {
            if self.conns[index].keepalive_deadline.is_some_and(|d| d <= now) {
                self.keepalive(index, now, out);
            }
        }
    }

    /// Sends a message of the established session and counts it.
    pub fn count_sent(&mut self, messages: u64) {
        self.messages.1 += messages;
    }

    fn index(&self, id: ConnId) -> Option<usize> {
        self.conns.iter().position(|c| c.id == id)
    }

    fn connect(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.base = State::Connect;
        self.connect_deadline = Some(now + self.jitter.apply(self.config.connect_retry_ms));
        out.push(Action::Connect);
    }

    fn open(&mut self, id: ConnId, direction: Direction, now: Instant, out: &mut Vec<Action>) {
        if direction == Direction::Outgoing {
            self.base = State::Active;
        }
        self.connect_deadline = None;
        self.conns.push(Conn::new(id, direction, now));
        let open = negotiate::offer(&self.config, self.router_id, self.restart);
        self.messages.1 += 1;
        out.push(Action::Send(id, open.encode()));
        self.report(None, out);
    }

    fn message(
        &mut self,
        index: usize,
        kind: MessageType,
        body: &[u8],
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Result<(), Notification> {
        if kind == MessageType::Notification {
            self.notified(index, body, now, out);
            return Ok(());
        }
        match (self.conns[index].state, kind) {
            (State::OpenSent, MessageType::Open) => self.opened(index, body, now, out),
            (State::OpenConfirm, MessageType::Keepalive) => {
                self.establish(index, now, out);
                Ok(())
            }
            (State::Established, MessageType::Keepalive) => {
                self.conns[index].restart_hold(now);
                Ok(())
            }
            (State::Established, MessageType::RouteRefresh) => {
                self.conns[index].restart_hold(now);
                out.push(Action::Refresh(RouteRefresh::decode(body)?));
                Ok(())
            }
            (state, _) => Err(unexpected(state, kind)),
        }
    }

    fn opened(
        &mut self,
        index: usize,
        body: &[u8],
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Result<(), Notification> {
        let open = Open::decode(body)?;
        let config = self.config.as_said(open.asn);
        let negotiated = negotiate::agree(&config, self.router_id, &open)?;
        let id = self.conns[index].id;
        self.resolve_collision(index, &open, now, out)?;
        let Some(index) = self.index(id) else { return Ok(()) };
        let conn = &mut self.conns[index];
        conn.negotiated = Some(negotiated);
        conn.state = State::OpenConfirm;
        conn.restart_hold(now);
        self.keepalive(index, now, out);
        self.report(None, out);
        Ok(())
    }

    /// RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724 §5. An error is the NOTIFICATION for the connection at `index`.
    fn resolve_collision(
        &mut self,
        index: usize,
        open: &Open,
        now: Instant,
        out: &mut Vec<Action>,
    ) -> Result<(), Notification> {
        let collision = Notification::new(Notification::COLLISION);
        let rival = |(i, c): &(usize, &Conn)| *i != index && c.state >= State::OpenConfirm;
        let Some((other, conn)) = self.conns.iter().enumerate().find(rival) else { return Ok(()) };
        if conn.state == State::Established {
            let graceful = conn.negotiated.as_ref().is_some_and(|n| n.graceful_restart.is_some());
            let settled = conn.established_at.is_some_and(|t| now.millis_since(t) >= COLLISION_WINDOW_MS);
            if !graceful || !settled {
                return Err(collision);
            }
            self.drop_conn(other, None, &DownReason::Replaced, out);
            return Ok(());
        }
        let ours = (u32::from(self.router_id.0), self.config.local_asn);
        let theirs = (u32::from(open.router_id.0), open.asn);
        let keep = if ours > theirs { Direction::Outgoing } else { Direction::Incoming };
        if self.conns[index].direction != keep && conn.direction == keep {
            return Err(collision);
        }
        self.drop_conn(other, Some(collision), &DownReason::Replaced, out);
        Ok(())
    }

    fn establish(&mut self, index: usize, now: Instant, out: &mut Vec<Action>) {
        let conn = &mut self.conns[index];
        conn.state = State::Established;
        conn.established_at = Some(now);
        conn.restart_hold(now);
        let (id, negotiated) = (conn.id, conn.negotiated.clone());
        self.errors_in_a_row = 0;
        self.connect_deadline = None;
        self.base = State::Active;
        self.messages = (2, 2);
        self.report(None, out);
        if let Some(negotiated) = negotiated {
            self.config.remote_asn = negotiated.remote_asn;
            out.push(Action::Up(id, negotiated));
        }
    }

    fn notified(&mut self, index: usize, body: &[u8], now: Instant, out: &mut Vec<Action>) {
        let reason = Notification::decode(body).map_or(DownReason::ConnectionLost, DownReason::Received);
        self.drop_conn(index, None, &reason, out);
        self.after_error(now);
        self.report(Some(reason), out);
    }

    fn hold_expired(&mut self, id: ConnId, now: Instant, out: &mut Vec<Action>) {
        let Some(index) = self.index(id) else { return };
        let notification = Notification::new(Notification::HOLD_TIMER_EXPIRED);
        let reason = DownReason::Sent(notification.clone());
        let state = self.conns[index].state;
        self.drop_conn(index, Some(notification), &reason, out);
        self.after_loss(state, now);
        self.report(Some(reason), out);
    }

    fn keepalive(&mut self, index: usize, now: Instant, out: &mut Vec<Action>) {
        let interval = self.conns[index].keepalive_interval_ms();
        let jittered = interval.map(|ms| now + self.jitter.apply(ms));
        let conn = &mut self.conns[index];
        conn.keepalive_deadline = jittered;
        self.messages.1 += 1;
        out.push(Action::Send(conn.id, encode_keepalive()));
    }

    /// Ends one connection; the caller reports the state.
    fn drop_conn(
        &mut self,
        index: usize,
        notification: Option<Notification>,
        reason: &DownReason,
        out: &mut Vec<Action>,
    ) {
        let conn = self.conns.remove(index);
        if let Some(notification) = notification {
            out.push(Action::Send(conn.id, notification.encode()));
        }
        out.push(Action::Close(conn.id));
        if conn.state == State::Established {
            out.push(Action::Down(reason.clone()));
        }
    }

    /// To Active: the neighbour may connect at once, we do after a while.
    fn after_loss(&mut self, lost: State, now: Instant) {
        if !self.conns.is_empty() || self.base == State::Idle {
            return;
        }
        self.base = State::Active;
        if !self.config.passive {
            let retry_ms = self.config.connect_retry_ms;
            let wait_ms = if lost == State::Established { RECONNECT_MS.min(retry_ms) } else { retry_ms };
            self.connect_deadline = Some(now + self.jitter.apply(wait_ms));
        }
    }

    /// To Idle, for longer with each error in a row.
    fn after_error(&mut self, now: Instant) {
        if !self.conns.is_empty() || self.base == State::Idle {
            return;
        }
        let doubled = self.config.connect_retry_ms.saturating_mul(1 << self.errors_in_a_row.min(16));
        self.errors_in_a_row += 1;
        self.base = State::Idle;
        self.connect_deadline = None;
        self.idle_deadline = Some(now + self.jitter.apply(doubled.min(IDLE_HOLD_MAX_MS)));
    }

    fn report(&mut self, reason: Option<DownReason>, out: &mut Vec<Action>) {
        let (old, new) = (self.reported, self.state());
        if old != new {
            self.reported = new;
            out.push(Action::State { old, new, reason: reason.filter(|_| new < old) });
        }
    }
}

/// RFC 6608: which message did not belong there is in the data.
fn unexpected(state: State, kind: MessageType) -> Notification {
    let error = match state {
        State::OpenSent => Notification::FSM_OPEN_SENT,
        State::OpenConfirm => Notification::FSM_OPEN_CONFIRM,
        _ => Notification::FSM_ESTABLISHED,
    };
    Notification::with_data(error, [kind as u8])
}
