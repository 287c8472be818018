//! Classification alone: the switch's pipeline and OVS-DPDK, each with the same frames from memory, on one core, in turns.
//!
//! Both sides copy each frame in, and both are measured with nothing between reception and transmission too, so that the
//! source's part is known. New flows: OVS reads frames that never repeat from a file the kernel has in memory, because DPDK's
//! endless capture repeats; that costs it some 0.1 us a frame.

use super::Arguments;
use super::seen::Seen;
use crate::engine::{self, Bench, Case, Kind};
use crate::figures::{Account, Document};
use crate::interrupt;
use crate::placement::{LOAD_CPU, WORKER_CPU, on_cpu};
use crate::progress::Progress;
use crate::subjects::ovs_dpdk::{self, OvsDpdk, Rules};
use crate::subjects::{child, ground, testpmd};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

pub(super) const OURS: &str = "penstock engine";
pub(super) const OURS_BARE: &str = "bare memory ports";
pub(super) const OVS_DPDK: &str = "OVS-DPDK";
pub(super) const OVS_DPDK_ACL: &str = "OVS-DPDK, ct and 1,000 ACLs";
pub(super) const DPDK_BARE: &str = "testpmd io, bare";

pub(super) const NEW: &str = "from memory, every frame a new flow, conntrack, 1,000 rules, Mpps";
pub(super) const CACHED_MANY_RULES: &str = "from memory, 1,000 flows, 10,000 rules, Mpps";
pub(super) const CACHED_NO_RULES: &str = "from memory, 1,000 flows, no rules, Mpps";
const NEW_MANY_RULES: &str = "from memory, every frame a new flow, conntrack, 10,000 rules, Mpps";
const NEW_NO_RULES: &str = "from memory, every frame a new flow, conntrack, no rules, Mpps";
/// Those that OVS's memory for frames holds.
pub(super) const FLOWS: [usize; 3] = [1_000, 10_000, 100_000];
const MANY_FLOWS: usize = 1_000_000;
const RULES: usize = 1_000;
const MANY_RULES: usize = 10_000;
const NEW_FLOWS: usize = 100_000;
/// Read once: enough for a second and more, of which setting up the port costs some.
const OVS_NEW_FLOWS: usize = 1_000_000;
const FRAMES: u64 = 2_000_000;

/// The measurement with so many flows, all of them known.
pub(super) fn cached(flows: usize) -> String {
    let thousands = match flows {
        1_000_000.. => format!("{},000,000", flows / 1_000_000),
        _ => format!("{},000", flows / 1_000),
    };
    format!("from memory, {thousands} flows, conntrack, 1,000 rules, Mpps")
}

/// One of our pipelines, and what is measured on it in turns: rules, and the name.
struct Pipeline {
    kind: Kind,
    flows: usize,
    turns: Vec<(usize, String)>,
}

fn pipelines() -> Vec<Pipeline> {
    let hit = |flows| Pipeline { kind: Kind::Hit, flows, turns: vec![(RULES, cached(flows))] };
    let [mut few, more, many] = FLOWS.map(hit);
    few.turns.extend([(0, CACHED_NO_RULES.to_owned()), (MANY_RULES, CACHED_MANY_RULES.to_owned())]);
    let new = [(RULES, NEW), (0, NEW_NO_RULES), (MANY_RULES, NEW_MANY_RULES)];
    let turns = new.map(|(rules, name)| (rules, name.to_owned())).into();
    vec![few, more, many, hit(MANY_FLOWS), Pipeline { kind: Kind::New, flows: NEW_FLOWS, turns }]
}

/// Ours: what is measured under which name.
fn cases() -> Vec<(String, Case)> {
    let of_pipeline = |Pipeline { kind, flows, turns }| {
        turns.into_iter().map(move |(rules, name)| (name, Case { kind, flows, rules }))
    };
    pipelines().into_iter().flat_map(of_pipeline).collect()
}

/// What a measurement is of, if it is one from memory.
pub(super) fn case(measurement: &str) -> Option<Case> {
    cases().into_iter().find(|(name, _)| name == measurement).map(|(_, case)| case)
}

/// Steps of [`measure`].
pub(super) fn steps(arguments: &Arguments) -> usize {
    let sides = ["engine", "ovs-dpdk"].into_iter().filter(|name| arguments.wants(name)).count();
    sides * (1 + arguments.rounds.max(1))
}

