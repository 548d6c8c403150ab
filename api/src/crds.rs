//! Every CustomResourceDefinition that Meridian serves, as installed and as in the chart.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::dns_zone::DnsZone;
use crate::kubefed::{
    FederatedTypeConfig, KubeFedCluster, KubeFedConfig, default_type_configs, federated_crd,
};
use crate::member_cluster::MemberCluster;
use crate::member_ledger::MemberLedger;
use crate::site::Site;
use crate::traffic_policy::TrafficPolicy;

/// Short names of the wrapper kinds, as `kubefedctl enable` chose them: `f` before the target's own.
const FEDERATED_SHORT_NAMES: [(&str, &str); 6] = [
    ("ConfigMap", "fcm"),
    ("Deployment", "fdeploy"),
    ("Ingress", "fing"),
    ("Namespace", "fns"),
    ("ReplicaSet", "frs"),
    ("Service", "fsvc"),
];

/// Every CRD, sorted by name.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        MemberCluster::crd(),
        Site::crd(),
        DnsZone::crd(),
        TrafficPolicy::crd(),
        MemberLedger::crd(),
        KubeFedCluster::crd(),
        KubeFedConfig::crd(),
        FederatedTypeConfig::crd(),
    ];
    for config in default_type_configs() {
        let kind = config.spec.target_type.kind.as_str();
        let short: Vec<&str> =
            FEDERATED_SHORT_NAMES.iter().filter(|(k, _)| *k == kind).map(|(_, short)| *short).collect();
        let has_replicas = matches!(kind, "Deployment" | "ReplicaSet");
        crds.push(federated_crd(&config.spec.federated_type, &short, has_replicas));
    }
    crds.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    crds
}

/// The generated files of the chart: path relative to it, and content. Sorted by path.
///
/// # Errors
/// If a definition cannot be written as YAML, which would be a fault of this program.
pub fn chart_files() -> Result<Vec<(String, String)>, serde_saphyr::SerializeError> {
    let mut files = Vec::new();
    for crd in all() {
        let name = crd.metadata.name.clone().unwrap_or_default();
        files.push((format!("crds/{name}.yaml"), yaml(&crd)?));
    }
    let mut configs = String::new();
    for config in default_type_configs() {
        configs.push_str("---\n");
        configs.push_str(&yaml(&config)?);
    }
    files.push(("files/federatedtypeconfigs.yaml".to_owned(), configs));
    Ok(files)
}

/// YAML of a value with its keys sorted, so that equal values give equal bytes.
fn yaml<T: serde::Serialize>(value: &T) -> Result<String, serde_saphyr::SerializeError> {
    let mut value =
        serde_json::to_value(value).map_err(<serde_saphyr::SerializeError as serde::ser::Error>::custom)?;
    // A CRD that is applied carries no status of its own.
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    let mut text = serde_saphyr::to_string(&value)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
