//! One packet through the pipeline, in a test run of the kernel: for tests and for `watari trace`.
//!
//! [`Dataplane::trace`] writes no table, counter or bucket and sends nothing. [`Dataplane::run`] is the real thing
//! (it learns and counts), except that copies are counted and not sent and the frame itself goes nowhere.

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use watari_abi::{Hook, Ip4Bytes, Meta, PortKey, Verdict};

use crate::{Dataplane, Error, object::ENTRY};

/// Bytes of `struct __sk_buff` up to and with `cb`, and where `cb` starts in it.
const CONTEXT_BYTES: usize = 68;
const CB_OFFSET: usize = 48;
/// The kernel gives the whole structure back or none of it: at least its size.
const CONTEXT_OUT_BYTES: usize = 512;
/// Room for what the pipeline adds to a frame.
const GROWTH_BYTES: usize = 256;

/// A frame and how it came in.
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    /// Where it enters.
    pub hook: Hook,
    /// The device and tags that it came in by. The frame itself carries no tag.
    pub port: PortKey,
    /// VNI, for [`Hook::Vxlan`].
    pub vni: u32,
    /// Outer source, for [`Hook::Vxlan`].
    pub vtep: Ip4Bytes,
    /// `skb->mark`; [`watari_abi::TUNNEL_MARK`] for VXLAN out of a tunnel.
    pub mark: u32,
    /// The frame, with an Ethernet header in any case, 14 bytes at least.
    pub frame: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A frame from a trunk or interface.
    #[must_use]
    pub fn from_port(hook: Hook, port: PortKey, frame: &'a [u8]) -> Self {
        Self { hook, port, vni: 0, vtep: [0; 4], mark: 0, frame }
    }
    /// A frame out of VXLAN that came through a tunnel.
    #[must_use]
    pub fn from_vtep(vxlan_ifindex: u32, vni: u32, vtep: Ip4Bytes, frame: &'a [u8]) -> Self {
        let port = PortKey::untagged(vxlan_ifindex);
        Self { hook: Hook::Vxlan, port, vni, vtep, mark: watari_abi::TUNNEL_MARK, frame }
    }
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was decided.
    pub verdict: Verdict,
    /// What the program returned to the kernel (tcx: -1 next, 2 drop, 7 redirect).
    pub action: i32,
    /// The frame as it would be sent, without the tag.
    pub frame: Vec<u8>,
}

impl Dataplane {
    /// What would become of a packet. Writes nothing.
    ///
    /// # Errors
    /// The frame is shorter than 14 bytes or the kernel refused.
    pub fn trace(&self, packet: &Packet<'_>) -> Result<Outcome, Error> {
        self.run_entry(packet, Meta::TRACE | Meta::REPORT | Meta::NO_CLONE)
    }

    /// Sends a packet through the pipeline: learns and counts, but sends nothing.
    ///
    /// # Errors
    /// The frame is shorter than 14 bytes or the kernel refused.
    pub fn run(&self, packet: &Packet<'_>) -> Result<Outcome, Error> {
        self.run_entry(packet, Meta::REPORT | Meta::NO_CLONE)
    }

    fn run_entry(&self, packet: &Packet<'_>, flags: u8) -> Result<Outcome, Error> {
        let failed = |error| Error::program(ENTRY, error);
        let program = SchedClassifier::from_pin(self.pins.program(ENTRY)).map_err(failed)?;
        let context = context_in(packet, flags);
        let mut context_out = [0; CONTEXT_OUT_BYTES];
        let mut frame = vec![0; packet.frame.len() + GROWTH_BYTES];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet.frame);
        options.data_out = Some(&mut frame);
        options.ctx_in = Some(&context);
        options.ctx_out = Some(&mut context_out);
        let result = program.test_run(options).map_err(failed)?;
        frame.truncate(result.data_size_out as usize);
        Ok(Outcome { verdict: verdict(&context_out), action: result.return_value as i32, frame })
    }
}

fn context_in(packet: &Packet<'_>, flags: u8) -> [u8; CONTEXT_BYTES] {
    let words = [
        packet.port.ifindex,
        u32::from(packet.port.inner) << 16 | u32::from(packet.port.outer),
        packet.vni,
        u32::from_be_bytes(packet.vtep),
        u32::from(flags) << 16 | packet.hook as u32,
    ];
    let mut context = [0; CONTEXT_BYTES];
    context[8..12].copy_from_slice(&packet.mark.to_ne_bytes());
    for (word, place) in words.iter().zip(context[CB_OFFSET..].chunks_exact_mut(4)) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    context
}

fn verdict(context: &[u8; CONTEXT_OUT_BYTES]) -> Verdict {
    let mut words = [0; 5];
    for (word, place) in words.iter_mut().zip(context[CB_OFFSET..].chunks_exact(4)) {
        *word = u32::from_ne_bytes(place.try_into().unwrap_or_default());
    }
    Verdict::from_cb(words)
}
