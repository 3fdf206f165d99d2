//! Looking at live traffic: several lookers share the one watch of the datapath, which asks for all that any of them
//! wants; each gets what it asked for. The watch is renewed every second and ends by itself when this daemon does not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, watch};
use watari_dataplane::{Dataplane, PortKey, Sample, SampleHead, Watch};

use crate::run::stopped;

/// How often the watch is renewed, and how long it lives without.
const RENEW: Duration = Duration::from_secs(1);
const LIFE_NS: u64 = 4_000_000_000;
/// Samples that a slow looker may be behind.
const BACKLOG: usize = 4096;
/// Samples taken from the ring in one go.
const BATCH_MAX: usize = 512;
/// The pause before the ring is watched again after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// What a looker wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// [`Watch::DROPS`], [`Watch::FLOWS`], [`Watch::CAPTURE`].
    pub flags: u32,
    /// One of so many frames, with [`Watch::FLOWS`].
    pub sample_every: u32,
    /// Bytes of each frame.
    pub snap_bytes: u32,
    /// Only this VNI; 0 for any.
    pub vni: u32,
    /// Only this port; zero for any.
    pub port: PortKey,
    /// Records per second and CPU.
    pub rate: u32,
}

impl Want {
    /// Whether the looker asked for this sample.
    pub fn is_for(&self, head: &SampleHead) -> bool {
        let wanted = match head.direction {
            SampleHead::DROP => Watch::DROPS,
            SampleHead::IN => Watch::FLOWS | Watch::CAPTURE,
            _ => Watch::CAPTURE,
        };
        self.flags & wanted != 0
            && (self.vni == 0 || self.vni == head.vni)
            && (self.port == PortKey::default() || self.port == head.port)
    }
}

/// The one watch that serves all of them; nothing is looked at when there is none.
fn union(wants: &BTreeMap<u64, Want>, until_ns: u64) -> Watch {
    let mut all = Watch::default();
    for want in wants.values() {
        let is_first = all.flags == 0;
        let capture = want.flags & Watch::CAPTURE != 0;
        let had_capture = all.flags & Watch::CAPTURE != 0;
        if capture {
            let same = !had_capture || all.port == want.port;
            all.port = if same { want.port } else { PortKey::default() };
        }
        if want.flags & Watch::FLOWS != 0 {
            let had = all.flags & Watch::FLOWS != 0;
            all.sample_every = if had { all.sample_every.min(want.sample_every) } else { want.sample_every };
        }
        all.vni = if is_first || all.vni == want.vni { want.vni } else { 0 };
        all.flags |= want.flags;
        all.snap_bytes = all.snap_bytes.max(want.snap_bytes);
        all.rate = all.rate.max(want.rate);
    }
    if all.flags != 0 {
        all.until_ns = until_ns;
    }
    all
}

