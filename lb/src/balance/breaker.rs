//! Passive evidence that the path to a cluster is dead.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use meridian_core::time::Timestamp;

/// Unanswered connects in a row, over all endpoints of a cluster, that open its breaker.
const THRESHOLD: u32 = 3;
/// How long it stays open. Longer than the probes need to mask the cluster by themselves.
const OPEN: Duration = Duration::from_secs(3);
/// How long one request may try after that, while the others still stay away.
const TRIAL: Duration = Duration::from_secs(1);

/// A breaker without locks.
///
/// ```text
/// closed --3 failures in a row--> open --3 s--> trial: one request --good--> closed
///   ^                              ^                |
///   |                              +----failed------+
///   +-- any answer from the cluster
/// ```
#[derive(Debug, Default)]
pub struct Breaker {
    failures: AtomicU32,
    /// Milliseconds on the process's clock; 0 is closed.
    open_until: AtomicU64,
}

impl Breaker {
    /// True while requests should not even try. Does not change anything.
    #[must_use]
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.open_until.load(Relaxed) > now.as_millis()
    }

    /// Whether this request may go. After the open time only the first one to ask may.
    pub fn admits(&self, now: Timestamp) -> bool {
        let until = self.open_until.load(Relaxed);
        if until == 0 {
            return true;
        }
        let trial_ends = (now + TRIAL).as_millis();
        until <= now.as_millis()
            && self.open_until.compare_exchange(until, trial_ends, Relaxed, Relaxed).is_ok()
    }

    /// A connect got no answer. True when that opened the breaker.
    pub fn failed(&self, now: Timestamp) -> bool {
        if self.failures.fetch_add(1, Relaxed) + 1 < THRESHOLD {
            return false;
        }
        let was_open = self.open_until.swap((now + OPEN).as_millis(), Relaxed) != 0;
        !was_open
    }

    /// Something came back over the path: it is alive.
    pub fn succeeded(&self) {
        // Loads first: in the usual case the cache line stays shared.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if self.open_until.load(Relaxed) != 0 {
            self.open_until.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn opened() -> Breaker {
        let breaker = Breaker::default();
        assert!(!breaker.failed(at(1)) && !breaker.failed(at(2)) && breaker.failed(at(3)));
        breaker
    }

    #[test]
    fn three_failures_in_a_row_open_it() {
        let breaker = opened();
        assert!(breaker.is_open(at(100)) && !breaker.admits(at(100)));
    }

    #[test]
    fn an_answer_in_between_keeps_it_closed() {
        let breaker = Breaker::default();
        breaker.failed(at(1));
        breaker.failed(at(2));
        breaker.succeeded();
        assert!(!breaker.failed(at(3)) && breaker.admits(at(4)));
    }

    #[test]
    fn only_one_request_tries_after_the_open_time() {
        let breaker = opened();
        let later = at(3) + OPEN;
        assert!(breaker.admits(later));
        assert!(!breaker.admits(later) && breaker.is_open(later));
        breaker.succeeded();
        assert!(breaker.admits(later) && breaker.admits(later));
    }

    #[test]
    fn a_failed_trial_opens_it_again_at_once() {
        let breaker = opened();
        let later = at(3) + OPEN;
        assert!(breaker.admits(later));
        assert!(!breaker.failed(later), "it did not become open: it was");
        assert!(!breaker.admits(later + TRIAL));
    }
}
