//! Zones with their dynamic names: granted hostnames, and KubeFed's names of LoadBalancer services.

use std::{collections::BTreeMap, sync::Arc};

use super::{Facts, ZoneFact, claims::served_zones, plan::Plan};
use crate::{
    id::ObjectKey,
    name::{DnsName, InvalidDnsName},
    snapshot::{NameTarget, Snapshot, Soa, Zone},
    time::Timestamp,
};

/// Every zone that is served. A zone whose content equals what was published keeps its serial; another
/// gets max(previous + 1, seconds of `now`).
pub(super) fn zones(
    facts: &Facts,
    plan: &Plan,
    next: &Snapshot,
    published: &BTreeMap<DnsName, Arc<Zone>>,
    now: Timestamp,
) -> Vec<(DnsName, Zone)> {
    let served = served_zones(facts);
    let mut zones = Vec::with_capacity(served.len());
    for (domain, (object, fact)) in served {
        let mut zone = Zone { names: names(facts, plan, next, object, fact), ..fact.zone.clone() };
        let held = published.get(domain);
        zone.soa.serial = match held {
            Some(held) if is_equal_but_for_serial(held, &zone) => held.soa.serial,
            _ => {
                let previous = held.map_or(0, |held| held.soa.serial).max(fact.zone.soa.serial);
                let seconds = u32::try_from(now.as_millis() / 1000).unwrap_or(u32::MAX);
                previous.saturating_add(1).max(seconds)
            }
        };
        zones.push((domain.clone(), zone));
    }
    zones
}

fn is_equal_but_for_serial(held: &Zone, zone: &Zone) -> bool {
    let soa = Soa { serial: held.soa.serial, ..zone.soa.clone() };
    held.soa == soa
        && held.names == zone.names
        && held.records == zone.records
        && held.name_servers == zone.name_servers
        && held.overrides == zone.overrides
}

fn names(
    facts: &Facts,
    plan: &Plan,
    next: &Snapshot,
    object: &Arc<str>,
    fact: &ZoneFact,
) -> BTreeMap<DnsName, NameTarget> {
    let grants = plan.claims.granted.iter();
    let own = grants.filter(|(_, grant)| grant.zone.as_ref() == Some(object) && !grant.is_shadowed);
    let mut names: BTreeMap<DnsName, NameTarget> =
        own.map(|(host, grant)| (host.clone(), grant.target.clone())).collect();
    let Some(federation) = &fact.federation else { return names };
    for key in plan.services().filter(|key| fact.admits.admits(&key.namespace)) {
        // A name that does not fit into 253 characters cannot be asked for, so leaving it out loses nothing.
        if let Ok(kubefed) = kubefed_names(facts, next, key, federation, &fact.zone.domain) {
            for (name, target) in kubefed {
                names.entry(name).or_insert(target);
            }
        }
    }
    names
}

/// `svc.ns.fed.svc.domain`, one per region, one per zone of a region; none unless some member has the
/// Service with type LoadBalancer. Names stand by what members have, not by health: a zone without
/// healthy endpoints keeps its name, which then leads one level up.
fn kubefed_names(
    facts: &Facts,
    next: &Snapshot,
    key: &ObjectKey,
    federation: &str,
    domain: &DnsName,
) -> Result<Vec<(DnsName, NameTarget)>, InvalidDnsName> {
    let Some(service) = next.services.get(key) else { return Ok(Vec::new()) };
    let is_balanced = |shard: &&crate::snapshot::Shard| {
        let member = facts.members.get(&shard.cluster);
        member.and_then(|member| member.services.get(key)).is_some_and(|fact| fact.is_load_balancer)
    };
    let balanced: Vec<_> = service.shards.iter().filter(is_balanced).collect();
    if balanced.is_empty() {
        return Ok(Vec::new());
    }
    let prefix = format!("{}.{}.{federation}.svc", key.name, key.namespace);
    let global = domain.child(&prefix)?;
    let mut names = vec![(global.clone(), NameTarget::Service(key.clone()))];
    for shard in balanced {
        let Some(cluster) = next.clusters.get(&shard.cluster) else { continue };
        let Some(region) = &cluster.region else { continue };
        let regional = domain.child(&format!("{prefix}.{region}"))?;
        let target = NameTarget::RegionalService {
            service: key.clone(),
            region: region.clone(),
            fallback: global.clone(),
        };
        names.push((regional.clone(), target));
        for zone in &cluster.zones {
            let zonal = domain.child(&format!("{prefix}.{zone}.{region}"))?;
            let target = NameTarget::ZonalService {
                service: key.clone(),
                region: region.clone(),
                zone: zone.clone(),
                fallback: regional.clone(),
            };
            names.push((zonal, target));
        }
    }
    Ok(names)
}
