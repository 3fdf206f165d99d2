//! The audit log in the file, as the chain of [`super::super::audit`].
//!
//! A value is the format octet 2, the hash of the entry before, its own, and the JSON that it is the hash of. In `meta` stand
//! the hash of the last entry that has left at the limits ("audit_anchor"), number and hash of the newest
//! ("audit_head"), and the octets of all values ("audit_bytes").

use ::redb::{ReadTransaction, ReadableTable as _, ReadableTableMetadata as _, Table, WriteTransaction};

use super::{AUDIT, JSON_1, META, StoreError, counted, decode, failed};
use crate::store::audit::{AuditCheck, AuditLine, Checker, Link, link};
use crate::store::{
    AUDIT_BYTES_MAX, AUDIT_CHANGES_BYTES_MAX, AUDIT_MAX, AuditEntry, Note, ObjectChange, without_secrets,
};

/// The octet before a value of the chain.
const CHAINED: u8 = 2;
/// Octets before the JSON.
const HEAD_BYTES: usize = 1 + 2 * size_of::<Link>();

type Meta<'a> = Table<'a, &'static str, &'static [u8]>;

/// Writes `note` as the newest entry; the oldest leave at the limits.
pub(super) fn stage(
    write: &WriteTransaction,
    note: &Note,
    revision: u64,
    changes: &[ObjectChange],
) -> Result<(), StoreError> {
    let mut table = write.open_table(AUDIT).map_err(failed)?;
    let mut meta = write.open_table(META).map_err(failed)?;
    let (last, prev) = newest_link(&meta)?;
    let entry = AuditEntry {
        seq: last + 1,
        at: note.at,
        who: note.who.clone(),
        token: note.token.clone(),
        role: note.role,
        from: note.from.clone(),
        action: note.action.clone(),
        outcome: note.outcome,
        times: note.times,
        revision,
        summary: note.summary.clone(),
        changes: bounded(without_secrets(changes.to_vec())),
    };
    let json = serde_json::to_vec(&entry).expect("plain values become JSON");
    let value = chained(&prev, &json);
    table.insert(entry.seq, value.as_slice()).map_err(failed)?;
    set_head(&mut meta, entry.seq, &link(&prev, &json))?;
    let mut bytes = counted(&meta, "audit_bytes")? + value.len() as u64;
    while table.len().map_err(failed)? > 1
        && (table.len().map_err(failed)? > AUDIT_MAX || bytes > AUDIT_BYTES_MAX)
    {
        let Some((_, oldest)) = table.pop_first().map_err(failed)? else { break };
        bytes = bytes.saturating_sub(oldest.value().len() as u64);
        if let Some((_, hash, _)) = split(oldest.value()) {
            meta.insert("audit_anchor", hash.as_slice()).map_err(failed)?;
        }
    }
    meta.insert("audit_bytes", bytes.to_be_bytes().as_slice()).map_err(failed)?;
    Ok(())
}

/// The changes; only their names where they are too long.
fn bounded(changes: Vec<ObjectChange>) -> Vec<ObjectChange> {
    let length = serde_json::to_vec(&changes).map_or(0, |json| json.len());
    if length <= AUDIT_CHANGES_BYTES_MAX {
        return changes;
    }
    let named = changes.into_iter().map(|change| ObjectChange { before: None, after: None, ..change });
    let mut left = AUDIT_CHANGES_BYTES_MAX;
    let fits = move |change: &ObjectChange| {
        let length = change.object.len() + 64;
        let fits = length <= left;
        left = left.saturating_sub(length);
        fits
    };
    named.take_while(fits).collect()
}

fn chained(prev: &Link, json: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEAD_BYTES + json.len());
    value.push(CHAINED);
    value.extend_from_slice(prev);
    value.extend_from_slice(&link(prev, json));
    value.extend_from_slice(json);
    value
}

/// The hash before, the own one, and the JSON of a value of the chain.
fn split(value: &[u8]) -> Option<(Link, Link, &[u8])> {
    let (&CHAINED, rest) = value.split_first()? else { return None };
    let (prev, rest) = rest.split_first_chunk()?;
    let (hash, json) = rest.split_first_chunk()?;
    Some((*prev, *hash, json))
}

fn line(seq: u64, value: &[u8]) -> Option<AuditLine> {
    let (prev, hash, json) = split(value)?;
    Some(AuditLine { seq, prev, hash, json: str::from_utf8(json).ok()?.to_owned() })
}

