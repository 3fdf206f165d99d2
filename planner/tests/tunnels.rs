//! Where far gateways are reached, and tunnels that share traffic.

use std::net::IpAddr;

use watari_config::desired::device;
use watari_config::document::Dscp;
use watari_config::{Desired, Name, parse_text, read_document};
use watari_planner::item::{BundleMember, Ns, Value, Wireguard};
use watari_planner::wanted::{Wanted, wanted};
use watari_planner::{Engine, Identity, Key, Observed, Resolution, TunnelHealth, status};

const TWO_SITES: &str = include_str!("../../config/tests/two_sites.yaml");
const B: &str = "gw-b: \"198.51.100.1:51820\"";

fn desired(text: &str) -> Desired {
    let document = read_document(&parse_text(text).unwrap()).unwrap_or_else(|p| panic!("{p:#?}"));
    Desired::new(document, "gw-a".parse().unwrap(), 7).unwrap()
}

fn observed() -> Observed {
    let wireguard_key = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=".parse().unwrap();
    let mut observed = Observed::nothing(Identity { wireguard_key });
    observed.devices = ["eth0", "eth1", "eth2"].map(str::to_owned).into();
    observed
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn wireguard(wanted: &Wanted, tunnel: &str) -> Wireguard {
    let key = Key::Wireguard(device::wireguard(&name(tunnel)));
    let Value::Wireguard(device) = &wanted.items[&key].value else { panic!("no device") };
    device.clone()
}

/// Where gw-b is to be reached.
fn places(desired: &Desired, observed: &Observed) -> Vec<String> {
    let device = wireguard(&wanted(desired, observed), "ab-wg");
    device.peers.values().flat_map(|peer| &peer.endpoints).map(ToString::to_string).collect()
}

fn resolve(observed: &mut Observed, host: &str, addresses: &[&str]) {
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    observed.names.insert(host.to_owned(), Resolution { addresses, age_s: Some(1), error: None });
}

#[test]
fn places_are_the_document_s_with_the_addresses_of_names_in_their_order() {
    let several = "gw-b: [\"[2001:db8::b]:1\", \"b.example:51820\", \"198.51.100.1:51820\"]";
    let desired = desired(&TWO_SITES.replacen(B, several, 1));
    let mut observed = observed();
    assert_eq!(wanted(&desired, &observed).names.iter().collect::<Vec<_>>(), ["b.example"]);
    assert_eq!(places(&desired, &observed), ["[2001:db8::b]:1", "198.51.100.1:51820"]);
    // A VTEP cannot be reached through itself, and nothing is there twice.
    resolve(&mut observed, "b.example", &["10.255.0.2", "198.51.100.1", "198.51.100.2"]);
    let found = ["[2001:db8::b]:1", "198.51.100.1:51820", "198.51.100.2:51820"];
    assert_eq!(places(&desired, &observed), found);
    // Whoever blocks a name answers with what is nobody's; it costs the other places nothing.
    resolve(
        &mut observed,
        "b.example",
        &["0.0.0.0", "::", "127.0.0.1", "224.0.0.1", "::ffff:198.51.100.1", "198.51.100.2"],
    );
    assert_eq!(places(&desired, &observed), found);
}

#[test]
fn no_answer_for_a_name_leads_a_tunnel_into_itself() {
    let route = "routes:\n  behind-b: { gateway: gw-a, prefix: 203.0.113.0/24, via: 10.255.0.2 }\n";
    let document = TWO_SITES.replacen(B, "gw-b: [\"b.example:51820\", \"198.51.100.1:51820\"]", 1);
    let desired = desired(&format!("{document}{route}"));
    let mut observed = observed();
    resolve(&mut observed, "b.example", &["203.0.113.7", "198.51.100.9"]);
    assert_eq!(places(&desired, &observed), ["198.51.100.9:51820", "198.51.100.1:51820"]);
}

#[test]
fn a_name_that_was_not_resolved_yet_leaves_the_peer_where_it_is() {
    let desired = desired(&TWO_SITES.replacen(B, "gw-b: \"b.example:51820\"", 1));
    let mut observed = observed();
    assert!(places(&desired, &observed).is_empty());
    resolve(&mut observed, "b.example", &["198.51.100.7"]);
    let found = wireguard(&wanted(&desired, &observed), "ab-wg");
    // The daemon is started anew and finds the device as it was.
    observed.names.clear();
    let key = Key::Wireguard(device::wireguard(&name("ab-wg")));
    observed.system.insert(key, Value::Wireguard(found.clone()));
    assert_eq!(wireguard(&wanted(&desired, &observed), "ab-wg"), found);
    let object = &status(&desired, &observed).objects["tunnels.ab-wg"];
    assert_eq!(object.names.keys().collect::<Vec<_>>(), ["b.example"]);
    resolve(&mut observed, "b.example", &["198.51.100.8"]);
    assert_eq!(places(&desired, &observed), ["198.51.100.8:51820"]);
}

#[test]
fn dscp_goes_to_the_device_and_the_kernel_s_refusal_is_said() {
    let desired = desired(&TWO_SITES.replacen("wireguard: { ", "wireguard: { dscp: inherit, ", 1));
    let mut observed = observed();
    assert_eq!(wireguard(&wanted(&desired, &observed), "ab-wg").dscp, Dscp::Inherit);
    let items = wanted(&desired, &observed).items;
    observed.system = items.into_iter().map(|(key, item)| (key, item.value)).collect();
    observed.tunnels.insert(name("ab-wg"), TunnelHealth { up: true, ..TunnelHealth::default() });
    observed.engines.insert(device::wireguard(&name("ab-wg")), Engine::Kernel);
    let wanted = wanted(&desired, &observed).items;
    observed.system = wanted.into_iter().map(|(key, item)| (key, item.value)).collect();
    let reason = status(&desired, &observed).objects["tunnels.ab-wg"].reason.clone().unwrap_or_default();
    assert!(reason.contains("DSCP 0"), "{reason}");
}

/// The document with a second WireGuard tunnel of the same preference.
fn bundled() -> Desired {
    let second = "  ab-wg2:\n    between: [gw-a, gw-b]\n    weight: 3\n    preference: 100\n    wireguard: { endpoints: { \
                  gw-a: \"203.0.113.1:51821\", gw-b: \"198.51.100.1:51821\" } }\n  ab-l2vpn:\n";
    desired(&TWO_SITES.replacen("  ab-l2vpn:\n", second, 1))
}

/// Members of the bundle to gw-b by weight, and metrics of its tunnels' own routes.
fn shared(desired: &Desired, observed: &Observed) -> (Option<Vec<(String, u8)>>, Vec<u32>) {
    let items = wanted(desired, observed).items;
    let far = "10.255.0.2/32".parse().unwrap();
    let members = items.get(&Key::Bundle(far)).map(|item| {
        let Value::Bundle { members, .. } = &item.value else { panic!("no bundle") };
        members.iter().map(|(device, BundleMember { weight, .. })| (device.clone(), *weight)).collect()
    });
    let metrics = items.iter().filter_map(|(key, item)| match (key, &item.value) {
        (Key::Route(Ns::Root, prefix, _), Value::Route { metric, .. }) if *prefix == far => Some(*metric),
        _ => None,
    });
    (members, metrics.collect())
}

#[test]
fn tunnels_of_one_preference_share_while_they_are_up() {
    let desired = bundled();
    let mut observed = observed();
    let (bundle, metrics) = shared(&desired, &observed);
    assert_eq!(bundle, None, "nothing is up");
    let mut distinct = metrics.clone();
    distinct.sort_unstable();
    distinct.dedup();
    // The fourth is the last of all, into the VXLAN device.
    assert_eq!((distinct.len(), metrics.len()), (4, 4), "each keeps a route of its own: {metrics:?}");
    let devices = ["ab-wg", "ab-wg2"].map(|tunnel| device::wireguard(&name(tunnel)));
    let weights = |pairs: &[(usize, u8)]| {
        let mut members: Vec<_> =
            pairs.iter().map(|(which, weight)| (devices[*which].clone(), *weight)).collect();
        members.sort();
        Some(members)
    };
    let up = || TunnelHealth { up: true, ..TunnelHealth::default() };
    for tunnel in ["ab-wg", "ab-wg2", "ab-l2vpn"] {
        observed.tunnels.insert(name(tunnel), up());
    }
    assert_eq!(shared(&desired, &observed).0, weights(&[(0, 1), (1, 3)]));
    // One down: the bundle stays with the other, so that flows return to the first one at rest.
    observed.tunnels.insert(name("ab-wg"), TunnelHealth::default());
    assert_eq!(shared(&desired, &observed).0, weights(&[(1, 3)]));
    observed.tunnels.insert(name("ab-wg2"), TunnelHealth::default());
    assert_eq!(shared(&desired, &observed).0, None, "the direct tunnel carries");
}

#[test]
fn the_status_says_each_member_s_share() {
    let desired = bundled();
    let mut observed = observed();
    for tunnel in ["ab-wg", "ab-wg2"] {
        observed.tunnels.insert(name(tunnel), TunnelHealth { up: true, ..TunnelHealth::default() });
    }
    let items = wanted(&desired, &observed).items;
    observed.system = items.into_iter().map(|(key, item)| (key, item.value)).collect();
    let objects = status(&desired, &observed).objects;
    let share = |tunnel: &str| objects[&format!("tunnels.{tunnel}")].share_percent;
    assert_eq!([share("ab-wg"), share("ab-wg2"), share("ab-l2vpn")], [Some(25.0), Some(75.0), None]);
}

#[test]
fn a_direct_tunnel_shares_with_nobody() {
    let text = TWO_SITES.replacen("preference: 200", "preference: 100", 1);
    let document = if text == TWO_SITES { TWO_SITES.replacen("    preference: 100\n", "", 1) } else { text };
    let problems = read_document(&parse_text(&document).unwrap());
    let problems = problems.map(|document| Desired::new(document, name("gw-a"), 1));
    let said = format!("{problems:?}");
    assert!(said.contains("only WireGuard tunnels share traffic"), "{said}");
    let weight = TWO_SITES.replacen("    mtu: 1420\n", "    mtu: 1420\n    weight: 101\n", 1);
    let said = format!("{:?}", read_document(&parse_text(&weight).unwrap()));
    assert!(said.contains("tunnels.ab-wg.weight") && said.contains("1 to 100"), "{said}");
}
