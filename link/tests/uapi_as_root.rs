//! `wg` and `wg-quick` (Debian's wireguard-tools) with our engine: as the implementation that wg-quick starts, and beside documents, where
//! they may look. Needs root, `ip`, `ping`, `wg` and `wg-quick`; fails without them.

#[allow(dead_code, reason = "the other tests use the rest")]
mod topology;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use topology::{Host, Pair, Wire, wait_until};
use watari_link::UAPI_FOLDER;
use watari_link::protocol::DeviceConfig;

fn socket(device: &str) -> PathBuf {
    Path::new(UAPI_FOLDER).join(format!("{device}.sock"))
}

/// What `wg show DEVICE WHAT` says, without the end of the line.
fn shown(host: &Host, device: &str, what: &str) -> String {
    host.run("wg", &["show", device, what]).trim_end().to_owned()
}

/// A configuration file of wg-quick for one end of the pair; its name is the interface's.
fn conf(wire: &Wire, device: &str, config: &DeviceConfig, host: &Host) -> String {
    let peer = &config.peers[0];
    let allowed: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
    let text = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 51820\nAddress = {}, {}\nMTU = 1380\n\n[Peer]\nPublicKey = {}\n\
         PresharedKey = {}\nEndpoint = {}\nAllowedIPs = {}\nPersistentKeepalive = 25\n",
        config.private_key.reveal(),
        host.inner4,
        host.inner6,
        peer.public_key,
        peer.preshared_key.as_ref().expect("a preshared key").reveal(),
        peer.endpoint.expect("an endpoint"),
        allowed.join(", "),
    );
    let path = wire.folder.path().join(format!("{device}.conf"));
    std::fs::write(&path, text).expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    path.display().to_string()
}

/// Ends the interface also after a failure: its process is nobody's child.
struct Interface<'a>(&'a Host, String);

impl Drop for Interface<'_> {
    fn drop(&mut self) {
        let _ = self.0.command("ip").args(["link", "delete", &self.1]).output();
    }
}

fn a_key_that_is_taken_away_is_used_no_more(host: &Host, device: &str) {
    host.run("wg", &["set", device, "private-key", "/dev/null"]);
    assert_eq!(shown(host, device, "private-key"), "(none)");
    wait_until("nothing crosses without the key", || !host.pings("10.9.0.2"));
}

