//! What is read is what was meant, whatever else comes is refused, and what is written `wg(8)` can read.

use proptest::prelude::*;

use super::*;
use crate::protocol::{PeerConfig, PeerStatus};

const KEY: &str = "e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a";

fn read(text: &str) -> Result<Operation, Errno> {
    let mut reader = Reader::default();
    for line in text.split('\n') {
        if let Some(result) = reader.line(line.as_bytes()) {
            return result;
        }
    }
    panic!("no empty line in {text:?}");
}

fn changes(text: &str) -> Vec<Change> {
    match read(text) {
        Ok(Operation::Set(changes)) => changes,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_example_of_the_specification_is_read_line_by_line() {
    // https://www.wireguard.com/xplatform/, shortened.
    let text = format!(
        "set=1\nprivate_key={KEY}\nfwmark=0\nlisten_port=12912\nreplace_peers=true\npublic_key={KEY}\n\
         preshared_key={KEY}\nreplace_allowed_ips=true\nallowed_ip=192.168.4.4/32\nendpoint=[abcd:23::33%2]:51820\n\
         public_key={KEY}\nremove=true\n\n"
    );
    let key = secret(KEY).unwrap().unwrap();
    let expected = [
        Change::PrivateKey(Some(PrivateKey::from_bytes(*key))),
        Change::Mark(0),
        Change::ListenPort(12912),
        Change::ReplacePeers,
        Change::Peer(PublicKey::from_bytes(*key)),
        Change::PresharedKey(Some(PresharedKey::from_bytes(*key))),
        Change::ReplaceAllowedIps,
        Change::AllowedIp("192.168.4.4/32".parse().unwrap()),
        Change::Endpoint("[abcd:23::33%2]:51820".parse().unwrap()),
        Change::Peer(PublicKey::from_bytes(*key)),
        Change::Remove,
    ];
    assert_eq!(changes(&text), expected);
    assert_eq!(read("get=1\n\n"), Ok(Operation::Get));
}

#[test]
fn zero_keys_are_no_keys_and_prefixes_lose_their_host_bits() {
    let zero = "0".repeat(64);
    let text = format!(
        "set=1\nprivate_key={zero}\npublic_key={KEY}\npreshared_key={zero}\nallowed_ip=-10.1.2.3/8\n\n"
    );
    let read = changes(&text);
    assert_eq!(read[0], Change::PrivateKey(None));
    assert_eq!(read[2], Change::PresharedKey(None));
    assert_eq!(read[3], Change::RemoveAllowedIp("10.0.0.0/8".parse().unwrap()));
    assert_eq!(changes("set=1\nfwmark=0xca6c\nfwmark=\n\n"), [Change::Mark(0xca6c), Change::Mark(0)]);
}

#[test]
fn what_is_wrong_is_refused_at_the_end_of_the_request() {
    let peer = format!("set=1\npublic_key={KEY}\n");
    let refused = [
        ("\n", Errno::PROTO),
        ("get=2\n\n", Errno::PROTO),
        ("get=1\nlisten_port=1\n\n", Errno::PROTO),
        ("listen_port=1\n\n", Errno::PROTO),
        ("set=1\nlisten_port\n\n", Errno::PROTO),
        ("set=1\nlisten_port=65536\n\n", Errno::INVAL),
        ("set=1\ncolour=1\n\n", Errno::INVAL),
        ("set=1\nreplace_peers=1\n\n", Errno::INVAL),
        ("set=1\nallowed_ip=10.0.0.0/8\n\n", Errno::INVAL),
        ("set=1\nprivate_key=00\n\n", Errno::INVAL),
        (&format!("set=1\npublic_key={}\n\n", "0".repeat(64)), Errno::INVAL),
        (&format!("set=1\nprivate_key={}\n\n", "g".repeat(64)), Errno::INVAL),
        (&format!("{peer}listen_port=1\n\n"), Errno::INVAL),
        (&format!("{peer}endpoint=example.org:1\n\n"), Errno::INVAL),
        (&format!("{peer}allowed_ip=10.0.0.0/33\n\n"), Errno::INVAL),
        (&format!("{peer}protocol_version=2\n\n"), Errno::INVAL),
        (&format!("set=1\nfwmark={}\n\n", "1".repeat(LINE_BYTES_MAX)), Errno::INVAL),
    ];
    for (text, errno) in refused {
        assert_eq!(read(text), Err(errno), "{text:?}");
    }
}

#[test]
fn a_request_has_so_many_lines_at_most_and_keeps_no_more() {
    let mut reader = Reader::default();
    assert!(reader.line(b"set=1").is_none());
    for _ in 0..LINES_MAX + 100 {
        assert!(reader.line(b"listen_port=1").is_none());
    }
    assert_eq!(reader.changes.len(), LINES_MAX - 1);
    assert_eq!(reader.line(b""), Some(Err(Errno::INVAL)));
    assert_eq!(reader.line(b"get=1"), None);
    assert_eq!(reader.line(b""), Some(Ok(Operation::Get)), "the next request begins anew");
}

fn shown() -> Shown {
    let peer = PeerConfig {
        public_key: PublicKey::from_bytes([2; 32]),
        preshared_key: Some(PresharedKey::from_bytes([3; 32])),
        endpoint: None,
        more_endpoints: Vec::new(),
        allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        keepalive_s: 25,
    };
    let config = DeviceConfig {
        name: "wg0".to_owned(),
        alias: "a".to_owned(),
        private_key: PrivateKey::from_bytes([1; 32]),
        listen_port: 0,
        mtu: 1420,
        dscp: crate::protocol::Dscp::default(),
        peers: vec![peer.clone()],
    };
    let status = PeerStatus {
        public_key: peer.public_key,
        preshared_key_fingerprint: None,
        configured_endpoint: None,
        more_endpoints: Vec::new(),
        measured: Vec::new(),
        endpoint: Some("[2001:db8::1]:7".parse().unwrap()),
        allowed_ips: peer.allowed_ips,
        keepalive_s: 25,
        handshakes: 1,
        last_handshake_age_ms: Some(1_500),
        rx_bytes: 5,
        tx_bytes: 6,
        session: None,
    };
    let status = serde_json::json!({
        "name": "wg0", "alias": "a", "public_key": config.private_key.public_key(), "listen_port": 0, "bound_port": 9,
        "mtu": 1420, "link": null, "peers": [status], "drops": [], "error": null,
    });
    Shown { config, status: serde_json::from_value(status).unwrap(), has_key: true, mark: 7 }
}

#[test]
fn an_answer_has_every_line_that_wg_looks_for() {
    let digits = |digit: &str| digit.repeat(32);
    let expected = format!(
        "private_key={}\nlisten_port=9\nfwmark=7\npublic_key={}\npreshared_key={}\nprotocol_version=1\n\
         endpoint=[2001:db8::1]:7\nlast_handshake_time_sec=98\nlast_handshake_time_nsec=500000000\ntx_bytes=6\n\
         rx_bytes=5\npersistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\nerrno=0\n\n",
        digits("01"),
        digits("02"),
        digits("03"),
    );
    let mut shown = shown();
    let text = answer(&shown, 100_000_000_000);
    assert_eq!(*text, expected);
    assert!(text.capacity() >= text.len() && text.capacity() < 2_000, "it did not grow: {}", text.capacity());
    shown.has_key = false;
    assert!(!answer(&shown, 0).contains("private_key="));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_bytes_bring_the_reader_down(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..60)) {
        let mut reader = Reader::default();
        for line in &lines {
            let _ = reader.line(line);
        }
        let _ = reader.line(b"");
        prop_assert_eq!(reader.line(b"get=1"), None);
        prop_assert_eq!(reader.line(b""), Some(Ok(Operation::Get)));
    }

    #[test]
    fn words_of_the_protocol_in_any_order_are_read_or_refused(words in proptest::collection::vec(0_usize..18, 0..80)) {
        let key = format!("public_key={KEY}");
        let known = [
            "set=1", "get=1", &key, "private_key=0", "listen_port=5", "fwmark=0x1", "replace_peers=true", "remove=true",
            "update_only=true", "preshared_key=", "endpoint=192.0.2.1:5", "persistent_keepalive_interval=25",
            "replace_allowed_ips=true", "allowed_ip=10.0.0.0/8", "allowed_ip=-::/0", "protocol_version=1", "=", "a=b",
        ];
        let mut reader = Reader::default();
        for word in &words {
            prop_assert_eq!(reader.line(known[*word].as_bytes()), None);
        }
        if let Ok(Operation::Set(changes)) = reader.line(b"").unwrap() {
            prop_assert!(changes.len() < words.len(), "set=1 is no change");
            let own = super::super::change::Wanted { config: shown().config, has_key: true, mark: 0 };
            let after = super::super::change::apply(own, &changes);
            prop_assert!(crate::validate::device(&after.config).is_ok(), "{:?}", after.config.peers);
        }
    }
}

/// One line of a request: of the protocol, or with a few of its octets changed, or without sense.
fn some_line(below: &mut dyn FnMut(u64) -> usize) -> Vec<u8> {
    let keys = [
        "set",
        "get",
        "private_key",
        "listen_port",
        "fwmark",
        "replace_peers",
        "public_key",
        "remove",
        "update_only",
        "preshared_key",
        "endpoint",
        "persistent_keepalive_interval",
        "replace_allowed_ips",
        "allowed_ip",
        "protocol_version",
        "errno",
        "",
    ];
    let key = format!("{:02x}", below(4)).repeat(32);
    let values = [
        "1",
        "true",
        "",
        "0",
        "65535",
        "65536",
        "0xffffffff",
        &key,
        KEY,
        "192.0.2.1:5",
        "[2001:db8::1]:5",
        "10.0.0.0/8",
        "-10.0.0.0/8",
        "::/0",
        "+fd00::1/128",
        "10.0.0.0/40",
    ];
    let mut line =
        format!("{}={}", keys[below(keys.len() as u64)], values[below(values.len() as u64)]).into_bytes();
    for _ in 0..below(12).saturating_sub(9) {
        let at = below(line.len() as u64);
        // An end of line would make two of it.
        line[at] = u8::try_from(below(256)).unwrap().max(11);
    }
    if below(200) == 0 {
        line.resize(line.len() + below(600), b'1');
    }
    line
}

#[test]
fn requests_by_the_million_are_carried_out_or_refused() {
    let setting =
        |name, otherwise| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
    let (seed, inputs) = (setting("WATARI_FUZZ_SEED", 22_343_u64), setting("WATARI_FUZZ_INPUTS", 20_000_u64));
    let mut state = seed.max(1);
    let mut below = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from((state >> 11) % bound).unwrap()
    };
    let empty = || super::super::change::Wanted { config: shown().config, has_key: false, mark: 0 };
    let (mut reader, mut wanted, mut carried_out) = (Reader::default(), empty(), 0_u64);
    for number in 0..inputs {
        let _ = reader.line(b"set=1");
        for _ in 0..below(14) {
            assert_eq!(reader.line(&some_line(&mut below)), None);
        }
        if let Some(Ok(Operation::Set(changes))) = reader.line(b"") {
            wanted = super::super::change::apply(wanted, &changes);
            let fits = crate::validate::device(&wanted.config);
            // Only an endpoint where nobody can be, or one peer too many, is found later than here.
            assert!(fits.is_ok() || !wanted.config.peers.is_empty(), "request {number}: {fits:?}");
            carried_out += 1;
        }
        if wanted.config.peers.len() > 100 {
            wanted = empty();
        }
    }
    println!("seed {seed}: {inputs} requests, {carried_out} of them carried out");
    assert!(carried_out > inputs / 50);
}
