//! FRR in the second namespace of a [`Campus`]: bgpd without zebra, `vtysh` out; and several paths of a route (RFC 7911) with
//! it (root).
//!
//! ```text
//!   namespace wtbgpt<pid>qa                       namespace wtbgpt<pid>qb
//!   10.71.0.1, AS 65001: `ours` ─┬── veth ───  10.71.0.2, AS 65071: FRR, with 203.0.113.0/24 of its own
//!        │ 198.51.100.0/24       │
//!   10.71.0.4, AS 65004: `other` ┘ 203.0.113.0/24
//! ```

use std::process::{Child, Command};
use std::time::{Duration, Instant as Clock};

use watari_bgp::{AddPath, Family, Filter, PathId, PathsSent, Policy, PrefixRule, Source};

use super::tests::*;
use super::*;

/// bgpd of FRR without zebra; it ends when dropped.
pub(super) struct Frr {
    bgpd: Child,
    dir: tempfile::TempDir,
}

impl Frr {
    /// AS 65071 with 203.0.113.0/24 and the neighbour 10.71.0.1, and these lines of its router's configuration.
    pub(super) fn start(campus: &Campus, lines: &str) -> Frr {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display().to_string();
        let conf = format!(
            "router bgp 65071\n bgp router-id 10.71.0.2\n no bgp ebgp-requires-policy\n \
             neighbor 10.71.0.1 remote-as 65001\n neighbor 10.71.0.1 timers connect 1\n{lines} \
             network 203.0.113.0/24\n no bgp network import-check\n"
        );
        std::fs::write(dir.path().join("bgpd.conf"), conf).unwrap();
        std::fs::write(dir.path().join("vtysh.conf"), "").unwrap();
        run(&format!("chown -R frr:frrvty {path}"));
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &campus.names[1], "/usr/lib/frr/bgpd", "-Z", "-S", "-P", "0"]);
        command.args([
            "-f",
            &format!("{path}/bgpd.conf"),
            "-i",
            &format!("{path}/pid"),
            "--vty_socket",
            &path,
        ]);
        Frr { bgpd: command.spawn().unwrap(), dir }
    }

    /// What `vtysh` answers to a command; nothing while bgpd does not listen yet.
    pub(super) fn ask(&self, question: &str) -> String {
        let mut command = Command::new("vtysh");
        command.arg("--vty_socket").arg(self.dir.path()).arg("--config_dir").arg(self.dir.path());
        let output = command.args(["-c", question]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the answer is the one that is waited for.
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

impl Drop for Frr {
    fn drop(&mut self) {
        let _ = (self.bgpd.kill(), self.bgpd.wait());
    }
}

const OTHER: PeerId = PeerId(2);
/// Both have it: FRR and `other`.
const THEIRS: &str = "203.0.113.0/24";
/// Both have it: `ours` and `other`.
const OURS: &str = "198.51.100.0/24";

/// A session out of the campus' first namespace.
fn session(campus: &Campus, local: (&str, u32), remote: (&str, u32), export: Filter) -> PeerSettings {
    let mut settings = settings(local, remote);
    settings.netns = Some(campus.netns());
    settings.config.families = vec![Family::Ipv4Unicast];
    settings.config.policy = Policy { import: Filter::All, export };
    settings
}

fn only(route: &str) -> Filter {
    Filter::Prefixes(vec![PrefixRule::exact(route.parse().unwrap())])
}

/// The path identifiers of FRR's paths.
fn identifiers(speaker: &Speaker) -> Vec<PathId> {
    let entry = speaker.entry(InstanceId(0), &prefix(THEIRS).key);
    let candidates = entry.map(|entry| entry.candidates).unwrap_or_default();
    candidates.into_iter().filter(|path| path.source == Source::Peer(PEER)).map(|path| path.path_id).collect()
}

/// Needs root and the Debian package frr.
#[tokio::test]
async fn root_frr_and_we_tell_each_other_several_paths_and_take_one_away() {
    let mut campus = Campus::start("q", BIRD_CONF);
    campus.end_bird();
    run(&format!("ip -n {} addr add 10.71.0.4/24 dev bgp0", campus.names[0]));
    let lines = " neighbor 10.71.0.4 remote-as 65004\n neighbor 10.71.0.4 timers connect 1\n \
                 address-family ipv4 unicast\n  neighbor 10.71.0.1 addpath-tx-all-paths\n exit-address-family\n";
    let frr = Frr::start(&campus, lines);
    let (frr_end, our_end, other_end) = (("10.71.0.2", 65071), ("10.71.0.1", 65001), ("10.71.0.4", 65004));

    let (other, _other_updates) = spawn(speaker("10.71.0.4"));
    let to_frr = session(&campus, other_end, frr_end, only(THEIRS));
    let to_us = session(&campus, other_end, our_end, only(OURS));
    other.set_peers(BTreeMap::from([(PEER, to_frr), (OTHER, to_us)])).await.unwrap();
    originate(&other, &[THEIRS, OURS]).await;
    let (ours, _our_updates) = spawn(speaker("10.71.0.1"));
    let mut to_frr = session(&campus, our_end, frr_end, only(OURS));
    let add_path = AddPath { receive: true, send: Some(PathsSent::All) };
    to_frr.config.add_path = vec![(Family::Ipv4Unicast, add_path)];
    let to_other = session(&campus, our_end, other_end, Filter::None);
    ours.set_peers(BTreeMap::from([(PEER, to_frr), (OTHER, to_other)])).await.unwrap();
    originate(&ours, &[OURS]).await;

    until(&ours, "both of FRR's paths", |s| {
        let found = identifiers(s);
        found.len() == 2 && found[0] != found[1] && !found.contains(&PathId::default())
    })
    .await;
    let question = format!("show bgp ipv4 unicast {OURS}");
    let ours_at_frr = |a: &str| a.matches(" from 10.71.0.1 ").count();
    frr.until(&question, |a| ours_at_frr(a) == 2 && a.contains("65001 65004")).await;

    // One path less on each side, and the other one stays.
    let gone = [THEIRS, OURS].map(|route| LocalChange::Withdraw(InstanceId(0), prefix(route).key));
    other.apply(gone.into()).await.unwrap();
    until(&ours, "one of FRR's paths", |s| identifiers(s).len() == 1).await;
    frr.until(&question, |a| ours_at_frr(a) == 1 && !a.contains("65001 65004")).await;
    ours.shutdown(false).await.unwrap();
    other.shutdown(false).await.unwrap();
}
