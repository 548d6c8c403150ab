//! Facts about the order of attempts.

use std::time::Duration;

use super::*;
use crate::metrics::ClusterCounters;

const NOW: Timestamp = Timestamp::from_millis(1000);

/// A target with clusters of (weight, endpoints, limit), nearest first.
fn target(clusters: &[(f64, u8, Option<u32>)]) -> Target {
    let choice = |(number, &(weight, count, limit)): (usize, &(f64, u8, Option<u32>))| {
        let name = format!("c{number}");
        let path = Arc::new(ClusterPath::new(name.as_str().into(), ClusterCounters::default()));
        let endpoint = |last| Arc::new(Endpoint::new(([192, 0, number as u8, last], 80).into()));
        let pool = Pool { path, gate: Arc::default(), endpoints: (0..count).map(endpoint).collect() };
        let seed = steer::weight_key(&name);
        Choice { cluster: name.as_str().into(), distance: None, weight, seed, limit, pool }
    };
    Target {
        service: ObjectKey::new("shop", "web"),
        meter: Arc::default(),
        choices: clusters.iter().enumerate().map(choice).collect(),
        excluded: Vec::new(),
        failed_open: false,
        weights_from: WeightsFrom::Nearest,
    }
}

fn random(seed: u64) -> u64 {
    steer::weight_key(&seed.to_string())
}

fn cluster(permit: &Permit) -> &str {
    permit.path.cluster.as_str()
}

#[test]
fn draws_follow_the_weights_exactly_by_key() {
    let target = target(&[(2.0 / 3.0, 3, None), (1.0 / 3.0, 3, None)]);
    let away = (0..30_000)
        .filter(|&seed| {
            let permit = target.next(&mut Tried::default(), random(seed), NOW).unwrap();
            cluster(&permit) == "c1"
        })
        .count();
    assert!((9_700..10_300).contains(&away), "{away} of 30000 left, a third should");
}

#[test]
fn refused_attempt_goes_to_another_endpoint_and_then_to_the_next_cluster() {
    let target = target(&[(1.0, 3, None), (0.0, 3, None), (0.0, 3, None)]);
    let mut tried = Tried::default();
    let permits: Vec<Permit> = (0..4).map(|n| target.next(&mut tried, random(n), NOW).unwrap()).collect();
    let clusters: Vec<&str> = permits.iter().map(cluster).collect();
    assert_eq!(clusters, ["c0", "c0", "c1", "c1"]);
    assert_ne!(permits[0].endpoint.address, permits[1].endpoint.address);
    assert_eq!(target.next(&mut tried, random(9), NOW).unwrap_err(), Refusal::ConnectFailed);
}

#[test]
fn timed_out_cluster_is_left_at_once() {
    let target = target(&[(1.0, 3, None), (0.0, 1, None), (0.0, 1, None)]);
    let mut tried = Tried::default();
    target.next(&mut tried, 1, NOW).unwrap();
    tried.give_up_cluster();
    assert_eq!(cluster(&target.next(&mut tried, 2, NOW).unwrap()), "c1");
    assert!(target.next(&mut tried, 3, NOW).is_err(), "at most two clusters");
}

#[test]
fn open_breaker_sends_requests_elsewhere_without_trying() {
    let target = target(&[(1.0, 3, None), (0.0, 3, None)]);
    for _ in 0..3 {
        target.choices[0].pool.path.breaker.failed(NOW);
    }
    for seed in 0..20 {
        let permit = target.next(&mut Tried::default(), random(seed), NOW).unwrap();
        assert_eq!(cluster(&permit), "c1");
    }
    let later = NOW + Duration::from_secs(3);
    let clusters: Vec<String> = (0..3)
        .map(|seed| cluster(&target.next(&mut Tried::default(), random(seed), later).unwrap()).to_owned())
        .collect();
    assert_eq!(clusters, ["c0", "c1", "c1"], "one trial");
}

#[test]
fn ejected_endpoint_is_skipped_until_nothing_else_is_left() {
    let target = target(&[(1.0, 2, None)]);
    target.choices[0].pool.endpoints[0].failed(NOW);
    for seed in 0..20 {
        let permit = target.next(&mut Tried::default(), random(seed), NOW).unwrap();
        assert_eq!(permit.endpoint.address, target.choices[0].pool.endpoints[1].address);
    }
    target.choices[0].pool.endpoints[1].failed(NOW);
    assert!(target.next(&mut Tried::default(), 1, NOW).is_ok());
}

#[test]
fn full_cluster_passes_the_request_on_and_full_fleet_refuses_it() {
    let target = target(&[(1.0, 2, Some(1)), (0.0, 2, Some(1))]);
    let first = target.next(&mut Tried::default(), 1, NOW).unwrap();
    let second = target.next(&mut Tried::default(), 2, NOW).unwrap();
    assert_eq!((cluster(&first), cluster(&second)), ("c0", "c1"));
    assert_eq!(target.next(&mut Tried::default(), 3, NOW).unwrap_err(), Refusal::Overloaded);
    drop(first);
    assert_eq!(cluster(&target.next(&mut Tried::default(), 4, NOW).unwrap()), "c0");
}

#[test]
fn endpoint_whose_pooled_connection_was_dead_may_be_tried_again() {
    let target = target(&[(1.0, 1, None)]);
    let mut tried = Tried::default();
    target.next(&mut tried, 1, NOW).unwrap();
    tried.forgive_endpoint();
    assert!(target.next(&mut tried, 2, NOW).is_ok());
    assert_eq!(target.next(&mut tried, 3, NOW).unwrap_err(), Refusal::ConnectFailed);
}

#[test]
fn nothing_to_use_is_said_so() {
    assert_eq!(target(&[]).next(&mut Tried::default(), 1, NOW).unwrap_err(), Refusal::NoUsableCluster);
    let empty = target(&[(1.0, 0, None)]);
    assert_eq!(empty.next(&mut Tried::default(), 1, NOW).unwrap_err(), Refusal::NoUsableCluster);
}
