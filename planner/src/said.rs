//! A loop in words, with the names of the document.

use watari_config::Desired;
use watari_config::desired::router_mac;

use crate::loops::{LoopPeer, Verdict, port_id};
use crate::wanted::place;

/// What there is to say of a loop, in one sentence.
pub fn with_whom(desired: &Desired, verdict: &Verdict) -> String {
    match verdict.with {
        None => "blocked: it was at the start; waiting for the loop to be seen again, or not".to_owned(),
        Some(_) if verdict.reflected => "blocked: its own beacon comes back, a loop is behind it".to_owned(),
        Some(peer) if verdict.blocked => format!("blocked: loop with {}", peer_name(desired, &peer)),
        Some(peer) => format!("loop with {}, which has to block", peer_name(desired, &peer)),
    }
}

/// `gateway b (attachments.lab-b, VNI 1000)`; numbers where the document has no name.
fn peer_name(desired: &Desired, peer: &LoopPeer) -> String {
    let document = desired.document();
    let gateway = document.gateways.iter().find(|(_, g)| router_mac(g.vtep) == peer.origin).map(|(n, _)| n);
    let Some(gateway) = gateway else {
        return format!("the unknown gateway {} (VNI {})", peer.origin, peer.vni);
    };
    let mut attachments = document.attachments.iter().filter(|(_, a)| a.gateway == *gateway);
    let attachment = attachments
        .find(|(_, attachment)| place(attachment).is_some_and(|at| port_id(gateway, &at) == peer.port_id));
    match attachment {
        Some((name, _)) => format!("gateway {gateway} (attachments.{name}, VNI {})", peer.vni),
        None => format!("gateway {gateway} (VNI {})", peer.vni),
    }
}
