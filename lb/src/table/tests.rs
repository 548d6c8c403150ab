//! Facts about tables.

use std::{net::SocketAddr, time::Duration};

use meridian_core::{
    geo::GeoPoint,
    id::RegionName,
    snapshot::{Dial, GlobalIngress, Strategy as Steering},
};
use meridian_runtime::metrics::Metrics;
use proptest::prelude::*;

use super::*;
use crate::{
    fixtures::{catch_all, cluster, service, shard, site, world},
    metrics::LbMetrics,
};

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const REGIONS: [&str; 3] = ["asia-east1", "europe-west1", "us-central1"];

/// Everything a table is compiled from, to be changed by a test.
struct Case {
    snapshot: Snapshot,
    site: SiteName,
    mask: Mask<ClusterName>,
    demand: BTreeMap<ObjectKey, Rate>,
}

impl Case {
    fn at(site: &str, service: GlobalService) -> Self {
        let snapshot = world([service], catch_all("web"));
        Self { snapshot, site: site.into(), mask: Mask::new(), demand: BTreeMap::new() }
    }

    fn demand(mut self, rate: Rate) -> Self {
        self.demand.insert(ObjectKey::new("shop", "web"), rate);
        self
    }

    fn mask(mut self, cluster: &str) -> Self {
        self.mask.insert(cluster.into(), Why::ProbeFailed);
        self
    }

    fn dial(mut self, region: &str, dial: Dial) -> Self {
        let mut cluster = cluster(region);
        cluster.dial = dial;
        self.snapshot.clusters.insert(region.into(), Arc::new(cluster));
        self
    }

    fn table_at(&self, now: Timestamp) -> Table {
        let inputs = Inputs {
            snapshot: &self.snapshot,
            site: &self.site,
            mask: &self.mask,
            hosts: &Hosts::new(),
            demand: &self.demand,
            now,
        };
        compile(inputs, &mut Registry::new(LbMetrics::new(&Metrics::new())))
    }

    fn target(&self) -> Arc<Target> {
        Arc::clone(self.table_at(NOW).find(None, "/").unwrap().1)
    }
}

fn three_regions() -> GlobalService {
    let endpoint = |n: u8| SocketAddr::from(([10, n, 0, 1], 8080));
    service("web", REGIONS.iter().zip(1..).map(|(region, n)| shard(region, &[endpoint(n)])))
}

fn limited(capacity: Capacity) -> GlobalService {
    let mut service = three_regions();
    service.shards[0].capacity = capacity;
    service
}

fn order(target: &Target) -> Vec<&str> {
    target.choices.iter().map(|choice| choice.cluster.as_str()).collect()
}

fn weights(target: &Target) -> Vec<f64> {
    target.choices.iter().map(|choice| choice.weight).collect()
}

#[test]
fn nearest_gets_all_while_no_demand_is_known() {
    let target = Case::at("asia-east1", three_regions()).target();
    assert_eq!(order(&target), ["asia-east1", "us-central1", "europe-west1"]);
    assert_eq!(weights(&target), [1.0, 0.0, 0.0]);
    assert_eq!(target.weights_from, WeightsFrom::Nearest);
}

#[test]
fn only_the_excess_over_declared_capacity_leaves() {
    let target = Case::at("asia-east1", limited(Capacity::Rate(100.0))).demand(150.0).target();
    assert_eq!(target.weights_from, WeightsFrom::Solved);
    assert!((weights(&target)[0] - 2.0 / 3.0).abs() < 1e-9, "{:?}", weights(&target));
    assert!((weights(&target)[1] - 1.0 / 3.0).abs() < 1e-9, "{:?}", weights(&target));
}

