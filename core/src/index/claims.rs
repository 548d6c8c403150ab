//! Who has which hostname.
//!
//! Claims are heard in order of age. One from a namespace that the zone does not admit is turned down
//! before it can stand in anybody's way; then the older of two claims has the name. Ingresses of one
//! namespace may share a host, as they do inside a cluster: which of them has which path is
//! [`route`](crate::route)'s to say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use super::{Facts, Fault, TargetKind, ZoneFact, plan::Attachments};
use crate::{
    id::ObjectKey,
    name::DnsName,
    snapshot::{NameTarget, RecordData},
    time::Timestamp,
};

/// An object that asks for a hostname.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claimant {
    pub(super) kind: &'static str,
    pub(super) key: ObjectKey,
}

impl fmt::Display for Claimant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// Word for a TrafficPolicy as a claimant.
pub(super) const POLICY: &str = "TrafficPolicy";

#[derive(Clone, Debug)]
struct Claim {
    created: Timestamp,
    claimant: Claimant,
    host: DnsName,
    target: NameTarget,
}

/// A claim that was granted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Grant {
    pub(super) claimant: Claimant,
    pub(super) target: NameTarget,
    /// The zone that serves it, by the object's name; none when no zone covers it.
    pub(super) zone: Option<Arc<str>>,
    /// A static record has the name: DNS answers with that.
    pub(super) is_shadowed: bool,
}

/// The outcome for all hosts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Claims {
    pub(super) granted: BTreeMap<DnsName, Grant>,
    /// Why claimants did not get what they asked for, in order of age.
    pub(super) faults: Vec<(Claimant, Fault)>,
    /// Hosts that an Ingress names but another object has, or that it may not have.
    pub(super) denied: BTreeSet<(ObjectKey, DnsName)>,
}

/// The zone of each domain: of two objects with one domain, the older.
pub(super) fn served_zones(facts: &Facts) -> BTreeMap<&DnsName, (&Arc<str>, &ZoneFact)> {
    let mut zones: BTreeMap<&DnsName, (&Arc<str>, &ZoneFact)> = BTreeMap::new();
    for (name, fact) in &facts.zones {
        let entry = zones.entry(&fact.zone.domain).or_insert((name, fact));
        if (fact.created, name) < (entry.1.created, entry.0) {
            *entry = (name, fact);
        }
    }
    zones
}

/// Hears all claims.
pub(super) fn hear(facts: &Facts, attachments: &Attachments<'_>) -> Claims {
    let zones = served_zones(facts);
    let mut outcome = Claims::default();
    let mut claims = ingress_claims(attachments);
    claims.extend(policy_claims(facts, attachments, &mut outcome.faults));
    claims.sort_by(|a, b| {
        let order = |claim: &Claim| (claim.created, claim.claimant.clone());
        order(a).cmp(&order(b)).then_with(|| a.host.cmp(&b.host))
    });
    for claim in claims {
        let zone = zone_of(&zones, &claim.host);
        if let Err(fault) = grant(&claim, zone, &mut outcome.granted) {
            if let NameTarget::Ingress(key) = &claim.target {
                outcome.denied.insert((key.clone(), claim.host.clone()));
            }
            outcome.faults.push((claim.claimant, fault));
        } else {
            let is_policy = claim.claimant.kind == POLICY;
            let lacks = match zone {
                // A rule's host may live in somebody else's zone; a policy asks for an answer in ours.
                None if is_policy => Some(Fault::new("NoZone", format!("no DnsZone covers {}", claim.host))),
                Some((name, fact)) if is_static(fact, &claim.host) => Some(Fault::new(
                    "HostnameConflict",
                    format!("{} is a static record of DnsZone {name}", claim.host),
                )),
                _ => None,
            };
            outcome.faults.extend(lacks.map(|fault| (claim.claimant, fault)));
        }
    }
    outcome
}

