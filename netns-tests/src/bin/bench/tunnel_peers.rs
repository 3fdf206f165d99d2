//! The encrypted tunnels that Watari is measured against, each between the two gateways, the hosts routed to.
//!
//! ```text
//! [host-a] 10.10.1.2 ─ [gw-a 198.18.0.1] ══ tunnel, 10.99.0.1 ─ .2 ══ [gw-b 198.18.0.2] ─ 10.10.2.2 [host-b]
//! ```
//!
//! Each is run as its documentation says for throughput. boringtun-cli and gotatun-cli come from crates.io, in versions
//! that `script/bench` pins, into `peers/bin` of Cargo's target folder; the others are Debian's.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path as FilePath, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use netns_tests::process::{self, Process};
use netns_tests::{Ns, registry, wait_until};

use crate::machine::processors;
use crate::wires::{Held, LAN_A, LAN_B, Path, ROUTED_B, WAN_A, WAN_B, Wires};

/// MTU of the WireGuard devices and of the hosts behind them: 1500 less 80, as `wg-quick` has it.
pub(crate) const WIREGUARD_MTU: u32 = 1420;
/// The same for the others.
const OTHERS_MTU: u32 = 1400;
/// How long a daemon may take until its device is there.
const READY: Duration = Duration::from_secs(20);

/// One end of a tunnel.
struct End<'a> {
    gateway: &'a Ns,
    /// 1 or 2: of its addresses.
    own: u8,
    far: u8,
    wan: &'static str,
    far_wan: &'static str,
    far_lan: &'static str,
}

fn ends(wires: &Wires) -> [End<'_>; 2] {
    let (a, b) = (&wires.gw_a, &wires.gw_b);
    [
        End { gateway: a, own: 1, far: 2, wan: WAN_A, far_wan: WAN_B, far_lan: LAN_B },
        End { gateway: b, own: 2, far: 1, wan: WAN_B, far_wan: WAN_A, far_lan: LAN_A },
    ]
}

/// What is missing for a path, and how to get it.
pub(crate) fn lacks(path: &str) -> Option<String> {
    let (program, source) = match path {
        "boringtun" => ("boringtun-cli", "cargo install, by script/bench"),
        "gotatun" => ("gotatun", "cargo install gotatun-cli, by script/bench"),
        "wireguard-go" => ("wireguard-go", "Debian's package"),
        "nebula" => ("nebula", "Debian's package"),
        "openvpn" => ("openvpn", "Debian's package"),
        _ => return None,
    };
    find(program).is_none().then(|| format!("{program} is not installed ({source})"))
}

