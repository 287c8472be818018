//! What a worker's sockets are asked, and how they are bound anew while everything else goes on.

use super::engine::{Engine, Parts};
use crate::io::device::Device;
use crate::io::xsk::Xsk;
use penstock_api::message::AreaKind;
use std::os::fd::RawFd;

impl Engine {
    /// Chunks that have arrived at the trunk and wait for a later round.
    #[inline]
    pub fn waiting(&mut self) -> u32 {
        self.parts.devices.first_mut().and_then(Device::xsk_mut).map_or(0, |xsk| xsk.waiting())
    }

    /// Of an area's sockets: chunks with the kernel, to be sent, and chunks that were sent and came back.
    #[inline]
    pub fn transmitting(&self, area: AreaKind) -> (usize, u64) {
        let sockets = self.parts.devices.iter().filter_map(Device::xsk).filter(|xsk| xsk.area() == area);
        sockets.fold((0, 0), |(out, back), xsk| (out + xsk.with_kernel(), back + xsk.completed()))
    }

    /// Does a socket of the area lack its binding, after it could not be bound anew?
    pub fn is_unbound(&self, area: AreaKind) -> bool {
        self.parts.devices.iter().filter_map(Device::xsk).any(|xsk| xsk.area() == area && xsk.fd().is_none())
    }

    pub fn socket_fds(&self) -> impl Iterator<Item = RawFd> + '_ {
        self.parts.devices.iter().filter_map(|device| device.xsk()?.fd())
    }

    /// Binds every socket of an area anew; what was with the kernel comes home. For each device its new descriptor, if it has
    /// one.
    pub fn rebind(&mut self, area: AreaKind) -> Vec<Result<Option<RawFd>, String>> {
        self.echoes.forget();
        let Parts { devices, memory, counters, .. } = &mut self.parts;
        for xsk in devices.iter_mut().filter_map(Device::xsk_mut).filter(|xsk| xsk.area() == area) {
            counters.lost_earlier.add(xsk.close());
        }
        memory.reclaim_from_kernel(area);
        self.bind_missing(area)
    }

    /// Binds the sockets of an area that are not bound; the others are left alone.
    pub fn bind_missing(&mut self, area: AreaKind) -> Vec<Result<Option<RawFd>, String>> {
        let Parts { devices, memory, counters, .. } = &mut self.parts;
        // What a bound one uses must not be registered anew under it.
        let mut fresh = devices.iter().filter_map(Device::xsk).find_map(|xsk| xsk.share_area(area));
        let is_missing = |xsk: &&mut Xsk| xsk.area() == area && xsk.fd().is_none();
        let results = devices
            .iter_mut()
            .map(|device| match device.xsk_mut().filter(is_missing) {
                None => Ok(None),
                Some(xsk) => {
                    let result = xsk.reopen(memory, &mut fresh).map_err(|error| error.to_string());
                    xsk.refill(memory);
                    result.map(|()| xsk.fd())
                }
            })
            .collect();
        // Last: who sees it counted sees it done.
        counters.rebinds.add(1);
        results
    }
}
