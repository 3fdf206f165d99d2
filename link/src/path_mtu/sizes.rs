//! Which sizes are worth a probe: those that links in the field have, and what a tunnel over such a link leaves; between two of
//! them, an even spread.

/// Sizes of IP packets that cross some common path, in bytes, ascending: links (RFC 1191 §7.1 brought to the present), and
/// those less the 60 or 80 bytes of WireGuard over IPv4 or IPv6.
const PLATEAUS: [u16; 27] = [
    576, 1006, 1200, 1220, 1280, 1300, 1320, 1340, 1360, 1372, 1380, 1400, 1412, 1420, 1432, 1440, 1450,
    1472, 1492, 1500, 4352, 8192, 8500, 8900, 8920, 8940, 9000,
];

/// At most `most` sizes of which each is more than `low` and less than `high`, ascending. They have the largest possible one
/// among them: a path that carries what its devices carry is the common case. None: there is nothing between.
pub(super) fn between(low: u16, high: u16, most: usize) -> Vec<u16> {
    let top = high.saturating_sub(1);
    if top <= low || most == 0 {
        return Vec::new();
    }
    let known: Vec<u16> = PLATEAUS.iter().copied().filter(|size| (low + 1..top).contains(size)).collect();
    let mut sizes = if known.is_empty() { even(low, top, most - 1) } else { spread(&known, most - 1) };
    sizes.push(top);
    sizes
}

/// At most `most` of `sizes`, evenly, the last one among them.
fn spread(sizes: &[u16], most: usize) -> Vec<u16> {
    let count = most.min(sizes.len());
    (1..=count).map(|n| sizes[n * sizes.len() / count - 1]).collect()
}

/// At most `most` numbers that cut `low..top` into even parts.
fn even(low: u16, top: u16, most: usize) -> Vec<u16> {
    let parts = u32::try_from(most + 1).unwrap_or(u32::MAX);
    let mut sizes: Vec<u16> = (1..parts)
        .map(|n| low + u16::try_from(u32::from(top - low) * n / parts).unwrap_or(u16::MAX))
        .filter(|size| (low + 1..top).contains(size))
        .collect();
    sizes.dedup();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_is_always_among_them_and_none_is_outside() {
        for (low, high) in [(1200, 1501), (1200, 9001), (575, 1200), (1440, 1501), (1341, 1360), (7, 9)] {
            for most in 1..8 {
                let sizes = between(low, high, most);
                assert!(sizes.len() <= most && sizes.last() == Some(&(high - 1)), "{low} {high}: {sizes:?}");
                assert!(sizes.windows(2).all(|pair| pair[0] < pair[1]), "{sizes:?}");
                assert!(sizes.iter().all(|size| *size > low && *size < high), "{sizes:?}");
            }
        }
        assert!(between(1500, 1501, 4).is_empty());
        assert!(between(1500, 1200, 4).is_empty());
    }

    #[test]
    fn a_gap_without_plateaus_is_cut_evenly() {
        assert_eq!(between(5000, 6001, 5), [5200, 5400, 5600, 5800, 6000]);
    }
}
