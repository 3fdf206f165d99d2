//! A pinned map as bytes: what a migration reads and writes, whatever the types were in the programs that made it.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use aya::maps::MapData;
use watari_abi::{MapKind, MapLayout};

use crate::{
    Error,
    batch::{self, Shape},
};

const LOOKUP: libc::c_long = 1;
const UPDATE: libc::c_long = 2;
const NEXT_KEY: libc::c_long = 4;

/// `union bpf_attr` as the commands on elements use it.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    /// Value, or room for the next key.
    value: u64,
    flags: u64,
}

/// How [`RawMap::put`] treats what is there.
#[derive(Clone, Copy)]
pub(crate) enum Put {
    /// `BPF_ANY`: it is overwritten.
    Any = 0,
    /// `BPF_NOEXIST`: it stays.
    IfAbsent = 1,
}

/// A map by its pin.
pub(crate) struct RawMap {
    data: MapData,
    name: &'static str,
    kind: u32,
    key: usize,
    value: usize,
    limit: u32,
}

impl RawMap {
    pub(crate) fn open(name: &'static str, pin: &Path) -> Result<Self, Error> {
        let data = MapData::from_pin(pin).map_err(|error| Error::map(name, "open pin", error))?;
        let info = data.info().map_err(|error| Error::map(name, "ask for the shape", error))?;
        let kind = info.map_type().map_err(|error| Error::map(name, "ask for the kind", error))? as u32;
        let (key, value) = (info.key_size() as usize, info.value_size() as usize);
        Ok(Self { name, kind, key, value, limit: info.max_entries(), data })
    }

    /// True if kind, key and value have the sizes that `layout` says; the limit may differ.
    pub(crate) fn has_shape(&self, layout: &MapLayout) -> bool {
        self.kind == layout.kind as u32
            && self.key == layout.key as usize
            && self.value == layout.value as usize
    }

    /// Bytes of a key and of a value of one CPU.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.key, self.value)
    }

    /// The most entries; bytes of a ring buffer.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// True if keys are indices, all of which are always there.
    pub(crate) fn is_array(&self) -> bool {
        [MapKind::Array as u32, MapKind::PerCpuArray as u32].contains(&self.kind)
    }

    /// Bytes of what a look-up returns: of all CPUs for a per-CPU map, each in steps of eight.
    fn value_bytes(&self) -> Result<usize, Error> {
        let per_cpu = [MapKind::PerCpuHash as u32, MapKind::PerCpuArray as u32].contains(&self.kind);
        if !per_cpu {
            return Ok(self.value);
        }
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| self.failed("count CPUs", source))?;
        Ok(self.value.next_multiple_of(8) * cpus)
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut value = vec![0; self.value_bytes()?];
        match self.call(LOOKUP, key.as_ptr(), value.as_mut_ptr(), 0) {
            Ok(()) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("look up", error)),
        }
    }

    /// Writes an entry. False if the map is full, or if `how` says that what is there stays.
    pub(crate) fn put(&self, key: &[u8], value: &[u8], how: Put) -> Result<bool, Error> {
        let mut value = value.to_vec();
        match self.call(UPDATE, key.as_ptr(), value.as_mut_ptr(), how as u64) {
            Ok(()) => Ok(true),
            Err(error) if is_full(&error) || error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(self.failed("write", error)),
        }
    }

    /// All keys. What is written meanwhile may or may not be among them; a walk that starts over because its
    /// entry went ends after twice as many steps as the map has room for.
    pub(crate) fn keys(&self) -> Result<Vec<Vec<u8>>, Error> {
        let mut keys = Vec::new();
        let mut last: Option<Vec<u8>> = None;
        for _ in 0..u64::from(self.limit) * 2 {
            let mut next = vec![0; self.key];
            let from = last.as_ref().map_or(std::ptr::null(), Vec::as_ptr);
            match self.call(NEXT_KEY, from, next.as_mut_ptr(), 0) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(self.failed("walk", error)),
            }
            keys.push(next.clone());
            last = Some(next);
        }
        keys.sort_unstable();
        keys.dedup();
        Ok(keys)
    }

    /// How many entries a hash map or a trie has.
    pub(crate) fn count(&self) -> Result<u32, Error> {
        let value = self.value_bytes()?;
        let shape = match self.kind == MapKind::Trie as u32 {
            true => Shape::trie(self.key, value, self.limit),
            false => Shape::hash(self.key, value, self.limit),
        };
        batch::count(self.data.fd().as_fd(), shape).map_err(|source| self.failed("count", source))
    }

    fn call(&self, command: libc::c_long, key: *const u8, value: *mut u8, flags: u64) -> io::Result<()> {
        let fd = self.data.fd().as_fd().as_raw_fd() as u32;
        let mut attr = ElementAttr { map_fd: fd, pad: 0, key: key as u64, value: value as u64, flags };
        // SAFETY: the kernel reads and writes as many bytes as the map's key and value have; both buffers have
        // them (checked by the callers against the sizes the kernel told), a null key is allowed for `NEXT_KEY`.
        let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<ElementAttr>()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn failed(&self, operation: &'static str, source: io::Error) -> Error {
        Error::Element { map: self.name, operation, source }
    }
}

/// True if a write failed because the table has no room: a hash says `E2BIG`, a trie `ENOSPC`.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
}
