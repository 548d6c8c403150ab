//! From facts about the fleet to the snapshot that the edges answer from.
//!
//! ```text
//! facts (apply / delete / reset, per kind and member) --> dirty services, dirty structure
//!   --> publish(now): plan (who names which service, which policy, which host)
//!                     build (dirty services only) --> Some(snapshot) if anything differs
//! ```
//! Everything is synchronous and in memory. Facts are slim extracts, never whole objects. What did not
//! change keeps its `Arc` from one snapshot to the next, so a reader finds a difference by pointers.
//!
//! A member whose API server is away simply sends nothing, and so keeps its facts; only
//! [`Index::remove_member`] drops them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

mod claims;
mod facts;
mod load;
mod names;
mod plan;
mod shard;
mod verdict;

#[cfg(test)]
mod testkit;
#[cfg(test)]
mod tests;

pub use facts::{
    Admits, CapacityDeclaration, Change, ClusterSelector, DnsDeclaration, EndpointFact, FederatedServiceFact,
    IngressFact, MemberFact, MemberIngressFact, PolicyFact, ServiceFact, SiteFact, SliceFact, Target,
    TargetKind, TlsFact, ZoneFact,
};
pub use verdict::{Fault, PolicyVerdict, Verdicts, ZoneVerdict};

use facts::fold;
use load::Demands;
use plan::Plan;

use crate::{
    id::{ClusterName, ObjectKey, SiteName},
    name::DnsName,
    snapshot::{Certificate, Generation, GlobalService, Site, Snapshot},
    time::Timestamp,
};

/// All that is known of the fleet, and the last snapshot made of it.
#[derive(Debug)]
pub struct Index {
    facts: Facts,
    plan: Plan,
    demands: Demands,
    dirty: Dirty,
    verdicts: Verdicts,
    unread: BTreeSet<ClusterName>,
    published: Arc<Snapshot>,
}

/// What was said, by kind.
#[derive(Debug, Default)]
struct Facts {
    members: BTreeMap<ClusterName, Member>,
    federated_services: BTreeMap<ObjectKey, FederatedServiceFact>,
    federated_ingresses: BTreeMap<ObjectKey, IngressFact>,
    policies: BTreeMap<ObjectKey, PolicyFact>,
    sites: BTreeMap<SiteName, SiteFact>,
    zones: BTreeMap<Arc<str>, ZoneFact>,
    certificates: BTreeMap<ObjectKey, Certificate>,
    federated_certificates: BTreeMap<ObjectKey, Certificate>,
}

/// One member's part of the facts.
#[derive(Debug, Default)]
struct Member {
    /// None until the hub says that the member exists: its facts do not count before.
    fact: Option<MemberFact>,
    services: BTreeMap<ObjectKey, ServiceFact>,
    slices: BTreeMap<ObjectKey, SliceFact>,
    /// Keys of slices, by the service they belong to.
    slices_of: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    ingresses: BTreeMap<ObjectKey, MemberIngressFact>,
}

/// What has to be made anew at the next publication.
#[derive(Debug, Default)]
struct Dirty {
    services: BTreeSet<ObjectKey>,
    /// Which services and ingresses there are, and what steers them.
    structure: bool,
    /// Names in zones: services of load balancers, regions and zones of members.
    names: bool,
    clusters: bool,
    sites: bool,
    /// Services whose shares may have moved.
    loads: BTreeSet<ObjectKey>,
}

impl Index {
    /// An empty index of the hub with this UID, whose publications carry `term`.
    #[must_use]
    pub fn new(hub: impl Into<Arc<str>>, term: u64) -> Self {
        let generation = Generation { hub: hub.into(), term, seq: 0 };
        Self {
            facts: Facts::default(),
            plan: Plan::default(),
            demands: Demands::default(),
            dirty: Dirty { structure: true, clusters: true, sites: true, ..Dirty::default() },
            verdicts: Verdicts::default(),
            unread: BTreeSet::new(),
            published: Arc::new(Snapshot { generation, ..Snapshot::default() }),
        }
    }

