//! Where things are pinned: `wtm-MAP`, `wtp-PROGRAM` and `wtl-HOOK-IFINDEX` in one folder of bpffs per instance; while
//! programs are replaced, those to come as `wtn-MAP` and `wtq-PROGRAM`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use watari_abi::Hook;

use crate::Error;

/// Where bpffs is expected, and mounted if it is absent.
const BPFFS: &str = "/sys/fs/bpf";

/// Mounts bpffs on `/sys/fs/bpf` if `path` is not yet on a bpffs. Returns whether it was mounted now.
///
/// # Errors
/// The mount was refused, or `path` lies elsewhere than under `/sys/fs/bpf`.
pub fn ensure_bpffs(path: &Path) -> Result<bool, Error> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let on_bpffs = |path: &Path| statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC);
    if on_bpffs(existing) {
        return Ok(false);
    }
    let failed = |source| Error::MountBpffs { path: path.to_owned(), source };
    if !path.starts_with(BPFFS) {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not on a bpffs, nor under /sys/fs/bpf",
        )));
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|errno| failed(errno.into()))?;
    tracing::info!(path = BPFFS, "mounted bpffs");
    Ok(true)
}

/// The pin folder of one instance.
#[derive(Clone, Debug)]
pub(crate) struct PinFolder(PathBuf);

impl PinFolder {
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        ensure_bpffs(path)?;
        fs::create_dir_all(path).map_err(|source| Error::PinFolder { path: path.to_owned(), source })?;
        Ok(Self(path.to_owned()))
    }
    /// The folder as it is, or is not.
    pub(crate) fn existing(path: &Path) -> Self {
        Self(path.to_owned())
    }
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.0.join(format!("wtm-{name}"))
    }
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.0.join(format!("wtp-{name}"))
    }
    /// A map of the generation to come.
    pub(crate) fn next_map(&self, name: &str) -> PathBuf {
        self.0.join(format!("wtn-{name}"))
    }
    /// A program of the generation to come.
    pub(crate) fn next_program(&self, name: &str) -> PathBuf {
        self.0.join(format!("wtq-{name}"))
    }
    pub(crate) fn link(&self, hook: &str, ifindex: u32) -> PathBuf {
        self.0.join(format!("wtl-{hook}-{ifindex}"))
    }

    /// Hook and device of every pinned link. Pins of other names are not ours and left alone.
    pub(crate) fn links(&self) -> Result<Vec<(Hook, u32, PathBuf)>, Error> {
        let mut found = Vec::new();
        for (path, name) in self.names()? {
            found.extend(parse_link(&name).map(|(hook, ifindex)| (hook, ifindex, path)));
        }
        found.sort();
        Ok(found)
    }

    /// Every pin of a generation to come, and the pin that it is to replace.
    pub(crate) fn next_pins(&self) -> Result<Vec<(PathBuf, PathBuf)>, Error> {
        let mut found = Vec::new();
        for (path, name) in self.names()? {
            let map = name.strip_prefix("wtn-").map(|name| self.map(name));
            let program = name.strip_prefix("wtq-").map(|name| self.program(name));
            found.extend(map.or(program).map(|to| (path, to)));
        }
        found.sort();
        Ok(found)
    }

    /// Pins of maps and programs.
    pub(crate) fn objects(&self) -> Result<Vec<PathBuf>, Error> {
        let names = self.names()?.into_iter();
        let ours = names.filter(|(_, name)| name.starts_with("wtm-") || name.starts_with("wtp-"));
        Ok(ours.map(|(path, _)| path).collect())
    }

    fn names(&self) -> Result<Vec<(PathBuf, String)>, Error> {
        let failed = |source| Error::PinFolder { path: self.0.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            names.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
        }
        Ok(names)
    }

    /// Removes every pin of ours and the folder itself, if nothing foreign is left in it.
    pub(crate) fn remove_all(&self) -> Result<(), Error> {
        let failed = |source| Error::PinFolder { path: self.0.clone(), source };
        for (path, name) in self.names()? {
            if ["wtm-", "wtp-", "wtl-", "wtn-", "wtq-"].iter().any(|prefix| name.starts_with(prefix)) {
                unpin(&path)?;
            }
        }
        match fs::remove_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => other.map_err(failed),
        }
    }
}

fn parse_link(name: &str) -> Option<(Hook, u32)> {
    let (hook, ifindex) = name.strip_prefix("wtl-")?.rsplit_once('-')?;
    let hook = Hook::ALL.iter().copied().find(|candidate| candidate.name() == hook)?;
    Some((hook, ifindex.parse().ok()?))
}

/// Removes a pin; one that is already gone is fine.
pub(crate) fn unpin(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| Error::PinFolder { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_are_short_and_come_back() {
        for hook in Hook::ALL {
            let name = PinFolder("/x".into()).link(hook.name(), 99_999);
            let name = name.file_name().unwrap().to_str().unwrap();
            assert!(name.len() <= 15, "{name}");
            assert_eq!(parse_link(name), Some((*hook, 99_999)));
        }
        assert_eq!(parse_link("wtl-other-1"), None);
        assert_eq!(parse_link("wtm-ports"), None);
    }

    #[test]
    fn a_folder_elsewhere_is_refused() {
        assert!(matches!(ensure_bpffs(Path::new("/proc/nowhere")), Err(Error::MountBpffs { .. })));
    }
}
