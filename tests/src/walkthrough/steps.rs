//! The nine steps. Each restores what it changed.

pub(super) mod alone;
pub(super) mod answers;
pub(super) mod crash;
pub(super) mod cut;
pub(super) mod excess;
pub(super) mod join;
pub(super) mod regions;
pub(super) mod scale;
pub(super) mod sight;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;

use super::{PATIENCE, Story, clients};
use crate::bed::Bed;
use crate::site::Site;
use crate::wait::wait_until;

/// The members, each with the site that lies in it.
const PLACES: [(&str, &str); 3] =
    [("asia-east1", "asia"), ("europe-west1", "europe"), ("us-central1", "america")];
/// Namespace of the shop.
const SHOP: &str = "shop";

/// An object as JSON, from kubectl.
async fn object(bed: &Bed, context: &str, namespace: &str, what: &str) -> anyhow::Result<Value> {
    let text = bed.kubectl(context, &["--namespace", namespace, "get", what, "--output=json"]).await?;
    serde_json::from_str(&text).with_context(|| format!("reading {what} of {context}"))
}

/// Waits until an object has what `look` finds in it.
async fn wait_object<T>(
    bed: &Bed,
    context: &str,
    what: &str,
    condition: &str,
    look: impl Fn(&Value) -> Option<T>,
) -> anyhow::Result<T> {
    wait_until(format!("{what} in {context}: {condition}"), PATIENCE, async || {
        let object = object(bed, context, SHOP, what).await?;
        look(&object)
            .map(Some)
            .with_context(|| format!("status: {}", object.get("status").unwrap_or(&Value::Null)))
    })
    .await
}

/// Scales the Deployment of the shop in one member by an override on the hub.
async fn scale(bed: &Bed, replicas: &[(&str, u32)]) -> anyhow::Result<()> {
    let overrides: Vec<Value> = replicas
        .iter()
        .map(|(cluster, count)| {
            serde_json::json!({
                "clusterName": cluster,
                "clusterOverrides": [{"path": "/spec/replicas", "value": count}],
            })
        })
        .collect();
    let patch = serde_json::json!({"spec": {"overrides": overrides}}).to_string();
    patch_shop(bed, "federateddeployment/web", &patch).await
}

/// Merge-patches an object of the shop on the hub.
async fn patch_shop(bed: &Bed, what: &str, patch: &str) -> anyhow::Result<()> {
    let arguments = ["--namespace", SHOP, "patch", what, "--type=merge", "--patch", patch];
    bed.kubectl(crate::bed::HUB, &arguments).await?;
    Ok(())
}

/// Address of the load balancer of the shop's Service in a member.
async fn load_balancer(bed: &Bed, member: &str) -> anyhow::Result<Ipv4Addr> {
    wait_object(bed, member, "service/web", "a load balancer address", |service| {
        service.pointer("/status/loadBalancer/ingress/0/ip")?.as_str()?.parse().ok()
    })
    .await
}

/// Waits until the name server of `site` answers `client` with `expected` first; returns how long that took.
async fn answered(
    site: &Site,
    name: &str,
    client: &str,
    expected: Ipv4Addr,
    within: Duration,
) -> anyhow::Result<Duration> {
    let start = Instant::now();
    wait_until(format!("{name} for {client} at {}: {expected}", site.name()), within, async || {
        let answer = clients::dig(site, name, client).await?;
        anyhow::ensure!(answer.addresses.first() == Some(&expected), "{answer:?}");
        Ok(Some(()))
    })
    .await?;
    Ok(start.elapsed())
}

/// Waits until the VIP of `site` is served by `cluster`; returns how long that took.
async fn routed(site: &Site, cluster: &str, within: Duration) -> anyhow::Result<Duration> {
    let start = Instant::now();
    wait_until(format!("{} to be served by {cluster}", site.name()), within, async || {
        let page = clients::curl(Some(site), crate::site::VIP, Some(clients::HOST)).await?;
        anyhow::ensure!(page.status == 200 && page.cluster == cluster, "{page:?}");
        Ok(Some(()))
    })
    .await?;
    Ok(start.elapsed())
}

/// Waits until every site is served by its own region and every name server answers with its own.
async fn at_home(story: &Story) -> anyhow::Result<()> {
    for (member, site) in PLACES {
        let place = story.bed.site(site);
        routed(place, member, PATIENCE).await?;
        let client = match site {
            "asia" => clients::TAIWAN,
            "europe" => clients::GERMANY,
            _ => clients::IOWA,
        };
        for server in story.bed.sites() {
            answered(server, clients::HOST, client, place.address(), PATIENCE).await?;
        }
        let address = load_balancer(&story.bed, member).await?;
        answered(place, clients::SERVICE, client, address, PATIENCE).await?;
    }
    Ok(())
}

/// Milliseconds, for people.
fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
