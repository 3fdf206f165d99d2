//! Many entries of a map by one system call (`BPF_MAP_LOOKUP_BATCH`), which aya does not offer: a walk of a hundred
//! thousand entries is fifty calls instead of two hundred thousand. Hash maps and tries alike.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::Pod;

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`.
const LOOKUP_BATCH: libc::c_long = 24;
/// Entries asked for by one call, at the least and at the most, and bytes of them as long as there are enough: a buffer
/// so small is not given back to the kernel and taken anew by each walk.
const ENTRIES: (usize, usize) = (16, 2048);
const BYTES: usize = 64 * 1024;

/// The part of `union bpf_attr` that batches use.
#[repr(C)]
#[derive(Default)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// What a walk must know of a map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Bytes of a key.
    key: usize,
    /// Bytes of a value as a look-up returns it.
    value: usize,
    /// Bytes of what tells the kernel where to go on.
    cursor: usize,
    /// The most entries.
    limit: u32,
}

impl Shape {
    /// A hash map: a walk goes on from the number of a bucket.
    pub(crate) fn hash(key: usize, value: usize, limit: u32) -> Self {
        Self { key, value, cursor: size_of::<u32>(), limit }
    }

    /// A trie: a walk goes on from a key.
    pub(crate) fn trie(key: usize, value: usize, limit: u32) -> Self {
        Self { key, value, cursor: key, limit }
    }
}

/// All entries of a map of this shape, in no order. What is written meanwhile may or may not be among them, and of a
/// trie an entry may come twice.
///
/// # Errors
/// What the kernel says.
pub(crate) fn entries<K: Pod, V: Pod>(map: BorrowedFd<'_>, shape: Shape) -> io::Result<Vec<(K, V)>> {
    debug_assert_eq!((shape.key, shape.value), (size_of::<K>(), size_of::<V>()));
    let mut all = Vec::new();
    chunks(map, shape, |keys, values| {
        let keys = keys.chunks_exact(size_of::<K>());
        let values = values.chunks_exact(size_of::<V>());
        // SAFETY: each piece has the size of its type, and both types are plain data.
        all.extend(keys.zip(values).map(|(key, value)| unsafe {
            (key.as_ptr().cast::<K>().read_unaligned(), value.as_ptr().cast::<V>().read_unaligned())
        }));
    })?;
    Ok(all)
}

/// How many entries a map of this shape has.
///
/// # Errors
/// What the kernel says.
pub(crate) fn count(map: BorrowedFd<'_>, shape: Shape) -> io::Result<u32> {
    let mut sum = 0;
    chunks(map, shape, |keys, _| sum += keys.len() / shape.key)?;
    Ok((sum as u32).min(shape.limit))
}

/// Hands out keys and values, many at a time. A walk that starts over because the entry it stood at has gone ends
/// after twice as many entries as the map has room for.
fn chunks(map: BorrowedFd<'_>, shape: Shape, mut each: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
    // A bucket that holds more than one call may answer cannot be passed but by a call that may answer more.
    let mut room = (BYTES / (shape.key + shape.value)).clamp(ENTRIES.0, ENTRIES.1);
    let (mut keys, mut values) = (vec![0_u8; room * shape.key], vec![0_u8; room * shape.value]);
    let (mut from, mut to) = (vec![0_u8; shape.cursor], vec![0_u8; shape.cursor]);
    let (mut is_first, mut sum) = (true, 0);
    while sum <= u64::from(shape.limit) * 2 {
        let mut batch = Batch {
            in_batch: if is_first { 0 } else { from.as_ptr() as u64 },
            out_batch: to.as_mut_ptr() as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        // SAFETY: the addresses are those of live buffers with room for `count` keys and values of the sizes that
        // the map has, which was checked when it was opened, and of two cursors.
        let done = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        let error = (done < 0).then(io::Error::last_os_error);
        let is_last = match error.as_ref().and_then(io::Error::raw_os_error) {
            None => false,
            Some(libc::ENOENT) => true,
            Some(libc::EINTR | libc::EAGAIN) => continue,
            Some(libc::ENOSPC) => {
                room *= 2;
                keys.resize(room * shape.key, 0);
                values.resize(room * shape.value, 0);
                continue;
            }
            Some(_) => return Err(error.unwrap_or_else(io::Error::last_os_error)),
        };
        let count = (batch.count as usize).min(room);
        each(&keys[..count * shape.key], &values[..count * shape.value]);
        if is_last {
            return Ok(());
        }
        sum += count as u64;
        is_first = false;
        std::mem::swap(&mut from, &mut to);
    }
    Ok(())
}
