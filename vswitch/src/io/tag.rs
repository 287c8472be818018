//! The port tag a frame carries on a trunk, in its destination MAC. Mirrors `bpf/penstock.h`.

use penstock_api::PortId;

const PREFIX: [u8; 2] = [0x02, 0x50];
const FROM_PORT: u8 = 0x01;
const TO_PORT: u8 = 0x02;
/// The upper bits of a port's upper byte, and the last byte, are a mark that the programs put on frames of some flows.
const MARK_HIGH: u8 = 0xfc;

/// The destination MAC of a frame that should leave by `port`.
pub fn to_port(port: PortId) -> [u8; 6] {
    let [high, low] = port.0.to_be_bytes();
    [PREFIX[0], PREFIX[1], TO_PORT, high, low, 0]
}

/// The port a received frame came from, if it is tagged at all.
pub fn from_port(frame: &[u8]) -> Option<PortId> {
    match frame {
        [a, b, FROM_PORT, high, low, _, ..] if [*a, *b] == PREFIX => {
            Some(PortId(u16::from_be_bytes([*high & !MARK_HIGH, *low])))
        }
        _ => None,
    }
}

/// The mark of a frame that came by a trunk, 0 if it has none.
#[inline]
pub fn mark(frame: &[u8]) -> u16 {
    match frame {
        [a, b, FROM_PORT, high, _, low, ..] if [*a, *b] == PREFIX => {
            u16::from(high >> 2) << 8 | u16::from(*low)
        }
        _ => 0,
    }
}

/// The tag of a frame that is passed on keeps the mark it came with: the programs watch for it to come back.
#[inline]
pub fn keep_mark(tag: &mut [u8; 6], frame: &[u8]) {
    if let (&[.., TO_PORT, _, _, _], [a, b, FROM_PORT, high, _, low, ..]) = (&*tag, frame)
        && [*a, *b] == PREFIX
    {
        tag[3] |= high & MARK_HIGH;
        tag[5] = *low;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_handed_on_and_is_no_part_of_the_port() {
        let came = [0x02, 0x50, FROM_PORT, 0b1010_1101, 0x07, 0x33, 0xff];
        assert_eq!(from_port(&came), Some(PortId(0x107)));
        assert_eq!(mark(&came), 0b10_1011 << 8 | 0x33);
        let mut tag = to_port(PortId(0x2fe));
        keep_mark(&mut tag, &came);
        assert_eq!(tag, [0x02, 0x50, TO_PORT, 0b1010_1110, 0xfe, 0x33]);
    }

    #[test]
    fn what_was_not_tagged_has_no_mark_and_an_address_of_a_pod_gets_none() {
        let mut tag = to_port(PortId(1));
        keep_mark(&mut tag, &[0x02, 0x50, 0x53, 0xff, 0xff, 0xff]);
        assert_eq!(tag, to_port(PortId(1)));
        assert_eq!(mark(&[0x02, 0x50, 0x53, 0xff, 0xff, 0xff]), 0);
        let mut mac = [2, 0, 0, 0, 0, 9];
        keep_mark(&mut mac, &[0x02, 0x50, FROM_PORT, 0xff, 0xff, 0xff]);
        assert_eq!(mac, [2, 0, 0, 0, 0, 9]);
    }
}
