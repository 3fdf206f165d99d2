//! Sessions that are signed (RFC 2385) or take what is near alone (RFC 5082), with BIRD 2 and FRR (root).
//!
//! ```text
//!   namespace wtbgpt<pid>..a         namespace wtbgpt<pid>..b
//!   10.71.0.1, AS 65001 ─── veth ─── 10.71.0.2, AS 65071: BIRD or FRR
//! ```

use std::time::{Duration, Instant as Clock};

use watari_bgp::Policy;

use super::frr_tests::Frr;
use super::tests::*;
use super::*;

fn key(text: &str) -> Option<Password> {
    Some(Password::new(text.as_bytes()).unwrap())
}

fn secured(campus: &Campus, change: impl FnOnce(&mut PeerSettings)) -> BTreeMap<PeerId, PeerSettings> {
    let mut settings = settings(("10.71.0.1", 65001), ("10.71.0.2", 65071));
    settings.config.next_hop_v6 = Some("2001:db8:71::1".parse().unwrap());
    settings.config.policy = Policy::accept_all();
    settings.netns = Some(campus.netns());
    change(&mut settings);
    BTreeMap::from([(PEER, settings)])
}

/// BIRD with another line in its session.
fn bird(line: &str) -> String {
    BIRD_CONF.replace("  graceful restart on;", &format!("  graceful restart on;\n  {line}"))
}

/// What the kernel has dropped for this reason (`TcpExt:` of /proc/net/netstat), in both namespaces or in our own.
fn dropped(campus: Option<&Campus>, reason: &str) -> u64 {
    let texts = match campus {
        None => vec![std::fs::read_to_string("/proc/net/netstat").unwrap()],
        Some(campus) => {
            let read = |ns: &String| run(&format!("ip netns exec {ns} cat /proc/net/netstat"));
            campus.names.iter().map(read).collect()
        }
    };
    let count = |text: &String| {
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let names = lines.next().unwrap().split_whitespace();
        let mut both = names.zip(lines.next().unwrap().split_whitespace());
        both.find(|(name, _)| *name == reason).map_or(0, |(_, count)| count.parse::<u64>().unwrap())
    };
    texts.iter().map(count).sum()
}

