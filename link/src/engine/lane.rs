//! A lane: packets of one direction of a device go through several threads and leave in the order
//! they came.
//!
//! ```text
//!            one thread at a time           side by side         one thread at a time
//!  packets ─▶ fill (a numbered batch) ─────▶ work (ciphers) ─────▶ finish, in the order of numbers
//!               the leader                    any thread            whoever completes the head
//! ```
//!
//! One thread does all three for its batch, so with little to do nothing is handed over and nobody is
//! woken. Only a leader that leaves more behind than fits its batch wakes another, which leads then; and only
//! while there is a core for it ([`Stages::helpers`]).
//!
//! A batch stays with its thread, and so do its octets with the thread's core: reading what another core has just written
//! costs as much as sealing it. A thread that is done before its turn keeps the batch, goes on with its next one,
//! and finishes both when it comes back. Only when it would have to wait (for packets, for the lead, for a free batch) does
//! it leave what is done to whoever completes the one before, and gets the empty batch back.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::lock;

/// What a lane does with its batches.
pub(super) trait Stages: Send + Sync + 'static {
    /// Packets on their way, with all buffers that they need.
    type Batch: Send;

    /// A batch with its buffers.
    fn batch(&self) -> Self::Batch;

    /// Takes what is there into the batch. Called by one thread at a time; the order of the calls is the
    /// order of the packets.
    fn fill(&self, batch: &mut Self::Batch) -> Fill;

    /// Waits until there may be something, or the signal comes; false when the lane has to end.
    fn wait(&self, signal: &Signal) -> bool;

    /// Whether a thread beside the leader is worth its while now.
    fn helpers(&self) -> bool;

    /// Does what can be done side by side with other batches.
    fn work(&self, batch: &mut Self::Batch);

    /// Does what has to be done in order. Called by one thread at a time.
    fn finish(&self, batch: &mut Self::Batch);
}

/// What a leader found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fill {
    /// Nothing.
    Nothing,
    /// All there was.
    All,
    /// As much as fits; more may be there.
    Part,
    /// The lane has ended.
    End,
}

/// What ends the threads of a worker, or makes one that waits look around. A thread under load never waits: it asks
/// [`Signal::is_ended`].
pub(super) struct Signal {
    event: EventFd,
    ended: AtomicBool,
}

impl Signal {
    fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { event, ended: AtomicBool::new(false) })
    }

    /// True once the threads have to end.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Takes note of having been woken.
    pub(super) fn clear(&self) {
        // Nothing to read: another thread was quicker.
        let _ = self.event.read();
    }

    fn wake(&self) {
        // An eventfd that is full is readable, which is all that is wanted.
        let _ = self.event.write(1);
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Running threads. Dropping it stops them and waits for their end.
pub(super) struct Worker {
    signal: Arc<Signal>,
    threads: Vec<JoinHandle<()>>,
}

impl Worker {
    /// One thread with one task.
    pub(super) fn start(name: &str, run: impl FnOnce(&Signal) + Send + 'static) -> io::Result<Self> {
        let signal = Arc::new(Signal::new()?);
        let seen = Arc::clone(&signal);
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || run(&seen))?;
        Ok(Self { signal, threads: vec![thread] })
    }

    /// A lane of so many threads, at least one.
    pub(super) fn lane<S: Stages>(name: &str, threads: usize, stages: S) -> io::Result<Self> {
        let mut worker = Self { signal: Arc::new(Signal::new()?), threads: Vec::new() };
        let lane = Arc::new(Lane::new(stages, threads.max(1)));
        for number in 0..threads.max(1) {
            let name = if number == 0 { name.to_owned() } else { format!("{name}{number}") };
            let (lane, signal) = (Arc::clone(&lane), Arc::clone(&worker.signal));
            worker.threads.push(thread::Builder::new().name(name).spawn(move || lane.run(number, &signal))?);
        }
        Ok(worker)
    }

    /// Makes a thread that waits look around: what it holds on to may have been replaced.
    pub(super) fn nudge(&self) {
        self.signal.wake();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.signal.ended.store(true, Ordering::Release);
        self.signal.wake();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a packet thread had panicked");
            }
        }
    }
}

/// How often a thread looks whether a leader has filled its batch before it sleeps: less time than waking up takes.
const SPINS_MAX: usize = 300;
/// Batches of each thread, where there are several: one in hand, one that waits for its turn.
const BATCHES: usize = 2;

struct Lane<S: Stages> {
    stages: S,
    head: Mutex<Head>,
    vacant: Condvar,
    /// The leader is filling, which does not take long; not waiting for packets.
    filling: AtomicBool,
    tail: Mutex<Tail<S::Batch>>,
    freed: Condvar,
}

/// Who leads.
#[derive(Default)]
struct Head {
    led: bool,
    /// Threads that wait to lead.
    idle: usize,
    /// Threads that have taken a batch and not yet come back.
    working: usize,
    ended: bool,
    /// The last leader has taken all there was.
    drained: bool,
    /// Number of the next batch.
    next: u64,
}

