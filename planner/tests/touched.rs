//! Which traffic a plan says that it touches.

use watari_config::{Desired, WgKey, parse_text, read_document};
use watari_planner::wanted::wanted;
use watari_planner::{Action, Effect, Identity, Observed, Touched, plan, touched};

const TWO_SITES: &str = include_str!("../../config/tests/two_sites.yaml");

fn desired(text: &str) -> Desired {
    let document = read_document(&parse_text(text).unwrap()).unwrap_or_else(|p| panic!("{p:#?}"));
    Desired::new(document, "gw-a".parse().unwrap(), 7).unwrap()
}

/// The system as `desired` wants it.
fn settled(desired: &Desired) -> Observed {
    let wireguard_key: WgKey = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=".parse().unwrap();
    let mut observed = Observed::nothing(Identity { wireguard_key });
    observed.devices = ["eth0", "eth1", "eth2"].map(str::to_owned).into();
    for op in plan(desired, &observed).ops {
        assert_eq!(op.action, Action::Create);
        observed.system.insert(op.key, op.value);
    }
    observed
}

/// What a change of the document's text touches.
fn change(from: &str, to: &str) -> Vec<Touched> {
    assert!(TWO_SITES.contains(from), "{from}");
    let (before, after) = (desired(TWO_SITES), desired(&TWO_SITES.replace(from, to)));
    let observed = settled(&before);
    touched(&plan(&after, &observed), &wanted(&before, &observed), &before, &after)
}

fn of<'a>(touched: &'a [Touched], object: &str) -> Option<(Effect, &'a str)> {
    touched.iter().find(|t| t.object == object).map(|t| (t.effect, t.traffic.as_str()))
}

#[test]
fn nothing_is_touched_by_a_description() {
    assert_eq!(change("description: University A", "description: The first university"), []);
}

#[test]
fn an_attachment_that_moves_to_another_vlan_ends_where_it_was() {
    let touched = change("trunk: eth1, vid: 100", "trunk: eth1, vid: 101");
    let expected = (Effect::Ends, "frames of segment lab-net at VLAN 101 of eth1");
    assert_eq!(of(&touched, "attachments.a-lan"), Some(expected));
    assert_eq!(of(&touched, "tunnels.ab-wg"), None, "{touched:#?}");
}

#[test]
fn a_tunnel_that_is_removed_ends_and_the_other_is_not_touched_by_it() {
    let start = TWO_SITES.find("  ab-l2vpn:").unwrap();
    let end = TWO_SITES.find("exits:").unwrap();
    let touched = change(&TWO_SITES[start..end], "");
    assert_eq!(touched[0].effect, Effect::Ends, "the strongest first");
    assert_eq!(
        of(&touched, "tunnels.ab-l2vpn"),
        Some((Effect::Ends, "what crosses between gw-a and gw-b by it"))
    );
}

#[test]
fn an_exit_of_another_size_and_a_peer_that_changes_pause() {
    let touched = change("vid: 300 }", "vid: 300 }\n    mtu: 1400");
    let routers = "packets between tenant lab and its routers at VLAN 300 of eth1";
    assert_eq!(of(&touched, "exits.campus"), Some((Effect::Pauses, routers)), "{touched:#?}");
    let touched = change("    asn: 65001", "    asn: 65001\n    hold_time_s: 30");
    assert!(
        touched.iter().any(|t| t.object.starts_with("peers.") && t.effect == Effect::Pauses),
        "{touched:#?}"
    );
}
