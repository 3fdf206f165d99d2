//! Documents out of files: one, many, or all of a folder, each with one or several documents, made into one.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use watari_config::Problem;
use watari_config::read::{DOCUMENT_BYTES_MAX, parse_documents};

use super::commands::CommandError;

/// What the names of documents in a folder end in.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// The text of a file; of standard input for `-`.
///
/// # Errors
/// When it cannot be read, or is larger than a document may be.
pub(super) fn read_file(path: &Path) -> Result<String, CommandError> {
    let failed = |source| CommandError::File { path: path.to_owned(), source };
    let mut text = String::new();
    let limit = DOCUMENT_BYTES_MAX as u64 + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_string(&mut text)
    } else {
        fs::File::open(path).map_err(failed)?.take(limit).read_to_string(&mut text)
    };
    read.map_err(failed)?;
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(failed(std::io::Error::other(format!("larger than {DOCUMENT_BYTES_MAX} bytes"))));
    }
    Ok(text)
}

/// All documents of `paths` as one. In which file an object stands does not matter, but it stands in one only.
///
/// # Errors
/// Every file that cannot be read, and every object that stands twice.
pub(super) fn document(paths: &[PathBuf]) -> Result<Value, CommandError> {
    let mut whole = Whole::default();
    for path in files(paths)? {
        let invalid = |problems| CommandError::Invalid { file: path.clone(), problems };
        let trees = parse_documents(&read_file(&path)?).map_err(invalid)?;
        // What writes documents and fails leaves an empty one: with `--replace` that would remove everything.
        if trees.is_empty() {
            let message = "there is no document in it".to_owned();
            return Err(invalid(vec![Problem { path: "(document)".to_owned(), message }]));
        }
        for tree in trees {
            whole.add(&path, tree).map_err(invalid)?;
        }
    }
    Ok(Value::Object(whole.tree))
}

/// The files themselves, and those of the folders among them, in the order of their names.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, CommandError> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let failed = |source| CommandError::File { path: path.clone(), source };
        let mut inside = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            let ending = entry.extension().and_then(|e| e.to_str()).unwrap_or_default();
            if entry.is_file() && ENDINGS.contains(&ending) {
                inside.push(entry);
            }
        }
        if inside.is_empty() {
            let none = format!("no file in it ends in .{}", ENDINGS.join(", ."));
            return Err(failed(std::io::Error::other(none)));
        }
        inside.sort();
        found.append(&mut inside);
    }
    Ok(found)
}

/// One document out of many, and which file each part is from.
#[derive(Default)]
struct Whole {
    tree: Map<String, Value>,
    from: BTreeMap<String, PathBuf>,
}

impl Whole {
    fn add(&mut self, file: &Path, tree: Value) -> Result<(), Vec<Problem>> {
        let Value::Object(tree) = tree else {
            let message = "must be a mapping from kinds to objects".to_owned();
            return Err(vec![Problem { path: "(document)".to_owned(), message }]);
        };
        let mut twice = Vec::new();
        for (kind, objects) in tree {
            match (self.tree.get_mut(&kind), objects) {
                (Some(Value::Object(present)), Value::Object(objects)) => {
                    for (name, object) in objects {
                        let path = format!("{kind}.{name}");
                        match self.from.insert(path.clone(), file.to_owned()) {
                            Some(other) => twice.push(stands_twice(path, &other)),
                            None => {
                                present.insert(name, object);
                            }
                        }
                    }
                }
                (Some(_), _) => twice.push(stands_twice(kind, file)),
                (None, objects) => {
                    let names = objects.as_object().into_iter().flat_map(|o| o.keys());
                    self.from.extend(names.map(|name| (format!("{kind}.{name}"), file.to_owned())));
                    self.tree.insert(kind, objects);
                }
            }
        }
        if twice.is_empty() { Ok(()) } else { Err(twice) }
    }
}

fn stands_twice(path: String, other: &Path) -> Problem {
    Problem { path, message: format!("stands in {} already", other.display()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn many_documents_become_one() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("b.yaml", "sites: { b: {} }\n---\ntenants: { lab: { l3vni: 5 } }\n---\n");
        write("a.json", r#"{ "sites": { "a": {} }, "fabric": { "vxlan_port": 4790 } }"#);
        write("notes.txt", "sites: nothing of this");
        let whole = document(&[dir.path().to_owned()]).unwrap();
        let expected = json!({
            "sites": { "a": {}, "b": {} }, "fabric": { "vxlan_port": 4790 }, "tenants": { "lab": { "l3vni": 5 } },
        });
        assert_eq!(whole, expected);
    }

    #[test]
    fn an_object_that_stands_twice_is_named_with_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one.yaml"), dir.path().join("two.yaml"));
        fs::write(&one, "sites: { a: {}, b: {} }").unwrap();
        fs::write(&two, "sites: { b: { description: other } }").unwrap();
        let refused = document(&[one, two]).unwrap_err().to_string();
        for word in ["one.yaml", "two.yaml", "sites.b"] {
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn what_is_no_document_is_refused_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let empty = document(&[dir.path().to_owned()]).unwrap_err().to_string();
        assert!(empty.contains("no file in it"), "{empty}");
        let nothing = dir.path().join("nothing.yaml");
        fs::write(&nothing, "# a comment\n").unwrap();
        let refused = document(std::slice::from_ref(&nothing)).unwrap_err().to_string();
        assert!(refused.contains("nothing.yaml") && refused.contains("no document"), "{refused}");
        let file = dir.path().join("list.yaml");
        fs::write(&file, "- a\n").unwrap();
        let refused = document(std::slice::from_ref(&file)).unwrap_err().to_string();
        assert!(refused.contains("list.yaml") && refused.contains("mapping"), "{refused}");
    }
}
