//! Which parts of which policies speak of a local pod.

use super::rule::{Part, Policy};
use super::state::State;
use crate::objects::{ObjectKey, Pod};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// A part of a policy, by where it stands among all of them: the order is that of the policies' names.
pub(crate) type Place = (usize, usize);

/// Parts by the namespace of their subjects, so that a pod is only asked about those that may mean it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subjects {
    policies: Vec<Arc<Policy>>,
    of_namespace: HashMap<String, Vec<Place>>,
    of_any: Vec<Place>,
}

impl Subjects {
    pub(crate) fn new(policies: &BTreeMap<ObjectKey, Arc<Policy>>) -> Self {
        let mut subjects = Subjects { policies: policies.values().cloned().collect(), ..Subjects::default() };
        for (number, policy) in policies.values().enumerate() {
            for (index, part) in policy.parts.iter().enumerate() {
                if !part.ingress.speaks() && !part.egress.speaks() {
                    continue;
                }
                match part.subject.only_namespace() {
                    Some(name) => {
                        subjects.of_namespace.entry(name.to_owned()).or_default().push((number, index));
                    }
                    None => subjects.of_any.push((number, index)),
                }
            }
        }
        subjects
    }

    /// The parts that select a pod, in order.
    pub(crate) fn selecting(&self, state: &State, pod: &Pod) -> Vec<Place> {
        let namespace = state.names.labels(&pod.namespace);
        let own = self.of_namespace.get(&pod.namespace).into_iter().flatten();
        let all = own.chain(&self.of_any).copied();
        let mut selecting: Vec<Place> =
            all.filter(|place| self.part(*place).subject.selects_pod(&pod.labels, &namespace)).collect();
        selecting.sort_unstable();
        selecting
    }

    pub(crate) fn policy(&self, place: Place) -> &Arc<Policy> {
        &self.policies[place.0]
    }

    pub(crate) fn part(&self, place: Place) -> &Part {
        &self.policies[place.0].parts[place.1]
    }
}
