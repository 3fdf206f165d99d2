//! [`Store`] in one file, by redb: copy-on-write B-trees, one writer, every commit flushed to disk.
//!
//! ```text
//!  meta       "format" "gateway" "history_bytes" "audit_anchor" "audit_head" "audit_bytes" "trial"
//!  revisions  number → Revision        documents  number → Document      journal  number → changes
//!  audit      number → AuditEntry      secrets    name → octets          tokens   id → Token
//! ```
//! Each value is a format octet and JSON (secrets: the octets themselves; audit entries: [`audit`]), so that a later
//! version reads what an earlier one wrote; tables that an earlier one did not have are made when the file is opened. A new file is made under another name and moved into place when it is whole:
//! a crash at the first start leaves nothing that would be taken for a damaged store.

mod audit;
mod tokens;

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ::redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _, StorageError, TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use watari_config::{Document, Problem, read};

use super::{
    AuditCheck, AuditEntry, AuditLine, Change, HISTORY_BYTES_MAX, JOURNAL_MAX, JournalEntry, Note,
    REVISIONS_MAX, Revision, Store, StoreError, Stored, TrialStep, summary,
};
use crate::access::token::{Token, TokenId};
use crate::trial::Trial;

type Numbered = TableDefinition<'static, u64, &'static [u8]>;
type Named = TableDefinition<'static, &'static str, &'static [u8]>;

const META: Named = TableDefinition::new("meta");
const REVISIONS: Numbered = TableDefinition::new("revisions");
const DOCUMENTS: Numbered = TableDefinition::new("documents");
const JOURNAL: Numbered = TableDefinition::new("journal");
const AUDIT: Numbered = TableDefinition::new("audit");
const TOKENS: Named = TableDefinition::new("tokens");
const SECRETS: Named = TableDefinition::new("secrets");

/// The name of the file in the state folder.
const FILE: &str = "watari.redb";
/// The layout of the file; another one is refused.
const FORMAT: &[u8] = b"watari 1";
/// The octet before each value: JSON of this version's structs.
const JSON_1: u8 = 1;
/// Pages that redb may keep in memory, bytes.
const CACHE_BYTES: usize = 16 << 20;

/// A store in one file.
pub struct RedbStore {
    database: Database,
    path: PathBuf,
}

impl RedbStore {
    /// Opens the store of `gateway` in the folder `state_dir`; makes both where there are none.
    ///
    /// # Errors
    /// When the file is no store, damaged, another gateway's or in use, or the disk fails. An existing
    /// file is never overwritten.
    pub fn open(state_dir: &Path, gateway: &str) -> Result<Self, StoreError> {
        make_folder(state_dir)?;
        let path = state_dir.join(FILE);
        if !Self::exists(state_dir)? {
            create(state_dir, &path, gateway)?;
        }
        // Without the check a page that the disk has spoilt would be met by a panic some day; it reads the
        // whole file, which HISTORY_BYTES_MAX keeps small.
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let database = builder.open(&path).map_err(|e| refused(&path, e))?;
        let store = Self { database, path };
        store.check_format(gateway)?;
        store.migrate()?;
        Ok(store)
    }

    /// Makes what an earlier version's file has not: the table of tokens, and the chain of the audit log.
    fn migrate(&self) -> Result<(), StoreError> {
        let write = self.begin_write()?;
        write.open_table(TOKENS).map_err(failed)?;
        audit::chain_unchained(&write)?;
        write.commit().map_err(failed)
    }

    /// Whether there is a store in the folder `state_dir`.
    ///
    /// # Errors
    /// When the folder cannot be looked at.
    pub fn exists(state_dir: &Path) -> Result<bool, StoreError> {
        state_dir.join(FILE).try_exists().map_err(|e| io("looking for the store", e))
    }

    /// A store that forgets: for dry runs and tests.
    ///
    /// # Errors
    /// Those of any store; none in practice.
    pub fn in_memory(gateway: &str) -> Result<Self, StoreError> {
        let path = PathBuf::from("(memory)");
        let backend = ::redb::backends::InMemoryBackend::new();
        let database = Database::builder().create_with_backend(backend).map_err(|e| refused(&path, e))?;
        initialise(&database, gateway)?;
        Ok(Self { database, path })
    }

