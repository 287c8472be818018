//! One trial: a stream for a time, a wait until the last frame is through, and what became of every frame.

use super::sink::{Counts, Sink, Watch};
use super::{Generator, Kind, Sent, Source, Stream};
use crate::interrupt;
use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use penstock_net::Netns;
use std::thread;
use std::time::{Duration, Instant};

/// The receiver's count stands still for so long: nothing is under way any more.
const QUIET: Duration = Duration::from_millis(60);
const TICK: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Trial {
    pub(crate) kind: Kind,
    pub(crate) stream: Stream,
    pub(crate) duration: Duration,
    /// For how long the last frames may be under way.
    pub(crate) drain_max: Duration,
    pub(crate) words: u32,
    /// Gaps and latencies at the sink.
    pub(crate) times: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) sent: Sent,
    pub(crate) counts: Counts,
    /// See [`Sink::gaps`]; empty unless asked for.
    pub(crate) gaps: Vec<u64>,
    /// In ns; empty unless asked for.
    pub(crate) latencies: Histogram<u64>,
}

impl Outcome {
    /// Of all that were sent, those that did not come as they were sent.
    pub(crate) fn lost(&self) -> u64 {
        self.sent.frames.saturating_sub(self.counts.good())
    }

    pub(crate) fn loss(&self) -> f64 {
        self.lost() as f64 / self.sent.frames.max(1) as f64
    }
}

impl Trial {
    pub(crate) fn run(&self, source: &Source<'_>, to: (&Netns, &str)) -> Result<Outcome> {
        let watch = Watch { flows: self.stream.flows, words: self.words, times: self.times };
        let sink = Sink::attach(to.0, to.1, &watch)?;
        let generator = Generator::start(self.kind, source, &self.stream)?;
        let began = Instant::now();
        while began.elapsed() < self.duration && generator.is_running() && !interrupt::is_wanted() {
            if generator.sent()?.frames >= self.stream.frames_max.unwrap_or(u64::MAX) {
                break;
            }
            thread::sleep(TICK.min(self.duration.saturating_sub(began.elapsed())));
        }
        let sent = generator.stop()?;
        interrupt::check()?;
        let counts = self.drain(&sink, &sent)?;
        if sent.frames == 0 {
            bail!("the generator sent nothing in {:?}", self.duration);
        }
        if counts.good() > sent.frames {
            bail!("{} frames arrived of {} that were sent", counts.good(), sent.frames);
        }
        let (gaps, latencies) = match self.times {
            true => (sink.gaps()?, sink.latencies()?),
            false => (vec![], Histogram::new(3)?),
        };
        Ok(Outcome { sent, counts, gaps, latencies })
    }

    fn drain(&self, sink: &Sink, sent: &Sent) -> Result<Counts> {
        let began = Instant::now();
        let (mut counts, mut changed) = (sink.counts()?, Instant::now());
        while counts.frames < sent.frames && began.elapsed() < self.drain_max && changed.elapsed() < QUIET {
            thread::sleep(TICK);
            let now = sink.counts()?;
            if now.frames != counts.frames {
                (counts, changed) = (now, Instant::now());
            }
        }
        Ok(counts)
    }
}
