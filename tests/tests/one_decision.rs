//! DNS and LB order clusters alike for equal vantage: both are views of `core::steer`.
//!
//! Each side gets what the feed gives it (DNS without endpoints, LB without zones) and its own compiled form is
//! asked, not the function below it: a front end that filtered or sorted once more would fail here.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use meridian_core::geo::GeoPoint;
use meridian_core::id::{ClusterName, ObjectKey, RegionName, SiteName};
use meridian_core::name::DnsName;
use meridian_core::snapshot::{
    Address, Backend, BackendPort, Cluster, Dial, DnsPolicy, DnsTarget, Endpoint, EndpointGroup,
    EndpointPort, GlobalIngress, GlobalService, NameTarget, Network, Policy, Role, ServicePort, Shard, Site,
    Snapshot, Strategy,
};
use meridian_core::steer::{Mask, Vantage, Why};
use meridian_core::time::Timestamp;
use meridian_dns::choice::{Choice, Masks};
use meridian_lb::metrics::LbMetrics;
use meridian_lb::registry::Registry;
use meridian_lb::table::{self, Inputs};
use meridian_runtime::metrics::Metrics;
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

/// One member as drawn by proptest.
#[derive(Clone, Debug)]
struct Draw {
    place: Option<(f64, f64)>,
    region: u8,
    dial: u8,
    ready: u32,
    mask: u8,
    tier: u8,
}

fn draw() -> impl proptest::strategy::Strategy<Value = Draw> {
    let place = prop::option::weighted(0.8, (-60.0..70.0_f64, -180.0..180.0_f64));
    let dial = prop_oneof![Just(100_u8), Just(0), 1_u8..100];
    (place, 0_u8..4, dial, 0_u32..3, 0_u8..6, 0_u8..3)
        .prop_map(|(place, region, dial, ready, mask, tier)| Draw { place, region, dial, ready, mask, tier })
}

fn point(place: (f64, f64)) -> GeoPoint {
    GeoPoint::new(place.0, place.1).expect("drawn from the globe")
}

fn name(index: usize) -> ClusterName {
    ClusterName::from(format!("c{index}"))
}

fn key() -> ObjectKey {
    ObjectKey::new("shop", "web")
}

fn region(number: u8) -> RegionName {
    RegionName::from(format!("region-{number}"))
}

fn cluster(index: usize, draw: &Draw) -> Cluster {
    Cluster {
        name: name(index),
        region: Some(region(draw.region)),
        zones: Vec::new(),
        location: draw.place.map(point),
        network: Network::Flat,
        dial: Dial { percent: draw.dial, until: None },
    }
}

fn shard(index: usize, draw: &Draw) -> Shard {
    let number = u8::try_from(index).expect("few clusters");
    let endpoint = |n: u32| Endpoint {
        address: IpAddr::V4(Ipv4Addr::new(10, 100 + number, 0, u8::try_from(n + 1).expect("few endpoints"))),
        zone: None,
    };
    Shard {
        cluster: name(index),
        ready: draw.ready,
        total: draw.ready,
        groups: vec![EndpointGroup {
            ports: vec![EndpointPort { name: "".into(), port: 8080 }],
            endpoints: (0..draw.ready).map(endpoint).collect(),
        }],
        load_balancer: vec![Address::Ip(IpAddr::V4(Ipv4Addr::new(10, 100 + number, 250, 1)))],
        ingress: Vec::new(),
        capacity: Default::default(),
    }
}

fn policy(draws: &[Draw], has_tiers: bool, fence: &Option<Vec<u8>>) -> Policy {
    let tier = |wanted: u8| {
        let members = draws.iter().enumerate().filter(|(_, draw)| draw.tier == wanted);
        members.map(|(index, _)| name(index)).collect::<Vec<_>>()
    };
    Policy {
        // The last tier is not named: its clusters come last.
        strategy: if has_tiers { Strategy::Failover(vec![tier(0), tier(1)]) } else { Strategy::Proximity },
        allowed_regions: fence.as_ref().map(|regions| regions.iter().map(|&number| region(number)).collect()),
        dns: DnsPolicy { target: DnsTarget::Members, ..DnsPolicy::default() },
        ..Policy::default()
    }
}

