//! The load generator itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;

use super::{Plan, Tally};

/// The most requests under way at once. What would exceed it counts as an error, so that a total stall cannot
/// use up the machine.
const MOST_UNDER_WAY: usize = 8_192;

type Sender = SendRequest<Empty<Bytes>>;

/// How one request ended.
enum Outcome {
    Answer { status: u16, cluster: String, zone: String, took: Duration },
    Broken(String),
    TimedOut,
}

/// Sends what `plan` says and calls `report` for each second, in order, once all its requests have ended. Ends
/// after the planned time or at SIGTERM, when all answers are in.
///
/// # Errors
/// When the signal handler cannot be installed, or with the first error of `report`.
pub async fn generate(
    plan: Plan,
    mut report: impl FnMut(&Tally) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let generator = Arc::new(Generator { plan, idle: Mutex::default(), book: Mutex::default() });
    let start = Instant::now();
    let begun =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / generator.plan.rate.max(1));
    // An open loop catches up: what was due while this process was not scheduled is still sent.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut reports = tokio::time::interval(Duration::from_millis(100));
    let planned = generator.plan.seconds.map(|seconds| seconds * u64::from(generator.plan.rate.max(1)));
    let mut due = 0;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = ticks.tick() => {
                if planned.is_some_and(|planned| due >= planned) {
                    break;
                }
                due += 1;
                send(&generator, start.elapsed().as_secs());
            }
            _ = reports.tick() => generator.report(begun, Some(start.elapsed().as_secs()), &mut report)?,
        }
    }
    while generator.under_way() > 0 {
        reports.tick().await;
    }
    generator.report(begun, None, &mut report)
}

fn send(generator: &Arc<Generator>, second: u64) {
    if !generator.begin(second) {
        return;
    }
    let generator = Arc::clone(generator);
    tokio::spawn(async move {
        let patience = Duration::from_millis(generator.plan.timeout_ms);
        let outcome = tokio::time::timeout(patience, generator.get()).await.unwrap_or(Outcome::TimedOut);
        generator.end(second, outcome);
    });
}

struct Generator {
    plan: Plan,
    idle: Mutex<Vec<Sender>>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// By second: what has ended, and how many have not.
    open: BTreeMap<u64, (Tally, u64)>,
    under_way: usize,
}

impl Generator {
    fn begin(&self, second: u64) -> bool {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let full = book.under_way >= MOST_UNDER_WAY;
        let (tally, open) = book.open.entry(second).or_default();
        tally.sent += 1;
        if full {
            tally.errors += 1;
            tally.note("not sent: too many requests under way");
        } else {
            *open += 1;
            book.under_way += 1;
        }
        !full
    }

    fn end(&self, second: u64, outcome: Outcome) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.under_way -= 1;
        let (tally, open) = book.open.entry(second).or_default();
        *open -= 1;
        match outcome {
            Outcome::Answer { status, cluster, zone, took } => {
                tally.slowest_ms = tally.slowest_ms.max(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
                if (200..300).contains(&status) {
                    tally.ok += 1;
                    *tally.by_cluster.entry(cluster).or_default() += 1;
                    *tally.by_zone.entry(zone).or_default() += 1;
                } else {
                    tally.non_2xx += 1;
                    *tally.by_status.entry(status).or_default() += 1;
                    tally.note(&format!("status {status}"));
                }
            }
            Outcome::Broken(message) => {
                tally.errors += 1;
                tally.note(&message);
            }
            Outcome::TimedOut => {
                tally.timeouts += 1;
                tally.note("timed out");
            }
        }
    }

    fn under_way(&self) -> usize {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).under_way
    }

    /// Reports the seconds before `now` of which nothing is under way; all that are left when `now` is `None`.
    fn report(
        &self,
        begun: u64,
        now: Option<u64>,
        report: &mut impl FnMut(&Tally) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        loop {
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(entry) = book.open.first_entry() else { return Ok(()) };
            let second = *entry.key();
            if entry.get().1 > 0 || now.is_some_and(|now| second >= now) {
                return Ok(());
            }
            let (tally, _) = entry.remove();
            drop(book);
            report(&Tally { second, unix_ms: begun + second * 1000, ..tally })?;
        }
    }

    async fn get(&self) -> Outcome {
        let start = Instant::now();
        match self.exchange().await {
            Ok(response) => {
                let header = |name: &str| {
                    response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
                };
                let (cluster, zone) = (header("x-cluster"), header("x-zone"));
                Outcome::Answer { status: response.status().as_u16(), cluster, zone, took: start.elapsed() }
            }
            Err(message) => Outcome::Broken(message),
        }
    }

    /// One request and its whole answer.
    async fn exchange(&self) -> Result<Response<()>, String> {
        loop {
            let (mut sender, reused) = match self.take_idle() {
                Some(sender) => (sender, true),
                None => (self.connect().await?, false),
            };
            let request = self.request().map_err(|e| format!("request: {e}"))?;
            let response: Response<Incoming> = match sender.send_request(request).await {
                Ok(response) => response,
                // The other side had closed an idle connection and nothing was sent: every client tries another.
                Err(error) if reused && error.is_canceled() => continue,
                Err(error) => return Err(format!("request: {}", chain(&error))),
            };
            let (parts, body) = response.into_parts();
            body.collect().await.map_err(|e| format!("body: {}", chain(&e)))?;
            if self.plan.keep_alive && !sender.is_closed() {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
            }
            return Ok(Response::from_parts(parts, ()));
        }
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The most recently used first; dead and not yet ready ones are dropped on the way.
        while let Some(sender) = idle.pop() {
            if sender.is_ready() && !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Sender, String> {
        let stream = TcpStream::connect(self.plan.target).await.map_err(|e| format!("connect: {e}"))?;
        stream.set_nodelay(true).ok();
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|e| format!("connect: {}", chain(&e)))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self) -> http::Result<Request<Empty<Bytes>>> {
        let request = Request::get(&self.plan.path).header(http::header::HOST, &self.plan.host);
        let request =
            if self.plan.keep_alive { request } else { request.header(http::header::CONNECTION, "close") };
        request.body(Empty::new())
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
