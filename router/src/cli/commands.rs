//! What each subcommand asks and prints.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use watari_config::Problem;
use watari_config::document::KINDS;

use super::client::{Body, Client, ClientError, token_file};
use super::{
    Cli, Command, Doctor, Duplicates, To, audit, bgp, changes, doctor, explain, fields, files, nodes, table,
    tokens,
};
use crate::run::{self, RunError};

/// Why a subcommand failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// The daemon.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The gateway refused or gave no answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The document is not valid.
    #[error("{} is not valid{}", file.display(), problems.iter().map(|p| format!("\n  {p}")).collect::<String>())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Every problem in it.
        problems: Vec<Problem>,
    },
    /// There is no such kind of object.
    #[error("{0:?} is no kind of object; kinds are {kinds}", kinds = KINDS.join(", "))]
    Kind(String),
    /// What was asked for cannot be meant.
    #[error("{0}")]
    Refused(String),
    /// There is no such field.
    #[error("there is no {path}; fields there are {}", known.join(", "))]
    Field {
        /// What was asked for.
        path: String,
        /// The fields that there are.
        known: Vec<String>,
    },
    /// The change is stored, but the gateway did not become as desired in time.
    #[error("stored, but not applied within {0} s; `watari status` says why")]
    NotApplied(u32),
    /// Not everything that is waited for was up in time.
    #[error("not ready within {limit_s} s{}", missing.iter().map(|m| format!("\n  {m}")).collect::<String>())]
    NotUp {
        /// How long was waited.
        limit_s: u64,
        /// What is not up, with the reason.
        missing: Vec<String>,
    },
    /// The node is attached, but did not become ready in time.
    #[error("attached, but {name} was not ready within {wait_s} s: {reason}")]
    NotReady {
        /// The node.
        name: String,
        /// How long was waited.
        wait_s: u32,
        /// What the receipt says.
        reason: String,
    },
    /// The audit log was tampered with.
    #[error("the audit log is not whole: {0} faults")]
    Tampered(usize),
    /// The gateway answered something else than was asked.
    #[error("the gateway's answer cannot be read: {0}")]
    Unexpected(String),
    /// The runtime cannot be had.
    #[error("the runtime: {0}")]
    Runtime(std::io::Error),
}

/// Runs the subcommand.
pub(super) fn run(cli: Cli) -> Result<(), CommandError> {
    let to = cli.to;
    match cli.command {
        Command::Run { config, dry_run: false, .. } => Ok(run::run(&config)?),
        Command::Run { config, dry_run: true, .. } => {
            let plan = run::dry_run(&config)?;
            show(&to, &plan, table::plan);
            Ok(())
        }
        Command::Cleanup { config } => Ok(run::cleanup(&config)?),
        Command::Validate { file } => validate(&to, &file),
        Command::Explain { field } => fields::explain(&to, field.as_deref()),
        Command::Openapi => {
            table::json(&serde_json::to_value(crate::api::description()).unwrap_or(Value::Null));
            Ok(())
        }
        other => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(CommandError::Runtime)?.block_on(ask(to, other))
        }
    }
}

fn client(to: &To) -> Result<Client, ClientError> {
    let token = match &to.token_file {
        Some(file) => Some(token_file(file)?),
        None => to.token.clone(),
    };
    match &to.url {
        Some(url) => Client::url(url, to.pin.as_deref(), token),
        None => Ok(Client::unix(&to.socket, token)),
    }
}

/// Prints an answer: JSON when asked for, else as `table` does.
pub(super) fn show(to: &To, answer: &Value, table: impl FnOnce(&Value)) {
    if to.json { table::json(answer) } else { table(answer) }
}

async fn ask(to: To, command: Command) -> Result<(), CommandError> {
    let client = client(&to)?;
    match command {
        Command::Apply { file, replace, how } => changes::apply(&to, &client, &file, replace, &how).await,
        Command::Delete { kind, name, how } => {
            let path = format!("{}/{name}", known_kind(&kind)?);
            changes::change(&to, &client, Method::DELETE, &path, Body::Empty, &how).await
        }
        Command::Edit { kind, name, how } => changes::edit(&to, &client, &kind, &name, &how).await,
        Command::Confirm { revision } => changes::confirm(&to, &client, revision).await,
        Command::Trial => changes::trial(&to, &client).await,
        Command::Rollback { revision, how } => changes::rollback(&to, &client, revision, &how).await,
        Command::Diff(compared) => changes::diff(&to, &client, compared).await,
        Command::Export => changes::export(&to, &client).await,
        Command::Wait { object, limit, .. } => changes::wait(&to, &client, object.as_deref(), limit).await,
        Command::Get { kind, name } => get(&to, &client, kind, name).await,
        Command::Plan => {
            let seen = client.get("plan").await?;
            show(&to, &seen, |s| table::plan(s.get("plan").unwrap_or(&Value::Null)));
            Ok(())
        }
        Command::Status => {
            show(&to, &client.get("status").await?, table::status);
            Ok(())
        }
        Command::Facts => {
            show(&to, &client.get("facts").await?, table::fields);
            Ok(())
        }
        Command::Duplicates { action } => duplicates(&to, &client, action).await,
        Command::Events { follow, after } => events(&to, &client, follow, after).await,
        Command::Revisions { revision, against } => revisions(&to, &client, revision, against).await,
        Command::Audit { action } => audit::audit(&to, &client, action).await,
        Command::Token { action } => tokens::tokens(&to, &client, action).await,
        Command::Attach(attach) => nodes::attach(&to, &client, attach).await,
        Command::Detach { name } => {
            let answer =
                client.send(Method::DELETE, &format!("nodes/{name}"), Body::Empty, Duration::ZERO).await?;
            show(&to, &answer, |_| table::line(format!("detached {name}")));
            Ok(())
        }
        Command::Nodes => get(&to, &client, Some("nodes".to_owned()), None).await,
        Command::Receipt { name } => nodes::receipt(&to, &client, &name).await,
        Command::Renew { name, lease } => nodes::renew(&to, &client, &name, &lease).await,
        Command::Measure(measure) => nodes::measure(&to, &client, measure).await,
        Command::Trace(trace) => explain::trace(&to, &client, *trace).await,
        Command::Monitor(monitor) => explain::monitor(&to, &client, monitor).await,
        Command::Bgp { what } => bgp::bgp(&to, &client, what).await,
        Command::Doctor { what: Doctor::Mtu { tunnel } } => doctor::mtu(&to, &client, tunnel).await,
        Command::Why { from, to: host } => explain::why(&to, &client, &from, &host).await,
        Command::Capture(capture) => explain::capture(&client, capture).await,
        Command::Run { .. }
        | Command::Cleanup { .. }
        | Command::Validate { .. }
        | Command::Explain { .. }
        | Command::Openapi => {
            unreachable!("needs no gateway")
        }
    }
}

