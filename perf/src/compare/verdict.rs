//! From figures to ratios, and from ratios to verdicts: which of them mean something, and which targets they reach.

use super::memory::{self, OVS_DPDK_ACL};
use super::report::{Report, Row};
use super::work::{CONNECTS, P50, P50_FREE, P99, TCP, TCP_8, TCP_FREE, TCP_SHARE, UDP, UDP_SHARE};
use crate::figures::{Bound, Outcome, Verdict};
use crate::subjects::{BRIDGE, DIRECT, LOOP, OVS, REDIRECT, SHORTCUT, TESTPMD, USERSPACE};

/// How far from what is known a peer may be.
const TOLERANCE: f64 = 0.20;

/// What a peer gives beside the kernel's bridge when it is set up well, by the measurement that is judged and the one that is
/// known. How these came about is in docs/performance.md.
const KNOWN: [(&str, &str, f64); 5] = [
    (UDP, OVS, 1.29),
    (UDP, TESTPMD, 1.31),
    (TCP_FREE, REDIRECT, 38.1 / 33.5),
    (UDP, LOOP, 0.69 / 0.54),
    (TCP_FREE, OVS, 2.9 / 33.5),
];
/// And what OVS-DPDK with 1,000 ACLs gives beside DPDK's bare I/O of the same frames (23 Mpps), by flows.
const KNOWN_FROM_MEMORY: [(usize, f64); 3] =
    [(1_000, 4.4 / 23.0), (10_000, 2.9 / 23.0), (100_000, 1.9 / 23.0)];

