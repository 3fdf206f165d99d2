//! What the store promises: whole changes, durable when acknowledged, nothing foreign overwritten.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use ::redb::ReadableTable as _;
use jiff::Timestamp;
use watari_config::{Document, parse_text, read_document};

use super::*;
use crate::actor::Role;

fn document(sites: usize) -> Document {
    let sites: String = (0..sites).map(|i| format!("  s{i}: {{ description: number {i} }}\n")).collect();
    let text = if sites.is_empty() { "sites: {}".to_owned() } else { format!("sites:\n{sites}") };
    read_document(&parse_text(&text).unwrap()).unwrap()
}

fn commit(store: &dyn Store, base: u64, document: &Document) -> Result<Revision, StoreError> {
    let actor = Actor::new("alice", Role::Admin, "192.0.2.7:4000");
    let before = store.head()?.map(|s| s.document).unwrap_or_default();
    store.commit(&Change {
        base,
        document,
        changes: diff(&before, document),
        actor: &actor,
        action: "apply",
        reason: None,
        trial: TrialStep::Stay,
        at: Timestamp::UNIX_EPOCH,
    })
}

#[test]
fn a_change_leaves_all_its_parts_and_they_survive_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = RedbStore::open(dir.path(), "gw-a").unwrap();
        assert!(store.head().unwrap().is_none());
        commit(&store, 0, &document(1)).unwrap();
        commit(&store, 1, &document(2)).unwrap();
    }
    let store = RedbStore::open(dir.path(), "gw-a").unwrap();
    let head = store.head().unwrap().unwrap();
    assert_eq!((head.revision.revision, head.revision.generation), (2, 2));
    assert_eq!(head.document, document(2));
    assert_eq!(store.revision(1).unwrap().unwrap().document, document(1));
    assert_eq!(store.revisions(10).unwrap().iter().map(|r| r.revision).collect::<Vec<_>>(), [2, 1]);

    let journal = store.journal(2).unwrap().unwrap();
    assert_eq!(journal.changes.len(), 1);
    assert_eq!(
        (journal.changes[0].change, journal.changes[0].object.as_str()),
        (ChangeKind::Created, "sites.s1")
    );

    let audit = store.audit(10).unwrap();
    assert_eq!(audit.iter().map(|a| (a.seq, a.revision)).collect::<Vec<_>>(), [(2, 2), (1, 1)]);
    let newest = &audit[0];
    assert_eq!((newest.who.as_str(), newest.from.as_str()), ("alice", "192.0.2.7:4000"));
    assert_eq!((newest.action.as_str(), newest.summary.as_str()), ("apply", "created sites.s1"));
}

#[test]
fn a_change_of_an_old_revision_is_refused_and_leaves_nothing() {
    let store = RedbStore::in_memory("gw-a").unwrap();
    commit(&store, 0, &document(1)).unwrap();
    let refused = commit(&store, 0, &document(2)).unwrap_err();
    assert!(matches!(refused, StoreError::Moved { base: 0, found: 1 }), "{refused}");
    assert_eq!(store.head().unwrap().unwrap().document, document(1));
    assert_eq!(store.audit(10).unwrap().len(), 1);
}

#[test]
fn only_the_newest_revisions_are_kept() {
    let store = RedbStore::in_memory("gw-a").unwrap();
    for base in 0..REVISIONS_MAX + 3 {
        commit(&store, base, &document(1 + (base % 2) as usize)).unwrap();
    }
    assert!(store.revision(3).unwrap().is_none());
    assert!(store.revision(4).unwrap().is_some());
    assert_eq!(store.revisions(usize::MAX).unwrap().len() as u64, REVISIONS_MAX);
    assert!(store.journal(1).unwrap().is_some(), "the journal is longer than the revisions");
}

#[test]
fn secrets_are_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = {
        let store = RedbStore::open(dir.path(), "gw-a").unwrap();
        Secrets::load(&store, "gw-a").unwrap()
    };
    let store = RedbStore::open(dir.path(), "gw-a").unwrap();
    let again = Secrets::load(&store, "gw-a").unwrap();
    assert_eq!(first.wireguard_private(), again.wireguard_private());
    assert_eq!(first.wireguard_public(), again.wireguard_public());
    assert_eq!(first.tls_pin(), again.tls_pin());
    again.tls_server().unwrap();
    assert!(!format!("{again:?}").contains(&format!("{:?}", again.wireguard_private())));
    assert_eq!(store.keep_secret("x", b"one").unwrap(), b"one");
    assert_eq!(store.keep_secret("x", b"two").unwrap(), b"one");
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("watari.redb");
    for content in [&b"somebody's diary"[..], &[0; 8192][..], &[][..]] {
        std::fs::write(&path, content).unwrap();
        let refused = RedbStore::open(dir.path(), "gw-a").map(drop).unwrap_err();
        assert!(matches!(refused, StoreError::Foreign { .. }), "{} bytes: {refused}", content.len());
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}

