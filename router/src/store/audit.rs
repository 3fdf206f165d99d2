//! The audit log as a chain: each entry carries the hash of the one before, so that what was changed or taken away
//! afterwards is found.
//!
//! ```text
//!  hash(n) = SHA-256( hash(n − 1) ‖ JSON of entry n )        hash(0) = 32 octets of zero
//! ```
//! The oldest entries leave at the limits of the store; the hash of the last one that left is kept as the anchor. Who can
//! write the file can make a new chain: against that helps an export elsewhere, whose hashes no longer fit then. Pure.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

/// A hash of the chain.
pub(super) type Link = [u8; 32];

/// The most faults that a check names.
const FAULTS_MAX: usize = 100;

/// How something that was asked ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    #[default]
    Done,
    /// It was refused, and nothing has changed.
    Refused,
    /// It was allowed and did not succeed.
    Failed,
}

/// One entry as it is chained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditLine {
    /// Its number.
    pub seq: u64,
    /// The hash of the entry before.
    pub prev: Link,
    /// Its own hash.
    pub hash: Link,
    /// The entry: JSON, octet by octet what the hash is made of.
    pub json: String,
}

impl AuditLine {
    /// `{"prev":"…","hash":"…","entry":{…}}`
    pub fn to_text(&self) -> String {
        let (prev, hash) = (hex::encode(self.prev), hex::encode(self.hash));
        format!("{{\"prev\":\"{prev}\",\"hash\":\"{hash}\",\"entry\":{}}}", self.json)
    }

    /// Reads [`AuditLine::to_text`]; `None` for anything else.
    pub fn from_text(text: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Numbered {
            seq: u64,
        }
        let rest = text.trim_end().strip_prefix("{\"prev\":\"")?;
        let (prev, rest) = rest.split_once("\",\"hash\":\"")?;
        let (hash, rest) = rest.split_once("\",\"entry\":")?;
        let json = rest.strip_suffix('}')?.to_owned();
        let link = |text: &str| <Link>::try_from(hex::decode(text).ok()?).ok();
        let Numbered { seq } = serde_json::from_str(&json).ok()?;
        Some(Self { seq, prev: link(prev)?, hash: link(hash)?, json })
    }
}

/// The hash of the entry `json` after the one with `prev`.
pub(super) fn link(prev: &Link, json: &[u8]) -> Link {
    Sha256::new().chain_update(prev).chain_update(json).finalize().into()
}

/// Where the chain is broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// The entry at which it shows.
    pub seq: u64,
    /// What is wrong.
    pub what: String,
}

/// What a check of the log found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditCheck {
    /// Whether nothing was changed or taken away.
    pub intact: bool,
    /// How many entries there are.
    pub entries: u64,
    /// The number of the oldest; 0 without entries.
    pub first: u64,
    /// The number of the newest; 0 without entries.
    pub last: u64,
    /// The hash of the newest, in hexadecimal: what an export is compared with.
    pub head: String,
    /// What is wrong, the first hundred.
    pub faults: Vec<Fault>,
}

/// Checks entries one after the other.
#[derive(Debug)]
pub(super) struct Checker {
    prev: Option<Link>,
    next: Option<u64>,
    entries: u64,
    first: u64,
    last: u64,
    faults: Vec<Fault>,
}

impl Checker {
    /// A check that begins after the entry with the hash `anchor`, or anywhere.
    pub(super) fn new(anchor: Option<Link>) -> Self {
        Self { prev: anchor, next: None, entries: 0, first: 0, last: 0, faults: Vec::new() }
    }

