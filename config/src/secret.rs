//! Where a secret is: documents name it and never hold it, so they can be shown, stored and compared.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::read::read_by_text;

/// The place of a secret at the gateway that needs it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretRef {
    /// `file:/PATH`: the first line of a file that the daemon may read.
    File(PathBuf),
    /// `env:NAME`: a variable of the daemon's environment.
    Env(String),
}

/// The text names no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret is given by its place: file:/PATH with an absolute path, or env:NAME")]
pub struct SecretRefError;

impl FromStr for SecretRef {
    type Err = SecretRefError;

    fn from_str(text: &str) -> Result<Self, SecretRefError> {
        let is_name = |name: &str| {
            let mut chars = name.chars();
            chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
                && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        match text.split_once(':') {
            Some(("file", path)) if path.starts_with('/') && !path.contains('\0') => {
                Ok(Self::File(PathBuf::from(path)))
            }
            Some(("env", name)) if is_name(name) => Ok(Self::Env(name.to_owned())),
            _ => Err(SecretRefError),
        }
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Env(name) => write!(f, "env:{name}"),
        }
    }
}

impl Serialize for SecretRef {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

read_by_text!(SecretRef);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_and_a_secret_is_not() {
        for text in ["file:/etc/watari/bgp.key", "env:BGP_KEY", "env:_k9"] {
            assert_eq!(text.parse::<SecretRef>().unwrap().to_string(), text);
        }
        for text in ["hunter2", "file:bgp.key", "file:", "env:", "env:9", "env:A B", "vault:x", ""] {
            assert_eq!(text.parse::<SecretRef>(), Err(SecretRefError), "{text}");
        }
    }
}
