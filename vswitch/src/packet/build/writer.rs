//! A cursor over the caller's buffer, and the headers every answer begins with.

use crate::packet::checksum::{checksum, pseudo_header};
use crate::packet::parse::ethertype;
use crate::packet::{ETHERNET_LEN, FlowKey};
use penstock_api::artefact::protocol;

pub(super) struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
    l4: usize,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut [u8]) -> Self {
        Writer { out, len: 0, l4: 0 }
    }

    /// Appends bytes; `None` when they do not fit.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len.checked_add(bytes.len())?;
        self.out.get_mut(self.len..end)?.copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    pub(super) fn ethernet(&mut self, destination: [u8; 6], source: [u8; 6], kind: u16) -> Option<()> {
        let mut header = [0; ETHERNET_LEN];
        header[..6].copy_from_slice(&destination);
        header[6..12].copy_from_slice(&source);
        header[12..].copy_from_slice(&kind.to_be_bytes());
        self.put(&header)
    }

    /// Ethernet and IP headers of a packet with `key`'s addresses and protocol and `l4_len` bytes behind them.
    pub(super) fn ip(&mut self, macs: Macs, key: &FlowKey, l4_len: usize, ttl: u8, class: u8) -> Option<()> {
        match key.family {
            4 => {
                self.ethernet(macs.destination, macs.source, ethertype::IPV4)?;
                let mut header = [0; 20];
                header[0] = 0x45;
                header[1] = class;
                header[2..4].copy_from_slice(&u16::try_from(20 + l4_len).ok()?.to_be_bytes());
                // Never to be fragmented, so the identification means nothing (RFC 6864).
                header[6] = 0x40;
                header[8] = ttl;
                header[9] = key.protocol;
                header[12..16].copy_from_slice(&key.source[12..]);
                header[16..20].copy_from_slice(&key.destination[12..]);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                self.put(&header)?;
            }
            6 => {
                self.ethernet(macs.destination, macs.source, ethertype::IPV6)?;
                let mut header = [0; 40];
                header[0] = 0x60 | class >> 4;
                header[1] = class << 4;
                header[4..6].copy_from_slice(&u16::try_from(l4_len).ok()?.to_be_bytes());
                header[6] = key.protocol;
                header[7] = ttl;
                header[8..24].copy_from_slice(&key.source);
                header[24..40].copy_from_slice(&key.destination);
                self.put(&header)?;
            }
            _ => return None,
        }
        self.l4 = self.len;
        Some(())
    }

    /// Computes the checksum of everything behind the IP header and stores it there at `at`, where zeros are now.
    /// Returns the length of the frame.
    pub(super) fn finish(self, key: &FlowKey, at: usize) -> Option<usize> {
        let message = self.out.get_mut(self.l4..self.len)?;
        let sum = match key.protocol {
            protocol::ICMP => checksum(message),
            _ => pseudo_header(key, key.protocol, u16::try_from(message.len()).ok()?).plus(message).finish(),
        };
        message.get_mut(at..at + 2)?.copy_from_slice(&sum.to_be_bytes());
        Some(self.len)
    }

    /// The length of the frame, where no checksum is to be stored.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// The Ethernet addresses of an answer.
#[derive(Clone, Copy)]
pub(super) struct Macs {
    pub(super) destination: [u8; 6],
    pub(super) source: [u8; 6],
}

impl Macs {
    /// Back to whoever sent `head`.
    pub(super) fn back(head: &[u8], gateway_mac: [u8; 6]) -> Macs {
        Macs { destination: crate::packet::source_mac(head), source: gateway_mac }
    }
}
