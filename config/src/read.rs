//! Reading a tree of values into typed objects, with every problem collected.
//!
//! serde stops at the first error; an operator wants all of them, each with the path of its field. So
//! the text is parsed to a plain tree first, and each object reads its own fields out of it: an unknown
//! field, a missing one and a malformed one are all noted, and reading goes on.

use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

use crate::names::Name;

/// The most bytes one document may have.
pub const DOCUMENT_BYTES_MAX: usize = 8 << 20;
/// The most problems that are listed; a document with more is refused all the same.
pub const PROBLEMS_MAX: usize = 200;

/// Where a value stands in a document: `segments.lab.subnets[1]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    /// The document itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// The path of field `name` of the object here.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The path of element `index` of the list here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "(document)" } else { &self.0 })
    }
}

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Problem {
    /// The field, e.g. `segments.lab.vni`.
    pub path: String,
    /// What is wrong and what would be right, as one sentence.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The problems found so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Notes a problem at `path`. Beyond [`PROBLEMS_MAX`] they are no longer kept.
    pub fn add(&mut self, path: &Path, message: impl Into<String>) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(Problem { path: path.to_string(), message: message.into() });
        }
    }

    /// True while nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problems so far, in the order they were found.
    pub fn as_slice(&self) -> &[Problem] {
        &self.0
    }

    /// The problems in the order they were found.
    pub fn into_vec(self) -> Vec<Problem> {
        self.0
    }

    /// `value` if nothing is wrong, else every problem.
    pub fn or<T>(self, value: T) -> Result<T, Vec<Problem>> {
        if self.is_empty() { Ok(value) } else { Err(self.0) }
    }
}

/// A type that can be read from a tree of values.
pub trait Read: Sized {
    /// Reads `value`; on a problem notes it and returns `None`.
    fn read(value: &Value, at: &Path, problems: &mut Problems) -> Option<Self>;

    /// What an absent field means. A required one is a problem.
    fn absent(at: &Path, problems: &mut Problems) -> Option<Self> {
        problems.add(at, "is required");
        None
    }

    /// Whether an object must have a field of this type.
    const REQUIRED: bool = true;

    /// The type's schema in the OpenAPI document.
    #[cfg(feature = "schema")]
    fn schema() -> crate::schema::Schema {
        crate::schema::text()
    }
}

impl<T: Read> Read for Option<T> {
    const REQUIRED: bool = false;

    #[cfg(feature = "schema")]
    fn schema() -> crate::schema::Schema {
        crate::schema::optional(T::schema())
    }

    fn read(value: &Value, at: &Path, problems: &mut Problems) -> Option<Self> {
        if value.is_null() { Some(None) } else { T::read(value, at, problems).map(Some) }
    }

    fn absent(_: &Path, _: &mut Problems) -> Option<Self> {
        Some(None)
    }
}

impl<T: Read> Read for Vec<T> {
    const REQUIRED: bool = false;

    #[cfg(feature = "schema")]
    fn schema() -> crate::schema::Schema {
        crate::schema::list(T::schema())
    }

    fn read(value: &Value, at: &Path, problems: &mut Problems) -> Option<Self> {
        let Some(list) = value.as_array() else {
            problems.add(at, format!("must be a list, not {}", kind(value)));
            return None;
        };
        let read: Vec<_> = list.iter().enumerate().map(|(i, v)| T::read(v, &at.index(i), problems)).collect();
        read.into_iter().collect()
    }

    fn absent(_: &Path, _: &mut Problems) -> Option<Self> {
        Some(Vec::new())
    }
}

impl<T: Read> Read for BTreeMap<Name, T> {
    const REQUIRED: bool = false;

    #[cfg(feature = "schema")]
    fn schema() -> crate::schema::Schema {
        crate::schema::map(T::schema())
    }

