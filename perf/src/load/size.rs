//! Sizes of frames, as people say them: with the four bytes of checksum a wire adds, so that "64" is 60 bytes in memory.

use std::fmt;
use std::str::FromStr;

const FCS_LEN: u16 = 4;
const SIZE_MIN: u16 = 64;
/// Room for the mark, and an MTU of 9000 with some to spare.
const SIZE_MAX: u16 = 9200;
/// 7 : 4 : 1 of 64, 570 and 1518 bytes, mixed so that no two long ones follow each other: 353.8 bytes on average.
const IMIX: [u16; 12] = [64, 570, 64, 64, 570, 64, 1518, 64, 570, 64, 64, 570];

/// One size, or a mix that repeats itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sizes {
    One(u16),
    Imix,
}

impl Sizes {
    /// Lengths in memory, in the order in which they are sent.
    pub(crate) fn lens(self) -> Vec<u16> {
        match self {
            Sizes::One(size) => vec![size - FCS_LEN],
            Sizes::Imix => IMIX.map(|size| size - FCS_LEN).to_vec(),
        }
    }

    pub(crate) fn len_max(self) -> u16 {
        self.lens().into_iter().max().unwrap_or_default()
    }

    /// The MTU a path needs.
    pub(crate) fn mtu(self) -> u16 {
        self.len_max() - super::frame::ETHERNET_LEN as u16
    }

    /// Bytes on a wire on average: with checksum, preamble and the gap between frames.
    pub(crate) fn wire_len(self) -> f64 {
        const PREAMBLE_AND_GAP_LEN: f64 = 20.0;
        let lens = self.lens();
        let sum: f64 = lens.iter().map(|len| f64::from(len + FCS_LEN) + PREAMBLE_AND_GAP_LEN).sum();
        sum / lens.len() as f64
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Sizes::Imix);
        }
        match text.parse() {
            Ok(size @ SIZE_MIN..=SIZE_MAX) => Ok(Sizes::One(size)),
            _ => Err(format!(
                "{text} is no size: {SIZE_MIN} to {SIZE_MAX} bytes (a wire's checksum included), or imix"
            )),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::One(size) => size.fmt(f),
            Sizes::Imix => f.write_str("imix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imix_is_seven_to_four_to_one() {
        let lens = Sizes::Imix.lens();
        let share = |len| lens.iter().filter(|l| **l == len).count();
        assert_eq!((share(60), share(566), share(1514), lens.len()), (7, 4, 1, 12));
        assert!((Sizes::Imix.wire_len() - 20.0 - 353.83).abs() < 0.01);
    }

    #[test]
    fn a_size_is_said_with_the_checksum_of_a_wire() {
        assert_eq!("64".parse::<Sizes>().unwrap().lens(), [60]);
        assert_eq!("1518".parse::<Sizes>().unwrap().mtu(), 1500);
        assert_eq!("9000".parse::<Sizes>().unwrap().mtu(), 8982);
        for wrong in ["63", "9201", "", "-1", "mix", "99999999999"] {
            assert!(wrong.parse::<Sizes>().is_err(), "{wrong}");
        }
    }
}