    fn check_format(&self, gateway: &str) -> Result<(), StoreError> {
        let foreign = |why: &str| StoreError::Foreign { path: self.path.clone(), why: why.to_owned() };
        let read = self.begin_read()?;
        let meta = read.open_table(META).map_err(|_| foreign("it has no table `meta`"))?;
        let text = |key| Ok(meta.get(key).map_err(failed)?.map(|v| v.value().to_vec()));
        match text("format")? {
            Some(format) if format == FORMAT => {}
            Some(format) => return Err(foreign(&format!("format {:?}", String::from_utf8_lossy(&format)))),
            None => return Err(foreign("it names no format")),
        }
        let found = text("gateway")?.ok_or_else(|| foreign("it names no gateway"))?;
        if found != gateway.as_bytes() {
            let found = String::from_utf8_lossy(&found).into_owned();
            let (path, expected) = (self.path.clone(), gateway.to_owned());
            return Err(StoreError::OtherGateway { path, found, expected });
        }
        Ok(())
    }

    fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.database.begin_read().map_err(failed)
    }

    fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        let mut write = self.database.begin_write().map_err(failed)?;
        write.set_durability(Durability::Immediate).map_err(failed)?;
        Ok(write)
    }

    fn newest<T: DeserializeOwned>(
        &self,
        table: Numbered,
        limit: usize,
        what: &str,
    ) -> Result<Vec<T>, StoreError> {
        let read = self.begin_read()?;
        let table = read.open_table(table).map_err(failed)?;
        let mut out = Vec::new();
        for entry in table.iter().map_err(failed)?.rev().take(limit) {
            let (number, value) = entry.map_err(failed)?;
            out.push(decode(value.value(), || format!("{what} {}", number.value()))?);
        }
        Ok(out)
    }

    fn one<T: DeserializeOwned>(
        &self,
        table: Numbered,
        number: u64,
        what: &str,
    ) -> Result<Option<T>, StoreError> {
        let read = self.begin_read()?;
        let table = read.open_table(table).map_err(failed)?;
        let value = table.get(number).map_err(failed)?;
        value.map(|v| decode(v.value(), || format!("{what} {number}"))).transpose()
    }
}

impl Store for RedbStore {
    fn head(&self) -> Result<Option<Stored>, StoreError> {
        match newest_number(&self.begin_read()?)? {
            0 => Ok(None),
            number => self.revision(number),
        }
    }

    fn commit(&self, change: &Change<'_>) -> Result<Revision, StoreError> {
        let write = self.begin_write()?;
        let revision = stage(&write, change)?;
        write.commit().map_err(failed)?;
        Ok(revision)
    }

    fn trial(&self) -> Result<Option<Trial>, StoreError> {
        let read = self.begin_read()?;
        let meta = read.open_table(META).map_err(failed)?;
        let kept = meta.get("trial").map_err(failed)?;
        kept.map(|value| decode(value.value(), || "what is on trial".to_owned())).transpose()
    }

    fn decide_trial(&self, step: &TrialStep, note: &Note) -> Result<(), StoreError> {
        let write = self.begin_write()?;
        stage_trial(&write, step)?;
        audit::stage(&write, note, 0, &[])?;
        write.commit().map_err(failed)
    }

    fn revision(&self, number: u64) -> Result<Option<Stored>, StoreError> {
        let Some(revision) = self.one::<Revision>(REVISIONS, number, "revision")? else { return Ok(None) };
        let read = self.begin_read()?;
        let table = read.open_table(DOCUMENTS).map_err(failed)?;
        let Some(bytes) = table.get(number).map_err(failed)? else { return Ok(None) };
        let what = || format!("the document of revision {number}");
        let tree: serde_json::Value = decode(bytes.value(), what)?;
        let document: Document = read::read_value(&tree).map_err(|problems: Vec<Problem>| {
            let why = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            StoreError::Unreadable { what: what(), why }
        })?;
        Ok(Some(Stored { revision, document }))
    }

    fn revisions(&self, limit: usize) -> Result<Vec<Revision>, StoreError> {
        self.newest(REVISIONS, limit, "revision")
    }

    fn journal(&self, revision: u64) -> Result<Option<JournalEntry>, StoreError> {
        self.one(JOURNAL, revision, "journal entry")
    }

    fn audit(&self, limit: usize) -> Result<Vec<AuditEntry>, StoreError> {
        audit::newest(&self.begin_read()?, limit)
    }

