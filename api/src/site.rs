//! `Site`: a place where clients arrive.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::selector::Location;

/// What is wanted of a site. Cluster-scoped.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "meridian.io",
    version = "v1alpha1",
    kind = "Site",
    category = "meridian",
    status = "SiteStatus",
    derive = "PartialEq",
    doc = "A place where Meridian's load balancer runs and clients arrive.",
    validation = Rule::new("size(self.metadata.name) <= 63").message("a site's name is at most 63 characters"),
    printcolumn(name = "VIPs", type_ = "string", json_path = ".spec.vips"),
    printcolumn(name = "Addresses", type_ = "string", json_path = ".spec.addresses", priority = "1"),
    printcolumn(name = "Region", type_ = "string", json_path = ".spec.region"),
    printcolumn(name = "Member", type_ = "string", json_path = ".spec.memberCluster"),
    printcolumn(name = "Drain", type_ = "boolean", json_path = ".spec.drain"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SiteSpec {
    /// Addresses shared with other sites (anycast), in order of preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 2, max = 45)))]
    pub vips: Vec<String>,
    /// Addresses of this site alone; what DNS answers with and probes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 2, max = 45)))]
    pub addresses: Vec<String>,
    /// Where the site is. Empty: of its member, else of its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// Region of the site. Empty: of its member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// Member that the site lives in. Empty: stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub member_cluster: Option<String>,
    /// Percent of its share of clients that the site may take, 0 to 100.
    #[serde(default = "full")]
    #[schemars(range(min = 0, max = 100))]
    pub dial: i32,
    /// Whether the site is being emptied: DNS stops answering with it.
    #[serde(default)]
    pub drain: bool,
    /// When dial and drain end by themselves. Empty: until changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// Requests per second that the site can take. Empty: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub max_rate: Option<f64>,
    /// Known distances from this site, region to milliseconds of round trip; beats what location says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256), extend("additionalProperties" = {"type": "number", "minimum": 0}))]
    pub distances: BTreeMap<String, f64>,
    /// Port that DNS probes at the site's own addresses.
    #[serde(default = "probe_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub probe_port: i32,
}

fn full() -> i32 {
    100
}

fn probe_port() -> i32 {
    80
}

/// What is known of the site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteStatus {
    /// `Accepted`; unique by type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
}
