//! Many entries of a hash map by one system call (`BPF_MAP_LOOKUP_BATCH`), which aya does not offer: a walk of a
//! hundred thousand entries is fifty calls instead of two hundred thousand.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::Pod;

/// `BPF_MAP_LOOKUP_BATCH` of `enum bpf_cmd`.
const LOOKUP_BATCH: libc::c_long = 24;
/// Entries asked for by one call.
const ENTRIES: usize = 2048;

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

/// All entries of a hash map, in no order. What is written meanwhile may or may not be among them.
///
/// # Errors
/// What the kernel says.
pub(crate) fn entries<K: Pod, V: Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    // A bucket that holds more than one call may answer cannot be passed but by a call that may answer more.
    let mut room = ENTRIES;
    let mut keys: Vec<K> = Vec::with_capacity(room);
    let mut values: Vec<V> = Vec::with_capacity(room);
    // Hash maps go on from the number of a bucket.
    let (mut from, mut to) = (0_u32, 0_u32);
    let mut is_first = true;
    loop {
        let mut batch = Batch {
            in_batch: if is_first { 0 } else { (&raw const from) as u64 },
            out_batch: (&raw mut to) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: room as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        // SAFETY: the addresses are those of live buffers with room for `count` keys and values of the sizes that
        // the map has, which was checked when it was opened, and of two numbers.
        let done = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        let error = (done < 0).then(io::Error::last_os_error);
        let is_last = match error.as_ref().and_then(io::Error::raw_os_error) {
            None => false,
            Some(libc::ENOENT) => true,
            Some(libc::EINTR | libc::EAGAIN) => continue,
            Some(libc::ENOSPC) => {
                room *= 2;
                keys.reserve(room);
                values.reserve(room);
                continue;
            }
            Some(_) => return Err(error.unwrap_or_else(io::Error::last_os_error)),
        };
        let count = (batch.count as usize).min(room);
        // SAFETY: the kernel has written that many of both, and both are plain data.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        all.extend(keys.drain(..).zip(values.drain(..)));
        if is_last {
            return Ok(all);
        }
        (from, is_first) = (to, false);
    }
}
