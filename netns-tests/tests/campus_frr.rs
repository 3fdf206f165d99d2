//! Gateway A and a campus router that runs FRR. Needs root.
//!
//! ```text
//!  server ─ [campus, FRR, AS 65001] ─ VLAN 300 ═ [gw-a, AS 65100] ─ WireGuard ─ [gw-b] ═ VLAN 200 ─ host-b
//!                                      host-a ─ VLAN 100 ═┘
//! ```
//! What is asked of it, and of other software alike: `campus/mod.rs`.

mod campus;

use anyhow::Result;
use netns_tests::campus::Software;

#[test]
fn root_frr_and_the_gateways_learn_from_each_other_and_forget() -> Result<()> {
    campus::learns_and_forgets(Software::Frr)
}

#[test]
fn root_frr_of_another_as_is_refused() -> Result<()> {
    campus::refuses_another_as(Software::Frr)
}
