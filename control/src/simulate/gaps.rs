//! Fields that were understood and that nothing enforces yet: an answer they touch says so.

use super::EndAnswer;
use crate::objects::{CiliumPeerRule, CiliumPolicy, NotEnforced, Object};
use penstock_api::artefact::Direction;
use std::fmt;

/// One such field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// `CiliumNetworkPolicy shop/web`.
    pub policy: String,
    pub field: String,
    pub why: String,
    /// `None`: a field of the rule as a whole.
    direction: Option<Direction>,
}

impl Gap {
    /// Does a policy with this field select the end in this direction?
    pub(super) fn concerns(&self, end: &EndAnswer, direction: Direction) -> bool {
        self.direction.is_none_or(|own| own == direction) && end.policies.contains(&self.policy)
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.policy, self.field)
    }
}

pub(super) fn of(objects: &[Object]) -> Vec<Gap> {
    let mut gaps = Vec::new();
    for object in objects {
        if let Object::CiliumNetworkPolicy(policy) | Object::CiliumClusterwideNetworkPolicy(policy) = object {
            of_policy(&object.key().to_string(), policy, &mut gaps);
        }
    }
    gaps
}

fn of_policy(name: &str, policy: &CiliumPolicy, gaps: &mut Vec<Gap>) {
    let mut add = |direction: Option<Direction>, fields: &[NotEnforced]| {
        gaps.extend(fields.iter().map(|field| Gap {
            policy: name.to_owned(),
            field: field.field.clone(),
            why: field.why.clone(),
            direction,
        }));
    };
    for rule in &policy.rules {
        add(None, &rule.not_enforced);
        for (direction, list) in [
            (Direction::Ingress, &rule.ingress),
            (Direction::Ingress, &rule.ingress_deny),
            (Direction::Egress, &rule.egress),
            (Direction::Egress, &rule.egress_deny),
        ] {
            let items: &[CiliumPeerRule] = list.as_deref().unwrap_or_default();
            items.iter().for_each(|item| add(Some(direction), &item.not_enforced));
        }
    }
}