fn grant(
    claim: &Claim,
    zone: Option<(&Arc<str>, &ZoneFact)>,
    granted: &mut BTreeMap<DnsName, Grant>,
) -> Result<(), Fault> {
    let Claim { claimant, host, target, .. } = claim;
    if let Some((name, fact)) = zone
        && !fact.admits.admits(&claimant.key.namespace)
    {
        let namespace = &claimant.key.namespace;
        let message = format!("{host}: DnsZone {name} does not admit namespace {namespace}");
        return Err(Fault::new("HostnameNotAllowed", message));
    }
    if let Some(held) = granted.get(host) {
        return if is_shared(&held.target, target) {
            Ok(())
        } else {
            Err(Fault::new(
                "HostnameConflict",
                format!("{host} belongs to {}, which is older", held.claimant),
            ))
        };
    }
    let grant = Grant {
        claimant: claimant.clone(),
        target: target.clone(),
        zone: zone.map(|(name, _)| name.clone()),
        is_shadowed: zone.is_some_and(|(_, fact)| is_static(fact, host)),
    };
    granted.insert(host.clone(), grant);
    Ok(())
}

/// Whether two targets may stand behind one host.
fn is_shared(a: &NameTarget, b: &NameTarget) -> bool {
    match (a, b) {
        (NameTarget::Ingress(a), NameTarget::Ingress(b)) => a.namespace == b.namespace,
        _ => a == b,
    }
}

/// Whether the zone's static records take the host's addresses: an address or alias of its own, or a
/// delegation at or above it.
fn is_static(fact: &ZoneFact, host: &DnsName) -> bool {
    fact.zone.records.iter().any(|record| match record.data {
        RecordData::A(_) | RecordData::Aaaa(_) | RecordData::Cname(_) => record.name == *host,
        RecordData::Ns(_) => record.name != fact.zone.domain && host.is_in(&record.name),
        RecordData::Mx { .. } | RecordData::Txt(_) | RecordData::Caa { .. } => false,
    })
}

/// The zone with the longest suffix of `host`.
pub(super) fn zone_of<'a>(
    zones: &BTreeMap<&DnsName, (&'a Arc<str>, &'a ZoneFact)>,
    host: &DnsName,
) -> Option<(&'a Arc<str>, &'a ZoneFact)> {
    let mut name = Some(host.clone());
    while let Some(current) = name {
        if let Some(zone) = zones.get(&current) {
            return Some(*zone);
        }
        name = current.parent();
    }
    None
}

fn ingress_claims(attachments: &Attachments<'_>) -> Vec<Claim> {
    let mut claims = Vec::new();
    for (key, (kind, fact)) in &attachments.ingresses {
        let hosts: BTreeSet<&DnsName> = fact.rules.iter().filter_map(|rule| rule.host.as_ref()).collect();
        claims.extend(hosts.into_iter().map(|host| Claim {
            created: fact.created,
            claimant: Claimant { kind: kind.as_str(), key: key.clone() },
            host: host.clone(),
            target: NameTarget::Ingress(key.clone()),
        }));
    }
    claims
}

/// Claims of policies, for the first of their targets that they apply to.
fn policy_claims(
    facts: &Facts,
    attachments: &Attachments<'_>,
    faults: &mut Vec<(Claimant, Fault)>,
) -> Vec<Claim> {
    let mut claims = Vec::new();
    for (key, policy) in &facts.policies {
        let claimant = Claimant { kind: POLICY, key: key.clone() };
        let mut applied = policy.targets.iter().filter(|target| attachments.applies(key, target));
        let target = applied.next().map(|target| match target.kind {
            TargetKind::FederatedIngress | TargetKind::Ingress => NameTarget::Ingress(target.key.clone()),
            TargetKind::FederatedService | TargetKind::Service => NameTarget::Service(target.key.clone()),
        });
        for hostname in &policy.dns.hostnames {
            match (hostname, &target) {
                (Err(message), _) => {
                    faults.push((claimant.clone(), Fault::new("InvalidHostname", message.clone())));
                }
                (Ok(host), Some(target)) => claims.push(Claim {
                    created: policy.created,
                    claimant: claimant.clone(),
                    host: host.clone(),
                    target: target.clone(),
                }),
                (Ok(_), None) => {}
            }
        }
    }
    claims
}