#[test]
fn own_measured_demand_replaces_the_reported_one_and_other_sites_compete() {
    let mut service = limited(Capacity::Rate(100.0));
    service.load.demand = [("asia-east1".into(), 1e6), ("us-central1".into(), 50.0)].into();
    service.shards[2].capacity = Capacity::Rate(60.0);
    let target = Case::at("asia-east1", service).demand(110.0).target();
    // 10 too many at home; the US site takes 50 of 60 at its own door, so 10 fit there.
    assert!((weights(&target)[0] - 100.0 / 110.0).abs() < 1e-9);
    assert!((weights(&target)[1] - 10.0 / 110.0).abs() < 1e-9);
}

#[test]
fn published_shares_are_used_as_they_are() {
    let mut service = limited(Capacity::Rate(100.0));
    service.load.shares =
        [("asia-east1".into(), [("asia-east1".into(), 0.25), ("europe-west1".into(), 0.75)].into())].into();
    let target = Case::at("asia-east1", service).demand(150.0).target();
    assert_eq!(target.weights_from, WeightsFrom::Shares);
    assert_eq!(weights(&target), [0.25, 0.0, 0.75], "in rank order: Asia, America, Europe");
}

#[test]
fn shares_that_name_a_lost_cluster_are_solved_anew() {
    let mut service = three_regions();
    service.load.shares =
        [("asia-east1".into(), [("asia-east1".into(), 0.5), ("us-central1".into(), 0.5)].into())].into();
    let target = Case::at("asia-east1", service).demand(10.0).mask("us-central1").target();
    assert_eq!(target.weights_from, WeightsFrom::Solved);
    assert_eq!((order(&target), weights(&target)), (vec!["asia-east1", "europe-west1"], vec![1.0, 0.0]));
    assert_eq!(target.excluded, [("us-central1".into(), Why::ProbeFailed)]);
}

#[test]
fn expired_dial_brings_a_cluster_home_without_the_controller() {
    let mut service = three_regions();
    service.load.shares = [("asia-east1".into(), [("us-central1".into(), 1.0)].into())].into();
    let until = NOW + Duration::from_secs(60);
    let case = Case::at("asia-east1", service).dial("asia-east1", Dial { percent: 0, until: Some(until) });
    let drained = case.table_at(NOW);
    assert_eq!(drained.next_expiry, Some(until));
    assert_eq!(order(drained.find(None, "/").unwrap().1), ["us-central1", "europe-west1"]);
    let back = case.table_at(until);
    let target = back.find(None, "/").unwrap().1;
    assert_eq!((order(target)[0], weights(target)[0]), ("asia-east1", 1.0));
    assert_eq!(back.next_expiry, None);
}

#[test]
fn shard_without_endpoints_at_the_port_is_left_out() {
    let mut service = three_regions();
    service.shards[0].groups.clear();
    service.shards[1].ready = 0;
    let target = Case::at("asia-east1", service).target();
    assert_eq!(order(&target), ["us-central1"]);
    let expected = [("asia-east1".into(), Why::NoAddress), ("europe-west1".into(), Why::NoReadyEndpoint)];
    assert_eq!(target.excluded, expected);
}

#[test]
fn failing_open_sends_all_to_the_nearest_with_an_address() {
    let mut service = three_regions();
    service.shards[0].groups.clear();
    service.shards[0].ready = 0;
    let target = Case::at("asia-east1", service).mask("europe-west1").mask("us-central1").target();
    assert!(target.failed_open);
    assert_eq!((order(&target)[0], weights(&target)[0]), ("us-central1", 1.0));
}

#[test]
fn limit_in_flight_is_divided_by_demand_and_dial() {
    let mut service = limited(Capacity::InFlight(100));
    service.load.demand = [("europe-west1".into(), 30.0)].into();
    let half = Dial { percent: 50, until: None };
    let case = Case::at("asia-east1", service).dial("asia-east1", half).demand(10.0);
    assert_eq!(case.target().choices[0].limit, Some(13), "100 x 1/2 x 1/4, rounded up");
    assert!(case.table_at(NOW).follows_demand);
    let idle = case.demand(0.0);
    assert_eq!(idle.target().choices[0].limit, Some(3), "the first clients are let in");
}

