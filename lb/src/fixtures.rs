//! Small fleets for tests.

use std::{net::SocketAddr, sync::Arc};

use meridian_core::{
    geo::region_location,
    id::ObjectKey,
    snapshot::{
        Backend, BackendPort, Capacity, Cluster, Dial, Endpoint, EndpointGroup, EndpointPort, GlobalIngress,
        GlobalService, HostRule, Load, Network, PathKind, PathRule, Policy, ServicePort, Shard, Site,
        Snapshot,
    },
    time::Timestamp,
};

pub(crate) fn cluster(region: &str) -> Cluster {
    Cluster {
        name: region.into(),
        region: Some(region.into()),
        zones: Vec::new(),
        location: region_location(region),
        network: Network::Flat,
        dial: Dial::default(),
    }
}

pub(crate) fn site(region: &str) -> Site {
    Site {
        name: region.into(),
        cluster: None,
        region: Some(region.into()),
        location: region_location(region),
        vips: Vec::new(),
        addresses: Vec::new(),
        dial: Dial::default(),
        max_rate: None,
        distances: [].into(),
        probe_port: 80,
    }
}

pub(crate) fn shard(cluster: &str, endpoints: &[SocketAddr]) -> Shard {
    let groups = endpoints.iter().map(|address| EndpointGroup {
        ports: vec![EndpointPort { name: "".into(), port: address.port() }],
        endpoints: vec![Endpoint { address: address.ip(), zone: None }],
    });
    let count = u32::try_from(endpoints.len()).unwrap();
    Shard {
        cluster: cluster.into(),
        ready: count,
        total: count,
        groups: groups.collect(),
        load_balancer: Vec::new(),
        ingress: Vec::new(),
        capacity: Capacity::Undeclared,
    }
}

pub(crate) fn service(name: &str, shards: impl IntoIterator<Item = Shard>) -> GlobalService {
    let mut shards: Vec<Shard> = shards.into_iter().collect();
    shards.sort_by(|a, b| a.cluster.cmp(&b.cluster));
    GlobalService {
        key: ObjectKey::new("shop", name),
        ports: vec![ServicePort { name: "".into(), port: 80 }],
        shards,
        policy: Policy::default(),
        load: Load::default(),
    }
}

/// An Ingress `shop/web` that sends every host and path to `service`.
pub(crate) fn catch_all(service: &str) -> GlobalIngress {
    let backend = Backend { service: ObjectKey::new("shop", service), port: BackendPort::Number(80) };
    let paths = vec![PathRule { kind: PathKind::Prefix, path: "/".into(), backend }];
    GlobalIngress {
        key: ObjectKey::new("shop", "web"),
        created: Timestamp::default(),
        rules: vec![HostRule { host: None, paths }],
        default_backend: None,
        tls: Vec::new(),
        policy: None,
    }
}

/// The three regions of the walk-through, each with a cluster and a site of its name.
pub(crate) fn world(services: impl IntoIterator<Item = GlobalService>, ingress: GlobalIngress) -> Snapshot {
    let regions = ["asia-east1", "europe-west1", "us-central1"];
    Snapshot {
        clusters: regions.map(|region| (region.into(), Arc::new(cluster(region)))).into(),
        sites: regions.map(|region| (region.into(), Arc::new(site(region)))).into(),
        services: services.into_iter().map(|service| (service.key.clone(), Arc::new(service))).collect(),
        ingresses: [(ingress.key.clone(), Arc::new(ingress))].into(),
        ..Snapshot::default()
    }
}