/// The program in `peers/bin` of the target folder, which this program lies two below, or on the path.
fn find(program: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let target = own.as_deref().and_then(FilePath::parent).and_then(FilePath::parent);
    let peers = target.map(|target| target.join("peers/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = peers.into_iter().chain(std::env::split_paths(&path)).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn command(ns: &Ns, program: &str) -> Result<Command> {
    let file = find(program).with_context(|| format!("{program} is not installed"))?;
    Ok(ns.command(&file.to_string_lossy()))
}

/// A WireGuard daemon in user space at each gateway, told by `wg`.
pub(crate) fn wireguard(name: &'static str, wires: Wires) -> Result<Path> {
    wires.wan_addresses()?;
    wires.routed_hosts(WIREGUARD_MTU)?;
    let mut held = Held::default();
    let keys = [key()?, key()?];
    for (end, [own, far]) in ends(&wires).into_iter().zip([[&keys[0], &keys[1]], [&keys[1], &keys[0]]]) {
        // All daemons of this machine have their sockets in one folder, whatever their namespace.
        let short = name.chars().next().unwrap_or('w');
        let device = format!("{short}{}x{}", std::process::id(), end.own);
        let command = wireguard_daemon(name, end.gateway, &device)?;
        let daemon = Process::start(end.gateway, command)?;
        let socket = PathBuf::from(format!("/var/run/wireguard/{device}.sock"));
        wait_until(READY, &format!("{name} to listen"), || socket.exists()).with_context(|| daemon.log())?;
        let file = registry::scratch_dir(name)?.join("key");
        std::fs::write(&file, &own.0)?;
        let End { gateway, own, far: far_number, far_wan, far_lan, .. } = end;
        let set = format!(
            "wg set {device} listen-port 51820 private-key {} peer {} endpoint {far_wan}:51820 \
             allowed-ips {far_lan},10.99.0.{far_number}/32",
            file.display(),
            far.1
        );
        wait_until(READY, &format!("{name} to be told"), || gateway.exec(&set))?;
        gateway.address(&device, &[&format!("10.99.0.{own}/24")])?;
        gateway.ip(&format!("link set {device} mtu {WIREGUARD_MTU} up"))?;
        gateway.ip(&format!("route add {far_lan} dev {device}"))?;
        held.others.push(Box::new(Socket(socket)));
        held.others.push(Box::new(daemon));
    }
    Ok(wires.standing(name, ROUTED_B, held))
}

fn wireguard_daemon(name: &str, ns: &Ns, device: &str) -> Result<Command> {
    let mut command = match name {
        "boringtun" => {
            let mut command = command(ns, "boringtun-cli")?;
            let threads = processors().min(4).to_string();
            command.args(["-f", "--disable-drop-privileges", "-t", &threads, "-v", "error"]);
            command.env("WG_SUDO", "1");
            command
        }
        "gotatun" => {
            let mut command = command(ns, "gotatun")?;
            command.args(["-f", "--disable-drop-privileges"]);
            command
        }
        _ => {
            let mut command = command(ns, "wireguard-go")?;
            command.arg("-f").env("LOG_LEVEL", "error");
            command
        }
    };
    command.arg(device);
    Ok(command)
}

/// Some daemons leave their socket behind when they are killed.
struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A private key and its public key.
fn key() -> Result<(String, String)> {
    let folder = registry::scratch_dir("key")?;
    let file = folder.join("private");
    let private = tool("wg", &["genkey"], None)?;
    std::fs::write(&file, &private)?;
    let public = tool("sh", &["-c", "wg pubkey < private"], Some(&folder))?;
    Ok((private, public.trim().to_owned()))
}

fn tool(program: &str, arguments: &[&str], folder: Option<&FilePath>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    process::output(&mut command, Duration::from_secs(20))
}

/// Nebula with a certificate authority of its own, AES-256-GCM (its default).
pub(crate) fn nebula(wires: Wires) -> Result<Path> {
    wires.wan_addresses()?;
    wires.routed_hosts(OTHERS_MTU)?;
    let dir = registry::scratch_dir("nebula")?;
    let cert = |arguments: &str| tool("nebula-cert", &words(arguments), Some(&dir));
    cert("ca -name bench")?;
    cert(&format!("sign -name gw1 -ip 10.99.0.1/24 -subnets {LAN_A}"))?;
    cert(&format!("sign -name gw2 -ip 10.99.0.2/24 -subnets {LAN_B}"))?;
    let mut held = Held::default();
    for end in ends(&wires) {
        let file = dir.join(format!("gw{}.yaml", end.own));
        std::fs::write(&file, nebula_config(&end, &dir))?;
        let mut command = command(end.gateway, "nebula")?;
        command.arg("-config").arg(&file);
        held.others.push(Box::new(Process::start(end.gateway, command)?));
    }
    Ok(wires.standing("nebula", ROUTED_B, held))
}

fn nebula_config(end: &End<'_>, dir: &FilePath) -> String {
    let End { own, far, wan, far_wan, far_lan, .. } = end;
    let dir = dir.display();
    format!(
        "pki: {{ca: {dir}/ca.crt, cert: {dir}/gw{own}.crt, key: {dir}/gw{own}.key}}\n\
         static_host_map: {{\"10.99.0.{far}\": [\"{far_wan}:4242\"]}}\n\
         lighthouse: {{am_lighthouse: false, interval: 60}}\n\
         listen: {{host: {wan}, port: 4242, batch: 64, read_buffer: 10485760, write_buffer: 10485760}}\n\
         punchy: {{punch: false}}\n\
         tun: {{dev: neb0, mtu: {OTHERS_MTU}, tx_queue: 1000, \
         unsafe_routes: [{{route: {far_lan}, via: 10.99.0.{far}, mtu: {OTHERS_MTU}}}]}}\n\
         logging: {{level: warning, format: text}}\n\
         firewall: {{outbound: [{{port: any, proto: any, host: any}}], \
         inbound: [{{port: any, proto: any, host: any}}]}}\n"
    )
}

/// OpenVPN between two peers with self-signed certificates, AES-128-GCM, without the kernel's data channel.
pub(crate) fn openvpn(wires: Wires) -> Result<Path> {
    wires.wan_addresses()?;
    wires.routed_hosts(OTHERS_MTU)?;
    let dir = registry::scratch_dir("openvpn")?;
    let mut prints = Vec::new();
    for own in [1, 2] {
        let make = format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout gw{own}.key \
             -out gw{own}.crt -days 30 -subj /CN=gw{own}"
        );
        tool("openssl", &words(&make), Some(&dir))?;
        std::fs::set_permissions(dir.join(format!("gw{own}.key")), std::fs::Permissions::from_mode(0o600))?;
        let show = format!("x509 -in gw{own}.crt -noout -fingerprint -sha256");
        let text = tool("openssl", &words(&show), Some(&dir))?;
        prints.push(text.split('=').nth(1).context("no fingerprint")?.trim().to_owned());
    }
    let mut held = Held::default();
    for end in ends(&wires) {
        let mut command = command(end.gateway, "openvpn")?;
        // Entering the machine's mount namespace leaves the folder that a child would begin in.
        command.arg("--cd").arg(&dir).args(words(&openvpn_options(&end, &prints[usize::from(end.far) - 1])));
        held.others.push(Box::new(Process::start(end.gateway, command)?));
    }
    Ok(wires.standing("openvpn", ROUTED_B, held))
}

fn openvpn_options(end: &End<'_>, far_print: &str) -> String {
    let End { own, far, wan, far_wan, far_lan, .. } = end;
    let role = if *own == 1 { "--tls-server --dh none" } else { "--tls-client" };
    let network = far_lan.trim_end_matches("/24");
    format!(
        "--dev ovpn0 --dev-type tun --disable-dco --proto udp --local {wan} --remote {far_wan} --port 1194 {role} \
         --cert gw{own}.crt --key gw{own}.key --peer-fingerprint {far_print} --ifconfig 10.99.0.{own} 10.99.0.{far} \
         --route {network} 255.255.255.0 --cipher AES-128-GCM --data-ciphers AES-128-GCM --tun-mtu {OTHERS_MTU} \
         --mssfix 0 --verb 3 --txqueuelen 1000 --sndbuf 4194304 --rcvbuf 4194304"
    )
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
