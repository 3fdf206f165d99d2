//! How fast the pipeline between the interface and the socket is, without either: super-packets are split,
//! sealed, opened, verified and put together again, in a lane of one thread and of two, for one peer.
//! Run by hand on a quiet machine:
//!
//! ```text
//! cargo test --release -p watari-link --lib pipeline_alone -- --ignored --nocapture
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::lane::{Fill, Signal, Stages, Worker};
use super::offload::classify::{Class, classify, ip_len};
use super::offload::coalesce::Coalescer;
use super::offload::properties::PacketSpec;
use super::offload::split::Split;
use super::offload::virtio::{Gso, Header};
use crate::lock;
use crate::wg::limits::HEADER_LEN;
use crate::wg::{Agreed, Role, Session, SessionKeys, Traffic};

const MTU: usize = 1420;
const SEGMENT: u16 = 1368;

struct Memory {
    sealing: Session,
    opening: Session,
    packet: Vec<u8>,
    header: Header,
    left: AtomicU64,
    done: Mutex<Option<Sender<u64>>>,
    bytes: AtomicU64,
}

struct Batch {
    packet: Vec<u8>,
    counter: u64,
    messages: Vec<u8>,
    opened: Vec<Sealed>,
    coalescer: Coalescer,
}

/// A message that was sealed and opened again: its counter, where its packet lies, what it is.
struct Sealed {
    counter: u64,
    begin: usize,
    length: usize,
    class: Class,
}

fn session(local_index: u32, seal: [u8; 32], open: [u8; 32]) -> Session {
    let keys = SessionKeys { seal, open };
    let agreed =
        Agreed { local_index, remote_index: 3 - local_index, keys, role: Role::Initiator, born_ms: 0 };
    Session::new(&agreed, Arc::new(Traffic::default()))
}

impl Stages for Memory {
    type Batch = Batch;

    fn batch(&self) -> Batch {
        Batch {
            packet: vec![0; 65_536],
            counter: 0,
            messages: vec![0; 128 << 10],
            opened: Vec::with_capacity(64),
            coalescer: Coalescer::with_capacity(64),
        }
    }

    fn fill(&self, batch: &mut Batch) -> Fill {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Fill::Nothing;
        }
        self.left.store(left - 1, Ordering::Relaxed);
        // What reading the interface does.
        batch.packet[..self.packet.len()].copy_from_slice(&self.packet);
        let split = Split::new(&self.header, &mut batch.packet[..self.packet.len()]).expect("a super-packet");
        batch.counter = self.sealing.take_counters(split.count() as u64).expect("counters");
        Fill::Part
    }

    fn wait(&self, signal: &Signal) -> bool {
        super::workers::wait(signal, &[], nix::poll::PollTimeout::NONE)
    }

    fn helpers(&self) -> bool {
        true
    }

    fn work(&self, batch: &mut Batch) {
        let packet = &mut batch.packet[..self.packet.len()];
        let split = Split::new(&self.header, packet).expect("a super-packet");
        let mut at = 0;
        batch.opened.clear();
        for index in 0..split.count() {
            let message = &mut batch.messages[at..];
            let length = split.write(packet, index, &mut message[HEADER_LEN..]);
            let counter = batch.counter + index as u64;
            let length = self.sealing.seal(counter, message, length, MTU);
            let opened = self.opening.open(&mut message[..length]).expect("authentic");
            let begin = at + opened.range.start;
            let packet = &message[opened.range];
            let inside = ip_len(packet).expect("a packet");
            let class = classify(&packet[..inside]);
            batch.opened.push(Sealed { counter: opened.counter, begin, length: inside, class });
            at += length;
        }
    }

    fn finish(&self, batch: &mut Batch) {
        let mut replay = self.opening.replay();
        for Sealed { counter, begin, length, class } in &batch.opened {
            assert!(replay.accept(*counter));
            batch.coalescer.push(&batch.messages, *begin, *length, *class, true);
        }
        let mut items = 0;
        batch.coalescer.finish(&mut batch.messages, |_, _, _, _| items += 1);
        assert_eq!(items, 1);
        let bytes = self.bytes.fetch_add(self.packet.len() as u64, Ordering::Relaxed);
        if batch.counter + batch.opened.len() as u64 == self.sealing.counters_taken()
            && self.left.load(Ordering::Relaxed) == 0
            && let Some(done) = lock(&self.done).take()
        {
            done.send(bytes + self.packet.len() as u64).expect("the bench waits");
        }
    }
}

fn run(threads: usize, super_packets: u64) -> f64 {
    let packet = PacketSpec { payload: 60_000, options: 3, ..PacketSpec::default() }.build();
    let header = Header { gso: Gso::Tcp4, segment: SEGMENT, headers: 52, partial: None, valid: false };
    let (done, is_done) = channel();
    let memory = Memory {
        sealing: session(1, [1; 32], [2; 32]),
        opening: session(2, [2; 32], [1; 32]),
        packet,
        header,
        left: AtomicU64::new(super_packets),
        done: Mutex::new(Some(done)),
        bytes: AtomicU64::new(0),
    };
    let began = Instant::now();
    let worker = Worker::lane("bench", threads, memory).expect("threads");
    let bytes = is_done.recv().expect("the end");
    let took = began.elapsed();
    drop(worker);
    f64::from(u32::try_from(bytes >> 10).expect("below 4 TiB")) * 8.192e3 / took.as_secs_f64() / 1e9
}

#[test]
#[ignore = "a measurement: run by hand on a quiet machine"]
fn pipeline_alone() {
    run(2, 2_000);
    for _ in 0..5 {
        let (one, two) = (run(1, 20_000), run(2, 20_000));
        println!("sealed and opened: {one:.2} Gb/s by 1 thread, {two:.2} by 2: {:.2} times", two / one);
    }
}
