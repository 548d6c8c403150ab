//! Ingress (networking.k8s.io/v1) of a member, and the template of a FederatedIngress.

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use meridian_core::{
    id::ObjectKey,
    index::{IngressFact, MemberIngressFact, TlsFact},
    name::DnsName,
    snapshot::{Backend, BackendPort, HostRule, PathKind, PathRule},
};

/// The class whose Ingresses are Meridian's, in members and on the hub.
pub const CLASS: &str = "meridian";
/// The annotation that named the class before `spec.ingressClassName` did.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// Annotation by which an IngressClass is its cluster's default.
const DEFAULT_ANNOTATION: &str = "ingressclass.kubernetes.io/is-default-class";

/// An Ingress of a member.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemberIngress {
    /// What is decided from.
    pub fact: MemberIngressFact,
    /// Its class, if it names one.
    pub class: Option<String>,
}

/// An Ingress of a member.
#[must_use]
pub fn facts(ingress: Ingress) -> Option<(ObjectKey, Option<MemberIngress>)> {
    let key = super::key_of(&ingress.metadata)?;
    let status = ingress.status.and_then(|status| status.load_balancer).and_then(|status| status.ingress);
    let addresses = status.unwrap_or_default();
    let addresses =
        addresses.iter().filter_map(|at| super::address(at.ip.as_deref(), at.hostname.as_deref())).collect();
    let spec = ingress.spec.unwrap_or_default();
    let class = class(&ingress.metadata, &spec);
    let rules = rules(&key, &ingress.metadata, spec);
    Some((key, Some(MemberIngress { fact: MemberIngressFact { ingress: rules, addresses }, class })))
}

/// A FederatedIngress; without facts when its class is another's or its template cannot be read.
#[must_use]
pub fn federated(object: DynamicObject) -> Option<(ObjectKey, Option<IngressFact>)> {
    let key = super::key_of(&object.metadata)?;
    let template = object.data.pointer("/spec/template").cloned().unwrap_or_default();
    let template: Ingress = match serde_json::from_value(template) {
        Ok(template) => template,
        Err(error) => {
            tracing::info!(ingress = %key, %error, "Template of a FederatedIngress cannot be read");
            return Some((key, None));
        }
    };
    let spec = template.spec.unwrap_or_default();
    if class(&template.metadata, &spec).is_some_and(|class| class != CLASS) {
        return Some((key, None));
    }
    let fact = rules(&key, &object.metadata, spec);
    Some((key, Some(fact)))
}

/// An IngressClass by its name: whether it is the cluster's default.
#[must_use]
pub fn default_class(class: IngressClass) -> Option<(String, Option<bool>)> {
    let annotations = class.metadata.annotations.unwrap_or_default();
    let is_default = annotations.get(DEFAULT_ANNOTATION).is_some_and(|value| value == "true");
    Some((class.metadata.name?, Some(is_default)))
}

fn class(metadata: &ObjectMeta, spec: &IngressSpec) -> Option<String> {
    let annotated = || metadata.annotations.as_ref()?.get(CLASS_ANNOTATION).cloned();
    spec.ingress_class_name.clone().or_else(annotated).filter(|class| !class.is_empty())
}

fn rules(key: &ObjectKey, metadata: &ObjectMeta, spec: IngressSpec) -> IngressFact {
    let (mut rules, mut faults) = (Vec::new(), Vec::new());
    for (position, rule) in spec.rules.unwrap_or_default().into_iter().enumerate() {
        let host = match rule.host.as_deref().filter(|host| !host.is_empty()).map(str::parse::<DnsName>) {
            Some(Err(error)) => {
                // Left out whole: without its host the rule would match every Host.
                faults.push(format!("spec.rules[{position}].host: {error}"));
                continue;
            }
            Some(Ok(host)) => Some(host),
            None => None,
        };
        let paths = rule.http.map(|http| http.paths).unwrap_or_default();
        let paths: Vec<PathRule> = paths.into_iter().filter_map(|path| self::path(key, path)).collect();
        // A host without paths goes to the default backend, which the rule's host still has to reach.
        rules.push(HostRule { host, paths });
    }
    let tls = spec.tls.unwrap_or_default().into_iter().filter_map(|tls| {
        let secret = tls.secret_name.filter(|name| !name.is_empty())?;
        let hosts = tls.hosts.unwrap_or_default().iter().filter_map(|host| host.parse().ok()).collect();
        Some(TlsFact { hosts, secret: ObjectKey::new(key.namespace.clone(), secret) })
    });
    IngressFact {
        created: super::created_of(metadata),
        rules,
        default_backend: spec.default_backend.and_then(|backend| self::backend(key, backend)),
        tls: tls.collect(),
        faults,
    }
}