    fn audit_lines(&self, after: u64, limit: usize) -> Result<Vec<AuditLine>, StoreError> {
        audit::lines(&self.begin_read()?, after, limit)
    }

    fn check_audit(&self) -> Result<AuditCheck, StoreError> {
        audit::check(&self.begin_read()?)
    }

    fn note(&self, notes: &[Note]) -> Result<(), StoreError> {
        self.keep_tokens(&[], &[], notes)
    }

    fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        tokens::all(&self.begin_read()?)
    }

    fn keep_tokens(&self, put: &[Token], remove: &[TokenId], notes: &[Note]) -> Result<(), StoreError> {
        let write = self.begin_write()?;
        tokens::stage(&write, put, remove)?;
        for note in notes {
            audit::stage(&write, note, 0, &[])?;
        }
        write.commit().map_err(failed)
    }

    fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.begin_read()?;
        let table = read.open_table(SECRETS).map_err(failed)?;
        Ok(table.get(name).map_err(failed)?.map(|v| v.value().to_vec()))
    }

    fn keep_secret(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let write = self.begin_write()?;
        {
            let mut table = write.open_table(SECRETS).map_err(failed)?;
            let kept = table.get(name).map_err(failed)?.map(|v| v.value().to_vec());
            if let Some(kept) = kept {
                return Ok(kept);
            }
            table.insert(name, value).map_err(failed)?;
        }
        write.commit().map_err(failed)?;
        Ok(value.to_vec())
    }
}

/// Writes all parts of a change into the transaction; the caller commits or drops it.
fn stage(write: &WriteTransaction, change: &Change<'_>) -> Result<Revision, StoreError> {
    let mut revisions = write.open_table(REVISIONS).map_err(failed)?;
    let mut documents = write.open_table(DOCUMENTS).map_err(failed)?;
    let last = match revisions.last().map_err(failed)? {
        Some((_, value)) => Some(decode::<Revision>(value.value(), || "the newest revision".to_owned())?),
        None => None,
    };
    let found = last.as_ref().map_or(0, |r| r.revision);
    if found != change.base {
        return Err(StoreError::Moved { base: change.base, found });
    }
    let revision = Revision {
        revision: found + 1,
        generation: last.map_or(0, |r| r.generation) + 1,
        at: change.at,
        who: change.actor.name.clone(),
        from: change.actor.from.clone(),
        action: change.action.to_owned(),
        reason: change.reason.map(str::to_owned),
        summary: summary(&change.changes),
    };
    let number = revision.revision;
    let document = encode(change.document);
    revisions.insert(number, encode(&revision).as_slice()).map_err(failed)?;
    documents.insert(number, document.as_slice()).map_err(failed)?;

    let goes_back_to = stage_trial(write, &change.trial)?.map(|trial| trial.back_to);
    let mut meta = write.open_table(META).map_err(failed)?;
    let mut bytes = counted(&meta, "history_bytes")? + document.len() as u64;
    while documents.len().map_err(failed)? > 1
        && (documents.len().map_err(failed)? > REVISIONS_MAX || bytes > HISTORY_BYTES_MAX)
    {
        let oldest = documents.first().map_err(failed)?.map(|(number, _)| number.value());
        if oldest == goes_back_to {
            break;
        }
        revisions.pop_first().map_err(failed)?;
        let oldest = documents.pop_first().map_err(failed)?;
        bytes = bytes.saturating_sub(oldest.map_or(0, |(_, v)| v.value().len() as u64));
    }
    meta.insert("history_bytes", bytes.to_be_bytes().as_slice()).map_err(failed)?;
    // The audit log writes into it as well.
    drop(meta);

    let entry = JournalEntry { revision: number, changes: change.changes.clone() };
    append(write, JOURNAL, number, &entry, JOURNAL_MAX)?;
    let note = Note::done(change.actor, change.action, revision.summary.clone(), change.at);
    audit::stage(write, &note, number, &change.changes)?;
    Ok(revision)
}

