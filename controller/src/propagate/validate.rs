//! From a wrapper's spec to what can be planned, or a fault that names the field.

use std::collections::BTreeMap;

use meridian_api::kubefed::{FederatedSpec, GenericSelector};
use meridian_core::id::ClusterName;
use meridian_core::place::{Gate, Member, Operation, Placement, PlanInput, Requirement, Selector};

use super::{Key, Kind};

/// What a wrapper asks for.
#[derive(Clone, Debug)]
pub struct Request {
    spec: FederatedSpec,
    placement: Placement,
}

/// A wrapper that cannot be planned. What its members hold stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// KubeFed's aggregate reason.
    pub reason: &'static str,
    /// Field and fault.
    pub message: String,
}

fn invalid(message: String) -> Invalid {
    Invalid { reason: "ComputePlacementFailed", message }
}

/// Reads the spec of a wrapper.
///
/// # Errors
/// [`Invalid`], naming the field.
pub fn request(kind: &Kind, key: &Key, spec: &str) -> Result<Request, Invalid> {
    if kind.target.is_namespace() && key.name != key.namespace {
        return Err(invalid(format!(
            "metadata.name: must be the name of its namespace, {}, to federate that",
            key.namespace
        )));
    }
    let spec: Option<FederatedSpec> =
        serde_json::from_str(spec).map_err(|e| invalid(format!("spec: {e}")))?;
    let spec = spec.unwrap_or_default();
    let placement = placement(&spec)?;
    Ok(Request { spec, placement })
}

impl Request {
    /// Where the wrapper wants its object.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// All that the plan depends on.
    #[must_use]
    pub fn into_input(
        self,
        kind: &Kind,
        key: &Key,
        gate: Gate,
        members: BTreeMap<ClusterName, Member>,
    ) -> PlanInput {
        let overrides = self.spec.overrides.unwrap_or_default();
        PlanInput {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            target: kind.target.clone(),
            template: self.spec.template,
            placement: self.placement,
            gate,
            overrides: overrides
                .into_iter()
                .map(|o| {
                    let operations = o
                        .cluster_overrides
                        .into_iter()
                        .map(|p| Operation { op: p.op.unwrap_or_default(), path: p.path, value: p.value })
                        .collect();
                    (ClusterName::from(o.cluster_name), operations)
                })
                .collect(),
            retain_replicas: self.spec.retain_replicas.unwrap_or_default(),
            members,
        }
    }
}

fn placement(spec: &FederatedSpec) -> Result<Placement, Invalid> {
    let Some(placement) = &spec.placement else { return Ok(Placement::default()) };
    Ok(Placement {
        clusters: placement.clusters.as_ref().map(|list| list.iter().map(|c| c.name.clone()).collect()),
        // KubeFed ignores the selector beside names, and so any fault in it.
        selector: match (&placement.clusters, &placement.cluster_selector) {
            (None, Some(given)) => Some(selector(given)?),
            _ => None,
        },
    })
}

fn selector(given: &GenericSelector) -> Result<Selector, Invalid> {
    let mut requirements = Vec::new();
    for (index, expression) in given.match_expressions.iter().enumerate() {
        let at = format!("spec.placement.clusterSelector.matchExpressions[{index}]");
        let operator = expression.operator.parse().map_err(|e| invalid(format!("{at}.operator: {e}")))?;
        requirements.push(Requirement {
            key: expression.key.clone(),
            operator,
            values: expression.values.iter().cloned().collect(),
        });
    }
    Ok(Selector { labels: given.match_labels.clone(), requirements })
}

#[cfg(test)]
mod tests {
    use super::{Key, Kind, request};
    use meridian_api::kubefed::default_type_configs;

    fn kind(name: &str) -> Kind {
        let configs = default_type_configs();
        let config = configs.iter().find(|c| c.metadata.name.as_deref() == Some(name)).expect("default");
        Kind::of(config).expect("named")
    }

    fn key(kind: &str, namespace: &str, name: &str) -> Key {
        Key { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }

    fn fault(spec: &str) -> String {
        request(&kind("configmaps"), &key("configmaps", "shop", "web"), spec).expect_err(spec).message
    }

    #[test]
    fn faults_name_the_field() {
        let text =
            r#"{"placement":{"clusterSelector":{"matchExpressions":[{"key":"a","operator":"Near"}]}}}"#;
        assert!(
            fault(text).starts_with("spec.placement.clusterSelector.matchExpressions[0].operator: \"Near\"")
        );
        assert!(fault(r#"{"placement":{"clusters":"m1"}}"#).starts_with("spec: "));
    }

    #[test]
    fn a_selector_beside_names_is_ignored_with_its_faults() {
        let text = r#"{"placement":{"clusters":[{"name":"m1"}],"clusterSelector":{"matchExpressions":[{"key":"a","operator":"Near"}]}}}"#;
        let request = request(&kind("configmaps"), &key("configmaps", "shop", "web"), text).expect("valid");
        assert_eq!(request.placement().clusters, Some(vec!["m1".to_owned()]));
    }

    #[test]
    fn a_namespace_can_only_be_federated_under_its_own_name() {
        let wrong =
            request(&kind("namespaces"), &key("namespaces", "shop", "web"), "{}").expect_err("wrong name");
        assert!(wrong.message.contains("shop"));
        request(&kind("namespaces"), &key("namespaces", "shop", "shop"), "{}").expect("right name");
    }
}
