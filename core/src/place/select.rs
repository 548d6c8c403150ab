//! Label selectors (`metav1.LabelSelector`).

use std::collections::{BTreeMap, BTreeSet};

/// A label selector: all of it must hold. Empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Labels that must be equal.
    pub labels: BTreeMap<String, String>,
    /// Requirements that must hold.
    pub requirements: Vec<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// What is asked of its value.
    pub operator: Operator,
    /// Values that the operator refers to; unused by `Exists` and `DoesNotExist`.
    pub values: BTreeSet<String>,
}

/// What a requirement asks of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Present, with one of the values.
    In,
    /// Absent, or with none of the values.
    NotIn,
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

/// A word that is no operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not one of In, NotIn, Exists, DoesNotExist")]
pub struct UnknownOperator(pub String);

impl std::str::FromStr for Operator {
    type Err = UnknownOperator;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "In" => Ok(Self::In),
            "NotIn" => Ok(Self::NotIn),
            "Exists" => Ok(Self::Exists),
            "DoesNotExist" => Ok(Self::DoesNotExist),
            _ => Err(UnknownOperator(text.to_owned())),
        }
    }
}

impl Selector {
    /// Whether something with these labels is selected.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.requirements.iter().all(|r| {
                let value = labels.get(&r.key);
                match r.operator {
                    Operator::In => value.is_some_and(|v| r.values.contains(v)),
                    Operator::NotIn => value.is_none_or(|v| !r.values.contains(v)),
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::{Operator, Requirement, Selector};
    use std::collections::{BTreeMap, BTreeSet};

    fn wants(operator: Operator, values: &[&str]) -> Selector {
        let values: BTreeSet<String> = values.iter().map(|v| (*v).to_owned()).collect();
        let requirements = vec![Requirement { key: "tier".to_owned(), operator, values }];
        Selector { requirements, ..Selector::default() }
    }

    #[test]
    fn operators_mean_what_kubernetes_says() {
        let gold = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
        let none = BTreeMap::new();
        let table = [
            (wants(Operator::In, &["gold"]), true, false),
            (wants(Operator::In, &["tin"]), false, false),
            (wants(Operator::NotIn, &["gold"]), false, true),
            (wants(Operator::NotIn, &["tin"]), true, true),
            (wants(Operator::Exists, &[]), true, false),
            (wants(Operator::DoesNotExist, &[]), false, true),
            (Selector::default(), true, true),
        ];
        for (selector, with, without) in table {
            assert_eq!(selector.selects(&gold), with, "{selector:?}");
            assert_eq!(selector.selects(&none), without, "{selector:?}");
        }
    }
}
