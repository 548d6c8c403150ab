//! Which addresses stand for the path to a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use meridian_core::{
    id::{ClusterName, ObjectKey, ZoneName},
    snapshot::{BackendPort, Cluster, GlobalService, Network, Shard, Snapshot},
    steer::weight_key,
};

use crate::addresses::{self, Hosts};

/// Addresses per cluster. The path is lost when all of them are silent.
const SAMPLE: usize = 3;

/// What to probe: up to three addresses per cluster that any service uses, by cluster name.
///
/// In Flat mode ready endpoints, of as many zones and services as possible, so that one broken service
/// or zone does not look like a lost cluster; the same endpoints while they exist, so that a probe
/// compares like with like. In Gateway mode the gateways. A cluster without addresses is listed too:
/// it keeps what was known of it.
#[must_use]
pub fn targets(snapshot: &Snapshot, hosts: &Hosts) -> BTreeMap<String, Vec<SocketAddr>> {
    let mut shards: BTreeMap<&ClusterName, Vec<(&GlobalService, &Shard)>> = BTreeMap::new();
    for service in snapshot.services.values() {
        for shard in &service.shards {
            shards.entry(&shard.cluster).or_default().push((service, shard));
        }
    }
    shards
        .into_iter()
        .filter_map(|(name, shards)| {
            let sample = match &snapshot.clusters.get(name)?.as_ref() {
                Cluster { network: Network::Flat, .. } => endpoints(&shards),
                Cluster { network: Network::Gateway(_), .. } => gateways(snapshot, &shards, hosts),
            };
            Some((name.to_string(), sample))
        })
        .collect()
}

/// A candidate for the sample.
struct Candidate<'a> {
    order: u64,
    address: SocketAddr,
    zone: Option<&'a ZoneName>,
    service: &'a ObjectKey,
}

fn endpoints(shards: &[(&GlobalService, &Shard)]) -> Vec<SocketAddr> {
    let mut candidates = Vec::new();
    // Pods that are only leaving would soon fail, and say nothing of the path.
    for (service, shard) in shards.iter().filter(|(_, shard)| shard.ready > 0) {
        for group in &shard.groups {
            let Some(port) = group.ports.first() else { continue };
            for endpoint in &group.endpoints {
                let address = SocketAddr::new(endpoint.address, port.port);
                let order = weight_key(&address.to_string());
                let zone = endpoint.zone.as_ref();
                candidates.push(Candidate { order, address, zone, service: &service.key });
            }
        }
    }
    candidates.sort_by_key(|candidate| (candidate.order, candidate.address));
    candidates.dedup_by_key(|candidate| candidate.address);
    let (mut zones, mut services) = (BTreeSet::new(), BTreeSet::new());
    let mut sample: Vec<SocketAddr> = Vec::new();
    while sample.len() < SAMPLE {
        let left = candidates.iter().filter(|candidate| !sample.contains(&candidate.address));
        // New zone first, then new service, then the order that hashing gives: stable, not alphabetical.
        let next = left.min_by_key(|candidate| {
            (zones.contains(&candidate.zone), services.contains(candidate.service), candidate.order)
        });
        let Some(next) = next else { break };
        zones.insert(next.zone);
        services.insert(next.service);
        sample.push(next.address);
    }
    sample
}

fn gateways(snapshot: &Snapshot, shards: &[(&GlobalService, &Shard)], hosts: &Hosts) -> Vec<SocketAddr> {
    let mut found = BTreeSet::new();
    for (service, shard) in shards.iter().filter(|(_, shard)| shard.ready > 0) {
        // Without ports there is still a gateway or an Ingress controller to probe.
        let port =
            service.ports.first().map_or(BackendPort::Number(80), |port| BackendPort::Number(port.port));
        found.extend(addresses::of_shard(snapshot, service, shard, &port, hosts));
    }
    found.into_iter().take(SAMPLE).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use meridian_core::snapshot::{Address, Endpoint, EndpointGroup, EndpointPort, Gateway};

    use super::*;
    use crate::fixtures::{cluster, service, shard};

    fn in_zones(zones: &[(&str, u8)]) -> Shard {
        let endpoint = |(number, &(zone, count)): (usize, &(&'static str, u8))| {
            (0..count).map(move |last| Endpoint {
                address: [10, 0, number as u8, last].into(),
                zone: Some(zone.into()),
            })
        };
        let zones: Vec<(&'static str, u8)> = zones
            .iter()
            .map(|&(zone, count)| {
                (
                    if zone == "a" {
                        "a"
                    } else if zone == "b" {
                        "b"
                    } else {
                        "c"
                    },
                    count,
                )
            })
            .collect();
        let endpoints: Vec<Endpoint> = zones.iter().enumerate().flat_map(endpoint).collect();
        let ready = u32::try_from(endpoints.len()).unwrap();
        let ports = vec![EndpointPort { name: "".into(), port: 8080 }];
        Shard { ready, groups: vec![EndpointGroup { ports, endpoints }], ..shard("eu", &[]) }
    }

    fn snapshot(network: Network, services: impl IntoIterator<Item = GlobalService>) -> Snapshot {
        let eu = Cluster { network, ..cluster("eu") };
        Snapshot {
            clusters: [("eu".into(), Arc::new(eu))].into(),
            services: services.into_iter().map(|s| (s.key.clone(), Arc::new(s))).collect(),
            ..Snapshot::default()
        }
    }

    #[test]
    fn sample_has_every_zone_and_stays_when_others_come_and_go() {
        let many = snapshot(Network::Flat, [service("web", [in_zones(&[("a", 20), ("b", 2), ("c", 1)])])]);
        let sample = &targets(&many, &Hosts::new())["eu"];
        let zones: BTreeSet<String> = sample.iter().map(|a| a.to_string()[..7].to_owned()).collect();
        assert_eq!((sample.len(), zones.len()), (3, 3), "{sample:?}");
        assert_eq!(&targets(&many, &Hosts::new())["eu"], sample);
    }

    #[test]
    fn sample_prefers_different_services() {
        let (a, b) = (
            service(
                "a",
                [shard(
                    "eu",
                    &[([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], 80).into(), ([10, 0, 0, 3], 80).into()],
                )],
            ),
            service("b", [shard("eu", &[([10, 0, 1, 1], 80).into()])]),
        );
        let sample = targets(&snapshot(Network::Flat, [a, b]), &Hosts::new());
        assert!(sample["eu"].contains(&([10, 0, 1, 1], 80).into()), "{sample:?}");
    }

    #[test]
    fn gateways_are_probed_where_pods_cannot_be_reached() {
        let gateway = Gateway { address: Address::Ip([203, 0, 113, 1].into()), port: 8080 };
        let found = targets(
            &snapshot(Network::Gateway(vec![gateway]), [service("web", [in_zones(&[("a", 5)])])]),
            &Hosts::new(),
        );
        assert_eq!(found["eu"], [SocketAddr::from(([203, 0, 113, 1], 8080))]);
    }

    #[test]
    fn pods_that_only_leave_are_not_probed() {
        let leaving = Shard { ready: 0, ..in_zones(&[("a", 2)]) };
        let found = targets(&snapshot(Network::Flat, [service("web", [leaving])]), &Hosts::new());
        assert_eq!(found["eu"], []);
    }

    #[test]
    fn cluster_without_addresses_keeps_its_state() {
        let found = targets(&snapshot(Network::Flat, [service("web", [shard("eu", &[])])]), &Hosts::new());
        assert_eq!(found["eu"], []);
    }
}
