//! What survives: every revision of the document, who changed what, tokens, and the gateway's own secrets.
//!
//! One change is one transaction: document, revision, generation, journal entry and audit entry are all
//! on disk, or none is. What was acknowledged is on disk.
//!
//! [`Store`] is what the brain knows; [`RedbStore`] keeps it in one file. A store that several gateways
//! share is the same trait: [`Change::base`] is what makes two writers safe there.

mod audit;
mod diff;
mod redb;
mod secrets;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use watari_config::Document;

use crate::access::token::{Token, TokenId};
use crate::actor::{Actor, Role};
use crate::trial::Trial;

pub use audit::{AuditCheck, AuditLine, Fault, Outcome, check_lines};
pub use diff::{ChangeKind, ObjectChange, diff, diff_trees, hide_token, summary, tree, without_secrets};
pub use redb::RedbStore;
pub use secrets::{Secrets, SecretsError, token_sha256};

/// The most revisions that are kept whole.
pub const REVISIONS_MAX: u64 = 1000;
/// The most bytes of documents that are kept; the oldest revisions leave first, the newest never.
pub const HISTORY_BYTES_MAX: u64 = 64 << 20;
/// The most journal entries that are kept.
pub const JOURNAL_MAX: u64 = 5_000;
/// The most audit entries that are kept.
pub const AUDIT_MAX: u64 = 50_000;
/// The most bytes of audit entries that are kept; the oldest leave first, the newest never.
pub const AUDIT_BYTES_MAX: u64 = 64 << 20;
/// The most bytes of changed objects in one audit entry; of more, only the names stand there.
pub const AUDIT_CHANGES_BYTES_MAX: usize = 64 << 10;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is no store, or a damaged one. It is left as it is.
    #[error("{path} is no store of watari or is damaged ({why}); it was left as it is: restore a copy, or move it away to begin anew", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// The file belongs to a gateway of another name.
    #[error("{path} belongs to gateway {found:?}, but this one is {expected:?}", path = path.display())]
    OtherGateway {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// Another process has it open.
    #[error("{path} is in use by another process", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else changed the document meanwhile.
    #[error("the document is at revision {found}, not at {base} any more")]
    Moved {
        /// The revision the change was made from.
        base: u64,
        /// The revision it is at.
        found: u64,
    },
    /// What was stored cannot be read by this version.
    #[error("{what} in the store cannot be read: {why}")]
    Unreadable {
        /// Which part.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The disk or file system failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// One revision, without its document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revision {
    /// Its number; grows.
    pub revision: u64,
    /// The generation of the desired state it made.
    pub generation: u64,
    /// When it was made, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who made it.
    pub who: String,
    /// From where.
    pub from: String,
    /// What was asked: `apply`, `replace`, `put segments.lab`, `restore 7` …
    pub action: String,
    /// Why, where whoever made it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The objects that changed, in one line.
    pub summary: String,
}

/// A revision with its document.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The revision.
    pub revision: Revision,
    /// The document as it was then.
    pub document: Document,
}

/// One entry of the audit log: who, what, from where, when, and how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// Grows by one with each entry.
    pub seq: u64,
    /// When, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who: the name of a token, `root`, or a part of the daemon.
    pub who: String,
    /// The token that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<TokenId>,
    /// As what; absent where nobody was recognised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// From where.
    pub from: String,
    /// What was asked.
    pub action: String,
    /// How it ended.
    #[serde(default)]
    pub outcome: Outcome,
    /// How often, one after the other; more than 1 for refusals only.
    #[serde(default = "once")]
    pub times: u64,
    /// The revision it made; 0 for none.
    pub revision: u64,
    /// The objects that changed, or why it was refused, in one line.
    pub summary: String,
    /// The objects that changed, with what they were and are, without secrets; only their names where it would be
    /// too much.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ObjectChange>,
}

fn once() -> u64 {
    1
}

