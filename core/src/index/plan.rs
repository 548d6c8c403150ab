//! The structure: which services and ingresses there are, and which policy steers each.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    CapacityDeclaration, ClusterSelector, Facts, IngressFact, MemberFact, PolicyFact, Target, TargetKind,
    claims::{self, Claims},
};
use crate::{
    id::ObjectKey,
    name::DnsName,
    snapshot::{
        Certificate, DnsPolicy, GlobalIngress, HostRule, NameTarget, Policy, ServicePort, Shard, TlsHosts,
    },
};

/// What follows from the hub's objects and the members' Ingresses, endpoints aside.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    services: BTreeMap<ObjectKey, ServicePlan>,
    ingresses: BTreeMap<ObjectKey, GlobalIngress>,
    pub(super) claims: Claims,
}

/// How one service is put together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ServicePlan {
    /// Ports of the hub's template, if there is one.
    template_ports: Vec<ServicePort>,
    pub(super) template_capacity: Option<CapacityDeclaration>,
    /// Declarations of policies, the one that counts first.
    pub(super) capacities: Vec<CapacityDeclaration>,
    /// Members that may hold a shard: those that any of these selects.
    selectors: Vec<ClusterSelector>,
    pub(super) policy: Policy,
}

impl ServicePlan {
    pub(super) fn selects(&self, member: &MemberFact) -> bool {
        self.selectors.iter().any(|selector| selector.selects(member))
    }

    pub(super) fn ports(&self, facts: &Facts, key: &ObjectKey, shards: &[Shard]) -> Vec<ServicePort> {
        if !self.template_ports.is_empty() {
            return self.template_ports.clone();
        }
        let first = shards.first().and_then(|shard| facts.members.get(&shard.cluster));
        first.and_then(|member| member.services.get(key)).map(|fact| fact.ports.clone()).unwrap_or_default()
    }
}

/// Which policy applies to what, and which Ingresses there are.
pub(super) struct Attachments<'a> {
    services: BTreeMap<&'a ObjectKey, (&'a ObjectKey, &'a PolicyFact)>,
    on_ingresses: BTreeMap<&'a ObjectKey, (&'a ObjectKey, &'a PolicyFact)>,
    pub(super) ingresses: BTreeMap<ObjectKey, (TargetKind, &'a IngressFact)>,
}

impl<'a> Attachments<'a> {
    pub(super) fn of(facts: &'a Facts) -> Self {
        let mut policies: Vec<_> = facts.policies.iter().collect();
        policies.sort_by_key(|(key, policy)| (policy.created, *key));
        let (mut services, mut on_ingresses) = (BTreeMap::new(), BTreeMap::new());
        for (key, policy) in policies {
            for target in &policy.targets {
                let attached = if target.kind.is_ingress() { &mut on_ingresses } else { &mut services };
                attached.entry(&target.key).or_insert((key, policy));
            }
        }
        let mut ingresses: BTreeMap<ObjectKey, (TargetKind, &IngressFact)> = BTreeMap::new();
        for (key, fact) in &facts.federated_ingresses {
            ingresses.insert(key.clone(), (TargetKind::FederatedIngress, fact));
        }
        for (at, (_, policy)) in &on_ingresses {
            let is_plain = policy.targets.iter().any(|t| t.kind == TargetKind::Ingress && t.key == **at);
            if is_plain && let Some(fact) = plain_ingress(facts, at, &policy.clusters) {
                ingresses.entry((*at).clone()).or_insert((TargetKind::Ingress, fact));
            }
        }
        Self { services, on_ingresses, ingresses }
    }

    /// The policy that applies to this target.
    pub(super) fn policy_of(&self, target: &Target) -> Option<&(&'a ObjectKey, &'a PolicyFact)> {
        let attached = if target.kind.is_ingress() { &self.on_ingresses } else { &self.services };
        attached.get(&target.key)
    }

    /// Whether this policy is the one that applies to its target.
    pub(super) fn applies(&self, policy: &ObjectKey, target: &Target) -> bool {
        self.policy_of(target).is_some_and(|(key, _)| *key == policy)
    }
}

/// Rules of a plain Ingress: of the first selected member that has it.
fn plain_ingress<'a>(
    facts: &'a Facts,
    key: &ObjectKey,
    selector: &ClusterSelector,
) -> Option<&'a IngressFact> {
    facts.members.values().find_map(|member| {
        let is_selected = member.fact.as_ref().is_some_and(|fact| selector.selects(fact));
        is_selected.then(|| member.ingresses.get(key)).flatten().map(|fact| &fact.ingress)
    })
}

