//! The passwords of BGP neighbours: read from where the document says they are, again and again, so that a new one is
//! taken without anybody telling. A neighbour whose password cannot be read is not talked to unsigned: it waits.

use std::collections::BTreeMap;

use watari_bgp::types::PeerId;
use watari_config::{Desired, SecretRef};

use super::peers::{Numbers, Path};
use crate::bgp::{Password, PeerSettings};

/// The passwords as they were last read.
#[derive(Debug, Default)]
pub(super) struct Passwords {
    known: BTreeMap<SecretRef, Password>,
    /// Neighbours whose password cannot be read, each with the reason.
    failed: BTreeMap<Path, String>,
}

impl Passwords {
    /// Puts the passwords into the settings; a neighbour that has none where it needs one is left out. One that could
    /// be read before and cannot now keeps what it has. Answers what is wrong since the last time.
    pub(super) fn fill(
        &mut self,
        desired: &Desired,
        numbers: &Numbers,
        settings: &mut BTreeMap<PeerId, PeerSettings>,
    ) -> Vec<(Path, String)> {
        let mut known = BTreeMap::new();
        let mut failed = BTreeMap::new();
        for (name, peer, _) in desired.peers() {
            let path = format!("peers.{name}");
            let (Some(place), Some(id)) = (&peer.password, numbers.id(&path)) else { continue };
            let read = read(place);
            let password = match read {
                Ok(password) => Some(password),
                Err(reason) => {
                    failed.insert(path, format!("password at {place}: {reason}"));
                    self.known.get(place).cloned()
                }
            };
            match (password, settings.get_mut(&id)) {
                (Some(password), Some(settings)) => {
                    settings.password = Some(password.clone());
                    known.insert(place.clone(), password);
                }
                (None, _) => {
                    settings.remove(&id);
                }
                (Some(_), None) => {}
            }
        }
        let news = failed.iter().filter(|(path, reason)| self.failed.get(*path) != Some(*reason));
        let news = news.map(|(path, reason)| (path.clone(), reason.clone())).collect();
        (self.known, self.failed) = (known, failed);
        news
    }

    /// Neighbours whose password cannot be read, each with the reason.
    pub(super) fn failed(&self) -> &BTreeMap<Path, String> {
        &self.failed
    }
}

/// The secret: a variable, or the first line of a file.
fn read(place: &SecretRef) -> Result<Password, String> {
    let text = match place {
        // The error's own words would quote what is no text.
        SecretRef::Env(name) => match std::env::var(name) {
            Ok(text) => text,
            Err(std::env::VarError::NotPresent) => return Err("it is not in the environment".to_owned()),
            Err(std::env::VarError::NotUnicode(_)) => return Err("it is not text".to_owned()),
        },
        SecretRef::File(path) => {
            let whole = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
            whole.lines().next().unwrap_or_default().to_owned()
        }
    };
    Password::new(text.as_bytes()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_file_is_the_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let place = SecretRef::File(path.clone());
        assert!(read(&place).unwrap_err().contains("No such file"));
        std::fs::write(&path, "hunter2\nnot this\n").unwrap();
        assert_eq!(read(&place), Ok(Password::new(b"hunter2").unwrap()));
        std::fs::write(&path, "\n").unwrap();
        assert!(read(&place).unwrap_err().contains("empty"));
        assert!(read(&SecretRef::Env("WATARI_NO_SUCH_VARIABLE".to_owned())).is_err());
    }
}
