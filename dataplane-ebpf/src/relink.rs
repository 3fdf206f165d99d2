//! Another program behind a pinned link.

use std::{fs, io, path::Path, time::Duration};

use aya::programs::{
    ProgramError, SchedClassifier,
    links::{FdLink, PinnedLink},
};
use watari_abi::Hook;

use crate::Error;

/// `MEMBARRIER_CMD_GLOBAL`: returns when every CPU has left what it was doing in the kernel (membarrier(2)).
const MEMBARRIER_GLOBAL: libc::c_long = 1;
/// How long a program may run at the very most, where the kernel does not say when it has ended.
const RUN_MAX: Duration = Duration::from_millis(50);

/// Replaces the program behind a pinned link, at once. A link whose device is gone is unpinned.
pub(crate) fn relink(program: &mut SchedClassifier, hook: Hook, path: &Path) -> Result<(), Error> {
    let link_error = |error| Error::Link { path: path.to_owned(), source: Box::new(error) };
    let link = PinnedLink::from_pin(path).map_err(link_error)?;
    let link = FdLink::from(link).try_into().map_err(link_error)?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // Held by its pin; the handle is let go without detaching.
            drop(program.take_link(id).map_err(|error| Error::program(hook.name(), error))?);
            Ok(())
        }
        Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOLINK) => {
            tracing::warn!(path = %path.display(), "link has no device any more");
            fs::remove_file(path).map_err(|source| Error::PinFolder { path: path.to_owned(), source })
        }
        Err(error) => Err(Error::program(hook.name(), error)),
    }
}

/// Returns when no program runs any more that was behind a link before. Programs run within RCU read sections, and so
/// does a tail call: the old `pipeline` must outlive them.
pub(crate) fn wait_for_running_programs() {
    // SAFETY: no pointers are passed.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) };
    if done != 0 {
        tracing::debug!(error = %io::Error::last_os_error(), "membarrier");
        std::thread::sleep(RUN_MAX);
    }
}
