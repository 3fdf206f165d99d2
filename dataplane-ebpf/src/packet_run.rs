//! One packet through the pipeline, in a test run of the kernel: for tests and for `watari trace`.
//!
//! [`Dataplane::trace`] writes no table, counter or bucket and sends nothing. [`Dataplane::run`] is the real thing
//! (it learns and counts), except that copies are counted and not sent and the frame itself goes nowhere.

use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use watari_abi::{Entry, Hook, IpBytes, Meta, PortKey, Report, Step, Verdict, trace::STEPS_MAX};

use crate::{Dataplane, Error, dataplane::lock, object::ENTRY};

/// Bytes of `struct __sk_buff` up to and with `gso_size`.
const CONTEXT_BYTES: usize = 180;
/// Where `mark` is in it.
const MARK_OFFSET: usize = 8;
/// Where `gso_size` is in it.
const GSO_SIZE_OFFSET: usize = 176;
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
    pub vtep: IpBytes,
    /// `skb->mark`; [`watari_abi::TUNNEL_MARK`] for VXLAN out of a tunnel.
    pub mark: u32,
    /// Payload bytes of one segment of a super-frame; 0 for a plain frame.
    pub gso_size: u16,
    /// The frame, with an Ethernet header in any case, 14 bytes at least.
    pub frame: &'a [u8],
}

impl<'a> Packet<'a> {
    /// A frame from a trunk or interface.
    #[must_use]
    pub fn from_port(hook: Hook, port: PortKey, frame: &'a [u8]) -> Self {
        Self { hook, port, vni: 0, vtep: [0; 16], mark: 0, gso_size: 0, frame }
    }
    /// A frame out of VXLAN that came through a tunnel.
    #[must_use]
    pub fn from_vtep(vxlan_ifindex: u32, vni: u32, vtep: IpBytes, frame: &'a [u8]) -> Self {
        let port = PortKey::untagged(vxlan_ifindex);
        Self { hook: Hook::Vxlan, port, vni, vtep, mark: watari_abi::TUNNEL_MARK, gso_size: 0, frame }
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
    /// The device and tags by which it leaves; of a packet for a remote gateway, those of the outer packet.
    pub out: PortKey,
    /// VNI under which it, or copies of it, go to remote gateways; of a dropped one, the segment that it was in.
    pub vni: u32,
    /// How it came to that: only of a trace.
    pub steps: Vec<Step>,
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

    /// [`Dataplane::run`] with the flow cache asked first, as at a trunk or interface: for tests.
    ///
    /// # Errors
    /// As [`Dataplane::run`].
    #[doc(hidden)]
    pub fn run_by_flow(&self, packet: &Packet<'_>) -> Result<Outcome, Error> {
        self.run_entry(packet, Meta::REPORT | Meta::NO_CLONE | Meta::FLOW)
    }

    fn run_entry(&self, packet: &Packet<'_>, flags: u8) -> Result<Outcome, Error> {
        let failed = |error| Error::program(ENTRY, error);
        let on_page = |error| Error::map("page", "use", error);
        let program = SchedClassifier::from_pin(self.pins.program(ENTRY)).map_err(failed)?;
        let mut context = [0; CONTEXT_BYTES];
        context[MARK_OFFSET..][..4].copy_from_slice(&packet.mark.to_ne_bytes());
        context[GSO_SIZE_OFFSET..].copy_from_slice(&u32::from(packet.gso_size).to_ne_bytes());
        let mut frame = vec![0; packet.frame.len() + GROWTH_BYTES];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet.frame);
        options.data_out = Some(&mut frame);
        options.ctx_in = Some(&context);
        let mut page = lock(&self.page);
        page.set(0, page_of(packet, flags), 0).map_err(on_page)?;
        let result = program.test_run(options).map_err(failed)?;
        let seen = page.get(&0, 0).map_err(on_page)?;
        drop(page);
        frame.truncate(result.data_size_out as usize);
        let steps = seen.steps.iter().take(seen.count as usize).copied().collect();
        Ok(Outcome {
            verdict: Verdict::from_report(&seen.report),
            action: result.return_value as i32,
            frame,
            out: seen.report.port,
            vni: seen.report.vni,
            steps,
        })
    }
}

fn page_of(packet: &Packet<'_>, flags: u8) -> Entry {
    Entry {
        hook: packet.hook as u8,
        flags,
        pad: 0,
        vni: packet.vni,
        port: packet.port,
        vtep: packet.vtep,
        report: Report::default(),
        count: 0,
        pad2: 0,
        steps: [Step::default(); STEPS_MAX],
    }
}
