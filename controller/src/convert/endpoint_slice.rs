//! EndpointSlice (discovery.k8s.io/v1) to a slice of endpoints.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use meridian_core::{
    id::{ObjectKey, ZoneName},
    index::{EndpointFact, SliceFact},
    snapshot::EndpointPort,
};

/// Label that names the Service of a slice.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The slice by its own key; without facts when it belongs to no Service or holds no IP addresses.
#[must_use]
pub fn facts(slice: EndpointSlice) -> Option<(ObjectKey, Option<SliceFact>)> {
    let key = super::key_of(&slice.metadata)?;
    let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
    let Some(service) = service.filter(|_| slice.address_type != "FQDN") else { return Some((key, None)) };
    let service = ObjectKey::new(key.namespace.clone(), service.as_str());
    let ports = slice.ports.unwrap_or_default();
    let ports = ports
        .into_iter()
        .filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP")
        .filter_map(|port| {
            let number = u16::try_from(port.port?).ok()?;
            Some(EndpointPort { name: port.name.unwrap_or_default().into(), port: number })
        })
        .collect();
    let endpoints = slice.endpoints.unwrap_or_default();
    let endpoints = endpoints.into_iter().filter_map(endpoint).collect();
    Some((key, Some(SliceFact { service, ports, endpoints })))
}

/// The first address of an endpoint: the others of a list are not to be used (API documentation of
/// `endpoints.addresses`).
fn endpoint(endpoint: Endpoint) -> Option<EndpointFact> {
    let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.unwrap_or_default();
    // A missing condition is to be read as ready (KEP-752), and as serving if it is ready.
    let is_ready = conditions.ready.unwrap_or(true);
    Some(EndpointFact {
        address,
        zone: endpoint.zone.map(ZoneName::from),
        is_ready,
        is_serving: conditions.serving.unwrap_or(is_ready),
        is_terminating: conditions.terminating.unwrap_or(false),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(change: Value) -> EndpointSlice {
        let mut object = json!({
            "metadata": {"namespace": "shop", "name": "web-x1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {}, "zone": "eu-a"}],
        });
        json_patch::merge(&mut object, &change);
        serde_json::from_value(object).expect("an EndpointSlice")
    }

    #[test]
    fn missing_conditions_mean_ready_and_only_tcp_ports_count() {
        let (key, fact) = facts(slice(json!({}))).expect("a key");
        let fact = fact.expect("facts");
        assert_eq!((key, fact.service), (ObjectKey::new("shop", "web-x1"), ObjectKey::new("shop", "web")));
        assert_eq!(fact.ports, [EndpointPort { name: "http".into(), port: 8080 }]);
        let endpoint = &fact.endpoints[0];
        assert!(endpoint.is_ready && endpoint.is_serving && !endpoint.is_terminating);
        assert_eq!(endpoint.zone, Some("eu-a".into()));
    }

    #[test]
    fn leaving_endpoint_is_told_from_a_ready_one() {
        let conditions = json!({"ready": false, "serving": true, "terminating": true});
        let change = json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": conditions}]});
        let (_, fact) = facts(slice(change)).expect("a key");
        let fact = fact.expect("facts");
        assert!(
            !fact.endpoints[0].is_ready && fact.endpoints[0].is_serving && fact.endpoints[0].is_terminating
        );
    }

    #[test]
    fn slice_of_names_or_of_no_service_has_no_facts() {
        assert_eq!(facts(slice(json!({"addressType": "FQDN"}))).expect("a key").1, None);
        assert_eq!(facts(slice(json!({"metadata": {"labels": null}}))).expect("a key").1, None);
    }
}
