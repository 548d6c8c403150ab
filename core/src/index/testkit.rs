//! Builders: a test names what matters to it and nothing else.

use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::{
    id::ZoneName,
    snapshot::{
        Address, Backend, BackendPort, Cluster, Dial, EndpointPort, Health, HostRule, NameServer, Network,
        PathKind, PathRule, Record, RecordData, Shard, Soa, Strategy, Zone,
    },
};

/// An index of a fleet, with a clock.
pub(super) struct Fleet {
    pub(super) index: Index,
    pub(super) now: Timestamp,
}

/// A key in the namespace that most tests use.
pub(super) fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

pub(super) fn name(text: &str) -> DnsName {
    text.parse().unwrap()
}

pub(super) fn endpoint(address: &str) -> EndpointFact {
    EndpointFact {
        address: address.parse().unwrap(),
        zone: None,
        is_ready: true,
        is_serving: true,
        is_terminating: false,
    }
}

pub(super) fn unready(address: &str) -> EndpointFact {
    EndpointFact { is_ready: false, is_serving: false, ..endpoint(address) }
}

pub(super) fn leaving(address: &str) -> EndpointFact {
    EndpointFact { is_ready: false, is_terminating: true, ..endpoint(address) }
}

pub(super) fn slice(service: &str, endpoints: impl IntoIterator<Item = EndpointFact>) -> SliceFact {
    SliceFact {
        service: key(service),
        ports: vec![EndpointPort { name: "http".into(), port: 8080 }],
        endpoints: endpoints.into_iter().collect(),
    }
}

pub(super) fn policy(targets: &[(TargetKind, &str)]) -> PolicyFact {
    PolicyFact {
        created: Timestamp::from_millis(1000),
        targets: targets.iter().map(|(kind, name)| Target { kind: *kind, key: key(name) }).collect(),
        clusters: ClusterSelector::default(),
        strategy: Strategy::Proximity,
        allowed_regions: None,
        capacity: None,
        health: Health::default(),
        dns: DnsDeclaration::default(),
    }
}

pub(super) fn with_hostnames(hostnames: &[&str], policy: PolicyFact) -> PolicyFact {
    let hostnames = hostnames.iter().map(|host| Ok(name(host))).collect();
    PolicyFact { dns: DnsDeclaration { hostnames, ..policy.dns.clone() }, ..policy }
}

pub(super) fn rate(per_endpoint: f64) -> CapacityDeclaration {
    CapacityDeclaration { rate: Some(per_endpoint), ..CapacityDeclaration::default() }
}

pub(super) fn ingress(host: Option<&str>, backend: &str) -> IngressFact {
    let path = PathRule {
        kind: PathKind::Prefix,
        path: "/".into(),
        backend: Backend { service: key(backend), port: BackendPort::Number(80) },
    };
    IngressFact {
        created: Timestamp::from_millis(1000),
        rules: vec![HostRule { host: host.map(name), paths: vec![path] }],
        ..IngressFact::default()
    }
}

pub(super) fn zone(domain: &str) -> ZoneFact {
    let soa = Soa {
        mname: name("ns.example.org"),
        rname: name("hostmaster.example.org"),
        serial: 0,
        refresh: 1,
        retry: 1,
        expire: 1,
        minimum: 1,
        ttl: 1,
    };
    ZoneFact {
        created: Timestamp::from_millis(1000),
        zone: Zone {
            domain: name(domain),
            soa,
            name_servers: vec![NameServer { name: name("ns.example.org"), addresses: vec![] }],
            records: vec![],
            names: BTreeMap::new(),
            overrides: vec![],
        },
        admits: Admits { all: true, ..Admits::default() },
        federation: None,
        ttl: 30,
        faults: vec![],
    }
}

pub(super) fn a_record(owner: &str) -> Record {
    Record { name: name(owner), ttl: 60, data: RecordData::A([192, 0, 2, 1].into()) }
}

impl Fleet {
    /// Members in the regions of their names, each with the zones `<region>-a` and `<region>-b`.
    pub(super) fn of(members: &[&str]) -> Self {
        let mut fleet = Self { index: Index::new("hub", 1), now: Timestamp::from_millis(1_700_000_000_000) };
        for member in members {
            fleet.index.apply_member(Self::member(member));
        }
        fleet
    }

