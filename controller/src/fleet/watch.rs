//! Watches that survive: one watch as apply/delete/reset, and a supervisor that restarts what fails.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Resource};
use rand::Rng;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::health::Health;

/// First and longest wait before a failed watch starts again; doubling in between.
const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_LONGEST: Duration = Duration::from_secs(30);

/// What a watch says. A consumer that keeps a map by key needs no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<K, F> {
    /// The object exists with these facts.
    Apply(K, F),
    /// The object is gone, or no longer has facts.
    Delete(K),
    /// These are all there are; whatever else the consumer holds is gone. Sent after every list, so that a
    /// deletion during a disconnection is not missed.
    Reset(Vec<(K, F)>),
}

/// Watches one kind and hands over facts. `convert` is called for each object: `None` skips it (unreadable),
/// `Some((key, None))` says that it has no facts, which is a deletion. `wrap` makes the consumer's message. A full
/// channel holds the watch back, which the API server bounds. Ends when the channel is closed; errors of the
/// watch are retried inside with jittered backoff (0.8 s to 30 s).
pub async fn watch_index<K, Key, Fact, M>(
    api: Api<K>,
    config: watcher::Config,
    convert: impl Fn(K) -> Option<(Key, Option<Fact>)> + Send,
    sink: mpsc::Sender<M>,
    wrap: impl Fn(Change<Key, Fact>) -> M + Send,
) where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    Key: Send,
    Fact: Send,
    M: Send,
{
    watch_reporting(api, config, convert, sink, wrap, |_| None).await;
}

/// As [`watch_index`], and tells the consumer when the watch begins to fail: `fault` may make a message of the
/// error's text. Told once per outage; the next change says that it is over.
pub async fn watch_reporting<K, Key, Fact, M>(
    api: Api<K>,
    config: watcher::Config,
    convert: impl Fn(K) -> Option<(Key, Option<Fact>)> + Send,
    sink: mpsc::Sender<M>,
    wrap: impl Fn(Change<Key, Fact>) -> M + Send,
    fault: impl Fn(String) -> Option<M> + Send,
) where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
    Key: Send,
    Fact: Send,
    M: Send,
{
    let mut stream = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    let mut listed: Vec<(Key, Fact)> = Vec::new();
    let mut failing = false;
    while let Some(event) = stream.next().await {
        let change = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(object)) => {
                if let Some((key, Some(fact))) = convert(object) {
                    listed.push((key, fact));
                }
                continue;
            }
            Ok(Event::InitDone) => Change::Reset(std::mem::take(&mut listed)),
            Ok(Event::Apply(object)) => match convert(object) {
                Some((key, Some(fact))) => Change::Apply(key, fact),
                Some((key, None)) => Change::Delete(key),
                None => continue,
            },
            Ok(Event::Delete(object)) => match convert(object) {
                Some((key, _)) => Change::Delete(key),
                None => continue,
            },
            Err(error) => {
                // Logged once per outage: the stream repeats the error at each retry.
                if !failing {
                    failing = true;
                    let text = crate::call::cut(&crate::call::causes(&error));
                    tracing::debug!(error = text, "Watch interrupted");
                    if let Some(message) = fault(text)
                        && sink.send(message).await.is_err()
                    {
                        return;
                    }
                }
                continue;
            }
        };
        failing = false;
        if sink.send(wrap(change)).await.is_err() {
            return;
        }
    }
}

/// Runs `factory`'s future until `token` is cancelled; starts it again when it ends, panics, or when `health`
/// returns to ready (connections from before an outage may be dead without anybody knowing). Waits between starts
/// with jittered backoff.
pub fn supervise<F, Fut>(
    tracker: &TaskTracker,
    token: CancellationToken,
    name: &'static str,
    health: Option<watch::Receiver<Health>>,
    factory: F,
) where
    F: Fn() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let inner_tracker = tracker.clone();
    tracker.spawn(async move {
        let mut wait = RESTART_FIRST;
        let mut health = health;
        while !token.is_cancelled() {
            let mut task = inner_tracker.spawn(factory());
            let started = tokio::time::Instant::now();
            tokio::select! {
                () = token.cancelled() => {
                    task.abort();
                    return;
                }
                () = returned(&mut health) => {
                    task.abort();
                    tracing::debug!(task = name, "Restarting after the member's return");
                    wait = RESTART_FIRST;
                    continue;
                }
                end = &mut task => {
                    if let Err(error) = end && error.is_panic() {
                        tracing::error!(task = name, "Task panicked; it will be started again");
                    }
                }
            }
            if started.elapsed() > RESTART_LONGEST {
                wait = RESTART_FIRST;
            }
            tokio::select! {
                () = token.cancelled() => return,
                () = tokio::time::sleep(jittered(wait)) => {}
            }
            wait = (wait * 2).min(RESTART_LONGEST);
        }
    });
}

/// Completes when the member comes back after having been away; never without a health to look at.
async fn returned(health: &mut Option<watch::Receiver<Health>>) {
    let Some(receiver) = health else { return std::future::pending().await };
    let mut was_away = !matches!(*receiver.borrow_and_update(), Health::Ready | Health::Unknown);
    while receiver.changed().await.is_ok() {
        let is_ready = receiver.borrow_and_update().is_ready();
        if is_ready && was_away {
            return;
        }
        was_away |= !is_ready;
    }
    std::future::pending().await
}

/// A duration with 20 % jitter around it, so that a hundred members do not act at once.
#[must_use]
pub fn jittered(base: Duration) -> Duration {
    base.mul_f64(rand::rng().random_range(0.8..1.2))
}

#[cfg(test)]
mod tests {
    use super::{Health, supervise};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::{mpsc, watch};
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    #[tokio::test(start_paused = true)]
    async fn a_panicked_task_is_started_again_and_leaves_the_others_alone() {
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let starts = Arc::new(AtomicUsize::new(0));
        let (done, mut finished) = mpsc::channel(1);
        let counter = Arc::clone(&starts);
        supervise(&tracker, token.clone(), "flaky", None, move || {
            let (counter, done) = (Arc::clone(&counter), done.clone());
            async move {
                assert!(counter.fetch_add(1, Ordering::SeqCst) >= 2, "made to fail twice");
                done.send(()).await.expect("the test listens");
            }
        });
        finished.recv().await.expect("the third start succeeds");
        token.cancel();
        tracker.close();
        tracker.wait().await;
        assert!(starts.load(Ordering::SeqCst) >= 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_returns_gets_a_fresh_watch() {
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let (health, receiver) = watch::channel(Health::Ready);
        let (started, mut starts) = mpsc::channel(8);
        supervise(&tracker, token.clone(), "watch", Some(receiver), move || {
            let started = started.clone();
            async move {
                started.send(()).await.expect("the test listens");
                std::future::pending::<()>().await;
            }
        });
        starts.recv().await.expect("first start");
        let cause = super::super::health::Cause { reason: "Timeout", message: String::new() };
        health.send_replace(Health::Offline(cause));
        tokio::task::yield_now().await;
        health.send_replace(Health::Ready);
        starts.recv().await.expect("started again after the return");
        token.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
