//! One map as a typed table that can be read back whole.

use std::{
    collections::BTreeMap,
    os::fd::AsFd as _,
    sync::{Arc, Mutex, PoisonError},
};

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, Map, MapData, MapError},
    sys::SyscallError,
};

use crate::{
    Error,
    batch::{self, Shape},
    epoch::Epoch,
};

/// A hash map of the datapath. Clones share it; every call is one or a few system calls.
#[derive(Debug)]
pub struct Table<K, V> {
    name: &'static str,
    limit: u32,
    epoch: Option<Epoch>,
    map: Arc<Mutex<HashMap<MapData, K, V>>>,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self { name: self.name, limit: self.limit, epoch: self.epoch.clone(), map: Arc::clone(&self.map) }
    }
}

impl<K: Pod + Ord, V: Pod> Table<K, V> {
    pub(crate) fn new(name: &'static str, map: Map) -> Result<Self, Error> {
        let map = HashMap::try_from(map).map_err(|error| Error::map(name, "open", error))?;
        let limit = limit_of(name);
        Ok(Self { name, limit, epoch: None, map: Arc::new(Mutex::new(map)) })
    }

    /// A table on which decisions rest that the flow cache remembers: every write of it ends them.
    pub(crate) fn ending(self, epoch: &Epoch) -> Self {
        Self { epoch: Some(epoch.clone()), ..self }
    }

    /// Name of the map, as its pin has it after `wtm-`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The most entries that it holds.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// The kernel refused the look-up.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        match self.lock().get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(Error::map(self.name, "look up", error)),
        }
    }

    /// Writes `value` under `key`, whether or not there was one.
    ///
    /// # Errors
    /// [`Error::TableFull`], or the kernel refused.
    pub fn upsert(&self, key: &K, value: &V) -> Result<(), Error> {
        self.lock().insert(key, value, 0).map_err(|error| Error::write(self.name, self.limit, error))?;
        self.epoch.as_ref().map_or(Ok(()), Epoch::begin)
    }

    /// Removes `key`. Returns whether it was there.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self, key: &K) -> Result<bool, Error> {
        match self.lock().remove(key) {
            Ok(()) => self.epoch.as_ref().map_or(Ok(true), |epoch| epoch.begin().map(|()| true)),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(Error::map(self.name, "remove", error)),
        }
    }

    /// All entries in the order of their keys. What is written meanwhile may or may not be among them.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn entries(&self) -> Result<BTreeMap<K, V>, Error> {
        Ok(self.list()?.into_iter().collect())
    }

    /// All entries, in no order: what [`Table::entries`] costs without sorting.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn list(&self) -> Result<Vec<(K, V)>, Error> {
        let shape = Shape::hash(size_of::<K>(), size_of::<V>(), self.limit);
        let map = self.lock();
        batch::entries(map.map().fd().as_fd(), shape).map_err(|error| walk_failed(self.name, error))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<MapData, K, V>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A walk by batches was refused.
pub(crate) fn walk_failed(table: &'static str, io_error: std::io::Error) -> Error {
    Error::map(table, "walk", SyscallError { call: "bpf_map_lookup_batch", io_error }.into())
}

/// The most entries of a map.
pub(crate) fn limit_of(name: &str) -> u32 {
    watari_abi::layout::MAPS.iter().find(|map| map.name == name).map_or(0, |map| map.limit)
}

/// True if the error only says that there is no such key.
pub(crate) fn is_absent(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(error) => error.io_error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
