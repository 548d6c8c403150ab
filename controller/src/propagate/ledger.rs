//! Tombstones: what must still be removed from members that could not be reached when its wrapper was deleted.
//!
//! A tombstone names the object's UID and the cluster's: it can hit neither a re-created object nor a re-created
//! cluster. It is written to the hub before the wrapper's finalizer goes, so it survives any restart.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta, TypeMeta};
use kube::{Api, Client};
use meridian_api::member_ledger::{MAX_ENTRIES, MemberLedger, MemberLedgerSpec, Tombstone};
use meridian_api::names::FIELD_MANAGER;
use meridian_core::id::ClusterName;
use serde_json::json;

use super::facts::Fact;
use super::{Key, Kind};
use crate::call::{self, CallError, within};

/// The tombstone of an object.
pub(super) fn tombstone(kind: &Kind, key: &Key, fact: &Fact, cluster_uid: &str) -> Tombstone {
    Tombstone {
        object_uid: fact.uid.to_string(),
        api_version: kind.resource.api_version.clone(),
        kind: kind.resource.kind.clone(),
        plural: kind.resource.plural.clone(),
        namespace: if kind.target.is_namespaced { key.namespace.to_string() } else { String::new() },
        name: key.name.to_string(),
        cluster_uid: cluster_uid.to_owned(),
        since: Time(Timestamp::now()),
        why: format!("WrapperDeleted: {key}"),
    }
}

/// Adds tombstones to a list: once each, sorted, at most what a ledger holds; false if some did not fit.
pub(super) fn add(entries: &mut Vec<Tombstone>, new: Vec<Tombstone>) -> bool {
    let mut all_fit = true;
    for entry in new {
        if entries.iter().any(|e| e.object_uid == entry.object_uid) {
            continue;
        }
        if entries.len() >= MAX_ENTRIES {
            all_fit = false;
            continue;
        }
        entries.push(entry);
    }
    entries.sort_by(|a, b| {
        (&a.kind, &a.namespace, &a.name, &a.object_uid).cmp(&(&b.kind, &b.namespace, &b.name, &b.object_uid))
    });
    all_fit
}

/// Writes a member's ledger, or deletes it when it is empty.
pub(super) async fn write(
    hub: Client,
    cluster: &ClusterName,
    entries: Vec<Tombstone>,
) -> Result<(), CallError> {
    let api: Api<MemberLedger> = Api::all(hub);
    if entries.is_empty() {
        return match within(call::WRITE, api.delete(cluster.as_str(), &DeleteParams::default())).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        };
    }
    let body = json!({
        "apiVersion": "meridian.io/v1alpha1",
        "kind": "MemberLedger",
        "metadata": {"name": cluster.as_str()},
        "spec": MemberLedgerSpec { entries },
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    within(call::WRITE, api.patch(cluster.as_str(), &params, &Patch::Apply(&body))).await.map(|_| ())
}

/// Removes what a ledger names from its member; gives the entries that are still to be done. Entries of another
/// cluster at the same address are dropped: what they name is not there.
pub(super) async fn execute(member: Client, cluster_uid: &str, entries: Vec<Tombstone>) -> Vec<Tombstone> {
    let mut left = Vec::new();
    for entry in entries {
        if entry.cluster_uid != cluster_uid {
            tracing::info!(object = %entry.name, kind = %entry.kind, "Tombstone of another cluster dropped");
            continue;
        }
        match remove(member.clone(), &entry).await {
            Ok(()) => tracing::info!(object = %entry.name, kind = %entry.kind, "Tombstone executed"),
            Err(error) => {
                tracing::warn!(object = %entry.name, kind = %entry.kind, error = %error.message(), "Cannot execute tombstone");
                left.push(entry);
            }
        }
    }
    left
}

async fn remove(member: Client, entry: &Tombstone) -> Result<(), CallError> {
    let (group, version) = entry.api_version.split_once('/').unwrap_or(("", &entry.api_version));
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: TypeMeta { api_version: entry.api_version.clone(), kind: entry.kind.clone() }
            .api_version,
        kind: entry.kind.clone(),
        plural: entry.plural.clone(),
    };
    let api: Api<PartialObjectMeta<DynamicObject>> = if entry.namespace.is_empty() {
        Api::all_with(member, &resource)
    } else {
        Api::namespaced_with(member, &entry.namespace, &resource)
    };
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions { uid: Some(entry.object_uid.clone()), resource_version: None }),
        ..DeleteParams::default()
    };
    match within(call::WRITE, api.delete(&entry.name, &params)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::add;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use meridian_api::member_ledger::{MAX_ENTRIES, Tombstone};

    fn entry(name: &str) -> Tombstone {
        Tombstone {
            object_uid: format!("uid-{name}"),
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            plural: "configmaps".into(),
            namespace: "shop".into(),
            name: name.into(),
            cluster_uid: "c".into(),
            since: Time(Timestamp::UNIX_EPOCH),
            why: String::new(),
        }
    }

    #[test]
    fn a_tombstone_is_noted_once_and_in_order() {
        let mut list = vec![];
        assert!(add(&mut list, vec![entry("b"), entry("a"), entry("b")]));
        assert_eq!(list.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_full_ledger_says_so() {
        let mut list = vec![];
        let many = (0..MAX_ENTRIES).map(|i| entry(&i.to_string())).collect();
        assert!(add(&mut list, many));
        assert!(!add(&mut list, vec![entry("one more")]));
        assert_eq!(list.len(), MAX_ENTRIES);
    }
}