/// Carries out the step; answers what is on trial after it.
fn stage_trial(write: &WriteTransaction, step: &TrialStep) -> Result<Option<Trial>, StoreError> {
    let mut meta = write.open_table(META).map_err(failed)?;
    match step {
        TrialStep::Begin(trial) => {
            meta.insert("trial", encode(trial).as_slice()).map_err(failed)?;
            Ok(Some(trial.clone()))
        }
        TrialStep::End => {
            meta.remove("trial").map_err(failed)?;
            Ok(None)
        }
        TrialStep::Stay => {
            let kept = meta.get("trial").map_err(failed)?;
            kept.map(|value| decode(value.value(), || "what is on trial".to_owned())).transpose()
        }
    }
}

fn append<T: Serialize>(
    write: &WriteTransaction,
    table: Numbered,
    number: u64,
    value: &T,
    entries_max: u64,
) -> Result<(), StoreError> {
    let mut table = write.open_table(table).map_err(failed)?;
    table.insert(number, encode(value).as_slice()).map_err(failed)?;
    while table.len().map_err(failed)? > entries_max {
        table.pop_first().map_err(failed)?;
    }
    Ok(())
}

/// A number in `meta`; 0 where there is none.
fn counted(meta: &::redb::Table<'_, &'static str, &'static [u8]>, key: &str) -> Result<u64, StoreError> {
    let value = meta.get(key).map_err(failed)?;
    Ok(value.and_then(|v| v.value().try_into().ok().map(u64::from_be_bytes)).unwrap_or(0))
}

fn newest_number(read: &ReadTransaction) -> Result<u64, StoreError> {
    let table = read.open_table(REVISIONS).map_err(failed)?;
    Ok(table.last().map_err(failed)?.map_or(0, |(k, _)| k.value()))
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![JSON_1];
    serde_json::to_writer(&mut bytes, value).expect("plain values become JSON");
    bytes
}

fn decode<T: DeserializeOwned>(bytes: &[u8], what: impl Fn() -> String) -> Result<T, StoreError> {
    let unreadable = |why: String| StoreError::Unreadable { what: what(), why };
    match bytes.split_first() {
        Some((&JSON_1, json)) => serde_json::from_slice(json).map_err(|e| unreadable(e.to_string())),
        Some((format, _)) => Err(unreadable(format!("format {format} is of a later version"))),
        None => Err(unreadable("it is empty".to_owned())),
    }
}

fn make_folder(state_dir: &Path) -> Result<(), StoreError> {
    let doing = || format!("making the folder {}", state_dir.display());
    if !state_dir.is_dir() {
        fs::create_dir_all(state_dir).map_err(|e| io(doing(), e))?;
        fs::set_permissions(state_dir, Permissions::from_mode(0o700)).map_err(|e| io(doing(), e))?;
    }
    Ok(())
}

/// Makes a whole empty store beside `path` and moves it there. What an interrupted attempt left is replaced.
fn create(state_dir: &Path, path: &Path, gateway: &str) -> Result<(), StoreError> {
    let new = path.with_extension("redb.new");
    let doing = || format!("making {}", path.display());
    let empty = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    empty.map_err(|e| io(doing(), e))?;
    let database = Database::create(&new).map_err(|e| refused(&new, e))?;
    initialise(&database, gateway)?;
    database.close().map_err(|e| refused(&new, e))?;
    fs::rename(&new, path).map_err(|e| io(doing(), e))?;
    File::open(state_dir).and_then(|d| d.sync_all()).map_err(|e| io(doing(), e))
}

/// Makes the tables of an empty store.
fn initialise(database: &Database, gateway: &str) -> Result<(), StoreError> {
    let mut write = database.begin_write().map_err(failed)?;
    write.set_durability(Durability::Immediate).map_err(failed)?;
    {
        let mut meta = write.open_table(META).map_err(failed)?;
        meta.insert("format", FORMAT).map_err(failed)?;
        meta.insert("gateway", gateway.as_bytes()).map_err(failed)?;
        for table in [REVISIONS, DOCUMENTS, JOURNAL, AUDIT] {
            write.open_table(table).map_err(failed)?;
        }
        for table in [SECRETS, TOKENS] {
            write.open_table(table).map_err(failed)?;
        }
    }
    write.commit().map_err(failed)
}

fn refused(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path },
        DatabaseError::Storage(StorageError::Io(e))
            if e.kind() != std::io::ErrorKind::InvalidData
                && e.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            io(format!("opening {}", path.display()), e)
        }
        other => StoreError::Foreign { path, why: other.to_string() },
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    io("using the store", error)
}

fn io(doing: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Io { doing: doing.into(), source: Box::new(source) }
}