    fn read(value: &Value, at: &Path, problems: &mut Problems) -> Option<Self> {
        let map = as_object(value, at, problems)?;
        let mut out = BTreeMap::new();
        for (key, value) in map {
            let here = at.field(key);
            let name = key.parse::<Name>().map_err(|e| problems.add(&here, e.to_string())).ok();
            // A broken object is left out; the others are still checked against each other.
            if let (Some(name), Some(value)) = (name, T::read(value, &here, problems)) {
                out.insert(name, value);
            }
        }
        Some(out)
    }

    fn absent(_: &Path, _: &mut Problems) -> Option<Self> {
        Some(BTreeMap::new())
    }
}

impl Read for bool {
    #[cfg(feature = "schema")]
    fn schema() -> crate::schema::Schema {
        crate::schema::boolean()
    }

    fn read(value: &Value, at: &Path, problems: &mut Problems) -> Option<Self> {
        let read = value.as_bool();
        if read.is_none() {
            problems.add(at, format!("must be true or false, not {}", kind(value)));
        }
        read
    }
}

impl Read for String {
    fn read(value: &Value, at: &Path, problems: &mut Problems) -> Option<Self> {
        let read = value.as_str().map(str::to_owned);
        if read.is_none() {
            problems.add(at, format!("must be text, not {}", kind(value)));
        }
        read
    }
}

macro_rules! read_integers {
    ($($t:ty),*) => {$(
        impl Read for $t {
            #[cfg(feature = "schema")]
            fn schema() -> crate::schema::Schema {
                crate::schema::number()
            }

            fn read(value: &Value, at: &Path, problems: &mut Problems) -> Option<Self> {
                let read = value.as_u64().and_then(|n| Self::try_from(n).ok());
                if read.is_none() {
                    problems.add(at, format!("must be a whole number from 0 to {}, not {value}", Self::MAX));
                }
                read
            }
        }
    )*};
}
read_integers!(u8, u16, u32, u64);

/// Reads a value that is written as text through its `FromStr`; numbers are taken as their digits.
pub(crate) fn read_text<T>(value: &Value, at: &Path, problems: &mut Problems) -> Option<T>
where
    T: std::str::FromStr,
    T::Err: fmt::Display,
{
    let text = match value {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        other => {
            problems.add(at, format!("must be text or a number, not {}", kind(other)));
            return None;
        }
    };
    text.parse().map_err(|e: T::Err| problems.add(at, format!("{text:?}: {e}"))).ok()
}

macro_rules! read_by_text {
    ($($t:ty),* $(,)?) => {$(
        impl $crate::read::Read for $t {
            fn read(
                value: &serde_json::Value,
                at: &$crate::read::Path,
                problems: &mut $crate::read::Problems,
            ) -> Option<Self> {
                $crate::read::read_text(value, at, problems)
            }
        }
    )*};
}
pub(crate) use read_by_text;

read_by_text!(std::net::IpAddr, std::net::Ipv4Addr, std::net::SocketAddr, ipnet::IpNet, jiff::Timestamp,);

/// The object at `value`, or a problem.
pub(crate) fn as_object<'a>(
    value: &'a Value,
    at: &Path,
    problems: &mut Problems,
) -> Option<&'a Map<String, Value>> {
    let map = value.as_object();
    if map.is_none() {
        problems.add(at, format!("must be an object, not {}", kind(value)));
    }
    map
}

