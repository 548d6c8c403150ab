//! The writes of one member: the newest per object, few in flight, failures later and later.
//!
//! Pure: time is an argument. A member's queue holds at most one job per object that is federated, which is its
//! bound; a slow member fills only its own.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::Key;

/// Writes in flight per member: a bare loop reaches 650/s with 1, 1,000/s with 8, and hardly more with 32.
pub(super) const IN_FLIGHT: usize = 8;
/// First and longest wait after a failure; doubling in between.
const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Jobs of one member by object.
#[derive(Debug)]
pub(super) struct Queue<J> {
    waiting: HashMap<Key, J>,
    ready: VecDeque<Key>,
    delayed: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, Instant>,
    running: HashMap<Key, J>,
    failures: HashMap<Key, u32>,
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
            ready: VecDeque::new(),
            delayed: BTreeSet::new(),
            due: HashMap::new(),
            running: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<J: Clone + PartialEq> Queue<J> {
    /// Wants `job` done for `key`, instead of whatever waits. The same job again keeps its place and its delay; a
    /// different one is ready at once. While one runs the new one waits for its end.
    pub(super) fn push(&mut self, key: &Key, job: J) {
        if self.waiting.get(key) == Some(&job) {
            return;
        }
        if !self.waiting.contains_key(key) && self.running.get(key) == Some(&job) {
            return;
        }
        self.withdraw(key);
        self.failures.remove(key);
        self.waiting.insert(key.clone(), job);
        if !self.running.contains_key(key) {
            self.ready.push_back(key.clone());
        }
    }

    /// Wants nothing done for `key` any more. What runs is not stopped.
    pub(super) fn withdraw(&mut self, key: &Key) {
        // Stale entries of `ready` are skipped when they come up.
        if self.waiting.remove(key).is_some()
            && let Some(due) = self.due.remove(key)
        {
            self.delayed.remove(&(due, key.clone()));
        }
    }

    /// True while a job for `key` runs.
    pub(super) fn is_running(&self, key: &Key) -> bool {
        self.running.contains_key(key)
    }

    /// The next job to start now, if any may.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Key, J)> {
        while let Some((due, _)) = self.delayed.first()
            && *due <= now
        {
            if let Some((_, key)) = self.delayed.pop_first() {
                self.due.remove(&key);
                self.ready.push_back(key);
            }
        }
        if self.running.len() >= IN_FLIGHT {
            return None;
        }
        while let Some(key) = self.ready.pop_front() {
            if self.running.contains_key(&key) || self.due.contains_key(&key) {
                continue;
            }
            if let Some(job) = self.waiting.remove(&key) {
                self.running.insert(key.clone(), job.clone());
                return Some((key, job));
            }
        }
        None
    }

    /// A job has ended well, or need not be tried again.
    pub(super) fn succeeded(&mut self, key: &Key) {
        self.running.remove(key);
        self.failures.remove(key);
        if self.waiting.contains_key(key) {
            self.ready.push_back(key.clone());
        }
    }

    /// A job has failed; it is tried again after a while, unless a newer one waits. `jitter` is in 0.8 to 1.2.
    pub(super) fn failed(&mut self, key: &Key, now: Instant, jitter: f64) {
        let Some(job) = self.running.remove(key) else { return };
        if self.waiting.contains_key(key) {
            self.failures.remove(key);
            self.ready.push_back(key.clone());
            return;
        }
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = FIRST.saturating_mul(1 << (*failures).min(16)).min(LONGEST).mul_f64(jitter);
        *failures += 1;
        self.waiting.insert(key.clone(), job);
        self.delayed.insert((now + wait, key.clone()));
        self.due.insert(key.clone(), now + wait);
    }

    /// Makes delayed jobs ready at once and forgets their failures: something they waited for has come.
    pub(super) fn hurry(&mut self, concerns: impl Fn(&Key) -> bool) {
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.delayed).into_iter().partition(|(_, key)| concerns(key));
        self.delayed = later.into_iter().collect();
        for (_, key) in now {
            self.due.remove(&key);
            self.failures.remove(&key);
            self.ready.push_back(key);
        }
    }

    /// When the first delayed job is due.
    pub(super) fn first_due(&self) -> Option<Instant> {
        self.delayed.first().map(|(due, _)| *due)
    }

    /// Whether a failed job waits for its next try.
    pub(super) fn is_delayed(&self, key: &Key) -> bool {
        self.due.contains_key(key)
    }

    /// Whether something waits or runs for `key`.
    pub(super) fn is_busy(&self, key: &Key) -> bool {
        self.waiting.contains_key(key) || self.running.contains_key(key)
    }
}

#[cfg(test)]
mod tests {
    use super::{IN_FLIGHT, Queue};
    use crate::propagate::Key;
    use std::time::{Duration, Instant};

    fn key(name: &str) -> Key {
        Key { kind: "configmaps".into(), namespace: "shop".into(), name: name.into() }
    }

    #[test]
    fn only_the_newest_job_of_an_object_runs() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(&key("a"), 1);
        queue.push(&key("a"), 2);
        assert_eq!(queue.next(now), Some((key("a"), 2)));
        assert_eq!(queue.next(now), None);
    }

    #[test]
    fn an_object_is_never_written_twice_at_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(&key("a"), 1);
        queue.next(now).expect("ready");
        queue.push(&key("a"), 2);
        assert_eq!(queue.next(now), None);
        queue.succeeded(&key("a"));
        assert_eq!(queue.next(now), Some((key("a"), 2)));
    }

    #[test]
    fn the_same_job_is_not_repeated_while_it_runs() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(&key("a"), 1);
        queue.next(now).expect("ready");
        queue.push(&key("a"), 1);
        queue.succeeded(&key("a"));
        assert_eq!(queue.next(now), None);
        assert!(!queue.is_busy(&key("a")));
    }

    #[test]
    fn few_are_in_flight() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for i in 0..20 {
            queue.push(&key(&i.to_string()), i);
        }
        let started = std::iter::from_fn(|| queue.next(now)).count();
        assert_eq!(started, IN_FLIGHT);
    }

    #[test]
    fn failures_wait_longer_and_longer_and_a_new_job_does_not_wait() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        queue.push(&key("a"), 1);
        let mut waits = Vec::new();
        for _ in 0..9 {
            queue.next(now).expect("due");
            queue.failed(&key("a"), now, 1.0);
            let due = queue.first_due().expect("delayed");
            waits.push((due - now).as_millis());
            assert_eq!(queue.next(due - Duration::from_millis(1)), None);
            now = due;
        }
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000]);
        queue.push(&key("a"), 2);
        assert_eq!(queue.next(now), Some((key("a"), 2)));
    }

    #[test]
    fn hurry_starts_what_it_concerns_at_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for name in ["a", "b"] {
            queue.push(&key(name), 1);
            queue.next(now).expect("ready");
            queue.failed(&key(name), now, 1.0);
        }
        queue.hurry(|k| *k.name == *"b");
        assert_eq!(queue.next(now), Some((key("b"), 1)));
        assert_eq!(queue.next(now), None);
    }

    #[test]
    fn a_withdrawn_job_does_not_run() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(&key("a"), 1);
        queue.withdraw(&key("a"));
        assert_eq!(queue.next(now), None);
    }
}
