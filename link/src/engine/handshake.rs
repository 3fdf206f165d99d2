//! Handshake messages of the network, and questions about places: past the gate, and to the peer whose they are. A message is judged
//! before its sender is known, so that nobody makes us compute for free (whitepaper §5.3).

use std::sync::Arc;

use super::drops::DropReason;
use super::peer::{Peer, random};
use super::plane::Context;
use super::udp::Way;
use crate::lock;
use crate::wg::{Input, Message, Verdict, echo_receiver};

/// Takes a message that is no data message.
pub(super) fn receive(context: &Context<'_>, bytes: &[u8], way: Way) {
    if let Err(reason) = pass_on(context, bytes, way) {
        context.drop_packet(reason);
    }
}

fn pass_on(context: &Context<'_>, bytes: &[u8], way: Way) -> Result<(), DropReason> {
    if let Some(index) = echo_receiver(bytes) {
        let peer = context.plane.by_index.get(&(index >> 8)).ok_or(DropReason::UnknownSession)?;
        return peer.echo(context, bytes, way);
    }
    let message = Message::parse(bytes).ok_or(DropReason::Malformed)?;
    match message {
        Message::Initiation(initiation) => {
            enter(context, initiation, way)?;
            let keys = &context.plane.identity.keys;
            let introduction = keys.introduce(initiation).map_err(|_| DropReason::Refused)?;
            let peer = context.plane.peers.get(introduction.public_key()).ok_or(DropReason::UnknownPeer)?;
            peer.handshake(context, Input::Initiation(introduction), way);
        }
        Message::Response(response) => {
            enter(context, response, way)?;
            receiver(context, &message)?.handshake(context, Input::Response(response), way);
        }
        Message::CookieReply(reply) => {
            receiver(context, &message)?.handshake(context, Input::CookieReply(reply), way);
        }
        Message::Data(_) => return Err(DropReason::UnknownSession),
    }
    Ok(())
}

fn receiver<'a>(context: &Context<'a>, message: &Message<'_>) -> Result<&'a Arc<Peer>, DropReason> {
    let index = message.receiver().ok_or(DropReason::Malformed)?;
    context.plane.by_index.get(&(index >> 8)).ok_or(DropReason::UnknownSession)
}

fn enter(context: &Context<'_>, message: &[u8], way: Way) -> Result<(), DropReason> {
    let verdict =
        lock(&context.plane.identity.gate).judge(message, way.to, context.now_ms(), false, &mut random);
    match verdict {
        Verdict::Enter => Ok(()),
        Verdict::BadMac => Err(DropReason::BadMac),
        Verdict::TooMany => Err(DropReason::UnderLoad),
        Verdict::Cookie(reply) => {
            if context.plane.udp.send(&reply, way).is_err() {
                context.drop_packet(DropReason::SendFailed);
            }
            Err(DropReason::UnderLoad)
        }
    }
}
