//! Services of the fleet: shards, endpoints, policy, load.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::Address;
use crate::{
    id::{ClusterName, ObjectKey, RegionName, SiteName, ZoneName},
    name::DnsName,
};

/// Requests per second; finite and never negative.
pub type Rate = f64;

/// One service of the fleet: all sources that name (namespace, name) merged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalService {
    /// Its identity.
    pub key: ObjectKey,
    /// Ports of the Service, as in the hub's template or else in the first shard.
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// One per member that has the Service, sorted by cluster, unique.
    #[serde(default)]
    pub shards: Vec<Shard>,
    /// How it is steered.
    #[serde(default)]
    pub policy: Policy,
    /// What the sites last reported of it.
    #[serde(default)]
    pub load: Load,
}

impl GlobalService {
    /// The shard in `cluster`, if it has one. O(log n).
    #[must_use]
    pub fn shard(&self, cluster: &ClusterName) -> Option<&Shard> {
        let index = self.shards.binary_search_by(|shard| shard.cluster.cmp(cluster)).ok()?;
        self.shards.get(index)
    }

    /// What DNS may see, and needs: no endpoint addresses, only their counts, and no load, which
    /// would make it compile names again each second.
    #[must_use]
    pub fn for_dns(&self) -> Self {
        let shard = |shard: &Shard| Shard {
            cluster: shard.cluster.clone(),
            groups: Vec::new(),
            load_balancer: shard.load_balancer.clone(),
            ingress: shard.ingress.clone(),
            ..*shard
        };
        Self {
            key: self.key.clone(),
            ports: self.ports.clone(),
            shards: self.shards.iter().map(shard).collect(),
            policy: self.policy.clone(),
            load: Load::default(),
        }
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Empty for the only port of a Service.
    #[serde(default)]
    pub name: Arc<str>,
    /// The port clients name.
    pub port: u16,
}

/// The part of a service that runs in one member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shard {
    /// The member.
    pub cluster: ClusterName,
    /// Endpoints that take traffic.
    #[serde(default)]
    pub ready: u32,
    /// Endpoints there are, ready or not, without those that are about to go.
    #[serde(default)]
    pub total: u32,
    /// Where the endpoints are; empty in what DNS sees. Where none is ready, those that are leaving but
    /// still serve, for failing open.
    #[serde(default)]
    pub groups: Vec<EndpointGroup>,
    /// Addresses of the member's load balancer for this Service.
    #[serde(default)]
    pub load_balancer: Vec<Address>,
    /// Addresses of the member's own Ingress controller for it.
    #[serde(default)]
    pub ingress: Vec<Address>,
    /// What it can take, already times ready endpoints; the dial is applied when it is used.
    #[serde(default)]
    pub capacity: Capacity,
}

/// Endpoints that share one set of ports (one or more EndpointSlices).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointGroup {
    /// The ports, by name; names match [`ServicePort::name`].
    pub ports: Vec<EndpointPort>,
    /// Endpoints that take traffic, sorted by address, unique.
    pub endpoints: Vec<Endpoint>,
}

/// A port of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPort {
    /// Name of the Service port it serves.
    #[serde(default)]
    pub name: Arc<str>,
    /// The port it listens on.
    pub port: u16,
}

/// One ready endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its zone.
    #[serde(default)]
    pub zone: Option<ZoneName>,
}

/// What a shard can take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Capacity {
    /// Nothing is declared: never sheds.
    #[default]
    Undeclared,
    /// Requests per second.
    Rate(Rate),
    /// Requests at the same time.
    InFlight(u32),
}

/// How a service is steered: the TrafficPolicy that applies, or the defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// How candidates are ordered.
    pub strategy: Strategy,
    /// Regions that traffic may go to; none allows all. Never crossed, not even to fail open.
    pub allowed_regions: Option<Vec<RegionName>>,
    /// Health rules.
    pub health: Health,
    /// What DNS says.
    pub dns: DnsPolicy,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            strategy: Strategy::Proximity,
            allowed_regions: None,
            health: Health::default(),
            dns: DnsPolicy::default(),
        }
    }
}

/// How candidates are ordered before capacity limits them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Strategy {
    /// Nearest first.
    #[default]
    Proximity,
    /// Tier by tier, nearest first inside a tier; clusters of no tier come last.
    Failover(Vec<Vec<ClusterName>>),
}

/// Health rules of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// How long a shard that was lost must look well before it gets traffic again.
    pub failback_hold: Duration,
    /// What to do when no candidate is healthy.
    pub all_unhealthy: WhenAllUnhealthy,
}

impl Default for Health {
    fn default() -> Self {
        Self { failback_hold: Duration::from_secs(5), all_unhealthy: WhenAllUnhealthy::FailOpen }
    }
}

/// What to do when no candidate is healthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WhenAllUnhealthy {
    /// Use them all the same: evidence of total loss is more often wrong than right.
    #[default]
    FailOpen,
    /// Answer with nothing.
    Empty,
}

/// What DNS says of a service or ingress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DnsPolicy {
    /// Names beside those that rules and zones give it.
    pub hostnames: Vec<DnsName>,
    /// Seconds a resolver may keep an answer.
    pub ttl: u32,
    /// Addresses per answer at most, from at most that many places; the first is the best.
    pub answers: u8,
    /// Whose addresses are answered.
    pub target: DnsTarget,
}

impl Default for DnsPolicy {
    fn default() -> Self {
        Self { hostnames: Vec::new(), ttl: 30, answers: 1, target: DnsTarget::Auto }
    }
}

/// Whose addresses DNS answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DnsTarget {
    /// Sites for an Ingress when a Site exists, else members.
    #[default]
    Auto,
    /// Addresses of Sites.
    Sites,
    /// Load balancer addresses of members.
    Members,
}

/// What the sites last reported, held while a site is silent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Load {
    /// Requests per second that arrive at each site.
    pub demand: BTreeMap<SiteName, Rate>,
    /// Solved shares, per site: what part of its requests each cluster gets. Parts of a site are
    /// positive and sum to 1. A site that is missing solves for itself.
    pub shares: BTreeMap<SiteName, BTreeMap<ClusterName, f64>>,
}
