//! The kinds of KubeFed v2, in their own groups and shapes, so that its objects work here unchanged.
//!
//! Shapes: `charts/kubefed/charts/controllermanager/crds` and `charts/kubefed/crds` of
//! `kubernetes-retired/kubefed`. What differs is additive: a `message` beside each cluster status, and
//! schemas that keep unknown fields where KubeFed's pruned nothing.

mod cluster;
mod config;
mod federated;
mod type_config;

pub use cluster::{
    ClusterCondition, KubeFedCluster, KubeFedClusterSpec, KubeFedClusterStatus, LocalSecretReference,
};
pub use config::{
    ClusterHealthCheck, DurationConfig, FeatureGate, KubeFedConfig, KubeFedConfigSpec, LeaderElect,
    StatusController, SyncController,
};
pub use federated::{
    ClusterName, ClusterOverride, ClusterStatus, FederatedCondition, FederatedSpec, FederatedStatus,
    GenericSelector, Override, Placement, SelectorRequirement, federated_crd,
};
pub use type_config::{
    ApiResource, FederatedTypeConfig, FederatedTypeConfigSpec, FederatedTypeConfigStatus, PropagationMode,
    default_type_configs,
};

/// Group of KubeFed's configuration kinds.
pub const CORE_GROUP: &str = "core.kubefed.io";
/// Group of the generated `Federated<Kind>` kinds.
pub const TYPES_GROUP: &str = "types.kubefed.io";
/// Version of both.
pub const VERSION: &str = "v1beta1";
/// Namespace of KubeFed's configuration unless told otherwise.
pub const DEFAULT_NAMESPACE: &str = "kube-federation-system";
/// Name of the one `KubeFedConfig`.
pub const CONFIG_NAME: &str = "kubefed";
