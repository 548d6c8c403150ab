//! Step 1: join, propagate, one VIP.

use std::time::Instant;

use anyhow::Context as _;
use serde_json::Value;

use super::{PLACES, SHOP, object, routed, wait_object};
use crate::bed::HUB;
use crate::site::VIP;
use crate::wait::wait_until;
use crate::walkthrough::product::join;
use crate::walkthrough::{EDGES, PATIENCE, SHOP as MANIFESTS, Story, clients};

pub(in crate::walkthrough) async fn play(story: &mut Story) -> anyhow::Result<()> {
    let bed = &story.bed;
    wait_until("the controller to install its definitions", PATIENCE, async || {
        bed.kubectl(
            HUB,
            &["wait", "--for=condition=Established", "crd/memberclusters.meridian.io", "--timeout=1s"],
        )
        .await?;
        bed.kubectl(
            HUB,
            &[
                "wait",
                "--for=condition=Established",
                "crd/federatedingresses.types.kubefed.io",
                "--timeout=1s",
            ],
        )
        .await
        .map(Some)
    })
    .await?;
    for (member, _) in PLACES {
        let start = Instant::now();
        join(bed, member).await?;
        ready(story, member).await?;
        story.say(format!("{member} joined and Ready after {} ms", start.elapsed().as_millis()));
    }
    let start = Instant::now();
    bed.apply(HUB, EDGES).await?;
    bed.apply(HUB, MANIFESTS).await?;
    let (cert, key) = (
        format!("--cert={}", story.product.file("shop.crt")),
        format!("--key={}", story.product.file("shop.key")),
    );
    bed.kubectl(HUB, &["--namespace", SHOP, "create", "secret", "tls", "shop-tls", &cert, &key]).await?;
    for (member, _) in PLACES {
        propagated(story, member).await.with_context(|| format!("in {member}"))?;
    }
    story.say(format!(
        "Namespace, ConfigMap, Secret, Deployment, Service, Ingresses in all members, 9 pods Ready after {} ms",
        start.elapsed().as_millis()
    ));
    reported(story).await?;
    one_address(story).await
}

/// Waits until the hub says that the member is Ready, and what it learned of it.
async fn ready(story: &Story, member: &str) -> anyhow::Result<()> {
    let what = format!("membercluster/{member}");
    let status = wait_object(&story.bed, HUB, &what, "Ready", |object| {
        is_true(object, "Ready").then(|| object.get("status").cloned()).flatten()
    })
    .await?;
    let region = status.get("region").and_then(Value::as_str);
    anyhow::ensure!(region == Some(member), "region of {member} is {region:?}, not that of its nodes");
    let zones = status.get("zones").and_then(Value::as_array).map_or(0, Vec::len);
    anyhow::ensure!(zones == 3, "{member} has {zones} zones, not 3");
    let version = status.get("version").and_then(Value::as_str).unwrap_or_default();
    anyhow::ensure!(version.starts_with("v1."), "version of {member} is {version:?}");
    anyhow::ensure!(status.get("clusterUID").is_some(), "{member} has no clusterUID");
    Ok(())
}

/// Whether a condition of the object is True.
pub(super) fn is_true(object: &Value, condition: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| {
        c.get("type").and_then(Value::as_str) == Some(condition)
            && c.get("status").and_then(Value::as_str) == Some("True")
    })
}

async fn propagated(story: &Story, member: &str) -> anyhow::Result<()> {
    let bed = &story.bed;
    let title = wait_object(bed, member, "configmap/page", "its data", |object| {
        object.pointer("/data/title")?.as_str().map(str::to_owned)
    })
    .await?;
    let expected = if member == "europe-west1" { "Shop in der Nähe" } else { "Nearest shop" };
    anyhow::ensure!(title == expected, "the title is {title:?}, not {expected:?}");
    wait_object(bed, member, "secret/till", "its data", |object| object.pointer("/data/pin").cloned())
        .await?;
    wait_object(bed, member, "deployment/web", "3 replicas ready", |object| {
        (object.pointer("/status/readyReplicas")?.as_u64()? == 3).then_some(())
    })
    .await?;
    for ingress in ["ingress/web", "ingress/bare"] {
        wait_object(bed, member, ingress, "the one VIP in its status", |object| {
            let addresses = object.pointer("/status/loadBalancer/ingress")?.as_array()?;
            let ip = addresses.first()?.get("ip")?.as_str()?;
            (addresses.len() == 1 && ip == VIP.to_string()).then_some(())
        })
        .await?;
    }
    Ok(())
}

/// The hub's own report: each federated object says that it is in all members.
async fn reported(story: &Story) -> anyhow::Result<()> {
    for kind in
        ["configmap/page", "secret/till", "deployment/web", "service/web", "ingress/web", "ingress/bare"]
    {
        let what = format!("federated{kind}");
        wait_object(&story.bed, HUB, &what, "propagated to three clusters", |object| {
            let clusters = object.pointer("/status/clusters")?.as_array()?;
            let all_well = clusters.iter().all(|c| c.get("status").is_none_or(|s| s.as_str() == Some("")));
            (clusters.len() == 3 && all_well && is_true(object, "Propagation")).then_some(())
        })
        .await?;
    }
    let namespace = object(&story.bed, HUB, SHOP, "federatednamespace/shop").await?;
    anyhow::ensure!(is_true(&namespace, "Propagation"), "FederatedNamespace: {}", namespace["status"]);
    story.say("The hub's status of every federated object lists all three clusters");
    Ok(())
}

/// One address everywhere, served nearby: with the Ingress' host, and with any other.
async fn one_address(story: &Story) -> anyhow::Result<()> {
    for (member, site) in PLACES {
        let site = story.bed.site(site);
        routed(site, member, PATIENCE).await?;
        for host in [None, Some("anything.example.com")] {
            let page = clients::curl(Some(site), VIP, host).await?;
            anyhow::ensure!(
                page.cluster == member,
                "http://{VIP}/ in {} was served by {page:?}",
                site.name()
            );
        }
    }
    story.say(format!(
        "http://{VIP}/ is served by asia-east1 in Asia, us-central1 in Oregon, europe-west1 in Europe"
    ));
    Ok(())
}
