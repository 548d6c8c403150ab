//! What is known of one address.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use meridian_core::time::Timestamp;

/// First ejection; every further one without a success in between doubles it.
const EJECTION: Duration = Duration::from_secs(5);
/// Longest ejection.
const MAX_EJECTION: Duration = Duration::from_secs(60);

/// Distinguishes pooled connections of one incarnation of an address from those of another.
static INCARNATIONS: AtomicU64 = AtomicU64::new(1);

/// An address requests are sent to: a pod's port or a gateway. Atomics only.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    in_flight: AtomicU32,
    strikes: AtomicU32,
    /// Milliseconds on the process's clock; 0 is not ejected.
    ejected_until: AtomicU64,
    connection_group: AtomicU64,
}

impl Endpoint {
    /// A fresh one, presumed well. Connections pooled for an earlier one of the same address are
    /// not used for it.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            in_flight: AtomicU32::new(0),
            strikes: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            connection_group: AtomicU64::new(INCARNATIONS.fetch_add(1, Relaxed)),
        }
    }

    /// Requests it is serving for this process.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// True while it is left out because connecting failed.
    #[must_use]
    pub fn is_ejected(&self, now: Timestamp) -> bool {
        self.ejected_until.load(Relaxed) > now.as_millis()
    }

    /// Which pooled connections may be used for it.
    #[must_use]
    pub fn connection_group(&self) -> u64 {
        self.connection_group.load(Relaxed)
    }

    /// Connections that are pooled for it now are not used any more.
    pub fn forget_connections(&self) {
        self.connection_group.store(INCARNATIONS.fetch_add(1, Relaxed), Relaxed);
    }

    /// It did not accept, or broke off: leaves it out for 5 s, doubling up to 60 s. Many requests that
    /// fail at the same time count once. True when it became ejected.
    pub fn failed(&self, now: Timestamp) -> bool {
        let until = self.ejected_until.load(Relaxed);
        if until > now.as_millis() {
            return false;
        }
        let doublings = self.strikes.load(Relaxed).min(8);
        let ends = (now + (EJECTION * 2_u32.pow(doublings)).min(MAX_EJECTION)).as_millis();
        let won = self.ejected_until.compare_exchange(until, ends, Relaxed, Relaxed).is_ok();
        if won {
            self.strikes.fetch_add(1, Relaxed);
            self.forget_connections();
        }
        won
    }

    /// It answered.
    pub fn succeeded(&self) {
        if self.strikes.load(Relaxed) != 0 {
            self.strikes.store(0, Relaxed);
            self.ejected_until.store(0, Relaxed);
        }
    }

    pub(super) fn enter(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::new("192.0.2.1:80".parse().unwrap())
    }

    #[test]
    fn ejection_ends_by_itself_and_grows_when_it_was_not_enough() {
        let endpoint = endpoint();
        let start = Timestamp::from_millis(1000);
        assert!(endpoint.failed(start));
        assert!(endpoint.is_ejected(start + Duration::from_millis(4999)));
        let again = start + EJECTION;
        assert!(!endpoint.is_ejected(again));
        assert!(endpoint.failed(again));
        assert!(endpoint.is_ejected(again + Duration::from_millis(9999)));
        assert!(!endpoint.is_ejected(again + Duration::from_secs(10)));
    }

    #[test]
    fn failures_of_one_moment_count_once() {
        let endpoint = endpoint();
        let now = Timestamp::from_millis(1000);
        assert!(endpoint.failed(now));
        assert!(!endpoint.failed(now) && !endpoint.failed(now));
        assert!(!endpoint.is_ejected(now + EJECTION));
    }

    #[test]
    fn success_forgives() {
        let endpoint = endpoint();
        let now = Timestamp::from_millis(1000);
        endpoint.failed(now);
        endpoint.succeeded();
        assert!(!endpoint.is_ejected(now));
    }

    #[test]
    fn ejection_and_new_incarnation_leave_pooled_connections_behind() {
        let (first, second) = (endpoint(), endpoint());
        assert_ne!(first.connection_group(), second.connection_group());
        let before = first.connection_group();
        first.failed(Timestamp::from_millis(1));
        assert_ne!(first.connection_group(), before);
    }
}
