//! Selectors against labels, for many of both.
//!
//! Only keys and values that some selector names can make a difference. Labels are reduced to those (any other value of a
//! named key counts as "something else"), and what is equal after that is one class: selectors are matched against classes,
//! and ten thousand pods of a hundred deployments are a hundred questions.

use crate::objects::{LabelSelector, Operator};
use std::collections::HashMap;

/// A selector of one [`Matcher`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SelectorId(pub(crate) usize);

/// Labels as far as selectors can tell them apart: (key, value) by number, sorted by key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Class(pub(crate) Box<[(u32, u32)]>);

/// The value of a named key that no selector names.
const SOMETHING_ELSE: u32 = 0;

#[derive(Debug, Clone, Default)]
pub(crate) struct Matcher {
    ids: HashMap<LabelSelector, SelectorId>,
    selectors: Vec<Vec<Question>>,
    keys: HashMap<String, u32>,
    /// From 1, for each key apart. Index: the key's number.
    values: Vec<HashMap<String, u32>>,
}

#[derive(Debug, Clone)]
struct Question {
    key: u32,
    operator: Operator,
    values: Box<[u32]>,
}

impl Matcher {
    pub(crate) fn add(&mut self, selector: &LabelSelector) -> SelectorId {
        let canonical = selector.canonical();
        if let Some(id) = self.ids.get(&canonical) {
            return *id;
        }
        let mut questions = Vec::with_capacity(selector.requirements.len());
        for requirement in &selector.requirements {
            let key = self.key(&requirement.key);
            let known = &mut self.values[key as usize];
            let mut values = Vec::with_capacity(requirement.values.len());
            for value in &requirement.values {
                let next = known.len() as u32 + 1;
                values.push(*known.entry(value.clone()).or_insert(next));
            }
            questions.push(Question { key, operator: requirement.operator, values: values.into() });
        }
        let id = SelectorId(self.selectors.len());
        self.selectors.push(questions);
        self.ids.insert(canonical, id);
        id
    }

    fn key(&mut self, key: &str) -> u32 {
        if let Some(number) = self.keys.get(key) {
            return *number;
        }
        let number = self.values.len() as u32;
        self.keys.insert(key.to_owned(), number);
        self.values.push(HashMap::new());
        number
    }

    /// The class of these labels. Valid once every selector has been added.
    pub(crate) fn class_of<'l>(&self, labels: impl IntoIterator<Item = (&'l str, &'l str)>) -> Class {
        let mut class: Vec<(u32, u32)> = labels
            .into_iter()
            .filter_map(|(key, value)| {
                let key = *self.keys.get(key)?;
                let value = self.values[key as usize].get(value).copied().unwrap_or(SOMETHING_ELSE);
                Some((key, value))
            })
            .collect();
        class.sort_unstable();
        Class(class.into())
    }

    /// Every selector added.
    pub(crate) fn ids(&self) -> impl Iterator<Item = SelectorId> + use<> {
        (0..self.selectors.len()).map(SelectorId)
    }

    /// What the pairs of a class stand for. Of a value that no selector names there is nothing to say.
    pub(crate) fn text(&self, (key, value): (u32, u32)) -> Option<(&str, &str)> {
        let key_text = self.keys.iter().find(|(_, number)| **number == key)?.0;
        let value_text = self.values[key as usize].iter().find(|(_, number)| **number == value)?.0;
        Some((key_text, value_text))
    }

    pub(crate) fn matches(&self, selector: SelectorId, class: &Class) -> bool {
        self.selectors[selector.0].iter().all(|question| {
            let value = class
                .0
                .binary_search_by_key(&question.key, |(key, _)| *key)
                .ok()
                .map(|index| class.0[index].1);
            match (question.operator, value) {
                (Operator::In, Some(value)) => question.values.contains(&value),
                (Operator::NotIn, Some(value)) => !question.values.contains(&value),
                (Operator::In, None) | (Operator::Exists, None) => false,
                (Operator::NotIn, None) | (Operator::DoesNotExist, None) => true,
                (Operator::Exists, Some(_)) => true,
                (Operator::DoesNotExist, Some(_)) => false,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{Labels, Requirement};

    #[test]
    fn classes_answer_as_labels_do() {
        let values = ["", "a", "b", "c"];
        let mut selectors = vec![LabelSelector::everything()];
        for key in ["x", "y"] {
            for operator in [Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist] {
                for count in 1..3 {
                    let values = match operator {
                        Operator::In | Operator::NotIn => {
                            values[..count].iter().map(ToString::to_string).collect()
                        }
                        _ => Vec::new(),
                    };
                    let requirement = Requirement { key: key.to_owned(), operator, values };
                    let mut both = selectors[0].clone();
                    both.requirements.push(requirement);
                    selectors.push(both.clone());
                    both.requirements.extend(selectors[1].requirements.clone());
                    selectors.push(both);
                }
            }
        }
        let mut matcher = Matcher::default();
        let ids: Vec<SelectorId> = selectors.iter().map(|selector| matcher.add(selector)).collect();
        for x in [None, Some(""), Some("a"), Some("c")] {
            for y in [None, Some("b"), Some("z")] {
                let labels: Labels = [("x", x), ("y", y), ("other", Some("a"))]
                    .into_iter()
                    .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
                    .collect();
                let class = matcher.class_of(labels.iter().map(|(k, v)| (k.as_str(), v.as_str())));
                for (selector, id) in selectors.iter().zip(&ids) {
                    assert_eq!(
                        matcher.matches(*id, &class),
                        selector.matches(&labels),
                        "{selector:?} on {labels:?}"
                    );
                }
            }
        }
    }
}
