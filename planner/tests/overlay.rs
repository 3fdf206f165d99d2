//! Which way frames take into a WireGuard tunnel in user space: by the TAP of an overlay, as far as there is one.

use watari_config::desired::device;
use watari_config::{Desired, parse_text, read_document};
use watari_planner::item::{HookKind, PortAt, Value};
use watari_planner::wanted::wanted;
use watari_planner::{Engine, Identity, Key, Observed};

const TWO_SITES: &str = include_str!("../../config/tests/two_sites.yaml");

fn desired(text: &str) -> Desired {
    let document = read_document(&parse_text(text).unwrap()).unwrap_or_else(|p| panic!("{p:#?}"));
    Desired::new(document, "gw-a".parse().unwrap(), 7).unwrap()
}

fn names() -> (String, String) {
    let tunnel = "ab-wg".parse().unwrap();
    (device::wireguard(&tunnel), device::overlay(&tunnel))
}

fn observed(engine: Option<Engine>, possible: bool, open: bool) -> Observed {
    let wireguard_key = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=".parse().unwrap();
    let mut observed = Observed::nothing(Identity { wireguard_key });
    for name in ["eth0", "eth1", "eth2"] {
        observed.devices.insert(name.to_owned());
    }
    let (device, _) = names();
    observed.engines.extend(engine.map(|engine| (device.clone(), engine)));
    observed.overlays_possible = possible;
    observed.overlays.extend(open.then_some(device));
    observed
}

/// Whether the overlay is wanted, and everything that leads to its TAP and from there.
fn parts(desired: &Desired, observed: &Observed) -> (bool, Vec<bool>) {
    let items = wanted(desired, observed).items;
    let (device, tap) = names();
    let wire = items.get(&Key::Wire(device.clone())).map(|item| &item.value);
    let port = items.get(&Key::Port(PortAt::untagged(&tap))).map(|item| &item.value);
    let led = vec![
        wire == Some(&Value::EngineWire(tap.clone())),
        port == Some(&Value::EnginePort { tunnel: device.clone() }),
        items.contains_key(&Key::Hook(tap.clone(), HookKind::Interface)),
        items.contains_key(&Key::OverlayInbound(device.clone())),
    ];
    (items.contains_key(&Key::Overlay(device)), led)
}

#[test]
fn the_tap_is_asked_for_first_and_used_once_it_is_there() {
    let desired = desired(TWO_SITES);
    let user = Some(Engine::User);
    assert_eq!(parts(&desired, &observed(user, true, false)), (true, vec![false; 4]));
    assert_eq!(parts(&desired, &observed(user, true, true)), (true, vec![true; 4]));
}

#[test]
fn who_makes_none_is_asked_for_none() {
    let two_sites = desired(TWO_SITES);
    let none = (false, vec![false; 4]);
    assert_eq!(parts(&two_sites, &observed(None, true, false)), none, "nothing runs the device yet");
    assert_eq!(parts(&two_sites, &observed(Some(Engine::Kernel), true, true)), none);
    assert_eq!(parts(&two_sites, &observed(Some(Engine::User), false, true)), none);
    let by_device = format!("{TWO_SITES}\nfabric:\n  encapsulation: device\n");
    assert_eq!(parts(&desired(&by_device), &observed(Some(Engine::User), true, true)), none);
}

/// The same with a third gateway, and one more WireGuard tunnel of gateway A: to whom, and of what preference.
fn with_another(far: &str, preference: u32) -> Desired {
    let gateway = "  gw-c:
    site: b
    vtep: 10.255.0.3
    asn: 65100
    uplink: eth0
    trunks: [eth1, eth2]
    public_address: 198.51.100.9
    wireguard_key: \"ZGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=\"
tenants:";
    let tunnel = format!(
        "\
tunnels:
  another:
    between: [gw-a, {far}]
    wireguard: {{ endpoints: {{ gw-a: \"203.0.113.1:51821\", {far}: \"198.51.100.9:51821\" }} }}
    mtu: 1420
    preference: {preference}
"
    );
    desired(&TWO_SITES.replacen("tenants:", gateway, 1).replacen("tunnels:\n", &tunnel, 1))
}

#[test]
fn tunnels_that_share_flows_have_none() {
    // What had an overlay a moment before, under another document, as well.
    let mut before = observed(Some(Engine::User), true, true);
    let (device, tap) = names();
    let overlay = Value::Overlay { tap, vtep: "10.255.0.1".parse().unwrap(), port: 4789 };
    before.system.insert(Key::Overlay(device), overlay);
    assert_eq!(parts(&with_another("gw-b", 100), &before), (false, vec![false; 4]));
    assert_eq!(parts(&with_another("gw-b", 110), &before), (true, vec![true; 4]), "another preference");
    assert_eq!(parts(&with_another("gw-c", 100), &before), (true, vec![true; 4]), "another gateway");
}

#[test]
fn an_engine_that_does_not_answer_for_a_moment_keeps_its_own() {
    let mut unheard = observed(None, true, true);
    let (device, tap) = names();
    let overlay = Value::Overlay { tap, vtep: "10.255.0.1".parse().unwrap(), port: 4789 };
    unheard.system.insert(Key::Overlay(device), overlay);
    assert_eq!(parts(&desired(TWO_SITES), &unheard), (true, vec![true; 4]));
}

#[test]
fn what_takes_arriving_frames_is_there_before_they_are_sent_there() {
    let (device, tap) = names();
    let order = [
        Key::Wireguard(device.clone()),
        Key::Overlay(device.clone()),
        Key::Wire(device.clone()),
        Key::Port(PortAt::untagged(&tap)),
        Key::Hook(tap, HookKind::Interface),
        Key::OverlayInbound(device),
    ];
    assert!(order.is_sorted());
}
