//! What a dynamic name may be answered with, compiled so that a query only has to rank it.
//!
//! Candidates, their health and their addresses do not depend on who asks, so they are worked out
//! once per view. What is left for the query is [`Choice::rank`]: `core::steer`'s order from the
//! client's place, with the operator's overrides on top.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use meridian_core::{
    id::{ClusterName, ObjectKey, RegionName, SiteName, ZoneName},
    name::DnsName,
    route::effective_policy,
    snapshot::{
        Address, Backend, Cluster, DnsTarget, GlobalIngress, GlobalService, NameTarget, Network, Policy,
        Shard, Site, Snapshot, WhenAllUnhealthy,
    },
    steer::{Candidate, Mask, Ranking, Rules, Vantage, Why, rank, service_candidates, site_candidates},
    time::Timestamp,
    zone::prefer,
};

/// Port of a member's own Ingress controller.
const HTTP: u16 = 80;

/// What this server's own probes have against sites and members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    /// Sites that are lost or on hold.
    pub sites: Mask<SiteName>,
    /// Members that are lost or on hold.
    pub clusters: Mask<ClusterName>,
}

/// The addresses of one place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4, in declared order.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6, in declared order.
    pub v6: Vec<Ipv6Addr>,
    /// The first name among its addresses.
    pub hostname: Option<DnsName>,
    /// The TCP port that clients will use there, which is also the one that is probed.
    pub port: Option<u16>,
}

impl Addresses {
    fn of_ips<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> Self {
        let mut sorted = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(v4) => sorted.v4.push(*v4),
                IpAddr::V6(v6) => sorted.v6.push(*v6),
            }
        }
        sorted
    }

    fn of<'a>(addresses: impl IntoIterator<Item = &'a Address> + Clone, port: Option<u16>) -> Self {
        let hostname = addresses.clone().into_iter().find_map(|address| match address {
            Address::Hostname(name) => Some(name.clone()),
            Address::Ip(_) => None,
        });
        let ips: Vec<IpAddr> = addresses.into_iter().filter_map(Address::ip).collect();
        Self { hostname, port, ..Self::of_ips(&ips) }
    }

    /// The addresses with their port, IPv4 first; empty without a port.
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> {
        let v4 = self.v4.iter().copied().map(IpAddr::V4);
        let ips = v4.chain(self.v6.iter().copied().map(IpAddr::V6));
        ips.filter_map(|ip| Some(SocketAddr::new(ip, self.port?)))
    }

    /// True when there is an IP address.
    #[must_use]
    pub fn has_ip(&self) -> bool {
        !self.v4.is_empty() || !self.v6.is_empty()
    }
}

/// What the candidates of a name are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Edges.
    Site,
    /// Members.
    Cluster,
}

/// A dynamic name with everything that could be answered for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// What the candidates are.
    pub place: Place,
    /// Places, as `core::steer` sees them.
    pub candidates: Vec<Candidate>,
    /// Their addresses, by the same index.
    pub addresses: Vec<Addresses>,
    /// The cluster that an override would name for them, by the same index.
    clusters: Vec<Option<ClusterName>>,
    /// Rules of the policy.
    pub rules: Rules,
    /// Seconds a resolver may keep the answer.
    pub ttl: u32,
    /// Places per answer, and addresses per answer, at most.
    pub limit: usize,
    /// Where the name points when no candidate is healthy (KubeFed's region and zone names).
    pub fallback: Option<DnsName>,
    /// True when the order depends on where the client is.
    pub is_geographic: bool,
    /// Candidates that could be chosen now, from anywhere.
    pub usable: usize,
    /// True when nothing is healthy and unhealthy places are answered all the same.
    pub failed_open: bool,
}

impl Choice {
    /// The order of candidates from `vantage`, those in `preferred` clusters first.
    #[must_use]
    pub fn rank(&self, vantage: &Vantage, preferred: &[ClusterName]) -> Ranking {
        let mut ranking = rank(vantage, &self.candidates, &self.rules);
        prefer(&mut ranking, preferred, |index| self.clusters.get(index).cloned().flatten());
        ranking
    }

    /// Compiles what `name` means. `may_alias` says that a CNAME may stand at the name.
    #[must_use]
    pub fn compile(
        snapshot: &Snapshot,
        name: &DnsName,
        target: &NameTarget,
        may_alias: bool,
        masks: &Masks,
        now: Timestamp,
    ) -> Self {
        let scene = Scene { snapshot, masks, now, may_alias };
        let choice = match target {
            NameTarget::Service(key) => match snapshot.services.get(key) {
                None => scene.nothing(),
                Some(service) if service.policy.dns.target == DnsTarget::Sites => {
                    scene.sites(&[service], &service.policy, Rules::from(&service.policy))
                }
                Some(service) => scene.members(&[service], &service.policy, load_balancer),
            },
            NameTarget::RegionalService { service, region, fallback } => {
                scene.local(snapshot.services.get(service), fallback, |cluster| in_region(cluster, region))
            }
            NameTarget::ZonalService { service, region, zone, fallback } => {
                scene.local(snapshot.services.get(service), fallback, |cluster| {
                    in_region(cluster, region) && in_zone(cluster, zone)
                })
            }
            NameTarget::Ingress(key) => match snapshot.ingresses.get(key) {
                None => scene.nothing(),
                Some(ingress) => scene.ingress(name, ingress),
            },
        };
        choice.with_verdicts()
    }

