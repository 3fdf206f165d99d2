//! A host on a VLAN without the kernel's 802.1Q: two small programs push and pop the tag on a device of the
//! host. For tests and the demo, whose hosts must speak tagged on kernels that cannot.

use aya::{
    EbpfLoader,
    programs::{
        ProgramError, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, TcAttachOptions},
    },
};

use crate::{Error, object::HOST_OBJECT};

const PROGRAMS: [(&str, TcAttachType); 2] =
    [("hv_egress", TcAttachType::Egress), ("hv_ingress", TcAttachType::Ingress)];

/// The tags of a host's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostTags {
    /// EtherType of the only or outer tag: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    pub tpid: u16,
    /// Its VLAN id.
    pub vid: u16,
    /// VLAN id of the inner tag, an 802.1Q one.
    pub inner: Option<u16>,
}

impl From<u16> for HostTags {
    /// One 802.1Q tag.
    fn from(vid: u16) -> Self {
        Self { tpid: 0x8100, vid, inner: None }
    }
}

/// Makes `interface` (in the namespace of the calling thread) speak one VLAN only: what the host sends is
/// tagged, what arrives with these tags is untagged, everything else that arrives is dropped. Lasts as
/// long as the device; nothing is pinned.
///
/// # Errors
/// No such device, or the kernel refused.
pub fn attach_host_vlan(interface: &str, tags: impl Into<HostTags>) -> Result<(), Error> {
    let tags = tags.into();
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => {}
        Err(tc::TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(Error::program("clsact", ProgramError::from(error))),
    }
    let (vid, tpid, inner) = (u32::from(tags.vid), u32::from(tags.tpid), u32::from(tags.inner.unwrap_or(0)));
    let mut object = EbpfLoader::new()
        .override_global("HOST_VID", &vid, true)
        .override_global("HOST_TPID", &tpid, true)
        .override_global("HOST_INNER", &inner, true)
        .load(HOST_OBJECT)
        .map_err(|error| Error::Load(Box::new(error)))?;
    for (name, direction) in PROGRAMS {
        let program: &mut SchedClassifier = object
            .program_mut(name)
            .ok_or_else(|| Error::Missing { what: "program", name: name.to_owned() })?
            .try_into()
            .map_err(|error| Error::program(name, error))?;
        program.load().map_err(|error| Error::program(name, error))?;
        let link = program
            .attach_with_options(interface, direction, TcAttachOptions::Netlink(NlOptions::default()))
            .and_then(|id| program.take_link(id))
            .map_err(|error| Error::program(name, error))?;
        // The filter belongs to the device from here on: dropping the handle would take it off.
        std::mem::forget(link);
    }
    Ok(())
}

/// Undoes [`attach_host_vlan`].
///
/// # Errors
/// No such device, or nothing was attached.
pub fn detach_host_vlan(interface: &str) -> Result<(), Error> {
    for (name, direction) in PROGRAMS {
        tc::qdisc_detach_program(interface, direction, name)
            .map_err(|error| Error::program(name, ProgramError::from(error)))?;
    }
    Ok(())
}