    pub(super) fn member(member: &str) -> MemberFact {
        let cluster = Cluster {
            name: member.into(),
            region: Some(member.into()),
            zones: ["a", "b"].map(|zone| ZoneName::from(format!("{member}-{zone}"))).to_vec(),
            location: crate::geo::region_location(member),
            network: Network::Flat,
            dial: Dial::default(),
        };
        MemberFact { cluster, labels: [("name".to_owned(), member.to_owned())].into() }
    }

    /// The hub federates this service.
    pub(super) fn federates(mut self, service: &str) -> Self {
        self.index.federated_services(Change::Apply(key(service), FederatedServiceFact::default()));
        self
    }

    /// The member has the Service with this many ready endpoints.
    pub(super) fn runs(mut self, member: &str, service: &str, ready: u8) -> Self {
        self.serve(member, service, ServiceFact::default());
        self.scale(member, service, ready);
        self
    }

    /// The same with type LoadBalancer and an address.
    pub(super) fn runs_balanced(mut self, member: &str, service: &str, address: &str) -> Self {
        let load_balancer = vec![Address::Ip(address.parse().unwrap())];
        let fact = ServiceFact { is_load_balancer: true, load_balancer, ..ServiceFact::default() };
        self.serve(member, service, fact);
        self.scale(member, service, 1);
        self
    }

    pub(super) fn serve(&mut self, member: &str, service: &str, fact: ServiceFact) {
        self.index.member_services(&member.into(), Change::Apply(key(service), fact));
    }

    pub(super) fn scale(&mut self, member: &str, service: &str, ready: u8) {
        let endpoints = (0..ready).map(|n| endpoint(&format!("10.0.0.{n}")));
        self.slice(member, "slice", slice(service, endpoints));
    }

    /// Applies a slice under a name that is its own in the service.
    pub(super) fn slice(&mut self, member: &str, suffix: &str, fact: SliceFact) {
        let at = key(&format!("{}-{suffix}", fact.service.name));
        self.index.member_slices(&member.into(), Change::Apply(at, fact));
    }

    pub(super) fn policy(&mut self, name: &str, created: u64, fact: PolicyFact) {
        let fact = PolicyFact { created: Timestamp::from_millis(created), ..fact };
        self.index.policies(Change::Apply(key(name), fact));
    }

    pub(super) fn ingress(&mut self, at: ObjectKey, created: u64, fact: IngressFact) {
        let fact = IngressFact { created: Timestamp::from_millis(created), ..fact };
        self.index.federated_ingresses(Change::Apply(at, fact));
    }

    pub(super) fn zone(&mut self, object: &str, fact: ZoneFact) {
        self.index.zones(Change::Apply(object.into(), fact));
    }

    pub(super) fn site(&mut self, site: &str, region: &str) {
        let fact = Site {
            name: site.into(),
            cluster: None,
            region: Some(region.into()),
            location: None,
            vips: vec!["203.0.113.1".parse().unwrap()],
            addresses: vec![],
            dial: Dial::default(),
            max_rate: None,
            distances: BTreeMap::new(),
            probe_port: 80,
        };
        self.index.sites(Change::Apply(site.into(), SiteFact { site: fact, faults: vec![] }));
    }

    /// Publishes if there is something to publish, and gives the latest either way.
    pub(super) fn settle(&mut self) -> Arc<Snapshot> {
        self.publish();
        self.index.published().clone()
    }

    pub(super) fn publish(&mut self) -> Option<Arc<Snapshot>> {
        self.now = self.now + std::time::Duration::from_millis(10);
        self.index.publish(self.now)
    }

    pub(super) fn shards(&mut self, service: &str) -> Vec<Shard> {
        self.settle().services.get(&key(service)).map(|service| service.shards.clone()).unwrap_or_default()
    }

    /// (cluster, ready) of each shard.
    pub(super) fn ready(&mut self, service: &str) -> Vec<(String, u32)> {
        self.shards(service).iter().map(|shard| (shard.cluster.to_string(), shard.ready)).collect()
    }

    /// Names of a zone that is served, as text.
    pub(super) fn names(&mut self, domain: &str) -> Vec<String> {
        self.settle().zones[&name(domain)].names.keys().map(ToString::to_string).collect()
    }

    pub(super) fn policy_fault(&mut self, policy: &str) -> Option<Fault> {
        self.settle();
        self.index.verdicts().policies[&key(policy)].not_accepted.clone()
    }
}
