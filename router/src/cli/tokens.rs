//! Tokens on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Body, Client};
use super::commands::{CommandError, show};
use super::nodes::write_private;
use super::{To, table};
use crate::percent::escaped;

pub(super) const EXAMPLES: &str = "\
Examples:
  watari token create alice --role admin            the first one: as root, on the gateway
  watari token create ci --role operator --tenant lab --source 192.0.2.0/24 --life 12h --write ci.token
  watari token list
  watari token rotate --overlap 10m                 the token that is used, WATARI_TOKEN
  watari token revoke 6c1f0e6a2b7d9c43";

/// What is done with tokens.
#[derive(Debug, Subcommand)]
pub(super) enum TokenAction {
    /// Make a token. It is shown this once.
    Create {
        /// Who it is for; stands in the audit log.
        name: String,
        /// What it may do.
        #[arg(long, value_enum)]
        role: TokenRole,
        /// A tenant it is bound to; may be given several times. Without one it is bound to none.
        #[arg(long, value_name = "NAME")]
        tenant: Vec<String>,
        /// A prefix it may be used from; may be given several times. Without one it is good from anywhere.
        #[arg(long, value_name = "PREFIX")]
        source: Vec<String>,
        /// How long it lives, e.g. 12h; a day, unless the bootstrap file says otherwise.
        #[arg(long, value_name = "DURATION")]
        life: Option<String>,
        /// Write the token to this file, for the owner's eyes only, and do not print it.
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// List the tokens, newest first; those that have ended for thirty days more.
    List,
    /// Show one token; the one that is used where none is named.
    Show {
        /// Its public name.
        id: Option<String>,
    },
    /// Make a token in place of another; of the one that is used where none is named.
    Rotate {
        /// The public name of the other.
        id: Option<String>,
        /// How long the other stays good, at most 1h.
        #[arg(long, value_name = "DURATION", default_value = "5m")]
        overlap: String,
        /// Write the token to this file, for the owner's eyes only, and do not print it.
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// Let a token live for so long from now on.
    Extend {
        /// Its public name.
        id: String,
        /// How long, e.g. 12h.
        #[arg(long, value_name = "DURATION")]
        life: String,
    },
    /// End a token: it is good for nothing from now on, and what it watches ends.
    Revoke {
        /// Its public name.
        id: String,
    },
}

/// What a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TokenRole {
    /// Everything.
    Admin,
    /// Read everything, change objects, see packets.
    Operator,
    /// Read.
    Viewer,
}

impl TokenRole {
    fn word(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}

/// Asks for what is done with tokens, and prints the answer.
pub(super) async fn tokens(to: &To, client: &Client, action: TokenAction) -> Result<(), CommandError> {
    match action {
        TokenAction::Create { name, role, tenant, source, life, write } => {
            let body = json!({
                "name": name, "role": role.word(), "tenants": tenant, "sources": source, "life": life,
            });
            made(to, &post(client, "tokens", body).await?, write)
        }
        TokenAction::List => {
            let columns = ["id", "name", "role", "tenants", "sources", "state", "expires", "last_used"];
            show(to, &client.get("tokens").await?, |answer| table::rows(answer, &columns));
            Ok(())
        }
        TokenAction::Show { id } => {
            show(to, &client.get(&path(id.as_deref(), "")).await?, table::fields);
            Ok(())
        }
        TokenAction::Rotate { id, overlap, write } => {
            let path = path(id.as_deref(), "/rotate");
            made(to, &post(client, &path, json!({ "overlap": overlap })).await?, write)
        }
        TokenAction::Extend { id, life } => {
            let answer = post(client, &path(Some(&id), "/extend"), json!({ "life": life })).await?;
            show(to, &answer, table::fields);
            Ok(())
        }
        TokenAction::Revoke { id } => {
            let answer =
                client.send(Method::DELETE, &path(Some(&id), ""), Body::Empty, Duration::ZERO).await?;
            show(to, &answer, table::fields);
            Ok(())
        }
    }
}

fn path(id: Option<&str>, rest: &str) -> String {
    format!("tokens/{}{rest}", id.map_or_else(|| "self".to_owned(), escaped))
}

async fn post(client: &Client, path: &str, body: Value) -> Result<Value, CommandError> {
    Ok(client.send(Method::POST, path, Body::Json(body), Duration::ZERO).await?)
}

/// A token that was just made: what is known of it, then the token on a line of its own, or in a file.
fn made(to: &To, answer: &Value, write: Option<PathBuf>) -> Result<(), CommandError> {
    let mut shown = answer.clone();
    let token = shown.as_object_mut().and_then(|fields| fields.shift_remove("token"));
    let token = token.as_ref().and_then(Value::as_str).unwrap_or_default();
    match write {
        Some(file) => {
            write_private(&file, &format!("{token}\n"))?;
            show(to, &shown, table::fields);
        }
        None => show(to, answer, |_| {
            table::fields(&shown);
            table::line(format!("\n{token}"));
        }),
    }
    Ok(())
}
