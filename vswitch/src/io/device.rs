//! What a worker receives from and transmits to: one interface for sockets and for memory, so that the whole switch runs
//! without root.

use super::memory::{FrameId, Memory};
use super::repeat::Repeat;
use super::ring::FrameRing;
use super::tag;
use super::xsk::{BATCH, Xsk};
use penstock_api::PortId;
use penstock_api::message::AreaKind;
use std::sync::Arc;

/// A frame as it came in. Its headers are in the first chunk.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    pub frame: FrameId,
    pub len: u32,
    /// `None`: a trunk frame without a valid tag, or an interface that is no port.
    pub port: Option<PortId>,
}

/// Both directions of a memory device: what the outside puts in, and what it finds.
#[derive(Debug)]
pub struct MemoryLink {
    pub to_switch: FrameRing,
    pub from_switch: FrameRing,
}

impl MemoryLink {
    pub fn new(slots: usize, frame_len_max: usize) -> MemoryLink {
        MemoryLink {
            to_switch: FrameRing::new(slots, frame_len_max),
            from_switch: FrameRing::new(slots, frame_len_max),
        }
    }

    /// Puts a frame in, as if `port` had sent it. False: no room.
    pub fn inject(&self, port: PortId, frame: &[u8]) -> bool {
        self.to_switch.push(|slot| {
            slot.port = port;
            slot.len = frame.len().min(slot.bytes.len());
            slot.bytes[..slot.len].copy_from_slice(&frame[..slot.len]);
        })
    }

    /// Takes the next frame the switch sent, and the port it was for.
    pub fn collect(&self) -> Option<(PortId, Vec<u8>)> {
        self.from_switch.pop(|slot| (slot.port, slot.frame().to_vec()))
    }
}

/// Something frames come from and go to.
#[derive(Debug)]
pub enum Device {
    /// A worker's trunk: frames of many ports, tagged.
    Trunk(Box<Xsk>),
    /// An interface with one endpoint on it: the `index`-th direct device of the switch. Which port that is, a snapshot says.
    Direct { xsk: Box<Xsk>, index: u16, port: Option<PortId> },
    /// Frames from and to memory, in the area said: of any port if it is a worker's first device, as a trunk's are; else of
    /// one endpoint, as a direct device's are.
    Memory { link: Arc<MemoryLink>, area: AreaKind },
    /// Frames from a list, over and over, in the area that copies: of any port.
    Repeat(Box<Repeat>),
}

impl Device {
    /// Receives up to a batch. `scratch` is the caller's, empty before and after.
    #[inline]
    pub fn receive(
        &mut self,
        memory: &mut Memory,
        scratch: &mut Vec<(FrameId, u32)>,
        out: &mut Vec<Received>,
    ) {
        match self {
            Device::Trunk(xsk) => {
                xsk.refill(memory);
                xsk.receive(memory, scratch);
                for (frame, len) in scratch.drain(..) {
                    let port = tag::from_port(memory.head(frame));
                    out.push(Received { frame, len, port });
                }
            }
            Device::Direct { xsk, port, .. } => {
                xsk.refill(memory);
                xsk.receive(memory, scratch);
                let port = *port;
                out.extend(scratch.drain(..).map(|(frame, len)| Received { frame, len, port }));
            }
            Device::Memory { link, area } => {
                for _ in 0..BATCH {
                    // No chunk free: the frame stays in the ring, as it would in a NIC's.
                    if memory.free_len(*area) < 8 {
                        return;
                    }
                    let taken = link.to_switch.pop(|slot| {
                        memory.copy_in(*area, slot.frame()).map(|frame| Received {
                            frame,
                            len: slot.len as u32,
                            port: Some(slot.port),
                        })
                    });
                    match taken {
                        Some(Some(received)) => out.push(received),
                        Some(None) => {}
                        None => return,
                    }
                }
            }
            Device::Repeat(repeat) => repeat.receive(memory, AreaKind::Copy, BATCH, |frame, len, port| {
                out.push(Received { frame, len, port: Some(port) });
            }),
        }
    }

    /// Sends one frame to `port`; its destination MAC is right already, and it is in the device's area. False: no room, the frame is still the caller's.
    #[inline]
    pub fn transmit(&mut self, memory: &mut Memory, frame: FrameId, port: PortId) -> bool {
        match self {
            Device::Trunk(xsk) | Device::Direct { xsk, .. } => xsk.transmit(memory, frame),
            Device::Memory { link, .. } => {
                let pushed = link.from_switch.push(|slot| {
                    slot.port = port;
                    slot.len = memory.copy_out(frame, &mut slot.bytes);
                });
                if pushed {
                    memory.release(frame);
                }
                pushed
            }
            Device::Repeat(repeat) => {
                repeat.transmit(memory, frame);
                true
            }
        }
    }

    /// After a batch: makes the kernel send, and takes back what was sent. `more`: the next batch is there already, and what
    /// would be sent alone may wait for it.
    #[inline]
    pub fn flush(&mut self, memory: &mut Memory, more: bool) {
        match self {
            Device::Trunk(xsk) | Device::Direct { xsk, .. } => {
                xsk.kick(memory, more);
                xsk.complete(memory);
            }
            Device::Memory { .. } => {}
            Device::Repeat(repeat) => repeat.flush(),
        }
    }

    /// The area of what it receives, and of what it can send.
    #[inline]
    pub fn area(&self) -> AreaKind {
        match self {
            Device::Trunk(xsk) | Device::Direct { xsk, .. } => xsk.area(),
            Device::Memory { area, .. } => *area,
            Device::Repeat(_) => AreaKind::Copy,
        }
    }

    pub fn xsk(&self) -> Option<&Xsk> {
        match self {
            Device::Trunk(xsk) | Device::Direct { xsk, .. } => Some(xsk),
            Device::Memory { .. } | Device::Repeat(_) => None,
        }
    }

    pub fn xsk_mut(&mut self) -> Option<&mut Xsk> {
        match self {
            Device::Trunk(xsk) | Device::Direct { xsk, .. } => Some(xsk),
            Device::Memory { .. } | Device::Repeat(_) => None,
        }
    }

    /// The near end wants a port tag where a MAC would stand.
    pub fn is_tagged(&self) -> bool {
        matches!(self, Device::Trunk(_))
    }

    /// Frames waiting to be received, as far as that can be seen without a syscall.
    pub fn has_work(&self) -> bool {
        match self {
            Device::Memory { link, .. } => !link.to_switch.is_empty(),
            Device::Repeat(repeat) => repeat.has_work(),
            _ => false,
        }
    }
}