/// Nanoseconds of the boot clock.
pub fn boot_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME);
    now.map_or(0, |now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

#[derive(Debug, Default)]
struct Wants {
    next: u64,
    all: BTreeMap<u64, Want>,
}

/// Whoever looks registers here.
#[derive(Debug)]
pub struct Watching {
    maps: Arc<Dataplane>,
    wants: Mutex<Wants>,
    samples: broadcast::Sender<Arc<Sample>>,
}

impl Watching {
    /// Nobody looks yet.
    pub fn new(maps: Arc<Dataplane>) -> Arc<Self> {
        Arc::new(Self { maps, wants: Mutex::default(), samples: broadcast::Sender::new(BACKLOG) })
    }

    /// Starts looking, until the value is dropped.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn look(self: &Arc<Self>, want: Want) -> Result<Looking, watari_dataplane::Error> {
        let receiver = self.samples.subscribe();
        let mut wants = self.wants.lock().unwrap_or_else(PoisonError::into_inner);
        let number = wants.next;
        wants.next += 1;
        wants.all.insert(number, want);
        let written = self.maps.set_watch(&union(&wants.all, boot_ns() + LIFE_NS));
        drop(wants);
        let looking = Looking { watching: self.clone(), number, want, receiver };
        written.map(|()| looking)
    }

    fn write(&self, wants: &Wants) {
        if let Err(error) = self.maps.set_watch(&union(&wants.all, boot_ns() + LIFE_NS)) {
            tracing::warn!(%error, "cannot say what is looked at");
        }
    }

    fn renew(&self) {
        let wants = self.wants.lock().unwrap_or_else(PoisonError::into_inner);
        if !wants.all.is_empty() {
            self.write(&wants);
        }
    }

    /// Hands samples to the lookers until `stop` becomes true.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        // What a daemon before this one looked at.
        self.write(&Wants::default());
        loop {
            tokio::select! {
                () = stopped(&mut stop) => break,
                () = self.hand_out() => tokio::time::sleep(RETRY).await,
            }
        }
        self.write(&Wants::default());
    }

    /// Ends when the ring cannot be read.
    async fn hand_out(&self) {
        let ring = match self.maps.samples() {
            Ok(ring) => ring,
            Err(error) => return tracing::warn!(%error, "cannot read samples"),
        };
        // SAFETY: the reader owns the descriptor and keeps it open for as long as the registration lives.
        let ring = unsafe { AsyncFd::register(ring) };
        let mut ring = match ring {
            Ok(ring) => ring,
            Err(error) => return tracing::warn!(error = %std::io::Error::from(error), "cannot watch samples"),
        };
        let mut tick = tokio::time::interval(RENEW);
        loop {
            tokio::select! {
                _ = tick.tick() => self.renew(),
                ready = ring.readable_mut() => {
                    let Ok(mut ready) = ready else { return };
                    let mut taken = 0;
                    while taken < BATCH_MAX && let Some(sample) = ready.get_inner_mut().take() {
                        // Nobody may look any more.
                        let _ = self.samples.send(Arc::new(sample));
                        taken += 1;
                    }
                    if taken < BATCH_MAX {
                        ready.clear_ready();
                    }
                }
            }
        }
    }
}

/// One looker.
pub struct Looking {
    watching: Arc<Watching>,
    number: u64,
    want: Want,
    receiver: broadcast::Receiver<Arc<Sample>>,
}

impl Looking {
    /// The next sample that was asked for; `None` when there will be none. One that is too slow misses some.
    pub async fn next(&mut self) -> Option<Arc<Sample>> {
        loop {
            match self.receiver.recv().await {
                Ok(sample) if self.want.is_for(&sample.head) => return Some(sample),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        let mut wants = self.watching.wants.lock().unwrap_or_else(PoisonError::into_inner);
        wants.all.remove(&self.number);
        self.watching.write(&wants);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_watch_serves_all() {
        let drops = Want { flags: Watch::DROPS, snap_bytes: 128, rate: 100, vni: 7, ..Want::default() };
        let port = PortKey::vlan(3, 100);
        let capture =
            Want { flags: Watch::CAPTURE, snap_bytes: 1536, rate: 1000, vni: 7, port, ..Want::default() };
        let mut wants = BTreeMap::from([(0, drops), (1, capture)]);
        let all = union(&wants, 9);
        assert_eq!((all.flags, all.snap_bytes, all.rate), (Watch::DROPS | Watch::CAPTURE, 1536, 1000));
        assert_eq!((all.vni, all.port, all.until_ns), (7, port, 9));
        let flows = Want { flags: Watch::FLOWS, sample_every: 10, ..Want::default() };
        wants.insert(2, flows);
        wants.insert(3, Want { sample_every: 5, ..flows });
        wants.insert(4, Want { port: PortKey::default(), ..capture });
        let all = union(&wants, 9);
        assert_eq!((all.vni, all.port, all.sample_every), (0, PortKey::default(), 5));
        assert_eq!(union(&BTreeMap::new(), 9), Watch::default());
    }

    #[test]
    fn each_gets_what_it_asked_for() {
        let port = PortKey::vlan(3, 100);
        let want = Want { flags: Watch::CAPTURE, port, ..Want::default() };
        let head = |direction, port| SampleHead { direction, port, ..SampleHead::default() };
        assert!(want.is_for(&head(SampleHead::OUT, port)));
        assert!(!want.is_for(&head(SampleHead::OUT, PortKey::vlan(3, 101))));
        assert!(!want.is_for(&head(SampleHead::DROP, port)));
        let drops = Want { flags: Watch::DROPS, vni: 5, ..Want::default() };
        assert!(!drops.is_for(&head(SampleHead::DROP, port)));
        assert!(drops.is_for(&SampleHead { vni: 5, ..head(SampleHead::DROP, port) }));
    }
}