/// What is to be written into the audit log; the store adds the number.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// When, UTC.
    pub at: Timestamp,
    /// Who; without a role where nobody was recognised.
    pub who: String,
    /// The token that was used.
    pub token: Option<TokenId>,
    /// As what.
    pub role: Option<Role>,
    /// From where.
    pub from: String,
    /// What was asked.
    pub action: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How often.
    pub times: u64,
    /// What came of it, in one line.
    pub summary: String,
}

impl Note {
    /// That `actor` did `action`.
    pub fn done(actor: &Actor, action: impl Into<String>, summary: impl Into<String>, at: Timestamp) -> Self {
        Self {
            at,
            who: actor.name.clone(),
            token: actor.token.clone(),
            role: Some(actor.role),
            from: actor.from.clone(),
            action: action.into(),
            outcome: Outcome::Done,
            times: 1,
            summary: summary.into(),
        }
    }
}

/// The objects that one revision changed, with what they were and are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JournalEntry {
    /// The revision that was made.
    pub revision: u64,
    /// The objects it changed.
    pub changes: Vec<ObjectChange>,
}

/// A change to be stored.
#[derive(Debug)]
pub struct Change<'a> {
    /// The revision it was made from; 0 when there is none yet.
    pub base: u64,
    /// The document after it.
    pub document: &'a Document,
    /// The objects it changes.
    pub changes: Vec<ObjectChange>,
    /// Who makes it.
    pub actor: &'a Actor,
    /// What was asked, in a few words.
    pub action: &'a str,
    /// Why, where it was said.
    pub reason: Option<&'a str>,
    /// What becomes of what is on trial.
    pub trial: TrialStep,
    /// When.
    pub at: Timestamp,
}

/// What a change does to what is on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrialStep {
    /// Nothing.
    Stay,
    /// It is on trial itself.
    Begin(Trial),
    /// The trial is over.
    End,
}

/// Where the desired state and the gateway's secrets are kept. Calls block on the disk.
pub trait Store: Send + Sync {
    /// The newest revision; none in a new store.
    fn head(&self) -> Result<Option<Stored>, StoreError>;

    /// Stores a change whole and durably, as one transaction.
    ///
    /// # Errors
    /// [`StoreError::Moved`] when [`Change::base`] is not the newest revision any more; nothing is stored then.
    fn commit(&self, change: &Change<'_>) -> Result<Revision, StoreError>;

    /// What is on trial.
    fn trial(&self) -> Result<Option<Trial>, StoreError>;

    /// Decides about what is on trial without another revision: it is kept, or another trial from now on; appends `note` to
    /// the audit log, in the same transaction.
    fn decide_trial(&self, step: &TrialStep, note: &Note) -> Result<(), StoreError>;

    /// The kept revision with this number. That to which a trial goes back is kept as long as the trial lasts.
    fn revision(&self, revision: u64) -> Result<Option<Stored>, StoreError>;

    /// The newest `limit` revisions, newest first.
    fn revisions(&self, limit: usize) -> Result<Vec<Revision>, StoreError>;

    /// What the revision changed, while the journal keeps it.
    fn journal(&self, revision: u64) -> Result<Option<JournalEntry>, StoreError>;

    /// The newest `limit` audit entries, newest first.
    fn audit(&self, limit: usize) -> Result<Vec<AuditEntry>, StoreError>;

    /// At most `limit` audit entries with a number above `after`, oldest first, as they are chained.
    fn audit_lines(&self, after: u64, limit: usize) -> Result<Vec<AuditLine>, StoreError>;

    /// Whether the audit log is whole.
    fn check_audit(&self) -> Result<AuditCheck, StoreError>;

    /// Appends to the audit log.
    fn note(&self, notes: &[Note]) -> Result<(), StoreError>;

    /// Every kept token.
    fn tokens(&self) -> Result<Vec<Token>, StoreError>;

    /// Writes tokens, removes others, and appends to the audit log, as one transaction.
    fn keep_tokens(&self, put: &[Token], remove: &[TokenId], notes: &[Note]) -> Result<(), StoreError>;

    /// The secret of this name.
    fn secret(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Stores a secret unless there is one of this name; answers the one that is kept.
    fn keep_secret(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError>;
}