fn path(key: &ObjectKey, path: HTTPIngressPath) -> Option<PathRule> {
    let kind = if path.path_type == "Exact" { PathKind::Exact } else { PathKind::Prefix };
    let text = path.path.filter(|path| path.starts_with('/')).unwrap_or_else(|| "/".to_owned());
    Some(PathRule { kind, path: text.into(), backend: backend(key, path.backend)? })
}

/// A Service backend; resources as backends are the member controller's own affair.
fn backend(key: &ObjectKey, backend: IngressBackend) -> Option<Backend> {
    let service = backend.service?;
    let port = service.port.unwrap_or_default();
    let port = match (port.name.filter(|name| !name.is_empty()), port.number) {
        (Some(name), _) => BackendPort::Name(name.into()),
        (None, number) => BackendPort::Number(u16::try_from(number?).ok()?),
    };
    Some(Backend { service: ObjectKey::new(key.namespace.clone(), service.name), port })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn federated_with(spec: Value) -> Option<IngressFact> {
        let object = serde_json::from_value(json!({
            "apiVersion": "types.kubefed.io/v1beta1", "kind": "FederatedIngress",
            "metadata": {"namespace": "shop", "name": "front", "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"template": {"spec": spec}},
        }));
        federated(object.expect("an object")).expect("a key").1
    }

    fn path(text: &str) -> Value {
        json!({"path": text, "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}})
    }

    #[test]
    fn rules_keep_their_order_and_certificates_their_namespace() {
        let fact = federated_with(json!({
            "rules": [
                {"host": "B.example.org", "http": {"paths": [path("/b"), path("/a")]}},
                {"http": {"paths": [path("/")]}},
            ],
            "tls": [{"hosts": ["b.example.org"], "secretName": "tls"}],
        }))
        .expect("facts");
        assert_eq!(fact.created.as_millis(), 1_767_323_045_000);
        assert_eq!(fact.rules[0].host, Some("b.example.org".parse().expect("a name")));
        assert_eq!(&*fact.rules[0].paths[0].path, "/b");
        assert_eq!(fact.rules[1].host, None);
        assert_eq!(fact.tls[0].secret, ObjectKey::new("shop", "tls"));
        assert_eq!(fact.backends(), [ObjectKey::new("shop", "web")].into());
    }

    #[test]
    fn rule_with_an_unusable_host_does_not_become_a_catch_all() {
        let fact = federated_with(json!({"rules": [{"host": "not a name", "http": {"paths": [path("/")]}}]}));
        let fact = fact.expect("facts");
        assert!(fact.rules.is_empty());
        assert!(fact.faults[0].contains("spec.rules[0].host") && fact.faults[0].contains("not a name"));
    }

    #[test]
    fn on_the_hub_class_meridian_or_none_is_ours() {
        assert!(federated_with(json!({})).is_some());
        assert!(federated_with(json!({"ingressClassName": "meridian"})).is_some());
        assert!(federated_with(json!({"ingressClassName": "nginx"})).is_none());
    }

    #[test]
    fn class_of_a_member_ingress_may_stand_in_the_old_annotation() {
        let object = serde_json::from_value(json!({
            "metadata": {"namespace": "shop", "name": "front", "annotations": {"kubernetes.io/ingress.class": "nginx"}},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}},
        }));
        let (_, found) = facts(object.expect("an Ingress")).expect("a key");
        let found = found.expect("facts");
        assert_eq!(found.class.as_deref(), Some("nginx"));
        assert_eq!(found.fact.addresses.len(), 1);
    }
}
