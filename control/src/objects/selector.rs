//! Label selectors: all requirements hold, and an empty selector selects everything.

use super::Labels;
use serde::{Deserialize, Serialize};

/// `matchLabels` and `matchExpressions` of the API in one list: a matchLabel is an `In` with one value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Empty for Exists and DoesNotExist, and only for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Operator {
    In,
    /// Also holds where the key is absent.
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Selects everything.
    #[must_use]
    pub fn everything() -> Self {
        LabelSelector::default()
    }

    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// The same selector in one spelling: sorted and without repetition, so that equal meanings are mostly equal values.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let mut requirements = self.requirements.clone();
        for requirement in &mut requirements {
            requirement.values.sort();
            requirement.values.dedup();
        }
        requirements.sort();
        requirements.dedup();
        LabelSelector { requirements }
    }
}

impl Requirement {
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        match (self.operator, labels.get(&self.key)) {
            (Operator::In, Some(value)) => self.values.contains(value),
            (Operator::In, None) => false,
            (Operator::NotIn, Some(value)) => !self.values.contains(value),
            (Operator::NotIn, None) => true,
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
        }
    }
}
