//! Meridian on a bed, as every benchmark starts it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use meridian_tests::bed::{Bed, HUB};
use meridian_tests::wait::wait_until;
use meridian_tests::walkthrough::product::Product;

/// How long anything may take that is not itself measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Starts the controller and the edges of all sites, and joins all members, each directly: not through the bed's
/// proxies, whose work would be counted among the machine's.
///
/// # Errors
/// With the process that did not start or the member that did not join.
pub(crate) async fn start(bed: &Bed) -> anyhow::Result<Product> {
    let product = Product::start(bed).await?;
    let clusters = dynamic(bed.hub().client(), "meridian.io", "v1alpha1", "MemberCluster", None);
    wait_until("the controller to install its definitions", PATIENCE, async || {
        Ok(clusters.list(&Default::default()).await.map(Some)?)
    })
    .await?;
    for member in bed.members() {
        // More than once: an API server refuses reads of a kind whose definition is younger than a moment.
        wait_until(format!("{} to join", member.name()), PATIENCE, async || {
            join(bed, member.name()).await.map(Some)
        })
        .await?;
    }
    wait_until("every member to be Ready", PATIENCE, async || {
        let all = clusters.list(&Default::default()).await?;
        Ok((all.items.len() == bed.members().len() && all.iter().all(is_ready)).then_some(()))
    })
    .await?;
    Ok(product)
}

/// The objects of a kind that has no Rust type here.
#[must_use]
pub(crate) fn dynamic(
    client: kube::Client,
    group: &str,
    version: &str,
    kind: &str,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

async fn join(bed: &Bed, member: &str) -> anyhow::Result<()> {
    let kubeconfig = bed.kubeconfig().display().to_string();
    let arguments = [
        "join",
        member,
        "--cluster-context",
        member,
        "--host-cluster-context",
        HUB,
        "--kubeconfig",
        &kubeconfig,
    ];
    let output = bed.call_binary("meridianctl", &arguments).await?;
    if !output.status.success() {
        bail!("meridianctl join {member}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Whether condition `Ready` is `True`.
fn is_ready(object: &DynamicObject) -> bool {
    let conditions = object.data.pointer("/status/conditions").and_then(serde_json::Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The controller's process id.
///
/// # Errors
/// When it does not run.
pub(crate) fn controller(product: &Product) -> anyhow::Result<u32> {
    product.controller_id().context("the controller does not run")
}