/// Something measured of somebody.
type Figure = (String, &'static str);

struct Target {
    what: String,
    /// This figure divided by that one; by itself where there is none.
    of: Figure,
    to: Option<Figure>,
    bound: Bound,
    aim: Option<f64>,
}

/// Fills in ratios and verdicts.
pub(super) fn judge(report: &mut Report) {
    judge_peers(report);
    let verdicts = targets().into_iter().map(|target| verdict(report, target)).collect();
    report.verdicts = verdicts;
}

fn judge_peers(report: &mut Report) {
    let known = known();
    let snapshot = report.clone();
    for row in &mut report.rows {
        let is_ours = row.subject.starts_with("penstock");
        row.to_baseline = baseline(&row.measurement)
            .filter(|(_, subject)| *subject != row.subject)
            .and_then(|(measurement, subject)| Some((snapshot.median(&measurement, subject)?, subject)))
            .filter(|(baseline, _)| *baseline > 0.0)
            .map(|(baseline, subject)| (row.rounds.median / baseline, subject));
        // What is known of a peer's TCP with free CPUs says how it is set up, and that holds for all its TCP.
        // A loop is known by its frames.
        let judged_by = match row.measurement.as_str() {
            TCP | TCP_FREE | TCP_8 | P50 | P50_FREE | P99 | CONNECTS if row.subject == LOOP => UDP,
            TCP | TCP_8 | P50 | P50_FREE | P99 | CONNECTS => TCP_FREE,
            other => other,
        };
        let found = known.iter().find(|(figure, _)| figure.0 == judged_by && figure.1 == row.subject);
        if let Some((figure, known)) = found {
            let seen = snapshot.median(&figure.0, figure.1).zip(
                baseline(&figure.0).and_then(|(measurement, subject)| snapshot.median(&measurement, subject)),
            );
            if let Some((peer, baseline)) = seen {
                row.known = (judged_by == row.measurement).then_some(*known);
                row.is_comparable = is_plausible(peer / baseline, *known);
                if !row.is_comparable {
                    let why = format!(
                        "not comparable: {:.2} of the baseline, {known:.2} is known",
                        peer / baseline
                    );
                    row.note = [why, std::mem::take(&mut row.note)]
                        .into_iter()
                        .filter(|s| !s.is_empty())
                        .collect::<Vec<_>>()
                        .join("; ");
                }
            }
        }
        if !is_ours && row.is_comparable && row.rounds.median > 0.0 {
            let ours = snapshot
                .rows
                .iter()
                .filter(|ours| ours.measurement == row.measurement && ours.subject.starts_with("penstock"));
            let by_round = |ours: &Row| ours.rounds.by_round(&row.rounds).median;
            row.ratios = ours.map(|ours| (ours.subject.clone(), by_round(ours))).collect();
        }
    }
}

fn known() -> Vec<(Figure, f64)> {
    let between_pods = KNOWN.iter().map(|(what, who, known)| ((what.to_string(), *who), *known));
    let from_memory =
        KNOWN_FROM_MEMORY.iter().map(|(flows, known)| ((memory::cached(*flows), OVS_DPDK_ACL), *known));
    between_pods.chain(from_memory).collect()
}

/// What a measurement's rows are put beside to see whether they are plausible.
fn baseline(measurement: &str) -> Option<Figure> {
    match measurement {
        UDP | TCP | TCP_FREE | TCP_8 | P50 | P50_FREE | P99 | CONNECTS => {
            Some((measurement.to_owned(), BRIDGE))
        }
        UDP_SHARE | TCP_SHARE => None,
        _ => Some((measurement.to_owned(), memory::DPDK_BARE)),
    }
}

/// A peer far from what it is known to give is set up wrongly: a ratio to it would flatter us.
fn is_plausible(seen: f64, known: f64) -> bool {
    (seen / known - 1.0).abs() <= TOLERANCE
}

fn targets() -> Vec<Target> {
    let mut targets = Vec::new();
    let mut add = |of: (&str, &'static str), to: Option<(&str, &'static str)>, bound, aim| {
        let what = match to {
            Some((measurement, who)) if measurement == of.0 => format!("{measurement}: {} / {who}", of.1),
            Some((measurement, who)) => format!("{}: {} / {measurement}: {who}", of.0, of.1),
            None => format!("{}: {}", of.0, of.1),
        };
        let figure = |(measurement, who): (&str, &'static str)| (measurement.to_owned(), who);
        targets.push(Target { what, of: figure(of), to: to.map(figure), bound, aim });
    };
    use Bound::{AtLeast, AtMost};
    // As pods are attached; and on ports of the same kind as the peers have, on the same veths and cores.
    for ours in [USERSPACE, DIRECT] {
        for peer in [OVS, TESTPMD] {
            add((UDP, ours), Some((UDP, peer)), AtLeast(1.5), Some(2.0));
        }
    }
    add((UDP, SHORTCUT), Some((UDP, REDIRECT)), AtLeast(0.9), None);
    add((UDP, SHORTCUT), Some((UDP, BRIDGE)), AtLeast(1.5), None);
    add((TCP, SHORTCUT), Some((TCP, REDIRECT)), AtLeast(0.95), None);
    add((TCP, SHORTCUT), Some((TCP, BRIDGE)), AtLeast(1.15), None);
    add((TCP, SHORTCUT), Some((TCP, OVS)), AtLeast(5.0), None);
    add((TCP, USERSPACE), Some((TCP, OVS)), AtLeast(1.2), None);
    add((P50, USERSPACE), Some((P50, LOOP)), AtMost(1.1), Some(0.7));
    add((P50, USERSPACE), Some((P50, BRIDGE)), AtMost(1.0), Some(0.7));
    for flows in memory::FLOWS {
        let what = memory::cached(flows);
        add((&what, memory::OURS), Some((&what, OVS_DPDK_ACL)), AtLeast(4.0), None);
    }
    let [few, many] = [memory::cached(1_000), memory::cached(1_000_000)];
    add((&many, memory::OURS), Some((&few, memory::OURS)), AtLeast(0.5), None);
    add((memory::NEW, memory::OURS), Some((memory::NEW, OVS_DPDK_ACL)), AtLeast(4.0), None);
    add(
        (memory::CACHED_MANY_RULES, memory::OURS),
        Some((memory::CACHED_NO_RULES, memory::OURS)),
        AtLeast(0.95),
        None,
    );
    // What makes the figures above count.
    add((UDP_SHARE, SHORTCUT), None, AtLeast(0.95), None);
    add((UDP_SHARE, USERSPACE), None, AtMost(0.0), None);
    add((TCP_SHARE, SHORTCUT), None, AtLeast(0.95), None);
    add((TCP_SHARE, USERSPACE), None, AtMost(0.0), None);
    targets
}

fn verdict(report: &Report, target: Target) -> Verdict {
    let find = |(measurement, who): &Figure| report.row(measurement, who);
    let of = find(&target.of);
    let to = target.to.as_ref().map(find);
    let outcome = match (of, to) {
        (None, _) | (_, Some(None)) => Outcome::NotMeasured,
        (Some(_), Some(Some(to))) if !to.is_comparable => Outcome::NotComparable,
        (Some(of), to) => {
            let value = to.flatten().map_or_else(|| of.rounds.clone(), |to| of.rounds.by_round(&to.rounds));
            let verdict = Verdict::of(target.what, value.median, target.bound);
            return Verdict { aim: target.aim, within: value.median_within(), ..verdict };
        }
    };
    Verdict { what: target.what, target: target.bound, aim: target.aim, value: None, within: None, outcome }
}

#[cfg(test)]
mod tests {
    use super::super::seen::Seen;
    use super::*;

    fn judged(figures: &[(&str, &str, f64)]) -> Report {
        let mut seen = Seen::default();
        figures.iter().for_each(|(what, who, value)| seen.add(what, who, *value));
        let mut report = Report { rows: seen.rows(), verdicts: Vec::new() };
        judge(&mut report);
        report
    }

    fn outcome(report: &Report, what: &str) -> (Option<f64>, Outcome) {
        let verdict = report.verdicts.iter().find(|verdict| verdict.what == what).expect(what);
        (verdict.value, verdict.outcome)
    }

    #[test]
    fn a_peer_is_plausible_within_a_fifth() {
        assert!(is_plausible(0.85, 0.85) && is_plausible(0.70, 0.85) && is_plausible(1.0, 0.85));
        assert!(!is_plausible(0.66, 0.85) && !is_plausible(1.03, 0.85));
    }

    #[test]
    fn a_peer_that_is_set_up_wrongly_gets_no_ratio_and_no_verdict() {
        let with = |ovs| judged(&[(UDP, BRIDGE, 0.5), (UDP, USERSPACE, 1.0), (UDP, OVS, ovs)]);
        let what = format!("{UDP}: {USERSPACE} / {OVS}");
        let good = with(0.645);
        assert_eq!(outcome(&good, &what), (Some(1.0 / 0.645), Outcome::Reached));
        assert_eq!(good.row(UDP, OVS).unwrap().ratios[0].1, 1.0 / 0.645);
        let bad = with(0.4);
        assert_eq!(outcome(&bad, &what), (None, Outcome::NotComparable));
        assert!(bad.row(UDP, OVS).unwrap().ratios.is_empty());
        assert!(bad.row(UDP, OVS).unwrap().note.starts_with("not comparable: 0.80 of the baseline"));
    }

    #[test]
    fn all_of_a_peers_tcp_falls_with_what_is_known_of_it() {
        let tcp = |ovs_free| {
            judged(&[
                (TCP, USERSPACE, 5.0),
                (TCP, BRIDGE, 48.0),
                (TCP, OVS, 2.8),
                (TCP_FREE, BRIDGE, 33.5),
                (TCP_FREE, OVS, ovs_free),
            ])
        };
        let what = format!("{TCP}: {USERSPACE} / {OVS}");
        assert_eq!(outcome(&tcp(2.8), &what).1, Outcome::Reached);
        assert_eq!(outcome(&tcp(1.0), &what).1, Outcome::NotComparable);
    }

    #[test]
    fn latency_is_better_when_it_is_less() {
        let with = |ours| judged(&[(P50, USERSPACE, ours), (P50, BRIDGE, 60.0)]);
        let what = format!("{P50}: {USERSPACE} / {BRIDGE}");
        assert_eq!(outcome(&with(59.0), &what).1, Outcome::Reached);
        assert_eq!(outcome(&with(61.0), &what).1, Outcome::Missed);
    }

    #[test]
    fn what_was_not_measured_is_neither_reached_nor_missed() {
        let report = judged(&[(UDP, USERSPACE, 1.0)]);
        assert!(report.verdicts.iter().all(|verdict| verdict.outcome != Outcome::Missed));
        assert_eq!(outcome(&report, &format!("{UDP}: {USERSPACE} / {OVS}")), (None, Outcome::NotMeasured));
    }

    #[test]
    fn frames_past_userspace_are_nearly_all_with_the_shortcut_and_none_without() {
        let report = judged(&[(UDP_SHARE, SHORTCUT, 0.94), (UDP_SHARE, USERSPACE, 0.001)]);
        for who in [SHORTCUT, USERSPACE] {
            assert_eq!(outcome(&report, &format!("{UDP_SHARE}: {who}")).1, Outcome::Missed);
        }
        let report = judged(&[(UDP_SHARE, SHORTCUT, 0.95), (UDP_SHARE, USERSPACE, 0.0)]);
        for who in [SHORTCUT, USERSPACE] {
            assert_eq!(outcome(&report, &format!("{UDP_SHARE}: {who}")).1, Outcome::Reached);
        }
    }

    #[test]
    fn from_memory_the_baseline_is_bare_io_of_the_same_frames() {
        let what = memory::cached(1_000);
        let with = |ovs| {
            judged(&[
                (&what, memory::OURS, 20.0),
                (&what, OVS_DPDK_ACL, ovs),
                (&what, memory::DPDK_BARE, 23.0),
            ])
        };
        let target = format!("{what}: {} / {OVS_DPDK_ACL}", memory::OURS);
        assert_eq!(outcome(&with(4.4), &target).1, Outcome::Reached);
        assert_eq!(outcome(&with(2.0), &target).1, Outcome::NotComparable);
    }
}
