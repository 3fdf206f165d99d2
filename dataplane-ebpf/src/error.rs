//! What can fail, and where.

use std::{io, path::PathBuf};

/// A failure of the loader or of one of its tables.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// bpffs could not be mounted.
    #[error("cannot mount bpffs on {}", path.display())]
    MountBpffs {
        /// The mount point.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The pin folder could not be made or read.
    #[error("pin folder {}", path.display())]
    PinFolder {
        /// The folder or pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The object file was refused.
    #[error("cannot load the eBPF object")]
    Load(#[source] Box<aya::EbpfError>),
    /// A program was refused, could not be pinned or is not in the object.
    #[error("eBPF program {name}")]
    Program {
        /// Its name.
        name: String,
        /// What the kernel said.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The object lacks a program or map that this loader needs.
    #[error("the eBPF object has no {what} named {name}")]
    Missing {
        /// `map` or `program`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A pin failed.
    #[error("cannot pin {}", path.display())]
    Pin {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Box<aya::pin::PinError>,
    },
    /// A map operation failed.
    #[error("map {map}: {operation}")]
    Map {
        /// The map.
        map: String,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<aya::maps::MapError>,
    },
    /// An entry of a map could not be read or written while tables were carried over or counted.
    #[error("map {map}: {operation}")]
    Element {
        /// The map.
        map: &'static str,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A table holds as many entries as it can.
    #[error("table {table} is full: its limit is {limit} entries")]
    TableFull {
        /// The map.
        table: &'static str,
        /// Its limit ([`watari_abi::limits`]).
        limit: u32,
    },
    /// A replacement was stopped on the way, as asked.
    #[error("the replacement was stopped after {0:?}, as asked")]
    Stopped(crate::Stop),
    /// A link could not be opened, changed or pinned.
    #[error("link {}", path.display())]
    Link {
        /// Its pin.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Box<aya::programs::links::LinkError>,
    },
    /// There is no device with this index in the namespace of the calling thread.
    #[error("no device with index {ifindex} in this network namespace")]
    NoDevice {
        /// The index.
        ifindex: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There is no device with this name in the namespace of the calling thread.
    #[error("no device named {name} in this network namespace")]
    NoDeviceNamed {
        /// The name.
        name: String,
    },
    /// A prefix length that its address family does not have.
    #[error("prefix length {length} is out of range for {address}")]
    PrefixLength {
        /// The address.
        address: std::net::IpAddr,
        /// The length.
        length: u8,
    },
}

impl Error {
    pub(crate) fn map(map: &str, operation: &'static str, source: aya::maps::MapError) -> Self {
        Self::Map { map: map.to_owned(), operation, source: Box::new(source) }
    }
    /// A failed write into a table of `limit` entries.
    pub(crate) fn write(table: &'static str, limit: u32, source: aya::maps::MapError) -> Self {
        match &source {
            aya::maps::MapError::SyscallError(error) if crate::raw_map::is_full(&error.io_error) => {
                Self::TableFull { table, limit }
            }
            _ => Self::map(table, "write", source),
        }
    }
    pub(crate) fn program(name: &str, source: aya::programs::ProgramError) -> Self {
        Self::Program { name: name.to_owned(), source: Box::new(source) }
    }
}
