//! What is frozen, in a file of the run folder, so that a restart of the daemon sets nothing free that another one
//! would have to freeze again after five more moves.
//!
//! The file is written when something is frozen or freed, and read at a start that finds the datapath loaded. The clock of
//! its times goes on over both (`CLOCK_BOOTTIME`) but not over a reboot, so a file of another boot counts as none. So does one
//! that cannot be read: freezes only keep the peace, and come again by themselves.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use watari_bgp::Instant;
use watari_bgp::types::MacAddr;
use watari_config::Vni;
use watari_dataplane::PortKey;

use super::hosts::{Freeze, Hosts, Place, Sighting, Subject};

const FILE: &str = "freezes.json";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The file, and what it holds.
#[derive(Debug)]
pub(super) struct Freezes {
    path: PathBuf,
    boot: String,
    /// As it was last written or read; `None` after a failure, so that the next look tries again.
    kept: Option<Vec<Freeze>>,
    /// That it cannot be written was said.
    has_failed: bool,
}

/// The file's content.
#[derive(Serialize, Deserialize)]
struct File {
    boot: String,
    freezes: Vec<Record>,
}

/// A port: index of the device, outer and inner tag.
type Port = (u32, u16, u16);

#[derive(Serialize, Deserialize)]
struct Record {
    vni: u32,
    what: What,
    since_ms: u64,
    until_ms: u64,
    freezes: u32,
    seen: Vec<(At, [u8; 6])>,
    frozen_at: Option<Port>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum What {
    Mac([u8; 6]),
    Address(IpAddr),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum At {
    Port(Port),
    Gateway(IpAddr),
}

impl Freezes {
    /// The file in the run folder.
    pub(super) fn in_folder(run_dir: &Path) -> Self {
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        Self { path: run_dir.join(FILE), boot, kept: None, has_failed: false }
    }

    /// What was frozen when the daemon ended, in this boot.
    pub(super) fn read(&mut self) -> Vec<Freeze> {
        let file = fs::read(&self.path).ok().and_then(|bytes| serde_json::from_slice::<File>(&bytes).ok());
        let ours = file.filter(|file| !self.boot.is_empty() && file.boot == self.boot);
        let freezes: Vec<_> =
            ours.map_or_else(Vec::new, |file| file.freezes).iter().filter_map(freeze).collect();
        self.kept = Some(freezes.clone());
        freezes
    }

    /// Writes what is frozen, if that has changed.
    pub(super) fn write(&mut self, hosts: &Hosts) {
        let freezes: Vec<_> = hosts.freezes().collect();
        if self.kept.as_ref() == Some(&freezes) {
            return;
        }
        let file = File { boot: self.boot.clone(), freezes: freezes.iter().map(record).collect() };
        match replace(&self.path, &file) {
            Ok(()) => (self.kept, self.has_failed) = (Some(freezes), false),
            Err(error) => {
                self.kept = None;
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::warn!(path = %self.path.display(), %error, "what is frozen is not kept");
                }
            }
        }
    }
}

/// A new file in the place of the old one. What does not reach the disk before a crash of the machine is of no use after it.
fn replace(path: &Path, file: &File) -> std::io::Result<()> {
    let new = path.with_extension("json.new");
    let mut out = fs::File::create(&new)?;
    serde_json::to_writer(&mut out, file)?;
    out.flush()?;
    fs::rename(&new, path)
}

fn record(freeze: &Freeze) -> Record {
    let what = match freeze.subject {
        Subject::Station((_, mac)) => What::Mac(mac.0),
        Subject::Address((_, ip)) => What::Address(ip),
    };
    let at = |at| match at {
        Place::Port(port) => At::Port(tuple(port)),
        Place::Gateway(vtep) => At::Gateway(vtep),
    };
    Record {
        vni: freeze.subject.vni().get(),
        what,
        since_ms: freeze.since.millis_since(Instant::ZERO),
        until_ms: freeze.until.millis_since(Instant::ZERO),
        freezes: freeze.freezes,
        seen: freeze.seen.iter().map(|s| (at(s.at), s.mac.0)).collect(),
        frozen_at: freeze.at.map(tuple),
    }
}

/// `None` for a segment that cannot be.
fn freeze(record: &Record) -> Option<Freeze> {
    let vni = Vni::new(record.vni).ok()?;
    let subject = match record.what {
        What::Mac(mac) => Subject::Station((vni, MacAddr(mac))),
        What::Address(ip) => Subject::Address((vni, ip)),
    };
    let place = |at: &At| match *at {
        At::Port(port) => Place::Port(key(port)),
        At::Gateway(vtep) => Place::Gateway(vtep),
    };
    Some(Freeze {
        subject,
        since: Instant::from_millis(record.since_ms),
        until: Instant::from_millis(record.until_ms),
        freezes: record.freezes,
        seen: record.seen.iter().map(|(at, mac)| Sighting { at: place(at), mac: MacAddr(*mac) }).collect(),
        at: record.frozen_at.map(key),
    })
}

fn tuple(port: PortKey) -> Port {
    (port.ifindex, port.outer, port.inner)
}

fn key((ifindex, outer, inner): Port) -> PortKey {
    PortKey { ifindex, outer, inner }
}

#[cfg(test)]
mod tests {
    use watari_bgp::evpn::mobility::DampingLimits;

    use super::*;

    fn frozen() -> Vec<Freeze> {
        let vni = Vni::new(7).unwrap();
        let port = PortKey { ifindex: 3, outer: 100, inner: 0 };
        let (mac, gateway) = (MacAddr([2, 0, 0, 0, 0, 1]), Place::Gateway("10.0.0.2".parse().unwrap()));
        let seen = vec![Sighting { at: Place::Port(port), mac }, Sighting { at: gateway, mac }];
        let (since, until) = (Instant::from_millis(5), Instant::from_millis(600_000));
        let station = Subject::Station((vni, mac));
        let address = Subject::Address((vni, "fd00::1".parse().unwrap()));
        vec![
            Freeze { subject: station, since, until, freezes: 2, seen: seen.clone(), at: Some(port) },
            Freeze { subject: address, since, until, freezes: 1, seen, at: None },
        ]
    }

    fn hosts(freezes: Vec<Freeze>) -> Hosts {
        let mut hosts = Hosts::new("10.0.0.1".parse().unwrap(), DampingLimits::default());
        freezes.into_iter().for_each(|freeze| hosts.restore(freeze));
        hosts
    }

    #[test]
    fn what_one_run_writes_the_next_one_reads() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Freezes::in_folder(folder.path());
        assert_eq!(first.read(), []);
        first.write(&hosts(frozen()));
        let read = Freezes::in_folder(folder.path()).read();
        assert_eq!(read, frozen());
        assert_eq!(hosts(read).freezes().collect::<Vec<_>>(), frozen());
        first.write(&hosts(Vec::new()));
        assert_eq!(Freezes::in_folder(folder.path()).read(), []);
    }

    #[test]
    fn what_another_boot_wrote_counts_as_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut other = Freezes { boot: "another".to_owned(), ..Freezes::in_folder(folder.path()) };
        other.write(&hosts(frozen()));
        assert_eq!(Freezes::in_folder(folder.path()).read(), []);
        fs::write(folder.path().join(FILE), b"{").unwrap();
        assert_eq!(Freezes::in_folder(folder.path()).read(), []);
    }
}
