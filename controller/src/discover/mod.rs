//! Discovery: from watches of the hub and the members to the snapshot that the edges answer from.
//!
//! ```text
//! hub watches (hub), member watches (members) --facts--> engine (one task, owns the index)
//!   drain a batch --> Index --> publish --> watch::Sender<Arc<Snapshot>> --> feed
//!   verdicts, VIPs --> what differs from the objects' statuses (status) --> writer, off this task
//! ```
//!
//! The first publication waits until the hub's lists and those of every member that answers have been
//! read: an edge must never be given a fleet that only looks empty because the controller just started.

mod engine;
mod events;
mod hub;
mod members;
mod metrics;
mod status;
mod vips;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Client;
use meridian_core::snapshot::{Generation, Snapshot};
use meridian_feed::server::SiteLoad;
use meridian_runtime::metrics::Metrics;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fleet::Fleet;

/// Load reports that may wait: one per second and edge, so seconds of a large fleet. The feed drops what
/// does not fit, because the next second brings newer ones.
const LOADS: usize = 1024;

/// Discovery before it runs.
pub struct Discovery {
    hub: Client,
    fleet: Fleet,
    term: u64,
    snapshots: watch::Sender<Arc<Snapshot>>,
    loads: mpsc::Receiver<SiteLoad>,
    held: watch::Receiver<BTreeMap<Arc<str>, Generation>>,
    metrics: metrics::Counts,
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").field("term", &self.term).finish_non_exhaustive()
    }
}

/// What discovery and the feed have in common.
#[derive(Debug)]
pub struct Outlets {
    /// What is published; `seq` 0 until the first publication.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Where the edges' load goes.
    pub loads: mpsc::Sender<SiteLoad>,
}

/// Discovery of the fleet whose publications carry `term`, and its outlets.
#[must_use]
pub fn new(hub: Client, fleet: Fleet, term: u64) -> (Discovery, Outlets) {
    let (snapshots, seen) = watch::channel(Arc::default());
    let (sender, loads) = mpsc::channel(LOADS);
    // Closed at once: nothing is held until somebody says otherwise.
    let (_, held) = watch::channel(BTreeMap::new());
    let discovery =
        Discovery { hub, fleet, term, snapshots, loads, held, metrics: metrics::Counts::default() };
    (discovery, Outlets { snapshots: seen, loads: sender })
}

impl Discovery {
    /// Raises the term whenever an edge turns out to hold a later generation than is published.
    #[must_use]
    pub fn outranking(self, held: watch::Receiver<BTreeMap<Arc<str>, Generation>>) -> Self {
        Self { held, ..self }
    }

    /// Adds the metrics `meridian_discovery_*`.
    #[must_use]
    pub fn with_metrics(self, metrics: &Metrics) -> Self {
        Self { metrics: metrics::Counts::register(metrics), ..self }
    }

    /// Discovers until `token` is cancelled. Watches of members run on the members' own trackers, all
    /// else on `tracker`.
    pub async fn run(self, tracker: TaskTracker, token: CancellationToken) {
        engine::run(self, tracker, token).await;
    }
}
