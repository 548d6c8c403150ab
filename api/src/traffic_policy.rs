//! `TrafficPolicy`: how traffic to a service is steered.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::selector::ClusterSelector;

/// What is wanted of the traffic to the objects it names. Namespaced: it attaches to objects of its namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.io",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    namespaced,
    shortname = "tp",
    category = "meridian",
    status = "TrafficPolicyStatus",
    derive = "PartialEq",
    doc = "How traffic to a service is steered between clusters.",
    printcolumn(name = "Strategy", type_ = "string", json_path = ".spec.strategy.type"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(
        name = "ResolvedRefs",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='ResolvedRefs')].status",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// Objects that the policy applies to.
    #[schemars(length(min = 1, max = 64))]
    pub target_refs: Vec<TargetRef>,
    /// Members that a plain Service or Ingress takes shards from. Empty: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clusters: Option<ClusterSelector>,
    /// How clusters are ranked.
    #[serde(default)]
    pub strategy: Strategy,
    /// Where the traffic may go. A fence is never crossed, not even when failing open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// Declared capacity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// How health moves traffic.
    #[serde(default)]
    pub health: Health,
    /// How the targets are answered in DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
}

/// An object of the policy's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group; empty for the core group.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind of the object.
    pub kind: TargetKind,
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Kinds that a policy can attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// KubeFed's `FederatedService`.
    FederatedService,
    /// KubeFed's `FederatedIngress`.
    FederatedIngress,
    /// A Service of that name in every selected member.
    Service,
    /// An Ingress of that name in every selected member.
    Ingress,
}

/// How clusters are ranked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type != 'Failover' || (has(self.tiers) && size(self.tiers) > 0)").message("strategy Failover needs tiers"))]
pub struct Strategy {
    /// The rule.
    #[serde(default, rename = "type")]
    pub type_: StrategyType,
    /// For `Failover`: names of members, tier by tier; inside a tier the nearest first. Members not named
    /// come last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 64), inner(length(min = 1, max = 63))))]
    pub tiers: Vec<Vec<String>>,
}

/// Rules by which clusters are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StrategyType {
    /// The nearest first.
    #[default]
    Proximity,
    /// In the order of the tiers.
    Failover,
}

/// Where the traffic may go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fence {
    /// Regions that may serve. Must name at least one.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63)))]
    pub allowed_regions: Vec<String>,
}

/// Declared capacity per ready endpoint: a rate or a concurrency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.maxRatePerEndpoint) && has(self.maxInFlightPerEndpoint))").message("set at most one of maxRatePerEndpoint and maxInFlightPerEndpoint"))]
pub struct Capacity {
    /// Requests per second per ready endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub max_rate_per_endpoint: Option<f64>,
    /// Requests in flight per ready endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub max_in_flight_per_endpoint: Option<f64>,
    /// What differs in single members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cluster".into()]))]
    pub per_cluster: Vec<ClusterCapacity>,
}

/// Declared capacity in one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.maxRatePerEndpoint) != has(self.maxInFlightPerEndpoint)").message("set exactly one of maxRatePerEndpoint and maxInFlightPerEndpoint"))]
pub struct ClusterCapacity {
    /// Name of the member.
    #[schemars(length(min = 1, max = 63))]
    pub cluster: String,
    /// Requests per second per ready endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub max_rate_per_endpoint: Option<f64>,
    /// Requests in flight per ready endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub max_in_flight_per_endpoint: Option<f64>,
}

/// How health moves traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// How long a shard that came back must stay healthy before traffic returns to it, in seconds.
    #[serde(default = "failback_hold")]
    #[schemars(range(min = 0, max = 86400))]
    pub failback_hold_seconds: i32,
    /// What to answer when no shard is healthy.
    #[serde(default)]
    pub all_unhealthy: AllUnhealthy,
}

impl Default for Health {
    fn default() -> Self {
        Self { failback_hold_seconds: failback_hold(), all_unhealthy: AllUnhealthy::default() }
    }
}

fn failback_hold() -> i32 {
    5
}

/// What to answer when no shard is healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AllUnhealthy {
    /// As if all were healthy: wrong health data must not take a service down.
    #[default]
    FailOpen,
    /// Nothing.
    Empty,
}

/// How the targets are answered in DNS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// Absolute host names to answer for, beside those of Ingress rules. No trailing dot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub hostnames: Vec<String>,
    /// Seconds. Empty: the zone's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub ttl: Option<i32>,
    /// Most addresses in an answer. Empty: one place's addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16))]
    pub answers: Option<i32>,
    /// Whose addresses to answer with. Empty: sites for an Ingress when a site exists, else members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<DnsTarget>,
}

/// Whose addresses DNS answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DnsTarget {
    /// Sites, where Meridian's load balancer takes over.
    Sites,
    /// The members' own load balancers.
    Members,
}

/// What is known of the policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyStatus {
    /// `Accepted`, `ResolvedRefs`; unique by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}
