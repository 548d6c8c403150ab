//! Step 7: a region is lost whole, and comes back.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{at_home, ms};
use crate::site::VIP;
use crate::wait::wait_until;
use crate::walkthrough::clients::{GERMANY, HOST, curl, dig, load, without_failure};
use crate::walkthrough::{PATIENCE, Story};

/// What design.md promises: three failed probes of 750 ms, and the answer that follows.
pub(super) const PROMISE: Duration = Duration::from_secs(3);
/// What the machine may add to that: processes of dig and curl on two busy cores.
pub(super) const SLACK: Duration = Duration::from_secs(1);

/// The failback hold that name servers and proxies have by default, less what a probe may have seen before.
const HOLD: Duration = Duration::from_secs(9);

pub(in crate::walkthrough) async fn play(story: &mut Story) -> anyhow::Result<()> {
    let bed = &story.bed;
    let (member, site) = (bed.member("europe-west1"), bed.site("europe"));
    let (asia, america) = (bed.site("asia"), bed.site("america"));
    let elsewhere = load(bed, "america", HOST, 100)?;
    let cut = Instant::now();
    member.partition_pods()?;
    member.proxy.stall();
    site.cut()?;
    // A client in Germany asks the name servers that are left, and connects to what they say.
    let landed = wait_until("a German client to land elsewhere", PROMISE + SLACK, async || {
        let answer = dig(asia, HOST, GERMANY).await?;
        let first = answer.addresses.first().copied().filter(|address| *address != site.address());
        let address = first.with_context(|| format!("{:?} after the cut: {answer:?}", cut.elapsed()))?;
        let page = curl(None, address, Some(HOST)).await?;
        anyhow::ensure!(page.status == 200, "{page:?} from {address}");
        Ok(Some((cut.elapsed(), address, page.cluster)))
    })
    .await?;
    let (took, address, cluster) = landed;
    anyhow::ensure!(address == america.address(), "Germany was sent to {address}, not to America");
    story.say(format!("A German client is at {address}, served by {cluster}, {} after the cut", ms(took)));
    let sum = without_failure(elsewhere).await?;
    story.say(format!("Meanwhile in America: {} requests, none failed", sum.sent));

    site.heal()?;
    member.proxy.heal();
    member.heal_pods()?;
    let healed = Instant::now();
    wait_until("Europe to serve its own again", PATIENCE, async || {
        let answer = dig(asia, HOST, GERMANY).await?;
        let page = curl(Some(site), VIP, Some(HOST)).await?;
        let is_home = answer.addresses.first() == Some(&site.address()) && page.cluster == "europe-west1";
        Ok(is_home.then_some(()))
    })
    .await?;
    anyhow::ensure!(healed.elapsed() >= HOLD, "home after {:?}: no failback hold", healed.elapsed());
    story.say(format!("Healed: home after {}, the failback hold included", ms(healed.elapsed())));
    at_home(story).await
}
