//! One generation of programs after another, behind the same links.
//!
//! What is there serves until what follows is complete: the next generation's maps are made and filled, its programs
//! loaded, all under pins of their own. Then the links are turned over one by one, each at once. Maps that did
//! not change are shared by both generations; `pipeline`, `scratch` and the other working memory never are, so that no
//! hook runs a stage of the other one. What the old programs learnt and counted to their last packet is
//! carried over, the decision is written down, and the next pins are renamed over the old ones.
//!
//! Before the decision everything can be undone, after it everything can be finished, by whoever opens next: [`settle`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, ProgramArray},
    programs::SchedClassifier,
};
use watari_abi::{MapLayout, Role, Stage, layout, layout_number};

use crate::{
    Error,
    migrate::{self, Migration},
    object::{fingerprint_of, program_of, programs},
    pins::{PinFolder, unpin},
    raw_map::{Put, RawMap},
    relink::{relink, wait_for_running_programs},
};

/// An entry of the map `layout`.
type Record = [u64; 2];

/// A moment of a replacement, in order. Only tests stop there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// The next maps are made.
    Made,
    /// They are filled.
    Filled,
    /// The next programs are loaded and pinned.
    Loaded,
    /// The first link runs its next program.
    HalfSwapped,
    /// All do.
    Swapped,
    /// What the old programs learnt to the last is carried over.
    Carried,
    /// It is decided that the next generation stays.
    Decided,
    /// Some pins are renamed.
    HalfRenamed,
}

/// A map that is filled from an older one: its layout, the migrations on the way, the old map and the new one.
type Filled<'a> = (&'static MapLayout, &'a [&'static Migration], RawMap, RawMap);

impl Stop {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Made,
        Self::Filled,
        Self::Loaded,
        Self::HalfSwapped,
        Self::Swapped,
        Self::Carried,
        Self::Decided,
        Self::HalfRenamed,
    ];
}

/// What was found pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// Maps of which nobody knows what they mean.
    Unknown,
    /// Maps with the version of each by its number, and whether everything is as this library makes it.
    Known {
        versions: BTreeMap<u32, u64>,
        same: bool,
    },
}

/// What becomes of a map.
enum Fate {
    /// It is used as it is.
    Keep,
    /// Made new and empty.
    Empty,
    /// Made new and filled from the old one.
    Fill(Vec<&'static Migration>),
}

/// Tables that could not be carried over whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// Tables of a form that nobody knows how to convert: they start empty.
    pub emptied: Vec<&'static str>,
    /// Tables whose limit is too small for what the old ones held: entries are missing.
    pub shortened: Vec<&'static str>,
}

/// Reads what is pinned and compares it with `object` and the layouts of this library.
pub(crate) fn find(pins: &PinFolder, object: &[u8]) -> Result<Found, Error> {
    if !pins.map("layout").exists() {
        let anything =
            layout::MAPS.iter().any(|map| pins.map(map.name).exists()) || !pins.links()?.is_empty();
        return Ok(if anything { Found::Unknown } else { Found::Nothing });
    }
    let records = records(pins.map("layout").as_path())?;
    let [number, programs_number] = records[0];
    if records.len() == 1 {
        let first = layout::MAPS.iter().map(|map| (map.id, 1)).collect();
        let known = number == layout::FIRST_RELEASE;
        return Ok(if known { Found::Known { versions: first, same: false } } else { Found::Unknown });
    }
    if number == 0 {
        return Ok(Found::Unknown);
    }
    let complete = layout::MAPS.iter().all(|map| pins.map(map.name).exists())
        && programs().all(|name| pins.program(name).exists());
    let same = complete && number == layout_number() && programs_number == fingerprint_of(object);
    let versions = (0..).zip(&records).skip(1).map(|(id, record)| (id, record[0])).collect();
    Ok(Found::Known { versions, same })
}

