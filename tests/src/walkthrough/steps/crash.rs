//! Step 9: kill -9 in the middle of propagation, and silence afterwards.

use std::time::{Duration, Instant};

use super::{PLACES, SHOP};
use crate::audit::Write;
use crate::bed::{Bed, HUB};
use crate::wait::wait_until;
use crate::walkthrough::{PATIENCE, Story};

const OBJECTS: usize = 200;
/// How long the members' API servers must see no write of ours.
const QUIET: Duration = Duration::from_secs(10);

pub(in crate::walkthrough) async fn play(story: &mut Story) -> anyhow::Result<()> {
    let bed = std::sync::Arc::clone(&story.bed);
    let applying = tokio::spawn({
        let bed = std::sync::Arc::clone(&bed);
        async move { bed.apply(HUB, &manifests()).await }
    });
    wait_until("some of the objects to have arrived", PATIENCE, async || {
        Ok(arrived(&bed, "asia-east1").await?.filter(|count| *count > OBJECTS / 4))
    })
    .await?;
    story.product.kill_controller()?;
    let at_kill = arrived(&bed, "asia-east1").await?.unwrap_or_default();
    anyhow::ensure!(at_kill < OBJECTS, "all objects had arrived before the kill");
    applying.await??;
    story.say(format!("Killed with {at_kill} of {OBJECTS} objects in Asia; the rest were applied meanwhile"));
    let start = Instant::now();
    story.product.start_controller(&bed)?;
    for (member, _) in PLACES {
        wait_until(format!("all {OBJECTS} objects in {member}"), PATIENCE, async || {
            let count = arrived(&bed, member).await?.unwrap_or_default();
            anyhow::ensure!(count == OBJECTS, "{count} are there");
            Ok(Some(()))
        })
        .await?;
    }
    story.say(format!("All converged {} ms after the restart", start.elapsed().as_millis()));
    quiet(&bed).await?;
    story.say(format!("Then {QUIET:?} without one write at the members' API servers"));
    bed.kubectl(HUB, &["--namespace", SHOP, "delete", "federatedconfigmap", "--selector=story=crash"])
        .await?;
    for (member, _) in PLACES {
        wait_until(format!("the objects to be gone from {member}"), PATIENCE, async || {
            Ok((arrived(&bed, member).await? == Some(0)).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Objects of this step in a member.
async fn arrived(bed: &Bed, member: &str) -> anyhow::Result<Option<usize>> {
    let arguments = ["--namespace", SHOP, "get", "configmap", "--selector=story=crash", "--output=name"];
    Ok(Some(bed.kubectl(member, &arguments).await?.lines().count()))
}

/// Waits for a stretch of silence: converging may still end in a last status or token.
async fn quiet(bed: &Bed) -> anyhow::Result<()> {
    let ours = |user: &str| user.contains("meridian");
    wait_until(format!("{QUIET:?} without a write"), PATIENCE, async || {
        let logs: Vec<_> = PLACES.iter().map(|(member, _)| bed.member(member).cluster.audit()).collect();
        let marks = logs.iter().map(|log| log.mark()).collect::<anyhow::Result<Vec<_>>>()?;
        tokio::time::sleep(QUIET).await;
        let mut writes: Vec<Write> = Vec::new();
        for (log, mark) in logs.iter().zip(marks) {
            writes.extend(log.writes_since(mark, ours)?);
        }
        anyhow::ensure!(writes.is_empty(), "writes: {writes:?}");
        Ok(Some(()))
    })
    .await
}

fn manifests() -> String {
    let one = |index: usize| {
        format!(
            "apiVersion: types.kubefed.io/v1beta1\n\
             kind: FederatedConfigMap\n\
             metadata: {{name: crash-{index}, namespace: {SHOP}, labels: {{story: crash}}}}\n\
             spec:\n\
             \x20 template: {{metadata: {{labels: {{story: crash}}}}, data: {{index: \"{index}\"}}}}\n\
             \x20 placement: {{clusterSelector: {{}}}}\n"
        )
    };
    (0..OBJECTS).map(one).collect::<Vec<_>>().join("---\n")
}
