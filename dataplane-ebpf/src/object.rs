//! The compiled eBPF programs, inside this library.

use aya::include_bytes_aligned;
use watari_abi::{Hook, Stage};

/// The object file that the build made (or was given by `WATARI_BPF_OBJECT`).
pub(crate) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/watari.bpf.o"));

/// The programs of `attach_host_vlan`.
pub(crate) static HOST_OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/hostvlan.bpf.o"));

/// The entry of tests and traces.
pub(crate) const ENTRY: &str = "entry";

/// The program of a hook.
pub(crate) fn program_of(hook: Hook) -> &'static str {
    hook.name()
}

/// Every program that is loaded and pinned, stages first.
pub(crate) fn programs() -> impl Iterator<Item = &'static str> {
    Stage::ALL.iter().map(|stage| stage.name()).chain(Hook::ALL.iter().map(|hook| hook.name())).chain([ENTRY])
}

/// A number for an object's content (FNV-1a): equal programs need not be loaded again.
pub(crate) fn fingerprint_of(object: &[u8]) -> u64 {
    object
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use watari_abi::layout::MAPS;

    use super::*;

    #[test]
    fn the_readme_names_every_map_reason_and_counter() {
        let readme = include_str!("../README.md");
        for map in MAPS {
            assert!(readme.contains(&format!("`{}`", map.name)), "map {}", map.name);
        }
        for reason in watari_abi::DropReason::ALL {
            let row = format!("| {} | `{}` |", *reason as u8, reason.name());
            assert!(readme.contains(&row), "{row}");
        }
        for counter in watari_abi::Counter::ALL {
            let row = format!("| {} | `{}` |", *counter as u8, counter.name());
            assert!(readme.contains(&row), "{row}");
        }
    }

    #[test]
    fn pins_have_at_most_15_characters() {
        for name in MAPS.iter().map(|map| map.name).chain(programs()) {
            assert!(name.len() <= 11, "{name}");
        }
    }
}
