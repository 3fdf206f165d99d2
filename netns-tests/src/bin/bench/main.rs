//! `script/bench SUITE …`: measures Watari beside its peers, interleaved, in one run, and prints medians with
//! their ratios to the suite's base lines.
//!
//! The JSON is a list of `{"suite", "path", "metric", "unit", "better", "values", "median"}`.

mod bgp;
mod facts;
mod machine;
mod measure;
mod overlay;
mod peers;
mod rounds;
mod scale;
mod table;
mod tunnel;
mod tunnel_peers;
mod watari;
mod watari_tunnel;
mod wires;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use measure::Effort;
use table::Results;

const USAGE: &str = "usage: bench SUITE [--repeats N] [--json FILE] [--paths A,B] [--metrics A,B]
             [--seconds S] [--patience S] [--entries N]
suites: overlay, tunnel, scale, facts, bgp";

/// What was asked for on the command line.
pub(crate) struct Options {
    suite: String,
    pub(crate) repeats: usize,
    json: Option<PathBuf>,
    pub(crate) paths: Vec<String>,
    /// Names, as given.
    pub(crate) metrics: Vec<String>,
    pub(crate) effort: Effort,
    /// Stations in the tables of each gateway of Watari.
    pub(crate) entries: u32,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let effort = Effort { tcp: Duration::from_secs(3), patience: Duration::from_secs(20) };
        let mut read = Self {
            suite: String::new(),
            repeats: 5,
            json: None,
            paths: vec![],
            metrics: vec![],
            effort,
            entries: 100_000,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} wants a value\n{USAGE}"));
            let list = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
            match word.as_str() {
                "--repeats" => read.repeats = value()?.parse().context("--repeats wants a number")?,
                "--json" => read.json = Some(value()?.into()),
                "--paths" => read.paths = list(value()?),
                "--metrics" => read.metrics = list(value()?),
                "--seconds" => read.effort.tcp = seconds(&value()?)?,
                "--patience" => read.effort.patience = seconds(&value()?)?,
                "--entries" => read.entries = value()?.parse().context("--entries wants a number")?,
                suite if read.suite.is_empty() && !suite.starts_with('-') => {
                    suite.clone_into(&mut read.suite);
                }
                _ => bail!("{USAGE}"),
            }
        }
        ensure!(!read.suite.is_empty() && read.repeats > 0, "{USAGE}");
        if read.metrics.is_empty() && read.suite == "tunnel" {
            read.metrics = tunnel::METRICS.map(str::to_owned).into();
        }
        if read.suite != "bgp" {
            measure::chosen(&read.metrics)?;
        }
        Ok(read)
    }
}

fn seconds(text: &str) -> Result<Duration> {
    let seconds = text.parse().with_context(|| format!("{text} is no number of seconds"))?;
    Duration::try_from_secs_f64(seconds).with_context(|| format!("{text} is no number of seconds"))
}

fn run() -> Result<()> {
    let mut words = std::env::args().skip(1);
    if words.next().as_deref() == Some("bgp-load") {
        return bgp::load::run(words);
    }
    let options = Options::read(std::env::args().skip(1))?;
    machine::prefer_us();
    let described = machine::describe();
    let plain = |(results, conditions): (Results, String)| (results, conditions, Vec::new());
    let (results, conditions, closing) = match options.suite.as_str() {
        "overlay" => {
            let (results, absent) = of_paths(&overlay::OVERLAY, &options)?;
            (results, overlay::conditions(&options), absent)
        }
        "tunnel" => {
            let (results, absent) = of_paths(&tunnel::TUNNEL, &options)?;
            let reach = tunnel::reach(&results);
            (results, tunnel::conditions(&options), [absent, reach].concat())
        }
        "scale" => scale::run(&options).map(plain)?,
        "facts" => facts::run(&options).map(plain)?,
        "bgp" => bgp::run(&options).map(plain)?,
        other => bail!("no suite called {other}\n{USAGE}"),
    };
    println!("\n{described}\n{conditions}\n\n{}\n{}", results.table(), closing.join("\n"));
    if let Some(file) = options.json {
        let text = serde_json::to_string_pretty(&results.json())?;
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// What was measured, and which paths are absent.
fn of_paths(suite: &rounds::Suite, options: &Options) -> Result<(Results, Vec<String>)> {
    let mut results = Results::new(suite.name, suite.bases);
    let absent = suite.run(options, &mut results)?;
    Ok((results, absent))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Options> {
        Options::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read_and_mistakes_are_named() {
        let read = options("overlay --repeats 1 --seconds 0.5 --metrics rr --paths plain,watari").unwrap();
        assert_eq!((read.suite.as_str(), read.repeats, read.entries), ("overlay", 1, 100_000));
        assert_eq!(read.effort.tcp, Duration::from_millis(500));
        assert_eq!(read.paths, ["plain", "watari"]);
        assert_eq!(options("tunnel").unwrap().metrics, tunnel::METRICS);
        assert_eq!(options("tunnel --metrics udp1300").unwrap().metrics, ["udp1300"]);
        for bad in
            ["", "overlay --repeats 0", "overlay --seconds soon", "overlay --metrics x", "overlay --what"]
        {
            assert!(options(bad).is_err(), "{bad}");
        }
    }
}