fn snapshot(draws: &[Draw], site: Site, policy: Policy) -> Snapshot {
    let service = GlobalService {
        key: key(),
        ports: vec![ServicePort { name: "".into(), port: 80 }],
        shards: draws.iter().enumerate().map(|(index, draw)| shard(index, draw)).collect(),
        policy,
        load: Default::default(),
    };
    let ingress = GlobalIngress {
        key: key(),
        created: Timestamp::default(),
        rules: Vec::new(),
        default_backend: Some(Backend { service: key(), port: BackendPort::Number(80) }),
        tls: Vec::new(),
        policy: None,
    };
    Snapshot {
        clusters: draws.iter().enumerate().map(|(i, draw)| (name(i), Arc::new(cluster(i, draw)))).collect(),
        sites: [(site.name.clone(), Arc::new(site))].into(),
        services: [(key(), Arc::new(service))].into(),
        ingresses: [(key(), Arc::new(ingress))].into(),
        ..Snapshot::default()
    }
}

fn site(location: GeoPoint) -> Site {
    Site {
        name: SiteName::from("here"),
        cluster: None,
        region: None,
        location: Some(location),
        vips: Vec::new(),
        addresses: Vec::new(),
        dial: Dial::default(),
        max_rate: None,
        distances: [].into(),
        probe_port: 80,
    }
}

fn order_of_dns(snapshot: &Snapshot, at: GeoPoint, mask: &Mask<ClusterName>) -> Vec<ClusterName> {
    let seen = snapshot.scoped(Role::Dns);
    let masks = Masks { clusters: mask.clone(), ..Masks::default() };
    let apex: DnsName = "web.example.org".parse().expect("a valid name");
    let choice =
        Choice::compile(&seen, &apex, &NameTarget::Service(key()), false, &masks, Timestamp::default());
    let ranking = choice.rank(&Vantage::at(Some(at)), &[]);
    ranking
        .order
        .iter()
        .map(|ranked| ClusterName::from(choice.candidates[ranked.index].name.as_str()))
        .collect()
}

fn order_of_lb(snapshot: &Snapshot, mask: &Mask<ClusterName>) -> Vec<ClusterName> {
    let seen = snapshot.scoped(Role::Lb);
    let inputs = Inputs {
        snapshot: &seen,
        site: &SiteName::from("here"),
        mask,
        hosts: &Default::default(),
        demand: &Default::default(),
        now: Timestamp::default(),
    };
    let table = table::compile(inputs, &mut Registry::new(LbMetrics::new(&Metrics::new())));
    let (_, target) = table.find(Some("anything"), "/").expect("the default backend takes everything");
    target.choices.iter().map(|choice| choice.cluster.clone()).collect()
}

proptest! {
    #[test]
    fn dns_and_lb_order_clusters_alike(
        draws in prop::collection::vec(draw(), 1..7),
        here in (-60.0..70.0_f64, -180.0..180.0_f64),
        has_tiers in any::<bool>(),
        fence in prop::option::weighted(0.3, prop::collection::vec(0_u8..4, 1..4)),
    ) {
        let at = point(here);
        let snapshot = snapshot(&draws, site(at), policy(&draws, has_tiers, &fence));
        let mask: Mask<ClusterName> = draws.iter().enumerate().filter_map(|(index, draw)| match draw.mask {
            0 => Some((name(index), Why::ProbeFailed)),
            1 => Some((name(index), Why::Holding)),
            _ => None,
        }).collect();
        // Failing open may name clusters without endpoints; a proxy cannot send there, DNS can only hope.
        let has_pods = |cluster: &ClusterName| {
            draws.iter().enumerate().any(|(index, draw)| &name(index) == cluster && draw.ready > 0)
        };
        let mut dns = order_of_dns(&snapshot, at, &mask);
        let mut lb = order_of_lb(&snapshot, &mask);
        dns.retain(has_pods);
        lb.retain(has_pods);
        prop_assert_eq!(dns, lb);
    }
}

#[test]
fn the_property_sees_more_than_empty_orders() {
    let draws: Vec<Draw> = [(24.0, 120.5), (50.5, 3.8), (41.3, -95.9)]
        .map(|place| Draw { place: Some(place), region: 0, dial: 100, ready: 1, mask: 5, tier: 0 })
        .to_vec();
    let at = point((25.0, 121.5));
    let snapshot = snapshot(&draws, site(at), policy(&draws, false, &None));
    let expected = [name(0), name(2), name(1)];
    assert_eq!(order_of_dns(&snapshot, at, &Mask::new()), expected);
    assert_eq!(order_of_lb(&snapshot, &Mask::new()), expected);
}
