//! The port tag a frame carries on a trunk, in its destination MAC. Mirrors `bpf/penstock.h`.

use penstock_api::PortId;

const PREFIX: [u8; 2] = [0x02, 0x50];
const FROM_PORT: u8 = 0x01;
const TO_PORT: u8 = 0x02;

/// The destination MAC of a frame that should leave by `port`.
pub fn to_port(port: PortId) -> [u8; 6] {
    let [high, low] = port.0.to_be_bytes();
    [PREFIX[0], PREFIX[1], TO_PORT, high, low, 0]
}

/// The port a received frame came from, if it is tagged at all.
pub fn from_port(frame: &[u8]) -> Option<PortId> {
    match frame {
        [a, b, FROM_PORT, high, low, _, ..] if [*a, *b] == PREFIX => {
            Some(PortId(u16::from_be_bytes([*high, *low])))
        }
        _ => None,
    }
}
