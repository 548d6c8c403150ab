//! Filter and order.

use super::{Candidate, Ranked, Ranking, Rules, Vantage, Why};
use crate::{geo::estimated_rtt, snapshot::WhenAllUnhealthy, time::Millis};

/// Distance of a candidate in the same region when no place is known.
const SAME_REGION_MS: f64 = 3.0;

/// Distance of a candidate in another region when no place is known.
const OTHER_REGION_MS: f64 = 150.0;

/// How far a candidate is: measured, else supplied for its region, else computed from places,
/// else guessed from labels; none when nothing is known.
#[must_use]
pub fn distance(vantage: &Vantage, candidate: &Candidate) -> Option<Millis> {
    if let Some(&measured) = vantage.measured.get(&candidate.name) {
        return Some(measured);
    }
    if let Some(&supplied) = candidate.region.as_ref().and_then(|region| vantage.supplied.get(region)) {
        return Some(supplied);
    }
    if let (Some(from), Some(to)) = (vantage.location, candidate.location) {
        return Some(estimated_rtt(from, to));
    }
    match (&vantage.region, &candidate.region) {
        (Some(from), Some(to)) if from == to => Some(Millis::new(SAME_REGION_MS)),
        (Some(_), Some(_)) => Some(Millis::new(OTHER_REGION_MS)),
        _ => None,
    }
}

/// Orders the usable candidates for `vantage`: by tier, then distance (unknown last), then name.
///
/// When none is usable and the rules say so, it fails open: the candidates that are only unhealthy
/// are ordered instead, first those that only this asker's probes doubt, and those without a ready
/// endpoint if there are no others. Drained and fenced ones never join: somebody said so on purpose.
/// O(n log n).
#[must_use]
pub fn rank(vantage: &Vantage, candidates: &[Candidate], rules: &Rules) -> Ranking {
    let verdicts: Vec<Option<Why>> = candidates.iter().map(|candidate| verdict(candidate, rules)).collect();
    let usable = |why: Option<Why>| why.is_none();
    if verdicts.iter().copied().any(usable) || rules.when_all_unhealthy == WhenAllUnhealthy::Empty {
        return order(vantage, candidates, &verdicts, usable, false);
    }
    // A probe that fails may be wrong about a place with pods; the API is not wrong about having none.
    let doubtful = |why: Option<Why>| why.is_some_and(Why::is_doubtful);
    let ranking = order(vantage, candidates, &verdicts, doubtful, true);
    if !ranking.order.is_empty() {
        return ranking;
    }
    order(vantage, candidates, &verdicts, |why| why == Some(Why::NoReadyEndpoint), true)
}

fn verdict(candidate: &Candidate, rules: &Rules) -> Option<Why> {
    let is_fenced = rules.allowed_regions.as_ref().is_some_and(|allowed| {
        // A candidate of unknown region cannot be shown to lie inside the fence.
        candidate.region.as_ref().is_none_or(|region| !allowed.contains(region))
    });
    if is_fenced { Some(Why::Fenced) } else { candidate.unusable }
}

