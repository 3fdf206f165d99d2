//! How large a packet a tunnel is asked to carry, and what is said about it.

use watari_config::desired::device;
use watari_config::{Desired, parse_text, read_document};
use watari_planner::item::{Ns, Value};
use watari_planner::path_mtu::{TunnelMtu, explained};
use watari_planner::wanted::wanted;
use watari_planner::{Engine, Identity, Key, Observed, PathMtu, PathMtuPhase};

const TWO_SITES: &str = include_str!("../../config/tests/two_sites.yaml");
const WIREGUARD: &str = "ab-wg";
const DIRECT: &str = "ab-l2vpn";

fn desired(text: &str) -> Desired {
    let document = read_document(&parse_text(text).unwrap()).unwrap_or_else(|p| panic!("{p:#?}"));
    Desired::new(document, "gw-a".parse().unwrap(), 7).unwrap()
}

/// The two tunnels without numbers of their own.
fn automatic() -> Desired {
    let text = TWO_SITES.replace("mtu: 1420", "mtu: auto").replace("    mtu: 1500\n    direct", "    direct");
    let desired = desired(&text);
    let of = |name: &str| desired.document().tunnels[&name.parse().unwrap()].mtu.bytes();
    assert_eq!(of(WIREGUARD), None);
    desired
}

fn observed(device_mtu: u32) -> Observed {
    let wireguard_key = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=".parse().unwrap();
    let mut observed = Observed::nothing(Identity { wireguard_key });
    for name in ["eth0", "eth1", "eth2"] {
        observed.devices.insert(name.to_owned());
        observed.device_mtus.insert(name.to_owned(), device_mtu);
    }
    observed
}

fn measure(observed: &mut Observed, tunnel: &str, mtu: Option<u16>, breaks_at: Option<u16>) {
    let phase = PathMtuPhase::Complete;
    let path = PathMtu { phase, mtu, far_mtu: mtu, breaks_at, black_holes: 0, since_s: 0 };
    observed.path_mtus.insert(tunnel.parse().unwrap(), path);
}

fn of(desired: &Desired, observed: &Observed, tunnel: &str) -> TunnelMtu {
    explained(desired, observed).into_iter().find(|t| t.tunnel == tunnel).expect("this tunnel")
}

/// MTU of the device, of the route to the far VTEP, and the largest size tried.
fn items(desired: &Desired, observed: &Observed) -> (u16, u16, u16) {
    let items = wanted(desired, observed).items;
    let name = device::wireguard(&WIREGUARD.parse().unwrap());
    let Value::Wireguard(device) = &items[&Key::Wireguard(name.clone())].value else { panic!("no device") };
    let far = "10.255.0.2/32".parse().unwrap();
    let Value::Route { mtu: Some(route), .. } = items[&Key::Route(Ns::Root, far, name)].value else {
        panic!("no route")
    };
    let Value::PathMtu { max, .. } = items[&Key::PathMtu(WIREGUARD.to_owned())].value else { panic!("none") };
    (device.mtu, route, max)
}

#[test]
fn without_a_measurement_the_document_holds() {
    let tunnel = of(&desired(TWO_SITES), &observed(9000), WIREGUARD);
    assert_eq!((tunnel.carried, tunnel.tried_up_to, tunnel.overlay), (1420, 1420, 1370));
    assert!(tunnel.limited_by.contains("nothing was measured"), "{}", tunnel.limited_by);
}

#[test]
fn a_number_in_the_document_is_the_most_and_never_the_least() {
    let desired = desired(TWO_SITES);
    let mut observed = observed(9000);
    measure(&mut observed, WIREGUARD, Some(1340), Some(1341));
    assert_eq!(items(&desired, &observed), (1420, 1340, 1420), "the device stays: probes must pass");
    let tunnel = of(&desired, &observed, WIREGUARD);
    assert_eq!((tunnel.overlay, tunnel.mss_ipv4, tunnel.mss_ipv6), (1290, 1250, 1230));
    assert!(
        tunnel.limited_by.starts_with("the path: packets of more than 1400 bytes"),
        "{}",
        tunnel.limited_by
    );
    measure(&mut observed, WIREGUARD, Some(1420), None);
    let tunnel = of(&desired, &observed, WIREGUARD);
    assert_eq!((tunnel.carried, tunnel.limited_by.as_str()), (1420, "the document: mtu is 1420"));
    assert!(
        tunnel.advice.iter().any(|text| text.contains("`mtu: auto` sizes up to 8940")),
        "{:?}",
        tunnel.advice
    );
}

#[test]
fn auto_is_what_the_device_below_allows() {
    let desired = automatic();
    let mut jumbo = observed(9000);
    let tunnel = of(&desired, &jumbo, WIREGUARD);
    assert_eq!((tunnel.tried_up_to, tunnel.carried), (8940, 1420), "tried, but not yet believed");
    measure(&mut jumbo, WIREGUARD, Some(8940), None);
    assert_eq!(items(&desired, &jumbo), (8940, 8940, 8940));
    let tunnel = of(&desired, &jumbo, WIREGUARD);
    assert!(tunnel.limited_by.ends_with("its MTU is 9000"), "{}", tunnel.limited_by);
    assert_eq!(of(&desired, &observed(1500), WIREGUARD).tried_up_to, 1440);
}

#[test]
fn what_kernel_wireguard_does_outside_is_not_trusted() {
    let desired = automatic();
    let mut observed = observed(9000);
    observed.engines.insert(device::wireguard(&WIREGUARD.parse().unwrap()), Engine::Kernel);
    measure(&mut observed, WIREGUARD, Some(1420), None);
    let tunnel = of(&desired, &observed, WIREGUARD);
    assert_eq!((tunnel.tried_up_to, tunnel.carried), (1420, 1420));
    assert!(tunnel.limited_by.starts_with("kernel WireGuard"), "{}", tunnel.limited_by);
}

#[test]
fn the_hops_go_from_the_hosts_to_the_wire() {
    let desired = desired(TWO_SITES);
    let mut observed = observed(1500);
    measure(&mut observed, DIRECT, Some(1400), Some(1401));
    let hops = of(&desired, &observed, DIRECT).hops;
    let names: Vec<&str> = hops.iter().map(|hop| hop.hop.split(' ').next().unwrap()).collect();
    assert_eq!(names.last(), Some(&"underlay"));
    assert_eq!(names[0], "segment");
    let [.., overlay, tunnel, underlay] = &hops[..] else { panic!("{hops:?}") };
    assert_eq!((overlay.carries, overlay.adds), (Some(1350), 50));
    assert_eq!((tunnel.carries, tunnel.adds), (Some(1400), 0));
    assert_eq!((underlay.carries, underlay.device_mtu), (Some(1400), Some(1500)));
}
