//! The one immutable value from which DNS and LB answer.
//!
//! The controller publishes a [`Snapshot`]; feed carries it; DNS and LB compile it into what their
//! hot paths need and swap that once. Parts are shared by `Arc`, so two snapshots that differ in one
//! service share everything else, and a difference is found by comparing pointers first.
//!
//! Serde forms are part of the feed's contract: fields are only ever added, with a default, so that
//! releases N and N+1 understand each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

mod fleet;
mod ingress;
mod service;
mod zone;

pub use fleet::{Cluster, Dial, Gateway, Network, Site};
pub use ingress::{Backend, BackendPort, GlobalIngress, HostRule, PathKind, PathRule, TlsHosts};
pub use service::{
    Capacity, DnsPolicy, DnsTarget, Endpoint, EndpointGroup, EndpointPort, GlobalService, Health, Load,
    Policy, Rate, ServicePort, Shard, Strategy, WhenAllUnhealthy,
};
pub use zone::{GeoOverride, GeoSource, NameServer, NameTarget, Record, RecordData, Soa, Zone};

use crate::{
    id::{ClusterName, ObjectKey, SiteName},
    name::DnsName,
};

/// Which snapshot this is. Grows with every publication, also across controllers.
///
/// Comparable only within one hub: a follower that meets another hub's UID starts anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Generation {
    /// UID of the hub's `kube-system` namespace.
    pub hub: Arc<str>,
    /// Number of the leadership that published it; a new leader's is higher than any before.
    pub term: u64,
    /// Publications of that leadership, from 1.
    pub seq: u64,
}

impl Generation {
    /// True when `self` must replace `held`: another hub, or later on the same hub.
    #[must_use]
    pub fn supersedes(&self, held: &Self) -> bool {
        self.hub != held.hub || (self.term, self.seq) > (held.term, held.seq)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.seq)
    }
}

/// Everything the edges answer from, at one generation. See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// Which snapshot this is.
    pub generation: Generation,
    /// Member clusters.
    pub clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    /// Edges.
    pub sites: BTreeMap<SiteName, Arc<Site>>,
    /// Services with their shards.
    pub services: BTreeMap<ObjectKey, Arc<GlobalService>>,
    /// Ingresses with their rules.
    pub ingresses: BTreeMap<ObjectKey, Arc<GlobalIngress>>,
    /// Zones that DNS serves.
    pub zones: BTreeMap<DnsName, Arc<Zone>>,
    /// Serving certificates, by the hub's Secret (LB only).
    pub certificates: BTreeMap<ObjectKey, Arc<Certificate>>,
    /// Members that the controller could not read since it started: that a shard of theirs is missing
    /// here says nothing, and an edge that holds one keeps it ([`Snapshot::completed_by`]).
    pub unread: BTreeSet<ClusterName>,
}

/// An address of a load balancer as Kubernetes status writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Address {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A name to be resolved.
    Hostname(DnsName),
}

impl Address {
    /// The IP address, unless it is a name.
    #[must_use]
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Hostname(_) => None,
        }
    }
}

/// A certificate chain with its private key, from a `kubernetes.io/tls` Secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Leaf first, PEM.
    pub chain_pem: Arc<str>,
    /// Private key, PEM. Never printed.
    pub key_pem: Arc<str>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("chain_pem", &self.chain_pem.len()).finish_non_exhaustive()
    }
}

/// What an edge is, and so what of a snapshot it may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Authoritative DNS: no endpoints, no certificates.
    Dns,
    /// L7 proxy: no zones.
    Lb,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "dns",
            Self::Lb => "lb",
        })
    }
}

impl Snapshot {
    /// The part that an edge of `role` may see. Shares what it does not have to change.
    #[must_use]
    pub fn scoped(&self, role: Role) -> Self {
        match role {
            Role::Lb => Self { zones: BTreeMap::new(), ..self.clone() },
            Role::Dns => Self {
                certificates: BTreeMap::new(),
                services: self
                    .services
                    .iter()
                    .map(|(key, service)| (key.clone(), Arc::new(service.for_dns())))
                    .collect(),
                ..self.clone()
            },
        }
    }

