//! Plans of the two-site document: what is planned, that carrying it out leaves nothing to plan, and that
//! a random hole in the system is mended by exactly the ops it needs.

use std::net::IpAddr;

use proptest::prelude::*;
use watari_config::desired::{device, router_mac};
use watari_config::{Desired, WgKey, parse_text, read_document};
use watari_planner::item::{Ns, Value};
use watari_planner::loops::{found, guarded, is_found_blocked};
use watari_planner::observed::Failure;
use watari_planner::wanted::wanted;
use watari_planner::{
    Action, Identity, Key, LoopPeer, ObjectState, Observed, Plan, TunnelHealth, Verdict, plan, status,
};

const TWO_SITES: &str = include_str!("../../config/tests/two_sites.yaml");
const NODE: &str = r#"
nodes:
  gpu-1:
    gateway: gw-a
    segment: lab-net
    kind: gpu
    addresses: [10.10.0.130, "fd00:10::a:2"]
    mac: "02:47:00:00:00:01"
    public_key: "YWIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk="
    created: "2026-01-01T00:00:00Z"
    expires: "2026-01-02T00:00:00Z"
"#;

fn desired(text: &str) -> Desired {
    let document = read_document(&parse_text(text).unwrap()).unwrap_or_else(|p| panic!("{p:#?}"));
    Desired::new(document, "gw-a".parse().unwrap(), 7).unwrap()
}

fn bare() -> Observed {
    let wireguard_key: WgKey = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=".parse().unwrap();
    let mut observed = Observed::nothing(Identity { wireguard_key });
    observed.devices = ["eth0", "eth1", "eth2"].map(str::to_owned).into();
    observed
}

/// What a flawless driver does.
fn carry_out(plan: &Plan, observed: &mut Observed) {
    for op in &plan.ops {
        match op.action {
            Action::Remove => assert!(observed.system.remove(&op.key).is_some(), "{op} of nothing"),
            Action::Create => {
                assert!(
                    observed.system.insert(op.key.clone(), op.value.clone()).is_none(),
                    "{op}: was there"
                );
            }
            Action::Change => {
                assert!(
                    observed.system.insert(op.key.clone(), op.value.clone()).is_some(),
                    "{op} of nothing"
                );
            }
        }
    }
}

fn settled(desired: &Desired) -> Observed {
    let mut observed = bare();
    carry_out(&plan(desired, &observed), &mut observed);
    observed
}

#[test]
fn after_a_plan_was_carried_out_nothing_is_left() {
    let desired = desired(&format!("{TWO_SITES}{NODE}"));
    let mut observed = settled(&desired);
    assert_eq!(plan(&desired, &observed).ops, []);
    let status_now = status(&desired, &observed);
    assert!(status_now.settled);
    assert_eq!(status_now.objects["tunnels.ab-wg"].state, ObjectState::Down, "no probe has come back");
    let up = TunnelHealth { up: true, rtt_us: Some(900), loss_percent: Some(0.0), ..TunnelHealth::default() };
    observed.tunnels.insert("ab-wg".parse().unwrap(), up);
    carry_out(&plan(&desired, &observed), &mut observed);
    assert_eq!(status(&desired, &observed).objects["tunnels.ab-wg"].state, ObjectState::Up);
}

#[test]
fn an_empty_document_removes_everything_in_reverse_order() {
    let full = desired(TWO_SITES);
    let mut observed = settled(&full);
    let plan = plan(&desired("{}"), &observed);
    let keys: Vec<_> = plan.ops.iter().map(|op| op.key.clone()).collect();
    assert!(keys.windows(2).all(|w| w[0] > w[1]), "hooks go before devices, devices before namespaces");
    carry_out(&plan, &mut observed);
    assert!(observed.system.is_empty());
}

#[test]
fn devices_are_made_before_what_hangs_on_them() {
    let plan = plan(&desired(TWO_SITES), &bare());
    let position = |wanted: &str| {
        plan.ops
            .iter()
            .position(|op| op.key.to_string().starts_with(wanted))
            .unwrap_or_else(|| panic!("{wanted}"))
    };
    assert!(position("namespace ") < position("veth "));
    assert!(position("veth ") < position("address "));
    assert!(position("address ") < position("route "));
    assert!(position("datapath port") < position("program "), "packets flow once the tables are there");
}

