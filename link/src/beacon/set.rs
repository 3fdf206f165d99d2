//! Which beacons there are, what their frames are like, and in which part of the interval each is sent. Pure.
//!
//! ```text
//!   interval 200 ms │ slot 0 │ slot 1 │ … │ slot 9 │ slot 0 │ …
//!   beacon n leaves in slot n mod 10: thousands of them make no burst
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use watari_abi::beacon::{self, Beacon};

use crate::protocol::{BEACON_INTERVAL_MS, BeaconConfig, BeaconStatus, VlanTag};
use crate::state::StoredBeacon;

/// Parts of an interval.
pub(super) const SLOTS: usize = 10;
/// How long one part is.
pub(super) const SLOT: Duration = Duration::from_millis(BEACON_INTERVAL_MS as u64 / SLOTS as u64);
/// Priority of the tags: internetwork control (IEEE 802.1Q Table I-1), before what users send.
const PRIORITY: u16 = 6;

/// Where a beacon leaves.
type Place = (String, Vec<VlanTag>);

/// One beacon.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    config: BeaconConfig,
    since_ms: u64,
    /// The whole frame, tags inside.
    pub(super) frame: Vec<u8>,
    /// It is new or says something else: it does not wait for its slot.
    is_urgent: bool,
    sent: u64,
    failed: u64,
    error: Option<String>,
}

/// All beacons, ordered by place.
#[derive(Debug, Default)]
pub(super) struct BeaconSet(BTreeMap<Place, Entry>);

impl BeaconSet {
    /// The beacons of a former process.
    pub(super) fn restored(stored: &[StoredBeacon]) -> Self {
        let entries = stored.iter().map(|s| (place(&s.config), Entry::new(s.config.clone(), s.since_ms)));
        Self(entries.collect())
    }

    /// Makes the set be so (it was validated). What has the place and segment that it had keeps its age; the rest
    /// began at `now_ms`. Returns what was touched.
    pub(super) fn set(&mut self, wanted: Vec<BeaconConfig>, now_ms: u64) -> Vec<String> {
        let mut touched = Vec::new();
        let mut former = std::mem::take(&mut self.0);
        for config in wanted {
            let place = place(&config);
            let path = format!("beacons[{}]", shown(&place));
            let entry = match former.remove(&place) {
                Some(entry) if entry.config == config => entry,
                Some(entry) => {
                    touched.push(format!("{path}.changed"));
                    let since = if entry.config.vni == config.vni { entry.since_ms } else { now_ms };
                    Entry { sent: entry.sent, failed: entry.failed, ..Entry::new(config, since) }
                }
                None => {
                    touched.push(format!("{path}.added"));
                    Entry::new(config, now_ms)
                }
            };
            self.0.insert(place, entry);
        }
        touched.extend(former.keys().map(|place| format!("beacons[{}].removed", shown(place))));
        touched
    }

    /// The beacons that are to leave in `slot`, and the urgent ones, each with the name of its device.
    pub(super) fn take_due(&mut self, slot: usize) -> impl Iterator<Item = (&str, &mut Entry)> {
        let numbered = self.0.iter_mut().enumerate();
        numbered.filter_map(move |(number, ((device, _), entry))| {
            let is_urgent = std::mem::take(&mut entry.is_urgent);
            (is_urgent || number % SLOTS == slot % SLOTS).then_some((device.as_str(), entry))
        })
    }

    /// The urgent beacons.
    pub(super) fn take_urgent(&mut self) -> impl Iterator<Item = (&str, &mut Entry)> {
        let entries = self.0.iter_mut();
        entries.filter_map(|((device, _), entry)| {
            std::mem::take(&mut entry.is_urgent).then_some((device.as_str(), entry))
        })
    }

    /// How many slots have something to send: the first ones.
    pub(super) fn busy_slots(&self) -> usize {
        self.0.len().min(SLOTS)
    }

    /// For the state file.
    pub(super) fn stored(&self) -> Vec<StoredBeacon> {
        let stored = |entry: &Entry| StoredBeacon { config: entry.config.clone(), since_ms: entry.since_ms };
        self.0.values().map(stored).collect()
    }

    /// Every beacon as it is.
    pub(super) fn list(&self) -> Vec<BeaconStatus> {
        let status = |entry: &Entry| BeaconStatus {
            config: entry.config.clone(),
            since_ms: entry.since_ms,
            sent: entry.sent,
            failed: entry.failed,
            error: entry.error.clone(),
        };
        self.0.values().map(status).collect()
    }
}

impl Entry {
    fn new(config: BeaconConfig, since_ms: u64) -> Self {
        let frame = frame(&config, since_ms);
        Self { config, since_ms, frame, is_urgent: true, sent: 0, failed: 0, error: None }
    }

