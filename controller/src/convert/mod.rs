//! Kubernetes objects to the facts that decisions are made from: one file per kind, pure.
//!
//! A conversion keeps only what is decided by. What an object says wrongly affects that object alone: a
//! part that cannot be read is left out and, where the kind has a status of ours, becomes a fault in it.

pub mod dns_zone;
pub mod endpoint_slice;
pub mod ingress;
pub mod member;
pub mod secret;
pub mod service;
pub mod site;
pub mod traffic_policy;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use meridian_core::{
    id::ObjectKey,
    snapshot::{Address, Dial},
    time::Timestamp,
};

/// Namespace and name of a namespaced object; none if it has no name, which no API server sends.
pub(crate) fn key_of(metadata: &ObjectMeta) -> Option<ObjectKey> {
    Some(ObjectKey::new(metadata.namespace.as_deref()?, metadata.name.as_deref()?))
}

/// Creation time of an object.
pub(crate) fn created_of(metadata: &ObjectMeta) -> Timestamp {
    metadata.creation_timestamp.as_ref().map(timestamp).unwrap_or_default()
}

fn timestamp(time: &Time) -> Timestamp {
    Timestamp::from_millis(u64::try_from(time.0.as_millisecond()).unwrap_or_default())
}

/// An address of a load balancer's status; none if it is neither an address nor a name.
pub(crate) fn address(ip: Option<&str>, hostname: Option<&str>) -> Option<Address> {
    let ip = ip.filter(|text| !text.is_empty()).and_then(|text| text.parse().ok()).map(Address::Ip);
    let name = || hostname.filter(|text| !text.is_empty()).and_then(|text| text.parse().ok());
    ip.or_else(|| name().map(Address::Hostname))
}

/// Dial and drain of an object with their common end.
pub(crate) fn dial(percent: i32, drain: bool, until: Option<&Time>) -> Dial {
    let percent = if drain { 0 } else { u8::try_from(percent.clamp(0, 100)).unwrap_or(100) };
    Dial { percent, until: until.map(timestamp) }
}
