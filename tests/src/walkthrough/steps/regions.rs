//! Step 3: pages say where they come from.

use super::PLACES;
use crate::walkthrough::Story;
use crate::walkthrough::clients::{GERMANY, HOST, IOWA, TAIWAN, curl, dig};

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
    }
    Ok(())
}
