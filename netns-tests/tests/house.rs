//! The house rules that a machine can hold: purity, sizes, names, openings, licences, decision pages, and
//! nothing of one developer's machine in the tree. Unprivileged.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that may not reach for a runtime, a clock, a socket, a file, a thread or randomness.
const PURE: [(&str, &str); 3] =
    [("watari-config", "config"), ("watari-planner", "planner"), ("watari-bgp", "bgp")];

/// Folders that are as pure, inside of crates that are not; files of tests aside.
const PURE_FOLDERS: [&str; 1] = ["link/src/wg"];

/// What a pure crate must not have in its dependency tree, by the beginning of the name.
const IMPURE_CRATES: [&str; 27] = [
    "async-",
    "aya",
    "caps",
    "chrono",
    "crossbeam",
    "fastrand",
    "futures-executor",
    "getrandom",
    "hyper",
    "inotify",
    "libc-netlink",
    "mio",
    "netlink",
    "nix",
    "oorandom",
    "parking_lot",
    "rand",
    "rayon",
    "redb",
    "reqwest",
    "rtnetlink",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "tun",
];

/// What the sources of a pure crate must not name. Each is matched as a path, not inside a longer word.
const IMPURE_PATHS: [&str; 18] = [
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "std::fs",
    "std::thread",
    "std::process",
    "std::env",
    "std::io::stdin",
    "std::io::stdout",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "std::os::fd",
    "println!",
    "eprintln!",
    "RandomState",
];

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every file that belongs to the tree: what git tracks, or, in an unpacked archive, what lies there.
fn files() -> Vec<PathBuf> {
    let root = root();
    let mut listed: Vec<PathBuf> = match Command::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output()
    {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .split('\0')
            .filter(|name| !name.is_empty())
            .map(|name| root.join(name))
            .collect(),
        _ => walk(&root),
    };
    listed.retain(|path| path.is_file());
    listed.sort();
    assert!(listed.len() > 20, "only {} files found under {}", listed.len(), root.display());
    listed
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if name == "target" || name == ".git" {
            continue;
        }
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

fn sources() -> Vec<(PathBuf, String)> {
    let rust = files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    rust.map(|path| (shown(&path), fs::read_to_string(&path).expect("a source file"))).collect()
}

fn shown(path: &Path) -> PathBuf {
    path.strip_prefix(root()).unwrap_or(path).to_owned()
}

#[track_caller]
fn none(complaints: &[String], rule: &str) {
    assert!(complaints.is_empty(), "{rule}:\n  {}", complaints.join("\n  "));
}

/// The text without string contents, characters and comments, line for line: what braces are counted in.
fn bare(source: &str) -> String {
    let (bytes, mut out, mut at) = (source.as_bytes(), String::with_capacity(source.len()), 0);
    while at < bytes.len() {
        let skipped = skip(source, at);
        if skipped > at {
            out.extend(source[at..skipped].chars().filter(|&c| c == '\n'));
            at = skipped;
        } else {
            let c = source[at..].chars().next().expect("within the text");
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

/// Where the comment, string or character that begins at `at` ends; `at` itself if none begins there.
fn skip(source: &str, at: usize) -> usize {
    let rest = &source[at..];
    let after_word = source[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return at + rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return at + rest.find("*/").map_or(rest.len(), |end| end + 2);
    }
    let raw = rest.strip_prefix('b').unwrap_or(rest);
    if let Some(hashes) = raw.strip_prefix('r').map(|r| r.len() - r.trim_start_matches('#').len())
        && !after_word
        && raw[1 + hashes..].starts_with('"')
    {
        let opening = rest.len() - raw.len() + 2 + hashes;
        let closing = format!("\"{}", "#".repeat(hashes));
        let body = &rest[opening..];
        return at + opening + body.find(&closing).map_or(body.len(), |end| end + closing.len());
    }
    if let Some(body) = rest.strip_prefix('"') {
        return at + 1 + quoted(body, '"');
    }
    if rest.starts_with('\'') {
        return at + character(rest);
    }
    at
}

/// The length of a string's rest, closing quote included.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, c) in rest.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return index + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal, or 0 where it is a lifetime.
fn character(rest: &str) -> usize {
    let mut inside = rest[1..].chars();
    match (inside.next(), inside.next()) {
        (Some('\\'), _) => 1 + quoted(&rest[1..], '\''),
        (Some(c), Some('\'')) => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// Without the test module at the end, if there is one.
fn without_tests(source: &str) -> &str {
    let at = source.find("\n#[cfg(test)]\nmod ").map_or(source.len(), |at| at + 1);
    &source[..at]
}

/// Every function with its first line and its length, braces counted.
fn functions(source: &str) -> Vec<(usize, String, usize)> {
    let text = bare(source);
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let (mut depth, mut opened) = (0_i32, false);
        for (offset, line) in lines[first..].iter().enumerate() {
            for c in line.chars() {
                match c {
                    '{' => (depth, opened) = (depth + 1, true),
                    '}' => depth -= 1,
                    _ => {}
                }
            }
            let declared = !opened && line.trim_end().ends_with(';');
            if declared || (opened && depth == 0) {
                found.push((first + 1, name.to_owned(), if opened { offset + 1 } else { 0 }));
                break;
            }
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    loop {
        let (word, more) = rest.split_once(' ')?;
        match word {
            "pub" | "const" | "unsafe" | "async" | "extern" => rest = more.trim_start(),
            _ if word.starts_with("pub(") => rest = more.trim_start(),
            "fn" => break,
            _ => return None,
        }
        // What `extern "C"` leaves once the string is gone.
        rest = rest.trim_start_matches('"').trim_start();
    }
    let name = rest.strip_prefix("fn ")?;
    let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    Some(&name[..end])
}

#[test]
fn files_and_functions_stay_small() {
    let mut complaints = Vec::new();
    for (path, source) in sources() {
        let lines = without_tests(&source).lines().count();
        if lines > FILE_LINES_MAX {
            complaints.push(format!("{}: {lines} lines", path.display()));
        }
        for (line, name, length) in functions(&source) {
            if length > FUNCTION_LINES_MAX {
                complaints.push(format!("{}:{line}: fn {name} has {length} lines", path.display()));
            }
        }
    }
    none(&complaints, "files of at most 800 lines without tests, functions of at most 70");
}

#[test]
fn the_scanner_counts_what_a_reader_counts() {
    let source = "fn one() {\n    let s = \"}{{\"; // }\n    let c = '{';\n    let r = r#\"}\"\"#;\n}\n\
        trait T {\n    fn none(&self) -> [u8; 2];\n    fn two<'a>(&'a self) -> [u8; 2] {\n        [0; 2]\n    }\n}\n";
    let got: Vec<_> = functions(source).into_iter().map(|(_, name, length)| (name, length)).collect();
    let want = [("one", 5), ("none", 0), ("two", 3)].map(|(name, length)| (name.to_owned(), length));
    assert_eq!(got, want);
}

#[test]
fn every_file_opens_with_its_story() {
    let opening =
        |source: &str| source.starts_with("//!") || (source.starts_with("#!") && source.contains("\n//!"));
    let complaints: Vec<String> = sources()
        .iter()
        .filter(|(_, source)| !opening(source))
        .map(|(path, _)| path.display().to_string())
        .collect();
    none(&complaints, "every source file opens with //!");
}

#[test]
fn no_file_is_a_drawer_for_everything() {
    let drawers = ["util", "utils", "helper", "helpers", "common", "misc"];
    let complaints: Vec<String> = files()
        .iter()
        .filter(|path| {
            let named = |name: &std::ffi::OsStr| drawers.iter().any(|drawer| name == *drawer);
            path.file_stem().is_some_and(named) || shown(path).iter().any(named)
        })
        .map(|path| shown(path).display().to_string())
        .collect();
    none(&complaints, "a file is named after what it is for");
}

#[test]
fn pure_crates_depend_on_nothing_impure() {
    let mut complaints = Vec::new();
    for (package, _) in PURE {
        let output = Command::new(env!("CARGO"))
            .args(["tree", "--offline", "-p", package, "-e", "normal", "--prefix", "none"])
            .args(["--format", "{p}"])
            .current_dir(root())
            .output()
            .expect("cargo tree");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let tree = String::from_utf8_lossy(&output.stdout);
        assert!(tree.contains(package), "cargo tree does not show {package}: {tree}");
        let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
        for name in names {
            if IMPURE_CRATES.iter().any(|impure| name.starts_with(impure)) {
                complaints.push(format!("{package} depends on {name}"));
            }
        }
    }
    none(&complaints, "pure crates know no runtime, socket, clock, file, thread or randomness");
}

#[test]
fn pure_crates_call_nothing_impure() {
    let mut complaints = Vec::new();
    for (path, source) in sources() {
        let inside = |dir: &str| path.starts_with(Path::new(dir).join("src"));
        let tests = path.to_string_lossy().ends_with("_tests.rs");
        let in_folder = !tests && PURE_FOLDERS.iter().any(|dir| path.starts_with(dir));
        if !in_folder && !PURE.iter().any(|(_, dir)| inside(dir)) {
            continue;
        }
        for (number, line) in bare(without_tests(&source)).lines().enumerate() {
            let flat = line.replace(' ', "");
            for impure in IMPURE_PATHS {
                if names_path(&flat, impure) {
                    complaints.push(format!("{}:{}: {impure}", path.display(), number + 1));
                }
            }
        }
    }
    none(&complaints, "time, files, sockets and threads come from outside");
}

/// Whether `line` names `path`, not as a part of a longer word.
fn names_path(line: &str, path: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(path)
        .any(|(at, _)| !line[..at].ends_with(word) && !line[at + path.len()..].starts_with(word))
        || path.strip_prefix("std::").is_some_and(|module| {
            // `use std::{fs, …}`
            line.split_once("std::{").is_some_and(|(_, list)| {
                list.split([',', '}']).any(|item| item == module || item.starts_with(&format!("{module}::")))
            })
        })
}

/// Whether a line names a folder of one developer's machine or the host of a package registry. Assembled
/// from parts, so that this file does not find itself.
fn tells_of_a_machine(line: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || "_.-}".contains(c);
    let folder = ["work", "root"].iter().any(|folder| {
        let folder = format!("/{folder}/");
        line.match_indices(&folder).any(|(at, _)| !line[..at].ends_with(word))
    });
    let host = ["deb", "static", "index", "registry", "files"].iter().any(|host| {
        line.split(&format!("//{host}.")).skip(1).any(|rest| {
            let name = rest.split(['/', ':', ' ', '"', '\'', ')']).next().unwrap_or_default();
            ["org", "io", "com", "net"].iter().any(|end| name.ends_with(&format!(".{end}")))
        })
    });
    folder || host
}

#[test]
fn the_tree_knows_no_machine() {
    let mut complaints = Vec::new();
    for path in files().iter().filter(|path| !path.ends_with("Cargo.lock")) {
        let Ok(text) = fs::read_to_string(path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if tells_of_a_machine(line) {
                complaints.push(format!("{}:{}: {line}", shown(path).display(), number + 1));
            }
        }
    }
    none(&complaints, "no path of one machine and no package registry's host in the tree");
}

#[test]
fn the_rules_catch_what_they_forbid() {
    let home = ["in /", "root", "/x"].concat();
    let mirror = ["https:/", "/deb.debian.", "org/debian"].concat();
    assert!(tells_of_a_machine(&home) && tells_of_a_machine(&mirror));
    assert!(!tells_of_a_machine("in /usr/lib/root/x, see //docs.example.org"));
    assert!(names_path("letnow=Instant::now();", "Instant::now"));
    assert!(names_path("usestd::{fmt,fs::File};", "std::fs"));
    assert!(!names_path("MyInstant::now()", "Instant::now"));
    assert!(!names_path("usestd::{fmt,net};", "std::fs"));
}

#[test]
fn every_crate_carries_the_licence() {
    let mut complaints = Vec::new();
    for path in files().iter().filter(|path| path.ends_with("Cargo.toml")) {
        let text = fs::read_to_string(path).expect("a manifest");
        let licensed =
            text.contains("license.workspace = true") || text.contains("license = \"Apache-2.0 OR MIT\"");
        if text.contains("[package]") && !licensed {
            complaints.push(format!("{}: no licence", shown(path).display()));
        }
        if text.contains("edition.workspace = true") && !text.contains("[lints]") {
            complaints.push(format!("{}: not the workspace's lints", shown(path).display()));
        }
    }
    none(&complaints, "every crate is Apache-2.0 OR MIT and takes the workspace's lints");
}

#[test]
fn decisions_are_numbered_without_a_gap() {
    let mut numbers: Vec<u32> = fs::read_dir(root().join("docs/decisions"))
        .expect("docs/decisions")
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let page = name.strip_suffix(".md")?;
            let (number, words) = page.split_once('-').unwrap_or((page, ""));
            assert!(number.len() == 4 && !words.is_empty(), "{name} is not NNNN-words.md");
            number.parse().ok()
        })
        .collect();
    numbers.sort_unstable();
    let wanted: Vec<u32> = (1..).take(numbers.len()).collect();
    assert!(!numbers.is_empty(), "no decision pages");
    assert_eq!(numbers, wanted, "docs/decisions/NNNN-*.md");
}
