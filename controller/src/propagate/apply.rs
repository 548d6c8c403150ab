//! One write to one member.

use std::sync::Arc;

use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::{Api, Client};
use meridian_api::names::{
    APPLIED_HASH_ANNOTATION, FIELD_MANAGER, MANAGED_FALSE, MANAGED_LABEL, MANAGED_TRUE,
};
use meridian_core::place::Desired;
use serde_json::{Value, json};

use super::facts::{Fact, Shapes};
use super::{Key, Kind};
use crate::call::{self, CallError, within};

/// Manager of fields that only an object's first version sets.
const INITIAL_MANAGER: &str = "meridian-initial";

/// What to do about one object in one member.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Job {
    /// Make it so.
    Apply {
        desired: Desired,
        /// Whether a managed object is there: then it is ours, and conflicts are settled for us.
        exists: bool,
        /// Whether an object that is there without being managed is taken over.
        adopts: bool,
    },
    /// Delete the object with this UID.
    Delete { uid: Arc<str> },
    /// Remove our marks from the object with this UID.
    Unlabel { uid: Arc<str> },
}

/// How a write ended well.
#[derive(Clone, Debug)]
pub(super) enum Done {
    /// The object is as wanted; this is what it is now.
    Written(Fact),
    /// Its deletion has begun; its watch will say when it is gone.
    Deleting,
    /// It is gone, or no longer ours.
    Gone,
}

/// How a write failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// KubeFed's word.
    pub(super) status: &'static str,
    /// For people.
    pub(super) message: String,
    /// Whether trying again may help although nothing changes.
    pub(super) retry: bool,
}

/// Performs one job.
pub(super) async fn perform(
    client: Client,
    kind: &Kind,
    key: &Key,
    job: &Job,
    shapes: &Shapes,
) -> Result<Done, Fault> {
    let api: Api<PartialObjectMeta<DynamicObject>> = if kind.target.is_namespaced {
        Api::namespaced_with(client, &key.namespace, &kind.resource)
    } else {
        Api::all_with(client, &kind.resource)
    };
    match job {
        Job::Apply { desired, exists, adopts } => apply(&api, key, desired, *exists, *adopts, shapes).await,
        Job::Delete { uid } => delete(&api, key, uid).await,
        Job::Unlabel { uid } => unlabel(&api, key, uid).await,
    }
}

async fn apply(
    api: &Api<PartialObjectMeta<DynamicObject>>,
    key: &Key,
    desired: &Desired,
    exists: bool,
    adopts: bool,
    shapes: &Shapes,
) -> Result<Done, Fault> {
    let failed = |error: CallError| write_fault(&error, exists);
    if !exists && !adopts {
        // Without a look first, an object without conflicting fields would be taken over silently.
        if let Some(there) = within(call::WRITE, api.get_opt(&key.name)).await.map_err(failed)?
            && label(&there) != Some(MANAGED_TRUE)
        {
            return Err(not_ours(&there));
        }
    }
    if let Some(initial) = desired.initial.as_ref().filter(|_| !exists) {
        patch(api, key, INITIAL_MANAGER, initial, false).await.map_err(failed)?;
    }
    let written = match patch(api, key, FIELD_MANAGER, &desired.object, exists).await {
        // First contact with an object that others own in part.
        Err(error) if error.is_conflict() && !exists => {
            let there = within(call::WRITE, api.get_opt(&key.name)).await.map_err(failed)?;
            if there.as_ref().and_then(label) == Some(MANAGED_FALSE) {
                return Err(managed_false());
            }
            if !adopts {
                return Err(Fault { status: "AlreadyExists", message: error.message(), retry: false });
            }
            patch(api, key, FIELD_MANAGER, &desired.object, true).await.map_err(failed)?
        }
        result => result.map_err(failed)?,
    };
    if desired.initial.is_some() && !exists {
        // From here on the first version's manager holds only the fields that are the member's.
        let rest = json!({
            "apiVersion": desired.object["apiVersion"],
            "kind": desired.object["kind"],
            "metadata": {"name": &*key.name},
            "spec": {"replicas": desired.initial.as_ref().and_then(|i| i.pointer("/spec/replicas"))},
        });
        patch(api, key, INITIAL_MANAGER, &rest, false).await.map_err(failed)?;
    }
    Ok(Done::Written(Fact::of(&written.metadata, shapes)))
}

async fn patch(
    api: &Api<PartialObjectMeta<DynamicObject>>,
    key: &Key,
    manager: &str,
    object: &Value,
    force: bool,
) -> Result<PartialObjectMeta<DynamicObject>, CallError> {
    let params = PatchParams { force, ..PatchParams::apply(manager) };
    // Only metadata comes back: the answer to a thousand writes a second should not be a thousand objects.
    within(call::WRITE, api.patch(&key.name, &params, &Patch::Apply(object))).await
}

async fn delete(api: &Api<PartialObjectMeta<DynamicObject>>, key: &Key, uid: &str) -> Result<Done, Fault> {
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::default()
    };
    match within(call::WRITE, api.delete(&key.name, &params)).await {
        Ok(answer) => Ok(if answer.is_left() { Done::Deleting } else { Done::Gone }),
        // Not there, or another object of that name, which is not ours to delete.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(Done::Gone),
        Err(error) => Err(fault(&error, "DeletionFailed", "DeletionTimedOut")),
    }
}

async fn unlabel(api: &Api<PartialObjectMeta<DynamicObject>>, key: &Key, uid: &str) -> Result<Done, Fault> {
    let body = json!({"metadata": {
        "uid": uid,
        "labels": {MANAGED_LABEL: null},
        "annotations": {APPLIED_HASH_ANNOTATION: null},
    }});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    match within(call::WRITE, api.patch(&key.name, &params, &Patch::Merge(&body))).await {
        Ok(_) => Ok(Done::Gone),
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(Done::Gone),
        Err(error) => Err(fault(&error, "LabelRemovalFailed", "LabelRemovalTimedOut")),
    }
}

fn label(object: &PartialObjectMeta<DynamicObject>) -> Option<&str> {
    object.metadata.labels.as_ref()?.get(MANAGED_LABEL).map(String::as_str)
}

fn managed_false() -> Fault {
    let message = format!("the object in the member carries {MANAGED_LABEL}={MANAGED_FALSE}");
    Fault { status: "ManagedLabelFalse", message, retry: false }
}

fn not_ours(there: &PartialObjectMeta<DynamicObject>) -> Fault {
    if label(there) == Some(MANAGED_FALSE) {
        return managed_false();
    }
    let message = "the object exists in the member and adoptResources is Disabled".to_owned();
    Fault { status: "AlreadyExists", message, retry: false }
}

fn write_fault(error: &CallError, exists: bool) -> Fault {
    if exists {
        fault(error, "UpdateFailed", "UpdateTimedOut")
    } else {
        fault(error, "CreationFailed", "CreationTimedOut")
    }
}

fn fault(error: &CallError, failed: &'static str, timed_out: &'static str) -> Fault {
    let status = if matches!(error, CallError::Deadline { .. }) { timed_out } else { failed };
    Fault { status, message: error.message(), retry: error.retry() }
}
