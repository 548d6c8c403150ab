//! Demand of sites and the shares that follow from it.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    id::{ObjectKey, SiteName},
    snapshot::{Capacity, GlobalService, Load, Snapshot},
    steer::{Demand, Mask, Vantage, service_ranking, shares_of, solve},
    time::Timestamp,
};

/// Time constant of the moving average: a step shows to 63 % after this long, and noise of single
/// seconds does not move shares.
const TAU: Duration = Duration::from_secs(3);
/// Demand below this many requests per second is none.
const NOTHING: f64 = 0.01;
/// Shares and demands that moved less than this part are not published: idle and steady fleets have no
/// new generations.
const HYSTERESIS: f64 = 0.01;

/// Smoothed demand per service and site. A site that falls silent keeps its last one.
#[derive(Debug, Default)]
pub(super) struct Demands {
    by_service: BTreeMap<ObjectKey, BTreeMap<SiteName, Average>>,
}

#[derive(Clone, Copy, Debug)]
struct Average {
    rate: f64,
    at: Timestamp,
}

impl Demands {
    pub(super) fn observe(&mut self, service: &ObjectKey, site: &SiteName, rate: f64, now: Timestamp) {
        if !rate.is_finite() || rate < 0.0 {
            return;
        }
        let sites = self.by_service.entry(service.clone()).or_default();
        let average = sites.entry(site.clone()).or_insert(Average { rate, at: now });
        let weight = 1.0 - (-now.since(average.at).as_secs_f64() / TAU.as_secs_f64()).exp();
        average.rate += weight * (rate - average.rate);
        average.at = average.at.max(now);
    }

    pub(super) fn services(&self) -> Vec<ObjectKey> {
        self.by_service.keys().cloned().collect()
    }

    pub(super) fn forget(&mut self, service: &ObjectKey) {
        self.by_service.remove(service);
    }

    pub(super) fn retain_sites(&mut self, keeps: impl Fn(&SiteName) -> bool) {
        for sites in self.by_service.values_mut() {
            sites.retain(|site, _| keeps(site));
        }
    }

    /// The load to publish for a service, if it differs enough from what is published.
    pub(super) fn solve(&self, snapshot: &Snapshot, service: &GlobalService, now: Timestamp) -> Option<Load> {
        let load = if has_declared_rate(service) {
            self.load(snapshot, service, now)
        } else {
            // Nothing is shed without a declared rate, so every site solves the same alone.
            Load::default()
        };
        (!is_close(&load, &service.load)).then_some(load)
    }

    fn load(&self, snapshot: &Snapshot, service: &GlobalService, now: Timestamp) -> Load {
        let Some(sites) = self.by_service.get(&service.key) else { return Load::default() };
        let busy = sites.iter().filter(|(_, average)| average.rate >= NOTHING);
        let known = busy.filter_map(|(name, average)| Some((snapshot.sites.get(name)?, average.rate)));
        let nothing_lost = Mask::new();
        let rows: Vec<_> = known
            .map(|(site, rate)| {
                let vantage = Vantage::site(site);
                (site, rate, service_ranking(snapshot, service, &vantage, &nothing_lost, now))
            })
            .collect();
        let Some((_, _, (candidates, _))) = rows.first() else { return Load::default() };
        let demands: Vec<Demand<'_>> = rows
            .iter()
            .map(|(site, rate, (_, ranking))| Demand { site: site.name.clone(), rate: *rate, ranking })
            .collect();
        let flows = solve(&demands, candidates);
        let demand = rows.iter().map(|(site, rate, _)| (site.name.clone(), *rate)).collect();
        let shares = rows
            .iter()
            .zip(&flows)
            .filter(|(_, flow)| !flow.is_empty())
            .map(|((site, ..), flow)| (site.name.clone(), shares_of(flow, candidates)))
            .collect();
        Load { demand, shares }
    }
}

/// Whether shares of the service mean anything: some member declares how much it takes.
pub(super) fn has_declared_rate(service: &GlobalService) -> bool {
    service.shards.iter().any(|shard| matches!(shard.capacity, Capacity::Rate(_)))
}

fn is_close(new: &Load, old: &Load) -> bool {
    let same_demand = new.demand.len() == old.demand.len()
        && new.demand.iter().all(|(site, &rate)| {
            let held = old.demand.get(site);
            held.is_some_and(|&held| (rate - held).abs() <= HYSTERESIS * held.max(1.0))
        });
    let same_shares = new.shares.len() == old.shares.len()
        && new.shares.iter().all(|(site, shares)| {
            old.shares.get(site).is_some_and(|held| {
                let part = |of: &BTreeMap<_, f64>, cluster| of.get(cluster).copied().unwrap_or(0.0);
                let names = shares.keys().chain(held.keys());
                names.into_iter().all(|name| (part(shares, name) - part(held, name)).abs() <= HYSTERESIS)
            })
        });
    same_demand && same_shares
}