    /// Says that an edge holds `held`. If what is published does not supersede it, the term rises above
    /// it, and the next publication comes even if nothing else changed. The result says whether it rose.
    pub fn outrank(&mut self, held: &Generation) -> bool {
        let generation = &self.published.generation;
        if held.hub != generation.hub || generation.supersedes(held) || generation == held {
            return false;
        }
        let generation = Generation { term: held.term.saturating_add(1), seq: 0, ..generation.clone() };
        self.published = Arc::new(Snapshot { generation, ..self.published.as_ref().clone() });
        self.dirty.structure = true;
        true
    }

    /// Adds or updates a member.
    pub fn apply_member(&mut self, fact: MemberFact) {
        let member = self.facts.members.entry(fact.cluster.name.clone()).or_default();
        let Some(old) = &member.fact else {
            self.dirty.services.extend(member.services.keys().cloned());
            (self.dirty.structure, self.dirty.names, self.dirty.clusters) = (true, true, true);
            member.fact = Some(fact);
            return;
        };
        if *old == fact {
            return;
        }
        // Selectors look at labels; names of zones and regions are made of what the member has.
        self.dirty.structure |= old.labels != fact.labels;
        self.dirty.names |=
            old.cluster.region != fact.cluster.region || old.cluster.zones != fact.cluster.zones;
        if old.labels != fact.labels {
            self.dirty.services.extend(member.services.keys().cloned());
        }
        if old.cluster != fact.cluster {
            self.dirty.clusters = true;
            self.dirty.loads.extend(member.services.keys().cloned());
        }
        member.fact = Some(fact);
    }

    /// Forgets a member and everything it said. Only for members that left the hub: one whose API server
    /// is away keeps its facts.
    pub fn remove_member(&mut self, cluster: &ClusterName) {
        if let Some(member) = self.facts.members.remove(cluster) {
            self.dirty.services.extend(member.services.into_keys());
            (self.dirty.structure, self.dirty.names, self.dirty.clusters) = (true, true, true);
        }
    }

    /// EndpointSlices of a member, by their own namespace and name.
    pub fn member_slices(&mut self, cluster: &ClusterName, change: Change<ObjectKey, SliceFact>) {
        let member = self.facts.members.entry(cluster.clone()).or_default();
        for (key, old) in fold(&mut member.slices, change) {
            let new = member.slices.get(&key).map(|slice| slice.service.clone());
            let old = old.map(|slice| slice.service);
            if old != new {
                if let Some(service) = &old
                    && let Some(keys) = member.slices_of.get_mut(service)
                {
                    keys.remove(&key);
                    if keys.is_empty() {
                        member.slices_of.remove(service);
                    }
                }
                if let Some(service) = &new {
                    member.slices_of.entry(service.clone()).or_default().insert(key);
                }
            }
            self.dirty.services.extend(old.into_iter().chain(new));
        }
    }

    /// Services of a member.
    pub fn member_services(&mut self, cluster: &ClusterName, change: Change<ObjectKey, ServiceFact>) {
        let member = self.facts.members.entry(cluster.clone()).or_default();
        for (key, old) in fold(&mut member.services, change) {
            let new = member.services.get(&key);
            let is_balanced = |fact: Option<&ServiceFact>| fact.map(|fact| fact.is_load_balancer);
            self.dirty.names |= is_balanced(old.as_ref()) != is_balanced(new);
            // Whether a policy's target exists is part of its verdict; capacity annotations are planned.
            self.dirty.structure |= old.is_some() != new.is_some()
                || old.as_ref().and_then(|fact| fact.capacity.as_ref())
                    != new.and_then(|fact| fact.capacity.as_ref());
            self.dirty.services.insert(key);
        }
    }

    /// Ingresses of a member.
    pub fn member_ingresses(&mut self, cluster: &ClusterName, change: Change<ObjectKey, MemberIngressFact>) {
        let member = self.facts.members.entry(cluster.clone()).or_default();
        for (key, old) in fold(&mut member.ingresses, change) {
            let new = member.ingresses.get(&key);
            self.dirty.structure |= old.as_ref().map(|fact| &fact.ingress) != new.map(|fact| &fact.ingress);
            let backends = |fact: Option<&MemberIngressFact>| {
                fact.map(|fact| fact.ingress.backends()).unwrap_or_default()
            };
            self.dirty.services.extend(backends(old.as_ref()));
            self.dirty.services.extend(backends(new));
        }
    }