struct Tail<B> {
    /// Number of the batch whose turn it is.
    turn: u64,
    /// Somebody is finishing it.
    busy: bool,
    /// Left before their turn, with the number of their thread: as many places as there are batches, by number.
    left: Vec<Option<(usize, B)>>,
    /// Finished by another thread, for each thread.
    returned: Vec<Vec<B>>,
    starved: usize,
}

/// What a thread has.
struct Hand<B> {
    thread: usize,
    free: Vec<B>,
    /// Worked on, by number, before their turn.
    done: VecDeque<(u64, B)>,
}

impl<S: Stages> Lane<S> {
    fn new(stages: S, threads: usize) -> Self {
        let left = (0..threads * BATCHES).map(|_| None).collect();
        let returned = (0..threads).map(|_| Vec::with_capacity(BATCHES)).collect();
        Self {
            stages,
            head: Mutex::default(),
            vacant: Condvar::new(),
            filling: AtomicBool::new(false),
            tail: Mutex::new(Tail { turn: 0, busy: false, left, returned, starved: 0 }),
            freed: Condvar::new(),
        }
    }

    fn run(&self, thread: usize, signal: &Signal) {
        // A single thread never waits for its turn.
        let batches = if lock(&self.tail).returned.len() == 1 { 1 } else { BATCHES };
        let free = (0..batches).map(|_| self.stages.batch()).collect();
        let mut hand = Hand { thread, free, done: VecDeque::with_capacity(batches) };
        loop {
            let mut batch = self.free_batch(&mut hand);
            let Some(number) = self.lead(&mut hand, &mut batch, signal) else { break };
            self.stages.work(&mut batch);
            hand.done.push_back((number, batch));
            self.finish(&mut hand);
            lock(&self.head).working -= 1;
        }
        self.leave(&mut hand);
    }

    /// Becomes the leader, fills the batch and lets another lead; the number of the batch. `None`: the lane
    /// has ended.
    fn lead(&self, hand: &mut Hand<S::Batch>, batch: &mut S::Batch, signal: &Signal) -> Option<u64> {
        let mut head = self.lead_is_free(hand)?;
        head.led = true;
        let drained = head.drained;
        drop(head);
        let filled = self.fill(hand, batch, drained, signal);
        let mut head = lock(&self.head);
        head.led = false;
        if filled == Fill::End {
            head.ended = true;
            drop(head);
            self.vacant.notify_all();
            return None;
        }
        let number = head.next;
        head.next += 1;
        head.working += 1;
        head.drained = filled == Fill::All;
        let wake = filled == Fill::Part && head.idle > 0 && self.stages.helpers();
        drop(head);
        if wake {
            self.vacant.notify_one();
        }
        Some(number)
    }

    /// Waits until nobody leads, and a thread more is wanted. `None`: the lane has ended.
    fn lead_is_free(&self, hand: &mut Hand<S::Batch>) -> Option<MutexGuard<'_, Head>> {
        let mut spun = false;
        loop {
            let mut head = lock(&self.head);
            if head.ended {
                return None;
            }
            if !head.led && (head.working == 0 || self.stages.helpers()) {
                return Some(head);
            }
            if head.led && !spun && self.filling.load(Ordering::Relaxed) {
                drop(head);
                spun = true;
                let filling = |_: &usize| self.filling.load(Ordering::Relaxed);
                (0..SPINS_MAX).take_while(filling).for_each(|_| std::hint::spin_loop());
            } else if hand.done.is_empty() {
                head.idle += 1;
                head = wait(&self.vacant, head);
                head.idle -= 1;
            } else {
                drop(head);
                self.leave(hand);
            }
        }
    }

    /// Fills a batch, as the leader. Where the last one has found the end, `drained`, it is asked first whether there is more.
    fn fill(&self, hand: &mut Hand<S::Batch>, batch: &mut S::Batch, drained: bool, signal: &Signal) -> Fill {
        let mut wait = drained && hand.done.is_empty();
        loop {
            // What is still to come is for a successor; what was filled is finished by whoever filled it.
            if signal.is_ended() {
                return Fill::End;
            }
            if wait && !self.stages.wait(signal) {
                return Fill::End;
            }
            self.filling.store(true, Ordering::Relaxed);
            let filled = self.stages.fill(batch);
            self.filling.store(false, Ordering::Relaxed);
            if filled != Fill::Nothing {
                return filled;
            }
            wait = hand.done.is_empty();
            self.leave(hand);
        }
    }

    /// Finishes the batches whose turn has come: this thread's, and those that others have left.
    fn finish(&self, hand: &mut Hand<S::Batch>) {
        let mut tail = lock(&self.tail);
        if tail.busy {
            return;
        }
        while let Some((thread, mut batch)) = tail.next(hand) {
            tail.busy = true;
            drop(tail);
            self.stages.finish(&mut batch);
            tail = lock(&self.tail);
            tail.busy = false;
            tail.turn += 1;
            if thread == hand.thread {
                hand.free.push(batch);
            } else {
                tail.returned[thread].push(batch);
                if tail.starved > 0 {
                    self.freed.notify_all();
                }
            }
        }
    }

    /// Leaves what is done to whoever completes the one before, which may be this thread.
    fn leave(&self, hand: &mut Hand<S::Batch>) {
        if hand.done.is_empty() {
            return;
        }
        let mut tail = lock(&self.tail);
        for (number, batch) in hand.done.drain(..) {
            let place = tail.place(number);
            tail.left[place] = Some((hand.thread, batch));
        }
        drop(tail);
        self.finish(hand);
    }

    fn free_batch(&self, hand: &mut Hand<S::Batch>) -> S::Batch {
        if let Some(batch) = hand.free.pop() {
            return batch;
        }
        self.leave(hand);
        let mut tail = lock(&self.tail);
        loop {
            hand.free.append(&mut tail.returned[hand.thread]);
            if let Some(batch) = hand.free.pop() {
                return batch;
            }
            tail.starved += 1;
            tail = wait(&self.freed, tail);
            tail.starved -= 1;
        }
    }
}