    fn with_verdicts(mut self) -> Self {
        let ranking = rank(&Vantage::default(), &self.candidates, &self.rules);
        self.usable = ranking.order.len();
        self.failed_open = ranking.failed_open;
        self.is_geographic = ranking.order.windows(2).any(|pair| {
            let (a, b) = (&self.candidates[pair[0].index], &self.candidates[pair[1].index]);
            a.tier == b.tier && (a.location.is_some() || b.location.is_some())
        });
        self
    }
}

fn in_region(cluster: &Cluster, region: &RegionName) -> bool {
    cluster.region.as_ref() == Some(region)
}

fn in_zone(cluster: &Cluster, zone: &ZoneName) -> bool {
    cluster.zones.contains(zone)
}

fn load_balancer(_: &Cluster, service: &GlobalService, shard: &Shard) -> Addresses {
    Addresses::of(&shard.load_balancer, service.ports.first().map(|port| port.port))
}

/// Where a member answers HTTP for others: its gateways, else its own Ingress controller.
fn http_entrance(cluster: &Cluster, _: &GlobalService, shard: &Shard) -> Addresses {
    match &cluster.network {
        Network::Gateway(gateways) if !gateways.is_empty() => {
            let addresses: Vec<Address> = gateways.iter().map(|gateway| gateway.address.clone()).collect();
            Addresses::of(&addresses, gateways.first().map(|gateway| gateway.port))
        }
        _ => Addresses::of(&shard.ingress, Some(HTTP)),
    }
}

/// What all compilations of one view share.
struct Scene<'a> {
    snapshot: &'a Snapshot,
    masks: &'a Masks,
    now: Timestamp,
    may_alias: bool,
}

