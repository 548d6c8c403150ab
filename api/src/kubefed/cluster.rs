//! `KubeFedCluster`: KubeFed's way to say that a cluster is a member.

use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is wanted of a member. Namespaced, in the KubeFed namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "core.kubefed.io",
    version = "v1beta1",
    kind = "KubeFedCluster",
    plural = "kubefedclusters",
    namespaced,
    shortname = "kfc",
    category = "meridian",
    status = "KubeFedClusterStatus",
    derive = "PartialEq",
    doc = "KubeFedCluster configures KubeFed to be aware of a Kubernetes cluster and encapsulates the details necessary to communicate with the cluster.",
    printcolumn(name = "age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct KubeFedClusterSpec {
    /// The API endpoint of the member cluster: a hostname, hostname:port, IP, IP:port, or https URL.
    pub api_endpoint: String,
    /// PEM certificates that the server's certificate is checked against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "byte"))]
    pub ca_bundle: Option<ByteString>,
    /// Secret in the same namespace with a `token` key.
    pub secret_ref: LocalSecretReference,
    /// TLS checks to ignore: `*`, `SubjectName`, `ValidityPeriod`.
    #[serde(default, rename = "disabledTLSValidations", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub disabled_tls_validations: Vec<String>,
    /// Proxy towards the member.
    #[serde(default, rename = "proxyURL", skip_serializing_if = "Option::is_none")]
    pub proxy_url: Option<String>,
}

/// A Secret in the namespace of the referring object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalSecretReference {
    /// Name of a Secret within the enclosing namespace.
    pub name: String,
}

/// What is known of the member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KubeFedClusterStatus {
    /// Current conditions: `Ready`, `Offline`, `ConfigMalformed`, and ours `Accepted`.
    #[serde(default)]
    pub conditions: Vec<ClusterCondition>,
    /// Kubernetes version of the API server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes_version: Option<String>,
    /// Zones of the member's nodes, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Region of the member's nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
}

/// A condition as KubeFed writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterCondition {
    /// `Ready`, `Offline` or `ConfigMalformed`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Required by the shape. KubeFed moved it at each probe; here it moves with the transition, because a
    /// status write each second per member is what makes idle fleets expensive.
    pub last_probe_time: Time,
    /// When the status last flipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// Reason word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
