//! The overlays of a device's making: opened, changed, opened again when somebody deleted the interface, and told of.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::device::Device;
use super::overlay::Overlay;
use super::plane::Plane;
use super::{EngineError, workers};
use crate::control::chain;
use crate::netdev;
use crate::protocol::{LinkStatus, OverlayConfig, OverlayStatus};

/// Longest time between two tries to open an interface, in milliseconds.
const WAIT_MS_MAX: u64 = 30_000;

/// When an interface that could not be opened is tried again: after 1, 2, 4 … 30 s.
#[derive(Debug, Default)]
pub(super) struct Retry {
    wait_ms: u64,
    next_ms: u64,
}

impl Retry {
    /// True if it is time; the next time is later.
    fn is_due(&mut self, now_ms: u64) -> bool {
        if now_ms < self.next_ms {
            return false;
        }
        self.wait_ms = (self.wait_ms * 2).clamp(1_000, WAIT_MS_MAX);
        self.next_ms = now_ms + self.wait_ms;
        true
    }
}

impl Device {
    /// Makes the overlay be as wanted, or none. Returns what was touched. An interface that cannot be had is told of in the
    /// status and tried again by [`Device::mend_overlay`]: packets go on by the TUN meanwhile.
    pub(super) fn set_overlay(&mut self, wanted: Option<&OverlayConfig>) -> Result<Vec<String>, EngineError> {
        if self.overlay.as_ref() == wanted {
            return Ok(Vec::new());
        }
        let mut touched = Vec::new();
        let mut note = |what: &str| touched.push(format!("overlays[{}].{what}", self.name()));
        match (&self.overlay, wanted) {
            (None, Some(_)) => note("added"),
            (Some(_), None) => note("removed"),
            _ => note("changed"),
        }
        self.overlay = wanted.cloned();
        self.overlay_retry = Retry::default();
        self.renew_overlay()?;
        Ok(touched)
    }

    /// Opens the interface of the overlay if it is wanted and not there, and brings it up if somebody took it down.
    pub(super) fn mend_overlay(&mut self) {
        if let Some(open) = self.open_overlay() {
            self.overlay_retry = Retry::default();
            open.keep_up();
        } else if self.overlay.is_none() {
            self.overlay_retry = Retry::default();
        } else if self.overlay_retry.is_due(self.shared.now_ms())
            && let Err(error) = self.renew_overlay()
        {
            self.overlay_error = Some(chain(&error));
        }
    }

    /// The overlay whose interface is open.
    pub(super) fn open_overlay(&self) -> Option<Arc<Overlay>> {
        self.shared.plane().overlay.clone().filter(|overlay| !overlay.tap.is_lost())
    }

    fn renew_overlay(&mut self) -> Result<(), EngineError> {
        let former = self.open_overlay();
        self.overlay_error = None;
        let overlay = match (&self.overlay, &former) {
            (None, _) => None,
            (Some(wanted), Some(former))
                if (&wanted.tap, &wanted.alias) == (&former.config.tap, &former.config.alias) =>
            {
                Some(Overlay { config: wanted.clone(), tap: Arc::clone(&former.tap) })
            }
            (Some(wanted), _) => {
                let opened = Overlay::open(wanted, &self.options);
                self.overlay_error = opened.as_ref().err().map(|error| chain(error));
                opened.ok()
            }
        };
        let tap = overlay.as_ref().map(|overlay| Arc::clone(&overlay.tap));
        if let Some(former) = former.filter(|f| !tap.as_ref().is_some_and(|tap| Arc::ptr_eq(tap, &f.tap))) {
            former.tap.set_persistent(false)?;
        }
        let before = self.shared.plane();
        let had = before.overlay.as_ref().map(|overlay| Arc::as_ptr(&overlay.tap));
        let plane = Plane { overlay: overlay.map(Arc::new), ..before.again() };
        self.shared.replace_plane(plane);
        if had == tap.as_ref().map(Arc::as_ptr) || self.shared.link_lost.load(Ordering::Acquire) {
            return Ok(());
        }
        // What was read goes out before the next one reads.
        self.tun_worker = None;
        let started = workers::start_tun(&self.shared, Arc::clone(&before.tun), tap, self.options.threads());
        let name = self.name().to_owned();
        self.tun_worker =
            Some(started.map_err(|source| EngineError::system("start a thread", &name, source))?);
        Ok(())
    }

    /// The overlay as it is, if one is wanted.
    pub(super) fn overlay_status(&self) -> Option<OverlayStatus> {
        let config = self.overlay.clone()?;
        let open = self.open_overlay();
        let link = open.as_ref().and_then(|overlay| match netdev::find(&config.tap) {
            Ok(Some(link)) if link.index == overlay.tap.index() => {
                Some(LinkStatus { index: link.index, mtu: link.mtu, up: link.up })
            }
            _ => None,
        });
        let crossed = |read: fn(&super::overlay::Crossed) -> &std::sync::atomic::AtomicU64| {
            open.as_ref().map_or(0, |overlay| read(&overlay.tap.crossed).load(Ordering::Relaxed))
        };
        Some(OverlayStatus {
            link,
            uso: open.as_ref().is_some_and(|overlay| overlay.tap.offers().uso),
            reads: crossed(|crossed| &crossed.reads),
            read_bytes: crossed(|crossed| &crossed.read_bytes),
            writes: crossed(|crossed| &crossed.writes),
            written_bytes: crossed(|crossed| &crossed.written_bytes),
            error: self.overlay_error.clone(),
            config,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_become_rare() {
        let mut retry = Retry::default();
        let tries: Vec<u64> = (0..200_000).step_by(100).filter(|&now_ms| retry.is_due(now_ms)).collect();
        assert_eq!(
            tries,
            [0, 1_000, 3_000, 7_000, 15_000, 31_000, 61_000, 91_000, 121_000, 151_000, 181_000]
        );
    }
}