    fn fault(&mut self, seq: u64, what: impl Into<String>) {
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(Fault { seq, what: what.into() });
        }
    }

    /// Notes an entry that cannot even be read.
    pub(super) fn unreadable(&mut self, seq: u64, what: impl Into<String>) {
        self.fault(seq, what);
        (self.prev, self.next) = (None, Some(seq + 1));
        self.count(seq);
    }

    /// Takes the next entry.
    pub(super) fn take(&mut self, line: &AuditLine) {
        match self.next {
            Some(next) if line.seq > next => {
                let missing = if line.seq == next + 1 {
                    format!("{next} is")
                } else {
                    format!("{next} to {} are", line.seq - 1)
                };
                self.fault(line.seq, format!("{missing} missing before it"));
            }
            Some(next) if line.seq < next => self.fault(line.seq, "it stands in the wrong place"),
            _ => {
                if self.prev.is_some_and(|prev| prev != line.prev) {
                    self.fault(line.seq, "it does not follow the one before it");
                }
            }
        }
        if link(&line.prev, line.json.as_bytes()) != line.hash {
            self.fault(line.seq, "it was changed");
        }
        (self.prev, self.next) = (Some(line.hash), Some(line.seq + 1));
        self.count(line.seq);
    }

    fn count(&mut self, seq: u64) {
        if self.entries == 0 {
            self.first = seq;
        }
        self.entries += 1;
        self.last = seq;
    }

    /// The end: `head` is what the newest entry must be, where that is known.
    pub(super) fn end(mut self, head: Option<(u64, Link)>) -> AuditCheck {
        let last = self.last;
        match head {
            Some((seq, _)) if seq != last => {
                self.fault(seq, format!("the newest entries are missing: {seq} was the last, {last} is"));
            }
            Some((seq, hash)) if seq != 0 && self.prev.is_some_and(|prev| prev != hash) => {
                self.fault(seq, "it is not the entry that was written last");
            }
            _ => {}
        }
        AuditCheck {
            intact: self.faults.is_empty(),
            entries: self.entries,
            first: self.first,
            last,
            head: hex::encode(self.prev.unwrap_or_default()),
            faults: self.faults,
        }
    }
}

/// Checks an export: lines as [`AuditLine::to_text`] writes them.
pub fn check_lines<'a>(lines: impl Iterator<Item = &'a str>) -> AuditCheck {
    let mut checker = Checker::new(None);
    let mut expected = 1;
    for (number, text) in lines.enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        match AuditLine::from_text(text) {
            Some(line) => {
                checker.take(&line);
                expected = line.seq + 1;
            }
            None => {
                checker.unreadable(expected, format!("line {} is no audit entry", number + 1));
                expected += 1;
            }
        }
    }
    checker.end(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chain(count: u64) -> Vec<AuditLine> {
        let mut prev = Link::default();
        (1..=count)
            .map(|seq| {
                let json = format!("{{\"seq\":{seq},\"who\":\"alice\",\"action\":\"put {seq}\"}}");
                let hash = link(&prev, json.as_bytes());
                let line = AuditLine { seq, prev, hash, json };
                prev = hash;
                line
            })
            .collect()
    }

    fn checked(lines: &[AuditLine], head: Option<(u64, Link)>) -> AuditCheck {
        let mut checker = Checker::new(Some(Link::default()));
        lines.iter().for_each(|line| checker.take(line));
        checker.end(head)
    }

    fn head(lines: &[AuditLine]) -> Option<(u64, Link)> {
        lines.last().map(|line| (line.seq, line.hash))
    }

    #[test]
    fn a_whole_chain_is_intact_and_its_export_too() {
        let lines = chain(5);
        let check = checked(&lines, head(&lines));
        assert!(check.intact, "{check:?}");
        assert_eq!((check.entries, check.first, check.last), (5, 1, 5));
        let text: Vec<String> = lines.iter().map(AuditLine::to_text).collect();
        let exported = check_lines(text.iter().map(String::as_str));
        assert!(exported.intact && exported.head == check.head, "{exported:?}");
        assert!(checked(&[], Some((0, Link::default()))).intact, "an empty log is whole");
    }

    #[test]
    fn the_newest_entries_cannot_be_cut_off() {
        let lines = chain(5);
        let check = checked(&lines[..3], head(&lines));
        assert_eq!(check.faults[0].what, "the newest entries are missing: 5 was the last, 3 is");
    }

    #[test]
    fn an_entry_with_its_hash_made_anew_breaks_the_next() {
        let mut lines = chain(5);
        lines[2].json = lines[2].json.replace("alice", "mallory");
        lines[2].hash = link(&lines[2].prev, lines[2].json.as_bytes());
        let check = checked(&lines, head(&lines));
        assert_eq!(check.faults, [Fault { seq: 4, what: "it does not follow the one before it".to_owned() }]);
    }

    proptest! {
        #[test]
        fn whatever_is_tampered_with_is_found(count in 2_u64..12, at in any::<prop::sample::Index>(), how in 0..3) {
            let whole = chain(count);
            let at = at.index(whole.len());
            let mut lines = whole.clone();
            match how {
                0 => { lines[at].json = lines[at].json.replace("put", "cut"); }
                1 => { lines.remove(at); }
                _ => { let other = (at + 1) % lines.len(); lines.swap(at, other); }
            }
            prop_assert!(!checked(&lines, head(&whole)).intact);
        }
    }
}
