//! Step 6: the controller cannot see a member's API server; traffic does not care.

use super::join::is_true;
use super::{SHOP, patch_shop, wait_object};
use crate::bed::HUB;
use crate::walkthrough::Story;
use crate::walkthrough::clients::{HOST, load, without_failure};

const LOST: &str = "europe-west1";

pub(in crate::walkthrough) async fn play(story: &mut Story) -> anyhow::Result<()> {
    let bed = &story.bed;
    let member = bed.member(LOST);
    let requests = load(bed, "europe", HOST, 200)?;
    member.proxy.stall();
    let what = format!("membercluster/{LOST}");
    wait_object(bed, HUB, &what, "unreachable", |object| (!is_true(object, "Ready")).then_some(())).await?;
    // Somebody edits in the member while nobody looks.
    let drift = [
        "--namespace",
        SHOP,
        "patch",
        "configmap/page",
        "--type=merge",
        "--patch",
        r#"{"data":{"title":"drift"}}"#,
    ];
    bed.kubectl(LOST, &drift).await?;
    member.proxy.heal();
    title(story, "Shop in der Nähe").await?;
    let sum = without_failure(requests).await?;
    anyhow::ensure!(sum.share(LOST) == 1.0, "traffic moved: {:?}", sum.by_cluster);
    story.say(format!(
        "Its status said unreachable, {} requests stayed, drift was repaired on return",
        sum.sent
    ));

    member.cluster.stop_api()?;
    let edit = |title: &str| {
        format!(
            r#"{{"spec":{{"overrides":[{{"clusterName":"{LOST}","clusterOverrides":[{{"path":"/data/title","value":"{title}"}}]}}]}}}}"#
        )
    };
    patch_shop(bed, "federatedconfigmap/page", &edit("Neu")).await?;
    // The others do not wait for the one that is away.
    wait_object(bed, HUB, "federatedconfigmap/page", "two clusters well, one not", |object| {
        let clusters = object.pointer("/status/clusters")?.as_array()?;
        let failed = clusters
            .iter()
            .filter(|c| c.get("status").and_then(|s| s.as_str()).is_some_and(|s| !s.is_empty()));
        (failed.count() == 1).then_some(())
    })
    .await?;
    member.cluster.start_api().await?;
    title(story, "Neu").await?;
    patch_shop(bed, "federatedconfigmap/page", &edit("Shop in der Nähe")).await?;
    title(story, "Shop in der Nähe").await?;
    wait_object(bed, HUB, &what, "Ready", |object| is_true(object, "Ready").then_some(())).await?;
    story.say("An edit made while the API server was stopped was delivered when it came back");
    Ok(())
}

async fn title(story: &Story, expected: &str) -> anyhow::Result<()> {
    wait_object(&story.bed, LOST, "configmap/page", expected, |object| {
        (object.pointer("/data/title")?.as_str()? == expected).then_some(())
    })
    .await
}
