//! What is measured. Counters of the hot path are resolved when tables are compiled, so that a request
//! only adds to an atomic.

use std::sync::atomic::AtomicU64;

use meridian_core::id::ClusterName;
use meridian_runtime::metrics::Metrics;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};

use crate::refusal::Refusal;

/// Classes of status codes, by their first digit less one.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    cluster: String,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabel {
    cluster: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Metrics of the proxy. Clones share them.
#[derive(Clone, Debug)]
pub struct LbMetrics {
    requests: Family<RequestLabels, Counter>,
    retries: Family<ClusterLabel, Counter>,
    ejections: Family<ClusterLabel, Counter>,
    breaker_opened: Family<ClusterLabel, Counter>,
    refused: [Counter; Refusal::ALL.len()],
    /// Requests that are not finished.
    pub in_flight: Gauge,
    /// Compilations of the table.
    pub tables: Counter,
    /// How long one took.
    pub compile_seconds: Histogram,
    /// `seq` of the generation in use.
    pub generation: Gauge<u64, AtomicU64>,
    /// Age of the snapshot in use, by the feed.
    pub snapshot_age_seconds: Gauge<f64, AtomicU64>,
    /// Claims to a host and path that lost.
    pub route_conflicts: Gauge,
    /// Certificates of the snapshot that cannot be used.
    pub bad_certificates: Gauge,
}

/// Counters of one cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterCounters {
    classes: [Counter; CLASSES.len()],
    /// Attempts after the first.
    pub retries: Counter,
    /// Endpoints that were ejected.
    pub ejections: Counter,
    /// Times the breaker opened.
    pub breaker_opened: Counter,
}

impl ClusterCounters {
    /// Counts one finished request.
    pub fn finished(&self, status: u16) {
        if let Some(class) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            class.inc();
        }
    }
}

impl LbMetrics {
    /// Registers all of them as `meridian_lb_*`.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let refused: Family<ReasonLabel, Counter> = metrics.register(
            "lb_refused",
            "Requests the proxy answered itself, by reason",
            Family::default(),
        );
        Self {
            requests: metrics.register(
                "lb_requests",
                "Requests finished, by the cluster that answered and class of status code",
                Family::default(),
            ),
            retries: metrics.register("lb_retries", "Attempts after the first", Family::default()),
            ejections: metrics.register("lb_ejections", "Endpoints that were ejected", Family::default()),
            breaker_opened: metrics.register(
                "lb_breaker_opened",
                "Times the breaker of a cluster opened",
                Family::default(),
            ),
            refused: Refusal::ALL
                .map(|refusal| refused.get_or_create(&ReasonLabel { reason: refusal.reason() }).clone()),
            in_flight: metrics.register("lb_in_flight", "Requests not finished", Gauge::default()),
            tables: metrics.register("lb_tables", "Route tables compiled", Counter::default()),
            compile_seconds: metrics.register(
                "lb_compile_seconds",
                "How long compiling a table took",
                Histogram::new(exponential_buckets(0.0001, 4.0, 8)),
            ),
            generation: metrics.register("lb_generation", "Generation in use (seq)", Gauge::default()),
            snapshot_age_seconds: metrics.register(
                "lb_snapshot_age_seconds",
                "Time since the feed last confirmed the snapshot in use",
                Gauge::default(),
            ),
            route_conflicts: metrics.register(
                "lb_route_conflicts",
                "Claims to a host and path that lost to another",
                Gauge::default(),
            ),
            bad_certificates: metrics.register(
                "lb_bad_certificates",
                "Certificates that cannot be used",
                Gauge::default(),
            ),
        }
    }

    /// The counters of a cluster. Takes a lock: for compiling, not for requests.
    #[must_use]
    pub fn cluster(&self, cluster: &ClusterName) -> ClusterCounters {
        let label = ClusterLabel { cluster: cluster.to_string() };
        ClusterCounters {
            classes: CLASSES.map(|code| {
                self.requests.get_or_create(&RequestLabels { cluster: cluster.to_string(), code }).clone()
            }),
            retries: self.retries.get_or_create(&label).clone(),
            ejections: self.ejections.get_or_create(&label).clone(),
            breaker_opened: self.breaker_opened.get_or_create(&label).clone(),
        }
    }

    /// Counts an answer of the proxy itself.
    pub fn refused(&self, refusal: Refusal) {
        // The order of `ALL` is that of the variants.
        if let Some(counter) = self.refused.get(refusal as usize) {
            counter.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_under_their_own_name() {
        let metrics = Metrics::new();
        let lb = LbMetrics::new(&metrics);
        for refusal in Refusal::ALL {
            lb.refused(refusal);
        }
        lb.refused(Refusal::Loop);
        let text = metrics.encode();
        assert!(text.contains("meridian_lb_refused_total{reason=\"Loop\"} 2"), "{text}");
        assert!(text.contains("meridian_lb_refused_total{reason=\"BadHost\"} 1"), "{text}");
    }

    #[test]
    fn requests_are_counted_by_cluster_and_class() {
        let metrics = Metrics::new();
        let counters = LbMetrics::new(&metrics).cluster(&"eu".into());
        counters.finished(204);
        counters.finished(999);
        let text = metrics.encode();
        assert!(text.contains("meridian_lb_requests_total{cluster=\"eu\",code=\"2xx\"} 1"), "{text}");
    }
}
