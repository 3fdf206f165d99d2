//! `script/bench SUITE [--repeats N] [--json FILE]`: measures Watari beside its peers, interleaved, in one
//! run, and prints medians with their ratio to the suite's base line.
//!
//! The JSON is a list of `{"suite", "path", "metric", "unit", "better", "values", "median"}`.

mod overlay;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use table::Results;

const USAGE: &str = "usage: bench SUITE [--repeats N] [--json FILE] [--paths A,B]\nsuites: overlay";

struct Arguments {
    suite: String,
    repeats: usize,
    json: Option<PathBuf>,
    paths: Vec<String>,
}

fn arguments() -> Result<Arguments> {
    let mut read = Arguments { suite: String::new(), repeats: 3, json: None, paths: vec![] };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value\n{USAGE}"));
        match word.as_str() {
            "--repeats" => read.repeats = value()?.parse().context("--repeats wants a number")?,
            "--json" => read.json = Some(value()?.into()),
            "--paths" => read.paths = value()?.split(',').map(str::to_owned).collect(),
            suite if read.suite.is_empty() && !suite.starts_with('-') => suite.clone_into(&mut read.suite),
            _ => bail!("{USAGE}"),
        }
    }
    if read.suite.is_empty() || read.repeats == 0 {
        bail!("{USAGE}");
    }
    Ok(read)
}

fn run() -> Result<()> {
    let arguments = arguments()?;
    let mut results = Results::new(&arguments.suite);
    match arguments.suite.as_str() {
        "overlay" => overlay::run(arguments.repeats, &arguments.paths, &mut results)?,
        other => bail!("no suite called {other}\n{USAGE}"),
    }
    println!("\n{}", results.table());
    if let Some(file) = arguments.json {
        let text = serde_json::to_string_pretty(&results.json())?;
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
