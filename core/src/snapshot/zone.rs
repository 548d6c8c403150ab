//! Zones as the controller hands them to DNS: which name means what is already decided.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{
    geo::CountryCode,
    id::{ClusterName, ObjectKey, RegionName, ZoneName},
    name::DnsName,
};

/// One DNS zone that is delegated to Meridian.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Zone {
    /// The apex.
    pub domain: DnsName,
    /// Start of authority.
    pub soa: Soa,
    /// Apex NS set, the same as the parent's.
    #[serde(default)]
    pub name_servers: Vec<NameServer>,
    /// Static records; they beat dynamic names.
    #[serde(default)]
    pub records: Vec<Record>,
    /// Dynamic names, each claimed by one object. All lie inside `domain`.
    #[serde(default)]
    pub names: BTreeMap<DnsName, NameTarget>,
    /// Operator overrides of client location; the longest matching prefix wins, then country.
    #[serde(default)]
    pub overrides: Vec<GeoOverride>,
}

/// SOA fields (RFC 1035 section 3.3.13), durations in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Soa {
    /// Primary name server.
    pub mname: DnsName,
    /// Mailbox of the person responsible, as a name.
    pub rname: DnsName,
    /// Rises with each change of the zone: max(previous + 1, Unix time).
    pub serial: u32,
    /// Secondaries' refresh.
    pub refresh: u32,
    /// Secondaries' retry.
    pub retry: u32,
    /// Secondaries' expiry.
    pub expire: u32,
    /// TTL of negative answers (RFC 2308).
    pub minimum: u32,
    /// TTL of SOA and NS records.
    pub ttl: u32,
}

/// A name server of the apex NS set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NameServer {
    /// Its name.
    pub name: DnsName,
    /// Its addresses, served as glue and as its A/AAAA records when the name lies in the zone.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
}

/// One static record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Owner, inside the zone.
    pub name: DnsName,
    /// Seconds.
    pub ttl: u32,
    /// Type and value.
    pub data: RecordData,
}

/// Data of a static record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecordData {
    /// IPv4 address.
    A(Ipv4Addr),
    /// IPv6 address.
    Aaaa(Ipv6Addr),
    /// Alias.
    Cname(DnsName),
    /// Delegation below the apex.
    Ns(DnsName),
    /// Mail exchange.
    Mx {
        /// Lower is tried first.
        preference: u16,
        /// The host.
        exchange: DnsName,
    },
    /// Character strings of at most 255 bytes each.
    Txt(Vec<Arc<str>>),
    /// Certification authority authorization (RFC 8659).
    Caa {
        /// Issuer critical flag: 0 or 128.
        flags: u8,
        /// `issue`, `issuewild`, `iodef`.
        tag: Arc<str>,
        /// Value of the property.
        value: Arc<str>,
    },
}

/// What a dynamic name means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NameTarget {
    /// A service, from all of its shards: the nearest.
    Service(ObjectKey),
    /// A service in one region; where it has no healthy shard there, CNAME to `fallback`.
    RegionalService {
        /// The service.
        service: ObjectKey,
        /// The region.
        region: RegionName,
        /// The name one level up.
        fallback: DnsName,
    },
    /// A service in one zone of a region; where it has no healthy shard there, CNAME to `fallback`.
    ZonalService {
        /// The service.
        service: ObjectKey,
        /// The region.
        region: RegionName,
        /// The zone.
        zone: ZoneName,
        /// The name one level up.
        fallback: DnsName,
    },
    /// An ingress.
    Ingress(ObjectKey),
}

/// Clients of a network or country that go where the operator says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GeoOverride {
    /// Whom it is for.
    pub source: GeoSource,
    /// Clusters in order; those not named come after them by distance.
    pub clusters: Vec<ClusterName>,
}

/// Clients an override is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GeoSource {
    /// A network.
    Cidr(IpNet),
    /// A country.
    Country(CountryCode),
}
