//! The walk-through: what the Kubernetes 1.4 article on federated services promised, replayed on real API servers.
//!
//! One story in steps, told by the test (`tests/tests/walkthrough.rs`) and by `make demo` alike. Each step leaves
//! the fleet as it found it, says what it saw, and fails with what it expected.

pub mod clients;
pub mod product;
mod steps;

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::bed::Bed;
use product::Product;

/// Objects of the edges: sites and the zone.
pub const EDGES: &str = include_str!("../walkthrough/edges.yaml");
/// Objects of the shop: namespace, workloads, Service, Ingresses.
pub const SHOP: &str = include_str!("../walkthrough/shop.yaml");

/// The fleet with Meridian on it.
#[derive(Debug)]
pub struct Story {
    /// Clusters and sites.
    pub bed: Arc<Bed>,
    /// Meridian's processes.
    pub product: Product,
    began: Instant,
}

impl Story {
    /// Starts Meridian on the bed: nothing is joined or applied yet.
    ///
    /// # Errors
    /// With the process that did not start.
    pub async fn start(bed: Arc<Bed>) -> anyhow::Result<Self> {
        let product = Product::start(&bed).await.context("starting Meridian")?;
        Ok(Self { bed, product, began: Instant::now() })
    }

    /// Plays all steps in order.
    ///
    /// # Errors
    /// With the number and title of the step that failed.
    pub async fn play(&mut self) -> anyhow::Result<()> {
        macro_rules! play {
            ($($number:literal $title:literal $step:path;)*) => {$(
                self.title($number, $title);
                $step(self).await.with_context(|| format!("step {}: {}", $number, $title))?;
            )*};
        }
        play! {
            1 "Three clusters join; one shop is propagated to all of them" steps::join::play;
            2 "DNS answers each client with what is near" steps::answers::play;
            3 "Each region's page is served by that region's cluster" steps::regions::play;
            4 "Asia is scaled to 0, then back; a zone of Europe dies" steps::scale::play;
            5 "Two sites send 150 % of what a shard declares: only the excess leaves" steps::excess::play;
            6 "The controller loses sight of Europe's API server" steps::sight::play;
            7 "Europe is cut off whole" steps::cut::play;
            8 "Controller and hub stop; the edges go on, restart, and fail over" steps::alone::play;
            9 "The controller is killed while it propagates 200 objects" steps::crash::play;
        }
        Ok(())
    }

    /// Joins the members and applies the shop, without the rest of the story.
    ///
    /// # Errors
    /// As the first step.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        steps::join::play(self).await
    }

    fn title(&self, number: u8, title: &str) {
        self.print(&format!("\n{:>5.1} s  step {number}: {title}", self.began.elapsed().as_secs_f64()));
    }

    /// Tells what was seen.
    pub fn say(&self, text: impl AsRef<str>) {
        self.print(&format!("{:>5.1} s    {}", self.began.elapsed().as_secs_f64(), text.as_ref()));
    }

    fn print(&self, line: &str) {
        // A closed terminal must not end the story.
        writeln!(std::io::stdout(), "{line}").ok();
    }
}

/// How long a thing may take that has no promise of its own: propagation, status, an edge's start.
pub const PATIENCE: Duration = Duration::from_secs(60);
