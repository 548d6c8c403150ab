//! Shares: who serves how much of whose demand.

use std::collections::BTreeMap;

use super::{Candidate, Ranking};
use crate::id::{ClusterName, SiteName};

/// Demand of one site and the order in which it would use the candidates.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    /// The site.
    pub site: SiteName,
    /// Requests per second that arrive there.
    pub rate: f64,
    /// Its ranking over the candidates that are passed beside it.
    pub ranking: &'a Ranking,
}

/// Splits each site's demand over `candidates`: nearest first up to capacity, only the excess on.
///
/// All (site, candidate) pairs compete for the shared capacity in order of tier, then distance, then
/// names: a pair that is nearer is filled before one that is farther, whoever asks. What fits nowhere
/// is spread over each site's ranked candidates in proportion to their capacity, so that overload is
/// shared rather than aimed at one place (with no capacity at all: to the nearest).
///
/// The result has one entry per demand, in input order; each lists (candidate index, requests per
/// second) with positive rates that sum to the demand, or is empty when the ranking is or the
/// demand is 0. O(p log p) for p pairs.
#[must_use]
pub fn solve(demands: &[Demand<'_>], candidates: &[Candidate]) -> Vec<Vec<(usize, f64)>> {
    let mut pairs: Vec<(usize, usize, f64)> = Vec::new();
    for (row, demand) in demands.iter().enumerate() {
        for ranked in &demand.ranking.order {
            let distance = ranked.distance.map_or(f64::INFINITY, |distance| distance.as_f64());
            pairs.push((row, ranked.index, distance));
        }
    }
    pairs.sort_by(|a, b| {
        let (first, second) = (&candidates[a.1], &candidates[b.1]);
        (first.tier.cmp(&second.tier))
            .then_with(|| a.2.total_cmp(&b.2))
            .then_with(|| first.name.cmp(&second.name))
            .then_with(|| demands[a.0].site.cmp(&demands[b.0].site))
    });

    let mut room: Vec<f64> = candidates.iter().map(|candidate| candidate.capacity.max(0.0)).collect();
    let mut left: Vec<f64> = demands.iter().map(|demand| demand.rate.max(0.0)).collect();
    let mut flows: Vec<Vec<(usize, f64)>> = vec![Vec::new(); demands.len()];
    for (row, index, _) in pairs {
        let flow = left[row].min(room[index]);
        if flow > 0.0 {
            flows[row].push((index, flow));
            left[row] -= flow;
            room[index] -= flow;
        }
    }
    for (row, demand) in demands.iter().enumerate() {
        if left[row] > 0.0 {
            spread_excess(&mut flows[row], left[row], demand.ranking, candidates);
        }
    }
    flows
}

/// Adds `excess` to `flows` over the ranked candidates in proportion to capacity.
fn spread_excess(flows: &mut Vec<(usize, f64)>, excess: f64, ranking: &Ranking, candidates: &[Candidate]) {
    let total: f64 = ranking.order.iter().map(|ranked| candidates[ranked.index].capacity).sum();
    if total <= 0.0 {
        if let Some(nearest) = ranking.order.first() {
            flows.push((nearest.index, excess));
        }
        return;
    }
    for ranked in &ranking.order {
        let part = excess * candidates[ranked.index].capacity / total;
        if part <= 0.0 {
            continue;
        }
        match flows.iter_mut().find(|(index, _)| *index == ranked.index) {
            Some((_, flow)) => *flow += part,
            None => flows.push((ranked.index, part)),
        }
    }
}

/// One site's flow as parts that sum to 1, by cluster. Empty stays empty.
#[must_use]
pub fn shares_of(flow: &[(usize, f64)], candidates: &[Candidate]) -> BTreeMap<ClusterName, f64> {
    let total: f64 = flow.iter().map(|(_, rate)| rate).sum();
    flow.iter()
        .map(|&(index, rate)| (ClusterName::from(candidates[index].name.as_str()), rate / total))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        steer::{Ranked, Rules, Vantage, rank},
        time::Millis,
    };

    fn candidate(name: &str, capacity: f64) -> Candidate {
        Candidate { name: name.into(), region: None, location: None, unusable: None, capacity, tier: 0 }
    }

    fn ranking(distances: &[f64]) -> Ranking {
        let mut order: Vec<Ranked> = distances
            .iter()
            .enumerate()
            .map(|(index, &distance)| Ranked { index, distance: Some(Millis::new(distance)) })
            .collect();
        order.sort_by_key(|ranked| ranked.distance);
        Ranking { order, ..Ranking::default() }
    }

    fn demand<'a>(site: &str, rate: f64, ranking: &'a Ranking) -> Demand<'a> {
        Demand { site: site.into(), rate, ranking }
    }

    #[test]
    fn only_the_excess_of_two_sites_leaves_a_full_shard() {
        let candidates = [candidate("asia", 100.0), candidate("us", f64::INFINITY)];
        let (near, far) = (ranking(&[5.0, 100.0]), ranking(&[20.0, 90.0]));
        let flows = solve(&[demand("a", 75.0, &near), demand("b", 75.0, &far)], &candidates);
        assert_eq!(flows, [vec![(0, 75.0)], vec![(0, 25.0), (1, 50.0)]]);
    }

    #[test]
    fn without_declared_capacity_everything_stays_with_the_nearest() {
        let candidates = [candidate("asia", f64::INFINITY), candidate("us", f64::INFINITY)];
        let flows = solve(&[demand("a", 1e9, &ranking(&[1.0, 2.0]))], &candidates);
        assert_eq!(flows, [vec![(0, 1e9)]]);
    }

    #[test]
    fn overload_beyond_all_capacity_is_shared_by_capacity() {
        let candidates = [candidate("asia", 100.0), candidate("us", 300.0)];
        let flows = solve(&[demand("a", 800.0, &ranking(&[1.0, 2.0]))], &candidates);
        assert_eq!(flows, [vec![(0, 200.0), (1, 600.0)]]);
    }

    #[test]
    fn shares_sum_to_one() {
        let candidates = [candidate("asia", 1.0), candidate("us", 3.0)];
        let shares = shares_of(&[(0, 1.0), (1, 3.0)], &candidates);
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [0.25, 0.75]);
    }

    proptest! {
        /// Demand is conserved, and a candidate exceeds its capacity only when all of them are full.
        #[test]
        fn flows_conserve_demand_and_respect_capacity(
            capacities in prop::collection::vec(0.0..100.0_f64, 1..6),
            rates in prop::collection::vec(0.0..100.0_f64, 1..6),
            distances in prop::collection::vec(0.0..300.0_f64, 36),
        ) {
            let candidates: Vec<Candidate> =
                capacities.iter().enumerate().map(|(i, &c)| candidate(&format!("c{i}"), c)).collect();
            let rankings: Vec<Ranking> =
                (0..rates.len()).map(|row| ranking(&distances[row * 6..row * 6 + capacities.len()])).collect();
            let demands: Vec<Demand<'_>> = rates.iter().zip(&rankings).enumerate()
                .map(|(i, (&rate, ranking))| Demand { site: format!("s{i}").as_str().into(), rate, ranking })
                .collect();
            let flows = solve(&demands, &candidates);
            let mut used = vec![0.0; candidates.len()];
            for (flow, &rate) in flows.iter().zip(&rates) {
                let sum: f64 = flow.iter().map(|(_, part)| part).sum();
                prop_assert!((sum - rate).abs() < 1e-6);
                for &(index, part) in flow { used[index] += part; }
            }
            let (total_demand, total_room): (f64, f64) = (rates.iter().sum(), capacities.iter().sum());
            if total_demand <= total_room {
                for (index, used) in used.iter().enumerate() {
                    prop_assert!(*used <= capacities[index] + 1e-6);
                }
            }
        }

        /// The nearest place is never left idle while a farther one works.
        #[test]
        fn a_single_site_fills_places_in_rank_order(
            capacities in prop::collection::vec(1.0..100.0_f64, 2..6),
            rate in 0.1..400.0_f64,
        ) {
            let candidates: Vec<Candidate> =
                capacities.iter().enumerate().map(|(i, &c)| candidate(&format!("c{i}"), c)).collect();
            let order = rank(&Vantage::default(), &candidates, &Rules::default());
            let flows = solve(&[demand("s", rate, &order)], &candidates);
            if rate <= capacities.iter().sum() {
                let used: BTreeMap<usize, f64> = flows[0].iter().copied().collect();
                for pair in order.order.windows(2) {
                    if used.contains_key(&pair[1].index) {
                        let first = pair[0].index;
                        prop_assert!((used[&first] - capacities[first]).abs() < 1e-6);
                    }
                }
            }
        }
    }
}
