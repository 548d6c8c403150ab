//! `MemberLedger`: what must still be removed from a member.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most entries of one ledger: at about 300 bytes each they stay below etcd's 1.5 MB an object.
pub const MAX_ENTRIES: usize = 4000;

/// Tombstones of one member, whose name the ledger has. Cluster-scoped; written by the controller only.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.io",
    version = "v1alpha1",
    kind = "MemberLedger",
    plural = "memberledgers",
    category = "meridian",
    derive = "PartialEq",
    doc = "Objects that must still be removed from the member of the same name. Written by the controller only.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MemberLedgerSpec {
    /// What must still be removed, sorted by kind, namespace, name.
    #[serde(default)]
    #[schemars(length(max = 4000))]
    pub entries: Vec<Tombstone>,
}

/// An object that must be removed, and no other: a re-created object or cluster has another UID.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// UID of the object in the member.
    #[serde(rename = "objectUID")]
    #[schemars(length(min = 1, max = 64))]
    pub object_uid: String,
    /// `group/version`, or `v1`.
    #[schemars(length(min = 1, max = 317))]
    pub api_version: String,
    /// Kind of the object.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Plural name of its resource, as in URLs.
    #[schemars(length(min = 1, max = 63))]
    pub plural: String,
    /// Namespace; empty for cluster-scoped kinds.
    #[serde(default)]
    #[schemars(length(max = 63))]
    pub namespace: String,
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// UID of the member's `kube-system` namespace.
    #[serde(rename = "clusterUID")]
    #[schemars(length(min = 1, max = 64))]
    pub cluster_uid: String,
    /// When the removal was decided.
    pub since: Time,
    /// Why: a reason word and the object on the hub.
    #[schemars(length(max = 512))]
    pub why: String,
}