#[test]
fn ingress_policy_steers_its_own_routes() {
    let mut case = Case::at("asia-east1", three_regions());
    let mut ingress = catch_all("web");
    let tiers = vec![vec!["europe-west1".into()]];
    ingress.policy = Some(Policy { strategy: Steering::Failover(tiers), ..Policy::default() });
    case.snapshot.ingresses = [(ingress.key.clone(), Arc::new(ingress))].into();
    assert_eq!(order(&case.target())[0], "europe-west1");
}

#[test]
fn shares_hold_for_an_ingress_unless_its_policy_steers_otherwise() {
    let mut service = three_regions();
    service.load.shares = [("asia-east1".into(), [("us-central1".into(), 1.0)].into())].into();
    let mut case = Case::at("asia-east1", service);
    let mut policy = Policy::default();
    policy.dns.ttl = 5;
    let mut with = |policy: &Policy| {
        let ingress = GlobalIngress { policy: Some(policy.clone()), ..catch_all("web") };
        case.snapshot.ingresses = [(ingress.key.clone(), Arc::new(ingress))].into();
        case.target().weights_from
    };
    assert_eq!(with(&policy), WeightsFrom::Shares);
    policy.allowed_regions = Some(vec!["asia-east1".into()]);
    assert_eq!(with(&policy), WeightsFrom::Nearest);
}

#[test]
fn missing_service_has_a_target_without_choices() {
    let mut case = Case::at("asia-east1", three_regions());
    case.snapshot.services.clear();
    assert!(case.target().choices.is_empty());
}

#[test]
fn undeclared_capacity_does_not_follow_demand() {
    assert!(!Case::at("asia-east1", three_regions()).demand(5.0).table_at(NOW).follows_demand);
}

proptest! {
    /// The proxy orders clusters as DNS does for a client at the same place: both ask `core::steer`.
    #[test]
    fn order_is_that_of_the_shared_decision(
        places in prop::collection::vec((-80.0..80.0_f64, -170.0..170.0_f64), 1..8),
        ready in prop::collection::vec(any::<bool>(), 8),
        lost in prop::collection::vec(any::<bool>(), 8),
        here in (-80.0..80.0_f64, -170.0..170.0_f64),
    ) {
        let point = |(lat, lon): (f64, f64)| GeoPoint::new(lat, lon).ok();
        let mut snapshot = Snapshot::default();
        let mut mask = Mask::new();
        let mut shards = Vec::new();
        for (number, &place) in places.iter().enumerate() {
            let name = format!("c{number}");
            let mut member = cluster(&name);
            (member.region, member.location) = (Some(RegionName::from(name.as_str())), point(place));
            snapshot.clusters.insert(name.as_str().into(), Arc::new(member));
            let address = SocketAddr::from(([10, 0, number as u8, 1], 80));
            shards.push(shard(&name, if ready[number] { std::slice::from_ref(&address) } else { &[] }));
            if lost[number] {
                mask.insert(name.as_str().into(), Why::ProbeFailed);
            }
        }
        let mut edge = site("here");
        (edge.region, edge.location) = (None, point(here));
        snapshot.sites.insert("here".into(), Arc::new(edge));
        let web = service("web", shards);
        let client = Vantage::at(point(here));
        let (candidates, ranking) = steer::service_ranking(&snapshot, &web, &client, &mask, NOW);
        let expected: Vec<String> =
            ranking.order.iter().map(|ranked| candidates[ranked.index].name.clone()).collect();

        snapshot.services.insert(web.key.clone(), Arc::new(web));
        let ingress = catch_all("web");
        snapshot.ingresses.insert(ingress.key.clone(), Arc::new(ingress));
        let case = Case { snapshot, site: "here".into(), mask, demand: BTreeMap::new() };
        let target = case.target();
        prop_assert_eq!(order(&target), expected);
    }
}