#[test]
fn as_root_wg_quick_brings_an_interface_of_ours_up_and_wg_configures_it() {
    let wire = Wire::new();
    let pair = Pair::new(&wire);
    let b = wire.engine(&wire.b);
    b.client().set_device(pair.b.clone()).unwrap();
    wire.b.address("wtwg0");

    let device = format!("wtq{}", wire.tag);
    let path = conf(&wire, &device, &pair.a, &wire.a);
    let quick = |what: &str| {
        let mut command = wire.a.command("wg-quick");
        command.env("WG_QUICK_USERSPACE_IMPLEMENTATION", env!("CARGO_BIN_EXE_watari-link"));
        let output = command.args([what, &path]).output().expect("wg-quick");
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    };
    quick("up");
    let interface = Interface(&wire.a, device.clone());
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    assert!(wire.a.pings("fd09::2") && wire.b.pings("10.9.0.1"));
    assert_eq!(std::fs::metadata(socket(&device)).unwrap().permissions().mode() & 0o777, 0o600);

    // What it was told, and what happened.
    let far = pair.a.peers[0].public_key.to_string();
    assert_eq!(shown(&wire.a, &device, "public-key"), pair.a.private_key.public_key().to_string());
    assert_eq!(shown(&wire.a, &device, "private-key"), pair.a.private_key.reveal());
    assert_eq!(shown(&wire.a, &device, "listen-port"), "51820");
    assert_eq!(shown(&wire.a, &device, "endpoints"), format!("{far}\t192.0.2.2:51820"));
    assert_eq!(shown(&wire.a, &device, "allowed-ips"), format!("{far}\t10.9.0.2/32 fd09::2/128"));
    assert_eq!(shown(&wire.a, &device, "persistent-keepalive"), format!("{far}\t25"));
    assert!(!shown(&wire.a, &device, "latest-handshakes").ends_with("\t0"));
    let transfer = shown(&wire.a, &device, "transfer");
    assert!(transfer.split('\t').skip(1).all(|bytes| bytes.parse::<u64>().unwrap() > 200), "{transfer}");

    // Changes touch what they name.
    wire.a.run(
        "wg",
        &["set", &device, "fwmark", "0xca6c", "peer", &far, "allowed-ips", "10.9.0.2/32,10.77.0.0/16"],
    );
    assert_eq!(shown(&wire.a, &device, "fwmark"), "0xca6c");
    assert_eq!(shown(&wire.a, &device, "allowed-ips"), format!("{far}\t10.9.0.2/32 10.77.0.0/16"));
    assert!(wire.a.pings("10.9.0.2"), "the session goes on");
    assert!(wire.a.ip(&["link", "show", &device]).contains("mtu 1380"), "the MTU is not wg's");
    wire.a.run("wg", &["set", &device, "peer", &far, "remove"]);
    assert_eq!(shown(&wire.a, &device, "peers"), "");
    assert!(!wire.a.pings("10.9.0.2"));

    // Its own description makes it what it was.
    let stripped = wire.a.run("wg-quick", &["strip", &path]);
    let file = wire.folder.path().join("stripped");
    std::fs::write(&file, stripped).unwrap();
    for verb in ["syncconf", "setconf"] {
        wire.a.run("wg", &[verb, &device, file.to_str().unwrap()]);
        assert_eq!(shown(&wire.a, &device, "peers"), far, "{verb}");
        wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    }
    assert!(wire.a.run("wg", &["showconf", &device]).contains("PresharedKey"));

    // Down and up again at once: the process that ends is not taken for the one that begins.
    for _ in 0..5 {
        quick("down");
        quick("up");
        assert_eq!(shown(&wire.a, &device, "peers"), far);
    }
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    a_key_that_is_taken_away_is_used_no_more(&wire.a, &device);

    quick("down");
    drop(interface);
    wait_until("socket and process are gone", || !socket(&device).exists());
}

#[test]
fn as_root_wg_looks_at_devices_of_documents_and_changes_none() {
    let wire = Wire::new();
    let mut pair = Pair::new(&wire);
    let device = format!("wtu{}", wire.tag);
    pair.a.name.clone_from(&device);
    let (mut a, b) = (wire.engine_with(&wire.a, &["--uapi", UAPI_FOLDER]), wire.engine(&wire.b));
    a.client().set_device(pair.a.clone()).unwrap();
    b.client().set_device(pair.b.clone()).unwrap();
    wire.a.address(&device);
    wire.b.address("wtwg0");
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    wait_until("the socket is there", || socket(&device).exists());
    let far = pair.a.peers[0].public_key.to_string();
    let looks = || shown(&wire.a, &device, "allowed-ips") == format!("{far}\t10.9.0.2/32 fd09::2/128");
    assert!(looks());
    for change in [&["listen-port", "4711"][..], &["peer", &far, "remove"]] {
        let output = wire.a.command("wg").args(["set", &device]).args(change).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && words.contains("Operation not permitted"), "{words}");
    }
    assert!(a.client().set_device(pair.a.clone()).unwrap().touched.is_empty(), "nothing was changed");
    a.upgrade();
    wait_until("a successor answers there too", || {
        wire.a.command("wg").args(["show", &device]).output().unwrap().status.success() && looks()
    });
    a.client().remove_device(&device).unwrap();
    wait_until("a device that is gone has no socket", || !socket(&device).exists());
    a.terminate();
}

#[test]
fn as_root_a_name_that_is_taken_is_refused_at_once() {
    let wire = Wire::new();
    let mut command = wire.a.command(env!("CARGO_BIN_EXE_watari-link"));
    let output = command.arg("v0").output().unwrap();
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("v0 exists"), "{words}");
    assert!(!socket("v0").exists());
}
