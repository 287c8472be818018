//! The whole pipeline on memory ports, connection tracking on: known flows, and a new flow with every frame, with no policy and
//! with many rules, in turns on one and the same pipeline.

use super::beside;
use crate::engine::{self, Kind};
use crate::figures::{Bound, Document, Figure};
use crate::progress::Progress;
use anyhow::Result;

const RULES: usize = 10_000;
const KNOWN_FLOWS: usize = 1_000;
const NEW_FLOWS: usize = 100_000;
/// Of one round.
const FRAMES: u64 = 1_000_000;

pub(super) fn measure(rounds: usize, document: &mut Document, progress: &mut Progress) -> Result<()> {
    let policies = engine::policies(&[0, RULES])?;
    let cases = [
        (Kind::Hit, KNOWN_FLOWS, "1,000 cached flows", Some(Bound::AtLeast(0.95))),
        (Kind::New, NEW_FLOWS, "a new flow with every frame", None),
    ];
    for (kind, flows, frames, bound) in cases {
        let mut bench = engine::prepare(kind, flows, &policies)?;
        // Once for nothing: memory is touched.
        bench.measure(FRAMES)?;
        let mut turns = [(RULES, Vec::new()), (0, Vec::new())];
        for _ in 0..rounds {
            progress.step("forwarding from memory")?;
            for (rules, rates) in &mut turns {
                bench.rule(*rules)?;
                rates.push(bench.measure(FRAMES)?);
            }
        }
        let name = format!("pipeline on memory, {frames}");
        let figures = turns.map(|(rules, rates)| Figure::of(&*name, "Mpps", rates).at("rules", rules));
        beside(document, figures, bound);
    }
    Ok(())
}
