//! `FederatedTypeConfig`: which kinds are federated, and through which wrapper kind.

use kube::core::ObjectMeta;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{TYPES_GROUP, VERSION};

/// A federated kind. Namespaced, in the KubeFed namespace; its name is `<plural>.<group>` of the target.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "core.kubefed.io",
    version = "v1beta1",
    kind = "FederatedTypeConfig",
    plural = "federatedtypeconfigs",
    namespaced,
    shortname = "ftc",
    category = "meridian",
    status = "FederatedTypeConfigStatus",
    derive = "PartialEq",
    doc = "FederatedTypeConfig says that an API type, the target type, is federated, and which federated type wraps it.",
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetType.kind"),
    printcolumn(name = "Propagation", type_ = "string", json_path = ".spec.propagation"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct FederatedTypeConfigSpec {
    /// The kind in the members.
    pub target_type: ApiResource,
    /// Whether objects of the kind are propagated.
    pub propagation: PropagationMode,
    /// The wrapper kind on the hub.
    pub federated_type: ApiResource,
    /// The kind that collected status is written to; no effect here yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_type: Option<ApiResource>,
    /// Whether status is collected; no effect here yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_collection: Option<PropagationMode>,
}

/// A kind by its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApiResource {
    /// API group; empty for the core group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind, such as `ConfigMap`.
    pub kind: String,
    /// Plural name as in URLs, such as `configmaps`.
    pub plural_name: String,
    /// `Namespaced` or `Cluster`.
    pub scope: String,
}

impl ApiResource {
    /// `group/version`, or the version alone for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether objects of the kind live in namespaces.
    #[must_use]
    pub fn is_namespaced(&self) -> bool {
        self.scope != "Cluster"
    }
}

/// A switch as KubeFed writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PropagationMode {
    /// On.
    #[default]
    Enabled,
    /// Off.
    Disabled,
}

/// What is known of the federated kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FederatedTypeConfigStatus {
    /// Generation that the status speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// `Running` or `NotRunning`.
    #[serde(default)]
    pub propagation_controller: String,
    /// `Running` or `NotRunning`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_controller: Option<String>,
}

/// Kinds federated by default: (group, version, kind, plural, is namespaced).
const DEFAULT_TARGETS: [(&str, &str, &str, &str, bool); 7] = [
    ("", "v1", "ConfigMap", "configmaps", true),
    ("apps", "v1", "Deployment", "deployments", true),
    ("networking.k8s.io", "v1", "Ingress", "ingresses", true),
    ("", "v1", "Namespace", "namespaces", false),
    ("apps", "v1", "ReplicaSet", "replicasets", true),
    ("", "v1", "Secret", "secrets", true),
    ("", "v1", "Service", "services", true),
];

/// The FederatedTypeConfigs that an installation starts with, without a namespace, sorted by name.
#[must_use]
pub fn default_type_configs() -> Vec<FederatedTypeConfig> {
    DEFAULT_TARGETS
        .iter()
        .map(|&(group, version, kind, plural, is_namespaced)| {
            let name = if group.is_empty() { plural.to_owned() } else { format!("{plural}.{group}") };
            FederatedTypeConfig {
                metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() },
                spec: FederatedTypeConfigSpec {
                    target_type: ApiResource {
                        group: group.to_owned(),
                        version: version.to_owned(),
                        kind: kind.to_owned(),
                        plural_name: plural.to_owned(),
                        scope: if is_namespaced { "Namespaced" } else { "Cluster" }.to_owned(),
                    },
                    propagation: PropagationMode::Enabled,
                    // FederatedNamespace is namespaced although Namespace is not: KubeFed's special case.
                    federated_type: ApiResource {
                        group: TYPES_GROUP.to_owned(),
                        version: VERSION.to_owned(),
                        kind: format!("Federated{kind}"),
                        plural_name: format!("federated{plural}"),
                        scope: "Namespaced".to_owned(),
                    },
                    status_type: None,
                    status_collection: None,
                },
                status: None,
            }
        })
        .collect()
}
