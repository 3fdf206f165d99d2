//! From a hash to a number: open addressing over words of 4 octets. A word holds the number and, in the bits that the
//! number leaves, a part of the hash, so that the items themselves are looked at almost only where they are meant.
//!
//! The index knows no keys. Who owns the items gives their hashes when the index must be laid out again, in the order
//! of the numbers: that reads memory forward.

use std::hash::{BuildHasherDefault, Hasher};

const EMPTY: u32 = 0;
const GONE: u32 = 1;
/// Numbers are kept with so much added: words below are [`EMPTY`] and [`GONE`].
const FIRST: u32 = 2;
const BUCKETS_MIN: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Index {
    words: Vec<u32>,
    /// Words that are not empty.
    used: usize,
}

impl Index {
    /// Where the search for a hash begins.
    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.words.len() - 1)
    }

    /// Bits of a word that hold the number.
    fn number_bits(&self) -> u32 {
        self.words.len().trailing_zeros()
    }

    fn word(&self, hash: u64, number: u32) -> u32 {
        let bits = self.number_bits();
        let tag = ((hash >> 32) as u32).checked_shl(bits).unwrap_or(0);
        tag | (number + FIRST)
    }

    /// The number with this hash for which `is_it`.
    pub(super) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.words.is_empty() {
            return None;
        }
        let (mask, bits) = (self.words.len() - 1, self.number_bits());
        let tag = self.word(hash, 0) >> bits;
        let mut at = self.home(hash);
        loop {
            let word = self.words[at];
            if word == EMPTY {
                return None;
            }
            if word != GONE && word >> bits == tag {
                let number = (word & ((1 << bits) - 1)) - FIRST;
                if is_it(number) {
                    return Some(number);
                }
            }
            at = (at + 1) & mask;
        }
    }

    /// Whether one more has its place; else [`Index::lay_out`] comes first.
    pub(super) fn has_room(&self) -> bool {
        self.used + FIRST as usize + 1 < self.words.len() / 4 * 3
    }

    /// Notes a number that is not there yet and is no larger than the count of all.
    pub(super) fn insert(&mut self, hash: u64, number: u32) {
        let mask = self.words.len() - 1;
        let mut at = self.home(hash);
        while self.words[at] > GONE {
            at = (at + 1) & mask;
        }
        self.used += usize::from(self.words[at] == EMPTY);
        self.words[at] = self.word(hash, number);
    }

    /// Forgets a number that is there.
    pub(super) fn remove(&mut self, hash: u64, number: u32) {
        let (mask, word) = (self.words.len() - 1, self.word(hash, number));
        let mut at = self.home(hash);
        while self.words[at] != word {
            if self.words[at] == EMPTY {
                return;
            }
            at = (at + 1) & mask;
        }
        // Before an empty word nothing goes on: then this one may be empty too.
        let is_last = self.words[(at + 1) & mask] == EMPTY;
        self.words[at] = if is_last { EMPTY } else { GONE };
        self.used -= usize::from(is_last);
    }

    /// Lays it out anew for numbers below `numbers`: twice the room that they need.
    pub(super) fn lay_out(&mut self, numbers: usize, items: impl Iterator<Item = (u64, u32)>) {
        let size = (numbers * 3 / 2 + FIRST as usize + 2).next_power_of_two().max(BUCKETS_MIN);
        self.words = Vec::new();
        self.words = vec![EMPTY; size];
        self.used = 0;
        for (hash, number) in items {
            self.insert(hash, number);
        }
    }
}

/// A hasher for short keys: a multiplication for every 8 octets, folded. The seed is part of the first word.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mix(u64);

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

impl Mix {
    pub(super) const fn new(seed: u64) -> Mix {
        Mix(seed)
    }
}

impl Hasher for Mix {
    fn write(&mut self, octets: &[u8]) {
        let (words, rest) = octets.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.write_u64(u64::from_le_bytes(last) ^ (octets.len() as u64) << 56);
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = fold(self.0 ^ n, MULTIPLIER);
    }

    fn finish(&self) -> u64 {
        fold(self.0 ^ 0xe703_7ed1_a0b4_28db, MULTIPLIER)
    }
}

/// For maps whose keys nobody outside chooses.
pub(super) type MixState = BuildHasherDefault<Mix>;

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u32) -> u64 {
        let mut mix = Mix::new(1);
        mix.write_u32(n);
        // Many alike, so that searches are long.
        mix.finish() & 0xffff_ffff_0000_00ff
    }

    #[test]
    fn numbers_come_and_go() {
        let mut index = Index::default();
        let mut present = std::collections::BTreeSet::new();
        let mut state = 7_u32;
        for step in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let n = (state >> 8) % 600;
            let found = index.find(hash(n), |number| number == n);
            assert_eq!(found.is_some(), present.contains(&n), "step {step}");
            if found.is_some() {
                index.remove(hash(n), n);
                present.remove(&n);
            } else {
                if !index.has_room() || n as usize + 4 > index.words.len() {
                    index.lay_out(1_000, present.iter().map(|n| (hash(*n), *n)));
                }
                index.insert(hash(n), n);
                present.insert(n);
            }
        }
        assert!(index.words.len() <= 2_048);
    }
}
