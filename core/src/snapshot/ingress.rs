//! Ingresses of the fleet (networking.k8s.io/v1 semantics).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Policy;
use crate::{id::ObjectKey, name::DnsName, time::Timestamp};

/// One FederatedIngress, or plain Ingress named by a TrafficPolicy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalIngress {
    /// Its identity.
    pub key: ObjectKey,
    /// Creation time on the hub: the older of two claims to a host and path wins.
    #[serde(default)]
    pub created: Timestamp,
    /// Rules in the order of the object.
    #[serde(default)]
    pub rules: Vec<HostRule>,
    /// Backend of whatever no rule matches.
    #[serde(default)]
    pub default_backend: Option<Backend>,
    /// Certificates for hosts.
    #[serde(default)]
    pub tls: Vec<TlsHosts>,
    /// How its names are answered and its traffic steered. Where it declares nothing, the
    /// service's own policy stands.
    #[serde(default)]
    pub policy: Option<Policy>,
}

/// Rules for one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostRule {
    /// The host, possibly a wildcard for one label; none matches every Host, the bare VIP included.
    #[serde(default)]
    pub host: Option<DnsName>,
    /// Its paths, in the order of the object.
    pub paths: Vec<PathRule>,
}

/// One path of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathRule {
    /// How `path` is compared.
    pub kind: PathKind,
    /// Starts with a slash.
    pub path: Arc<str>,
    /// Where requests go.
    pub backend: Backend,
}

/// `pathType` of an Ingress; ImplementationSpecific is treated as Prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathKind {
    /// Equal, case-sensitive.
    Exact,
    /// Equal element by element, up to the end of the rule's path.
    Prefix,
}

/// A service and one of its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Backend {
    /// The GlobalService.
    pub service: ObjectKey,
    /// Its port.
    pub port: BackendPort,
}

/// A port by name or number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BackendPort {
    /// Name of a Service port.
    Name(Arc<str>),
    /// Number of a Service port.
    Number(u16),
}

/// A certificate and the hosts it is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsHosts {
    /// Hosts, possibly wildcards; empty means every host of the object.
    #[serde(default)]
    pub hosts: Vec<DnsName>,
    /// Key into [`super::Snapshot::certificates`].
    pub certificate: ObjectKey,
}