#[test]
fn a_tunnel_that_is_up_goes_before_one_that_is_not() {
    let desired = desired(TWO_SITES);
    let mut observed = settled(&desired);
    let up = TunnelHealth { up: true, ..TunnelHealth::default() };
    observed.tunnels.insert("ab-l2vpn".parse().unwrap(), up);
    let plan = plan(&desired, &observed);
    // The route goes first, and what crosses to the far gateway follows it.
    assert_eq!(plan.ops.len(), 2, "{:?}", plan.ops);
    assert!(matches!(&plan.ops[0].key, Key::Route(_, prefix, _) if prefix.to_string() == "10.255.0.2/32"));
    assert!(matches!(&plan.ops[1].key, Key::Remote(vtep) if vtep.to_string() == "10.255.0.2"));
    assert!(plan.ops.iter().all(|op| op.action == Action::Change));
}

/// VTEPs of IPv6: host addresses and routes of 128 bits, and nothing that would need IPv4.
#[test]
fn an_underlay_of_ipv6_is_planned_like_one_of_ipv4() {
    let text = TWO_SITES
        .replace("vtep: 10.255.0.1", "vtep: \"2001:db8:a::1\"\n    router_id: 10.255.0.1")
        .replace("vtep: 10.255.0.2", "vtep: \"2001:db8:b::1\"\n    router_id: 10.255.0.2")
        .replace("10.90.0.1/24", "fd00:90::1/64")
        .replace("10.90.0.2/24", "fd00:90::2/64")
        .replace("mtu: 1420", "mtu: 1440");
    let (v4, v6) = (desired(TWO_SITES), desired(&text));
    let observed = settled(&v6);
    assert_eq!(plan(&v6, &observed).ops, []);
    assert_eq!(observed.system.len(), settled(&v4).system.len(), "item for item");
    let shown: Vec<String> = observed.system.keys().map(ToString::to_string).collect();
    for item in [
        "address 2001:db8:a::1/128 of wtvx4789",
        "route 2001:db8:b::1/128 dev wtvx4789",
        &format!("address fd00:90::1/64 of {}", device::direct(&"ab-l2vpn".parse().unwrap()).0),
        &format!("route 2001:db8:b::1/128 dev {}", device::direct(&"ab-l2vpn".parse().unwrap()).0),
        &format!("datapath vtep 2001:db8:b::1 behind {}", device::wireguard(&"ab-wg".parse().unwrap())),
    ] {
        assert!(shown.iter().any(|s| s == item), "no {item} in {shown:#?}");
    }
    let direct = device::direct(&"ab-l2vpn".parse().unwrap()).0;
    let route = Key::Route(Ns::Root, "2001:db8:b::1/128".parse().unwrap(), direct);
    let Value::Route { via, source, .. } = &observed.system[&route] else { panic!("no route") };
    let text = |address: &Option<IpAddr>| address.map(|a| a.to_string());
    assert_eq!((text(via), text(source)), (Some("fd00:90::2".to_owned()), Some("2001:db8:a::1".to_owned())));
    let wireguard = Key::Wireguard(device::wireguard(&"ab-wg".parse().unwrap()));
    let Value::Wireguard(wireguard) = &observed.system[&wireguard] else { panic!("no device") };
    let allowed: Vec<_> =
        wireguard.peers.values().flat_map(|p| &p.allowed_ips).map(ToString::to_string).collect();
    assert_eq!(allowed, ["2001:db8:b::1/128"]);
}

/// An underlay route to the VTEP of another gateway goes through each tunnel to it, as the VTEP's own does, and its
/// prefix may come out of them.
#[test]
fn what_lies_behind_a_gateway_goes_the_way_its_vtep_goes() {
    let routes = "routes:\n  behind-b: { gateway: gw-a, prefix: 10.40.0.0/16, via: 10.255.0.2 }\n  \
                  elsewhere: { gateway: gw-a, prefix: 10.50.0.0/16, via: 203.0.113.9 }\n";
    let desired = desired(&format!("{TWO_SITES}{routes}"));
    let observed = settled(&desired);
    assert_eq!(plan(&desired, &observed).ops, []);
    let (wireguard, direct) =
        (device::wireguard(&"ab-wg".parse().unwrap()), device::direct(&"ab-l2vpn".parse().unwrap()).0);
    let route = |prefix: &str, device: &str| {
        observed.system.get(&Key::Route(Ns::Root, prefix.parse().unwrap(), device.to_owned()))
    };
    for device in [&wireguard, &direct] {
        let behind = route("10.40.0.0/16", device);
        assert!(behind.is_some() && behind == route("10.255.0.2/32", device), "{device}: {behind:?}");
    }
    assert!(route("10.40.0.0/16", "").is_none() && route("10.50.0.0/16", "").is_some());
    let Value::Wireguard(value) = &observed.system[&Key::Wireguard(wireguard)] else { panic!("no device") };
    let allowed = value.peers.values().flat_map(|p| &p.allowed_ips).map(ToString::to_string);
    assert_eq!(allowed.collect::<Vec<_>>(), ["10.40.0.0/16", "10.255.0.2/32"]);
    assert!(status(&desired, &observed).objects.contains_key("routes.behind-b"));
}

