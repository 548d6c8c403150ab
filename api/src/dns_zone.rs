//! `DnsZone`: a domain delegated to Meridian.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is wanted of a zone. Cluster-scoped.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.io",
    version = "v1alpha1",
    kind = "DnsZone",
    plural = "dnszones",
    category = "meridian",
    status = "DnsZoneStatus",
    derive = "PartialEq",
    doc = "A domain that is delegated to Meridian's name servers.",
    printcolumn(name = "Domain", type_ = "string", json_path = ".spec.domain"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].status"
    ),
    printcolumn(name = "Serial", type_ = "integer", json_path = ".status.serial"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DnsZoneSpec {
    /// The apex, without a trailing dot, lower case.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9_]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9])?)*$")
    )]
    pub domain: String,
    /// Name servers, in order; the first is the SOA's MNAME unless that is set.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub name_servers: Vec<NameServer>,
    /// Start of authority. The serial is the controller's.
    #[serde(default)]
    pub soa: Soa,
    /// Static records. They beat dynamic ones of the same name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub records: Vec<Record>,
    /// Which namespaces may claim host names in the zone. Default: none.
    #[serde(default)]
    pub allowed_namespaces: AllowedNamespaces,
    /// The `fed` label of KubeFed's names `svc.ns.fed.svc[.zone][.region].domain`. Empty: no such names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub federation_name: Option<String>,
    /// Clients that get a fixed order of clusters instead of the nearest. The first match wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub overrides: Vec<GeoOverride>,
    /// TTL of dynamic answers in seconds, unless a policy says otherwise.
    #[serde(default = "dynamic_ttl")]
    #[schemars(range(min = 0, max = 86400))]
    pub ttl: i32,
}

fn dynamic_ttl() -> i32 {
    30
}

/// A name server of the zone and its glue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NameServer {
    /// Host name, absolute, without a trailing dot. May be inside the zone.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Addresses; answered as glue if the name is inside the zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 2, max = 45)))]
    pub addresses: Vec<String>,
}

/// Fields of the SOA record (RFC 1035 section 3.3.13), times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Soa {
    /// Primary name server. Empty: the first of `nameServers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub mname: Option<String>,
    /// Mailbox of the person responsible, as a name. Empty: `hostmaster.<domain>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub rname: Option<String>,
    /// How often secondaries look for a new serial.
    #[serde(default = "refresh")]
    #[schemars(range(min = 1, max = 2147483647))]
    pub refresh: i32,
    /// How soon they try again.
    #[serde(default = "retry")]
    #[schemars(range(min = 1, max = 2147483647))]
    pub retry: i32,
    /// When they give up.
    #[serde(default = "expire")]
    #[schemars(range(min = 1, max = 2147483647))]
    pub expire: i32,
    /// TTL of negative answers (RFC 2308).
    #[serde(default = "minimum")]
    #[schemars(range(min = 0, max = 86400))]
    pub minimum: i32,
}

impl Default for Soa {
    fn default() -> Self {
        Self {
            mname: None,
            rname: None,
            refresh: refresh(),
            retry: retry(),
            expire: expire(),
            minimum: minimum(),
        }
    }
}

fn refresh() -> i32 {
    7200
}

fn retry() -> i32 {
    900
}

fn expire() -> i32 {
    1_209_600
}

fn minimum() -> i32 {
    30
}

/// A static RRset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Name relative to the zone; `@` is the apex, `*` as the first label is a wildcard.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Type of the records.
    #[serde(rename = "type")]
    pub type_: RecordType,
    /// Seconds.
    #[serde(default = "record_ttl")]
    #[schemars(range(min = 0, max = 2147483647))]
    pub ttl: i32,
    /// Values in presentation format (RFC 1035 section 5.1), one per record.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 4096)))]
    pub values: Vec<String>,
}

fn record_ttl() -> i32 {
    300
}

/// Types of static records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum RecordType {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Certification authority authorisation (RFC 8659).
    Caa,
    /// Alias.
    Cname,
    /// Mail exchange.
    Mx,
    /// Delegation of a child zone.
    Ns,
    /// Text.
    Txt,
}

/// Which namespaces may claim host names. Default: none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllowedNamespaces {
    /// Every namespace may.
    #[serde(default)]
    pub all: bool,
    /// These may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 63)))]
    pub names: Vec<String>,
}

impl AllowedNamespaces {
    /// Whether objects of this namespace may claim host names.
    #[must_use]
    pub fn admits(&self, namespace: &str) -> bool {
        self.all || self.names.iter().any(|n| n == namespace)
    }
}

/// Clients that get a fixed order of clusters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.cidr) != has(self.country)").message("set exactly one of cidr and country"))]
pub struct GeoOverride {
    /// Network of the clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 4, max = 49), regex(pattern = r"^[0-9a-fA-F:.]+/[0-9]+$"))]
    pub cidr: Option<String>,
    /// Country of the clients, ISO 3166-1 alpha-2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[A-Z]{2}$"))]
    pub country: Option<String>,
    /// Names of members, first choice first.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    pub clusters: Vec<String>,
}

/// What is known of the zone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DnsZoneStatus {
    /// `Accepted`, `Programmed`; unique by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// SOA serial last published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<i64>,
}