fn order(
    vantage: &Vantage,
    candidates: &[Candidate],
    verdicts: &[Option<Why>],
    admits: impl Fn(Option<Why>) -> bool,
    failed_open: bool,
) -> Ranking {
    let mut ranking = Ranking::default();
    for (index, (candidate, &why)) in candidates.iter().zip(verdicts).enumerate() {
        if admits(why) {
            ranking.order.push(Ranked { index, distance: distance(vantage, candidate) });
        } else if let Some(why) = why {
            ranking.excluded.push((index, why));
        }
    }
    ranking.failed_open = failed_open && !ranking.order.is_empty();
    ranking.order.sort_by(|a, b| {
        let (first, second) = (&candidates[a.index], &candidates[b.index]);
        let far = |distance: Option<Millis>| distance.map_or(f64::INFINITY, Millis::as_f64);
        first
            .tier
            .cmp(&second.tier)
            .then_with(|| far(a.distance).total_cmp(&far(b.distance)))
            .then_with(|| first.name.cmp(&second.name))
    });
    ranking
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{geo::region_location, id::RegionName};

    fn candidate(region: &str) -> Candidate {
        Candidate {
            name: region.into(),
            region: Some(region.into()),
            location: region_location(region),
            unusable: None,
            capacity: f64::INFINITY,
            tier: 0,
        }
    }

    fn fleet() -> Vec<Candidate> {
        ["asia-east1", "europe-west1", "us-central1"].map(candidate).to_vec()
    }

    fn names(candidates: &[Candidate], ranking: &Ranking) -> Vec<String> {
        ranking.order.iter().map(|ranked| candidates[ranked.index].name.clone()).collect()
    }

    fn from(region: &str) -> Vantage {
        Vantage::at(region_location(region))
    }

    #[test]
    fn nearest_comes_first_and_taiwan_goes_to_iowa_next() {
        let fleet = fleet();
        let ranking = rank(&from("asia-east1"), &fleet, &Rules::default());
        assert_eq!(names(&fleet, &ranking), ["asia-east1", "us-central1", "europe-west1"]);
    }

    #[test]
    fn unusable_candidate_is_left_out_with_its_reason() {
        let mut fleet = fleet();
        fleet[0].unusable = Some(Why::NoReadyEndpoint);
        let ranking = rank(&from("asia-east1"), &fleet, &Rules::default());
        assert_eq!(names(&fleet, &ranking), ["us-central1", "europe-west1"]);
        assert_eq!(ranking.excluded, [(0, Why::NoReadyEndpoint)]);
        assert!(!ranking.failed_open);
    }

    #[test]
    fn measured_beats_supplied_beats_computed() {
        let fleet = fleet();
        let mut vantage = from("asia-east1");
        vantage.supplied.insert("europe-west1".into(), Millis::new(1.0));
        assert_eq!(names(&fleet, &rank(&vantage, &fleet, &Rules::default()))[1], "europe-west1");
        vantage.measured.insert("us-central1".into(), Millis::new(0.5));
        assert_eq!(names(&fleet, &rank(&vantage, &fleet, &Rules::default()))[1], "us-central1");
    }

    #[test]
    fn failing_open_never_crosses_a_fence() {
        let mut fleet = fleet();
        for candidate in &mut fleet {
            candidate.unusable = Some(Why::ProbeFailed);
        }
        let rules =
            Rules { allowed_regions: Some(vec![RegionName::from("europe-west1")]), ..Rules::default() };
        let ranking = rank(&from("asia-east1"), &fleet, &rules);
        assert_eq!(names(&fleet, &ranking), ["europe-west1"]);
        assert!(ranking.failed_open);
    }

    #[test]
    fn failing_open_prefers_a_doubted_place_to_an_empty_one() {
        let mut fleet = fleet();
        fleet[0].unusable = Some(Why::NoReadyEndpoint);
        fleet[1].unusable = Some(Why::Holding);
        fleet[2].unusable = Some(Why::Drained);
        let ranking = rank(&from("asia-east1"), &fleet, &Rules::default());
        assert_eq!(names(&fleet, &ranking), ["europe-west1"]);
        fleet[1].unusable = Some(Why::NoReadyEndpoint);
        let ranking = rank(&from("asia-east1"), &fleet, &Rules::default());
        assert_eq!(names(&fleet, &ranking), ["asia-east1", "europe-west1"]);
    }

    #[test]
    fn empty_is_empty_when_the_policy_asks_for_it() {
        let mut fleet = fleet();
        for candidate in &mut fleet {
            candidate.unusable = Some(Why::ProbeFailed);
        }
        let rules = Rules { when_all_unhealthy: WhenAllUnhealthy::Empty, ..Rules::default() };
        let ranking = rank(&from("asia-east1"), &fleet, &rules);
        assert!(ranking.order.is_empty() && !ranking.failed_open);
        assert_eq!(ranking.excluded.len(), 3);
    }

    #[test]
    fn tier_beats_distance() {
        let mut fleet = fleet();
        fleet[0].tier = 1;
        fleet[2].tier = 1;
        let ranking = rank(&from("asia-east1"), &fleet, &Rules::default());
        assert_eq!(names(&fleet, &ranking)[0], "europe-west1");
    }
}
