//! The walk-through of the Kubernetes 1.4 article on federated services, on real API servers, in nine steps.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use meridian_tests::bed::{Bed, BedSpec};
use meridian_tests::suite::{self, case};
use meridian_tests::walkthrough::Story;

fn main() -> ExitCode {
    let story = case("one_shop_in_three_clusters_survives_what_can_happen_to_it", story);
    suite::run(BedSpec::default(), vec![story.within(Duration::from_secs(900))])
}

async fn story(bed: Arc<Bed>) -> anyhow::Result<()> {
    let mut story = Story::start(Arc::clone(&bed)).await?;
    let played = story.play().await;
    let running = story.product.check_running();
    // The first thing that went wrong explains the others.
    played.map_err(|error| error.context(format!("logs:\n{}", bed.log_tails(15))))?;
    running
}
