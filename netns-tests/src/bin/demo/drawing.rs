//! The drawing at the head of `main.rs`: printed with the names of its edges first, with what was measured
//! on them in the end.
//!
//! A mark `{x}` and the blanks after it are the room for one text; `{x1}`, `{x2}`, `{x3}` are the rows of
//! edge x.

use crate::figures::Figures;

/// The edges: the letter of their marks, and what they are called before there are figures.
pub(crate) const EDGES: [(char, &str); 5] = [
    ('d', "host A ↔ host B, direct"),
    ('w', "host A ↔ host B, wireguard"),
    ('a', "host A ↔ c1"),
    ('b', "host B ↔ c1"),
    ('s', "c1 ↔ server"),
];

/// The drawing with the names of the edges.
pub(crate) fn named() -> String {
    let rows = EDGES.map(|(edge, name)| (edge, [name.to_owned(), String::new(), String::new()]));
    filled(&rows)
}

/// The drawing with what was measured.
pub(crate) fn measured(figures: &[(char, Figures)]) -> String {
    let rows: Vec<_> = figures.iter().map(|(edge, figures)| (*edge, figures.rows())).collect();
    filled(&rows)
}

fn filled(edges: &[(char, [String; 3])]) -> String {
    let source = include_str!("main.rs").lines();
    let inside = source.skip_while(|line| !line.contains("```text")).skip(1);
    let lines = inside.take_while(|line| !line.contains("```"));
    let mut text = lines.map(|line| line.trim_start_matches("//!")).collect::<Vec<_>>().join("\n");
    for (edge, rows) in edges {
        for (number, row) in (1..).zip(rows) {
            text = put(&text, &format!("{{{edge}{number}}}"), row);
        }
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Replaces `mark` and the blanks after it; a text that is too long pushes the rest of its line.
fn put(text: &str, mark: &str, row: &str) -> String {
    let Some((before, after)) = text.split_once(mark) else { return text.to_owned() };
    let blanks = after.chars().take_while(|c| *c == ' ').count();
    let room = mark.chars().count() + blanks;
    format!("{before}{row:<room$}{}", &after[blanks..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edge_is_in_the_drawing_and_nothing_is_pushed() {
        let text = named();
        for (_, name) in EDGES {
            assert!(text.contains(name), "{name}");
        }
        assert!(!text.contains('{'), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= crate::progress::COLUMNS), "{text}");
        let full = "x".repeat(28);
        let edges = EDGES.map(|(edge, _)| (edge, [full.clone(), full.clone(), full.clone()]));
        let is_wire = |c: char| ('\u{2500}'..'\u{2580}').contains(&c);
        let wires = |text: &str| text.replace(|c| !is_wire(c), " ").trim_end().to_owned();
        let lines = |text: &str| text.lines().map(wires).collect::<Vec<_>>();
        assert_eq!(lines(&filled(&edges)), lines(&text));
    }
}