pub(super) fn measure(
    arguments: &Arguments,
    seen: &mut Seen,
    document: &mut Document,
    progress: &mut Progress,
) -> Result<()> {
    let frames = if arguments.smoke { 20_000 } else { FRAMES };
    let mut ours = Vec::new();
    if arguments.wants("engine") {
        progress.step(&format!("setting up {OURS}"))?;
        let policies = engine::policies(&[RULES, 0, MANY_RULES])?;
        for Pipeline { kind, flows, turns } in pipelines() {
            if arguments.smoke && flows > 1_000 && kind == Kind::Hit {
                continue;
            }
            ours.push((engine::prepare(kind, flows, &policies)?, turns));
        }
        let is = [
            (
                OURS,
                "the whole pipeline of one worker between memory ports that copy each frame in; each end under a policy of as many rules as said",
            ),
            (OURS_BARE, "those memory ports, and nothing between them"),
        ];
        is.into_iter()
            .for_each(|(who, is)| document.add_subject(account(who, env!("CARGO_PKG_VERSION"), is)));
    }
    let mut peer = None;
    if arguments.wants("ovs-dpdk") {
        progress.step(&format!("setting up {OVS_DPDK}"))?;
        match Peer::make(arguments.smoke) {
            Ok(made) => {
                made.accounts().into_iter().for_each(|account| document.add_subject(account));
                peer = Some(made);
            }
            Err(error) => {
                progress.say(&format!("{OVS_DPDK} is skipped: {error:#}"));
                document.skip(OVS_DPDK, format!("{error:#}"));
            }
        }
        document.skip(
            format!("{OVS_DPDK} with {MANY_FLOWS} flows"),
            format!(
                "OVS holds at most 262,144 frames, and the capture's are among them: {} flows are the most",
                ovs_dpdk::FLOWS_MAX
            ),
        );
    }
    for round in 1..=arguments.rounds.max(1) {
        let said = format!("round {round}/{}: from memory", arguments.rounds);
        if !ours.is_empty() {
            progress.step(&format!("{said}: {OURS}"))?;
            measure_ours(&mut ours, frames, arguments.smoke, seen)?;
        }
        if let Some(made) = &mut peer {
            progress.step(&format!("{said}: {OVS_DPDK}"))?;
            // A peer that fails is a peer less.
            if let Err(error) = made.turn(seen) {
                interrupt::check()?;
                progress.say(&format!("{OVS_DPDK} is left out from here: {error:#}"));
                document.skip(OVS_DPDK, format!("failed in round {round}: {error:#}"));
                peer = None;
            }
        }
        progress.say(&said);
    }
    Ok(())
}

fn account(subject: &str, version: &str, is: &str) -> Account {
    Account { subject: subject.to_owned(), version: version.to_owned(), is: is.to_owned() }
}

fn flows(is_smoke: bool) -> &'static [usize] {
    if is_smoke { &FLOWS[..1] } else { &FLOWS }
}

/// A pipeline and its turns, as in [`Pipeline`].
type Turns = (Bench, Vec<(usize, String)>);

fn measure_ours(benches: &mut [Turns], frames: u64, is_smoke: bool, seen: &mut Seen) -> Result<()> {
    on_cpu(WORKER_CPU, || {
        for (bench, turns) in benches.iter_mut() {
            for (rules, name) in turns {
                bench.rule(*rules).with_context(|| name.clone())?;
                let rate = bench.measure(frames).with_context(|| name.clone())?;
                seen.add(name, OURS, rate);
            }
        }
        for flows in flows(is_smoke) {
            seen.add(&cached(*flows), OURS_BARE, engine::bare(*flows, frames)?);
        }
        Ok(())
    })
}

/// OVS-DPDK, and the captures it reads.
struct Peer {
    ovs: OvsDpdk,
    captures: Vec<(usize, PathBuf)>,
    new: PathBuf,
    duration: Duration,
    _dir: TempDir,
}

impl Peer {
    fn make(is_smoke: bool) -> Result<Peer> {
        let dir = ground::directory("captures")?;
        let captures = flows(is_smoke)
            .iter()
            .map(|flows| Ok((*flows, ovs_dpdk::write_capture(dir.path(), *flows)?)))
            .collect::<Result<_>>()?;
        let new = ovs_dpdk::write_capture(dir.path(), OVS_NEW_FLOWS)?;
        let ovs = OvsDpdk::make(WORKER_CPU, LOAD_CPU)?;
        child::favour(ovs.process());
        child::set_running(ovs.process(), false)?;
        let duration = Duration::from_millis(if is_smoke { 100 } else { 1000 });
        Ok(Peer { ovs, captures, new, duration, _dir: dir })
    }

    fn accounts(&self) -> [Account; 3] {
        let (version, ovs) = (self.ovs.version(), self.ovs.describe());
        let of_ovs = |subject: &str, rules: &str| account(subject, &version, &format!("{ovs}; {rules}"));
        let bare = "io: net_pcap to net_null, the same captures, nobody looks at a frame";
        [
            of_ovs(OVS_DPDK, "one rule, in to out"),
            of_ovs(OVS_DPDK_ACL, "ct, then a rule for new and one for established to each of 1,000 ports"),
            account(DPDK_BARE, &testpmd::version().unwrap_or_default(), bare),
        ]
    }

    fn turn(&mut self, seen: &mut Seen) -> Result<()> {
        child::set_running(self.ovs.process(), true)?;
        let acl = Rules::Acl(RULES);
        for (rules, who) in [(Rules::None, OVS_DPDK), (acl, OVS_DPDK_ACL)] {
            for (flows, capture) in &self.captures {
                interrupt::check()?;
                let rate = self
                    .ovs
                    .cached(capture, rules, self.duration)
                    .with_context(|| format!("{who}, {flows} flows"))?;
                seen.add(&cached(*flows), who, rate);
            }
        }
        interrupt::check()?;
        let rate = self.ovs.new_flows(&self.new, OVS_NEW_FLOWS as u64, acl).context("OVS-DPDK, new flows")?;
        seen.add(NEW, OVS_DPDK_ACL, rate);
        child::set_running(self.ovs.process(), false)?;
        for (flows, capture) in &self.captures {
            interrupt::check()?;
            let rate = testpmd::capture_to_nowhere(capture, WORKER_CPU, LOAD_CPU)?;
            seen.add(&cached(*flows), DPDK_BARE, rate);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_named_as_people_write_numbers() {
        assert_eq!(cached(10_000), "from memory, 10,000 flows, conntrack, 1,000 rules, Mpps");
        assert_eq!(cached(1_000_000), "from memory, 1,000,000 flows, conntrack, 1,000 rules, Mpps");
    }

    #[test]
    fn no_two_cases_have_one_name() {
        let names: std::collections::BTreeSet<_> = cases().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), cases().len());
    }
}
