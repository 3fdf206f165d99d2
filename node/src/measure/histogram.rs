//! Percentiles of many durations in constant memory.
//!
//! A log-linear histogram: 128 buckets for each power of two, so that a percentile is never more
//! than 1/128 (0.8 %) away from the true value. Minimum and maximum are exact.

use std::time::Duration;

/// log2 of the buckets per power of two.
const SUB_BITS: u32 = 7;
const SUB: usize = 1 << SUB_BITS;
/// One group of buckets for small values and one for each further power of two of nanoseconds.
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) * SUB;

/// Durations by size, to the nanosecond below 128 ns and to 0.8 % above.
#[derive(Debug, Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    min_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, min_ns: u64::MAX, max_ns: 0 }
    }
}

impl Histogram {
    /// Adds one duration (those over 584 years count as that).
    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket_of(ns)] += 1;
        self.total += 1;
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The shortest in microseconds, 0 when there is none.
    pub fn min_us(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.min_ns as f64 / 1e3 }
    }

    /// The longest in microseconds, 0 when there is none.
    pub fn max_us(&self) -> f64 {
        self.max_ns as f64 / 1e3
    }

    /// The smallest duration that at least `percent` (0 to 100) of all do not exceed, in
    /// microseconds; 0 when there is none.
    pub fn percentile_us(&self, percent: f64) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        let rank = ((percent / 100.0 * self.total as f64).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle_ns(bucket).clamp(self.min_ns, self.max_ns) as f64 / 1e3;
            }
        }
        self.max_us()
    }
}

fn bucket_of(ns: u64) -> usize {
    let octave = (64 - ns.leading_zeros()).saturating_sub(SUB_BITS + 1);
    let sub = (ns >> octave) as usize;
    octave as usize * SUB + sub
}

/// The value in the middle of a bucket: the inverse of [`bucket_of`].
fn middle_ns(bucket: usize) -> u64 {
    if bucket < 2 * SUB {
        return bucket as u64;
    }
    let octave = bucket / SUB - 1;
    let low = ((bucket % SUB + SUB) as u64) << octave;
    low + (1 << octave) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_one_percent_of_a_sorted_list() {
        let mut histogram = Histogram::default();
        let mut all = Vec::new();
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..50_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let ns = 1 + (state % 1_000) * (state >> 40) % 5_000_000;
            all.push(ns);
            histogram.record(Duration::from_nanos(ns));
        }
        all.sort_unstable();
        for percent in [50.0, 90.0, 99.0, 99.9] {
            let rank = (percent / 100.0 * all.len() as f64).ceil() as usize;
            let exact = all[rank - 1] as f64 / 1e3;
            let found = histogram.percentile_us(percent);
            assert!((found - exact).abs() <= exact * 0.01, "{percent}: {found} instead of {exact}");
        }
        assert_eq!(histogram.max_us(), all[all.len() - 1] as f64 / 1e3);
        assert_eq!(histogram.min_us(), all[0] as f64 / 1e3);
    }

    #[test]
    fn every_value_lies_in_a_bucket_that_gives_it_back() {
        for shift in 0..64 {
            for delta in [0_u64, 1, 3] {
                let ns = (1_u64 << shift).saturating_add(delta);
                let middle = middle_ns(bucket_of(ns));
                assert!(middle.abs_diff(ns) <= ns / 128 + 1, "{ns} comes back as {middle}");
            }
        }
        assert!(bucket_of(u64::MAX) < BUCKETS);
    }

    #[test]
    fn an_empty_histogram_says_zero() {
        let histogram = Histogram::default();
        assert_eq!((histogram.min_us(), histogram.percentile_us(99.0), histogram.max_us()), (0.0, 0.0, 0.0));
    }
}
