//! `KubeFedConfig`: settings of a KubeFed control plane. Only `syncController.adoptResources` has an effect here;
//! the other fields are kept so that existing objects validate.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings, named `kubefed` in the KubeFed namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "core.kubefed.io",
    version = "v1beta1",
    kind = "KubeFedConfig",
    plural = "kubefedconfigs",
    namespaced,
    derive = "PartialEq",
    doc = "KubeFedConfig holds the settings of a KubeFed control plane."
)]
#[serde(rename_all = "camelCase")]
pub struct KubeFedConfigSpec {
    /// `Namespaced` or `Cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Delays of KubeFed's queues; no effect here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller_duration: Option<DurationConfig>,
    /// Leader election of KubeFed; no effect here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_elect: Option<LeaderElect>,
    /// Feature gates of KubeFed; no effect here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_gates: Option<Vec<FeatureGate>>,
    /// Probe settings of KubeFed; the controller's own flags are used instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_health_check: Option<ClusterHealthCheck>,
    /// Settings of propagation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync_controller: Option<SyncController>,
    /// Settings of status collection; no effect here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_controller: Option<StatusController>,
}

impl KubeFedConfigSpec {
    /// Whether objects that exist in a member before they are federated are taken over. Default: yes.
    #[must_use]
    pub fn adopts(&self) -> bool {
        self.sync_controller.as_ref().and_then(|s| s.adopt_resources.as_deref()) != Some("Disabled")
    }
}

/// KubeFed's delays, as Go durations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DurationConfig {
    /// Time to wait before reconciling on a healthy cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_delay: Option<String>,
    /// Time to wait before giving up on an unhealthy cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable_delay: Option<String>,
    /// Time to wait for caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_sync_timeout: Option<String>,
}

/// KubeFed's leader election.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderElect {
    /// How long followers wait before they take over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_duration: Option<String>,
    /// How long a leader tries to renew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_deadline: Option<String>,
    /// Time between tries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_period: Option<String>,
    /// `configmaps` or `endpoints`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_lock: Option<String>,
}

/// A feature gate of KubeFed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureGate {
    /// Name of the gate.
    pub name: String,
    /// `Enabled` or `Disabled`.
    pub configuration: String,
}

/// KubeFed's probe settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterHealthCheck {
    /// Go duration between probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period: Option<String>,
    /// Consecutive failures before a member is unready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_threshold: Option<i64>,
    /// Consecutive successes before it is ready again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub success_threshold: Option<i64>,
    /// Go duration of one probe at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
}

/// Settings of propagation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncController {
    /// Parallel reconciles of KubeFed; no effect here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_reconciles: Option<i64>,
    /// `Enabled` (default) or `Disabled`: whether pre-existing objects in members are taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt_resources: Option<String>,
}

/// Settings of status collection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusController {
    /// Parallel reconciles of KubeFed; no effect here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_reconciles: Option<i64>,
}
