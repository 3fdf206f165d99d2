//! Changes of the document: made, tried out, confirmed, undone, compared, written out.

use std::path::PathBuf;
use std::process::Command as Process;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use serde_json::{Map, Value};
use tempfile::NamedTempFile;
use watari_config::names;
use watari_config::read::{parse_text, to_yaml};

use super::client::{Body, Client, ClientError};
use super::commands::{CommandError, known_kind, show};
use super::{To, files, table};
use crate::percent::escaped;

pub(super) const APPLY_EXAMPLES: &str = "\
Examples:
  watari apply -f site.yaml --dry-run                what would be done
  watari apply -f site/ --wait 30                    all documents of a folder, all or nothing
  watari apply -f site.yaml --confirm 2m             goes back in two minutes, unless `watari confirm` comes
  watari apply -f site.yaml --prove 20s              goes back unless what held before holds after
  watari apply -f site.yaml --reason 'ticket 4711'   stands in `watari revisions`";

pub(super) const ROLLBACK_EXAMPLES: &str = "\
Examples:
  watari rollback        undo what is on trial; without a trial, the newest change
  watari rollback 12     make the document of revision 12 the newest again";

pub(super) const DIFF_EXAMPLES: &str = "\
Examples:
  watari diff              what the newest revision changed
  watari diff 12           from revision 12 to the newest
  watari diff 12 14        from revision 12 to revision 14
  watari diff -f site.yaml what applying the file would change";

/// How a change is made.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Print what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Wait until the gateway is as desired.
    #[arg(long, value_name = "SECONDS", default_value = "0")]
    wait: u32,
    /// Go back after this time, unless `watari confirm` comes before, e.g. 60s; also when the daemon was killed meanwhile.
    #[arg(long, value_name = "DURATION")]
    confirm: Option<names::Duration>,
    /// Go back unless everything that held before holds again within this time: states, and echo requests to BGP
    /// neighbours, gateways, nodes and known hosts.
    #[arg(long, value_name = "DURATION")]
    prove: Option<names::Duration>,
    /// Why, for the history.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only if this is the newest revision.
    #[arg(long, value_name = "REVISION")]
    at_revision: Option<u64>,
}

impl How {
    fn query(&self) -> String {
        let seconds = |duration: Option<names::Duration>| duration.map_or(0, names::Duration::seconds);
        let reason = self.reason.as_ref().map(|why| format!("&reason={}", escaped(why))).unwrap_or_default();
        format!(
            "dry_run={}&wait_s={}&confirm_s={}&prove_s={}{reason}",
            self.dry_run,
            self.wait,
            seconds(self.confirm),
            seconds(self.prove)
        )
    }

    /// How long the gateway may take to answer.
    fn takes(&self) -> Duration {
        Duration::from_secs(u64::from(self.wait) + self.prove.map_or(0, |prove| prove.seconds() + 20))
    }
}

/// Sends a change and prints what it made.
pub(super) async fn change(
    to: &To,
    client: &Client,
    method: Method,
    path: &str,
    body: Body,
    how: &How,
) -> Result<(), CommandError> {
    change_of(to, client, method, path, body, how, None).await
}

/// The same for a change that was made for `revision`, where nothing else is said.
async fn change_of(
    to: &To,
    client: &Client,
    method: Method,
    path: &str,
    body: Body,
    how: &How,
    revision: Option<u64>,
) -> Result<(), CommandError> {
    let path = format!("{path}?{}", how.query());
    let answer = client.send_if(method, &path, body, how.takes(), how.at_revision.or(revision)).await?;
    show(to, &answer, |answer| {
        table::changes(answer);
        if let Some(plan) = answer.get("plan") {
            table::plan(plan);
        }
        if let Some(proof) = answer.get("proof") {
            let count = |part| proof.get(part).and_then(Value::as_array).map_or(0, Vec::len);
            table::line(format!(
                "proved: {} probes hold, {} went with their objects",
                count("held"),
                count("gone")
            ));
        }
        if let Some(until) = answer.pointer("/trial/until").and_then(Value::as_str) {
            table::line(format!("on trial until {until}: `watari confirm` keeps it"));
        }
    });
    if answer.get("applied") == Some(&Value::Bool(false)) {
        return Err(CommandError::NotApplied(how.wait));
    }
    Ok(())
}

