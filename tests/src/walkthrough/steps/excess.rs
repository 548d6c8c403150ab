//! Step 5: capacity.

use super::{SHOP, at_home};
use crate::bed::HUB;
use crate::load::{Tally, total};
use crate::wait::wait_until;
use crate::walkthrough::clients::{HOST, load, without_failure};
use crate::walkthrough::{PATIENCE, Story};

/// Requests per second that each of Europe's three endpoints declares.
const PER_ENDPOINT: u32 = 40;
/// Requests per second of each of the two sites: together 150 % of the limit.
const PER_SITE: u32 = 90;
/// Seconds that are judged, once the shares stand.
const JUDGED: usize = 10;
/// Seconds that must look right before that.
const SETTLED: usize = 3;
/// How far from the declared limit the served rate may be.
const TOLERANCE: f64 = 0.1;

pub(in crate::walkthrough) async fn play(story: &mut Story) -> anyhow::Result<()> {
    let bed = &story.bed;
    // America's own cluster is drained, so that two sites have Europe as their nearest.
    traffic(story, r#"{"spec":{"traffic":{"drain":true}}}"#).await?;
    bed.apply(HUB, &policy()).await?;
    let (europe, america) = (load(bed, "europe", HOST, PER_SITE)?, load(bed, "america", HOST, PER_SITE)?);
    let limit = f64::from(PER_ENDPOINT * 3);
    // Demand is averaged over three seconds, so the shares settle first; what follows is judged as it comes.
    wait_until(format!("Europe's load to settle at {limit}/s"), PATIENCE, async || {
        let (first, second) = (europe.seconds(), america.seconds());
        anyhow::ensure!(first.len().min(second.len()) > SETTLED, "the load has only begun");
        let sum = window(&first, &second, None, SETTLED);
        let rate = rate(&sum, "europe-west1", SETTLED);
        anyhow::ensure!((rate / limit - 1.0).abs() < TOLERANCE, "Europe gets {rate:.0}/s: {sum:?}");
        Ok(Some(()))
    })
    .await?;
    let settled = europe.seconds().len().max(america.seconds().len());
    let judged = wait_until(format!("{JUDGED} more seconds"), PATIENCE, async || {
        let (first, second) = (europe.seconds(), america.seconds());
        let is_over = first.len().min(second.len()) >= settled + JUDGED;
        Ok(is_over.then(|| window(&first, &second, Some(settled), JUDGED)))
    })
    .await?;
    let served = rate(&judged, "europe-west1", JUDGED);
    anyhow::ensure!((served / limit - 1.0).abs() < TOLERANCE, "Europe served {served:.0}/s: {judged:?}");
    anyhow::ensure!(!judged.by_cluster.contains_key("us-central1"), "a drained cluster served: {judged:?}");
    story.say(format!(
        "Limit {limit}/s, demand {}/s: Europe serves {:.0}/s, Asia the excess of {:.0}/s",
        PER_SITE * 2,
        served,
        rate(&judged, "asia-east1", JUDGED),
    ));
    without_failure(europe).await?;
    without_failure(america).await?;
    bed.kubectl(HUB, &["--namespace", SHOP, "delete", "trafficpolicy/limits"]).await?;
    traffic(story, r#"{"spec":{"traffic":{"drain":false}}}"#).await?;
    at_home(story).await
}

/// `length` seconds of both sites, from second `start` or else the last ones.
fn window(first: &[Tally], second: &[Tally], start: Option<usize>, length: usize) -> Tally {
    let part = |seconds: &[Tally]| {
        let start = start.unwrap_or(seconds.len().saturating_sub(length)).min(seconds.len());
        total(&seconds[start..(start + length).min(seconds.len())])
    };
    let mut sum = part(first);
    sum.add(&part(second));
    sum
}

/// Requests per second that a cluster answered.
fn rate(sum: &Tally, cluster: &str, seconds: usize) -> f64 {
    sum.share(cluster) * sum.ok as f64 / seconds as f64
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
