//! Where a shard is reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use meridian_core::{
    name::DnsName,
    snapshot::{Address, BackendPort, GlobalService, Network, Shard, Snapshot},
};

/// Port of an Ingress controller that says only its address.
const HTTP: u16 = 80;

/// Addresses of hostnames, last known.
pub type Hosts = BTreeMap<DnsName, Vec<IpAddr>>;

/// Addresses for `port` of `service` in `shard`'s cluster.
///
/// Flat: the ready endpoints. Gateway: the cluster's gateways, else the member's own Ingress, else its
/// load balancer for the Service. Empty when there is none, or none is resolved yet.
#[must_use]
pub fn of_shard(
    snapshot: &Snapshot,
    service: &GlobalService,
    shard: &Shard,
    port: &BackendPort,
    hosts: &Hosts,
) -> Vec<SocketAddr> {
    let Some(cluster) = snapshot.clusters.get(&shard.cluster) else { return Vec::new() };
    match &cluster.network {
        Network::Flat => endpoints(service, shard, port),
        Network::Gateway(gateways) if !gateways.is_empty() => {
            gateways.iter().flat_map(|gateway| resolved(&gateway.address, gateway.port, hosts)).collect()
        }
        Network::Gateway(_) if !shard.ingress.is_empty() => {
            shard.ingress.iter().flat_map(|address| resolved(address, HTTP, hosts)).collect()
        }
        Network::Gateway(_) => {
            let port = service_port(service, port).map_or(HTTP, |port| port.1);
            shard.load_balancer.iter().flat_map(|address| resolved(address, port, hosts)).collect()
        }
    }
}

/// Hostnames that must be resolved before all shards can be reached.
#[must_use]
pub fn hostnames(snapshot: &Snapshot) -> BTreeSet<DnsName> {
    let mut names = BTreeSet::new();
    let mut note = |address: &Address| {
        if let Address::Hostname(name) = address {
            names.insert(name.clone());
        }
    };
    for cluster in snapshot.clusters.values() {
        if let Network::Gateway(gateways) = &cluster.network {
            gateways.iter().for_each(|gateway| note(&gateway.address));
        }
    }
    for shard in snapshot.services.values().flat_map(|service| &service.shards) {
        let cluster = snapshot.clusters.get(&shard.cluster);
        if cluster
            .is_some_and(|cluster| matches!(&cluster.network, Network::Gateway(list) if list.is_empty()))
        {
            shard.ingress.iter().chain(&shard.load_balancer).for_each(&mut note);
        }
    }
    names
}

/// Name and number of the Service port that `port` means.
fn service_port<'a>(service: &'a GlobalService, port: &BackendPort) -> Option<(&'a str, u16)> {
    let found = service.ports.iter().find(|candidate| match port {
        BackendPort::Name(name) => candidate.name == *name,
        BackendPort::Number(number) => candidate.port == *number,
    });
    found.map(|found| (&*found.name, found.port))
}

fn endpoints(service: &GlobalService, shard: &Shard, port: &BackendPort) -> Vec<SocketAddr> {
    let name = match (service_port(service, port), port) {
        (Some((name, _)), _) => name,
        // A name that the Service does not list may still be one of the slices.
        (None, BackendPort::Name(name)) => name,
        (None, BackendPort::Number(_)) => return Vec::new(),
    };
    let mut addresses = Vec::new();
    for group in &shard.groups {
        if let Some(port) = group.ports.iter().find(|port| *port.name == *name) {
            addresses.extend(group.endpoints.iter().map(|e| SocketAddr::new(e.address, port.port)));
        }
    }
    addresses
}

fn resolved(address: &Address, port: u16, hosts: &Hosts) -> Vec<SocketAddr> {
    match address {
        Address::Ip(ip) => vec![SocketAddr::new(*ip, port)],
        Address::Hostname(name) => {
            hosts.get(name).into_iter().flatten().map(|&ip| SocketAddr::new(ip, port)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use meridian_core::snapshot::{Endpoint, EndpointGroup, EndpointPort, Gateway, ServicePort};

    use super::*;
    use crate::fixtures::{cluster, service};

    fn shard() -> Shard {
        let port = |name: &str, port| EndpointPort { name: name.into(), port };
        let endpoint = |last| Endpoint { address: [10, 0, 0, last].into(), zone: None };
        Shard {
            groups: vec![
                EndpointGroup {
                    ports: vec![port("http", 8080), port("metrics", 9090)],
                    endpoints: vec![endpoint(1)],
                },
                EndpointGroup { ports: vec![port("http", 8081)], endpoints: vec![endpoint(2)] },
            ],
            load_balancer: vec![Address::Ip([198, 51, 100, 1].into())],
            ..crate::fixtures::shard("eu", &[])
        }
    }

    fn found(network: Network, shard: &Shard, port: BackendPort, hosts: &Hosts) -> Vec<String> {
        let mut eu = cluster("eu");
        eu.network = network;
        let snapshot = Snapshot { clusters: [("eu".into(), Arc::new(eu))].into(), ..Snapshot::default() };
        let mut service = service("web", []);
        service.ports = vec![
            ServicePort { name: "http".into(), port: 80 },
            ServicePort { name: "metrics".into(), port: 81 },
        ];
        of_shard(&snapshot, &service, shard, &port, hosts).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn port_is_found_by_number_and_by_name() {
        let hosts = Hosts::new();
        let by = |port| found(Network::Flat, &shard(), port, &hosts);
        assert_eq!(by(BackendPort::Number(80)), ["10.0.0.1:8080", "10.0.0.2:8081"]);
        assert_eq!(by(BackendPort::Name("metrics".into())), ["10.0.0.1:9090"]);
        assert!(by(BackendPort::Number(8080)).is_empty(), "an Ingress names Service ports");
    }

    #[test]
    fn gateway_beats_ingress_beats_load_balancer() {
        let gateway = Gateway { address: Address::Hostname("gw.example".parse().unwrap()), port: 8443 };
        let hosts = Hosts::from([("gw.example".parse().unwrap(), vec![[203, 0, 113, 1].into()])]);
        let mut shard = shard();
        let port = BackendPort::Number(81);
        let with = Network::Gateway(vec![gateway]);
        assert_eq!(found(with.clone(), &shard, port.clone(), &hosts), ["203.0.113.1:8443"]);
        assert!(found(with, &shard, port.clone(), &Hosts::new()).is_empty(), "not resolved yet");
        let without = Network::Gateway(Vec::new());
        assert_eq!(found(without.clone(), &shard, port.clone(), &hosts), ["198.51.100.1:81"]);
        shard.ingress = vec![Address::Ip([198, 51, 100, 2].into())];
        assert_eq!(found(without, &shard, port, &hosts), ["198.51.100.2:80"]);
    }
}