#[test]
fn a_redb_file_of_another_program_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(::redb::Database::create(dir.path().join("watari.redb")).unwrap());
    let refused = RedbStore::open(dir.path(), "gw-a").map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
}

#[test]
fn a_damaged_store_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    drop(RedbStore::open(dir.path(), "gw-a").unwrap());
    let path = dir.path().join("watari.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(bytes.len() / 2);
    std::fs::write(&path, &bytes).unwrap();
    let refused = RedbStore::open(dir.path(), "gw-a").map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_spoilt_page_is_found_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(dir.path(), "gw-a").unwrap();
    commit(&store, 0, &document(40)).unwrap();
    drop(store);
    let path = dir.path().join("watari.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(9).rposition(|w| w == b"number 39").expect("the document is in the file");
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let refused = RedbStore::open(dir.path(), "gw-a").map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
}

#[test]
fn another_gateways_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(RedbStore::open(dir.path(), "gw-a").unwrap());
    let refused = RedbStore::open(dir.path(), "gw-b").map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::OtherGateway { .. }), "{refused}");
}

#[test]
fn a_store_has_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let _first = RedbStore::open(dir.path(), "gw-a").unwrap();
    let refused = RedbStore::open(dir.path(), "gw-a").map(drop).unwrap_err();
    assert!(matches!(refused, StoreError::InUse { .. }), "{refused}");
}

#[test]
fn an_interrupted_first_start_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("watari.redb.new"), b"half").unwrap();
    drop(RedbStore::open(dir.path(), "gw-a").unwrap());
    assert!(!dir.path().join("watari.redb.new").exists());
}

/// The folder that [`the_writer_of_the_crash_test`] writes to.
const CRASH_DIR: &str = "WATARI_CRASH_TEST_DIR";
/// Acknowledged changes after which the writer is killed, one run each.
const CRASH_AFTER: [u64; 4] = [1, 7, 20, 33];

