//! From a snapshot to the table that requests are answered from.
//!
//! ```text
//! snapshot + mask of the probes + own demand + resolved names + time
//!   --> routes (core::route) + per route a target: ranking, weights, limits, endpoints (core::steer)
//!   --> one immutable Table behind one ArcSwap
//! ```
//! The decision is `core::steer`'s, and the same one DNS makes; here it is only compiled.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use meridian_core::{
    id::{ClusterName, ObjectKey, SiteName},
    route::{Route, RouteTable, effective_policy},
    snapshot::{BackendPort, Capacity, Generation, GlobalService, Policy, Rate, Snapshot},
    steer::{self, Candidate, Demand, Mask, Ranking, Rules, Vantage, Why, rank, solve},
    time::Timestamp,
};

use crate::{
    addresses::{self, Hosts},
    balance::{Choice, Target, WeightsFrom},
    registry::Registry,
};

/// What a table is compiled from.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// What the controller published.
    pub snapshot: &'a Snapshot,
    /// The site this proxy stands at. A site that the snapshot does not list has no vantage: clusters
    /// are then used in the order of their names.
    pub site: &'a SiteName,
    /// Clusters that this site's own probes find lost or hold back.
    pub mask: &'a Mask<ClusterName>,
    /// What hostnames of gateways resolve to.
    pub hosts: &'a Hosts,
    /// Requests per second that arrive here, by service.
    pub demand: &'a BTreeMap<ObjectKey, Rate>,
    /// Wall-clock time, for dials.
    pub now: Timestamp,
}

/// Everything a request needs to know. Immutable; replaced as a whole.
#[derive(Debug, Default)]
pub struct Table {
    /// Which snapshot it was compiled from.
    pub generation: Generation,
    /// False only for the empty table before the first snapshot.
    pub is_compiled: bool,
    /// Hosts and paths.
    pub routes: RouteTable,
    /// One per route, by [`Route::index`].
    targets: Vec<Arc<Target>>,
    /// True when weights or limits follow the demand of this site, so that the table must be compiled
    /// again when that changes.
    pub follows_demand: bool,
    /// When the next dial expires by itself.
    pub next_expiry: Option<Timestamp>,
}

impl Table {
    /// Route and target of a request. Does not allocate. Arguments as for [`RouteTable::find`].
    #[must_use]
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<(&Route, &Arc<Target>)> {
        let route = self.routes.find(host, path)?;
        Some((route, self.targets.get(route.index)?))
    }
}

/// Compiles a table. State of endpoints is taken from `registry` and left there for the next one.
#[must_use]
pub fn compile(inputs: Inputs<'_>, registry: &mut Registry) -> Table {
    registry.begin();
    let routes = RouteTable::compile(inputs.snapshot);
    let mut follows_demand = false;
    let mut compiled: HashMap<(&ObjectKey, &BackendPort, usize), Arc<Target>> = HashMap::new();
    let mut targets = Vec::with_capacity(routes.routes().len());
    for route in routes.routes() {
        let policy = route.policy.as_ref().map_or(0, |policy| Arc::as_ptr(policy).addr());
        let target = compiled
            .entry((&route.backend.service, &route.backend.port, policy))
            .or_insert_with(|| Arc::new(target(inputs, route, registry, &mut follows_demand)));
        targets.push(Arc::clone(target));
    }
    drop(compiled);
    registry.finish();
    let dials = inputs.snapshot.clusters.values().filter_map(|cluster| cluster.dial.until);
    let next_expiry = dials.filter(|&until| until > inputs.now).min();
    let generation = inputs.snapshot.generation.clone();
    Table { generation, is_compiled: true, routes, targets, follows_demand, next_expiry }
}

fn target(inputs: Inputs<'_>, route: &Route, registry: &mut Registry, follows_demand: &mut bool) -> Target {
    let key = &route.backend.service;
    let mut target = Target {
        service: key.clone(),
        meter: registry.meter(key),
        choices: Vec::new(),
        excluded: Vec::new(),
        failed_open: false,
        weights_from: WeightsFrom::Nearest,
    };
    let Some(published) = inputs.snapshot.services.get(key) else { return target };
    let policy = effective_policy(route.policy.as_deref(), &published.policy);
    let has_own_policy = steers_otherwise(&policy, &published.policy);
    let service = &GlobalService { policy, ..GlobalService::clone(published) };

    let port = &route.backend.port;
    let mut pools = BTreeMap::new();
    for shard in &service.shards {
        let found = addresses::of_shard(inputs.snapshot, service, shard, port, inputs.hosts);
        pools.insert(&shard.cluster, registry.pool(key, &shard.cluster, found));
    }
    let mut candidates = steer::service_candidates(inputs.snapshot, service, inputs.mask, inputs.now);
    for (candidate, shard) in candidates.iter_mut().zip(&service.shards) {
        let is_empty = pools.get(&shard.cluster).is_none_or(|pool| pool.endpoints.is_empty());
        // Ready by count, but not at this port or not resolved yet: nothing could be sent there.
        if is_empty && candidate.unusable.is_none() {
            candidate.unusable = Some(Why::NoAddress);
        }
    }
    let rules = Rules::from(&service.policy);
    let own_vantage =
        inputs.snapshot.sites.get(inputs.site).map_or_else(Vantage::default, |s| Vantage::site(s));
    let ranking = rank(&own_vantage, &candidates, &rules);
    let demand = demand_of_sites(inputs, service);
    let published_shares = if has_own_policy { None } else { shares(inputs, service, &candidates, &ranking) };
    let weights = match published_shares {
        Some(shares) => {
            target.weights_from = WeightsFrom::Shares;
            shares
        }
        None => {
            *follows_demand |= candidates.iter().any(|candidate| candidate.capacity.is_finite());
            match solved(inputs, &demand, &candidates, &ranking, &rules) {
                Some(weights) => {
                    target.weights_from = WeightsFrom::Solved;
                    weights
                }
                None => {
                    nearest(&ranking, |index| !pools[&service.shards[index].cluster].endpoints.is_empty())
                }
            }
        }
    };

    target.failed_open = ranking.failed_open;
    for &(index, why) in &ranking.excluded {
        target.excluded.push((service.shards[index].cluster.clone(), why));
    }
    for ranked in &ranking.order {
        let shard = &service.shards[ranked.index];
        let Some(pool) = pools.remove(&shard.cluster) else { continue };
        let limit = match shard.capacity {
            Capacity::InFlight(limit) => {
                *follows_demand = true;
                let cluster = inputs.snapshot.clusters.get(&shard.cluster);
                let dial = cluster.map_or(1.0, |cluster| cluster.dial.fraction(inputs.now));
                Some(limit_here(limit, dial, inputs.site, &demand))
            }
            Capacity::Undeclared | Capacity::Rate(_) => None,
        };
        target.choices.push(Choice {
            cluster: shard.cluster.clone(),
            distance: ranked.distance,
            weight: weights.get(&ranked.index).copied().unwrap_or(0.0),
            seed: steer::weight_key(shard.cluster.as_str()),
            limit,
            pool,
        });
    }
    target
}

