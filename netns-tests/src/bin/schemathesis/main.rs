//! The API held against its own description: Schemathesis reads the OpenAPI document of a running daemon, makes requests
//! out of it, good ones and bad ones, in sequences too, and is to find nothing that is not as it says. Needs root; run by
//! `script/schemathesis`, which installs the program and says where it is.
//!
//! ```text
//!  schemathesis ── http ──▶ [gw-a], two sites in its document, nobody else on the wires
//! ```

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::process::finish;
use netns_tests::topology::{self, Topology};
use netns_tests::{Gateway, registry};
use serde_json::json;

const TOKEN: &str = "a token for tests only, 32 octets";
const DESCRIPTION: &str = "http://127.0.0.1:8480/api/v1/openapi.json";
/// How long it may take.
const LIMIT: Duration = Duration::from_secs(3600);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let program = arguments.next().context("the first argument is the program")?;
    let topology = Topology::build()?;
    let api = json!({ "api": { "listen": "127.0.0.1:8480", "token": TOKEN } });
    let gateway = Gateway::start(&topology.a.gateway, "gw-a", &api)?;
    let nobody = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=";
    gateway.apply(&topology::document(&[], [&gateway.wireguard_key()?, nobody]))?;
    gateway.settle()?;

    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/schemathesis.toml");
    let mut command = gateway.ns().command(&program);
    // Examples that it keeps for the next run are of no use here.
    command.current_dir(registry::scratch_dir("schemathesis")?);
    command.args(["--config-file", config, "run", DESCRIPTION, "--no-color", "--checks", "all"]);
    command.args(["--header", &format!("Authorization: Bearer {TOKEN}"), "--continue-on-failure"]);
    command.args(arguments);
    let ended = finish(&mut command, LIMIT)?;
    println!("{}{}", ended.out, ended.err);
    ensure!(gateway.get("/api/v1/status").is_ok(), "the daemon is gone:\n{}", gateway.log());
    ensure!(ended.status.success(), "{}", ended.status);
    Ok(())
}
