//! From a snapshot to candidates: the same translation for every front end.

use std::collections::BTreeMap;

use super::{Candidate, Ranking, Rules, Vantage, Why, rank};
use crate::{
    id::{ClusterName, SiteName},
    snapshot::{Capacity, GlobalService, Policy, Shard, Site, Snapshot, Strategy},
    time::Timestamp,
};

/// What the asker's own probes say is lost or on hold, by cluster or site. Missing means well.
pub type Mask<N> = BTreeMap<N, Why>;

/// Candidates of `service`, one per shard, in shard order.
///
/// A shard in a cluster that the snapshot does not list is unusable ([`Why::NoAddress`]): nothing
/// is known of how to reach it. `now` is wall-clock time, for dials that expire.
#[must_use]
pub fn service_candidates(
    snapshot: &Snapshot,
    service: &GlobalService,
    mask: &Mask<ClusterName>,
    now: Timestamp,
) -> Vec<Candidate> {
    service.shards.iter().map(|shard| shard_candidate(snapshot, &service.policy, shard, mask, now)).collect()
}

fn shard_candidate(
    snapshot: &Snapshot,
    policy: &Policy,
    shard: &Shard,
    mask: &Mask<ClusterName>,
    now: Timestamp,
) -> Candidate {
    let cluster = snapshot.clusters.get(&shard.cluster);
    let dial = cluster.map_or(0.0, |cluster| cluster.dial.fraction(now));
    let unusable = match cluster {
        None => Some(Why::NoAddress),
        Some(_) if dial <= 0.0 => Some(Why::Drained),
        Some(_) if shard.ready == 0 => Some(Why::NoReadyEndpoint),
        Some(_) => mask.get(&shard.cluster).copied(),
    };
    Candidate {
        name: shard.cluster.to_string(),
        region: cluster.and_then(|cluster| cluster.region.clone()),
        location: cluster.and_then(|cluster| cluster.location),
        unusable,
        capacity: match shard.capacity {
            // Limits in flight are kept by the gate at each site, not by shares.
            Capacity::Undeclared | Capacity::InFlight(_) => f64::INFINITY,
            Capacity::Rate(rate) => rate * dial,
        },
        tier: tier_of(&policy.strategy, &shard.cluster),
    }
}

fn tier_of(strategy: &Strategy, cluster: &ClusterName) -> u32 {
    match strategy {
        Strategy::Proximity => 0,
        Strategy::Failover(tiers) => {
            let position = tiers.iter().position(|tier| tier.contains(cluster)).unwrap_or(tiers.len());
            u32::try_from(position).unwrap_or(u32::MAX)
        }
    }
}

/// Rules of a service's policy.
impl From<&Policy> for Rules {
    fn from(policy: &Policy) -> Self {
        Self {
            allowed_regions: policy.allowed_regions.clone(),
            when_all_unhealthy: policy.health.all_unhealthy,
        }
    }
}

/// Candidates of `service` and their order from `vantage`: what LB and DNS (target Members) ask.
#[must_use]
pub fn service_ranking(
    snapshot: &Snapshot,
    service: &GlobalService,
    vantage: &Vantage,
    mask: &Mask<ClusterName>,
    now: Timestamp,
) -> (Vec<Candidate>, Ranking) {
    let candidates = service_candidates(snapshot, service, mask, now);
    let ranking = rank(vantage, &candidates, &Rules::from(&service.policy));
    (candidates, ranking)
}

/// Candidates among the sites for a name that any of `services` serves (DNS, target Sites).
///
/// A site is usable if it is not drained, `mask` has nothing against it, it has an address, and
/// some shard of some service is usable from it: `reachable` is what the asker knows of members
/// (the site's own probes may know better, and route accordingly).
#[must_use]
pub fn site_candidates(
    snapshot: &Snapshot,
    services: &[&GlobalService],
    mask: &Mask<SiteName>,
    reachable: &Mask<ClusterName>,
    now: Timestamp,
) -> Vec<Candidate> {
    // Whether anything can be used does not depend on from where.
    let has_shard = services.iter().any(|service| {
        !service_ranking(snapshot, service, &Vantage::default(), reachable, now).1.order.is_empty()
    });
    snapshot
        .sites
        .values()
        .map(|site| Candidate {
            name: site.name.to_string(),
            region: site.region.clone(),
            location: site.location,
            unusable: site_unusable(site, mask, now, has_shard),
            capacity: site.max_rate.unwrap_or(f64::INFINITY) * site.dial.fraction(now),
            tier: 0,
        })
        .collect()
}

fn site_unusable(site: &Site, mask: &Mask<SiteName>, now: Timestamp, has_shard: bool) -> Option<Why> {
    if site.answer_addresses().is_empty() {
        Some(Why::NoAddress)
    } else if site.dial.fraction(now) <= 0.0 {
        Some(Why::Drained)
    } else if let Some(&why) = mask.get(&site.name) {
        Some(why)
    } else if !has_shard {
        Some(Why::NoReadyEndpoint)
    } else {
        None
    }
}
