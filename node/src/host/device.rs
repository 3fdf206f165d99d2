//! The tunnel device: kernel WireGuard where the kernel has it, else `watari-link`.
//!
//! The same wish is good for both, and it may be repeated: what is so already is left alone. The
//! engine's socket, state and log lie beside the node's own state.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::warn;
use watari_link::protocol::{DeviceConfig, PeerConfig};
use watari_link::{Client, PrivateKey};

use super::netlink::{Link, Netlink};
use super::{HostError, wireguard};
use crate::enrol::WireguardParameters;

/// Who carries the tunnel's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// The kernel's own WireGuard.
    Kernel,
    /// `watari-link` in user space.
    Link,
}

/// Where `watari-link` is and where it keeps its things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPaths {
    /// The program.
    pub binary: PathBuf,
    /// Its control socket.
    pub socket: PathBuf,
    /// Its state file.
    pub state: PathBuf,
}

/// A device as it is wanted.
#[derive(Debug, Clone, Copy)]
pub struct DeviceWish<'a> {
    /// Interface name.
    pub name: &'a str,
    /// Alias that marks it ours.
    pub alias: &'a str,
    /// The node's key.
    pub private_key: &'a PrivateKey,
    /// MTU in bytes.
    pub mtu: u16,
    /// The gateway.
    pub wireguard: &'a WireguardParameters,
}

/// Makes the device be as wished and takes it up. Returns who carries it, and its index.
///
/// # Errors
/// A foreign device has the name, neither the kernel nor the engine can do it, or one of them
/// refused.
pub async fn ensure(
    netlink: &Netlink,
    wish: &DeviceWish<'_>,
    paths: &LinkPaths,
) -> Result<(Engine, u32), HostError> {
    let present = netlink.link(wish.name).await?;
    if present.as_ref().is_some_and(|link| link.alias != wish.alias) {
        return Err(HostError::ForeignDevice { name: wish.name.to_owned() });
    }
    let kernel = match present {
        Some(link) => link.wireguard,
        None => netlink.add_wireguard(wish.name, wish.alias).await?,
    };
    let engine = if kernel {
        wireguard::set_device(wish)?;
        Engine::Kernel
    } else {
        set_engine(wish, paths)?;
        Engine::Link
    };
    let link = present_link(netlink, wish.name).await?;
    netlink.set_up(link.index, wish.mtu).await?;
    Ok((engine, link.index))
}

/// Finds out whether [`ensure`] can make such a device here, and leaves nothing behind.
///
/// # Errors
/// A foreign device has the name, this process may not make devices, or neither the kernel nor the
/// engine can do it.
pub async fn preflight(
    netlink: &Netlink,
    name: &str,
    alias: &str,
    paths: &LinkPaths,
) -> Result<(), HostError> {
    match netlink.link(name).await? {
        Some(link) if link.alias == alias => return Ok(()),
        Some(_) => return Err(HostError::ForeignDevice { name: name.to_owned() }),
        None => {}
    }
    if netlink.add_wireguard(name, alias).await? {
        let link = present_link(netlink, name).await?;
        return netlink.delete_link(link.index).await;
    }
    if is_program(&paths.binary) { Ok(()) } else { Err(HostError::NoEngine { path: paths.binary.clone() }) }
}

async fn present_link(netlink: &Netlink, name: &str) -> Result<Link, HostError> {
    netlink.link(name).await?.ok_or_else(|| HostError::NoDevice { name: name.to_owned() })
}

fn set_engine(wish: &DeviceWish<'_>, paths: &LinkPaths) -> Result<(), HostError> {
    if !paths.binary.is_file() && Client::connect(&paths.socket).is_err() {
        return Err(HostError::NoEngine { path: paths.binary.clone() });
    }
    watari_link::spawn_detached(&paths.binary, &paths.socket, &paths.state)?;
    Client::connect(&paths.socket)?.set_device(DeviceConfig {
        name: wish.name.to_owned(),
        alias: wish.alias.to_owned(),
        private_key: wish.private_key.clone(),
        listen_port: 0,
        mtu: wish.mtu,
        dscp: watari_link::protocol::Dscp::default(),
        peers: vec![PeerConfig {
            public_key: wish.wireguard.public_key,
            preshared_key: None,
            endpoint: Some(wish.wireguard.endpoint),
            more_endpoints: Vec::new(),
            allowed_ips: wish.wireguard.allowed_ips.clone(),
            keepalive_s: wish.wireguard.keepalive_s,
        }],
    })?;
    Ok(())
}

/// How long ago the last handshake was; `None` when there was none yet.
///
/// # Errors
/// The kernel or the engine does not answer.
pub fn handshake_age(engine: Engine, name: &str, paths: &LinkPaths) -> Result<Option<Duration>, HostError> {
    match engine {
        Engine::Kernel => wireguard::handshake_age(name),
        Engine::Link => {
            let devices = Client::connect(&paths.socket)?.list_devices()?;
            let peers = devices.iter().filter(|d| d.name == name).flat_map(|d| &d.peers);
            Ok(peers.filter_map(|p| p.last_handshake_age_ms).min().map(Duration::from_millis))
        }
    }
}

/// Removes the device and, when it was there for it, stops the engine. True when there was one.
///
/// # Errors
/// The kernel refused, or the device of that name is not ours.
pub async fn remove(
    netlink: &Netlink,
    name: &str,
    alias: &str,
    paths: &LinkPaths,
) -> Result<bool, HostError> {
    stop_engine(name, paths);
    let Some(link) = netlink.link(name).await? else { return Ok(false) };
    if link.alias != alias {
        return Err(HostError::ForeignDevice { name: name.to_owned() });
    }
    netlink.delete_link(link.index).await?;
    Ok(true)
}

/// Stops the engine if it runs. That it does not answer must not keep the device from being removed.
fn stop_engine(name: &str, paths: &LinkPaths) {
    match Client::connect(&paths.socket) {
        Ok(mut client) => {
            if let Err(error) = client.remove_device(name).and_then(|_| client.shutdown(true)) {
                warn!(%error, "watari-link does not stop");
            }
        }
        Err(error) if error.is_not_running() => {}
        Err(error) => warn!(%error, "watari-link does not answer"),
    }
}

/// Where the engine is when nobody says so: beside this program, else the first one in `PATH`.
pub fn find_link_binary() -> PathBuf {
    const NAME: &str = "watari-link";
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join(NAME)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = beside.into_iter().chain(std::env::split_paths(&path).map(|dir| dir.join(NAME)));
    candidates.into_iter().find(|c| is_program(c)).unwrap_or_else(|| NAME.into())
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