    /// FederatedServices of the hub.
    pub fn federated_services(&mut self, change: Change<ObjectKey, FederatedServiceFact>) {
        self.dirty.structure |= !fold(&mut self.facts.federated_services, change).is_empty();
    }

    /// FederatedIngresses of the hub.
    pub fn federated_ingresses(&mut self, change: Change<ObjectKey, IngressFact>) {
        self.dirty.structure |= !fold(&mut self.facts.federated_ingresses, change).is_empty();
    }

    /// TrafficPolicies of the hub.
    pub fn policies(&mut self, change: Change<ObjectKey, PolicyFact>) {
        self.dirty.structure |= !fold(&mut self.facts.policies, change).is_empty();
    }

    /// Sites of the hub; region and location of their member are filled in.
    pub fn sites(&mut self, change: Change<SiteName, SiteFact>) {
        self.dirty.sites |= !fold(&mut self.facts.sites, change).is_empty();
    }

    /// DnsZones of the hub, by the object's name.
    pub fn zones(&mut self, change: Change<Arc<str>, ZoneFact>) {
        self.dirty.structure |= !fold(&mut self.facts.zones, change).is_empty();
    }

    /// TLS Secrets of the hub. Only those that an Ingress names reach the snapshot.
    pub fn certificates(&mut self, change: Change<ObjectKey, Certificate>) {
        self.dirty.structure |= !fold(&mut self.facts.certificates, change).is_empty();
    }

    /// TLS Secrets in the templates of FederatedSecrets: what counts where the hub has no Secret itself.
    pub fn federated_certificates(&mut self, change: Change<ObjectKey, Certificate>) {
        self.dirty.structure |= !fold(&mut self.facts.federated_certificates, change).is_empty();
    }

    /// Takes in what a site measured: requests per second that arrived for each service. Sites that the
    /// hub does not know are ignored. `now` is any clock that does not go back.
    pub fn report(
        &mut self,
        site: &SiteName,
        rates: impl IntoIterator<Item = (ObjectKey, f64)>,
        now: Timestamp,
    ) {
        if !self.facts.sites.contains_key(site) {
            return;
        }
        for (service, rate) in rates {
            if self.has_declared_rate(&service) {
                self.demands.observe(&service, site, rate, now);
                self.dirty.loads.insert(service);
            }
        }
    }

    /// Members whose objects have not all been read yet: what is missing of them proves nothing, and the
    /// snapshot says so.
    pub fn unread(&mut self, members: BTreeSet<ClusterName>) {
        self.unread = members;
    }

    /// What is to be said about objects of the hub, as of the last [`Index::publish`].
    #[must_use]
    pub const fn verdicts(&self) -> &Verdicts {
        &self.verdicts
    }

    /// The last snapshot; `seq` 0 and empty before the first.
    #[must_use]
    pub const fn published(&self) -> &Arc<Snapshot> {
        &self.published
    }

    /// Makes the next snapshot if anything differs from the last. `now` is wall-clock time: serials of
    /// zones follow it, and dials expire by it. O(dirty services) unless the structure changed.
    pub fn publish(&mut self, now: Timestamp) -> Option<Arc<Snapshot>> {
        let dirty = std::mem::take(&mut self.dirty);
        let mut rebuild = dirty.services;
        if dirty.structure {
            let plan = Plan::of(&self.facts);
            rebuild.extend(plan.differences(&self.plan));
            self.plan = plan;
        }
        let mut next = self.published.as_ref().clone();
        next.unread.clone_from(&self.unread);
        if dirty.clusters {
            self.refresh_clusters(&mut next);
        }
        if dirty.sites || dirty.clusters {
            self.refresh_sites(&mut next);
        }
        let mut reload = dirty.loads;
        for key in rebuild {
            if self.refresh_service(&mut next, &key) {
                reload.insert(key);
            }
        }
        if dirty.structure {
            refresh(&mut next.ingresses, self.plan.ingresses(), ObjectKey::clone);
            refresh(&mut next.certificates, self.plan.certificates(&self.facts), ObjectKey::clone);
        }
        if dirty.structure || dirty.names {
            let zones = names::zones(&self.facts, &self.plan, &next, &self.published.zones, now);
            refresh(&mut next.zones, zones, DnsName::clone);
        }
        if dirty.sites {
            // The set of vantages changed: everybody's part may be another.
            reload.extend(self.demands.services());
            self.demands.retain_sites(|site| self.facts.sites.contains_key(site));
        }
        for key in reload {
            self.refresh_load(&mut next, &key, now);
        }
        if dirty.structure || dirty.names || dirty.sites || dirty.clusters {
            self.verdicts = verdict::all(&self.facts, &self.plan, &next);
        }
        if is_same(&next, &self.published) && self.published.generation.seq > 0 {
            return None;
        }
        next.generation.seq += 1;
        self.published = Arc::new(next);
        Some(self.published.clone())
    }

