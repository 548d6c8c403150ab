//! The metrics registry of a process.
//!
//! Names are `meridian_<component>_<thing>_<unit>`; the prefix `meridian` is the registry's. Labels come
//! from closed sets: clusters and sites yes, names of objects no.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::{
    encoding::text,
    registry::{Metric, Registry},
};

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A shared registry. Clones share it.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry whose names all begin with `meridian_`.
    #[must_use]
    pub fn new() -> Self {
        Self { registry: Arc::new(Mutex::new(Registry::with_prefix("meridian"))) }
    }

    /// Adds `metric` as `meridian_<name>` and returns it. Counters get the suffix `_total` when encoded.
    ///
    /// `help` is a sentence without its full stop. Registering a name twice would make the text invalid.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.lock().register(name, help, metric.clone());
        metric
    }

    /// Lets `change` work on the registry, for what [`Metrics::register`] does not cover.
    pub fn with_registry<R>(&self, change: impl FnOnce(&mut Registry) -> R) -> R {
        change(&mut self.lock())
    }

    /// The OpenMetrics text. O(series).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String fails only if a collector reports an error; what was written stays valid.
        if let Err(error) = text::encode(&mut text, &self.lock()) {
            tracing::debug!(%error, "Metrics could not be encoded to the end");
        }
        text
    }

    // A panic elsewhere leaves the registry whole: it is only ever appended to.
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn names_begin_with_the_project() {
        let metrics = Metrics::new();
        let queries: Counter = metrics.register("dns_queries", "Queries answered", Counter::default());
        queries.inc();
        assert!(metrics.encode().contains("\nmeridian_dns_queries_total 1\n"), "{}", metrics.encode());
    }
}
