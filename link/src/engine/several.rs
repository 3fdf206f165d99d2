//! What is around the places of a peer ([`crate::endpoint`]): questions sent and answered, and what the answers
//! mean for where packets go.
//!
//! Every peer's questions are answered, so that a far side with several ways to us can measure them; a peer is asked only if
//! the configuration gives it several places, and only while there is a session, whose indices the questions carry.

use std::net::SocketAddr;
use std::sync::Mutex;

use super::drops::DropReason;
use super::plane::{Context, Identity};
use super::udp::Way;
use crate::endpoint::{Endpoints, Input, Measured, Output};
use crate::lock;
use crate::probe::core::{AnswerBudget, Moment};
use crate::protocol::{EndpointStatus, PathState, PeerConfig};
use crate::wg::{Echo, EchoKey, EchoKind, Session};

/// The places of one peer.
pub(super) struct Several {
    /// None where the peer's key is a point of low order: nothing is asked and nothing answered.
    key: Option<EchoKey>,
    nonce: u64,
    state: Mutex<State>,
}

struct State {
    configured: Vec<SocketAddr>,
    /// With two places or more, once there was a session.
    machine: Option<Endpoints>,
    answers: AnswerBudget,
}

impl Several {
    pub(super) fn new(identity: &Identity, config: &PeerConfig, nonce: u64) -> Self {
        let state =
            State { configured: config.endpoints(), machine: None, answers: AnswerBudget::new(Moment::ZERO) };
        Self {
            key: EchoKey::new(&identity.keys, &config.public_key, config.preshared_key.as_ref()),
            nonce,
            state: Mutex::new(state),
        }
    }

    /// Takes another list of places; answers the former one.
    pub(super) fn configure(
        &self,
        context: &Context<'_>,
        endpoints: Vec<SocketAddr>,
        used: Option<SocketAddr>,
    ) {
        let mut state = lock(&self.state);
        if let (Some(machine), Some(used)) = (&mut state.machine, used) {
            machine.configure(&endpoints, used, context.elapsed());
        }
        state.configured = endpoints;
        if state.configured.len() < 2 {
            state.machine = None;
        }
    }

    /// The places of the configuration.
    pub(super) fn configured(&self) -> Vec<SocketAddr> {
        lock(&self.state).configured.clone()
    }

    /// Asks what is due; answers where the peer is from now on, if that is elsewhere.
    pub(super) fn tick(
        &self,
        context: &Context<'_>,
        current: Way,
        session: Option<&Session>,
    ) -> Option<SocketAddr> {
        let mut state = lock(&self.state);
        let (Some(session), Some(key)) = (session, &self.key) else { return None };
        if state.configured.len() < 2 {
            return None;
        }
        let now = context.elapsed();
        let State { configured, machine, .. } = &mut *state;
        let machine = machine.get_or_insert_with(|| Endpoints::new(configured, current.to, now));
        if machine.next_deadline() > now {
            return None;
        }
        let outputs = machine.handle(now, Input::Timer);
        drop(state);
        for output in &outputs {
            let Output::Ask { to, place, sequence } = *output else { continue };
            let echo = Echo {
                kind: EchoKind::Ask,
                receiver: session.remote_index(),
                sender: session.local_index(),
                place,
                sequence,
                nonce: self.nonce,
            };
            let from = current.from.filter(|_| to == current.to);
            // A place that cannot be reached is one that does not answer.
            let _ = context.plane.udp.send(&key.write(&echo), Way { to, from });
        }
        moved(&outputs)
    }

    /// An authentic message came by `way`, which is not the one that packets go; answers which they shall go, if that is
    /// another.
    pub(super) fn heard(&self, context: &Context<'_>, way: Way) -> Option<Way> {
        let mut state = lock(&self.state);
        let Some(machine) = &mut state.machine else { return Some(way) };
        let outputs = machine.handle(context.elapsed(), Input::Heard(way.to));
        moved(&outputs).map(|at| if at == way.to { way } else { Way::to(at) })
    }

    /// Takes a question or an answer that came by `way`; answers where the peer is from now on, if that is elsewhere.
    pub(super) fn receive(
        &self,
        context: &Context<'_>,
        datagram: &[u8],
        way: Way,
    ) -> Result<Option<SocketAddr>, DropReason> {
        let key = self.key.as_ref().ok_or(DropReason::Refused)?;
        let echo = key.read(datagram).ok_or(DropReason::Refused)?;
        let now = context.elapsed();
        let mut state = lock(&self.state);
        match echo.kind {
            EchoKind::Ask => {
                if !state.answers.take(now) {
                    return Err(DropReason::UnderLoad);
                }
                drop(state);
                let sent = context.plane.udp.send(&key.write(&echo.answer()), way);
                sent.map_err(|_| DropReason::SendFailed)?;
                Ok(None)
            }
            EchoKind::Answer if echo.nonce == self.nonce => {
                let Some(machine) = &mut state.machine else { return Ok(None) };
                let input = Input::Answer { place: echo.place, sequence: echo.sequence };
                Ok(moved(&machine.handle(now, input)))
            }
            EchoKind::Answer => Err(DropReason::Refused),
        }
    }

    /// Every place as measured, of a peer with several.
    pub(super) fn status(&self, now: Moment, used: Option<SocketAddr>) -> Vec<EndpointStatus> {
        let state = lock(&self.state);
        let measured = state.machine.iter().flat_map(|machine| machine.measured(now));
        measured.map(|place| status(&place, now, used)).collect()
    }
}

/// Where the peer is after all of them, if one says so.
fn moved(outputs: &[Output]) -> Option<SocketAddr> {
    outputs.iter().rev().find_map(|output| match output {
        Output::Use(at) => Some(*at),
        Output::Ask { .. } => None,
    })
}

fn status(place: &Measured, now: Moment, used: Option<SocketAddr>) -> EndpointStatus {
    let whole = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    EndpointStatus {
        endpoint: place.at,
        configured: place.configured,
        in_use: used == Some(place.at),
        state: place.alive.map(|alive| if alive { PathState::Up } else { PathState::Down }),
        rtt_us: place.rtt.map(|rtt| whole(rtt.as_micros())),
        loss_permille: place.loss_permille,
        last_seen_ms: place.last_answer.map(|at| whole(now.saturating_sub(at).as_millis())),
    }
}
