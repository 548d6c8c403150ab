//! Which addresses this server probes, and what the results mask.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use meridian_core::{
    id::{ClusterName, SiteName},
    steer::Why,
};
use meridian_runtime::probe::Targets;

use crate::{
    choice::{Choice, Masks, Place},
    view::View,
};

/// Addresses of one place that are probed at most.
const SAMPLES: usize = 3;

const SITE: &str = "site/";
const CLUSTER: &str = "cluster/";

/// What to probe for `view`: of each place that some name may be answered with, up to three of the
/// addresses that would be answered, spread over all of them. Keys are `site/NAME`, `cluster/NAME`.
#[must_use]
pub fn targets(view: &View) -> Targets {
    let mut sockets: BTreeMap<String, BTreeSet<SocketAddr>> = BTreeMap::new();
    for choice in view.choices() {
        for (index, candidate) in choice.candidates.iter().enumerate() {
            let known = sockets.entry(key(choice, &candidate.name)).or_default();
            // The load balancer of a service without pods refuses; that says nothing of the path. A place
            // with nothing to probe keeps its key, and so what is known of it.
            if candidate.unusable != Some(Why::NoReadyEndpoint) {
                known.extend(choice.addresses.iter().skip(index).take(1).flat_map(|place| place.sockets()));
            }
        }
    }
    sockets.into_iter().map(|(key, known)| (key, sample(&known))).collect()
}

fn key(choice: &Choice, name: &str) -> String {
    let kind = match choice.place {
        Place::Site => SITE,
        Place::Cluster => CLUSTER,
    };
    format!("{kind}{name}")
}

/// Evenly spaced in order of address, so that equal sets give equal samples.
fn sample(known: &BTreeSet<SocketAddr>) -> Vec<SocketAddr> {
    let all: Vec<SocketAddr> = known.iter().copied().collect();
    let count = all.len().min(SAMPLES);
    (0..count).map(|index| all[index * all.len() / count]).collect()
}

/// What the states of probed paths have against sites and members.
#[must_use]
pub fn masks(states: &BTreeMap<String, Why>) -> Masks {
    let mut masks = Masks::default();
    for (key, why) in states {
        if let Some(site) = key.strip_prefix(SITE) {
            masks.sites.insert(SiteName::from(site), *why);
        } else if let Some(cluster) = key.strip_prefix(CLUSTER) {
            masks.clusters.insert(ClusterName::from(cluster), *why);
        }
    }
    masks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_few_and_spread() {
        let known: BTreeSet<SocketAddr> =
            (0..9).map(|octet| SocketAddr::from(([192, 0, 2, octet], 80))).collect();
        let octets: Vec<String> = sample(&known).iter().map(|socket| socket.ip().to_string()).collect();
        assert_eq!(octets, ["192.0.2.0", "192.0.2.3", "192.0.2.6"]);
        assert_eq!(sample(&known.into_iter().take(2).collect()).len(), 2);
    }

    #[test]
    fn states_mask_what_their_key_names() {
        let states = BTreeMap::from([
            ("site/eu".to_owned(), Why::ProbeFailed),
            ("cluster/asia".to_owned(), Why::Holding),
        ]);
        let masks = masks(&states);
        assert_eq!(masks.sites.into_iter().collect::<Vec<_>>(), [("eu".into(), Why::ProbeFailed)]);
        assert_eq!(masks.clusters.into_iter().collect::<Vec<_>>(), [("asia".into(), Why::Holding)]);
    }
}
