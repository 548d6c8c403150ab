//! Site to an edge.

use std::net::IpAddr;

use meridian_api::site::Site as ApiSite;
use meridian_core::{
    geo::GeoPoint,
    id::{ClusterName, RegionName, SiteName},
    index::SiteFact,
    snapshot::Site,
    time::Millis,
};

/// The site with what it says itself; region and place of its member are the index's to fill in. An
/// address that cannot be read is left out and listed in [`SiteFact::faults`].
#[must_use]
pub fn facts(object: &ApiSite) -> Option<(SiteName, Option<SiteFact>)> {
    let name = SiteName::from(object.metadata.name.as_deref()?);
    let spec = &object.spec;
    let mut faults = Vec::new();
    let site = Site {
        name: name.clone(),
        cluster: spec.member_cluster.as_deref().map(ClusterName::from),
        region: spec.region.as_deref().map(RegionName::from),
        location: spec.location.and_then(|at| GeoPoint::new(at.latitude, at.longitude).ok()),
        vips: addresses("spec.vips", &spec.vips, &mut faults),
        addresses: addresses("spec.addresses", &spec.addresses, &mut faults),
        dial: super::dial(spec.dial, spec.drain, spec.until.as_ref()),
        max_rate: spec.max_rate.filter(|rate| rate.is_finite() && *rate >= 0.0),
        distances: spec
            .distances
            .iter()
            .map(|(region, millis)| (RegionName::from(region.as_str()), Millis::new(*millis)))
            .collect(),
        probe_port: u16::try_from(spec.probe_port).unwrap_or(80),
    };
    Some((name, Some(SiteFact { site, faults })))
}

fn addresses(field: &str, texts: &[String], faults: &mut Vec<String>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for (position, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => faults.push(format!("{field}[{position}]: {text:?} is not an IP address")),
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use meridian_core::time::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn drain_is_a_dial_of_nothing_that_ends_by_itself() {
        let object = serde_json::from_value(json!({
            "apiVersion": "meridian.io/v1alpha1", "kind": "Site", "metadata": {"name": "asia"},
            "spec": {"vips": ["203.0.113.1", "nonsense"], "drain": true, "until": "1970-01-01T00:00:05Z",
                     "distances": {"us-central1": 120.5}},
        }));
        let (_, site) = facts(&object.expect("a Site")).expect("a name");
        let SiteFact { site, faults } = site.expect("facts");
        assert_eq!(faults, ["spec.vips[1]: \"nonsense\" is not an IP address"]);
        assert_eq!(site.vips, [IpAddr::from([203, 0, 113, 1])]);
        assert_eq!((site.dial.percent, site.dial.until), (0, Some(Timestamp::from_millis(5000))));
        assert_eq!(site.distances["us-central1"], Millis::new(120.5));
        assert_eq!(site.probe_port, 80);
    }
}