    /// Notes what became of a frame.
    pub(super) fn note(&mut self, sent: Result<(), String>) {
        match sent {
            Ok(()) => {
                self.sent += 1;
                self.error = None;
            }
            Err(error) => {
                self.failed += 1;
                if self.error.as_ref() != Some(&error) {
                    tracing::warn!(device = self.config.device, error, "beacon");
                    self.error = Some(error);
                }
            }
        }
    }
}

fn place(config: &BeaconConfig) -> Place {
    (config.device.clone(), config.tags.clone())
}

/// `eth1`, `eth1.100`, `eth1.100.7`.
fn shown((device, tags): &Place) -> String {
    tags.iter().fold(device.clone(), |text, tag| format!("{text}.{}", tag.vid))
}

/// The frame as it goes to the device: the tags lie in it, because only so they pass any device.
fn frame(config: &BeaconConfig, since_ms: u64) -> Vec<u8> {
    let flags = if config.blocked { beacon::BLOCKED } else { 0 };
    let &BeaconConfig { origin, vni, port_id, .. } = config;
    let untagged = Beacon { flags, origin, vni, since_ms, port_id }.frame();
    let (addresses, rest) = untagged.split_at(12);
    let mut frame = addresses.to_vec();
    for tag in &config.tags {
        frame.extend(tag.tpid.to_be_bytes());
        frame.extend((PRIORITY << 13 | tag.vid).to_be_bytes());
    }
    frame.extend(rest);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(device: &str, vids: &[u16]) -> BeaconConfig {
        let tpids = if vids.len() == 2 { [0x88a8, 0x8100] } else { [0x8100; 2] };
        let tags = vids.iter().zip(tpids).map(|(vid, tpid)| VlanTag { tpid, vid: *vid }).collect();
        let origin = [2, 0x57, 0xd4, 0, 0, 1];
        BeaconConfig { device: device.to_owned(), tags, origin, vni: 1000, port_id: 9, blocked: false }
    }

    fn ages(set: &BeaconSet) -> Vec<u64> {
        set.list().into_iter().map(|beacon| beacon.since_ms).collect()
    }

    #[test]
    fn an_attachment_keeps_its_age_until_it_is_another_one() {
        let mut set = BeaconSet::default();
        let (one, two) = (config("a", &[1]), config("a", &[2]));
        assert_eq!(set.set(vec![one.clone(), two.clone()], 10), ["beacons[a.1].added", "beacons[a.2].added"]);
        assert!(set.set(vec![two.clone(), one.clone()], 20).is_empty(), "the order means nothing");
        let blocked = BeaconConfig { blocked: true, port_id: 7, ..one.clone() };
        assert_eq!(set.set(vec![blocked, two.clone()], 30), ["beacons[a.1].changed"]);
        assert_eq!(ages(&set), [10, 10]);
        let mut set = BeaconSet::restored(&set.stored());
        assert_eq!(ages(&set), [10, 10]);
        let other_segment = BeaconConfig { vni: 2000, ..one.clone() };
        assert_eq!(set.set(vec![other_segment], 40), ["beacons[a.1].changed", "beacons[a.2].removed"]);
        assert_eq!(ages(&set), [40]);
        set.set(vec![one, two], 50);
        assert_eq!(ages(&set), [50, 50]);
    }

    #[test]
    fn each_beacon_leaves_once_at_first_and_once_in_an_interval() {
        let mut set = BeaconSet::default();
        set.set((1..=25).map(|vid| config("a", &[vid])).collect(), 10);
        assert_eq!(set.take_urgent().count(), 25);
        assert_eq!(set.take_urgent().count(), 0);
        let per_slot: Vec<usize> = (0..SLOTS).map(|slot| set.take_due(slot).count()).collect();
        assert_eq!(per_slot, [3, 3, 3, 3, 3, 2, 2, 2, 2, 2]);
        set.set(vec![config("a", &[1])], 20);
        assert_eq!(set.busy_slots(), 1);
        assert_eq!((0..SLOTS).map(|slot| set.take_due(slot).count()).sum::<usize>(), 1);
    }

    #[test]
    fn tags_lie_between_addresses_and_type() {
        let mut set = BeaconSet::default();
        set.set(vec![config("a", &[5, 300])], 10);
        let frame = set.take_urgent().next().unwrap().1.frame.clone();
        assert_eq!(frame[12..20], [0x88, 0xa8, 0xc0, 5, 0x81, 0, 0xc1, 0x2c]);
        let untagged = [&frame[..12], &frame[20..]].concat();
        let read = Beacon::parse(&untagged).unwrap();
        assert_eq!((read.since_ms, read.vni, read.port_id, read.flags), (10, 1000, 9, 0));
    }
}
