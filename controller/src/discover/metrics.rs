//! What discovery counts.

use std::time::Duration;

use meridian_core::snapshot::Snapshot;
use meridian_runtime::metrics::Metrics;
use prometheus_client::metrics::{
    counter::Counter,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};

/// The counts, registered or not.
#[derive(Clone, Debug)]
pub(super) struct Counts {
    publications: Counter,
    services: Gauge,
    unread: Gauge,
    latency: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            publications: Counter::default(),
            services: Gauge::default(),
            unread: Gauge::default(),
            // 0.1 ms to 1.6 s.
            latency: Histogram::new(exponential_buckets(0.0001, 2.0, 15)),
        }
    }
}

impl Counts {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let counts = Self::default();
        metrics.register(
            "discovery_publications",
            "Snapshots published since the start",
            counts.publications.clone(),
        );
        metrics.register("discovery_services", "Services in the snapshot", counts.services.clone());
        metrics.register(
            "discovery_unread_members",
            "Members whose objects have not been read since the start",
            counts.unread.clone(),
        );
        metrics.register(
            "discovery_publish_seconds",
            "From the arrival of the first event of a batch to the publication",
            counts.latency.clone(),
        );
        counts
    }

    pub(super) fn published(&self, snapshot: &Snapshot, since_event: Duration) {
        self.publications.inc();
        self.services.set(i64::try_from(snapshot.services.len()).unwrap_or(i64::MAX));
        self.latency.observe(since_event.as_secs_f64());
    }

    pub(super) fn unread(&self, members: usize) {
        self.unread.set(i64::try_from(members).unwrap_or(i64::MAX));
    }
}