/// All entries of a map `layout`.
fn records(pin: &std::path::Path) -> Result<Vec<Record>, Error> {
    let map = crate::dataplane::open_pin("layout", pin)?;
    let records: Array<MapData, Record> =
        Array::try_from(map).map_err(|error| Error::map("layout", "open", error))?;
    (0..records.len())
        .map(|index| records.get(&index, 0).map_err(|error| Error::map("layout", "look up", error)))
        .collect()
}

/// Brings a replacement that was interrupted to an end: finishes it if it was decided, else undoes it.
pub(crate) fn settle(pins: &PinFolder) -> Result<(), Error> {
    if pins.next_pins()?.is_empty() {
        return Ok(());
    }
    let next = pins.next_map("layout");
    if next.exists() && records(&next)?[0] != [0; 2] {
        tracing::warn!(folder = %pins.path().display(), "an interrupted replacement is finished");
        return rename(pins, None);
    }
    tracing::warn!(folder = %pins.path().display(), "an interrupted replacement is undone");
    undo(pins)
}

/// Puts the pinned programs behind their links again and forgets the next generation.
fn undo(pins: &PinFolder) -> Result<(), Error> {
    for (hook, _, path) in pins.links()? {
        let pinned = pins.program(program_of(hook));
        if pinned.exists() {
            let opened = SchedClassifier::from_pin(&pinned);
            let mut program = opened.map_err(|error| Error::program(hook.name(), error))?;
            relink(&mut program, hook, &path)?;
        }
    }
    wait_for_running_programs();
    pins.next_pins()?.iter().try_for_each(|(path, _)| unpin(path))
}

/// Renames the next generation's pins over the old ones, `layout` last: until then the decision can be read.
fn rename(pins: &PinFolder, stop: Option<Stop>) -> Result<(), Error> {
    let layout = pins.next_map("layout");
    let mut next = pins.next_pins()?;
    next.sort_by_key(|(path, _)| *path == layout);
    for (index, (from, to)) in next.iter().enumerate() {
        if stop == Some(Stop::HalfRenamed) && index == next.len() / 2 {
            return Err(Error::Stopped(Stop::HalfRenamed));
        }
        fs::rename(from, to).map_err(|source| Error::PinFolder { path: from.clone(), source })?;
    }
    Ok(())
}

