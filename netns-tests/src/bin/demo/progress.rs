//! What the reader sees: numbered steps with their time, details within 100 columns, and, when a step
//! fails, which one it was and the end of the logs that it is about.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use netns_tests::registry;

/// The widest line.
pub(crate) const COLUMNS: usize = 100;
/// Before every line that belongs to a step.
const INDENT: &str = "      ";
/// The lines of each log that a failure shows.
const LOG_LINES: usize = 25;

/// Counts the steps and times them.
#[derive(Debug)]
pub(crate) struct Progress {
    number: usize,
    total: usize,
    started: Instant,
    current: Option<String>,
    logs: Vec<(String, PathBuf)>,
    /// The ends of the logs as they were when a step failed: what follows is only how it was taken down.
    ends: Vec<(String, String)>,
}

impl Progress {
    /// For a story of `total` steps.
    pub(crate) fn new(total: usize) -> Self {
        Self { number: 0, total, started: Instant::now(), current: None, logs: vec![], ends: vec![] }
    }

    /// One step: its line, its work, its time. A failure leaves it as the current one.
    pub(crate) fn step<T>(&mut self, title: &str, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.number += 1;
        let line = format!("[{:>2}/{}] {title}", self.number, self.total);
        println!("\n{line}");
        self.current = Some(line);
        let start = Instant::now();
        let done = work(self);
        if done.is_err() {
            self.ends = self.logs.iter().map(|(whose, path)| (whose.clone(), end_of(path))).collect();
        }
        let value = done?;
        self.current = None;
        println!("{INDENT}({})", seconds(start.elapsed()));
        Ok(value)
    }

    /// From now on a failure shows the end of this log too.
    pub(crate) fn watch_log(&mut self, whose: &str, path: PathBuf) {
        self.logs.retain(|(known, _)| known != whose);
        self.logs.push((whose.to_owned(), path));
    }

    /// Whether every step was taken.
    pub(crate) fn is_complete(&self) -> bool {
        self.number == self.total && self.current.is_none()
    }

    /// Since the first step.
    pub(crate) fn elapsed(&self) -> String {
        seconds(self.started.elapsed())
    }

    /// Says on standard error what failed, with the logs of those it names, or all.
    pub(crate) fn show_failure(&self, error: &Error) {
        let step = self.current.as_deref().unwrap_or("between two steps");
        if registry::interrupted() {
            eprintln!("\ndemo: interrupted after {} in {step}", self.elapsed());
            return;
        }
        let text = format!("{error:#}");
        for (whose, end) in self.relevant_logs(&format!("{step} {text}")) {
            eprintln!("\n--- the end of the log of {whose}\n{end}");
        }
        eprintln!("\ndemo: FAILED after {} in {step}\n{text}", self.elapsed());
    }

    fn relevant_logs(&self, text: &str) -> Vec<&(String, String)> {
        let named: Vec<_> = self.ends.iter().filter(|(whose, _)| text.contains(whose.as_str())).collect();
        if named.is_empty() { self.ends.iter().collect() } else { named }
    }
}

/// The last lines of a file.
fn end_of(path: &Path) -> String {
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// One fact.
pub(crate) fn say(text: &str) {
    for line in wrap(text, COLUMNS - INDENT.len()) {
        println!("{INDENT}{line}");
    }
}

/// A text of several lines as it is, cut into the width: tables, files, other programs' answers.
pub(crate) fn quote(text: &str) {
    for line in text.trim_end().lines() {
        for part in wrap(line.replace('\t', "        ").trim_end(), COLUMNS - INDENT.len() - 2) {
            println!("{INDENT}| {part}");
        }
    }
}

/// Breaks a line at blanks, or anywhere in a word that is too long; what follows is set in by two.
fn wrap(line: &str, width: usize) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest: Vec<char> = line.chars().collect();
    while rest.len() > width {
        let blank = rest[..width].iter().rposition(|c| *c == ' ').filter(|at| *at > width / 2);
        let at = blank.map_or(width, |at| at + 1);
        let tail = rest.split_off(at);
        parts.push(rest.into_iter().collect::<String>().trim_end().to_owned());
        rest = "  ".chars().chain(tail).collect();
    }
    parts.push(rest.into_iter().collect());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_too_wide_and_no_word_is_lost() {
        let text = format!("a few words and {} then more {}", "x".repeat(45), "y".repeat(30));
        let parts = wrap(&text, 40);
        assert!(parts.iter().all(|part| part.chars().count() <= 40), "{parts:?}");
        let squeezed = |text: &str| text.replace(' ', "");
        assert_eq!(squeezed(&parts.concat()), squeezed(&text));
    }

    #[test]
    fn a_short_line_stays_as_it_is() {
        assert_eq!(wrap("  indented", 40), ["  indented"]);
    }
}
