//! Step 5: capacity.

use super::{SHOP, at_home};
use crate::bed::HUB;
use crate::load::{Tally, total};
use crate::wait::wait_until;
use crate::walkthrough::clients::{HOST, load};
use crate::walkthrough::{PATIENCE, Story};

/// Requests per second that each of Europe's three endpoints declares.
const PER_ENDPOINT: u32 = 40;
/// Requests per second of each of the two sites: together 150 % of the limit.
const PER_SITE: u32 = 90;
/// Seconds that are judged, once the shares stand.
const JUDGED: usize = 10;

pub(in crate::walkthrough) async fn play(story: &mut Story) -> anyhow::Result<()> {
    let bed = &story.bed;
    // America's own cluster is drained, so that two sites have Europe as their nearest.
    traffic(story, r#"{"spec":{"traffic":{"drain":true}}}"#).await?;
    bed.apply(HUB, &policy()).await?;
    let (europe, america) = (load(bed, "europe", HOST, PER_SITE)?, load(bed, "america", HOST, PER_SITE)?);
    let limit = f64::from(PER_ENDPOINT * 3);
    let judged =
        wait_until(format!("{JUDGED} s in which Europe gets {limit}/s and no more"), PATIENCE, async || {
            let (first, second) = (europe.seconds(), america.seconds());
            let last = |seconds: &[Tally]| {
                total(seconds.get(seconds.len().saturating_sub(JUDGED)..).unwrap_or_default())
            };
            let mut sum = last(&first);
            sum.add(&last(&second));
            let rate = sum.share("europe-west1") * sum.ok as f64 / JUDGED as f64;
            let is_long_enough = first.len() > JUDGED && second.len() > JUDGED;
            anyhow::ensure!(
                is_long_enough && (rate / limit - 1.0).abs() < 0.1,
                "Europe gets {rate:.0}/s: {sum:?}"
            );
            Ok(Some(sum))
        })
        .await?;
    anyhow::ensure!(judged.failed() == 0, "requests failed: {judged:?}");
    anyhow::ensure!(!judged.by_cluster.contains_key("us-central1"), "a drained cluster served: {judged:?}");
    let rate = |cluster: &str| judged.share(cluster) * judged.ok as f64 / JUDGED as f64;
    story.say(format!(
        "Limit {limit}/s, demand {}/s: Europe serves {:.0}/s, Asia the excess of {:.0}/s",
        PER_SITE * 2,
        rate("europe-west1"),
        rate("asia-east1"),
    ));
    europe.stop().await?;
    america.stop().await?;
    bed.kubectl(HUB, &["--namespace", SHOP, "delete", "trafficpolicy/limits"]).await?;
    traffic(story, r#"{"spec":{"traffic":{"drain":false}}}"#).await?;
    at_home(story).await
}

async fn traffic(story: &Story, patch: &str) -> anyhow::Result<()> {
    let arguments = ["patch", "membercluster/us-central1", "--type=merge", "--patch", patch];
    story.bed.kubectl(HUB, &arguments).await?;
    Ok(())
}

fn policy() -> String {
    format!(
        "apiVersion: meridian.io/v1alpha1\n\
         kind: TrafficPolicy\n\
         metadata: {{name: limits, namespace: {SHOP}}}\n\
         spec:\n\
         \x20 targetRefs: [{{group: types.kubefed.io, kind: FederatedService, name: web}}]\n\
         \x20 capacity:\n\
         \x20   perCluster: [{{cluster: europe-west1, maxRatePerEndpoint: {PER_ENDPOINT}}}]\n"
    )
}