    fn refresh_clusters(&self, next: &mut Snapshot) {
        let facts = self.facts.members.values().filter_map(|member| member.fact.as_ref());
        let clusters = facts.map(|fact| (fact.cluster.name.clone(), fact.cluster.clone()));
        refresh(&mut next.clusters, clusters, ClusterName::clone);
    }

    fn refresh_sites(&self, next: &mut Snapshot) {
        let sites = self.facts.sites.values().map(|SiteFact { site, .. }| {
            let home = site.cluster.as_ref().and_then(|name| next.clusters.get(name));
            let region = site.region.clone().or_else(|| home.and_then(|cluster| cluster.region.clone()));
            let location = crate::geo::location_of(site.location, site.region.as_ref())
                .or_else(|| home.and_then(|cluster| cluster.location));
            (site.name.clone(), Site { region, location, ..site.clone() })
        });
        let sites: Vec<_> = sites.collect();
        refresh(&mut next.sites, sites, SiteName::clone);
    }

    /// Builds one service anew; says whether it differs.
    fn refresh_service(&self, next: &mut Snapshot, key: &ObjectKey) -> bool {
        let Some(plan) = self.plan.service(key) else { return next.services.remove(key).is_some() };
        let held = next.services.get(key);
        let load = held.map(|held| held.load.clone()).unwrap_or_default();
        let shards = shard::all(&self.facts, key, plan);
        let ports = plan.ports(&self.facts, key, &shards);
        let service = GlobalService { key: key.clone(), ports, shards, policy: plan.policy.clone(), load };
        if held.is_some_and(|held| **held == service) {
            return false;
        }
        next.services.insert(key.clone(), Arc::new(service));
        true
    }

    fn refresh_load(&mut self, next: &mut Snapshot, key: &ObjectKey, now: Timestamp) {
        let Some(service) = next.services.get(key) else {
            self.demands.forget(key);
            return;
        };
        if let Some(load) = self.demands.solve(next, service, now) {
            let service = GlobalService { load, ..service.as_ref().clone() };
            next.services.insert(key.clone(), Arc::new(service));
        }
    }

    fn has_declared_rate(&self, service: &ObjectKey) -> bool {
        self.published.services.get(service).is_some_and(|service| load::has_declared_rate(service))
    }
}

/// Whether two snapshots share all their parts. Pointers are enough: equal values keep theirs.
fn is_same(a: &Snapshot, b: &Snapshot) -> bool {
    fn same<K: PartialEq, V>(a: &BTreeMap<K, Arc<V>>, b: &BTreeMap<K, Arc<V>>) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|((k, v), (l, w))| k == l && Arc::ptr_eq(v, w))
    }
    same(&a.clusters, &b.clusters)
        && same(&a.sites, &b.sites)
        && same(&a.services, &b.services)
        && same(&a.ingresses, &b.ingresses)
        && same(&a.zones, &b.zones)
        && same(&a.certificates, &b.certificates)
        && a.unread == b.unread
}

/// Makes `held` what `wanted` says; equal values keep their pointer.
fn refresh<K: Ord, V: PartialEq>(
    held: &mut BTreeMap<K, Arc<V>>,
    wanted: impl IntoIterator<Item = (K, V)>,
    clone: impl Fn(&K) -> K,
) {
    let mut names = BTreeSet::new();
    for (name, value) in wanted {
        names.insert(clone(&name));
        if held.get(&name).is_none_or(|old| **old != value) {
            held.insert(name, Arc::new(value));
        }
    }
    held.retain(|name, _| names.contains(name));
}
