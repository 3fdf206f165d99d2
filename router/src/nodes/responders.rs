//! Who answers measurements at this gateway: in each tenant's namespace, on the gateway's own addresses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use watari_config::Desired;
use watari_config::desired::device;
use watari_node::measure::{PORT_DEFAULT, Responder, ResponderOptions};
use watari_planner::item::Ns;

use crate::brain::Brain;
use crate::drivers::namespace;
use crate::run::stopped;

/// How often is looked whether a namespace is another one under the same name.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A responder in a namespace, and what it was started with.
struct Running {
    inode: u64,
    options: ResponderOptions,
    /// Held for what its end does.
    _responder: Responder,
}

/// Keeps a responder in each tenant's namespace until `stop`.
pub async fn run(brain: Arc<Brain>, mut stop: watch::Receiver<bool>) {
    let mut head = brain.watch_desired();
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    loop {
        let wanted = wanted(&head.borrow_and_update().desired);
        let (kept, told) =
            tokio::task::spawn_blocking(move || bring_up(running, wanted)).await.unwrap_or_default();
        running = kept;
        for error in told {
            tracing::debug!(error, "no measurement responder yet");
        }
        tokio::select! {
            () = stopped(&mut stop) => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
            changed = head.changed() => if changed.is_err() { break },
        }
    }
    let _ = tokio::task::spawn_blocking(move || drop(running)).await;
}

/// What is to be listened on, by namespace. Anybody in the tenant's segments may measure.
fn wanted(desired: &Desired) -> BTreeMap<String, ResponderOptions> {
    let mut wanted: BTreeMap<String, ResponderOptions> = BTreeMap::new();
    for (name, segment) in desired.segments() {
        let own = desired.probe_addresses(name);
        if own.is_empty() {
            continue;
        }
        let ns = device::namespace(desired.gateway_name(), &segment.tenant);
        let options = wanted.entry(ns).or_default();
        options.listen.extend(own.into_iter().map(|ip| SocketAddr::new(ip, PORT_DEFAULT)));
        let allowed: &mut Vec<IpNet> = options.allowed.get_or_insert_default();
        allowed.extend(&segment.subnets);
    }
    wanted
}

/// Ends what is no longer wanted and starts what is missing; says what could not be started.
fn bring_up(
    mut running: BTreeMap<String, Running>,
    wanted: BTreeMap<String, ResponderOptions>,
) -> (BTreeMap<String, Running>, Vec<String>) {
    running.retain(|ns, r| {
        wanted.get(ns) == Some(&r.options) && namespace::inode(ns).is_ok_and(|inode| inode == r.inode)
    });
    let mut errors = Vec::new();
    for (ns, options) in wanted {
        if running.contains_key(&ns) {
            continue;
        }
        match start(&ns, options) {
            Ok(started) => drop(running.insert(ns, started)),
            Err(error) => errors.push(format!("{ns}: {error}")),
        }
    }
    (running, errors)
}

fn start(ns: &str, options: ResponderOptions) -> std::io::Result<Running> {
    let inode = namespace::inode(ns)?;
    let given = options.clone();
    let responder = namespace::inside(&Ns::Tenant(ns.to_owned()), move || Responder::start(&given))??;
    Ok(Running { inode, options, _responder: responder })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::samples;

    #[test]
    fn each_tenant_is_answered_on_the_gateways_own_addresses_and_nobody_else() {
        let wanted = wanted(&samples::head().desired);
        let options = &wanted["wt-gw-a.lab"];
        let listen: Vec<_> = options.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["10.10.0.129:4792", "[fd00:10::a:1]:4792"]);
        let allowed: Vec<_> = options.allowed.as_ref().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(allowed, ["10.10.0.0/24", "fd00:10::/64"]);
    }
}
