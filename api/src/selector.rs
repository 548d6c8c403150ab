//! Label selectors and cluster selectors shared by the kinds.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which clusters a policy looks at: those named that also carry all the labels. An empty selector is all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSelector {
    /// Labels that the member must carry, all of them. Empty: any labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub match_labels: BTreeMap<String, String>,
    /// Names of members. Empty: any name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 253)))]
    pub names: Vec<String>,
}

impl ClusterSelector {
    /// Whether a member with this name and these labels is selected.
    #[must_use]
    pub fn selects(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        (self.names.is_empty() || self.names.iter().any(|n| n == name))
            && self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
    }
}

/// A reference to a key's Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Namespace of the Secret on the hub.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Name of the Secret on the hub.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A point on the earth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// Degrees north of the equator, -90 to 90.
    #[schemars(range(min = -90.0, max = 90.0))]
    pub latitude: f64,
    /// Degrees east of Greenwich, -180 to 180.
    #[schemars(range(min = -180.0, max = 180.0))]
    pub longitude: f64,
}

#[cfg(test)]
mod tests {
    use super::ClusterSelector;
    use std::collections::BTreeMap;

    #[test]
    fn names_and_labels_must_both_match_and_empty_selects_all() {
        let labels = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
        assert!(ClusterSelector::default().selects("a", &labels));
        let both = ClusterSelector { match_labels: labels.clone(), names: vec!["a".into()] };
        assert!(both.selects("a", &labels));
        assert!(!both.selects("b", &labels));
        assert!(!both.selects("a", &BTreeMap::new()));
    }
}
