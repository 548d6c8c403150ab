//! What outlives a table: the state of endpoints, paths, gates and meters.
//!
//! Tables are replaced whole; requests in flight, ejections and pooled connections must not be. The
//! registry hands the same state to the next table and forgets what the next table does not use.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use meridian_core::id::{ClusterName, ObjectKey};

use crate::{
    balance::{ClusterPath, Endpoint, Gate, Pool},
    load::Meter,
    metrics::LbMetrics,
};

/// State by name. Owned by whoever compiles tables; never seen by a request.
#[derive(Debug)]
pub struct Registry {
    metrics: LbMetrics,
    held: States,
    used: States,
}

#[derive(Debug, Default)]
struct States {
    endpoints: HashMap<(ClusterName, SocketAddr), Arc<Endpoint>>,
    paths: BTreeMap<ClusterName, Arc<ClusterPath>>,
    gates: HashMap<(ObjectKey, ClusterName), Arc<Gate>>,
    meters: BTreeMap<ObjectKey, Arc<Meter>>,
}

impl Registry {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(metrics: LbMetrics) -> Self {
        Self { metrics, held: States::default(), used: States::default() }
    }

    /// Begins the compilation of a table: what is not asked for until [`Registry::finish`] is forgotten.
    pub fn begin(&mut self) {
        self.used = States::default();
    }

    /// Ends it. An address that comes back later is another endpoint, with no connections.
    pub fn finish(&mut self) {
        self.held = std::mem::take(&mut self.used);
    }

    /// The pool of `service` in `cluster` at `addresses`, which are sorted and deduplicated.
    pub fn pool(
        &mut self,
        service: &ObjectKey,
        cluster: &ClusterName,
        mut addresses: Vec<SocketAddr>,
    ) -> Pool {
        addresses.sort_unstable();
        addresses.dedup();
        let endpoints = addresses.into_iter().map(|address| self.endpoint(cluster, address)).collect();
        Pool { path: self.path(cluster), gate: self.gate(service, cluster), endpoints }
    }

    /// The meter of `service`.
    pub fn meter(&mut self, service: &ObjectKey) -> Arc<Meter> {
        let held = &mut self.held.meters;
        let meter = self.used.meters.entry(service.clone());
        Arc::clone(meter.or_insert_with(|| held.remove(service).unwrap_or_default()))
    }

    /// All meters of the last table, by service.
    pub fn meters(&self) -> &BTreeMap<ObjectKey, Arc<Meter>> {
        &self.held.meters
    }

    /// The path to `cluster` in the last table.
    #[must_use]
    pub fn held_path(&self, cluster: &ClusterName) -> Option<&Arc<ClusterPath>> {
        self.held.paths.get(cluster)
    }

    fn endpoint(&mut self, cluster: &ClusterName, address: SocketAddr) -> Arc<Endpoint> {
        let key = (cluster.clone(), address);
        let held = self.held.endpoints.get(&key).map(Arc::clone);
        let endpoint = self.used.endpoints.entry(key);
        Arc::clone(endpoint.or_insert_with(|| held.unwrap_or_else(|| Arc::new(Endpoint::new(address)))))
    }

    fn path(&mut self, cluster: &ClusterName) -> Arc<ClusterPath> {
        let held = self.held.paths.get(cluster).map(Arc::clone);
        let metrics = &self.metrics;
        let new = || Arc::new(ClusterPath::new(cluster.clone(), metrics.cluster(cluster)));
        Arc::clone(self.used.paths.entry(cluster.clone()).or_insert_with(|| held.unwrap_or_else(new)))
    }

    fn gate(&mut self, service: &ObjectKey, cluster: &ClusterName) -> Arc<Gate> {
        let key = (service.clone(), cluster.clone());
        let held = self.held.gates.get(&key).map(Arc::clone);
        Arc::clone(self.used.gates.entry(key).or_insert_with(|| held.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use meridian_core::time::Timestamp;
    use meridian_runtime::metrics::Metrics;

    use super::*;

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 80).into()
    }

    fn compiled(registry: &mut Registry, addresses: &[SocketAddr]) -> Pool {
        registry.begin();
        let pool = registry.pool(&ObjectKey::new("shop", "web"), &"eu".into(), addresses.to_vec());
        registry.finish();
        pool
    }

    #[test]
    fn state_survives_the_table_and_an_address_that_left_starts_anew() {
        let mut registry = Registry::new(LbMetrics::new(&Metrics::new()));
        let first = compiled(&mut registry, &[address(2), address(1), address(2)]);
        assert_eq!(first.endpoints.len(), 2);
        first.endpoints[0].failed(Timestamp::from_millis(1));
        let _permit = first.enter(0, None);

        let second = compiled(&mut registry, &[address(1)]);
        assert!(second.endpoints[0].is_ejected(Timestamp::from_millis(2)));
        assert_eq!(second.gate.in_flight(), 1);

        compiled(&mut registry, &[]);
        let back = compiled(&mut registry, &[address(1)]);
        assert!(!back.endpoints[0].is_ejected(Timestamp::from_millis(2)));
        assert_ne!(back.endpoints[0].connection_group(), second.endpoints[0].connection_group());
    }
}