/// A replacement under way.
pub(crate) struct Replacement<'a> {
    pins: &'a PinFolder,
    object: &'a [u8],
    stop: Option<Stop>,
    fates: Vec<(&'static MapLayout, Fate)>,
    losses: Losses,
    /// What was read from old tables at first, in the form of today, by map.
    first: BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl<'a> Replacement<'a> {
    pub(crate) fn plan(
        pins: &'a PinFolder,
        found: &Found,
        object: &'a [u8],
        stop: Option<Stop>,
    ) -> Result<Self, Error> {
        let mut plan =
            Self { pins, object, stop, fates: Vec::new(), losses: Losses::default(), first: BTreeMap::new() };
        for map in layout::MAPS {
            let fate = plan.fate(map, found)?;
            plan.fates.push((map, fate));
        }
        Ok(plan)
    }

    fn fate(&mut self, map: &MapLayout, found: &Found) -> Result<Fate, Error> {
        let pin = self.pins.map(map.name);
        if map.role == Role::Own || !pin.exists() {
            return Ok(Fate::Empty);
        }
        let old = RawMap::open(map.name, &pin)?;
        let version = match found {
            Found::Known { versions, .. } => versions.get(&map.id).copied().filter(|version| *version > 0),
            Found::Nothing | Found::Unknown => None,
        };
        if version == Some(map.version) && old.has_shape(map) && old.limit() == map.limit {
            return Ok(Fate::Keep);
        }
        let way = version.and_then(|version| migrate::steps(map, version, old.sizes()));
        let way = way.filter(|way| map.role != Role::Ring && (!way.is_empty() || old.has_shape(map)));
        Ok(way.map_or_else(
            || {
                self.losses.emptied.push(map.name);
                Fate::Empty
            },
            Fate::Fill,
        ))
    }

    /// True if nothing but working memory is new.
    pub(crate) fn keeps_tables(&self) -> bool {
        self.fates.iter().all(|(map, fate)| map.role == Role::Own || matches!(fate, Fate::Keep))
    }

    /// Does it. Whatever fails before the decision leaves everything as it was.
    pub(crate) fn run(mut self) -> Result<Losses, Error> {
        match self.until_decided() {
            Ok(()) => {}
            Err(error @ Error::Stopped(_)) => return Err(error),
            Err(error) => {
                if let Err(failed) = undo(self.pins) {
                    tracing::error!(error = %failed, "the failed replacement could not be undone");
                }
                return Err(error);
            }
        }
        rename(self.pins, self.stop)?;
        self.sweep()?;
        Ok(self.losses)
    }

    fn until_decided(&mut self) -> Result<(), Error> {
        let mut object = self.make_maps()?;
        self.reached(Stop::Made)?;
        self.fill()?;
        self.reached(Stop::Filled)?;
        self.load(&mut object)?;
        self.reached(Stop::Loaded)?;
        for (hook, _, path) in self.pins.links()? {
            relink(program_mut(&mut object, program_of(hook))?, hook, &path)?;
            self.reached(Stop::HalfSwapped)?;
        }
        self.reached(Stop::Swapped)?;
        wait_for_running_programs();
        self.carry()?;
        self.reached(Stop::Carried)?;
        self.decide(&mut object)?;
        self.reached(Stop::Decided)
    }

    fn reached(&self, step: Stop) -> Result<(), Error> {
        if self.stop == Some(step) { Err(Error::Stopped(step)) } else { Ok(()) }
    }

    fn make_maps(&self) -> Result<Ebpf, Error> {
        let mut loader = EbpfLoader::new();
        for (map, fate) in &self.fates {
            let keep = matches!(fate, Fate::Keep);
            let pin = if keep { self.pins.map(map.name) } else { self.pins.next_map(map.name) };
            loader.map_pin_path(map.name, pin);
        }
        loader.load(self.object).map_err(|error| Error::Load(Box::new(error)))
    }

    /// The maps that are filled from older ones, with both of them.
    fn filled(&self) -> Result<Vec<Filled<'_>>, Error> {
        let mut pairs = Vec::new();
        for (map, fate) in &self.fates {
            if let Fate::Fill(way) = fate {
                let old = RawMap::open(map.name, &self.pins.map(map.name))?;
                let new = RawMap::open(map.name, &self.pins.next_map(map.name))?;
                pairs.push((*map, way.as_slice(), old, new));
            }
        }
        Ok(pairs)
    }

    fn fill(&mut self) -> Result<(), Error> {
        let (mut first, mut shortened) = (BTreeMap::new(), BTreeSet::new());
        for (map, way, old, new) in self.filled()? {
            let entries = converted(&old, way, new.limit())?;
            for (key, value) in &entries {
                if !new.put(key, value, Put::Any)? {
                    shortened.insert(map.name);
                }
            }
            if matches!(map.role, Role::Learnt | Role::Counted) {
                first.insert(map.name, entries);
            }
        }
        self.first = first;
        self.losses.shortened.extend(shortened);
        Ok(())
    }

    fn load(&self, object: &mut Ebpf) -> Result<(), Error> {
        for name in programs() {
            program_mut(object, name)?.load().map_err(|error| Error::program(name, error))?;
        }
        fill_pipeline(object)?;
        for name in programs() {
            let path = self.pins.next_program(name);
            let pinned = program_mut(object, name)?.pin(&path);
            pinned.map_err(|error| Error::Pin { path, source: Box::new(error) })?;
        }
        Ok(())
    }

    /// What the old programs wrote since the maps were filled, into maps that the next ones write already.
    fn carry(&self) -> Result<(), Error> {
        for (map, way, old, new) in self.filled()? {
            let Some(first) = self.first.get(map.name) else { continue };
            for (key, value) in converted(&old, way, new.limit())? {
                let before = first.get(&key);
                if before == Some(&value) {
                    continue;
                }
                match map.role {
                    Role::Counted => add(&new, &key, before, &value)?,
                    // The next programs know better what they have seen themselves.
                    _ if before.is_some() && new.get(&key)?.as_ref() == before => {
                        new.put(&key, &value, Put::Any)?;
                    }
                    _ => drop(new.put(&key, &value, Put::IfAbsent)?),
                }
            }
        }
        Ok(())
    }

    /// Writes the map `layout`, its first entry last.
    fn decide(&self, object: &mut Ebpf) -> Result<(), Error> {
        let failed = |error| Error::map("layout", "write", error);
        let map = object.map_mut("layout").ok_or_else(|| missing("map", "layout"))?;
        let mut records: Array<_, Record> = Array::try_from(map).map_err(failed)?;
        for map in layout::MAPS {
            records.set(map.id, [map.version, map.shape_number()], 0).map_err(failed)?;
        }
        records.set(0, [layout_number(), fingerprint_of(self.object)], 0).map_err(failed)
    }

    /// Removes pins of maps and programs that this generation has no more.
    fn sweep(&self) -> Result<(), Error> {
        let maps = layout::MAPS.iter().map(|map| self.pins.map(map.name));
        let wanted: BTreeSet<_> = maps.chain(programs().map(|name| self.pins.program(name))).collect();
        self.pins.objects()?.iter().filter(|path| !wanted.contains(*path)).try_for_each(|path| unpin(path))
    }
}

