//! Step 3: pages say where they come from.

use std::net::Ipv4Addr;

use super::PLACES;
use crate::wait::wait_until;
use crate::walkthrough::clients::{GERMANY, HOST, IOWA, TAIWAN, curl, curl_tls, dig};
use crate::walkthrough::{PATIENCE, Story};

pub(in crate::walkthrough) async fn play(story: &mut Story) -> anyhow::Result<()> {
    for ((member, site), client) in PLACES.into_iter().zip([TAIWAN, GERMANY, IOWA]) {
        // As a browser does: resolve, then connect to what came back.
        let answer = dig(story.bed.site(site), HOST, client).await?;
        let address = *answer.addresses.first().ok_or_else(|| anyhow::anyhow!("{HOST}: {answer:?}"))?;
        let mut zones = std::collections::BTreeSet::new();
        for _ in 0..30 {
            let page = curl(None, address, Some(HOST)).await?;
            anyhow::ensure!(page.status == 200 && page.cluster == member, "{client} got {page:?}");
            zones.insert(page.zone);
        }
        anyhow::ensure!(zones.len() == 3, "30 pages of {member} came from {zones:?} only");
        story.say(format!("{client:<13} 30 pages, all by {member}, from {zones:?}"));
        secure(story, address, member).await?;
    }
    story.say(format!("https://{HOST}/ too, with the certificate of the hub's Secret"));
    Ok(())
}

/// The same over TLS: the edge has the certificate of the Ingress' Secret on the hub, by way of the feed.
async fn secure(story: &Story, address: Ipv4Addr, member: &str) -> anyhow::Result<()> {
    let authority = story.product.file("shop-ca.crt");
    wait_until(format!("https://{HOST}/ at {address}"), PATIENCE, async || {
        let page = curl_tls(address, HOST, &authority).await?;
        anyhow::ensure!(page.status == 200 && page.cluster == member, "{page:?}");
        Ok(Some(()))
    })
    .await
}