#[test]
fn a_device_that_is_missing_blocks_its_objects_and_no_others() {
    let desired = desired(TWO_SITES);
    let mut observed = bare();
    observed.devices.remove("eth2");
    carry_out(&plan(&desired, &observed), &mut observed);
    let status = status(&desired, &observed);
    assert_eq!(status.objects["tunnels.ab-l2vpn"].reason.as_deref(), Some("device eth2 does not exist"));
    assert_eq!(status.objects["tunnels.ab-l2vpn"].state, ObjectState::Error);
    assert_eq!(status.objects["attachments.a-lan"].state, ObjectState::Up);
    assert!(!status.settled);
}

#[test]
fn a_failure_is_reported_in_the_object_that_wanted_the_item() {
    let desired = desired(TWO_SITES);
    let mut observed = settled(&desired);
    let key = Key::Wireguard(watari_config::desired::device::wireguard(&"ab-wg".parse().unwrap()));
    observed.system.remove(&key);
    let failure = Failure { message: "exists and is not ours".to_owned(), retry_s: 4 };
    observed.failures.insert(key, failure);
    let object = &status(&desired, &observed).objects["tunnels.ab-wg"];
    assert_eq!(object.state, ObjectState::Error);
    assert!(object.reason.as_deref().unwrap().contains("exists and is not ours"));
    assert_eq!(object.retry_s, Some(4));
}

#[test]
fn a_node_that_has_not_enrolled_is_nowhere_in_the_datapath() {
    let text = format!("{TWO_SITES}{NODE}");
    let without_key = text.replace("    public_key: \"YWIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=\"\n", "");
    let mentions =
        |text: &str| plan(&desired(text), &bare()).ops.iter().filter(|op| op.owner == "nodes.gpu-1").count();
    assert_eq!(mentions(&without_key), 0);
    assert_eq!(mentions(&text), 7, "one MAC; node entry, neighbour and route of each family");
}

#[test]
fn a_node_is_up_while_it_shakes_hands() {
    let desired = desired(&format!("{TWO_SITES}{NODE}"));
    let mut observed = settled(&desired);
    let device = watari_config::desired::device::node(&"lab".parse().unwrap());
    for (age, state) in [
        (None, ObjectState::Down),
        (Some(20), ObjectState::Up),
        (Some(180), ObjectState::Up),
        (Some(181), ObjectState::Down),
    ] {
        let key = "YWIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=".to_owned();
        observed.handshakes.insert(device.clone(), [(key, age)].into());
        assert_eq!(status(&desired, &observed).objects["nodes.gpu-1"].state, state, "{age:?}");
    }
}

#[test]
fn the_wrong_wireguard_key_is_said() {
    let desired = desired(&TWO_SITES.replace("XGIoFTr3", "ZGIoFTr3"));
    let status = status(&desired, &bare());
    assert!(status.objects["gateways.gw-a"].reason.as_deref().unwrap().contains("not this gateway's"));
}

proptest! {
    /// Whatever is taken away by hand comes back, whatever is added in our name goes, and nothing else is touched.
    #[test]
    fn a_random_hole_is_mended_and_nothing_else(holes in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let desired = desired(TWO_SITES);
        let mut observed = settled(&desired);
        let whole = observed.system.clone();
        for hole in &holes {
            let Some(key) = observed.system.keys().nth(hole.index(whole.len())).cloned() else { continue };
            observed.system.remove(&key);
        }
        let missing = whole.len() - observed.system.len();
        let plan = plan(&desired, &observed);
        prop_assert_eq!(plan.ops.len(), missing);
        carry_out(&plan, &mut observed);
        prop_assert_eq!(observed.system, whole);
    }
}

