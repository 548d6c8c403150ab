//! What the index is told: slim extracts of Kubernetes objects, one type per kind.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::{
    id::{ClusterName, ObjectKey, RegionName, ZoneName},
    name::DnsName,
    snapshot::{
        Address, Backend, Cluster, DnsTarget, EndpointPort, Health, HostRule, ServicePort, Site, Strategy,
        Zone,
    },
    time::Timestamp,
};

/// What a watch says of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Change<K, F> {
    /// The object exists with these facts.
    Apply(K, F),
    /// It is gone.
    Delete(K),
    /// These are all there are; whatever else was known is gone.
    Reset(Vec<(K, F)>),
}

/// A member as the hub and its nodes describe it.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberFact {
    /// What the edges see of it.
    pub cluster: Cluster,
    /// Labels of its object on the hub: what policies select by.
    pub labels: BTreeMap<String, String>,
}

/// One EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFact {
    /// The Service it belongs to.
    pub service: ObjectKey,
    /// Its ports.
    pub ports: Vec<EndpointPort>,
    /// Its endpoints, in its order.
    pub endpoints: Box<[EndpointFact]>,
}

/// One address of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFact {
    /// The address.
    pub address: IpAddr,
    /// Zone of its node.
    pub zone: Option<ZoneName>,
    /// `conditions.ready`; absent means true.
    pub is_ready: bool,
    /// `conditions.serving`; absent means as ready.
    pub is_serving: bool,
    /// `conditions.terminating`.
    pub is_terminating: bool,
}

/// One Service of a member.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceFact {
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// Whether it is of type LoadBalancer.
    pub is_load_balancer: bool,
    /// What its status says of the load balancer.
    pub load_balancer: Vec<Address>,
    /// What its annotations declare.
    pub capacity: Option<CapacityDeclaration>,
}

/// One Ingress of a member.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemberIngressFact {
    /// Its rules.
    pub ingress: IngressFact,
    /// What its status says of its load balancer.
    pub addresses: Vec<Address>,
}

/// One FederatedService of the hub.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FederatedServiceFact {
    /// Ports of the template.
    pub ports: Vec<ServicePort>,
    /// What annotations of the template declare.
    pub capacity: Option<CapacityDeclaration>,
}

/// Rules of an Ingress, wherever it is from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IngressFact {
    /// Creation time: the older of two claims wins.
    pub created: Timestamp,
    /// Rules, in the order of the object.
    pub rules: Vec<HostRule>,
    /// Backend of whatever no rule matches.
    pub default_backend: Option<Backend>,
    /// Certificates.
    pub tls: Vec<TlsFact>,
    /// What of the object cannot be used and was left out, as messages that name field and value.
    pub faults: Vec<String>,
}

impl IngressFact {
    /// Services that its rules name.
    #[must_use]
    pub fn backends(&self) -> BTreeSet<ObjectKey> {
        let paths = self.rules.iter().flat_map(|rule| &rule.paths).map(|path| &path.backend);
        paths.chain(&self.default_backend).map(|backend| backend.service.clone()).collect()
    }
}

/// A certificate that an Ingress names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFact {
    /// Hosts; empty means every host of the object.
    pub hosts: Vec<DnsName>,
    /// The Secret, in the namespace of the Ingress.
    pub secret: ObjectKey,
}

/// One TrafficPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyFact {
    /// Creation time: the older of two policies on one target applies.
    pub created: Timestamp,
    /// Objects that it applies to.
    pub targets: Vec<Target>,
    /// Members that plain Services and Ingresses are taken from.
    pub clusters: ClusterSelector,
    /// Proximity declares nothing.
    pub strategy: Strategy,
    /// The fence, if there is one.
    pub allowed_regions: Option<Vec<RegionName>>,
    /// Declared capacity, if any.
    pub capacity: Option<CapacityDeclaration>,
    /// Health rules; the defaults declare nothing.
    pub health: Health,
    /// What it says about DNS.
    pub dns: DnsDeclaration,
}

/// What a policy applies to, in its own namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Kind of the object.
    pub kind: TargetKind,
    /// Its namespace and name.
    pub key: ObjectKey,
}

/// Kinds that a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetKind {
    /// A FederatedService of the hub.
    FederatedService,
    /// A FederatedIngress of the hub.
    FederatedIngress,
    /// A Service of that name in every selected member.
    Service,
    /// An Ingress of that name in every selected member.
    Ingress,
}

