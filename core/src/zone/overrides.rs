//! Operator overrides of where a client goes, and for how large a network the choice is the same.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{
    geo::CountryCode,
    id::ClusterName,
    snapshot::{GeoOverride, GeoSource},
    steer::Ranking,
};

/// Who asks, as far as an answer may depend on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Client {
    /// The network that the answer may be reused for: the client's own address as a full-length
    /// prefix, or what EDNS Client Subnet says.
    pub network: IpNet,
    /// The country it is registered in.
    pub country: Option<CountryCode>,
}

/// What the overrides of a zone say of a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overriding<'a> {
    /// Clusters in order; empty when no override applies.
    pub clusters: &'a [ClusterName],
    /// The shortest prefix around the client's address inside which every address meets the same
    /// CIDR override, so that an answer with this scope is true for all it covers. 0 without CIDRs.
    pub prefix: u8,
}

/// The override that applies to `client`: the longest CIDR that holds its whole network, else its
/// country; of equals the first. O(overrides).
///
/// A CIDR that is longer than the client's network does not apply (most of that network lies
/// elsewhere), but it does lengthen the prefix: more bits would have changed the answer.
#[must_use]
pub fn overriding<'a>(overrides: &'a [GeoOverride], client: &Client) -> Overriding<'a> {
    let mut best: Option<(u8, &'a GeoOverride)> = None;
    let mut prefix = 0;
    for candidate in overrides {
        let GeoSource::Cidr(cidr) = &candidate.source else { continue };
        let Some(common) = common_bits(cidr.addr(), client.network.addr()) else { continue };
        let length = cidr.prefix_len();
        if common < length {
            // The client's address parts from this CIDR at bit `common`.
            prefix = prefix.max(common + 1);
            continue;
        }
        prefix = prefix.max(length);
        let is_longer = best.is_none_or(|(longest, _)| length > longest);
        if length <= client.network.prefix_len() && is_longer {
            best = Some((length, candidate));
        }
    }
    let by_country = || {
        let country = client.country?;
        overrides.iter().find(|candidate| candidate.source == GeoSource::Country(country))
    };
    let chosen = best.map(|(_, chosen)| chosen).or_else(by_country);
    Overriding { clusters: chosen.map_or(&[], |chosen| &chosen.clusters), prefix }
}

/// Moves the candidates of `clusters` to the front of `ranking`, in that order; the others keep
/// theirs. `cluster_of` names the cluster of a candidate index. What the ranking excluded stays out.
pub fn prefer(
    ranking: &mut Ranking,
    clusters: &[ClusterName],
    cluster_of: impl Fn(usize) -> Option<ClusterName>,
) {
    if clusters.is_empty() {
        return;
    }
    // The sort is stable, so equal positions keep their rank.
    ranking.order.sort_by_cached_key(|ranked| {
        let cluster = cluster_of(ranked.index);
        cluster
            .and_then(|cluster| clusters.iter().position(|named| *named == cluster))
            .unwrap_or(clusters.len())
    });
}

/// How many leading bits two addresses share; none for addresses of different families.
fn common_bits(a: IpAddr, b: IpAddr) -> Option<u8> {
    let bits = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return None,
    };
    u8::try_from(bits).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::steer::Ranked;

    fn cidr(network: &str, clusters: &[&str]) -> GeoOverride {
        GeoOverride {
            source: GeoSource::Cidr(network.parse().unwrap()),
            clusters: clusters.iter().map(|&name| name.into()).collect(),
        }
    }

    fn client(network: &str) -> Client {
        Client { network: network.parse().unwrap(), country: None }
    }

    fn first<'a>(overriding: &Overriding<'a>) -> Option<&'a str> {
        overriding.clusters.first().map(ClusterName::as_str)
    }

    #[test]
    fn longest_cidr_wins_and_never_covers_a_nested_one() {
        let overrides = [cidr("10.0.0.0/8", &["eu"]), cidr("10.1.0.0/16", &["us"])];
        let inner = overriding(&overrides, &client("10.1.2.0/24"));
        assert_eq!((first(&inner), inner.prefix), (Some("us"), 16));
        // 10.2/16 parts from 10.1/16 at bit 14: /8 would let a resolver serve 10.1 from it.
        let outer = overriding(&overrides, &client("10.2.0.0/24"));
        assert_eq!((first(&outer), outer.prefix), (Some("eu"), 15));
        let outside = overriding(&overrides, &client("192.0.2.0/24"));
        assert_eq!((first(&outside), outside.prefix), (None, 1));
    }

    #[test]
    fn country_applies_where_no_cidr_does() {
        let mut overrides = vec![cidr("10.0.0.0/8", &["eu"])];
        overrides.push(GeoOverride {
            source: GeoSource::Country("TW".parse().unwrap()),
            clusters: vec!["asia".into()],
        });
        let taiwan = |network: &str| Client { country: "TW".parse().ok(), ..client(network) };
        assert_eq!(first(&overriding(&overrides, &taiwan("192.0.2.1/32"))), Some("asia"));
        assert_eq!(first(&overriding(&overrides, &taiwan("10.0.0.1/32"))), Some("eu"));
        assert_eq!(first(&overriding(&overrides, &client("192.0.2.1/32"))), None);
    }

    #[test]
    fn a_cidr_longer_than_the_clients_network_asks_for_more_bits() {
        let overrides = [cidr("10.1.2.0/24", &["eu"])];
        let short = overriding(&overrides, &client("10.1.0.0/16"));
        assert_eq!((first(&short), short.prefix), (None, 23));
    }

    #[test]
    fn preferred_clusters_come_first_and_the_rest_keeps_its_rank() {
        let names = ["asia", "us", "eu", "africa"];
        let order = [0, 1, 2].map(|index| Ranked { index, distance: None }).to_vec();
        let mut ranking = Ranking { order, ..Ranking::default() };
        prefer(&mut ranking, &["africa".into(), "eu".into()], |index| Some(names[index].into()));
        let order: Vec<&str> = ranking.order.iter().map(|ranked| names[ranked.index]).collect();
        assert_eq!(order, ["eu", "asia", "us"]);
    }

    proptest! {
        /// Every address inside the reported prefix meets the same override.
        #[test]
        fn the_prefix_is_true_for_all_it_covers(
            networks in prop::collection::vec((0_u32..64, 0_u8..=8), 0..8),
            address in 0_u32..64,
            other in 0_u32..64,
        ) {
            // Only the low six bits of the first octet vary, so that networks nest and meet.
            let place = |bits: u32| std::net::Ipv4Addr::from_bits(bits << 26);
            let overrides: Vec<GeoOverride> = networks.iter().enumerate().map(|(index, &(bits, length))| {
                cidr(&format!("{}/{}", place(bits), length.min(6)), &[&format!("c{index}")])
            }).collect();
            let at = |bits| client(&format!("{}/32", place(bits)));
            let here = overriding(&overrides, &at(address));
            let covered = IpNet::new(place(address).into(), here.prefix).unwrap().trunc();
            if covered.contains(&IpAddr::from(place(other))) {
                prop_assert_eq!(here.clusters, overriding(&overrides, &at(other)).clusters);
            }
        }
    }
}
