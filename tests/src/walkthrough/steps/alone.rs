//! Step 8: the edges without controller and hub.

use std::time::Instant;

use super::cut::{PROMISE, SLACK};
use super::{PLACES, answered, at_home, load_balancer, ms, routed};
use crate::site::VIP;
use crate::walkthrough::clients::{HOST, SERVICE, TAIWAN, curl, load, without_failure};
use crate::walkthrough::{PATIENCE, Story};

pub(in crate::walkthrough) async fn play(story: &mut Story) -> anyhow::Result<()> {
    let bed = std::sync::Arc::clone(&story.bed);
    let next = load_balancer(&bed, "us-central1").await?;
    let requests = load(&bed, "asia", HOST, 200)?;
    story.product.stop_controller().await?;
    bed.hub().stop_api()?;
    at_home(story).await?;
    let sum = without_failure(requests).await?;
    story.say(format!("Without controller and hub: {} requests, none failed", sum.sent));

    for (_, site) in PLACES {
        story.product.stop_edge(site).await?;
    }
    for (_, site) in PLACES {
        story.product.start_edge(&bed, site)?;
    }
    let started = Instant::now();
    at_home(story).await?;
    story.say(format!("Edges restarted and answering from last-good after {}", ms(started.elapsed())));

    let requests = load(&bed, "asia", HOST, 200)?;
    let asia = bed.site("asia");
    bed.member("asia-east1").partition_pods()?;
    let cut = Instant::now();
    let page = curl(Some(asia), VIP, Some(HOST)).await?;
    anyhow::ensure!(page.cluster == "us-central1", "Asia's pods are cut off, yet {page:?}");
    answered(asia, SERVICE, TAIWAN, next, PROMISE + SLACK).await?;
    story
        .say(format!("Asia's pods cut off: the route moved at once, the answer after {}", ms(cut.elapsed())));
    bed.member("asia-east1").heal_pods()?;
    routed(asia, "asia-east1", PATIENCE).await?;
    let sum = without_failure(requests).await?;
    story.say(format!("They are back; {} requests, none failed, by {:?}", sum.sent, sum.by_cluster));

    bed.hub().start_api().await?;
    story.product.start_controller(&bed)?;
    at_home(story).await
}