    /// This snapshot with what `held` knows of the members that nobody could read: their shards, and the
    /// names in zones that may have followed from them. Losing sight of a member's API is no proof that
    /// its endpoints are gone. Shares what it does not have to change.
    #[must_use]
    pub fn completed_by(&self, held: &Self) -> Self {
        let mut completed = self.clone();
        if self.unread.is_empty() || self.generation.hub != held.generation.hub {
            return completed;
        }
        for (key, service) in &mut completed.services {
            let Some(old) = held.services.get(key) else { continue };
            let is_lost = |shard: &&Shard| {
                self.unread.contains(&shard.cluster) && service.shard(&shard.cluster).is_none()
            };
            let lost: Vec<Shard> = old.shards.iter().filter(is_lost).cloned().collect();
            if lost.is_empty() {
                continue;
            }
            let mut whole = service.as_ref().clone();
            whole.shards.extend(lost);
            whole.shards.sort_by(|a, b| a.cluster.cmp(&b.cluster));
            // Usually nothing but the generation differs from what was completed before.
            *service = if whole == **old { old.clone() } else { Arc::new(whole) };
        }
        for (domain, zone) in &mut completed.zones {
            let Some(old) = held.zones.get(domain) else { continue };
            let is_missing = |name: &DnsName| !zone.names.contains_key(name);
            if old.names.keys().any(is_missing) {
                let zone = Arc::make_mut(zone);
                for (name, target) in &old.names {
                    zone.names.entry(name.clone()).or_insert_with(|| target.clone());
                }
            }
        }
        completed
    }

    /// Names of clusters that hold a shard of any service.
    #[must_use]
    pub fn clusters_in_use(&self) -> BTreeSet<&ClusterName> {
        self.services.values().flat_map(|service| &service.shards).map(|shard| &shard.cluster).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(hub: &str, term: u64, seq: u64) -> Generation {
        Generation { hub: hub.into(), term, seq }
    }

    #[test]
    fn generation_never_goes_back_on_one_hub() {
        assert!(generation("h", 2, 1).supersedes(&generation("h", 1, 900)));
        assert!(!generation("h", 1, 900).supersedes(&generation("h", 2, 1)));
        assert!(!generation("h", 1, 1).supersedes(&generation("h", 1, 1)));
    }

    #[test]
    fn another_hub_starts_anew() {
        assert!(generation("new", 1, 1).supersedes(&generation("old", 7, 7)));
    }

    fn with_shards(clusters: &[&str], unread: &[&str]) -> Snapshot {
        let key = ObjectKey::new("shop", "web");
        let shard = |name: &&str| Shard {
            cluster: (*name).into(),
            ready: 1,
            total: 1,
            groups: vec![],
            load_balancer: vec![],
            ingress: vec![],
            capacity: Capacity::Undeclared,
        };
        let service = GlobalService {
            key: key.clone(),
            ports: vec![],
            shards: clusters.iter().map(shard).collect(),
            policy: Policy::default(),
            load: Load::default(),
        };
        Snapshot {
            services: [(key, Arc::new(service))].into(),
            unread: unread.iter().map(|name| (*name).into()).collect(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn shards_of_members_that_could_not_be_read_are_kept() {
        let held = with_shards(&["asia", "eu", "us"], &[]);
        let new = with_shards(&["us"], &["eu"]);
        assert_eq!(new.completed_by(&held).services, with_shards(&["eu", "us"], &[]).services);
        let read = with_shards(&["us"], &[]);
        assert_eq!(read.completed_by(&held), read);
    }

    #[test]
    fn private_key_is_not_printed() {
        let certificate = Certificate { chain_pem: "chain".into(), key_pem: "top-secret".into() };
        assert!(!format!("{certificate:?}").contains("top-secret"));
    }
}
