//! Loss, order, duplicates and jitter out of numbered packets, without a clock of its own.
//!
//! Reordered is what RFC 4737 §3.4 calls so: a packet whose number is below one that came before
//! it. Jitter is the estimator of RFC 3550 §6.4.1 over the packets that came in order.

/// How far back duplicates are recognised, in packets. A packet that is later than this counts as
/// received and reordered.
const WINDOW: u64 = 65_536;

/// What became of a stream of numbered packets, as its receiver sees it.
#[derive(Debug, Clone)]
pub struct SequenceTracker {
    seen: Vec<u64>,
    /// The number that would be in order.
    next: u64,
    received: u64,
    reordered: u64,
    duplicates: u64,
    bytes: u64,
    first_us: Option<u64>,
    last_us: u64,
    transit_us: Option<f64>,
    jitter_us: f64,
}

impl Default for SequenceTracker {
    fn default() -> Self {
        Self {
            seen: vec![0; (WINDOW / 64) as usize],
            next: 0,
            received: 0,
            reordered: 0,
            duplicates: 0,
            bytes: 0,
            first_us: None,
            last_us: 0,
            transit_us: None,
            jitter_us: 0.0,
        }
    }
}

impl SequenceTracker {
    /// A packet came: its number, its payload in bytes, when it was sent by the sender's clock and
    /// when it arrived by the receiver's (each in microseconds from any fixed moment).
    pub fn push(&mut self, sequence: u32, bytes: u64, sent_us: u32, arrived_us: u64) {
        let sequence = u64::from(sequence);
        self.first_us.get_or_insert(arrived_us);
        self.last_us = self.last_us.max(arrived_us);
        if sequence >= self.next {
            self.advance(sequence);
            self.count_jitter(sent_us, arrived_us);
        } else if self.next - sequence > WINDOW {
            self.reordered += 1;
        } else if self.is_seen(sequence) {
            self.duplicates += 1;
            return;
        } else {
            self.reordered += 1;
        }
        self.mark(sequence);
        self.received += 1;
        self.bytes += bytes;
    }

    /// Forgets what falls out of the window when it moves on to `sequence`.
    fn advance(&mut self, sequence: u64) {
        if sequence - self.next >= WINDOW {
            self.seen.fill(0);
        } else {
            for number in self.next..=sequence {
                let bit = number % WINDOW;
                self.seen[(bit / 64) as usize] &= !(1 << (bit % 64));
            }
        }
        self.next = sequence + 1;
    }

    fn mark(&mut self, sequence: u64) {
        if self.next - sequence <= WINDOW {
            let bit = sequence % WINDOW;
            self.seen[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    fn is_seen(&self, sequence: u64) -> bool {
        let bit = sequence % WINDOW;
        self.seen[(bit / 64) as usize] & (1 << (bit % 64)) != 0
    }

    fn count_jitter(&mut self, sent_us: u32, arrived_us: u64) {
        let transit = arrived_us as f64 - f64::from(sent_us);
        if let Some(before) = self.transit_us.replace(transit) {
            self.jitter_us += ((transit - before).abs() - self.jitter_us) / 16.0;
        }
    }

    /// Different packets received.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Packets that came after one that was sent later.
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Packets that came again.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Payload of the different packets in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From the first arrival to the last in microseconds.
    pub fn took_us(&self) -> u64 {
        self.last_us - self.first_us.unwrap_or(self.last_us)
    }

    /// Interarrival jitter in microseconds.
    pub fn jitter_us(&self) -> f64 {
        self.jitter_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(sequence: &[u32]) -> SequenceTracker {
        let mut tracker = SequenceTracker::default();
        for (index, number) in sequence.iter().enumerate() {
            tracker.push(*number, 10, number * 100, index as u64 * 100);
        }
        tracker
    }

    #[test]
    fn a_stream_in_order_has_no_fault() {
        let tracker = track(&[0, 1, 2, 3, 4]);
        assert_eq!((tracker.received(), tracker.reordered(), tracker.duplicates()), (5, 0, 0));
        assert_eq!((tracker.bytes(), tracker.took_us(), tracker.jitter_us()), (50, 400, 0.0));
    }

    #[test]
    fn a_gap_is_neither_reordered_nor_duplicate() {
        let tracker = track(&[0, 1, 5, 6]);
        assert_eq!((tracker.received(), tracker.reordered(), tracker.duplicates()), (4, 0, 0));
    }

    #[test]
    fn late_packets_and_repeats_are_told_apart() {
        let tracker = track(&[0, 2, 1, 2, 1, 3]);
        assert_eq!((tracker.received(), tracker.reordered(), tracker.duplicates()), (4, 1, 2));
    }

    #[test]
    fn a_number_of_the_former_window_is_not_taken_for_a_repeat() {
        let window = WINDOW as u32;
        let tracker = track(&[5, 5 + window, 6 + window, 6]);
        assert_eq!((tracker.received(), tracker.reordered(), tracker.duplicates()), (4, 1, 0));
        let tracker = track(&[0, 3 * window, 3 * window]);
        assert_eq!((tracker.received(), tracker.duplicates()), (2, 1));
    }

    #[test]
    fn jitter_follows_rfc_3550() {
        let mut tracker = SequenceTracker::default();
        tracker.push(0, 1, 0, 1_000);
        tracker.push(1, 1, 100, 1_260);
        assert!((tracker.jitter_us() - 160.0 / 16.0).abs() < 1e-9);
        tracker.push(2, 1, 200, 1_360);
        assert!((tracker.jitter_us() - (10.0 - 10.0 / 16.0)).abs() < 1e-9);
    }
}
