//! Active probes of the paths that are actually used, with hysteresis.
//!
//! A path is a member or a site, by name. It is probed at up to three sampled addresses and is lost
//! when all of them fail, often enough in a row ([`core::health`](meridian_core::health)). Whoever
//! steers reads which paths are lost; nothing else asks.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use meridian_core::{
    health::{Machine, Outcome, State, Thresholds, Transition},
    steer::Why,
    time::Timestamp,
};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use tokio::{net::TcpStream, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Addresses of one path that are probed at most; more would not tell more.
const MAX_ADDRESSES: usize = 3;

/// How paths are probed.
#[derive(Clone, Copy, Debug)]
pub struct ProbeConfig {
    /// From the start of one probe of a path to the start of the next.
    pub interval: Duration,
    /// How long an address may take to accept.
    pub timeout: Duration,
    /// Failed probes in a row that lose a path.
    pub failures: u32,
    /// Good probes in a row that end the loss.
    pub successes: u32,
    /// How long a recovered path is held back.
    pub hold: Duration,
    /// Addresses probed per second at most, all paths together; the interval grows to keep it.
    pub max_per_second: u32,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(750),
            timeout: Duration::from_millis(750),
            failures: 3,
            successes: 2,
            hold: Duration::from_secs(10),
            max_per_second: 200,
        }
    }
}

/// What is probed, by path. See [`ProberHandle::set_targets`].
pub type Targets = BTreeMap<String, Vec<SocketAddr>>;

/// Paths that are lost or on hold. A path that is not listed is well or not probed.
pub type States = Arc<BTreeMap<String, Why>>;

/// Probes targets and publishes which paths are lost.
#[derive(Debug)]
pub struct Prober {
    config: ProbeConfig,
    targets: watch::Receiver<Targets>,
    states: watch::Sender<States>,
    handle: ProberHandle,
    counts: Counts,
    started: Instant,
}

/// Tells a [`Prober`] what to probe and reads what it found. Clones speak to the same one.
#[derive(Clone, Debug)]
pub struct ProberHandle {
    targets: Arc<watch::Sender<Targets>>,
    states: watch::Receiver<States>,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    good: Counter,
    failed: Counter,
    lost: Gauge,
}

/// One path under probe.
#[derive(Debug)]
struct Path {
    addresses: Vec<SocketAddr>,
    machine: Machine,
    /// Counts up when the path is forgotten and added again, so that a late event finds it is stale.
    incarnation: u64,
}

/// What a pending future of the prober turns into.
enum Event {
    Due { path: String, incarnation: u64 },
    Probed { path: String, incarnation: u64, outcome: Outcome, started: Instant },
}

impl Prober {
    /// A prober without targets.
    #[must_use]
    pub fn new(config: ProbeConfig) -> Self {
        let (targets, targets_seen) = watch::channel(Targets::new());
        let (states, states_seen) = watch::channel(States::default());
        let handle = ProberHandle { targets: Arc::new(targets), states: states_seen };
        Self {
            config,
            targets: targets_seen,
            states,
            handle,
            counts: Counts::default(),
            started: Instant::now(),
        }
    }

    /// Adds `meridian_probe_good_total`, `meridian_probe_failed_total` and `meridian_probe_lost_paths`.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &Metrics) -> Self {
        self.counts = Counts {
            good: metrics.register("probe_good", "Probes of paths that succeeded", Counter::default()),
            failed: metrics.register("probe_failed", "Probes of paths that failed", Counter::default()),
            lost: metrics.register("probe_lost_paths", "Paths that are lost or on hold", Gauge::default()),
        };
        self
    }

    /// A handle to this prober.
    #[must_use]
    pub fn handle(&self) -> ProberHandle {
        self.handle.clone()
    }

    /// Probes until `token` is cancelled.
    pub async fn run(self, token: CancellationToken) {
        let Self { config, mut targets, states, handle, counts, started } = self;
        // The handle that this prober kept for `handle()` must not keep its own channel open.
        drop(handle);
        let mut table = Table { config, paths: BTreeMap::new(), next_incarnation: 0, counts, started };
        let mut pending: FuturesUnordered<BoxFuture<'static, Event>> = FuturesUnordered::new();
        // The first pass must see targets that were set before the prober ran.
        targets.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = token.cancelled() => return,
                changed = targets.changed() => {
                    if changed.is_err() {
                        token.cancelled().await;
                        return;
                    }
                    let wanted = targets.borrow_and_update().clone();
                    pending.extend(table.retarget(wanted));
                    table.publish(&states);
                }
                Some(event) = pending.next(), if !pending.is_empty() => {
                    pending.extend(table.advance(event));
                    table.publish(&states);
                }
            }
        }
    }
}