impl Plan {
    /// The structure that the facts say. O(objects of the hub).
    pub(super) fn of(facts: &Facts) -> Self {
        let attachments = Attachments::of(facts);
        let claims = claims::hear(facts, &attachments);
        let ingresses: BTreeMap<ObjectKey, GlobalIngress> = attachments
            .ingresses
            .iter()
            .map(|(key, (_, fact))| (key.clone(), global_ingress(facts, key, fact, &attachments, &claims)))
            .collect();
        let services = service_plans(facts, &attachments, &claims);
        Self { services, ingresses, claims }
    }

    pub(super) fn service(&self, key: &ObjectKey) -> Option<&ServicePlan> {
        self.services.get(key)
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &ObjectKey> {
        self.services.keys()
    }

    /// Services that are put together differently now.
    pub(super) fn differences(&self, old: &Self) -> Vec<ObjectKey> {
        let changed = self.services.iter().filter(|(key, plan)| old.services.get(key) != Some(plan));
        let gone = old.services.keys().filter(|key| !self.services.contains_key(key));
        changed.map(|(key, _)| key.clone()).chain(gone.cloned()).collect()
    }

    pub(super) fn ingresses(&self) -> Vec<(ObjectKey, GlobalIngress)> {
        self.ingresses.iter().map(|(key, ingress)| (key.clone(), ingress.clone())).collect()
    }

    /// Certificates that some Ingress names and somebody has.
    pub(super) fn certificates(&self, facts: &Facts) -> Vec<(ObjectKey, Certificate)> {
        let named = self.ingresses.values().flat_map(|ingress| &ingress.tls).map(|tls| &tls.certificate);
        let named: BTreeSet<&ObjectKey> = named.collect();
        let found = named.into_iter().filter_map(|key| {
            let own = facts.certificates.get(key);
            let certificate = own.or_else(|| facts.federated_certificates.get(key))?;
            Some((key.clone(), certificate.clone()))
        });
        found.collect()
    }
}

fn global_ingress(
    facts: &Facts,
    key: &ObjectKey,
    fact: &IngressFact,
    attachments: &Attachments<'_>,
    claims: &Claims,
) -> GlobalIngress {
    let is_denied = |host: &DnsName| claims.denied.contains(&(key.clone(), host.clone()));
    let rules: Vec<HostRule> =
        fact.rules.iter().filter(|rule| !rule.host.as_ref().is_some_and(is_denied)).cloned().collect();
    // A certificate counts only for hosts that the Ingress itself routes: otherwise any namespace could
    // put its own before a host of another.
    let routes = |host: &DnsName| rules.iter().any(|rule| rule.host.as_ref() == Some(host));
    let is_elsewhere = |host: &DnsName| {
        let others = attachments.ingresses.iter().filter(|(other, _)| *other != key);
        others.flat_map(|(_, (_, other))| &other.rules).any(|rule| {
            rule.host.as_ref().is_some_and(|named| {
                named == host || (named.is_wildcard() && named.parent() == host.parent())
            })
        })
    };
    let has_hosts = rules.iter().any(|rule| rule.host.is_some());
    let vouches = |host: &DnsName| routes(host) || (!has_hosts && !is_elsewhere(host));
    let attached = attachments.on_ingresses.get(key);
    let target = NameTarget::Ingress(key.clone());
    GlobalIngress {
        key: key.clone(),
        created: fact.created,
        default_backend: fact.default_backend.clone(),
        tls: fact
            .tls
            .iter()
            .map(|tls| (tls, tls.hosts.iter().filter(|host| vouches(host)).cloned().collect::<Vec<_>>()))
            // No hosts means every host of the object, which is not what is left of a list.
            .filter(|(tls, hosts)| tls.hosts.is_empty() || !hosts.is_empty())
            .map(|(tls, hosts)| TlsHosts { hosts, certificate: tls.secret.clone() })
            .collect(),
        rules,
        policy: attached
            .map(|(_, policy)| steering(policy, dns_policy(facts, Some(policy), &target, claims))),
    }
}

fn service_plans(
    facts: &Facts,
    attachments: &Attachments<'_>,
    claims: &Claims,
) -> BTreeMap<ObjectKey, ServicePlan> {
    let mut plans: BTreeMap<ObjectKey, ServicePlan> = BTreeMap::new();
    for (key, fact) in &facts.federated_services {
        let plan = plans.entry(key.clone()).or_default();
        plan.template_ports.clone_from(&fact.ports);
        plan.template_capacity.clone_from(&fact.capacity);
        plan.selectors.push(ClusterSelector::default());
    }
    // Ingresses first: what a policy on an Ingress declares beats what one on the Service does.
    let mut ingresses: Vec<_> = attachments.ingresses.iter().collect();
    ingresses.sort_by_key(|(key, (_, fact))| (fact.created, *key));
    for (key, (kind, fact)) in ingresses {
        let policy = attachments.on_ingresses.get(key).map(|(_, policy)| *policy);
        let selector = match (kind, policy) {
            (TargetKind::Ingress, Some(policy)) => policy.clusters.clone(),
            _ => ClusterSelector::default(),
        };
        for backend in fact.backends() {
            let plan = plans.entry(backend).or_default();
            plan.selectors.push(selector.clone());
            plan.capacities.extend(policy.and_then(|policy| policy.capacity.clone()));
        }
    }
    for (key, (_, policy)) in &attachments.services {
        let is_plain = policy.targets.iter().any(|t| t.kind == TargetKind::Service && t.key == **key);
        let plan = match plans.get_mut(*key) {
            Some(plan) => plan,
            None if is_plain => plans.entry((*key).clone()).or_default(),
            // It names a FederatedService that does not exist.
            None => continue,
        };
        if is_plain {
            plan.selectors.push(policy.clusters.clone());
        }
        plan.capacities.extend(policy.capacity.clone());
    }
    for (key, plan) in &mut plans {
        let policy = attachments.services.get(key).map(|(_, policy)| *policy);
        let dns = dns_policy(facts, policy, &NameTarget::Service(key.clone()), claims);
        plan.policy = policy.map_or_else(Policy::default, |policy| steering(policy, dns.clone()));
        plan.policy.dns = dns;
        plan.selectors.sort_by(|a, b| (&a.names, &a.labels).cmp(&(&b.names, &b.labels)));
        plan.selectors.dedup();
    }
    let ttls = ingress_ttls(facts, attachments, claims);
    for (key, ttl) in ttls {
        let is_free = attachments.services.get(&key).is_none_or(|(_, policy)| policy.dns.ttl.is_none());
        if is_free && let Some(plan) = plans.get_mut(&key) {
            plan.policy.dns.ttl = ttl;
        }
    }
    plans
}

fn steering(policy: &PolicyFact, dns: DnsPolicy) -> Policy {
    Policy {
        strategy: policy.strategy.clone(),
        allowed_regions: policy.allowed_regions.clone(),
        health: policy.health.clone(),
        dns,
    }
}

/// What DNS says of a target: its granted names that a policy asked for, and its policy's wishes with the
/// zone's TTL where the policy has none.
fn dns_policy(facts: &Facts, policy: Option<&PolicyFact>, target: &NameTarget, claims: &Claims) -> DnsPolicy {
    let unset = DnsPolicy::default();
    let declared = policy.map(|policy| &policy.dns);
    let wanted = declared.into_iter().flat_map(|dns| &dns.hostnames).filter_map(|name| name.as_ref().ok());
    let hostnames = wanted
        .filter(|host| claims.granted.get(*host).is_some_and(|grant| grant.target == *target))
        .cloned()
        .collect();
    DnsPolicy {
        hostnames,
        ttl: declared
            .and_then(|dns| dns.ttl)
            .or_else(|| zone_ttl(facts, target, claims))
            .unwrap_or(unset.ttl),
        answers: declared.and_then(|dns| dns.answers).unwrap_or(unset.answers),
        target: declared.map_or(unset.target, |dns| dns.target),
    }
}

/// TTL of the zone that serves a target's names; the lowest where there are several, and for a service
/// without names of its own that of the zones with KubeFed's names.
fn zone_ttl(facts: &Facts, target: &NameTarget, claims: &Claims) -> Option<u32> {
    let grants = claims.granted.values().filter(|grant| grant.target == *target);
    let of_names =
        grants.filter_map(|grant| facts.zones.get(grant.zone.as_ref()?)).map(|zone| zone.ttl).min();
    let federations = || {
        let NameTarget::Service(key) = target else { return None };
        let zones = facts.zones.values();
        let named = zones.filter(|zone| zone.federation.is_some() && zone.admits.admits(&key.namespace));
        named.map(|zone| zone.ttl).min()
    };
    of_names.or_else(federations)
}

/// TTLs for services behind Ingresses without a policy: DNS then goes by the service's, so the service
/// takes that of the zone with the Ingress's hosts.
fn ingress_ttls(facts: &Facts, attachments: &Attachments<'_>, claims: &Claims) -> BTreeMap<ObjectKey, u32> {
    let mut ttls = BTreeMap::new();
    for (key, (_, fact)) in &attachments.ingresses {
        if attachments.on_ingresses.contains_key(key) {
            continue;
        }
        if let Some(ttl) = zone_ttl(facts, &NameTarget::Ingress(key.clone()), claims) {
            for backend in fact.backends() {
                let lowest = ttls.entry(backend).or_insert(ttl);
                *lowest = ttl.min(*lowest);
            }
        }
    }
    ttls
}