/// Creates or replaces the objects of the documents.
pub(super) async fn apply(
    to: &To,
    client: &Client,
    paths: &[PathBuf],
    replace: bool,
    how: &How,
) -> Result<(), CommandError> {
    let body = Body::Json(files::document(paths)?);
    let (method, path) = if replace { (Method::PUT, "document") } else { (Method::POST, "apply") };
    change(to, client, method, path, body, how).await
}

/// Keeps what is on trial.
pub(super) async fn confirm(to: &To, client: &Client, revision: Option<u64>) -> Result<(), CommandError> {
    let (post, path) = (Method::POST, "trial/confirm");
    let kept = client.send_if(post, path, Body::Empty, Duration::ZERO, revision).await?;
    show(to, &kept, |kept| table::line(format!("revision {} is kept", kept["revision"])));
    Ok(())
}

/// Shows what is on trial.
pub(super) async fn trial(to: &To, client: &Client) -> Result<(), CommandError> {
    show(to, &client.get("trial").await?, table::fields);
    Ok(())
}

/// Undoes what is on trial; without a trial, goes back to a revision, or to before the newest.
pub(super) async fn rollback(
    to: &To,
    client: &Client,
    revision: Option<u64>,
    how: &How,
) -> Result<(), CommandError> {
    let (revision, newest) = match revision {
        Some(revision) => (revision, None),
        None if is_on_trial(client).await? => return undo_trial(to, client, how).await,
        None => {
            let newest = newest(client).await?;
            check_undoable(client, newest).await?;
            (newest - 1, Some(newest))
        }
    };
    let path = format!("revisions/{revision}/restore");
    change_of(to, client, Method::POST, &path, Body::Empty, how, newest).await
}

