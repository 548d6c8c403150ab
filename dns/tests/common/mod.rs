//! A small fleet: three members, three sites, one service, one ingress, one zone.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, LazyLock},
};

use meridian_core::{
    geo::region_location,
    id::{ClusterName, ObjectKey, SiteName},
    name::DnsName,
    snapshot::{
        Address, Backend, BackendPort, Capacity, Cluster, Dial, GlobalIngress, GlobalService, HostRule,
        NameServer, NameTarget, Network, PathKind, PathRule, Policy, Record, RecordData, ServicePort, Shard,
        Site, Snapshot, Soa, Zone,
    },
    time::Timestamp,
};
use meridian_dns::{
    choice::Masks,
    locate::Database,
    testkit::{Fixture, Schema},
    view::View,
};

pub const TAIWAN: &str = "203.0.113.0/24";
pub const FRANKFURT: &str = "192.0.2.0/24";
pub const IOWA: &str = "198.51.100.0/24";
pub const NOWHERE: &str = "10.9.8.0/24";

/// Name, region, last octet of its addresses.
pub const PLACES: [(&str, &str, u8); 3] =
    [("asia", "asia-east1", 1), ("europe", "europe-west1", 2), ("us", "us-central1", 3)];

pub fn name(text: &str) -> DnsName {
    text.parse().unwrap()
}

pub fn web() -> ObjectKey {
    ObjectKey::new("shop", "web")
}

pub fn now() -> Timestamp {
    Timestamp::from_millis(1_000_000)
}

pub fn database() -> &'static Arc<Database> {
    static DATABASE: LazyLock<Arc<Database>> = LazyLock::new(|| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), Fixture::standard().encode(Schema::Nested).unwrap()).unwrap();
        Arc::new(Database::open(file.path()).unwrap())
    });
    &DATABASE
}

/// What a test changes of the fleet before it is compiled.
pub struct Fleet {
    pub snapshot: Snapshot,
    pub masks: Masks,
    pub home: Option<SiteName>,
}

impl Fleet {
    pub fn new() -> Self {
        let mut snapshot = Snapshot::default();
        for (place, region, octet) in PLACES {
            let location = region_location(region);
            let cluster = Cluster {
                name: place.into(),
                region: Some(region.into()),
                zones: ["a", "b", "c"].map(|zone| format!("{region}-{zone}").into()).to_vec(),
                location,
                network: Network::Flat,
                dial: Dial::default(),
            };
            snapshot.clusters.insert(place.into(), Arc::new(cluster));
            let site: Site = Site {
                name: place.into(),
                cluster: Some(place.into()),
                region: Some(region.into()),
                location,
                vips: vec![[198, 18, 255, 1].into()],
                addresses: vec![
                    [198, 18, 1, octet].into(),
                    format!("2001:db8:1::{octet}").parse::<IpAddr>().unwrap(),
                ],
                dial: Dial::default(),
                max_rate: None,
                distances: BTreeMap::new(),
                probe_port: 80,
            };
            snapshot.sites.insert(place.into(), Arc::new(site));
        }
        snapshot.services.insert(web(), Arc::new(service()));
        snapshot.ingresses.insert(web(), Arc::new(ingress()));
        snapshot.zones.insert(name("example.org"), Arc::new(zone()));
        Self { snapshot, masks: Masks::default(), home: None }
    }

    pub fn cluster(mut self, place: &str, change: impl FnOnce(&mut Cluster)) -> Self {
        let key: ClusterName = place.into();
        change(Arc::make_mut(self.snapshot.clusters.get_mut(&key).unwrap()));
        self
    }

    pub fn site(mut self, place: &str, change: impl FnOnce(&mut Site)) -> Self {
        let key: SiteName = place.into();
        change(Arc::make_mut(self.snapshot.sites.get_mut(&key).unwrap()));
        self
    }

    pub fn service(mut self, change: impl FnOnce(&mut GlobalService)) -> Self {
        change(Arc::make_mut(self.snapshot.services.get_mut(&web()).unwrap()));
        self
    }