/// All entries of `old`, in the form of today. Indices that the new map has not are left out.
fn converted(old: &RawMap, way: &[&Migration], limit: u32) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
    let mut entries = BTreeMap::new();
    for key in old.keys()? {
        let Some(value) = old.get(&key)? else { continue };
        let beyond =
            old.is_array() && key.as_slice().try_into().is_ok_and(|k| u32::from_ne_bytes(k) >= limit);
        if !beyond && let Some((key, value)) = migrate::convert(way, &key, &value) {
            entries.insert(key, value);
        }
    }
    Ok(entries)
}

/// Adds to counters of all CPUs what was counted between two readings of the old ones.
fn add(new: &RawMap, key: &[u8], before: Option<&Vec<u8>>, after: &[u8]) -> Result<(), Error> {
    let zeros = vec![0; after.len()];
    let (before, now) = (before.unwrap_or(&zeros), new.get(key)?);
    let numbers = |bytes: &[u8]| -> Vec<u64> {
        bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())).collect()
    };
    let now = numbers(now.as_ref().unwrap_or(&zeros));
    let deltas =
        numbers(after).into_iter().zip(numbers(before)).map(|(after, before)| after.wrapping_sub(before));
    let sums: Vec<u8> =
        now.into_iter().zip(deltas).flat_map(|(now, delta)| (now + delta).to_ne_bytes()).collect();
    new.put(key, &sums, Put::Any).map(drop)
}

pub(crate) fn program_mut<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Error> {
    object
        .program_mut(name)
        .ok_or_else(|| missing("program", name))?
        .try_into()
        .map_err(|error| Error::program(name, error))
}

fn missing(what: &'static str, name: &str) -> Error {
    Error::Missing { what, name: name.to_owned() }
}

/// Puts the stages into the array that the hooks jump through.
fn fill_pipeline(object: &mut Ebpf) -> Result<(), Error> {
    let failed = |error| Error::map("pipeline", "write", error);
    let map = object.take_map("pipeline").ok_or_else(|| missing("map", "pipeline"))?;
    let mut pipeline = ProgramArray::try_from(map).map_err(failed)?;
    for stage in Stage::ALL {
        let name = stage.name();
        let program = program_mut(object, name)?;
        let fd = program.fd().map_err(|error| Error::program(name, error))?;
        pipeline.set(*stage as u32, fd, 0).map_err(failed)?;
    }
    Ok(())
}
