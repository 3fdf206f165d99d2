//! Where things that happen meet those who asked to hear of them. Publishing never blocks and never
//! fails: a subscriber that does not keep up misses events, and is told how many.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use crate::lock;
use crate::protocol::Event;

/// Events that wait for one subscriber.
const QUEUE_MAX: usize = 1024;

struct Subscriber {
    queue: SyncSender<Event>,
    missed: u64,
}

/// All subscribers.
#[derive(Default)]
pub(crate) struct EventHub {
    subscribers: Mutex<Vec<Subscriber>>,
}

impl EventHub {
    /// A queue that every later event is put into, until it is dropped.
    pub(crate) fn subscribe(&self) -> Receiver<Event> {
        let (queue, receiver) = sync_channel(QUEUE_MAX);
        lock(&self.subscribers).push(Subscriber { queue, missed: 0 });
        receiver
    }

    /// Tells everyone.
    pub(crate) fn publish(&self, event: &Event) {
        lock(&self.subscribers).retain_mut(|subscriber| subscriber.deliver(event));
    }
}

impl Subscriber {
    /// False once the subscriber is gone.
    fn deliver(&mut self, event: &Event) -> bool {
        if self.missed > 0 {
            match self.queue.try_send(Event::Missed { count: self.missed }) {
                Ok(()) => self.missed = 0,
                Err(TrySendError::Full(_)) => {
                    self.missed += 1;
                    return true;
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
        match self.queue.try_send(event.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.missed += 1;
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_subscriber_is_told_what_it_missed() {
        let hub = EventHub::default();
        let queue = hub.subscribe();
        let event = Event::LinkLost { device: "wtwg0".to_owned() };
        for _ in 0..QUEUE_MAX + 5 {
            hub.publish(&event);
        }
        for _ in 0..QUEUE_MAX {
            assert_eq!(queue.recv().unwrap(), event);
        }
        hub.publish(&event);
        assert_eq!(queue.recv().unwrap(), Event::Missed { count: 5 });
        assert_eq!(queue.recv().unwrap(), event);
    }

    #[test]
    fn a_subscriber_that_left_is_forgotten() {
        let hub = EventHub::default();
        drop(hub.subscribe());
        hub.publish(&Event::LinkLost { device: "wtwg0".to_owned() });
        assert!(lock(&hub.subscribers).is_empty());
    }
}