async fn is_on_trial(client: &Client) -> Result<bool, CommandError> {
    match client.get("trial").await {
        Ok(_) => Ok(true),
        Err(ClientError::Refused(problem)) if problem.status == 404 => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn undo_trial(to: &To, client: &Client, how: &How) -> Result<(), CommandError> {
    if how.dry_run || how.wait != 0 || how.confirm.is_some() || how.prove.is_some() {
        let said = "a change is on trial, and is undone as a whole and at once: leave --dry-run, --wait, --confirm and --prove away";
        return Err(CommandError::Refused(said.to_owned()));
    }
    let reason = how.reason.as_ref().map(|why| format!("?reason={}", escaped(why))).unwrap_or_default();
    let path = format!("trial/rollback{reason}");
    let answer = client.send_if(Method::POST, &path, Body::Empty, Duration::ZERO, how.at_revision).await?;
    show(to, &answer, table::changes);
    Ok(())
}

/// Whether "the newest change" is one that somebody can mean: neither a way back, which would be undone into what it undid, nor
/// nodes that came or went, which stay as they are.
async fn check_undoable(client: &Client, newest: u64) -> Result<(), CommandError> {
    let shown = client.get(&format!("revisions/{newest}")).await?;
    let action = shown["action"].as_str().unwrap_or_default();
    let changes = shown["changes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_of_node =
        |change: &Value| change["object"].as_str().is_some_and(|path| path.starts_with("nodes."));
    let is_back = action.starts_with("go back") || action.starts_with("restore");
    if newest < 2 || is_back || changes.iter().all(is_of_node) {
        let said =
            format!("the newest revision, {newest}, is {action:?}: say to which one, `watari rollback N`");
        return Err(CommandError::Refused(said));
    }
    Ok(())
}

async fn newest(client: &Client) -> Result<u64, CommandError> {
    let newest = client.get("revisions?limit=1").await?;
    Ok(newest.pointer("/0/revision").and_then(Value::as_u64).unwrap_or(0))
}

/// What is compared.
#[derive(Debug, Args)]
pub(super) struct Compared {
    /// From this revision; from the one before the newest where it is absent.
    from: Option<u64>,
    /// To this revision; to the newest where it is absent.
    to: Option<u64>,
    /// What applying these documents would change, instead.
    #[arg(short, long, value_name = "PATH", conflicts_with = "from")]
    file: Vec<PathBuf>,
}

/// Shows what differs, field by field.
pub(super) async fn diff(to: &To, client: &Client, compared: Compared) -> Result<(), CommandError> {
    let answer = if !compared.file.is_empty() {
        let body = Body::Json(files::document(&compared.file)?);
        client.send(Method::POST, "apply?dry_run=true", body, Duration::ZERO).await?
    } else {
        let last = match compared.to {
            Some(last) => last,
            None => newest(client).await?,
        };
        let against = compared.from.map(|from| format!("?against={from}")).unwrap_or_default();
        client.get(&format!("revisions/{last}{against}")).await?
    };
    let changes = answer.get("changes").cloned().unwrap_or_default();
    show(to, &changes, |changes| {
        for change in changes.as_array().map(Vec::as_slice).unwrap_or_default() {
            let word = |field: &str| change.get(field).and_then(Value::as_str).unwrap_or_default();
            table::line(format!("{} {}", word("change"), word("object")));
            let part = |field| change.get(field).cloned().unwrap_or_default();
            differences("", &part("before"), &part("after")).iter().for_each(table::line);
        }
    });
    Ok(())
}

/// The fields that differ, a line each: `  - vni: 1000` was, `  + vni: 1001` is.
fn differences(path: &str, before: &Value, after: &Value) -> Vec<String> {
    let inside = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let said = |sign: char, value: &Value| {
        (!value.is_null()).then(|| format!("  {sign} {path}: {}", table::cell(value)))
    };
    match (before, after) {
        (before, after) if before == after => Vec::new(),
        (Value::Object(_) | Value::Null, Value::Object(_)) | (Value::Object(_), Value::Null) => {
            let empty = Map::new();
            let (before, after) = (before.as_object().unwrap_or(&empty), after.as_object().unwrap_or(&empty));
            let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
            let of = |object: &Map<String, Value>, name: &str| object.get(name).cloned().unwrap_or_default();
            names.flat_map(|name| differences(&inside(name), &of(before, name), &of(after, name))).collect()
        }
        _ => [said('-', before), said('+', after)].into_iter().flatten().collect(),
    }
}

/// Prints the document so that it can be applied elsewhere: without nodes, which are attached where they are.
pub(super) async fn export(to: &To, client: &Client) -> Result<(), CommandError> {
    let mut document = client.get("document").await?;
    if let Some(kinds) = document.as_object_mut() {
        kinds.remove("nodes");
        kinds.retain(|_, objects| objects.as_object().is_none_or(|objects| !objects.is_empty()));
    }
    match to.json {
        true => table::json(&document),
        false => table::line(to_yaml(&document).map_err(CommandError::Unexpected)?.trim_end()),
    }
    Ok(())
}

/// Opens an object in the editor and puts what was saved.
pub(super) async fn edit(
    to: &To,
    client: &Client,
    kind: &str,
    name: &str,
    how: &How,
) -> Result<(), CommandError> {
    let path = format!("{}/{name}", known_kind(kind)?);
    let (object, revision) = client.get_with_revision(&path).await?;
    let before = to_yaml(&object).map_err(CommandError::Unexpected)?;
    let (file, after) = edited(&format!("{kind}.{name}"), &before)?;
    if after.trim() == before.trim() {
        table::line("nothing changed");
        return Ok(());
    }
    let invalid = |problems| CommandError::Invalid { file: file.path().to_owned(), problems };
    let parsed = parse_text(&after).map_err(invalid);
    // Somebody else's change meanwhile is not overwritten.
    let made = match parsed {
        Ok(tree) => change_of(to, client, Method::PUT, &path, Body::Json(tree), how, revision).await,
        Err(error) => Err(error),
    };
    if made.is_err()
        && let Ok((_, kept)) = file.keep()
    {
        eprintln!("what was written is in {}", kept.display());
    }
    made
}

/// The file, and what is left in it, after the editor of `$EDITOR` has ended.
fn edited(name: &str, text: &str) -> Result<(NamedTempFile, String), CommandError> {
    let failed = |path: PathBuf| move |source| CommandError::File { path, source };
    let (prefix, temporary) = (format!("watari-{name}-"), std::env::temp_dir());
    let file = tempfile::Builder::new().prefix(&prefix).suffix(".yaml").tempfile_in(&temporary);
    let file = file.map_err(failed(temporary))?;
    std::fs::write(file.path(), text).map_err(failed(file.path().to_owned()))?;
    let editor =
        std::env::var("VISUAL").or_else(|_| std::env::var("EDITOR")).unwrap_or_else(|_| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = PathBuf::from(words.next().unwrap_or("vi"));
    let ended =
        Process::new(&program).args(words).arg(file.path()).status().map_err(failed(program.clone()))?;
    if !ended.success() {
        let said = format!("it ended with {ended}; nothing was changed");
        return Err(failed(program)(std::io::Error::other(said)));
    }
    // By its name: editors put another file in its place.
    let after = files::read_file(file.path())?;
    Ok((file, after))
}

/// Waits until an object, or all of them, are up.
pub(super) async fn wait(
    to: &To,
    client: &Client,
    object: Option<&str>,
    limit: names::Duration,
) -> Result<(), CommandError> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(limit.seconds());
    loop {
        let seen = client.get("status").await?;
        let missing = missing(&seen, object)?;
        if missing.is_empty() {
            show(to, &seen, |_| table::line(format!("{} ready", object.unwrap_or("everything is"))));
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(CommandError::NotUp { limit_s: limit.seconds(), missing });
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// What is not up yet, with the reason.
fn missing(seen: &Value, object: Option<&str>) -> Result<Vec<String>, CommandError> {
    let states = seen.pointer("/status/objects").and_then(Value::as_object);
    let is_worked_on = seen["generation"] != seen["desired_generation"];
    let said = |path: &str, state: &Value| {
        let word = |field: &str| state.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let reason =
            Some(word("reason")).filter(|r| !r.is_empty()).map(|r| format!(" ({r})")).unwrap_or_default();
        format!("{path} is {}{reason}", word("state"))
    };
    if let Some(path) = object {
        let state = states.and_then(|states| states.get(path));
        return match state {
            Some(state) if state["state"] == "up" && !is_worked_on => Ok(Vec::new()),
            Some(state) if state["state"] == "up" => Ok(vec!["the gateway is still at work".to_owned()]),
            Some(state) => Ok(vec![said(path, state)]),
            None => Ok(vec![format!("{path} is not here")]),
        };
    }
    let states = states.into_iter().flatten().filter(|(_, state)| state["state"] != "up");
    let mut missing: Vec<String> = states.map(|(path, state)| said(path, state)).collect();
    if missing.is_empty() && (is_worked_on || seen["settled"] != true) {
        missing.push("the gateway is still at work".to_owned());
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_differ_are_told_by_their_path() {
        let before = json!({ "vni": 1000, "mtu": 1450, "guard": { "max_macs": 4 } });
        let after = json!({ "vni": 1001, "mtu": 1450, "guard": { "max_macs": 4, "ra": "allow" } });
        assert_eq!(
            differences("", &before, &after),
            ["  - vni: 1000", "  + vni: 1001", "  + guard.ra: allow"]
        );
        assert_eq!(differences("", &Value::Null, &json!({ "vni": 1 })), ["  + vni: 1"]);
        assert_eq!(differences("", &json!({ "vni": 1 }), &Value::Null), ["  - vni: 1"]);
    }

    #[test]
    fn what_is_waited_for_is_named_with_its_reason() {
        let seen = |state: &str, settled: bool| {
            json!({ "generation": 2, "desired_generation": 2, "settled": settled,
                "status": { "objects": { "tunnels.ab": { "state": state, "reason": "no handshake" } } } })
        };
        assert_eq!(missing(&seen("down", true), None).unwrap(), ["tunnels.ab is down (no handshake)"]);
        assert_eq!(missing(&seen("down", true), Some("tunnels.ab")).unwrap().len(), 1);
        assert!(missing(&seen("up", true), None).unwrap().is_empty());
        assert!(!missing(&seen("up", false), None).unwrap().is_empty(), "still at work");
        assert_eq!(missing(&seen("up", true), Some("peers.p")).unwrap(), ["peers.p is not here"]);
        let mut early = seen("up", true);
        early["desired_generation"] = json!(3);
        assert!(!missing(&early, Some("tunnels.ab")).unwrap().is_empty(), "that was before the change");
    }
}
