//! Who listens to events: the control plane, mostly one.
//!
//! Promise: telling never waits. Each subscriber has a bounded queue; one that does not keep up is disconnected, comes back,
//! and is told everything from the beginning.

use penstock_api::message::Event;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    list: Mutex<Vec<Subscriber>>,
}

#[derive(Debug)]
struct Subscriber {
    id: u64,
    queue: SyncSender<Event>,
    /// Closed when the subscriber is given up, so that a thread that waits for it to read wakes up.
    stream: UnixStream,
}

impl Subscribers {
    /// Adds a subscriber whose first events are `first`. The caller holds whatever keeps events in order.
    pub(crate) fn add(
        &self,
        stream: UnixStream,
        queue_max: usize,
        first: Vec<Event>,
    ) -> (u64, Receiver<Event>) {
        let (queue, receiver) = sync_channel(queue_max + first.len());
        for event in first {
            queue.try_send(event).expect("the queue is empty, longer than this, and its receiver is here");
        }
        let mut list = super::lock(&self.list);
        let id = list.last().map_or(1, |last| last.id + 1);
        list.push(Subscriber { id, queue, stream });
        (id, receiver)
    }

    pub(crate) fn remove(&self, id: u64) {
        super::lock(&self.list).retain(|subscriber| subscriber.id != id);
    }

    pub(crate) fn tell(&self, event: &Event) {
        super::lock(&self.list).retain(|subscriber| {
            let keeps_up = subscriber.queue.try_send(event.clone()).is_ok();
            if !keeps_up {
                tracing::warn!(
                    "a subscriber does not read its events and is disconnected; it is told everything when it comes back"
                );
                // It is gone already: the same to us.
                let _ = subscriber.stream.shutdown(Shutdown::Both);
            }
            keeps_up
        });
    }

    pub(crate) fn count(&self) -> usize {
        super::lock(&self.list).len()
    }
}
