//! `Federated<Kind>`: template, placement and overrides of one object, and the generated CRDs.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ApiResource;

/// `spec` of every wrapper kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FederatedSpec {
    /// The object as it is to be in the members, but for name and namespace. Absent: nothing but those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Value>,
    /// Where it goes. Absent: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// How it differs in single members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<Vec<ClusterOverride>>,
    /// Whether `/spec/replicas` in the members is left to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retain_replicas: Option<bool>,
}

/// Where an object goes. `clusters`, even empty, beats `clusterSelector`; neither is nowhere; an empty
/// selector is everywhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Members by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Vec<ClusterName>>,
    /// Members by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_selector: Option<GenericSelector>,
}

/// A member by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterName {
    /// Its name.
    pub name: String,
}

/// A label selector (`metav1.LabelSelector`). Kept in its own type because the operator must survive being
/// unknown: a wrong word is a condition, not an unreadable object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GenericSelector {
    /// Labels that must be equal.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements, all of which must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<SelectorRequirement>,
}

/// One requirement of a label selector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelectorRequirement {
    /// Label key.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values for `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// Overrides of one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterOverride {
    /// Name of the member.
    #[serde(default)]
    pub cluster_name: String,
    /// Operations, applied in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cluster_overrides: Vec<Override>,
}

/// One JSON patch operation (RFC 6902) on the object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    /// `add`, `remove` or `replace`; empty is `replace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op: Option<String>,
    /// JSON pointer.
    pub path: String,
    /// New value; absent for `remove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

/// `status` of every wrapper kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FederatedStatus {
    /// Generation that the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Propagation`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<FederatedCondition>,
    /// One entry per member that the object is in or should be in, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<ClusterStatus>,
}

/// A condition as KubeFed writes it, and a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FederatedCondition {
    /// `Propagation`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// When anything of the condition last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
    /// When the status last flipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// KubeFed's aggregate reason; absent if all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people; an addition to KubeFed's shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// How the object is in one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Name of the member.
    pub name: String,
    /// KubeFed's word, absent if all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// A sentence for people; an addition to KubeFed's shape.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Status of the object in the member, where it is collected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_status: Option<Value>,
}

/// The CRD of a wrapper kind, with `short_names` and, for kinds with `spec.replicas`, `retainReplicas`.
///
/// # Panics
/// Never: the document below is a valid CustomResourceDefinition whatever the names are.
#[must_use]
pub fn federated_crd(
    federated: &ApiResource,
    short_names: &[&str],
    has_replicas: bool,
) -> CustomResourceDefinition {
    let mut spec = json!({
        "type": "object",
        "properties": {
            "template": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "placement": placement_schema(),
            "overrides": overrides_schema(),
        },
    });
    if has_replicas {
        spec["properties"]["retainReplicas"] = json!({"type": "boolean"});
    }
    let names = json!({
        "kind": federated.kind,
        "listKind": format!("{}List", federated.kind),
        "plural": federated.plural_name,
        "singular": federated.kind.to_lowercase(),
        "shortNames": short_names,
        "categories": ["meridian"],
    });
    let document = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{}", federated.plural_name, federated.group)},
        "spec": {
            "group": federated.group,
            "names": names,
            "scope": federated.scope,
            "versions": [{
                "name": federated.version,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Propagated", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Propagation')].status"},
                    {"name": "Reason", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Propagation')].reason"},
                    {"name": "Clusters", "type": "string", "jsonPath": ".status.clusters[*].name", "priority": 1},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
                ],
                "schema": {"openAPIV3Schema": {
                    "description": format!("{} is a template, the clusters that it goes to, and how it differs there.", federated.kind),
                    "type": "object",
                    "required": ["spec"],
                    "properties": {
                        "apiVersion": {"type": "string"},
                        "kind": {"type": "string"},
                        "metadata": {"type": "object"},
                        "spec": spec,
                        "status": status_schema(),
                    },
                }},
            }],
        },
    });
    serde_json::from_value(document).expect("the document above has the shape of a CustomResourceDefinition")
}

fn placement_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "clusters": {
                "type": "array",
                "maxItems": 1000,
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": {"type": "string", "maxLength": 253}},
                },
            },
            "clusterSelector": {
                "type": "object",
                "properties": {
                    "matchExpressions": {
                        "type": "array",
                        "maxItems": 64,
                        "items": {
                            "type": "object",
                            "required": ["key", "operator"],
                            "properties": {
                                "key": {"type": "string"},
                                "operator": {"type": "string"},
                                "values": {"type": "array", "items": {"type": "string"}},
                            },
                        },
                    },
                    "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
        },
    })
}

fn overrides_schema() -> Value {
    json!({
        "type": "array",
        "maxItems": 1000,
        "items": {
            "type": "object",
            "properties": {
                "clusterName": {"type": "string"},
                "clusterOverrides": {
                    "type": "array",
                    "maxItems": 1000,
                    "items": {
                        "type": "object",
                        "required": ["path"],
                        "properties": {
                            "op": {"type": "string", "pattern": "^(add|remove|replace)?$"},
                            "path": {"type": "string"},
                            "value": {"x-kubernetes-preserve-unknown-fields": true},
                        },
                    },
                },
            },
        },
    })
}

fn status_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "observedGeneration": {"type": "integer", "format": "int64"},
            "conditions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["type", "status"],
                    "properties": {
                        "type": {"type": "string"},
                        "status": {"type": "string"},
                        "reason": {"type": "string"},
                        "message": {"type": "string"},
                        "lastUpdateTime": {"type": "string", "format": "date-time"},
                        "lastTransitionTime": {"type": "string", "format": "date-time"},
                    },
                },
            },
            "clusters": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": {"type": "string"},
                        "status": {"type": "string"},
                        "message": {"type": "string"},
                        "remoteStatus": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    },
                },
            },
        },
    })
}
