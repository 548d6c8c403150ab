//! Shards: what each member has of one service.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Facts, Member, SliceFact, facts::EndpointFact, plan::ServicePlan};
use crate::{
    id::{ClusterName, ObjectKey},
    snapshot::{Address, Capacity, Endpoint, EndpointGroup, EndpointPort, Shard},
};

/// One shard per selected member that has the Service, sorted by cluster.
pub(super) fn all(facts: &Facts, key: &ObjectKey, plan: &ServicePlan) -> Vec<Shard> {
    facts
        .members
        .iter()
        .filter(|(_, member)| member.fact.as_ref().is_some_and(|fact| plan.selects(fact)))
        .filter_map(|(cluster, member)| shard(facts, cluster, member, key, plan))
        .collect()
}

fn shard(
    facts: &Facts,
    cluster: &ClusterName,
    member: &Member,
    key: &ObjectKey,
    plan: &ServicePlan,
) -> Option<Shard> {
    let service = member.services.get(key)?;
    let slices = || slices(member, key);
    let ready = |endpoint: &EndpointFact| endpoint.is_ready && !endpoint.is_terminating;
    // A pod that is about to go still answers. It does not make its cluster eligible, because other
    // clusters have pods that stay; but where nothing else is left anywhere and the policy fails open,
    // it is where a request can still be sent.
    let leaving = |endpoint: &EndpointFact| endpoint.is_serving && endpoint.is_terminating;
    let is_any_ready = slices().any(|slice| slice.endpoints.iter().any(ready));
    let takes_traffic =
        |endpoint: &EndpointFact| if is_any_ready { ready(endpoint) } else { leaving(endpoint) };
    let ready = count(slices().flat_map(|slice| slice.endpoints.iter()).filter(|e| ready(e)));
    Some(Shard {
        cluster: cluster.clone(),
        ready,
        // Without those that leave: a rolling update is no partial failure.
        total: count(slices().flat_map(|slice| slice.endpoints.iter()).filter(|e| !e.is_terminating)),
        groups: groups(slices(), takes_traffic),
        load_balancer: service.load_balancer.clone(),
        ingress: ingress_addresses(facts, member, key),
        capacity: capacity(plan, service.capacity.as_ref(), cluster, ready),
    })
}

fn slices<'a>(member: &'a Member, key: &ObjectKey) -> impl Iterator<Item = &'a SliceFact> {
    let keys = member.slices_of.get(key).into_iter().flatten();
    keys.filter_map(|key| member.slices.get(key))
}

/// Endpoints among these addresses. A pod of a dual-stack Service has one address in each family, so the
/// larger family counts the pods.
fn count<'a>(endpoints: impl Iterator<Item = &'a EndpointFact>) -> u32 {
    let (v4, v6): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
        endpoints.map(|endpoint| endpoint.address).partition(IpAddr::is_ipv4);
    u32::try_from(v4.len().max(v6.len())).unwrap_or(u32::MAX)
}

/// Sorted by ports, and endpoints by address, so that equal sets are equal values.
fn groups<'a>(
    slices: impl Iterator<Item = &'a SliceFact>,
    takes_traffic: impl Fn(&EndpointFact) -> bool,
) -> Vec<EndpointGroup> {
    let mut by_ports: BTreeMap<Vec<(&str, u16)>, BTreeMap<IpAddr, Endpoint>> = BTreeMap::new();
    for slice in slices {
        let mut ports: Vec<(&str, u16)> = slice.ports.iter().map(|port| (&*port.name, port.port)).collect();
        ports.sort_unstable();
        let group = by_ports.entry(ports).or_default();
        for fact in slice.endpoints.iter().filter(|endpoint| takes_traffic(endpoint)) {
            group.insert(fact.address, Endpoint { address: fact.address, zone: fact.zone.clone() });
        }
    }
    by_ports
        .into_iter()
        .filter(|(_, endpoints)| !endpoints.is_empty())
        .map(|(ports, endpoints)| EndpointGroup {
            ports: ports.into_iter().map(|(name, port)| EndpointPort { name: name.into(), port }).collect(),
            endpoints: endpoints.into_values().collect(),
        })
        .collect()
}

/// Addresses of the member's own Ingress controller that lead to the service. Addresses of sites, which
/// Meridian writes into Ingresses itself, lead back here and do not count.
fn ingress_addresses(facts: &Facts, member: &Member, key: &ObjectKey) -> Vec<Address> {
    let is_ours = |address: &Address| {
        let Some(ip) = address.ip() else { return false };
        let mut sites = facts.sites.values().map(|fact| &fact.site);
        sites.any(|site| site.vips.contains(&ip) || site.addresses.contains(&ip))
    };
    let mut addresses: Vec<Address> = member
        .ingresses
        .iter()
        .filter(|(at, ingress)| at.namespace == key.namespace && ingress.ingress.backends().contains(key))
        .flat_map(|(_, ingress)| &ingress.addresses)
        .filter(|address| !is_ours(address))
        .cloned()
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Declared capacity per endpoint times ready endpoints: of policies, else of the member's own annotations.
fn capacity(
    plan: &ServicePlan,
    annotated: Option<&super::CapacityDeclaration>,
    cluster: &ClusterName,
    ready: u32,
) -> Capacity {
    let declared = plan
        .capacities
        .iter()
        .chain(annotated)
        .chain(&plan.template_capacity)
        .find_map(|declaration| declaration.in_cluster(cluster));
    match declared {
        Some((Some(rate), _)) => Capacity::Rate(rate * f64::from(ready)),
        // A fraction of a request cannot be in flight; what is declared is never exceeded.
        Some((None, Some(in_flight))) => Capacity::InFlight((in_flight * f64::from(ready)).floor() as u32),
        Some((None, None)) | None => Capacity::Undeclared,
    }
}
