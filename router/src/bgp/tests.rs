//! Real sockets: two speakers over the loopback, and BIRD 2 in a namespace (root).
//!
//! ```text
//!   127.0.71.1 AS 65001 ── lo ── 127.0.71.2 AS 65002
//!
//!   root namespace        namespace wtbgpt<pid>a         namespace wtbgpt<pid>b
//!   the task              10.71.0.1  ───── veth ─────    10.71.0.2  BIRD, AS 65071
//! ```

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant as Clock};

use watari_bgp::speaker::RestartConfig;
use watari_bgp::{Asn, Family, Nlri, PathAttributes, Policy, RouterId, State};

use super::*;

pub(super) const LIMIT: Duration = Duration::from_secs(20);
const INSTANCE: InstanceId = InstanceId(0);
pub(super) const PEER: PeerId = PeerId(1);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn prefix(text: &str) -> Nlri {
    Nlri::from(text.parse::<ipnet::IpNet>().unwrap())
}

pub(super) fn speaker(router_id: &str) -> SpeakerConfig {
    SpeakerConfig { router_id: RouterId(router_id.parse().unwrap()), seed: 7 }
}

pub(super) fn settings(local: (&str, u32), remote: (&str, u32)) -> PeerSettings {
    let mut config = PeerConfig::new(INSTANCE, (ip(local.0), Asn(local.1)), (ip(remote.0), Asn(remote.1)));
    config.families = vec![Family::Ipv4Unicast, Family::Ipv6Unicast];
    config.policy = Policy::accept_all();
    config.next_hop_v6 = Some("2001:db8::1".parse().unwrap());
    config.connect_retry_ms = 300;
    PeerSettings::new(config, None)
}

pub(super) async fn originate(bgp: &Bgp, routes: &[&str]) {
    let route = |r: &&str| LocalChange::Originate(INSTANCE, prefix(r), Box::<PathAttributes>::default());
    bgp.apply(routes.iter().map(route).collect()).await.unwrap();
}

