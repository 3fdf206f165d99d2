//! A vector in chunks: growing copies nothing and leaves no holes of twice the size behind.

const CHUNK_BITS: u32 = 12;
/// Items of a chunk.
pub(super) const CHUNK: usize = 1 << CHUNK_BITS;

#[derive(Debug)]
pub(super) struct Chunks<T> {
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Chunks { chunks: Vec::new() }
    }
}

const fn place(at: u32) -> (usize, usize) {
    ((at >> CHUNK_BITS) as usize, at as usize & (CHUNK - 1))
}

impl<T> Chunks<T> {
    pub(super) fn len(&self) -> u32 {
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        (full + self.chunks.last().map_or(0, Vec::len)) as u32
    }

    pub(super) fn push(&mut self, item: T) {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(item),
            _ => {
                // The first one grows as it must: most tables are small.
                let room = if self.chunks.is_empty() { 0 } else { CHUNK };
                let mut chunk = Vec::with_capacity(room);
                chunk.push(item);
                self.chunks.push(chunk);
            }
        }
    }

    pub(super) fn get(&self, at: u32) -> &T {
        let (chunk, item) = place(at);
        &self.chunks[chunk][item]
    }

    pub(super) fn get_mut(&mut self, at: u32) -> &mut T {
        let (chunk, item) = place(at);
        &mut self.chunks[chunk][item]
    }

    /// `len` items from `at` on; they lie in one chunk.
    pub(super) fn slice(&self, at: u32, len: usize) -> &[T] {
        let (chunk, item) = place(at);
        &self.chunks[chunk][item..item + len]
    }

    pub(super) fn slice_mut(&mut self, at: u32, len: usize) -> &mut [T] {
        let (chunk, item) = place(at);
        &mut self.chunks[chunk][item..item + len]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

/// A bit for each of so many numbers.
#[derive(Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    /// Whether none is set.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn has(&self, at: u32) -> bool {
        self.words.get(at as usize / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }

    /// Sets one; whether it was not set.
    pub(super) fn insert(&mut self, at: u32) -> bool {
        let (word, bit) = (at as usize / 64, 1_u64 << (at % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += usize::from(is_new);
        is_new
    }

    pub(super) fn remove(&mut self, at: u32) {
        if self.has(at) {
            self.words[at as usize / 64] &= !(1 << (at % 64));
            self.count -= 1;
        }
    }

    /// Takes up to `limit` of those from `from` on, in order; the second is where to go on.
    pub(super) fn take(&mut self, from: u32, limit: usize, taken: &mut Vec<u32>) -> u32 {
        let mut at = from as usize / 64;
        while at < self.words.len() && self.count > 0 {
            while self.words[at] != 0 {
                if taken.len() >= limit {
                    return at as u32 * 64;
                }
                let bit = self.words[at].trailing_zeros();
                self.words[at] &= self.words[at] - 1;
                self.count -= 1;
                taken.push(at as u32 * 64 + bit);
            }
            at += 1;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_stay_where_they_are() {
        let mut chunks = Chunks::default();
        for n in 0..3 * CHUNK as u32 + 5 {
            chunks.push(n);
            assert_eq!(chunks.len(), n + 1);
        }
        *chunks.get_mut(CHUNK as u32) = 7;
        assert_eq!((*chunks.get(CHUNK as u32), *chunks.get(CHUNK as u32 + 1)), (7, CHUNK as u32 + 1));
        assert_eq!(chunks.slice(8, 3), [8, 9, 10]);
        assert_eq!(chunks.iter().count(), 3 * CHUNK + 5);
    }

    #[test]
    fn bits_are_taken_in_order_and_in_pieces() {
        let mut bits = Bits::default();
        for at in [700, 3, 64, 3, 65] {
            bits.insert(at);
        }
        bits.remove(65);
        let mut taken = Vec::new();
        let next = bits.take(0, 2, &mut taken);
        assert_eq!((&taken[..], bits.is_empty()), (&[3, 64][..], false));
        bits.take(next, 9, &mut taken);
        assert_eq!((&taken[..], bits.is_empty()), (&[3, 64, 700][..], true));
    }
}
