//! Where the two are known to differ, each with a reason in `docs/policy-differences.md`.
//!
//! A row does not say "do not look here". It rewrites the world so that the difference it speaks of is gone, for the reading
//! of one side, and asks again: only if both then say the same was that difference the whole reason.

use crate::engine::Engine;
use crate::ours::{Reading, agree};
use crate::rewrite::*;
use penstock_oracle::{Flow, Naive, Place, World};

pub(crate) struct Row {
    /// As in the document.
    pub(crate) name: &'static str,
    /// For which peers it can matter at all.
    matters: fn(Place<'_>) -> bool,
    /// The world in which our reading is what Cilium's is of the real one.
    for_ours: Option<fn(&mut World)>,
    /// The world in which Cilium's reading is what ours is of the real one.
    for_theirs: Option<fn(&mut World)>,
}

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "ipblock-in-cluster",
        matters: in_cluster,
        for_ours: Some(without_ip_blocks),
        for_theirs: None,
    },
    Row {
        name: "policy-types",
        matters: anyone,
        for_ours: None,
        for_theirs: Some(without_unlisted_directions),
    },
    Row { name: "pods-only", matters: no_pod, for_ours: None, for_theirs: Some(selectors_of_pods) },
    Row {
        name: "foreign-subject",
        matters: anyone,
        for_ours: None,
        for_theirs: Some(with_subjects_in_both_namespaces),
    },
    Row { name: "key-twice", matters: anyone, for_ours: None, for_theirs: Some(with_both_labels_of_a_key) },
    Row {
        name: "default-deny-alone",
        matters: anyone,
        for_ours: None,
        for_theirs: Some(with_rules_for_default_deny),
    },
    Row {
        name: "unknown-service",
        matters: anyone,
        for_ours: None,
        for_theirs: Some(with_a_service_nobody_offers),
    },
    Row {
        name: "service-denied",
        matters: anyone,
        for_ours: Some(without_services_in_denials),
        for_theirs: None,
    },
    Row {
        name: "dotted-service-key",
        matters: anyone,
        for_ours: None,
        for_theirs: Some(with_keys_of_any_source),
    },
    Row { name: "group-selector", matters: anyone, for_ours: None, for_theirs: Some(with_groups_by_name) },
    Row {
        name: "reserved-world",
        matters: outside,
        for_ours: None,
        for_theirs: Some(with_worlds_of_both_families),
    },
    Row {
        name: "api-server-here",
        matters: host,
        for_ours: Some(with_the_whole_host_as_api_server),
        for_theirs: None,
    },
    Row { name: "not-enforced", matters: anyone, for_ours: None, for_theirs: Some(without_unenforced_rules) },
];

fn anyone(_: Place<'_>) -> bool {
    true
}

fn in_cluster(peer: Place<'_>) -> bool {
    peer != Place::Outside
}

fn host(peer: Place<'_>) -> bool {
    peer == Place::Host
}

fn outside(peer: Place<'_>) -> bool {
    peer == Place::Outside
}

fn no_pod(peer: Place<'_>) -> bool {
    !matches!(peer, Place::Pod(_))
}

/// One end of one flow the two differ about: 0 is egress, 1 ingress.
pub(crate) type Difference = (Flow, usize);

/// The rows that together are the whole difference between the two answers: one if one will do, else two, else three. What
/// is left is not explained.
pub(crate) fn explain(
    world: &World,
    mut differences: Vec<Difference>,
    reading: Reading,
    engine: &mut Engine,
) -> (Vec<(Difference, Vec<&'static str>)>, Vec<Difference>) {
    // Only those that change something here.
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.changes(world)).collect();
    let all = 0..rows.len();
    let ones = all.clone().map(|a| vec![rows[a]]);
    let twos = all.clone().flat_map(|b| (0..b).map(move |a| (a, b))).map(|(a, b)| vec![rows[a], rows[b]]);
    let threes = all
        .flat_map(|c| (0..c).flat_map(move |b| (0..b).map(move |a| (a, b, c))))
        .map(|(a, b, c)| vec![rows[a], rows[b], rows[c]]);
    let naive = Naive::new(world);
    let mut explained = Vec::new();
    for rows in ones.chain(twos).chain(threes) {
        let is_relevant = |(flow, end): &Difference| {
            let peer = naive.place(if *end == 0 { flow.to } else { flow.from });
            rows.iter().all(|row| (row.matters)(peer))
        };
        let (relevant, others): (Vec<_>, Vec<_>) = differences.into_iter().partition(is_relevant);
        let (same, still) = agreed_under(&rows, world, relevant, reading, engine);
        explained.extend(same.into_iter().map(|same| (same, rows.iter().map(|row| row.name).collect())));
        differences = others;
        differences.extend(still);
        if differences.is_empty() {
            break;
        }
    }
    (explained, differences)
}

/// Those about which the two agree when the worlds are rewritten, and those about which they still do not.
fn agreed_under(
    rows: &[&Row],
    world: &World,
    differences: Vec<Difference>,
    reading: Reading,
    engine: &mut Engine,
) -> (Vec<Difference>, Vec<Difference>) {
    if differences.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let rewritten = |rewrites: Vec<fn(&mut World)>| {
        let mut world = world.clone();
        rewrites.iter().for_each(|rewrite| rewrite(&mut world));
        world
    };
    let for_ours = rewritten(rows.iter().filter_map(|row| row.for_ours).collect());
    let for_theirs = rewritten(rows.iter().filter_map(|row| row.for_theirs).collect());
    let flows: Vec<Flow> = differences.iter().map(|(flow, _)| *flow).collect();
    let (Ok(ours), Some(theirs)) = (reading.read(&for_ours), engine.answers(&for_theirs, &flows)) else {
        return (Vec::new(), differences);
    };
    let mut answers = theirs.into_iter();
    differences.into_iter().partition(|(flow, end)| {
        answers.next().is_some_and(|theirs| agree(ours.answer(*flow)[*end], theirs[*end]))
    })
}

impl Row {
    fn changes(&self, world: &World) -> bool {
        [self.for_ours, self.for_theirs].into_iter().flatten().any(|rewrite| {
            let mut rewritten = world.clone();
            rewrite(&mut rewritten);
            rewritten != *world
        })
    }
}
