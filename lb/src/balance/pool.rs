//! The endpoints of one service in one cluster.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use meridian_core::id::ClusterName;

use super::{Breaker, Endpoint};
use crate::metrics::ClusterCounters;

/// The way to a cluster, shared by all services.
#[derive(Debug)]
pub struct ClusterPath {
    /// The cluster.
    pub cluster: ClusterName,
    /// What connects say of it.
    pub breaker: Breaker,
    /// What is counted for it.
    pub counters: ClusterCounters,
    connection_group: AtomicU64,
}

impl ClusterPath {
    /// A way presumed well.
    #[must_use]
    pub fn new(cluster: ClusterName, counters: ClusterCounters) -> Self {
        Self { cluster, breaker: Breaker::default(), counters, connection_group: AtomicU64::new(0) }
    }

    /// Connections pooled over this way are not used any more.
    pub fn forget_connections(&self) {
        self.connection_group.fetch_add(1, Relaxed);
    }

    /// Part of the key of pooled connections.
    #[must_use]
    pub fn connection_group(&self) -> u64 {
        self.connection_group.load(Relaxed)
    }
}

/// Requests of one service in one cluster, counted for its limit.
#[derive(Debug, Default)]
pub struct Gate {
    in_flight: AtomicU32,
}

impl Gate {
    /// Requests that are inside.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Lets one in unless `limit` are inside.
    fn enter(&self, limit: Option<u32>) -> bool {
        let inside = self.in_flight.fetch_add(1, Relaxed);
        if limit.is_some_and(|limit| inside >= limit) {
            self.leave();
            return false;
        }
        true
    }

    fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}

/// Where a service's requests go inside one cluster.
#[derive(Clone, Debug)]
pub struct Pool {
    /// The way there.
    pub path: Arc<ClusterPath>,
    /// How many are inside.
    pub gate: Arc<Gate>,
    /// The addresses, sorted, unique.
    pub endpoints: Arc<[Arc<Endpoint>]>,
}

/// A request on its way to an endpoint. Dropping it makes the room free again.
#[derive(Debug)]
pub struct Permit {
    /// The way it takes.
    pub path: Arc<ClusterPath>,
    /// Where it goes.
    pub endpoint: Arc<Endpoint>,
    gate: Arc<Gate>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.endpoint.leave();
        self.gate.leave();
    }
}

impl Permit {
    /// Which pooled connections may serve it.
    #[must_use]
    pub fn connection_group(&self) -> u64 {
        self.endpoint.connection_group() ^ self.path.connection_group().rotate_left(32)
    }
}

impl Pool {
    /// The better of two random endpoints that are `allowed`, by requests in flight; if neither is, the
    /// next one that is. `random` is uniform. O(1), or O(n) when many are not allowed.
    #[must_use]
    pub fn choose(&self, random: u64, allowed: impl Fn(usize, &Endpoint) -> bool) -> Option<usize> {
        let count = self.endpoints.len();
        let first = index_below(random, count)?;
        let allows = |index: usize| allowed(index, &self.endpoints[index]);
        if let Some(offset) = index_below(random.rotate_left(32), count - 1) {
            let second = (first + 1 + offset) % count;
            let load = |index: usize| self.endpoints[index].in_flight();
            match (allows(first), allows(second)) {
                (true, true) => return Some(if load(second) < load(first) { second } else { first }),
                (true, false) => return Some(first),
                (false, true) => return Some(second),
                (false, false) => {}
            }
        }
        (0..count).map(|step| (first + step) % count).find(|&index| allows(index))
    }

    /// A permit for the endpoint at `index`, unless `limit` requests are inside.
    #[must_use]
    pub fn enter(&self, index: usize, limit: Option<u32>) -> Option<Permit> {
        let endpoint = self.endpoints.get(index)?;
        if !self.gate.enter(limit) {
            return None;
        }
        endpoint.enter();
        let (path, gate) = (Arc::clone(&self.path), Arc::clone(&self.gate));
        Some(Permit { path, endpoint: Arc::clone(endpoint), gate })
    }
}

/// A uniform index below `count`; none when there is none.
fn index_below(random: u64, count: usize) -> Option<usize> {
    random.checked_rem(count as u64).map(|index| index as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: u8) -> Pool {
        let path = Arc::new(ClusterPath::new("eu".into(), ClusterCounters::default()));
        let endpoint = |last| Arc::new(Endpoint::new(([192, 0, 2, last], 80).into()));
        Pool { path, gate: Arc::default(), endpoints: (1..=count).map(endpoint).collect() }
    }

    #[test]
    fn the_less_busy_of_two_is_chosen() {
        let pool = pool(2);
        let _busy = pool.enter(0, None).unwrap();
        for random in [0, 1, u64::MAX, 7 << 32] {
            assert_eq!(pool.choose(random, |_, _| true), Some(1));
        }
    }

    #[test]
    fn every_endpoint_can_be_chosen_and_none_that_is_not_allowed() {
        let pool = pool(5);
        let mut seen = [false; 5];
        for random in 0..64_u64 {
            let index = pool.choose(random.wrapping_mul(0x9e37_79b9_7f4a_7c15), |i, _| i != 2).unwrap();
            seen[index] = true;
        }
        assert_eq!(seen, [true, true, false, true, true]);
        assert_eq!(pool.choose(0, |index, _| index == 4), Some(4), "found although neither draw allows it");
    }

    #[test]
    fn nothing_is_chosen_from_nothing() {
        assert_eq!(pool(0).choose(5, |_, _| true), None);
        assert_eq!(pool(1).choose(5, |_, _| false), None);
        assert_eq!(pool(1).choose(5, |_, _| true), Some(0));
    }

    #[test]
    fn gate_counts_until_permits_are_dropped() {
        let pool = pool(1);
        let first = pool.enter(0, Some(1)).unwrap();
        assert!(pool.enter(0, Some(1)).is_none());
        assert_eq!((pool.gate.in_flight(), pool.endpoints[0].in_flight()), (1, 1));
        drop(first);
        assert_eq!((pool.gate.in_flight(), pool.endpoints[0].in_flight()), (0, 0));
    }
}