/// Runs as a process of its own: changes the document as fast as it can and tells each acknowledged revision.
#[test]
fn the_writer_of_the_crash_test() {
    let Ok(dir) = std::env::var(CRASH_DIR) else { return };
    let store = RedbStore::open(Path::new(&dir), "gw-a").unwrap();
    let mut base = store.head().unwrap().map_or(0, |s| s.revision.revision);
    loop {
        let sites = (base + 1) as usize % 50;
        base = commit(&store, base, &document(sites)).unwrap().revision;
        println!("acknowledged {base}");
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for more in CRASH_AFTER {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::the_writer_of_the_crash_test", "--nocapture"])
            .env(CRASH_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let until = acknowledged + more;
        while acknowledged < until {
            let line = lines.next().expect("the writer ended by itself").unwrap();
            // The test harness writes the test's name before the first line.
            if let Some((_, number)) = line.rsplit_once("acknowledged ") {
                acknowledged = number.parse().unwrap();
            }
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        let told = lines.map_while(Result::ok).filter_map(|l| l.rsplit_once(' ')?.1.parse().ok());
        acknowledged = told.max().unwrap_or(acknowledged).max(acknowledged);
        check_whole(dir.path(), acknowledged);
        acknowledged =
            RedbStore::open(dir.path(), "gw-a").unwrap().head().unwrap().unwrap().revision.revision;
    }
}

/// Every acknowledged revision is there with all its parts, and at most one that nobody was told of.
fn check_whole(dir: &Path, acknowledged: u64) {
    let store = RedbStore::open(dir, "gw-a").unwrap();
    let head = store.head().unwrap().expect("a revision").revision.revision;
    assert!((acknowledged..=acknowledged + 1).contains(&head), "{acknowledged} acknowledged, at {head}");
    for number in 1..=head {
        let stored = store.revision(number).unwrap().expect("a revision and its document");
        assert_eq!(stored.document, document(number as usize % 50), "revision {number}");
        assert_eq!(store.journal(number).unwrap().expect("a journal entry").revision, number);
    }
    let audit = store.audit(usize::MAX).unwrap();
    assert_eq!(audit.len() as u64, head);
}

/// Opens the file as somebody would who has more to hide than to keep.
fn tamper(dir: &Path, edit: impl FnOnce(&mut ::redb::Table<'_, u64, &'static [u8]>)) {
    let database = ::redb::Database::open(dir.join("watari.redb")).unwrap();
    let write = database.begin_write().unwrap();
    edit(&mut write.open_table(::redb::TableDefinition::new("audit")).unwrap());
    write.commit().unwrap();
}

#[test]
fn an_audit_entry_that_was_changed_or_taken_away_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let open = || RedbStore::open(dir.path(), "gw-a").unwrap();
    {
        let store = open();
        (0..4).for_each(|base| drop(commit(&store, base, &document(1 + (base % 2) as usize)).unwrap()));
        let check = store.check_audit().unwrap();
        assert!(check.intact && (check.first, check.last) == (1, 4), "{check:?}");
    }
    tamper(dir.path(), |audit| {
        let mut value = audit.get(2).unwrap().unwrap().value().to_vec();
        let at = value.windows(5).position(|octets| octets == b"alice").unwrap();
        value[at] = b'A';
        audit.insert(2, value.as_slice()).unwrap();
    });
    assert_eq!(open().check_audit().unwrap().faults, [Fault { seq: 2, what: "it was changed".to_owned() }]);
    tamper(dir.path(), |audit| drop(audit.remove(2).unwrap()));
    let faults = open().check_audit().unwrap().faults;
    assert_eq!(faults, [Fault { seq: 3, what: "2 is missing before it".to_owned() }]);
    tamper(dir.path(), |audit| drop(audit.remove(4).unwrap()));
    assert_eq!(open().check_audit().unwrap().faults.len(), 2);
}

#[test]
fn the_log_of_a_version_without_a_chain_is_chained() {
    let dir = tempfile::tempdir().unwrap();
    drop(RedbStore::open(dir.path(), "gw-a").unwrap());
    let former = r#"{"seq":1,"at":"1970-01-01T00:00:00Z","who":"alice","from":"x","action":"apply","revision":1,"summary":"s"}"#;
    {
        let database = ::redb::Database::open(dir.path().join("watari.redb")).unwrap();
        let write = database.begin_write().unwrap();
        {
            let audit = ::redb::TableDefinition::<u64, &[u8]>::new("audit");
            let value = [&[1], former.as_bytes()].concat();
            write.open_table(audit).unwrap().insert(1, value.as_slice()).unwrap();
            let meta = ::redb::TableDefinition::<&str, &[u8]>::new("meta");
            write.open_table(meta).unwrap().remove("audit_head").unwrap();
            write.delete_table(::redb::TableDefinition::<&str, &[u8]>::new("tokens")).unwrap();
        }
        write.commit().unwrap();
    }
    let store = RedbStore::open(dir.path(), "gw-a").unwrap();
    let check = store.check_audit().unwrap();
    assert!(check.intact && check.entries == 1, "{check:?}");
    let entry = &store.audit(1).unwrap()[0];
    assert_eq!((entry.who.as_str(), entry.outcome, entry.times), ("alice", Outcome::Done, 1));
    assert_eq!(store.tokens().unwrap(), []);
}

#[test]
fn the_oldest_audit_entries_leave_and_the_rest_is_whole() {
    let store = RedbStore::in_memory("gw-a").unwrap();
    let note = Note::done(&Actor::own("test"), "x", "y".repeat(60_000), Timestamp::UNIX_EPOCH);
    let enough = AUDIT_BYTES_MAX / 60_000 + 10;
    for _ in 0..enough / 100 + 1 {
        store.note(&vec![note.clone(); 100]).unwrap();
    }
    let check = store.check_audit().unwrap();
    assert!(check.intact && check.first > 1 && check.entries < enough, "{check:?}");
    let lines = store.audit_lines(check.last - 2, 10).unwrap();
    let text: Vec<String> = lines.iter().map(AuditLine::to_text).collect();
    let exported = check_lines(text.iter().map(String::as_str));
    assert!(exported.intact && exported.head == check.head && exported.entries == 2, "{exported:?}");
}
