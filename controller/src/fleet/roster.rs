//! The fleet read once, for programs that look at it and end: names, labels, and a client each.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use meridian_api::kubefed::KubeFedCluster;
use meridian_api::member_cluster::MemberCluster;

use super::connect::{self, Malformed, SecretData, Usable};
use crate::call::{self, CallError, within};

/// A member as the hub describes it.
pub struct Enlisted {
    /// Its name.
    pub name: String,
    /// Labels of the hub's object.
    pub labels: BTreeMap<String, String>,
    /// A client, or why there is none.
    pub client: Result<Client, String>,
}

impl std::fmt::Debug for Enlisted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enlisted").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads all members, sorted by name. A MemberCluster beats a KubeFedCluster of its name.
///
/// # Errors
/// If the hub's lists cannot be read; a member whose Secret cannot be read has no client instead.
pub async fn roster(hub: &Client, kubefed_namespace: &str) -> Result<Vec<Enlisted>, CallError> {
    let ours: Api<MemberCluster> = Api::all(hub.clone());
    let theirs: Api<KubeFedCluster> = Api::namespaced(hub.clone(), kubefed_namespace);
    let mut members: BTreeMap<String, Enlisted> = BTreeMap::new();
    for object in within(call::LIST, theirs.list(&ListParams::default())).await? {
        let secret = secret(hub, kubefed_namespace, &object.spec.secret_ref.name).await;
        let usable = secret.map(|data| connect::of_kubefed(&object.spec, data.as_ref()));
        enlist(&mut members, object.name_any(), object.labels().clone(), usable).await;
    }
    for object in within(call::LIST, ours.list(&ListParams::default())).await? {
        let connection = &object.spec.connection;
        let at = match (&connection.secret_ref, &connection.endpoint) {
            (Some(at), _) => Some((&at.namespace, &at.name)),
            (None, Some(endpoint)) => {
                Some((&endpoint.token_secret_ref.namespace, &endpoint.token_secret_ref.name))
            }
            (None, None) => None,
        };
        let secret = match at {
            Some((namespace, name)) => secret(hub, namespace, name).await,
            None => Ok(None),
        };
        let usable = secret.map(|data| connect::of_member(connection, data.as_ref()));
        enlist(&mut members, object.name_any(), object.labels().clone(), usable).await;
    }
    Ok(members.into_values().collect())
}

async fn secret(hub: &Client, namespace: &str, name: &str) -> Result<Option<SecretData>, CallError> {
    let api: Api<Secret> = Api::namespaced(hub.clone(), namespace);
    Ok(within(call::WRITE, api.get_opt(name)).await?.map(|s| s.data.unwrap_or_default()))
}

async fn enlist(
    members: &mut BTreeMap<String, Enlisted>,
    name: String,
    labels: BTreeMap<String, String>,
    usable: Result<Result<Usable, Malformed>, CallError>,
) {
    let client = match usable {
        Ok(Ok(usable)) => connect::client(usable).await.map_err(|e| e.to_string()),
        Ok(Err(fault)) => Err(fault.to_string()),
        Err(error) => Err(error.message()),
    };
    members.insert(name.clone(), Enlisted { name, labels, client });
}
