//! Members and sites as the edges see them.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::Address;
use crate::{
    geo::GeoPoint,
    id::{ClusterName, RegionName, SiteName, ZoneName},
    time::{Millis, Timestamp},
};

/// A member cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Its name on the hub.
    pub name: ClusterName,
    /// Its region; none when neither the spec nor its nodes say one.
    #[serde(default)]
    pub region: Option<RegionName>,
    /// Its zones, sorted.
    #[serde(default)]
    pub zones: Vec<ZoneName>,
    /// Where it is: the spec's location, else its region's; none if unknown.
    #[serde(default)]
    pub location: Option<GeoPoint>,
    /// How its pods are reached.
    #[serde(default)]
    pub network: Network,
    /// How much of its capacity may be used.
    #[serde(default)]
    pub dial: Dial,
}

/// How traffic reaches the pods of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Network {
    /// Pod addresses are routable from the sites.
    #[default]
    Flat,
    /// Only through gateways, with the original Host kept. Where the list is empty, each shard's
    /// own Ingress or LoadBalancer address is used.
    Gateway(Vec<Gateway>),
}

/// One gateway of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Where it listens.
    pub address: Address,
    /// Port for plain HTTP.
    pub port: u16,
}

/// How much of a place's capacity may be used, with an expiry that edges honour on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dial {
    /// 0 to 100 percent; 0 is a drain.
    pub percent: u8,
    /// Wall-clock moment from which the dial is 100 again; none means until changed.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

impl Default for Dial {
    fn default() -> Self {
        Self { percent: 100, until: None }
    }
}

impl Dial {
    /// The share of capacity that may be used at `now` (wall clock), 0.0 to 1.0.
    #[must_use]
    pub fn fraction(self, now: Timestamp) -> f64 {
        if self.until.is_some_and(|until| now >= until) {
            1.0
        } else {
            f64::from(self.percent.min(100)) / 100.0
        }
    }
}

/// An edge: a place where `meridian-lb` runs and clients arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Site {
    /// Its name on the hub.
    pub name: SiteName,
    /// The member it lives in, if any.
    #[serde(default)]
    pub cluster: Option<ClusterName>,
    /// Its region.
    #[serde(default)]
    pub region: Option<RegionName>,
    /// Where it is: the spec's location, else its region's, else its member's.
    #[serde(default)]
    pub location: Option<GeoPoint>,
    /// Addresses that it may share with other sites (anycast).
    #[serde(default)]
    pub vips: Vec<IpAddr>,
    /// Addresses of its own. DNS answers with these, or with the VIPs when there are none.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// How much of it may be used.
    #[serde(default)]
    pub dial: Dial,
    /// Requests per second it can take; none means no limit.
    #[serde(default)]
    pub max_rate: Option<f64>,
    /// Supplied round-trip times to regions; they beat computed ones.
    #[serde(default)]
    pub distances: BTreeMap<RegionName, Millis>,
    /// TCP port that DNS probes on its addresses.
    #[serde(default = "default_probe_port")]
    pub probe_port: u16,
}

impl Site {
    /// The addresses that DNS answers with: its own, else its VIPs.
    #[must_use]
    pub fn answer_addresses(&self) -> &[IpAddr] {
        if self.addresses.is_empty() { &self.vips } else { &self.addresses }
    }
}

const fn default_probe_port() -> u16 {
    80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dial_expires_by_itself() {
        let dial = Dial { percent: 0, until: Some(Timestamp::from_millis(1000)) };
        assert_eq!(dial.fraction(Timestamp::from_millis(999)), 0.0);
        assert_eq!(dial.fraction(Timestamp::from_millis(1000)), 1.0);
    }
}