impl Scene<'_> {
    fn nothing(&self) -> Choice {
        Choice {
            place: Place::Cluster,
            candidates: Vec::new(),
            addresses: Vec::new(),
            clusters: Vec::new(),
            rules: Rules::default(),
            ttl: Policy::default().dns.ttl,
            limit: 1,
            fallback: None,
            is_geographic: false,
            usable: 0,
            failed_open: false,
        }
    }

    fn sites(&self, services: &[&GlobalService], policy: &Policy, rules: Rules) -> Choice {
        let candidates =
            site_candidates(self.snapshot, services, &self.masks.sites, &self.masks.clusters, self.now);
        // `site_candidates` lists the sites in the snapshot's order.
        let sites = || self.snapshot.sites.values();
        let addresses = |site: &Arc<Site>| Addresses {
            port: Some(site.probe_port),
            ..Addresses::of_ips(site.answer_addresses())
        };
        Choice {
            place: Place::Site,
            candidates,
            addresses: sites().map(addresses).collect(),
            clusters: sites().map(|site| site.cluster.clone()).collect(),
            rules,
            ..self.with_policy(policy)
        }
    }

    /// Members that have a shard of any of `services`; a member is as usable as its best shard.
    fn members(
        &self,
        services: &[&GlobalService],
        policy: &Policy,
        addresses: impl Fn(&Cluster, &GlobalService, &Shard) -> Addresses,
    ) -> Choice {
        let mut by_cluster: BTreeMap<ClusterName, (Candidate, Addresses)> = BTreeMap::new();
        for service in services {
            let candidates = service_candidates(self.snapshot, service, &self.masks.clusters, self.now);
            for (mut candidate, shard) in candidates.into_iter().zip(&service.shards) {
                let cluster = self.snapshot.clusters.get(&shard.cluster);
                let addresses = cluster.map(|cluster| addresses(cluster, service, shard)).unwrap_or_default();
                let is_alias = self.may_alias && addresses.hostname.is_some();
                if !addresses.has_ip() && !is_alias {
                    candidate.unusable = Some(Why::NoAddress);
                }
                let is_better = by_cluster
                    .get(&shard.cluster)
                    .is_none_or(|(held, _)| held.unusable.is_some() && candidate.unusable.is_none());
                if is_better {
                    by_cluster.insert(shard.cluster.clone(), (candidate, addresses));
                }
            }
        }
        let mut choice = Choice { rules: Rules::from(policy), ..self.with_policy(policy) };
        for (cluster, (candidate, addresses)) in by_cluster {
            choice.candidates.push(candidate);
            choice.addresses.push(addresses);
            choice.clusters.push(Some(cluster));
        }
        choice
    }

    /// The members that `holds` says lie in one region or zone, all of them, and never an unhealthy
    /// one: the fallback one level up is there for that, and fails open at its end.
    fn local(
        &self,
        service: Option<&Arc<GlobalService>>,
        fallback: &DnsName,
        holds: impl Fn(&Cluster) -> bool,
    ) -> Choice {
        let Some(service) = service else {
            return Choice { fallback: Some(fallback.clone()), ..self.nothing() };
        };
        let mut all = self.members(&[service], &service.policy, load_balancer);
        if rank(&Vantage::default(), &all.candidates, &all.rules).failed_open {
            // Probes that find every shard of the service dead are more likely wrong than right; then
            // ready endpoints count alone, here as at the global name.
            for candidate in &mut all.candidates {
                let is_probed = matches!(candidate.unusable, Some(Why::ProbeFailed | Why::Holding));
                candidate.unusable = candidate.unusable.filter(|_| !is_probed);
            }
        }
        let mut choice = Choice {
            candidates: Vec::new(),
            addresses: Vec::new(),
            clusters: Vec::new(),
            fallback: Some(fallback.clone()),
            // KubeFed lists every healthy shard of the region or zone.
            limit: usize::MAX,
            rules: Rules { when_all_unhealthy: WhenAllUnhealthy::Empty, ..all.rules.clone() },
            ..all
        };
        for ((candidate, addresses), cluster) in
            all.candidates.into_iter().zip(all.addresses).zip(all.clusters)
        {
            let named = cluster.as_ref().and_then(|name| self.snapshot.clusters.get(name));
            if named.is_some_and(|cluster| holds(cluster)) {
                choice.candidates.push(candidate);
                choice.addresses.push(addresses);
                choice.clusters.push(cluster);
            }
        }
        choice
    }

    fn ingress(&self, name: &DnsName, ingress: &GlobalIngress) -> Choice {
        // Each service under the policy by which the proxy steers it: the Ingress's over its own.
        let steered: Vec<GlobalService> = backends_of(ingress, name)
            .filter_map(|backend| self.snapshot.services.get(&backend.service))
            .map(|service| GlobalService {
                policy: effective_policy(ingress.policy.as_ref(), &service.policy),
                ..GlobalService::clone(service)
            })
            .collect();
        let services: Vec<&GlobalService> = steered.iter().collect();
        let policy = match services.first() {
            Some(service) => service.policy.clone(),
            None => ingress.policy.clone().unwrap_or_default(),
        };
        let use_sites = match policy.dns.target {
            DnsTarget::Auto => !self.snapshot.sites.is_empty(),
            DnsTarget::Sites => true,
            DnsTarget::Members => false,
        };
        if !use_sites {
            return self.members(&services, &policy, http_entrance);
        }
        let rules = Rules { allowed_regions: common_fence(&services), ..Rules::from(&policy) };
        self.sites(&services, &policy, rules)
    }

    fn with_policy(&self, policy: &Policy) -> Choice {
        Choice { ttl: policy.dns.ttl, limit: usize::from(policy.dns.answers.max(1)), ..self.nothing() }
    }
}

/// Backends that a request for `name` could reach, in rule order. A name that no rule has (from
/// `dns.hostnames`) reaches what is for every host.
fn backends_of<'a>(ingress: &'a GlobalIngress, name: &'a DnsName) -> impl Iterator<Item = &'a Backend> {
    let rules = ingress.rules.iter().filter(move |rule| match &rule.host {
        None => true,
        Some(host) if host.is_wildcard() && !name.is_wildcard() => name.parent() == host.parent(),
        Some(host) => host == name,
    });
    rules.flat_map(|rule| &rule.paths).map(|path| &path.backend).chain(&ingress.default_backend)
}

/// True when everything that `target` means for `name` beside places is the same allocation in both
/// snapshots. O(backends); never compares contents.
#[must_use]
pub fn same_sources(old: &Snapshot, new: &Snapshot, name: &DnsName, target: &NameTarget) -> bool {
    let same_service = |key: &ObjectKey| same(old.services.get(key), new.services.get(key));
    match target {
        NameTarget::Service(key)
        | NameTarget::RegionalService { service: key, .. }
        | NameTarget::ZonalService { service: key, .. } => same_service(key),
        NameTarget::Ingress(key) => {
            let (held, ingress) = (old.ingresses.get(key), new.ingresses.get(key));
            same(held, ingress)
                && ingress.is_none_or(|ingress| {
                    backends_of(ingress, name).all(|backend| same_service(&backend.service))
                })
        }
    }
}

fn same<T>(old: Option<&Arc<T>>, new: Option<&Arc<T>>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (None, None) => true,
        _ => false,
    }
}

/// Regions that some service may be served from; none when any of them may go everywhere.
fn common_fence(services: &[&GlobalService]) -> Option<Vec<RegionName>> {
    let fences: Option<Vec<&Vec<RegionName>>> =
        services.iter().map(|service| service.policy.allowed_regions.as_ref()).collect();
    fences.filter(|fences| !fences.is_empty()).map(|fences| fences.into_iter().flatten().cloned().collect())
}
