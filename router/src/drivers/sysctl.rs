//! Settings below `/proc/sys`. `/proc/sys/net` shows the namespace of the thread that looks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use watari_planner::item::{Key, Ns, System, Value};

use super::{DriverError, namespace};

fn file(path: &str) -> PathBuf {
    Path::new("/proc/sys").join(path)
}

/// The settings of `keys` that are there.
pub fn read(keys: Vec<(Ns, String)>) -> System {
    let mut by_namespace: BTreeMap<Ns, Vec<String>> = BTreeMap::new();
    for (ns, path) in keys {
        by_namespace.entry(ns).or_default().push(path);
    }
    let mut system = System::new();
    for (ns, paths) in by_namespace {
        let read = namespace::inside(&ns, move || {
            let texts = paths.into_iter().map(|path| (fs::read_to_string(file(&path)).ok(), path));
            texts.collect::<Vec<_>>()
        });
        // A namespace that is gone has no settings.
        for (text, path) in read.unwrap_or_default() {
            if let Some(text) = text {
                system.insert(Key::Sysctl(ns.clone(), path), Value::Setting(text.trim().to_owned()));
            }
        }
    }
    system
}

/// Writes one setting.
///
/// # Errors
/// When the namespace or the device is gone, or the kernel refuses the value.
pub fn write(ns: &Ns, path: &str, text: &str) -> Result<(), DriverError> {
    let what = format!("write {path}{ns}");
    let (path, text) = (path.to_owned(), text.to_owned());
    namespace::inside(ns, move || fs::write(file(&path), text))
        .and_then(|written| written)
        .map_err(|e| DriverError::system(what, e))
}
