//! Figures beside each other, and whether that is as much as was asked for.

use serde::Serialize;

/// One figure divided by another of the same run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ratio {
    /// Which figures.
    pub(crate) what: String,
    /// Whose.
    pub(crate) of: String,
    pub(crate) to: String,
    pub(crate) value: f64,
    /// What it is known to be, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) known: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        }
    }

    pub(crate) fn words(self) -> String {
        match self {
            Bound::AtLeast(bound) => format!("at least {bound:.2}"),
            Bound::AtMost(bound) => format!("at most {bound:.2}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Reached,
    Missed,
    /// One of the two was not measured in this run.
    NotMeasured,
    /// The peer is not what it is known to be: it has to be mended first.
    NotComparable,
}

/// A target, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verdict {
    pub(crate) what: String,
    pub(crate) target: Bound,
    /// What is hoped for beyond the target.
    pub(crate) aim: Option<f64>,
    pub(crate) value: Option<f64>,
    /// Where the value would lie, 19 times in 20, had there been no end of rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) within: Option<[f64; 2]>,
    pub(crate) outcome: Outcome,
}

impl Verdict {
    /// Of something that was measured.
    pub(crate) fn of(what: impl Into<String>, value: f64, target: Bound) -> Verdict {
        let outcome = match value.is_finite() {
            true if target.holds(value) => Outcome::Reached,
            true => Outcome::Missed,
            false => Outcome::NotMeasured,
        };
        let value = Some(value).filter(|value| value.is_finite());
        Verdict { what: what.into(), target, aim: None, value, within: None, outcome }
    }

    pub(crate) fn is_missed(&self) -> bool {
        self.outcome == Outcome::Missed
    }

    pub(crate) fn words(&self) -> String {
        let target = self.target.words();
        let within = self.within.map_or_else(String::new, |[from, to]| format!(" ({from:.2}-{to:.2})"));
        let value = self.value.map_or_else(String::new, |value| format!("{value:.2}{within}, "));
        match self.outcome {
            Outcome::Reached => format!("{value}{target}: reached"),
            Outcome::Missed => format!("{value}{target}: missed"),
            Outcome::NotMeasured => format!("{target}: not measured"),
            Outcome::NotComparable => {
                format!("{target}: the peer is not what it is known to be, no ratio")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_holds_on_its_own_side_and_at_its_edge() {
        assert!(Bound::AtLeast(1.5).holds(1.5) && !Bound::AtLeast(1.5).holds(1.49));
        assert!(Bound::AtMost(1.1).holds(1.1) && !Bound::AtMost(1.1).holds(1.11));
    }

    #[test]
    fn what_is_no_number_was_not_measured() {
        assert_eq!(Verdict::of("x", f64::NAN, Bound::AtMost(1.0)).outcome, Outcome::NotMeasured);
        assert_eq!(Verdict::of("x", 2.0, Bound::AtMost(1.0)).outcome, Outcome::Missed);
    }
}
