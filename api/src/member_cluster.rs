//! `MemberCluster`: a cluster of the fleet, how to reach it and how much traffic it may take.

use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::{Location, SecretRef};

/// What is wanted of a member cluster. Cluster-scoped; its name is the cluster's name everywhere.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.io",
    version = "v1alpha1",
    kind = "MemberCluster",
    plural = "memberclusters",
    shortname = "mc",
    category = "meridian",
    status = "MemberClusterStatus",
    derive = "PartialEq",
    doc = "A Kubernetes cluster that belongs to the fleet: how to reach it, where it is, how much traffic it may take.",
    validation = Rule::new("size(self.metadata.name) <= 63").message("a member's name is at most 63 characters: it is a DNS label and a label value"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Region", type_ = "string", json_path = ".status.region"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Dial", type_ = "integer", json_path = ".spec.traffic.dial"),
    printcolumn(name = "Drain", type_ = "boolean", json_path = ".spec.traffic.drain", priority = "1"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct MemberClusterSpec {
    /// How the hub reaches the member's API server.
    pub connection: Connection,
    /// Cloud region, such as `europe-west1`. Empty: taken from the labels of the member's nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// Zones of the member. Empty: taken from the labels of the member's nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub zones: Vec<String>,
    /// Where the member is. Empty: looked up by region in the built-in table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Infrastructure provider, such as `gcp`; distinguishes equal region names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub provider: Option<String>,
    /// How traffic from elsewhere reaches the member's pods.
    #[serde(default)]
    pub network: Network,
    /// How much traffic the member may take.
    #[serde(default)]
    pub traffic: Traffic,
}

/// How the hub reaches a member's API server: a kubeconfig, or an endpoint with a token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.secretRef) != has(self.endpoint)").message("set exactly one of secretRef and endpoint"))]
pub struct Connection {
    /// Secret on the hub whose key `kubeconfig` holds a kubeconfig with inline data only. Exec plugins,
    /// auth providers and file paths are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,
    /// The API server itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// HTTP or SOCKS5 proxy towards the member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^(http|https|socks5)://"))]
    pub proxy_url: Option<String>,
}

/// A member's API server, reached with a bearer token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// `https://` URL of the API server.
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https://"))]
    pub url: String,
    /// PEM certificates that the server's certificate is checked against. Empty: the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "byte"))]
    pub ca_bundle: Option<ByteString>,
    /// Where the bearer token is.
    pub token_secret_ref: TokenSecretRef,
}

/// A key of a Secret on the hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenSecretRef {
    /// Namespace of the Secret.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret's data.
    #[serde(default = "token_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn token_key() -> String {
    "token".to_owned()
}

/// How traffic from elsewhere reaches the member's pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Whether pod addresses can be reached from outside the member.
    #[serde(default)]
    pub mode: NetworkMode,
    /// Gateway addresses, in order of preference; used in mode `Gateway`. Empty: the addresses that the
    /// member's Ingress or load balancer Service reports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub addresses: Vec<GatewayAddress>,
}

/// Whether pod addresses can be reached from outside the member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkMode {
    /// Pod addresses are routable.
    #[default]
    Flat,
    /// Only gateway addresses are.
    Gateway,
}

/// One address of a member's gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.ip) != has(self.hostname)").message("set exactly one of ip and hostname"))]
pub struct GatewayAddress {
    /// An IPv4 or IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 45))]
    pub ip: Option<String>,
    /// A DNS name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub hostname: Option<String>,
    /// Port; the route's own port if empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// How much traffic the member may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Percent of the member's capacity that traffic from elsewhere may use, 0 to 100.
    #[serde(default = "full")]
    #[schemars(range(min = 0, max = 100))]
    pub dial: i32,
    /// Whether the member is being emptied of traffic.
    #[serde(default)]
    pub drain: bool,
    /// When dial and drain end by themselves; edges expire them alone. Empty: until changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { dial: full(), drain: false, until: None }
    }
}

fn full() -> i32 {
    100
}

/// What the fleet knows of the member. Times move only on transitions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MemberClusterStatus {
    /// `Ready`, `Offline`, `ConfigMalformed`, `LocationUnknown`; unique by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// Kubernetes version of the API server, such as `v1.36.3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// UID of the member's `kube-system` namespace: what makes it this cluster and no other.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "clusterUID")]
    pub cluster_uid: Option<String>,
    /// Region: of the spec, else of the node labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Zones, sorted: of the spec, else of the node labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub zones: Vec<String>,
}

/// Types of the conditions of a member.
pub mod conditions {
    /// The API server answers its readiness probe.
    pub const READY: &str = "Ready";
    /// The API server cannot be reached.
    pub const OFFLINE: &str = "Offline";
    /// The connection of the spec cannot be used; the message names the field.
    pub const CONFIG_MALFORMED: &str = "ConfigMalformed";
    /// Neither spec nor region table say where the member is.
    pub const LOCATION_UNKNOWN: &str = "LocationUnknown";
}
