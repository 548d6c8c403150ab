//! Step 2: DNS.

use super::{PLACES, answered, load_balancer};
use crate::walkthrough::clients::{GERMANY, HOST, IOWA, SERVICE, TAIWAN, dig};
use crate::walkthrough::{PATIENCE, Story};

pub(in crate::walkthrough) async fn play(story: &mut Story) -> anyhow::Result<()> {
    let bed = &story.bed;
    for ((member, site), client) in PLACES.into_iter().zip([TAIWAN, GERMANY, IOWA]) {
        let edge = bed.site(site).address();
        let cluster = load_balancer(bed, member).await?;
        // Any of the name servers gives the same answers: the place that counts is the client's.
        for server in bed.sites() {
            answered(server, HOST, client, edge, PATIENCE).await?;
            answered(server, SERVICE, client, cluster, PATIENCE).await?;
            for name in [HOST, SERVICE] {
                let scope = dig(server, name, client).await?.scope;
                anyhow::ensure!(scope.is_some_and(|s| s > 0), "{name} for {client} has ECS scope {scope:?}");
            }
        }
        story.say(format!("{client:<13} {HOST} -> {edge}, {SERVICE} -> {cluster}"));
    }
    levels(story).await?;
    negative(story).await
}

/// KubeFed's region and zone levels name a place, wherever the client is.
async fn levels(story: &Story) -> anyhow::Result<()> {
    let bed = &story.bed;
    let server = bed.site("america");
    for (member, _) in PLACES {
        let cluster = load_balancer(bed, member).await?;
        let zone = if member == "europe-west1" { "b" } else { "a" };
        for place in [member.to_owned(), format!("{member}-{zone}.{member}")] {
            let name = format!("web.shop.fed.svc.{place}.global.example.org");
            answered(server, &name, IOWA, cluster, PATIENCE).await?;
        }
    }
    story.say("KubeFed's names answer at region and zone level too");
    Ok(())
}

/// What does not exist, and what exists without addresses.
async fn negative(story: &Story) -> anyhow::Result<()> {
    let server = story.bed.site("asia");
    for (name, status) in [
        ("nothing.global.example.org", "NXDOMAIN"),
        // An empty non-terminal: names exist below it.
        ("shop.fed.svc.global.example.org", "NOERROR"),
        ("elsewhere.example.com", "REFUSED"),
    ] {
        let answer = dig(server, name, TAIWAN).await?;
        anyhow::ensure!(answer.status == status && answer.addresses.is_empty(), "{name}: {answer:?}");
    }
    story.say("Unknown names are NXDOMAIN, empty non-terminals NOERROR, foreign zones REFUSED");
    Ok(())
}
