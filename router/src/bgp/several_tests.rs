//! Several paths of a route (RFC 7911) with BIRD 2 (root).
//!
//! ```text
//!   namespace wtbgpt<pid>pa          namespace wtbgpt<pid>pb
//!   10.71.0.1 ┐ AS 65001 ── veth ──  10.71.0.2, AS 65071, with several paths: BIRD has one session for an
//!   10.71.0.4 ┘                      10.71.0.2, AS 65072, with one            address of ours
//! ```

use watari_bgp::{AddPath, Family, PathId, PathsSent};

use super::tests::*;
use super::*;

/// 203.0.113.0/24 twice for the first session; 198.51.100.0/24 comes from the second one.
const CONF: &str = "
router id 10.71.0.2;
protocol device {}
ipv4 table beside;
protocol static one { ipv4 { preference 200; }; route 203.0.113.0/24 blackhole { bgp_med = 10; }; }
protocol static two { ipv4 { preference 200; }; route 203.0.113.0/24 unreachable { bgp_med = 20; }; }
protocol static three { ipv4 { table beside; }; route 198.51.100.0/24 blackhole; }
protocol bgp watari {
  local 10.71.0.2 as 65071;
  neighbor 10.71.0.1 as 65001;
  connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv4 { import all; export where source = RTS_STATIC; add paths; };
}
protocol bgp second {
  local 10.71.0.2 as 65072;
  neighbor 10.71.0.4 as 65001;
  connect retry time 1; connect delay time 1; error wait time 1, 2;
  ipv4 { table beside; import none; export where source = RTS_STATIC; };
}
";

const SECOND: PeerId = PeerId(2);

fn peers(campus: &Campus) -> BTreeMap<PeerId, PeerSettings> {
    let mut first = settings(("10.71.0.1", 65001), ("10.71.0.2", 65071));
    let mut second = settings(("10.71.0.4", 65001), ("10.71.0.2", 65072));
    for settings in [&mut first, &mut second] {
        settings.netns = Some(campus.netns());
        settings.config.families = vec![Family::Ipv4Unicast];
    }
    let add_path = AddPath { receive: true, send: Some(PathsSent::All) };
    first.config.add_path = vec![(Family::Ipv4Unicast, add_path)];
    BTreeMap::from([(PEER, first), (SECOND, second)])
}

/// The path identifiers of a route, and who tells it.
fn paths(speaker: &Speaker, route: &str) -> Vec<(PeerId, PathId)> {
    let entry = speaker.entry(InstanceId(0), &prefix(route).key);
    let candidates = entry.map(|entry| entry.candidates).unwrap_or_default();
    let of_peers = candidates.into_iter().filter_map(|path| match path.source {
        watari_bgp::Source::Peer(peer) => Some((peer, path.path_id)),
        watari_bgp::Source::Local => None,
    });
    of_peers.collect()
}

/// Needs root and the Debian package bird2.
#[tokio::test]
async fn root_bird_and_we_tell_each_other_several_paths_and_take_one_away() {
    let campus = Campus::start("p", CONF);
    run(&format!("ip -n {} addr add 10.71.0.4/24 dev bgp0", campus.names[0]));
    let (bgp, _updates) = spawn(speaker("10.71.0.1"));
    bgp.set_peers(peers(&campus)).await.unwrap();
    originate(&bgp, &["198.51.100.0/24"]).await;
    until(&bgp, "both of BIRD's paths", |s| {
        let found = paths(s, "203.0.113.0/24");
        found.len() == 2 && found.iter().all(|(peer, id)| *peer == PEER && *id != PathId::default())
    })
    .await;
    until(&bgp, "the path of the second session", |s| paths(s, "198.51.100.0/24").len() == 1).await;
    // Ours and that of the second session.
    let count = |a: &str| a.matches("[AS").count();
    campus.until("show route 198.51.100.0/24 protocol watari", |a| count(a) == 2).await;
    assert!(campus.ask("show route 198.51.100.0/24 protocol watari").contains("AS65072"));

    // One path less on each side, and the other one stays.
    campus.ask("disable two");
    until(&bgp, "one of BIRD's paths", |s| paths(s, "203.0.113.0/24").len() == 1).await;
    campus.ask("disable three");
    campus.until("show route 198.51.100.0/24 protocol watari", |a| count(a) == 1).await;
    assert!(campus.ask("show route 198.51.100.0/24 protocol watari").contains("[AS65001i]"));
    let told = bgp.query(|s, _| s.advertised(PEER, Family::Ipv4Unicast).len()).await.unwrap();
    assert_eq!(told, 1);
    bgp.shutdown(false).await.unwrap();
}
