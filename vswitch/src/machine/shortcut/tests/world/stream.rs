//! One connection that sends without a pause.

use super::super::frames::{Odd, TCP, address, frame, segment};
use super::{Pod, REDIRECT, SHOT, Up, World};
use crate::io::tag;
use crate::packet::FlowKey;
use penstock_api::WorkerId;

/// A connection between two pods that the kernel is to carry.
pub(in super::super) struct Stream {
    key: FlowKey,
    sender: Pod,
    receiver: Pod,
}

/// What became of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Fate {
    Up,
    Passed,
    Refused,
}

impl World {
    pub(in super::super) fn connect(&mut self) -> Stream {
        let [sender, receiver] = [self.truth.pods[0], self.truth.pods[1]];
        let key = FlowKey::new(TCP, address(sender.address, 4), 1000, address(receiver.address, 4), 9);
        // Only then is there room for flows.
        self.restart();
        self.known.insert(key, (sender.endpoint, receiver.endpoint));
        self.established.insert(key, (sender.endpoint, receiver.endpoint));
        self.round += 1;
        self.rounds.begin(WorkerId(0), self.round, 1000);
        self.rounds.begin(WorkerId(1), self.round, 1000);
        self.ask();
        self.obey();
        Stream { key, sender, receiver }
    }

    /// Bytes from the one that sends, `from` a sequence number on.
    pub(in super::super) fn data(&mut self, stream: &Stream, from: u32, payload: usize) -> Fate {
        let bytes = segment(frame(&stream.key, stream.sender.mac, 64, payload, Odd::No), from, 1);
        self.fate(&stream.sender, stream.key, &bytes)
    }

    /// The other end has everything before this sequence number.
    pub(in super::super) fn acknowledge(&mut self, stream: &Stream, before: u32) -> Fate {
        let key = stream.key.reversed();
        let bytes = segment(frame(&key, stream.receiver.mac, 64, 0, Odd::No), 1, before);
        self.fate(&stream.receiver, key, &bytes)
    }

    fn fate(&mut self, from: &Pod, key: FlowKey, bytes: &[u8]) -> Fate {
        match self.run(from, bytes, None) {
            (SHOT, _) => Fate::Refused,
            (REDIRECT, out) if tag::from_port(&out) == Some(from.port) => {
                let mark = [out[3] & 0xfc, out[5]];
                self.up.push_back(Up { key, segments: 1, frame: out, mark, odd: Odd::No });
                Fate::Up
            }
            (REDIRECT, _) => Fate::Passed,
            other => panic!("{other:?}"),
        }
    }
}
