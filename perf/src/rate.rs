//! A rate as people say it: `1.5M`, `800k`, `250000` frames a second, or `50%` of what a link carries.

use crate::load::size::Sizes;
use std::str::FromStr;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    FramesPerSecond(f64),
    /// Of the link, from 0 to 1.
    Share(f64),
}

impl Rate {
    pub(crate) fn pps(self, sizes: Sizes, link_gbps: f64) -> f64 {
        match self {
            Rate::FramesPerSecond(pps) => pps,
            Rate::Share(share) => share * link_gbps * 1e9 / 8.0 / sizes.wire_len(),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, factor) = match text.strip_suffix(['k', 'K', 'm', 'M', '%']) {
            Some(number) if text.ends_with(['k', 'K']) => (number, 1e3),
            Some(number) if text.ends_with(['m', 'M']) => (number, 1e6),
            Some(number) => (number, 0.01),
            None => (text, 1.0),
        };
        match number.trim().parse::<f64>() {
            Ok(number) if number.is_finite() && number > 0.0 => Ok(match text.ends_with('%') {
                true => Rate::Share(number * factor),
                false => Rate::FramesPerSecond(number * factor),
            }),
            _ => Err(format!("{text} is no rate: 250000, 800k, 1.5M (frames a second) or 50% (of the link)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, rate) in [
            ("250000", Rate::FramesPerSecond(250_000.0)),
            ("800k", Rate::FramesPerSecond(800_000.0)),
            ("1.5M", Rate::FramesPerSecond(1_500_000.0)),
            ("50%", Rate::Share(0.5)),
        ] {
            assert_eq!(text.parse::<Rate>().unwrap(), rate);
        }
        for wrong in ["", "k", "-1", "0", "fast", "1G", "inf", "nan%"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_of_ten_gigabits_is_14_88_million_of_the_smallest_frames() {
        let pps = Rate::Share(1.0).pps(Sizes::One(64), 10.0);
        assert!((pps / 14_880_952.0 - 1.0).abs() < 1e-6, "{pps}");
    }
}