/// Both sides try, the kernel drops what they say for this reason, and there is no session.
async fn is_refused(bgp: &Bgp, campus: &Campus, reason: &str) {
    let (end, before) = (Clock::now() + LIMIT, dropped(Some(campus), reason));
    while dropped(Some(campus), reason) < before + 3 {
        assert!(Clock::now() < end, "waited for {reason}");
        assert!(!bgp.query(|s, _| established(s)).await.unwrap(), "established without {reason}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!bgp.query(|s, _| established(s)).await.unwrap(), "established in spite of {reason}");
}

/// Right, wrong, none, and changed on both sides under a living session, which goes on.
#[tokio::test]
async fn root_bird_and_we_sign_with_the_same_password_or_not_at_all() {
    let campus = Campus::start("m", &bird("password \"alpha\";"));
    let (bgp, _updates) = spawn(speaker("10.71.0.1"));
    for (wrong, reason) in [(None, "TCPMD5Unexpected"), (key("beta"), "TCPMD5Failure")] {
        bgp.set_peers(secured(&campus, |s| s.password = wrong)).await.unwrap();
        is_refused(&bgp, &campus, reason).await;
    }
    bgp.set_peers(secured(&campus, |s| s.password = key("alpha"))).await.unwrap();
    until(&bgp, "the session with the right password", established).await;
    campus.until("show protocols watari", |a| a.contains("Established")).await;

    // Another key under the living session: ours first, then theirs. BIRD begins anew when its own changes.
    bgp.set_peers(secured(&campus, |s| s.password = key("gamma"))).await.unwrap();
    campus.reconfigure(&bird("password \"gamma\";"));
    originate(&bgp, &["198.51.100.0/24"]).await;
    campus.until("show route 198.51.100.0/24", |a| a.contains("AS65001")).await;

    // We alone are told to: BIRD, which connects first, too.
    bgp.set_peers(secured(&campus, |s| (s.password, s.config.passive) = (key("gamma"), true))).await.unwrap();
    bgp.set_peers(BTreeMap::new()).await.unwrap();
    bgp.set_peers(secured(&campus, |s| (s.password, s.config.passive) = (key("gamma"), true))).await.unwrap();
    until(&bgp, "the session that BIRD opened", established).await;
    bgp.shutdown(false).await.unwrap();
}

/// A key changed on both sides within the hold time costs no session: two of our speakers, which do not begin anew.
#[tokio::test]
async fn a_password_changes_under_a_living_session() {
    const A: (&str, u32) = ("127.0.73.1", 65001);
    const B: (&str, u32) = ("127.0.73.2", 65002);
    let with = |local, remote, text: &str| {
        let settings = PeerSettings { port: 17_903, password: key(text), ..settings(local, remote) };
        BTreeMap::from([(PEER, settings)])
    };
    let (a, _ua) = spawn(speaker(A.0));
    let (b, _ub) = spawn(speaker(B.0));
    a.set_peers(with(A, B, "alpha")).await.unwrap();
    b.set_peers(with(B, A, "alpha")).await.unwrap();
    originate(&a, &["198.51.100.0/24"]).await;
    until(&b, "the route", |s| stale(s, "198.51.100.0/24").is_some()).await;
    let since = b.query(|s, _| s.peer(PEER).unwrap().since).await.unwrap();
    a.set_peers(with(A, B, "beta")).await.unwrap();
    originate(&a, &["203.0.113.0/24"]).await;
    let (end, before) = (Clock::now() + LIMIT, dropped(None, "TCPMD5Failure"));
    while dropped(None, "TCPMD5Failure") == before {
        assert!(Clock::now() < end, "what A signs with the new key does not arrive before B has it too");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(b.query(|s, _| stale(s, "203.0.113.0/24").is_none()).await.unwrap());
    b.set_peers(with(B, A, "beta")).await.unwrap();
    until(&b, "what was signed anew", |s| stale(s, "203.0.113.0/24").is_some()).await;
    assert_eq!(b.query(|s, _| s.peer(PEER).unwrap().since).await.unwrap(), since, "the same session");
}

/// Both sides near; we alone; and one that says it is near and is not.
#[tokio::test]
async fn root_bird_and_we_take_what_is_near_alone() {
    let campus = Campus::start("g", &bird("ttl security on;"));
    let (bgp, _updates) = spawn(speaker("10.71.0.1"));
    bgp.set_peers(secured(&campus, |s| s.hops_max = Some(1))).await.unwrap();
    until(&bgp, "the session with TTL security", established).await;
    bgp.shutdown(false).await.unwrap();
    drop(campus);

    // Without it BIRD sends with a TTL of 1.
    let campus = Campus::start("h", BIRD_CONF);
    let (bgp, _updates) = spawn(speaker("10.71.0.1"));
    bgp.set_peers(secured(&campus, |s| s.hops_max = Some(1))).await.unwrap();
    is_refused(&bgp, &campus, "TCPMinTTLDrop").await;
    bgp.shutdown(false).await.unwrap();
    drop(campus);

    let campus = Campus::start("i", &bird("ttl security on;"));
    let (bgp, _updates) = spawn(speaker("10.71.0.1"));
    // What we send has a TTL of 1: BIRD hears nothing more than what came before it had the connection.
    bgp.set_peers(secured(&campus, |_| {})).await.unwrap();
    let (end, before) = (Clock::now() + LIMIT, dropped(Some(&campus), "TCPMinTTLDrop"));
    while dropped(Some(&campus), "TCPMinTTLDrop") < before + 3 {
        assert!(Clock::now() < end, "waited for BIRD to drop");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!campus.ask("show protocols watari").contains("Established"));
    bgp.shutdown(false).await.unwrap();
}

/// FRR signs and takes what is near alone; it has another idea of the password at first.
#[tokio::test]
async fn root_frr_and_we_sign_and_take_what_is_near_alone() {
    let mut campus = Campus::start("f", BIRD_CONF);
    campus.end_bird();
    let lines = " neighbor 10.71.0.1 password alpha\n neighbor 10.71.0.1 ttl-security hops 1\n";
    let _frr = Frr::start(&campus, lines);
    let (bgp, _updates) = spawn(speaker("10.71.0.1"));
    let wanted = |text: &str| secured(&campus, |s| (s.password, s.hops_max) = (key(text), Some(1)));
    bgp.set_peers(wanted("beta")).await.unwrap();
    is_refused(&bgp, &campus, "TCPMD5Failure").await;
    bgp.set_peers(wanted("alpha")).await.unwrap();
    until(&bgp, "FRR's route", |s| stale(s, "203.0.113.0/24").is_some()).await;
    bgp.shutdown(false).await.unwrap();
}
