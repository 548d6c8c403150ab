//! What is to be said about the hub's objects.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Facts, PolicyFact, SiteFact, Target, TargetKind,
    claims::{Claimant, POLICY, served_zones},
    plan::{Attachments, Plan},
};
use crate::{
    id::{ObjectKey, SiteName},
    route::RouteTable,
    snapshot::Snapshot,
};

/// Verdicts on every object that has a status of ours to carry one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// On TrafficPolicies; one entry each.
    pub policies: BTreeMap<ObjectKey, PolicyVerdict>,
    /// On FederatedIngresses that do not get all they ask for; those that are well are not listed.
    pub ingresses: BTreeMap<ObjectKey, Fault>,
    /// On Sites: why one is not `Accepted`, or not in all it says; one entry each.
    pub sites: BTreeMap<SiteName, Option<Fault>>,
    /// On DnsZones, by the object's name; one entry each.
    pub zones: BTreeMap<Arc<str>, ZoneVerdict>,
}

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// UpperCamelCase word: `Conflicted`, `DomainConflict`, `HostnameConflict`, `HostnameNotAllowed`,
    /// `Invalid`, `InvalidHostname`, `NoZone`, `TargetNotFound`.
    pub reason: &'static str,
    /// A sentence for people that names the other object or the field.
    pub message: String,
}

impl Fault {
    pub(super) const fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

/// Verdict on a TrafficPolicy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyVerdict {
    /// Why it is not `Accepted`, or not in all it asks for.
    pub not_accepted: Option<Fault>,
    /// Why its references are not `ResolvedRefs`.
    pub unresolved: Option<Fault>,
}

/// Verdict on a DnsZone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneVerdict {
    /// Why it is not `Accepted`.
    pub not_accepted: Option<Fault>,
    /// Serial that is published; none when it is not served.
    pub serial: Option<u32>,
}

pub(super) fn all(facts: &Facts, plan: &Plan, next: &Snapshot) -> Verdicts {
    let attachments = Attachments::of(facts);
    let policy = |(key, fact): (&ObjectKey, &PolicyFact)| {
        // A policy speaks for its Ingresses too: a plain one has no status of ours to say it in.
        let is_of = |by: &Claimant| {
            (by.kind == POLICY && by.key == *key)
                || fact.targets.iter().any(|target| {
                    target.kind.as_str() == by.kind
                        && target.key == by.key
                        && attachments.applies(key, target)
                })
        };
        let lost = plan.claims.faults.iter().find(|(by, _)| is_of(by));
        let not_accepted = conflict(key, fact, &attachments).or_else(|| lost.map(|(_, fault)| fault.clone()));
        let unresolved = missing(facts, fact);
        (key.clone(), PolicyVerdict { not_accepted, unresolved })
    };
    Verdicts {
        policies: facts.policies.iter().map(policy).collect(),
        ingresses: ingresses(facts, plan, next),
        sites: sites(facts, next),
        zones: zones(facts, next),
    }
}

/// What cannot be read first, then lost hosts, then lost paths.
fn ingresses(facts: &Facts, plan: &Plan, next: &Snapshot) -> BTreeMap<ObjectKey, Fault> {
    let invalid = facts.federated_ingresses.iter().filter_map(|(key, fact)| {
        let message = fact.faults.first()?;
        Some((key.clone(), Fault::new("Invalid", message.clone())))
    });
    let mut ingresses: BTreeMap<ObjectKey, Fault> = invalid.collect();
    for (by, fault) in &plan.claims.faults {
        if by.kind == TargetKind::FederatedIngress.as_str() {
            ingresses.entry(by.key.clone()).or_insert_with(|| fault.clone());
        }
    }
    let table = RouteTable::compile(next);
    for conflict in table.conflicts() {
        if !facts.federated_ingresses.contains_key(&conflict.loser) {
            continue;
        }
        let host = conflict.claim.host.as_ref().map_or("every host", |host| host.as_str());
        let path = conflict.claim.path.as_ref().map_or("the default backend", |(_, path)| path);
        let kind = match facts.federated_ingresses.contains_key(&conflict.winner) {
            true => TargetKind::FederatedIngress.as_str(),
            false => TargetKind::Ingress.as_str(),
        };
        let message = format!("{path} of {host} belongs to {kind} {}, which is older", conflict.winner);
        ingresses.entry(conflict.loser.clone()).or_insert_with(|| Fault::new("Conflicted", message));
    }
    ingresses
}

fn sites(facts: &Facts, next: &Snapshot) -> BTreeMap<SiteName, Option<Fault>> {
    let verdict = |fact: &SiteFact| {
        let home = fact.site.cluster.as_ref().filter(|name| !next.clusters.contains_key(*name));
        let message = fact.faults.first().cloned();
        let message =
            message.or_else(|| home.map(|name| format!("spec.memberCluster: there is no member {name}")))?;
        Some(Fault::new("Invalid", message))
    };
    facts.sites.iter().map(|(name, fact)| (name.clone(), verdict(fact))).collect()
}

/// The older policy that has one of its targets.
fn conflict(key: &ObjectKey, fact: &PolicyFact, attachments: &Attachments<'_>) -> Option<Fault> {
    fact.targets.iter().find_map(|target| {
        let (winner, _) = attachments.policy_of(target).filter(|(winner, _)| *winner != key)?;
        let kind = target.kind.as_str();
        let message = format!("{kind} {} has TrafficPolicy {winner}, which is older", target.key);
        Some(Fault::new("Conflicted", message))
    })
}

/// The first target that does not exist.
fn missing(facts: &Facts, fact: &PolicyFact) -> Option<Fault> {
    let selected = || {
        let members = facts.members.values();
        members.filter(|member| member.fact.as_ref().is_some_and(|member| fact.clusters.selects(member)))
    };
    let exists = |target: &&Target| match target.kind {
        TargetKind::FederatedService => facts.federated_services.contains_key(&target.key),
        TargetKind::FederatedIngress => facts.federated_ingresses.contains_key(&target.key),
        TargetKind::Service => selected().any(|member| member.services.contains_key(&target.key)),
        TargetKind::Ingress => selected().any(|member| member.ingresses.contains_key(&target.key)),
    };
    let target = fact.targets.iter().find(|target| !exists(target))?;
    let place = match target.kind {
        TargetKind::FederatedService | TargetKind::FederatedIngress => "on the hub",
        TargetKind::Service | TargetKind::Ingress => "in a selected member",
    };
    let message = format!("{} {} does not exist {place}", target.kind.as_str(), target.key);
    Some(Fault::new("TargetNotFound", message))
}

fn zones(facts: &Facts, next: &Snapshot) -> BTreeMap<Arc<str>, ZoneVerdict> {
    let served = served_zones(facts);
    let verdict = |(name, fact): (&Arc<str>, &super::ZoneFact)| {
        let domain = &fact.zone.domain;
        let winner = served.get(domain).map(|(winner, _)| *winner);
        let is_served = winner == Some(name);
        let not_accepted = match (is_served, fact.faults.first()) {
            (false, _) => winner.map(|winner| {
                let message = format!("{domain} is served from DnsZone {winner}, which is older");
                Fault::new("DomainConflict", message)
            }),
            (true, Some(fault)) => Some(Fault::new("Invalid", fault.clone())),
            (true, None) => None,
        };
        let serial = next.zones.get(domain).filter(|_| is_served).map(|zone| zone.soa.serial);
        (name.clone(), ZoneVerdict { not_accepted, serial })
    };
    facts.zones.iter().map(verdict).collect()
}