/// True when the two could choose different clusters. What they say to DNS does not matter here.
fn steers_otherwise(a: &Policy, b: &Policy) -> bool {
    a.strategy != b.strategy || a.allowed_regions != b.allowed_regions || a.health != b.health
}

/// Weights by index of the candidate.
type Weights = BTreeMap<usize, f64>;

/// The controller's shares for this site, if they can still be trusted: every cluster they name is usable,
/// and no dial has expired since, which would make another one usable.
fn shares(
    inputs: Inputs<'_>,
    service: &GlobalService,
    candidates: &[Candidate],
    ranking: &Ranking,
) -> Option<Weights> {
    let shares = service.load.shares.get(inputs.site).filter(|shares| !shares.is_empty())?;
    let has_expired = candidates.iter().any(|candidate| {
        let cluster = inputs.snapshot.clusters.get(candidate.name.as_str());
        cluster.is_some_and(|cluster| cluster.dial.until.is_some_and(|until| inputs.now >= until))
    });
    if ranking.failed_open || has_expired {
        return None;
    }
    let order = &ranking.order;
    let index_of = |cluster: &ClusterName| {
        order.iter().map(|ranked| ranked.index).find(|&index| candidates[index].name == cluster.as_str())
    };
    shares.iter().map(|(cluster, &share)| Some((index_of(cluster)?, share))).collect()
}

/// Demand at each site, with what is measured here in place of what was reported for here.
fn demand_of_sites(inputs: Inputs<'_>, service: &GlobalService) -> BTreeMap<SiteName, Rate> {
    let mut demand = service.load.demand.clone();
    demand.insert(inputs.site.clone(), inputs.demand.get(&service.key).copied().unwrap_or(0.0));
    demand
}

/// This site's row of the solution for all sites; none while no demand is known here.
fn solved(
    inputs: Inputs<'_>,
    demand: &BTreeMap<SiteName, Rate>,
    candidates: &[Candidate],
    own: &Ranking,
    rules: &Rules,
) -> Option<Weights> {
    let mut rows: Vec<(SiteName, Rate, Ranking)> = Vec::new();
    for (name, &rate) in demand.iter().filter(|(_, rate)| **rate > 0.0) {
        if name == inputs.site {
            rows.push((name.clone(), rate, own.clone()));
        } else if let Some(site) = inputs.snapshot.sites.get(name) {
            // A site that is gone has no clients any more; its last report must not hold capacity.
            rows.push((name.clone(), rate, rank(&Vantage::site(site), candidates, rules)));
        }
    }
    let own_row = rows.iter().position(|(name, ..)| name == inputs.site)?;
    let demands: Vec<Demand<'_>> = rows
        .iter()
        .map(|(site, rate, ranking)| Demand { site: site.clone(), rate: *rate, ranking })
        .collect();
    let flows = solve(&demands, candidates);
    let (flow, rate) = (&flows[own_row], rows[own_row].1);
    if flow.is_empty() {
        return None;
    }
    Some(flow.iter().map(|&(index, part)| (index, part / rate)).collect())
}

/// Everything to the nearest that has an address.
fn nearest(ranking: &Ranking, has_address: impl Fn(usize) -> bool) -> Weights {
    let first = ranking.order.iter().map(|ranked| ranked.index).find(|&index| has_address(index));
    first.map(|index| (index, 1.0)).into_iter().collect()
}

/// This site's part of a limit in flight, by demand; never less than an even part of a tenth, so that a
/// site whose first clients arrive is not shut out, and never less than 1.
fn limit_here(limit: u32, dial: f64, site: &SiteName, demand: &BTreeMap<SiteName, Rate>) -> u32 {
    let total: Rate = demand.values().sum();
    let own = demand.get(site).copied().unwrap_or(0.0);
    let part = if total > 0.0 { (own / total).max(0.1 / demand.len() as f64) } else { 1.0 };
    let here = (f64::from(limit) * dial * part).ceil();
    // The cast saturates; the value is not negative.
    (here as u32).max(1)
}

#[cfg(test)]
mod tests;
