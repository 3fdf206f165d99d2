//! The overlays of WireGuard devices in user space: what `watari-link` says of them, and which it is to make.

use std::collections::BTreeMap;

use watari_link::protocol::{OverlayConfig, OverlaysStatus};
use watari_planner::Observed;
use watari_planner::item::{Key, Value};

/// All overlays, by the name of their device.
#[derive(Default)]
pub(super) struct Overlays {
    /// As they are to be; `watari-link` takes them whole.
    configs: BTreeMap<String, OverlayConfig>,
    changed: bool,
    /// What the engine said last.
    said: Option<OverlaysStatus>,
}

impl Overlays {
    /// Adds what the engine says to `observed`. One of an alias that is not ours is none of ours.
    pub(super) fn observe(&mut self, said: OverlaysStatus, alias: &str, observed: &mut Observed) {
        self.said = Some(said);
        self.as_before(alias, observed);
    }

    /// Adds what is known without asking. An engine that does not answer for a moment goes on, or is back at once, with what it
    /// had: what leads to its TAPs must be there then.
    pub(super) fn as_before(&mut self, alias: &str, observed: &mut Observed) {
        let Some(said) = &self.said else { return };
        self.configs.clear();
        observed.overlays_possible = said.possible;
        for overlay in said.overlays.iter().filter(|overlay| overlay.config.alias == alias) {
            let config = &overlay.config;
            let (tap, vtep, port) = (config.tap.clone(), config.vtep, config.port);
            let device = config.device.clone();
            observed.system.insert(Key::Overlay(device.clone()), Value::Overlay { tap, vtep, port });
            if config.inbound {
                observed.system.insert(Key::OverlayInbound(device.clone()), Value::Present);
            }
            if overlay.link.as_ref().is_some_and(|link| link.up) {
                observed.overlays.insert(device.clone());
            } else if let Some(error) = &overlay.error {
                tracing::debug!(device, error, "the overlay's interface is not there");
            }
            self.configs.insert(device, config.clone());
        }
    }

    /// Notes what one is to be like.
    pub(super) fn apply(&mut self, key: &Key, value: &Value, alias: &str, remove: bool) {
        self.changed = true;
        match (key, value) {
            (Key::Overlay(device), Value::Overlay { tap, vtep, port }) if !remove => {
                let inbound = self.configs.get(device).is_some_and(|former| former.inbound);
                let config = OverlayConfig {
                    device: device.clone(),
                    tap: tap.clone(),
                    alias: alias.to_owned(),
                    vtep: *vtep,
                    port: *port,
                    inbound,
                };
                self.configs.insert(device.clone(), config);
            }
            (Key::OverlayInbound(device), _) => {
                if let Some(config) = self.configs.get_mut(device) {
                    config.inbound = !remove;
                }
            }
            (Key::Overlay(device), _) => drop(self.configs.remove(device)),
            _ => {}
        }
    }

    /// All of them, if one changed since the last call.
    pub(super) fn take_changed(&mut self) -> Option<Vec<OverlayConfig>> {
        std::mem::take(&mut self.changed).then(|| self.configs.values().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use watari_link::protocol::{LinkStatus, OverlayStatus};
    use watari_planner::Identity;

    use super::*;

    fn said(config: OverlayConfig, up: bool) -> OverlaysStatus {
        let link = up.then_some(LinkStatus { index: 7, mtu: 9216, up });
        let (reads, read_bytes, writes, written_bytes) = (0, 0, 0, 0);
        let overlay = OverlayStatus {
            config,
            link,
            uso: true,
            reads,
            read_bytes,
            writes,
            written_bytes,
            error: (!up).then(|| "in use".to_owned()),
        };
        OverlaysStatus { possible: true, overlays: vec![overlay] }
    }

    #[test]
    fn what_is_told_reads_back_as_it_was_wanted() {
        let key = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=".parse().unwrap();
        let nothing = Observed::nothing(Identity { wireguard_key: key });
        let overlay = Key::Overlay("wtwg1".to_owned());
        let inbound = Key::OverlayInbound("wtwg1".to_owned());
        let wish = Value::Overlay { tap: "wto1".to_owned(), vtep: "10.255.0.1".parse().unwrap(), port: 4789 };
        let mut overlays = Overlays::default();
        assert_eq!(overlays.take_changed(), None);
        overlays.apply(&overlay, &wish, "watari:gw", false);
        let told = overlays.take_changed().unwrap();
        assert!(!told[0].inbound, "nobody takes anything there yet");

        for up in [false, true] {
            let mut observed = nothing.clone();
            overlays.observe(said(told[0].clone(), up), "watari:gw", &mut observed);
            assert_eq!(observed.system.get(&overlay), Some(&wish));
            assert_eq!(observed.system.get(&inbound), None);
            assert_eq!(observed.overlays.contains("wtwg1"), up);
        }
        overlays.apply(&inbound, &Value::Present, "watari:gw", false);
        overlays.apply(&overlay, &wish, "watari:gw", false);
        let told = overlays.take_changed().unwrap();
        assert!(told[0].inbound);
        let mut observed = nothing.clone();
        overlays.observe(said(told[0].clone(), true), "watari:other", &mut observed);
        assert!(observed.system.is_empty(), "another gateway's");
        overlays.observe(said(told[0].clone(), true), "watari:gw", &mut observed);
        assert_eq!(observed.system.get(&inbound), Some(&Value::Present));
        let mut unheard = nothing.clone();
        overlays.as_before("watari:gw", &mut unheard);
        assert_eq!((&unheard.system, &unheard.overlays), (&observed.system, &observed.overlays));
        assert!(unheard.overlays_possible);
        overlays.apply(&inbound, &Value::Present, "watari:gw", true);
        overlays.apply(&overlay, &wish, "watari:gw", true);
        assert_eq!(overlays.take_changed(), Some(Vec::new()));
    }
}
