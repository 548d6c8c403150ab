//! Step 4: a region without pods, a zone without pods.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};

use super::{PATIENCE, SHOP, answered, at_home, load_balancer, ms, scale};
use crate::site::VIP;
use crate::wait::wait_until;
use crate::walkthrough::Story;
use crate::walkthrough::clients::{HOST, SERVICE, TAIWAN, curl, load, without_failure};

/// What design.md promises from the EndpointSlice event to the changed answer and route.
const PROMISE: Duration = Duration::from_secs(1);

pub(in crate::walkthrough) async fn play(story: &mut Story) -> anyhow::Result<()> {
    region(story).await?;
    zone(story).await
}

async fn region(story: &Story) -> anyhow::Result<()> {
    let bed = &story.bed;
    let asia = bed.site("asia");
    let next = load_balancer(bed, "us-central1").await?;
    let home = load_balancer(bed, "asia-east1").await?;
    let requests = load(bed, "asia", HOST, 200)?;
    let gone = tokio::spawn(no_ready_endpoint(bed.member("asia-east1").cluster.client()));
    scale(bed, &[("asia-east1", 0)]).await?;
    let event = tokio::time::timeout(PATIENCE, gone).await???;
    let route = async {
        wait_until("the VIP in Asia to be served by us-central1", PROMISE, async || {
            let page = curl(Some(asia), VIP, Some(HOST)).await?;
            Ok((page.cluster == "us-central1").then(|| event.elapsed()))
        })
        .await
    };
    let answer = async {
        answered(asia, SERVICE, TAIWAN, next, PROMISE).await?;
        anyhow::Ok(event.elapsed())
    };
    let (route, answer) = tokio::try_join!(route, answer)?;
    anyhow::ensure!(route <= PROMISE && answer <= PROMISE, "route after {route:?}, answer after {answer:?}");
    story.say(format!("Asia has no pods: route {} and answer {} after the event", ms(route), ms(answer)));
    scale(bed, &[]).await?;
    answered(asia, SERVICE, TAIWAN, home, PATIENCE).await?;
    at_home(story).await?;
    let sum = without_failure(requests).await?;
    story.say(format!("Asia is home again; {} requests, none failed, by {:?}", sum.sent, sum.by_cluster));
    Ok(())
}

/// Waits for the event after which no endpoint of the shop takes traffic; returns when it came.
async fn no_ready_endpoint(client: Client) -> anyhow::Result<Instant> {
    let slices: Api<EndpointSlice> = Api::namespaced(client, SHOP);
    let config = watcher::Config::default().labels("kubernetes.io/service-name=web");
    let mut events = watcher(slices, config).applied_objects().boxed();
    while let Some(slice) = events.try_next().await? {
        let endpoints = slice.endpoints.unwrap_or_default();
        let takes_traffic = |ready: Option<bool>| ready != Some(false);
        if !endpoints.iter().any(|e| takes_traffic(e.conditions.as_ref().and_then(|c| c.ready))) {
            return Ok(Instant::now());
        }
    }
    anyhow::bail!("the watch ended")
}

async fn zone(story: &Story) -> anyhow::Result<()> {
    let bed = &story.bed;
    let dead = "europe-west1-c";
    let requests = load(bed, "europe", HOST, 200)?;
    wait_until("requests from every zone", PATIENCE, async || {
        let zones = requests.seconds().last().map_or(0, |second| second.by_zone.len());
        Ok((zones == 3).then_some(()))
    })
    .await?;
    bed.member("europe-west1").kubelet.kill_zone(dead).await?;
    let killed = requests.seconds().len();
    wait_until("three seconds served by the other zones alone", PATIENCE, async || {
        let seconds = requests.seconds();
        let after = seconds.get(killed..).unwrap_or_default();
        let is_clean = |s: &crate::load::Tally| !s.by_zone.contains_key(dead) && s.by_zone.len() == 2;
        Ok((after.len() >= 4 && after.iter().rev().take(3).all(is_clean)).then_some(()))
    })
    .await?;
    bed.member("europe-west1").kubelet.restore_zone(dead).await?;
    let sum = without_failure(requests).await?;
    anyhow::ensure!(sum.share("europe-west1") == 1.0, "some left Europe: {:?}", sum.by_cluster);
    story.say(format!("{dead} died: {} requests, none failed, all served in Europe", sum.sent));
    at_home(story).await
}