impl ProberHandle {
    /// Replaces what is probed: addresses by path, of which the first three count. A path that stays
    /// keeps its state, also when its addresses change; a path without addresses is not probed and keeps
    /// its state; a path that is left out is forgotten.
    pub fn set_targets(&self, targets: Targets) {
        self.targets.send_if_modified(|held| {
            let changed = *held != targets;
            *held = targets;
            changed
        });
    }

    /// Paths that are lost or on hold; changes only when a path changes.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<States> {
        self.states.clone()
    }
}

/// The paths and what is known of each.
struct Table {
    config: ProbeConfig,
    paths: BTreeMap<String, Path>,
    next_incarnation: u64,
    counts: Counts,
    started: Instant,
}

impl Table {
    /// Takes over new targets; the result is what to wait for in addition.
    fn retarget(&mut self, mut wanted: Targets) -> Vec<BoxFuture<'static, Event>> {
        self.paths.retain(|name, _| wanted.contains_key(name));
        let config = self.config;
        let mut new = Vec::new();
        for (name, mut addresses) in std::mem::take(&mut wanted) {
            addresses.truncate(MAX_ADDRESSES);
            if let Some(path) = self.paths.get_mut(&name) {
                path.addresses = addresses;
                continue;
            }
            self.next_incarnation += 1;
            let incarnation = self.next_incarnation;
            let thresholds =
                Thresholds { failures: config.failures, successes: config.successes, hold: config.hold };
            let path = Path { addresses, machine: Machine::new(thresholds), incarnation };
            self.paths.insert(name.clone(), path);
            new.push((name, incarnation));
        }
        let interval = self.interval();
        new.into_iter()
            .map(|(name, incarnation)| {
                // Spread by name, so that hundreds of paths are not probed in one burst.
                let at = Instant::now() + spread(&name, interval);
                due(name, incarnation, at)
            })
            .collect()
    }

    /// Goes one step with one path.
    fn advance(&mut self, event: Event) -> Option<BoxFuture<'static, Event>> {
        match event {
            Event::Due { path, incarnation } => {
                let entry = self.paths.get(&path).filter(|entry| entry.incarnation == incarnation)?;
                if entry.addresses.is_empty() {
                    return Some(due(path, incarnation, Instant::now() + self.interval()));
                }
                let (addresses, timeout) = (entry.addresses.clone(), self.config.timeout);
                let probe = async move {
                    let started = Instant::now();
                    let outcome = probe_all(addresses, timeout).await;
                    Event::Probed { path, incarnation, outcome, started }
                };
                Some(probe.boxed())
            }
            Event::Probed { path, incarnation, outcome, started } => {
                let now = self.now();
                let entry = self.paths.get_mut(&path).filter(|entry| entry.incarnation == incarnation)?;
                match outcome {
                    Outcome::Success => self.counts.good.inc(),
                    Outcome::Failure => self.counts.failed.inc(),
                };
                if let Some(change) = entry.machine.observe(outcome, now) {
                    log_transition(&path, change);
                }
                let next = (started + self.interval()).max(Instant::now());
                Some(due(path, incarnation, next))
            }
        }
    }

    fn publish(&self, states: &watch::Sender<States>) {
        let now = self.now();
        let lost: BTreeMap<String, Why> = self
            .paths
            .iter()
            .filter_map(|(name, path)| Some((name.clone(), path.machine.state(now).why()?)))
            .collect();
        self.counts.lost.set(i64::try_from(lost.len()).unwrap_or(i64::MAX));
        states.send_if_modified(|held| {
            let changed = **held != lost;
            if changed {
                *held = Arc::new(lost);
            }
            changed
        });
    }

    /// The configured interval, or a longer one that keeps the rate.
    fn interval(&self) -> Duration {
        let addresses: usize = self.paths.values().map(|path| path.addresses.len()).sum();
        let needed = addresses as f64 / f64::from(self.config.max_per_second.max(1));
        self.config.interval.max(Duration::from_secs_f64(needed))
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }
}

fn due(path: String, incarnation: u64, at: Instant) -> BoxFuture<'static, Event> {
    async move {
        tokio::time::sleep_until(at).await;
        Event::Due { path, incarnation }
    }
    .boxed()
}

/// A moment inside `interval` that is the same for the same name in every run.
fn spread(name: &str, interval: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    interval.mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
}

