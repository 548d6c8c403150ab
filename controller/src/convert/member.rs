//! A member of the fleet to what the edges see of it.

use meridian_api::member_cluster::{Network as ApiNetwork, NetworkMode};
use meridian_core::{
    geo::{GeoPoint, location_of},
    id::{RegionName, ZoneName},
    index::MemberFact,
    snapshot::{Cluster, Gateway, Network},
};

use crate::fleet::Member;

/// Port of a gateway that names none.
const GATEWAY_PORT: u16 = 80;

/// The member as it stands now: its spec, completed by what its nodes say.
#[must_use]
pub fn fact(member: &Member) -> MemberFact {
    let facts = &member.facts;
    let region = member.region().map(RegionName::from);
    let own = facts.location.and_then(|at| GeoPoint::new(at.latitude, at.longitude).ok());
    let location = location_of(own, region.as_ref());
    let mut zones: Vec<ZoneName> = member.zones().into_iter().map(ZoneName::from).collect();
    zones.sort();
    zones.dedup();
    let cluster = Cluster {
        name: member.name.clone(),
        location,
        region,
        zones,
        network: network(&facts.network),
        dial: super::dial(facts.traffic.dial, facts.traffic.drain, facts.traffic.until.as_ref()),
    };
    MemberFact { cluster, labels: facts.labels.clone() }
}

fn network(network: &ApiNetwork) -> Network {
    match network.mode {
        NetworkMode::Flat => Network::Flat,
        NetworkMode::Gateway => {
            let gateways = network.addresses.iter().filter_map(|at| {
                let address = super::address(at.ip.as_deref(), at.hostname.as_deref())?;
                let port = at.port.and_then(|port| u16::try_from(port).ok()).unwrap_or(GATEWAY_PORT);
                Some(Gateway { address, port })
            });
            Network::Gateway(gateways.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use meridian_api::member_cluster::GatewayAddress;
    use meridian_core::snapshot::Address;

    use super::*;

    #[test]
    fn gateways_keep_their_order_and_get_the_port_of_plain_http() {
        let at = |ip: &str, port| GatewayAddress { ip: Some(ip.to_owned()), hostname: None, port };
        let addresses = vec![at("198.51.100.2", Some(8080)), at("bad", None), at("198.51.100.1", None)];
        let converted = network(&ApiNetwork { mode: NetworkMode::Gateway, addresses });
        let gateway = |ip: [u8; 4], port| Gateway { address: Address::Ip(ip.into()), port };
        let expected = vec![gateway([198, 51, 100, 2], 8080), gateway([198, 51, 100, 1], 80)];
        assert_eq!(converted, Network::Gateway(expected));
    }
}
