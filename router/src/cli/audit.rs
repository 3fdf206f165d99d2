//! The audit log on the command line: read, exported, and checked, also without any gateway.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::client::Client;
use super::commands::{CommandError, show};
use super::{To, table};
use crate::store::{AuditCheck, AuditLine, check_lines};

/// Lines of one answer.
const PAGE: usize = 1000;

pub(super) const EXAMPLES: &str = "\
Examples:
  watari audit                                the newest hundred entries
  watari audit export > audit.jsonl           all of them, oldest first
  watari audit export --after 1200 >> audit.jsonl
  watari audit verify                         the log of the gateway
  watari audit verify --file audit.jsonl      an export";

/// What is done with the audit log.
#[derive(Debug, Subcommand)]
pub(super) enum AuditAction {
    /// Print all entries as JSON lines, oldest first, each with its hash and that of the one before.
    Export {
        /// Only entries with a higher number.
        #[arg(long, default_value = "0")]
        after: u64,
    },
    /// Find out whether an entry was changed or taken away.
    Verify {
        /// Check an export instead of the gateway's own log; - for standard input.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

/// Asks for what is done with the audit log, and prints the answer.
pub(super) async fn audit(to: &To, client: &Client, action: Option<AuditAction>) -> Result<(), CommandError> {
    match action {
        None => {
            let columns =
                ["seq", "at", "who", "role", "from", "action", "outcome", "times", "revision", "summary"];
            show(to, &client.get("audit").await?, |answer| table::rows(answer, &columns));
            Ok(())
        }
        Some(AuditAction::Export { after }) => export(client, after).await,
        Some(AuditAction::Verify { file: Some(file) }) => verified(to, &check_file(&file)?),
        Some(AuditAction::Verify { file: None }) => {
            let answer = client.get("audit/check").await?;
            let wrong = |e: serde_json::Error| CommandError::Unexpected(e.to_string());
            verified(to, &serde_json::from_value(answer).map_err(wrong)?)
        }
    }
}

async fn export(client: &Client, mut after: u64) -> Result<(), CommandError> {
    loop {
        let mut lines = client.lines(&format!("audit/lines?after={after}&limit={PAGE}")).await?;
        let mut count = 0;
        while let Some(line) = lines.next().await? {
            let unread = || CommandError::Unexpected(format!("no audit entry: {line}"));
            after = AuditLine::from_text(&line).ok_or_else(unread)?.seq;
            table::line(&line);
            count += 1;
        }
        if count < PAGE {
            return Ok(());
        }
    }
}

/// Checks an export. It needs no gateway.
fn check_file(path: &Path) -> Result<AuditCheck, CommandError> {
    let failed = |source| CommandError::File { path: path.to_owned(), source };
    let text = match path.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(path),
    };
    let text = text.map_err(failed)?;
    Ok(check_lines(text.lines()))
}

fn verified(to: &To, check: &AuditCheck) -> Result<(), CommandError> {
    show(to, &serde_json::to_value(check).unwrap_or_default(), |_| {
        let (first, last) = (check.first, check.last);
        match check.faults.as_slice() {
            [] => table::line(format!(
                "{} entries, {first} to {last}, are whole; head {}",
                check.entries, check.head
            )),
            faults => {
                faults.iter().for_each(|fault| table::line(format!("entry {}: {}", fault.seq, fault.what)))
            }
        }
    });
    if check.intact { Ok(()) } else { Err(CommandError::Tampered(check.faults.len())) }
}