fn set_head(meta: &mut Meta<'_>, seq: u64, hash: &Link) -> Result<(), StoreError> {
    let head = [seq.to_be_bytes().as_slice(), hash].concat();
    meta.insert("audit_head", head.as_slice()).map_err(failed)?;
    Ok(())
}

fn head_of(value: &[u8]) -> Option<(u64, Link)> {
    let (seq, hash) = value.split_first_chunk()?;
    Some((u64::from_be_bytes(*seq), hash.try_into().ok()?))
}

/// Number and hash of the newest entry; zeros before the first.
fn newest_link(meta: &Meta<'_>) -> Result<(u64, Link), StoreError> {
    let head = meta.get("audit_head").map_err(failed)?;
    Ok(head.and_then(|value| head_of(value.value())).unwrap_or_default())
}

/// Makes the chain for the entries of a version that had none.
pub(super) fn chain_unchained(write: &WriteTransaction) -> Result<(), StoreError> {
    let mut table = write.open_table(AUDIT).map_err(failed)?;
    let mut meta = write.open_table(META).map_err(failed)?;
    if meta.get("audit_head").map_err(failed)?.is_some() {
        return Ok(());
    }
    let mut unchained = Vec::new();
    for entry in table.iter().map_err(failed)? {
        let (seq, value) = entry.map_err(failed)?;
        unchained.push((seq.value(), value.value().to_vec()));
    }
    let (mut last, mut prev, mut bytes) = (0, Link::default(), 0);
    for (seq, value) in unchained {
        let json = match value.split_first() {
            Some((&JSON_1, json)) => json,
            _ => {
                return Err(decode::<AuditEntry>(&value, || format!("audit entry {seq}"))
                    .expect_err("another format"));
            }
        };
        let value = chained(&prev, json);
        table.insert(seq, value.as_slice()).map_err(failed)?;
        (last, prev, bytes) = (seq, link(&prev, json), bytes + value.len() as u64);
    }
    set_head(&mut meta, last, &prev)?;
    meta.insert("audit_bytes", bytes.to_be_bytes().as_slice()).map_err(failed)?;
    Ok(())
}

/// The newest entries, newest first.
pub(super) fn newest(read: &ReadTransaction, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
    let table = read.open_table(AUDIT).map_err(failed)?;
    let mut entries = Vec::new();
    for entry in table.iter().map_err(failed)?.rev().take(limit) {
        let (seq, value) = entry.map_err(failed)?;
        let json = split(value.value()).map(|(_, _, json)| json);
        let read = json.map(serde_json::from_slice);
        let unreadable =
            |why: String| StoreError::Unreadable { what: format!("audit entry {}", seq.value()), why };
        match read {
            Some(Ok(entry)) => entries.push(entry),
            Some(Err(error)) => return Err(unreadable(error.to_string())),
            None => return Err(unreadable("it is no entry of the chain".to_owned())),
        }
    }
    Ok(entries)
}

/// Entries with a number above `after`, oldest first.
pub(super) fn lines(read: &ReadTransaction, after: u64, limit: usize) -> Result<Vec<AuditLine>, StoreError> {
    let table = read.open_table(AUDIT).map_err(failed)?;
    let mut lines = Vec::new();
    for entry in table.range(after.saturating_add(1)..).map_err(failed)?.take(limit) {
        let (seq, value) = entry.map_err(failed)?;
        let what = || format!("audit entry {}", seq.value());
        let unreadable =
            || StoreError::Unreadable { what: what(), why: "it is no entry of the chain".to_owned() };
        lines.push(line(seq.value(), value.value()).ok_or_else(unreadable)?);
    }
    Ok(lines)
}

/// Whether the log is whole.
pub(super) fn check(read: &ReadTransaction) -> Result<AuditCheck, StoreError> {
    let meta = read.open_table(META).map_err(failed)?;
    let anchor = meta.get("audit_anchor").map_err(failed)?;
    let anchor = anchor.map_or(Some(Link::default()), |value| value.value().try_into().ok());
    let head = meta.get("audit_head").map_err(failed)?.and_then(|value| head_of(value.value()));
    let table = read.open_table(AUDIT).map_err(failed)?;
    let mut checker = Checker::new(anchor);
    for entry in table.iter().map_err(failed)? {
        let (seq, value) = entry.map_err(failed)?;
        match line(seq.value(), value.value()) {
            Some(line) => checker.take(&line),
            None => checker.unreadable(seq.value(), "it is no entry of the chain"),
        }
    }
    Ok(checker.end(head))
}
