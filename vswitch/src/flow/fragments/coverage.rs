//! Which bytes of a datagram have come.

/// Pieces remembered one by one: 64 KB at the smallest MTU of IPv6 are 54.
const RANGES_MAX: usize = 64;

/// Which bytes have come, as ranges sorted by offset that never overlap.
#[derive(Clone, Debug)]
pub(super) struct Coverage {
    ranges: [(u16, u16); RANGES_MAX],
    count: u8,
    pub(super) bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    New,
    /// Exactly this piece has come before.
    Again,
    Overlap,
    /// More pieces, with gaps between them, than any honest sender makes.
    TooMany,
}

impl Coverage {
    pub(super) const EMPTY: Coverage = Coverage { ranges: [(0, 0); RANGES_MAX], count: 0, bytes: 0 };

    /// Adds `start .. end`.
    pub(super) fn add(&mut self, start: u16, end: u16) -> Fit {
        let ranges = &self.ranges[..usize::from(self.count)];
        let at = ranges.partition_point(|range| range.0 < start);
        if ranges.get(at) == Some(&(start, end)) {
            return Fit::Again;
        }
        if ranges.get(at).is_some_and(|after| after.0 < end) || (at > 0 && ranges[at - 1].1 > start) {
            return Fit::Overlap;
        }
        if usize::from(self.count) == RANGES_MAX {
            self.merge();
            if usize::from(self.count) == RANGES_MAX {
                return Fit::TooMany;
            }
            return self.add(start, end);
        }
        let count = usize::from(self.count);
        self.ranges.copy_within(at..count, at + 1);
        self.ranges[at] = (start, end);
        self.count += 1;
        self.bytes += u32::from(end - start);
        Fit::New
    }

    /// Joins neighbours. Repetitions of what was joined then look like overlaps: the price of tiny pieces.
    fn merge(&mut self) {
        let mut kept = 0;
        for index in 1..usize::from(self.count) {
            let range = self.ranges[index];
            if self.ranges[kept].1 == range.0 {
                self.ranges[kept].1 = range.1;
            } else {
                kept += 1;
                self.ranges[kept] = range;
            }
        }
        self.count = kept as u8 + 1;
    }

    pub(super) fn last_end(&self) -> u16 {
        match self.count {
            0 => 0,
            count => self.ranges[usize::from(count) - 1].1,
        }
    }
}