/// Success as soon as one address accepts; failure when none does in time.
///
/// When this process cannot even try, because it has no descriptor or port left, that is no evidence
/// against anybody: it counts as success, which changes nothing for a path that is well.
async fn probe_all(addresses: Vec<SocketAddr>, timeout: Duration) -> Outcome {
    let attempts: FuturesUnordered<_> = addresses.into_iter().map(TcpStream::connect).collect();
    let first = attempts.filter_map(async |attempt| match attempt {
        Ok(_) => Some(()),
        Err(error) => is_local(&error).then_some(()),
    });
    tokio::pin!(first);
    match tokio::time::timeout(timeout, first.next()).await {
        Ok(Some(())) => Outcome::Success,
        Ok(None) | Err(_) => Outcome::Failure,
    }
}

/// True when the error is about this process or machine, not about the address.
fn is_local(error: &std::io::Error) -> bool {
    // EMFILE, ENFILE, ENOBUFS, ENOMEM on Linux; none of the first three has a kind of its own.
    const EXHAUSTED: [i32; 4] = [24, 23, 105, 12];
    error.kind() == std::io::ErrorKind::AddrNotAvailable
        || error.raw_os_error().is_some_and(|code| EXHAUSTED.contains(&code))
}

fn log_transition(path: &str, change: Transition) {
    match change.to {
        State::Down { .. } => tracing::warn!(path, "Path is lost"),
        State::Holding { .. } => tracing::info!(path, "Path recovered and is held back"),
        State::Up => tracing::info!(path, "Path is well again"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn an_exhausted_process_is_told_from_a_dead_path() {
        assert!(is_local(&std::io::Error::from_raw_os_error(24)));
        assert!(!is_local(&std::io::Error::from(std::io::ErrorKind::ConnectionRefused)));
    }

    // Time is paused: the runtime jumps to the next timer whenever nothing else is left to do, and
    // connects to loopback are decided by the kernel at once, so no test waits.

    struct Rig {
        handle: ProberHandle,
        states: watch::Receiver<States>,
    }

    impl Rig {
        fn start() -> Self {
            let prober = Prober::new(ProbeConfig { hold: Duration::from_secs(10), ..ProbeConfig::default() });
            let handle = prober.handle();
            let states = handle.states();
            tokio::spawn(prober.run(CancellationToken::new()));
            Self { handle, states }
        }

        fn target(&self, path: &str, addresses: &[SocketAddr]) {
            self.handle.set_targets([(path.to_owned(), addresses.to_vec())].into());
        }

        async fn until(&mut self, path: &str, why: Option<Why>) {
            self.states.wait_for(|states| states.get(path).copied() == why).await.unwrap();
        }
    }

    /// A loopback address on which nobody listens, and the listener that can take it later.
    async fn closed_port() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn path_is_lost_after_three_failures_and_comes_back_after_the_hold() {
        let address = closed_port().await;
        let mut rig = Rig::start();
        rig.target("eu", &[address]);
        let begun = Instant::now();
        rig.until("eu", Some(Why::ProbeFailed)).await;
        assert!(begun.elapsed() <= Duration::from_secs(3), "{:?}", begun.elapsed());

        let _listener = TcpListener::bind(address).await.unwrap();
        rig.until("eu", Some(Why::Holding)).await;
        let held = Instant::now();
        rig.until("eu", None).await;
        assert!(held.elapsed() >= Duration::from_secs(10), "{:?}", held.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn one_accepting_address_keeps_a_path() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (good, bad) = (listener.local_addr().unwrap(), closed_port().await);
        let mut rig = Rig::start();
        rig.handle.set_targets([("mixed".to_owned(), vec![bad, good]), ("bad".to_owned(), vec![bad])].into());
        rig.until("bad", Some(Why::ProbeFailed)).await;
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(!rig.states.borrow().contains_key("mixed"));
    }

    #[tokio::test(start_paused = true)]
    async fn changed_addresses_keep_the_state_of_their_path() {
        let mut rig = Rig::start();
        rig.target("eu", &[closed_port().await]);
        rig.until("eu", Some(Why::ProbeFailed)).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        rig.target("eu", &[listener.local_addr().unwrap()]);
        rig.until("eu", Some(Why::Holding)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn forgotten_path_is_no_longer_listed() {
        let mut rig = Rig::start();
        rig.target("eu", &[closed_port().await]);
        rig.until("eu", Some(Why::ProbeFailed)).await;
        rig.handle.set_targets(Targets::new());
        rig.until("eu", None).await;
    }

    #[tokio::test(start_paused = true)]
    async fn interval_grows_with_the_number_of_addresses() {
        let mut table = Table {
            config: ProbeConfig::default(),
            paths: BTreeMap::new(),
            next_incarnation: 0,
            counts: Counts::default(),
            started: Instant::now(),
        };
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        drop(table.retarget((0..400).map(|n| (format!("path{n}"), vec![address])).collect()));
        assert_eq!(table.interval(), Duration::from_secs(2));
    }
}
