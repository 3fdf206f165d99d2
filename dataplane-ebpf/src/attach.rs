//! Programs on devices: attached by a pinned tcx link, and asked of the kernel, not remembered.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLinkId, TcAttachOptions},
};
use watari_abi::Hook;

use crate::{Dataplane, Error, object::program_of, pins::unpin};

/// How long the kernel may take to let go of a link.
const RELEASE_WAIT: Duration = Duration::from_millis(500);
const RELEASE_STEP: Duration = Duration::from_millis(2);

/// A hook that is on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Attachment {
    /// Index of the device.
    pub ifindex: u32,
    /// The hook.
    pub hook: Hook,
}

impl Dataplane {
    /// Puts a hook on a device (tcx ingress), after the programs that are already there. Does nothing if it is there.
    ///
    /// # Errors
    /// No such device in the namespace of the calling thread, or the kernel refused.
    pub fn attach(&self, ifindex: u32, hook: Hook) -> Result<(), Error> {
        let name = device_name(ifindex)?;
        let pin = self.pins.link(hook.name(), ifindex);
        if is_live(&pin, &name) {
            return Ok(());
        }
        // A pin without effect: its device is gone, or somebody detached it.
        unpin(&pin)?;
        let program_name = program_of(hook);
        let failed = |error| Error::program(program_name, error);
        let mut program = SchedClassifier::from_pin(self.pins.program(program_name)).map_err(failed)?;
        let id = attach_when_free(&mut program, &name).map_err(failed)?;
        let link = program.take_link(id).map_err(failed)?;
        let link: FdLink =
            link.try_into().map_err(|error| Error::Link { path: pin.clone(), source: Box::new(error) })?;
        link.pin(&pin).map_err(|error| Error::Pin { path: pin.clone(), source: Box::new(error) })?;
        Ok(())
    }

    /// Takes a hook off a device. One that is not there is fine, as is a device that is gone.
    ///
    /// # Errors
    /// The pin could not be removed.
    pub fn detach(&self, ifindex: u32, hook: Hook) -> Result<(), Error> {
        unpin(&self.pins.link(hook.name(), ifindex))
    }

    /// What is really attached in the namespace of the calling thread, in order. A link that somebody
    /// detached by hand, or whose device is gone, is not among them; [`Dataplane::attach`] repairs it.
    ///
    /// # Errors
    /// The pin folder could not be read.
    pub fn attachments(&self) -> Result<Vec<Attachment>, Error> {
        let mut found = Vec::new();
        for (hook, ifindex, pin) in self.pins.links()? {
            if device_name(ifindex).is_ok_and(|name| is_live(&pin, &name)) {
                found.push(Attachment { ifindex, hook });
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes pins of links that have no effect any more: their devices are gone. Returns how many.
    ///
    /// # Errors
    /// The pin folder could not be read or changed.
    pub fn forget_dead_links(&self) -> Result<usize, Error> {
        let mut forgotten = 0;
        for (_, ifindex, pin) in self.pins.links()? {
            if !device_name(ifindex).is_ok_and(|name| is_live(&pin, &name)) {
                unpin(&pin)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }
}

/// Attaches. The kernel lets go of a link some time after its last reference went, and until then says that the
/// program is on the device already: worth a short wait.
fn attach_when_free(
    program: &mut SchedClassifier,
    device: &str,
) -> Result<SchedClassifierLinkId, ProgramError> {
    let limit = Instant::now() + RELEASE_WAIT;
    loop {
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        match program.attach_with_options(device, TcAttachType::Ingress, options) {
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::AlreadyExists && Instant::now() < limit =>
            {
                std::thread::sleep(RELEASE_STEP);
            }
            other => return other,
        }
    }
}

/// True if the pinned link's program runs at the device's ingress.
fn is_live(pin: &Path, device: &str) -> bool {
    let Ok(link) = PinnedLink::from_pin(pin).map(FdLink::from) else { return false };
    let Ok(info) = link.info() else { return false };
    SchedClassifier::query_tcx(device, TcAttachType::Ingress)
        .is_ok_and(|(_, programs)| programs.iter().any(|program| program.id() == info.program_id()))
}

fn device_name(ifindex: u32) -> Result<String, Error> {
    nix::net::if_::if_indextoname(ifindex)
        .map(|name| name.to_string_lossy().into_owned())
        .map_err(|errno| Error::NoDevice { ifindex, source: errno.into() })
}