#[test]
fn an_attachment_without_a_loop_guard_sends_no_beacon_and_is_not_blocked() {
    let (guarded_one, observed) = (desired(TWO_SITES), settled(&desired(TWO_SITES)));
    let at = guarded(&wanted(&guarded_one, &observed), &observed).into_keys().next().unwrap();
    let mut document = guarded_one.document().clone();
    document.attachments.values_mut().for_each(|attachment| attachment.loop_guard = false);
    let desired = Desired::new(document, "gw-a".parse().unwrap(), 8).unwrap();
    let mut looped = observed.clone();
    let verdict = Verdict { blocked: true, with: None, reflected: false, since: Default::default() };
    looped.loops.insert(at.clone(), verdict);
    let ops = plan(&desired, &looped).ops;
    assert!(!ops.is_empty() && ops.iter().all(|op| op.action == Action::Remove), "{ops:?}");
    assert!(ops.iter().all(|op| matches!(op.key, Key::Beacon(_))), "{ops:?}");
}

#[test]
fn a_looped_attachment_is_blocked_floods_nothing_and_says_with_whom() {
    let (desired, mut observed) = (desired(TWO_SITES), settled(&desired(TWO_SITES)));
    let guarded = guarded(&wanted(&desired, &observed), &observed);
    let (at, own) = guarded.iter().next().map(|(at, own)| (at.clone(), *own)).expect("an attachment");
    let far = &desired.document().gateways[&"gw-b".parse().unwrap()];
    let with = LoopPeer { since_ms: 1, origin: router_mac(far.vtep), port_id: 1, vni: own.vni };
    let verdict = Verdict { blocked: true, with: Some(with), reflected: false, since: Default::default() };
    observed.loops.insert(at.clone(), verdict);
    let blocking = plan(&desired, &observed);
    let changed: Vec<_> = blocking.ops.iter().map(|op| (op.action, op.key.clone())).collect();
    let keys = [Key::Port(at.clone()), Key::FloodPorts(own.vni), Key::Beacon(at.clone())];
    assert_eq!(changed, keys.map(|key| (Action::Change, key)));
    carry_out(&blocking, &mut observed);
    assert!(is_found_blocked(&observed.system, &at));
    assert_eq!(found(&observed.system).len(), 1);
    let status = status(&desired, &observed);
    assert!(status.settled);
    let (state, reason) = status
        .objects
        .iter()
        .find(|(path, object)| path.starts_with("attachments.") && object.reason.is_some())
        .map(|(_, object)| (object.state, object.reason.clone().unwrap()))
        .expect("it is said");
    assert_eq!(state, ObjectState::Down);
    assert_eq!(reason, format!("blocked: loop with gateway gw-b (VNI {})", own.vni));
    observed.loops.clear();
    carry_out(&plan(&desired, &observed), &mut observed);
    assert!(plan(&desired, &observed).is_empty() && !is_found_blocked(&observed.system, &at));
}

#[test]
fn what_crosses_to_a_far_gateway_is_what_the_tunnel_in_use_carries() {
    let desired = desired(TWO_SITES);
    let mut observed = settled(&desired);
    let far = "10.255.0.2".parse().unwrap();
    let mtu_with = |observed: &Observed| match wanted(&desired, observed).items[&Key::Remote(far)].value {
        Value::Remote { mtu, spoke: false } => mtu,
        ref other => panic!("{other:?}"),
    };
    let up = || TunnelHealth { up: true, ..TunnelHealth::default() };
    assert_eq!(mtu_with(&observed), 1370, "none is up: the least of 1420 and 1500, less VXLAN");
    let (wireguard, direct) = ("ab-wg".parse().unwrap(), "ab-l2vpn".parse().unwrap());
    observed.tunnels.insert(direct, up());
    assert_eq!(mtu_with(&observed), 1450, "the only one that is up");
    observed.tunnels.insert(wireguard, up());
    let preferred = &desired.document().tunnels;
    let first = preferred.values().min_by_key(|tunnel| tunnel.preference).unwrap();
    assert_eq!(mtu_with(&observed), first.assumed_mtu() - 50, "the preferred one");
}