impl<B> Tail<B> {
    fn place(&self, number: u64) -> usize {
        usize::try_from(number % self.left.len() as u64).unwrap_or(0)
    }

    /// The batch whose turn it is, with the number of its thread, if it is in this hand or was left.
    fn next(&mut self, hand: &mut Hand<B>) -> Option<(usize, B)> {
        if hand.done.front().is_some_and(|(number, _)| *number == self.turn) {
            return hand.done.pop_front().map(|(_, batch)| (hand.thread, batch));
        }
        let place = self.place(self.turn);
        self.left[place].take()
    }
}

fn wait<'a, T>(condition: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condition.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use super::*;

    /// Numbers 0.. in batches of up to seven; some take long.
    struct Numbers {
        next: AtomicU64,
        last: u64,
        filling: AtomicBool,
        finishing: AtomicBool,
        out: Mutex<Sender<u64>>,
    }

    impl Stages for Numbers {
        type Batch = Vec<u64>;

        fn batch(&self) -> Vec<u64> {
            Vec::new()
        }

        fn fill(&self, batch: &mut Vec<u64>) -> Fill {
            assert!(!self.filling.swap(true, Ordering::SeqCst), "two leaders");
            batch.clear();
            let first = self.next.load(Ordering::Relaxed);
            let count = (1 + first % 7).min(self.last - first);
            batch.extend(first..first + count);
            self.next.store(first + count, Ordering::Relaxed);
            self.filling.store(false, Ordering::SeqCst);
            if count == 0 { Fill::Nothing } else { Fill::Part }
        }

        fn wait(&self, signal: &Signal) -> bool {
            crate::engine::workers::wait(signal, &[], nix::poll::PollTimeout::NONE)
        }

        fn helpers(&self) -> bool {
            // Now and then there are none.
            self.next.load(Ordering::Relaxed) % 512 < 400
        }

        fn work(&self, batch: &mut Vec<u64>) {
            // Uneven, so that batches overtake each other.
            let rounds = if batch[0].is_multiple_of(5) { 20_000 } else { 10 };
            for round in 0..rounds {
                std::hint::black_box(round);
            }
        }

        fn finish(&self, batch: &mut Vec<u64>) {
            assert!(!self.finishing.swap(true, Ordering::SeqCst), "two finish");
            let out = lock(&self.out);
            for number in batch.iter() {
                out.send(*number).unwrap();
            }
            self.finishing.store(false, Ordering::SeqCst);
        }
    }

    #[test]
    fn everything_leaves_once_and_in_order_with_any_number_of_threads() {
        for threads in 1..=4 {
            let (out, arrived) = channel();
            let numbers = Numbers {
                next: AtomicU64::new(0),
                last: 20_000,
                filling: AtomicBool::new(false),
                finishing: AtomicBool::new(false),
                out: Mutex::new(out),
            };
            let worker = Worker::lane("numbers", threads, numbers).unwrap();
            for expected in 0..20_000 {
                assert_eq!(arrived.recv_timeout(Duration::from_secs(20)), Ok(expected), "{threads} threads");
            }
            drop(worker);
        }
    }

    #[test]
    fn a_lane_that_is_never_idle_ends_when_it_is_told_to_and_finishes_what_it_took() {
        for threads in [1, 3] {
            let (out, arrived) = channel();
            let numbers = Numbers {
                next: AtomicU64::new(0),
                last: u64::MAX,
                filling: AtomicBool::new(false),
                finishing: AtomicBool::new(false),
                out: Mutex::new(out),
            };
            let worker = Worker::lane("numbers", threads, numbers).unwrap();
            assert_eq!(arrived.recv_timeout(Duration::from_secs(20)), Ok(0));
            // In a thread of its own, so that a lane that goes on for ever fails instead of hanging.
            let (ended, has_ended) = channel();
            thread::spawn(move || {
                drop(worker);
                ended.send(()).unwrap();
            });
            has_ended.recv_timeout(Duration::from_secs(20)).expect("the lane ends under load");
            let rest: Vec<u64> = arrived.iter().collect();
            assert!(rest.iter().copied().eq(1..=rest.len() as u64), "in order and without a gap");
        }
    }
}
