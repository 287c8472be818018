//! Does one rule cover another? Answered from what the rules say alone, whatever pods there are: "yes" is always true, "no"
//! may be for want of cleverness.

use crate::compile::rule::{Block, PeerSet, Peers, Port, Ports, Reach, Rule, Selector};
use crate::objects::{LabelSelector, Operator, Requirement};

/// Everything `inner` matches, `outer` matches.
pub(super) fn covers(outer: &Rule, inner: &Rule) -> bool {
    peers(&outer.peers, &inner.peers) && ports(&outer.ports, &inner.ports)
}

/// Every pod that `inner` selects, `outer` selects.
pub(super) fn selects_all_of(outer: &Selector, inner: &Selector) -> bool {
    labels(&outer.pod, &inner.pod)
        && labels(&outer.namespace, &inner.namespace)
        && labels(&outer.place, &inner.place)
}

fn peers(outer: &Peers, inner: &Peers) -> bool {
    match (outer, inner) {
        (Peers::Any, _) => true,
        (Peers::Some(_), Peers::Any) => false,
        (Peers::Some(outer), Peers::Some(inner)) => set(outer, inner),
    }
}

fn set(outer: &PeerSet, inner: &PeerSet) -> bool {
    inner.selectors.iter().all(|inner| outer.selectors.iter().any(|outer| selects_all_of(outer, inner)))
        && inner.blocks.iter().all(|inner| outer.blocks.iter().any(|outer| block(outer, inner)))
}

fn block(outer: &Block, inner: &Block) -> bool {
    let reaches = outer.reach == inner.reach || outer.reach == Reach::Everyone;
    let is_left_out = |hole: &ipnet::IpNet| {
        // A hole in the outer one does no harm where the inner one has nothing, or a hole as large.
        let apart = !hole.contains(&inner.cidr) && !inner.cidr.contains(hole);
        apart || inner.except.iter().any(|except| except.contains(hole))
    };
    reaches && outer.cidr.contains(&inner.cidr) && outer.except.iter().all(is_left_out)
}

pub(super) fn ports(outer: &Ports, inner: &Ports) -> bool {
    match (outer, inner) {
        (Ports::Any, _) => true,
        (Ports::Some(_), Ports::Any) => false,
        (Ports::Some(outer), Ports::Some(inner)) => {
            inner.iter().all(|inner| outer.iter().any(|outer| port(outer, inner)))
        }
    }
}

fn port(outer: &Port, inner: &Port) -> bool {
    match (outer, inner) {
        (Port::All(outer), Port::All(inner)) => outer == inner,
        (Port::All(outer), Port::Range { protocol, .. }) => outer == protocol,
        (Port::All(outer), Port::Named(name)) => *outer == name.protocol,
        (
            Port::Range { protocol, first, last },
            Port::Range { protocol: of_inner, first: inner_first, last: inner_last },
        ) => protocol == of_inner && first <= inner_first && inner_last <= last,
        (outer, inner) => outer == inner,
    }
}

/// Whatever `inner` is true of, `outer` is true of: each of its requirements follows from one of inner's.
fn labels(outer: &LabelSelector, inner: &LabelSelector) -> bool {
    outer.requirements.iter().all(|wanted| inner.requirements.iter().any(|given| follows(given, wanted)))
}

fn follows(given: &Requirement, wanted: &Requirement) -> bool {
    if given.key != wanted.key {
        return false;
    }
    let is_wanted = |value: &String| wanted.values.contains(value);
    match (given.operator, wanted.operator) {
        (Operator::In, Operator::In) => given.values.iter().all(is_wanted),
        (Operator::In, Operator::NotIn) => !given.values.iter().any(is_wanted),
        (Operator::In | Operator::Exists, Operator::Exists) => true,
        (Operator::NotIn, Operator::NotIn) => wanted.values.iter().all(|value| given.values.contains(value)),
        (Operator::DoesNotExist, Operator::DoesNotExist | Operator::NotIn) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeMap;

    /// Everything that can be asked of two label keys with two values, against every set of labels there can be.
    #[test]
    fn what_is_covered_is_selected() {
        let seed =
            std::env::var("PENSTOCK_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
        println!("PENSTOCK_SEED={seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let mut all = Vec::new();
        for a in ["", "1", "2", "3"] {
            for b in ["", "1", "2", "3"] {
                let labels = [("a", a), ("b", b)].into_iter().filter(|(_, value)| !value.is_empty());
                all.push(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect::<BTreeMap<_, _>>());
            }
        }
        let selector = |random: &mut SmallRng| LabelSelector {
            requirements: (0..random.random_range(0..3))
                .map(|_| {
                    let operator = [Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]
                        [random.random_range(0..4)];
                    let values = match operator {
                        Operator::In | Operator::NotIn => {
                            let from = random.random_range(1..3);
                            (from..=random.random_range(from..3)).map(|n| n.to_string()).collect()
                        }
                        _ => Vec::new(),
                    };
                    Requirement { key: ["a", "b"][random.random_range(0..2)].to_owned(), operator, values }
                })
                .collect(),
        };
        let mut covered = 0;
        for _ in 0..50_000 {
            let (outer, inner) = (selector(&mut random), selector(&mut random));
            if labels(&outer, &inner) {
                covered += 1;
                for set in &all {
                    assert!(!inner.matches(set) || outer.matches(set), "{outer:?} {inner:?} {set:?}");
                }
            }
        }
        assert!(covered > 5_000, "{covered}");
    }

    #[test]
    fn a_hole_counts_where_the_inner_block_has_something() {
        let block = |cidr: &str, except: &[&str]| Block {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|e| e.parse().unwrap()).collect(),
            reach: Reach::Everyone,
        };
        let outer = block("10.0.0.0/8", &["10.1.0.0/16"]);
        assert!(super::block(&outer, &block("10.2.0.0/16", &[])));
        assert!(super::block(&outer, &block("10.0.0.0/8", &["10.0.0.0/15"])));
        assert!(!super::block(&outer, &block("10.0.0.0/8", &[])));
        assert!(!super::block(&outer, &block("10.1.2.0/24", &[])));
        assert!(!super::block(&outer, &block("11.0.0.0/8", &[])));
        assert!(!super::block(
            &Block { reach: Reach::Outsiders, ..outer.clone() },
            &block("10.2.0.0/16", &[])
        ));
    }
}