/// Waits until the speaker's answer is the one that is waited for.
pub(super) async fn until<F>(bgp: &Bgp, what: &str, ask: F)
where
    F: Fn(&Speaker) -> bool + Clone + Send + 'static,
{
    let end = Clock::now() + LIMIT;
    loop {
        let ask = ask.clone();
        if bgp.query(move |speaker, _| ask(speaker)).await.unwrap() {
            return;
        }
        assert!(Clock::now() < end, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn established(speaker: &Speaker) -> bool {
    speaker.peer(PEER).is_some_and(|p| p.state == State::Established)
}

/// `Some(stale)` if there is a best path.
pub(super) fn stale(speaker: &Speaker, route: &str) -> Option<bool> {
    let entry = speaker.entry(INSTANCE, &prefix(route).key)?;
    entry.best.map(|i| entry.candidates[i].stale)
}

fn start(
    local: (&str, u32),
    remote: (&str, u32),
    port: u16,
) -> (Bgp, Updates, BTreeMap<PeerId, PeerSettings>) {
    let (bgp, updates) = spawn(speaker(local.0));
    let peers = BTreeMap::from([(PEER, PeerSettings { port, ..settings(local, remote) })]);
    (bgp, updates, peers)
}

#[tokio::test]
async fn a_lost_speaker_is_forgiven_and_a_final_shutdown_is_not() {
    const A: (&str, u32) = ("127.0.71.1", 65001);
    const B: (&str, u32) = ("127.0.71.2", 65002);
    let (a, _updates, a_peers) = start(A, B, 17_901);
    let (b, mut b_updates, b_peers) = start(B, A, 17_901);
    a.set_peers(a_peers.clone()).await.unwrap();
    b.set_peers(b_peers).await.unwrap();
    originate(&a, &["198.51.100.0/24", "2001:db8:1::/48"]).await;
    until(&b, "routes", |s| stale(s, "198.51.100.0/24").is_some() && stale(s, "2001:db8:1::/48").is_some())
        .await;
    let batch = b_updates.next().await.unwrap();
    assert!(!batch.peers.is_empty());
    drop(batch);

    // As kill -9: nobody holds the handle, the sockets just close.
    drop(a);
    until(&b, "stale routes", |s| stale(s, "198.51.100.0/24") == Some(true)).await;
    let restart = RestartConfig { forwarding_preserved: true, selection_deferral_ms: 30_000 };
    let (a, mut updates) = spawn(speaker(A.0));
    a.start_restart(restart).await.unwrap();
    a.set_peers(a_peers).await.unwrap();
    originate(&a, &["198.51.100.0/24", "2001:db8:1::/48"]).await;
    a.local_routes_complete().await.unwrap();
    until(&b, "fresh routes", |s| stale(s, "198.51.100.0/24") == Some(false)).await;
    let mut done = 0;
    while done < 2 {
        done += updates.next().await.expect("still running").selection_done.len();
    }
    for route in ["198.51.100.0/24", "2001:db8:1::/48"] {
        let key = (INSTANCE, prefix(route).key);
        while let Ok(Some(batch)) = tokio::time::timeout(Duration::from_millis(50), b_updates.next()).await {
            assert!(batch.best.get(&key).is_none_or(Option::is_some), "{route} left during the restart");
        }
    }

    a.shutdown(false).await.unwrap();
    until(&b, "no routes", |s| stale(s, "198.51.100.0/24").is_none()).await;
    assert!(a.shutdown(false).await.is_err());
}

#[tokio::test]
async fn a_peer_that_is_no_longer_set_is_gone_and_one_that_changed_policy_stays() {
    const A: (&str, u32) = ("127.0.72.1", 65001);
    const B: (&str, u32) = ("127.0.72.2", 65002);
    let (a, _, mut peers) = start(A, B, 17_902);
    let (b, _, b_peers) = start(B, A, 17_902);
    a.set_peers(peers.clone()).await.unwrap();
    b.set_peers(b_peers).await.unwrap();
    originate(&a, &["198.51.100.0/24"]).await;
    until(&b, "the route", |s| stale(s, "198.51.100.0/24").is_some()).await;
    let since = a.query(|s, _| s.peer(PEER).unwrap().since).await.unwrap();
    peers.get_mut(&PEER).unwrap().config.policy = Policy::default();
    a.set_peers(peers).await.unwrap();
    until(&b, "the withdrawal", |s| stale(s, "198.51.100.0/24").is_none() && established(s)).await;
    assert_eq!(a.query(|s, _| s.peer(PEER).unwrap().since).await.unwrap(), since);
    a.set_peers(BTreeMap::new()).await.unwrap();
    until(&b, "the end of the session", |s| !established(s)).await;
}

pub(super) fn run(command: &str) -> String {
    let words: Vec<&str> = command.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// BIRD and its two namespaces; all gone when dropped.
pub(super) struct Campus {
    pub(super) names: [String; 2],
    dir: tempfile::TempDir,
    bird: std::process::Child,
}

impl Campus {
    /// `tag` tells the namespaces of one test from those of another.
    pub(super) fn start(tag: &str, conf: &str) -> Campus {
        assert!(nix::unistd::geteuid().is_root(), "this test makes namespaces: run it as root");
        let names = ["a", "b"].map(|end| format!("wtbgpt{}{tag}{end}", std::process::id()));
        let [a, b] = &names;
        for name in &names {
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
        }
        run(&format!("ip -n {a} link add bgp0 type veth peer name bgp0 netns {b}"));
        for (name, last) in [(a, 1), (b, 2)] {
            run(&format!("ip -n {name} addr add 10.71.0.{last}/24 dev bgp0"));
            run(&format!("ip -n {name} addr add 2001:db8:71::{last}/64 dev bgp0 nodad"));
            run(&format!("ip -n {name} link set bgp0 up"));
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("bird.conf"), conf).unwrap();
        let bird = Command::new("ip")
            .args(["netns", "exec", b, "bird", "-f", "-c"])
            .arg(dir.path().join("bird.conf"))
            .arg("-s")
            .arg(dir.path().join("bird.ctl"))
            .spawn()
            .unwrap();
        Campus { names, dir, bird }
    }

    /// BIRD takes another configuration while it runs.
    pub(super) fn reconfigure(&self, conf: &str) {
        std::fs::write(self.dir.path().join("bird.conf"), conf).unwrap();
        assert!(self.ask("configure").contains("econfigur"));
    }

    pub(super) fn end_bird(&mut self) {
        let _ = (self.bird.kill(), self.bird.wait());
    }

    pub(super) fn netns(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.names[0])
    }

    pub(super) fn ask(&self, question: &str) -> String {
        let socket = self.dir.path().join("bird.ctl");
        let mut command = Command::new("birdc");
        let output = command.arg("-s").arg(socket).args(question.split_whitespace()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(super) async fn until(&self, question: &str, good: impl Fn(&str) -> bool) {
        let end = Clock::now() + LIMIT;
        loop {
            let answer = self.ask(question);
            if good(&answer) {
                return;
            }
            assert!(Clock::now() < end, "{question}: {answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Campus {
    fn drop(&mut self) {
        let _ = self.bird.kill();
        let _ = self.bird.wait();
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

pub(super) const BIRD_CONF: &str = "
router id 10.71.0.2;
protocol device {}
protocol static { ipv4; route 203.0.113.0/24 blackhole; }
protocol static { ipv6; route 2001:db8:aaaa::/48 blackhole; }
protocol bgp watari {
  local 10.71.0.2 as 65071;
  neighbor 10.71.0.1 as 65001;
  connect retry time 1; connect delay time 1; error wait time 1, 2;
  graceful restart on;
  ipv4 { import all; export all; };
  ipv6 { import all; export all; next hop address 2001:db8:71::2; };
}
";

/// Needs root and the Debian package bird2.
#[tokio::test]
async fn root_bird_in_a_namespace_exchanges_routes_and_helps_a_restart() {
    let campus = Campus::start("r", BIRD_CONF);
    let netns = campus.netns();
    let mut settings = settings(("10.71.0.1", 65001), ("10.71.0.2", 65071));
    settings.config.next_hop_v6 = Some("2001:db8:71::1".parse().unwrap());
    settings.netns = Some(netns);
    let peers = BTreeMap::from([(PEER, settings)]);
    let (bgp, updates) = spawn(speaker("10.71.0.1"));
    bgp.set_peers(peers.clone()).await.unwrap();
    originate(&bgp, &["198.51.100.0/24", "2001:db8:1::/48"]).await;
    until(&bgp, "BIRD's routes", |s| {
        stale(s, "203.0.113.0/24").is_some() && stale(s, "2001:db8:aaaa::/48").is_some()
    })
    .await;
    let has = |a: &str| a.contains("10.71.0.1 on bgp0") && a.contains("[AS65001i]");
    campus.until("show route 198.51.100.0/24", has).await;
    campus.until("show route 2001:db8:1::/48", |a| a.contains("2001:db8:71::1 on bgp0")).await;

    // As kill -9, then back with the same routes.
    drop((bgp, updates));
    campus.until("show protocols watari", |a| !a.contains("Established")).await;
    assert!(campus.ask("show route 198.51.100.0/24").contains("AS65001"), "BIRD keeps the routes");
    let (bgp, _updates) = spawn(speaker("10.71.0.1"));
    let restart = RestartConfig { forwarding_preserved: true, selection_deferral_ms: 10_000 };
    bgp.start_restart(restart).await.unwrap();
    bgp.set_peers(peers).await.unwrap();
    originate(&bgp, &["198.51.100.0/24"]).await;
    bgp.local_routes_complete().await.unwrap();
    campus.until("show route 2001:db8:1::/48", |a| !a.contains("AS65001")).await;
    assert!(has(&campus.ask("show route 198.51.100.0/24")));

    bgp.shutdown(false).await.unwrap();
    campus.until("show route 198.51.100.0/24", |a| !a.contains("AS65001")).await;
}