async fn get(
    to: &To,
    client: &Client,
    kind: Option<String>,
    name: Option<String>,
) -> Result<(), CommandError> {
    let path = match (&kind, &name) {
        (None, _) => "document".to_owned(),
        (Some(kind), None) => known_kind(kind)?.to_owned(),
        (Some(kind), Some(name)) => format!("{}/{name}", known_kind(kind)?),
    };
    let answer = client.get(&path).await?;
    show(to, &answer, |answer| match (&kind, &name, answer) {
        (Some(_), None, Value::Object(objects)) => table::objects(objects),
        (Some(_), Some(_), object) => table::fields(object),
        (_, _, Value::Object(document)) => {
            for kind in KINDS {
                let Some(Value::Object(objects)) = document.get(kind) else { continue };
                if !objects.is_empty() {
                    table::line(format!("{kind}:"));
                    table::objects(objects);
                    table::line("");
                }
            }
        }
        (_, _, other) => table::fields(other),
    });
    Ok(())
}

async fn duplicates(to: &To, client: &Client, action: Option<Duplicates>) -> Result<(), CommandError> {
    match action {
        None => {
            let columns = [
                "vni",
                "mac",
                "address",
                "advertised",
                "frozen_at",
                "frozen_s",
                "retry_s",
                "freezes",
                "seen",
            ];
            show(to, &client.get("duplicates").await?, |a| table::rows(a, &columns));
        }
        Some(Duplicates::Clear { vni, address }) => {
            let path = format!("duplicates/{vni}/{address}");
            let answer = client.send(Method::DELETE, &path, Body::Empty, Duration::ZERO).await?;
            show(to, &answer, |_| table::line(format!("cleared {address}")));
        }
    }
    Ok(())
}

async fn events(to: &To, client: &Client, follow: bool, after: u64) -> Result<(), CommandError> {
    if !follow {
        let answer = client.get(&format!("events?after={after}")).await?;
        show(to, &answer, |a| table::rows(a, &["seq", "at", "kind", "object", "message"]));
        return Ok(());
    }
    let mut lines = client.lines(&format!("events/stream?after={after}")).await?;
    while let Some(line) = lines.next().await? {
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if to.json {
            table::line(data);
            continue;
        }
        let event: Value = serde_json::from_str(data).unwrap_or(Value::Null);
        let field = |name| event.get(name).map(table::cell).unwrap_or_default();
        table::line(format!(
            "{:>6} {} {} {} {}",
            field("seq"),
            field("at"),
            field("kind"),
            field("object"),
            field("message")
        ));
    }
    Ok(())
}

async fn revisions(
    to: &To,
    client: &Client,
    revision: Option<u64>,
    against: Option<u64>,
) -> Result<(), CommandError> {
    let Some(revision) = revision else {
        let columns = ["revision", "generation", "at", "who", "from", "action", "reason", "summary"];
        show(to, &client.get("revisions").await?, |a| table::rows(a, &columns));
        return Ok(());
    };
    let query = against.map(|n| format!("?against={n}")).unwrap_or_default();
    let answer = client.get(&format!("revisions/{revision}{query}")).await?;
    show(to, &answer, |answer| {
        let changes = answer.get("changes").unwrap_or(&Value::Null);
        table::rows(changes, &["change", "object", "before", "after"]);
    });
    Ok(())
}

fn validate(to: &To, file: &Path) -> Result<(), CommandError> {
    let text = files::read_file(file)?;
    match run::validate(&text) {
        Ok(document) => {
            let tree = serde_json::to_value(&document).unwrap_or(Value::Null);
            let count =
                |kind: &str| tree.get(kind).and_then(Value::as_object).map_or(0, serde_json::Map::len);
            let objects: usize = KINDS.iter().map(|kind| count(kind)).sum();
            show(to, &json!({ "valid": true, "objects": objects, "errors": [] }), |_| {
                table::line(format!("{} is valid: {objects} objects", file.display()));
            });
            Ok(())
        }
        Err(problems) => {
            if to.json {
                table::json(&json!({ "valid": false, "errors": problems }));
            }
            Err(CommandError::Invalid { file: file.to_owned(), problems })
        }
    }
}

/// The kind as it stands in paths; one object of a kind may be asked for in the singular.
pub(super) fn known_kind(kind: &str) -> Result<&'static str, CommandError> {
    let known = KINDS.into_iter().find(|k| *k == kind || k.strip_suffix('s') == Some(kind));
    known.ok_or_else(|| CommandError::Kind(kind.to_owned()))
}
