//! Datagrams with a number each, from one namespace to another: which arrived, and how often.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::{
    net::UdpSocket,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::netns::Netns;

/// So many may be under way: fewer than a device's backlog holds (1000), so that a busy machine loses none of its own.
const WINDOW: u64 = 400;
/// After so long without an arrival the window is no reason to wait: something was lost.
const PATIENCE: Duration = Duration::from_millis(300);

/// What arrived.
#[derive(Debug)]
pub struct Arrivals {
    pub sent: u64,
    pub lost: u64,
    pub doubled: u64,
    /// Arrived after one that was sent later.
    pub late: u64,
    pub seconds: f64,
}

/// A stream of numbered datagrams under way.
pub struct Sequence {
    stop: Arc<AtomicBool>,
    pub sent: Arc<AtomicU64>,
    sender: JoinHandle<f64>,
    receiver: JoinHandle<Vec<u64>>,
    arrived: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Sequence {
    /// Sends `rate` a second to `to` (in the namespace `sink`) until [`Sequence::stop`].
    pub fn start(source: &Netns, sink: &Netns, to: &str, rate: u64) -> Self {
        let from = source.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let into = sink.enter(|| UdpSocket::bind((to, 0)).unwrap());
        from.connect(into.local_addr().unwrap()).unwrap();
        into.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let bytes: libc::c_int = 64 << 20;
        // SAFETY: a valid descriptor and an int.
        let done = unsafe {
            libc::setsockopt(
                into.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const bytes).cast(),
                size_of::<libc::c_int>() as u32,
            )
        };
        assert_eq!(done, 0);
        let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (sent, arrived) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let sender = {
            let (stop, sent, arrived) = (stop.clone(), sent.clone(), arrived.clone());
            std::thread::spawn(move || send(&from, rate, &stop, &sent, &arrived))
        };
        let receiver = {
            let (ended, arrived) = (ended.clone(), arrived.clone());
            std::thread::spawn(move || receive(&into, &ended, &arrived))
        };
        Self { stop, sent, sender, receiver, arrived, ended }
    }

    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    pub fn stop(self) -> Arrivals {
        self.stop.store(true, Ordering::Relaxed);
        let seconds = self.sender.join().unwrap();
        let sent = self.sent.load(Ordering::Relaxed);
        let limit = Instant::now() + Duration::from_secs(3);
        while self.arrived.load(Ordering::Relaxed) < sent && Instant::now() < limit {
            std::thread::yield_now();
        }
        self.ended.store(true, Ordering::Relaxed);
        let mut times = vec![0_u32; sent as usize];
        let numbers = self.receiver.join().unwrap();
        numbers.iter().for_each(|number| times[*number as usize] += 1);
        let mut newest = 0;
        let late = numbers.iter().filter(|number| {
            newest = newest.max(**number);
            newest > **number
        });
        let late = late.count() as u64;
        let count = |is: fn(u32) -> bool| times.iter().filter(|n| is(**n)).count() as u64;
        Arrivals { sent, lost: count(|n| n == 0), doubled: count(|n| n > 1), late, seconds }
    }
}

fn send(socket: &UdpSocket, rate: u64, stop: &AtomicBool, sent: &AtomicU64, arrived: &AtomicU64) -> f64 {
    let start = Instant::now();
    let (mut number, mut heard) = (0_u64, (0, Instant::now()));
    while !stop.load(Ordering::Relaxed) {
        let now = arrived.load(Ordering::Relaxed);
        if now != heard.0 {
            heard = (now, Instant::now());
        }
        let is_due = (start.elapsed().as_micros() as u64).saturating_mul(rate) / 1_000_000 > number;
        let has_room = number - now.min(number) < WINDOW || heard.1.elapsed() > PATIENCE;
        if is_due && has_room {
            let mut datagram = [0; 64];
            datagram[..8].copy_from_slice(&number.to_be_bytes());
            socket.send(&datagram).unwrap();
            number += 1;
            sent.store(number, Ordering::Relaxed);
        } else {
            std::thread::yield_now();
        }
    }
    start.elapsed().as_secs_f64()
}

fn receive(socket: &UdpSocket, ended: &AtomicBool, arrived: &AtomicU64) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut datagram = [0; 64];
    while !ended.load(Ordering::Relaxed) {
        if socket.recv(&mut datagram).is_ok() {
            numbers.push(u64::from_be_bytes(datagram[..8].try_into().unwrap()));
            arrived.store(numbers.len() as u64, Ordering::Relaxed);
        }
    }
    numbers
}
