//! A federated kind: what a FederatedTypeConfig says.

use std::sync::Arc;

use kube::core::ApiResource;
use meridian_api::kubefed::{FederatedTypeConfig, PropagationMode};
use meridian_core::place::Target;

use super::Key;

/// A federated kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    /// Name of its FederatedTypeConfig.
    pub name: Arc<str>,
    /// Whether objects of the kind are propagated.
    pub is_enabled: bool,
    /// The kind in the members, for plans.
    pub target: Target,
    /// The kind in the members, for calls.
    pub resource: ApiResource,
    /// The wrapper kind on the hub.
    pub federated: ApiResource,
}

impl Kind {
    /// Reads a FederatedTypeConfig; `None` without a name.
    #[must_use]
    pub fn of(config: &FederatedTypeConfig) -> Option<Self> {
        let name = config.metadata.name.as_deref()?;
        let spec = &config.spec;
        let resource = |r: &meridian_api::kubefed::ApiResource| ApiResource {
            group: r.group.clone(),
            version: r.version.clone(),
            api_version: r.api_version(),
            kind: r.kind.clone(),
            plural: r.plural_name.clone(),
        };
        Some(Self {
            name: Arc::from(name),
            is_enabled: spec.propagation == PropagationMode::Enabled,
            target: Target {
                api_version: spec.target_type.api_version(),
                kind: spec.target_type.kind.clone(),
                is_namespaced: spec.target_type.is_namespaced(),
            },
            resource: resource(&spec.target_type),
            federated: resource(&spec.federated_type),
        })
    }

    /// The key of an object of this kind in a member. A Namespace's wrapper lives in the namespace that it is.
    #[must_use]
    pub fn key_in_member(&self, namespace: Option<&str>, name: &str) -> Key {
        let namespace = if self.target.is_namespace() { name } else { namespace.unwrap_or_default() };
        Key { kind: Arc::clone(&self.name), namespace: namespace.into(), name: name.into() }
    }
}
