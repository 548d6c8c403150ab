//! Service (v1) of a member, and the template of a FederatedService.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use kube::core::DynamicObject;
use meridian_api::names::{MAX_IN_FLIGHT_ANNOTATION, MAX_RATE_ANNOTATION};
use meridian_core::{
    id::ObjectKey,
    index::{CapacityDeclaration, FederatedServiceFact, ServiceFact},
    snapshot::ServicePort,
};

/// A Service of a member.
#[must_use]
pub fn facts(service: Service) -> Option<(ObjectKey, Option<ServiceFact>)> {
    let key = super::key_of(&service.metadata)?;
    let status = service.status.and_then(|status| status.load_balancer).and_then(|status| status.ingress);
    let load_balancer = status.unwrap_or_default();
    let load_balancer =
        load_balancer.iter().filter_map(|at| super::address(at.ip.as_deref(), at.hostname.as_deref()));
    let fact = ServiceFact {
        ports: service.spec.as_ref().map(ports).unwrap_or_default(),
        is_load_balancer: service.spec.as_ref().is_some_and(is_load_balancer),
        load_balancer: load_balancer.collect(),
        capacity: service.metadata.annotations.as_ref().and_then(capacity),
    };
    Some((key, Some(fact)))
}

/// A FederatedService; without a readable template it still says that the service is federated.
#[must_use]
pub fn federated(object: DynamicObject) -> Option<(ObjectKey, Option<FederatedServiceFact>)> {
    let key = super::key_of(&object.metadata)?;
    let template = object.data.pointer("/spec/template").cloned().unwrap_or_default();
    let template: Service = match serde_json::from_value(template) {
        Ok(template) => template,
        Err(error) => {
            tracing::info!(service = %key, %error, "Template of a FederatedService cannot be read");
            Service::default()
        }
    };
    let fact = FederatedServiceFact {
        ports: template.spec.as_ref().map(ports).unwrap_or_default(),
        capacity: template.metadata.annotations.as_ref().and_then(capacity),
    };
    Some((key, Some(fact)))
}

fn ports(spec: &ServiceSpec) -> Vec<ServicePort> {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let tcp = ports.iter().filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
    tcp.filter_map(|port| {
        let number = u16::try_from(port.port).ok()?;
        Some(ServicePort { name: port.name.clone().unwrap_or_default().into(), port: number })
    })
    .collect()
}

fn is_load_balancer(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer")
}

/// What annotations declare per ready endpoint; a value that is no positive number declares nothing.
fn capacity(annotations: &BTreeMap<String, String>) -> Option<CapacityDeclaration> {
    let number = |name: &str| {
        let value: f64 = annotations.get(name)?.parse().ok()?;
        (value.is_finite() && value >= 0.0).then_some(value)
    };
    let declared = CapacityDeclaration {
        rate: number(MAX_RATE_ANNOTATION),
        in_flight: number(MAX_IN_FLIGHT_ANNOTATION),
        per_cluster: BTreeMap::new(),
    };
    (declared != CapacityDeclaration::default()).then_some(declared)
}

#[cfg(test)]
mod tests {
    use meridian_core::snapshot::Address;
    use serde_json::json;

    use super::*;

    #[test]
    fn load_balancer_addresses_and_annotations_are_taken_over() {
        let service = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "web", "annotations": {"meridian.io/max-rate-per-endpoint": "50"}},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "name": "http"}, {"port": 53, "protocol": "UDP"}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"hostname": "lb.example.net"}, {"ip": "x"}]}},
        }));
        let (_, fact) = facts(service.expect("a Service")).expect("a key");
        let fact = fact.expect("facts");
        assert!(fact.is_load_balancer);
        assert_eq!(fact.ports, [ServicePort { name: "http".into(), port: 80 }]);
        let name = "lb.example.net".parse().expect("a name");
        assert_eq!(fact.load_balancer, [Address::Ip([198, 51, 100, 1].into()), Address::Hostname(name)]);
        assert_eq!(fact.capacity.expect("declared").rate, Some(50.0));
    }

    #[test]
    fn nonsense_in_annotations_declares_nothing() {
        for text in ["many", "-1", "NaN", "inf"] {
            let annotations = [(MAX_RATE_ANNOTATION.to_owned(), text.to_owned())].into();
            assert_eq!(capacity(&annotations), None, "{text}");
        }
    }

    #[test]
    fn malformed_template_leaves_the_service_federated() {
        let object = serde_json::from_value(json!({
            "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedService",
            "metadata": {"namespace": "shop", "name": "web"},
            "spec": {"template": {"spec": {"ports": "none"}}},
        }));
        let (_, fact) = federated(object.expect("an object")).expect("a key");
        assert_eq!(fact, Some(FederatedServiceFact::default()));
    }
}