/// Notes every field of `map` that the object does not have.
pub(crate) fn unknown_fields(map: &Map<String, Value>, known: &[&str], at: &Path, problems: &mut Problems) {
    for key in map.keys().filter(|k| !known.contains(&k.as_str())) {
        problems.add(&at.field(key), format!("unknown field; known are {}", known.join(", ")));
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Declares an object of the document: the struct, and how it is read field by field.
///
/// A field without `= default` must be given, unless its type says what absence means
/// (`Option`, `Vec`, a map).
macro_rules! object {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[doc = $fdoc:literal])* pub $field:ident : $type:ty $(= $default:expr)?),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
        pub struct $name { $($(#[doc = $fdoc])* pub $field: $type),* }

        #[cfg(feature = "schema")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> $crate::schema::Schema {
                <Self as $crate::read::Read>::schema()
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::ToSchema for $name {}

        impl $crate::read::Read for $name {
            #[cfg(feature = "schema")]
            fn schema() -> $crate::schema::Schema {
                $crate::schema::object(stringify!($name), vec![$((
                    stringify!($field),
                    concat!($($fdoc),*),
                    $crate::read::object!(@required $type $(, $default)?),
                    <$type as $crate::read::Read>::schema(),
                )),*])
            }

            fn read(
                value: &serde_json::Value,
                at: &$crate::read::Path,
                problems: &mut $crate::read::Problems,
            ) -> Option<Self> {
                let map = $crate::read::as_object(value, at, problems)?;
                $crate::read::unknown_fields(map, &[$(stringify!($field)),*], at, problems);
                $(let $field = {
                    let here = at.field(stringify!($field));
                    match map.get(stringify!($field)) {
                        Some(value) => <$type as $crate::read::Read>::read(value, &here, problems),
                        None => $crate::read::object!(@absent $type, here, problems $(, $default)?),
                    }
                };)*
                Some(Self { $($field: $field?),* })
            }
        }
    };
    (@required $type:ty) => { <$type as $crate::read::Read>::REQUIRED };
    (@required $type:ty, $default:expr) => { false };
    (@absent $type:ty, $here:ident, $problems:ident) => {
        <$type as $crate::read::Read>::absent(&$here, $problems)
    };
    (@absent $type:ty, $here:ident, $problems:ident, $default:expr) => {{
        let _ = &$here;
        Some($default)
    }};
}
pub(crate) use object;

/// Parses YAML or JSON (a subset of YAML 1.2) to a tree.
///
/// # Errors
/// One problem with line and column when the text is no YAML, is too large, or repeats a key.
pub fn parse_text(text: &str) -> Result<Value, Vec<Problem>> {
    let whole = |message: String| vec![Problem { path: Path::root().to_string(), message }];
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(whole(format!("larger than {DOCUMENT_BYTES_MAX} bytes")));
    }
    serde_saphyr::from_str::<Value>(text).map_err(|e| whole(e.to_string()))
}

/// Parses YAML of several documents, separated by `---`, or JSON; empty ones are left out.
///
/// # Errors
/// As [`parse_text`].
pub fn parse_documents(text: &str) -> Result<Vec<Value>, Vec<Problem>> {
    let whole = |message: String| vec![Problem { path: Path::root().to_string(), message }];
    if text.len() > DOCUMENT_BYTES_MAX {
        return Err(whole(format!("larger than {DOCUMENT_BYTES_MAX} bytes")));
    }
    let parsed = serde_saphyr::from_multiple::<Value>(text).map_err(|e| whole(e.to_string()))?;
    Ok(parsed.into_iter().filter(|document| !document.is_null()).collect())
}

/// The tree as YAML, which [`parse_text`] reads back to the same tree.
///
/// # Errors
/// When it has what YAML cannot write; no document has.
pub fn to_yaml(tree: &Value) -> Result<String, String> {
    serde_saphyr::to_string(tree).map_err(|error| error.to_string())
}

/// Parses and reads one object of type `T` from text.
///
/// # Errors
/// Every problem of syntax or of a field.
pub fn read_str<T: Read>(text: &str) -> Result<T, Vec<Problem>> {
    read_value(&parse_text(text)?)
}

/// Reads one object of type `T` from a tree.
///
/// # Errors
/// Every problem of a field.
pub fn read_value<T: Read>(value: &Value) -> Result<T, Vec<Problem>> {
    let mut problems = Problems::default();
    match T::read(value, &Path::root(), &mut problems) {
        Some(read) => problems.or(read),
        None => Err(problems.into_vec()),
    }
}