impl TargetKind {
    /// Its word in objects and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FederatedService => "FederatedService",
            Self::FederatedIngress => "FederatedIngress",
            Self::Service => "Service",
            Self::Ingress => "Ingress",
        }
    }

    /// True for kinds that route hosts and paths.
    #[must_use]
    pub const fn is_ingress(self) -> bool {
        matches!(self, Self::FederatedIngress | Self::Ingress)
    }
}

/// Which members count: those named that also carry all the labels. Empty selects all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterSelector {
    /// Labels that must be equal.
    pub labels: BTreeMap<String, String>,
    /// Names; empty for any.
    pub names: BTreeSet<ClusterName>,
}

impl ClusterSelector {
    /// Whether the member is selected.
    #[must_use]
    pub fn selects(&self, member: &MemberFact) -> bool {
        (self.names.is_empty() || self.names.contains(&member.cluster.name))
            && self.labels.iter().all(|(key, value)| member.labels.get(key) == Some(value))
    }
}

/// Capacity per ready endpoint. A rate beats a concurrency where both are declared.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CapacityDeclaration {
    /// Requests per second.
    pub rate: Option<f64>,
    /// Requests in flight.
    pub in_flight: Option<f64>,
    /// What differs in single members: (requests per second, requests in flight).
    pub per_cluster: BTreeMap<ClusterName, (Option<f64>, Option<f64>)>,
}

impl CapacityDeclaration {
    /// What holds in one member; none if nothing is declared for it.
    #[must_use]
    pub fn in_cluster(&self, cluster: &ClusterName) -> Option<(Option<f64>, Option<f64>)> {
        let declared = self.per_cluster.get(cluster).copied().unwrap_or((self.rate, self.in_flight));
        (declared != (None, None)).then_some(declared)
    }
}

/// What a policy says about DNS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsDeclaration {
    /// Names to answer for, beside those of Ingress rules. Not all of them need be valid: what is not a
    /// name stands as an error with its text.
    pub hostnames: Vec<Result<DnsName, String>>,
    /// Seconds; none for the zone's.
    pub ttl: Option<u32>,
    /// Addresses per answer; none for one.
    pub answers: Option<u8>,
    /// Whose addresses.
    pub target: DnsTarget,
}

/// One Site.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteFact {
    /// The site, with region and location of its own only.
    pub site: Site,
    /// What of the object cannot be used and was left out, as messages that name field and value.
    pub faults: Vec<String>,
}

/// One DnsZone.
#[derive(Clone, Debug, PartialEq)]
pub struct ZoneFact {
    /// Creation time: the older of two zones of one domain is served.
    pub created: Timestamp,
    /// Everything but names; the serial is the last that its status says, or 0.
    pub zone: Zone,
    /// Namespaces whose objects may have names in it.
    pub admits: Admits,
    /// The label of KubeFed's names, if it has them.
    pub federation: Option<Arc<str>>,
    /// Seconds, where no policy says otherwise.
    pub ttl: u32,
    /// What of the object cannot be used, as messages that name field and value.
    pub faults: Vec<String>,
}

/// Namespaces that are admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admits {
    /// Every namespace.
    pub all: bool,
    /// These.
    pub names: BTreeSet<String>,
}

impl Admits {
    /// Whether objects of this namespace are admitted.
    #[must_use]
    pub fn admits(&self, namespace: &str) -> bool {
        self.all || self.names.contains(namespace)
    }
}

/// Applies `change` to `held`. The result lists the keys whose facts differ now, with what was held.
pub(super) fn fold<K: Ord + Clone, F: PartialEq>(
    held: &mut BTreeMap<K, F>,
    change: Change<K, F>,
) -> Vec<(K, Option<F>)> {
    match change {
        Change::Apply(key, fact) => {
            if held.get(&key) == Some(&fact) {
                return Vec::new();
            }
            let old = held.insert(key.clone(), fact);
            vec![(key, old)]
        }
        Change::Delete(key) => held.remove(&key).map(|old| (key, Some(old))).into_iter().collect(),
        Change::Reset(all) => {
            let mut before = std::mem::take(held);
            let mut differing = Vec::new();
            for (key, fact) in all {
                let old = before.remove(&key);
                if old.as_ref() != Some(&fact) {
                    differing.push((key.clone(), old));
                }
                held.insert(key, fact);
            }
            differing.extend(before.into_iter().map(|(key, old)| (key, Some(old))));
            differing
        }
    }
}