    pub fn shard(self, place: &str, change: impl FnOnce(&mut Shard)) -> Self {
        self.service(|service| {
            change(service.shards.iter_mut().find(|shard| shard.cluster.as_str() == place).unwrap());
        })
    }

    pub fn policy(self, change: impl FnOnce(&mut Policy)) -> Self {
        self.service(|service| change(&mut service.policy))
    }

    pub fn zone(mut self, change: impl FnOnce(&mut Zone)) -> Self {
        change(Arc::make_mut(self.snapshot.zones.get_mut(&name("example.org")).unwrap()));
        self
    }

    pub fn masks(mut self, change: impl FnOnce(&mut Masks)) -> Self {
        change(&mut self.masks);
        self
    }

    pub fn view(self) -> View {
        View::compile(Arc::new(self.snapshot), self.masks, self.home, now())
    }
}

fn service() -> GlobalService {
    let shard = |(place, _, octet): (&str, &str, u8)| Shard {
        cluster: place.into(),
        ready: 3,
        total: 3,
        groups: Vec::new(),
        load_balancer: vec![Address::Ip([198, 18, 2, octet].into())],
        ingress: vec![Address::Ip([198, 18, 3, octet].into())],
        capacity: Capacity::Undeclared,
    };
    GlobalService {
        key: web(),
        ports: vec![ServicePort { name: "".into(), port: 80 }],
        shards: PLACES.map(shard).to_vec(),
        policy: Policy::default(),
        load: Default::default(),
    }
}

fn ingress() -> GlobalIngress {
    let backend = Backend { service: web(), port: BackendPort::Number(80) };
    GlobalIngress {
        key: web(),
        created: now(),
        rules: vec![HostRule {
            host: Some(name("app.example.org")),
            paths: vec![PathRule { kind: PathKind::Prefix, path: "/".into(), backend }],
        }],
        default_backend: None,
        tls: Vec::new(),
        policy: None,
    }
}

fn zone() -> Zone {
    let mut names = BTreeMap::new();
    names.insert(name("app.example.org"), NameTarget::Ingress(web()));
    let global = name("web.shop.fed.svc.example.org");
    names.insert(global.clone(), NameTarget::Service(web()));
    for (_, region, _) in PLACES {
        let regional = name(&format!("web.shop.fed.svc.{region}.example.org"));
        let service = web();
        for zone in ["a", "b", "c"].map(|zone| format!("{region}-{zone}")) {
            names.insert(
                name(&format!("web.shop.fed.svc.{zone}.{region}.example.org")),
                NameTarget::ZonalService {
                    service: service.clone(),
                    region: region.into(),
                    zone: zone.into(),
                    fallback: regional.clone(),
                },
            );
        }
        names.insert(
            regional,
            NameTarget::RegionalService { service, region: region.into(), fallback: global.clone() },
        );
    }
    Zone {
        domain: name("example.org"),
        soa: Soa {
            mname: name("ns1.example.org"),
            rname: name("hostmaster.example.org"),
            serial: 2026,
            refresh: 7200,
            retry: 900,
            expire: 1_209_600,
            minimum: 60,
            ttl: 300,
        },
        name_servers: vec![NameServer {
            name: name("ns1.example.org"),
            addresses: vec![[198, 18, 0, 53].into()],
        }],
        records: vec![
            record("txt.example.org", RecordData::Txt(vec!["hello".into()])),
            record("www.example.org", RecordData::Cname(name("app.example.org"))),
            record("away.example.org", RecordData::Cname(name("www.example.net"))),
            record("loop.example.org", RecordData::Cname(name("loop.example.org"))),
            record("dangling.example.org", RecordData::Cname(name("missing.example.org"))),
            record("sub.example.org", RecordData::Ns(name("ns.sub.example.org"))),
            record("ns.sub.example.org", RecordData::A([198, 18, 0, 54].into())),
        ],
        names,
        overrides: Vec::new(),
    }
}

pub fn record(owner: &str, data: RecordData) -> Record {
    Record { name: name(owner), ttl: 120, data }
}
