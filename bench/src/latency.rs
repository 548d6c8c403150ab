//! `latency`: from the change of an EndpointSlice to the first changed DNS answer and the first changed route.
//!
//! ```text
//! the only pod of the nearest region turns unready, later ready again
//!   -> its cluster's own controller changes the EndpointSlice
//!        -> a watch of this program sees it                       time 0
//!        -> the controller's watch -> snapshot -> feed -> DNS and proxy
//!             -> loops of this program, a question each millisecond  the first changed answer, the first changed route
//! ```
//! Time 0 is the event as a watch in this program sees it, not the return of a write: nobody outside the member's
//! control plane knows when its controller wrote. Both watches are served by the same API server, so what is measured
//! is Meridian's own path.

mod poll;
mod question;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::watcher::{Config, Event, watcher};
use meridian_tests::bed::{Bed, BedSpec, HUB, Member};
use meridian_tests::namespace::Inside;
use meridian_tests::wait::wait_until;
use meridian_tests::walkthrough::clients::{HOST, SERVICE, TAIWAN};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::product;
use crate::report::{Report, quantile};
use poll::{Dns, Poll, Route};

const MANIFESTS: &str = include_str!("../manifests/latency.yaml");
const NAMESPACE: &str = "shop";
const SITE: &str = "asia";
/// The region that is nearest to the client and to the site.
const NEAREST: &str = "asia-east1";
/// How long one step of one flip may take.
const FLIP_WITHIN: Duration = Duration::from_secs(20);

/// Above this, a single delay is told of: a promise of one second is in danger.
const SLOW_MS: f64 = 500.0;

/// How much to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// Events in each direction
    #[arg(long, default_value_t = 60)]
    pub events: usize,
}

/// The delays of one direction, in milliseconds.
#[derive(Debug, Default)]
struct Delays {
    answer_ms: Vec<f64>,
    route_ms: Vec<f64>,
}

/// Runs the benchmark.
///
/// # Errors
/// When something does not start, or an answer does not change.
pub async fn run(inside: &Inside, plan: &Plan) -> anyhow::Result<Report> {
    let spec = BedSpec { sites: vec![SITE.to_owned()], ..BedSpec::default() };
    let bed = Bed::start(inside, spec).await.context("starting the bed")?;
    let outcome = measure(&bed, plan).await;
    outcome.with_context(|| format!("the ends of the logs:\n{}", bed.log_tails(12)))
}

async fn measure(bed: &Bed, plan: &Plan) -> anyhow::Result<Report> {
    let _product = product::start(bed).await?;
    bed.apply(HUB, MANIFESTS).await?;
    let member = bed.member(NEAREST);
    let pod = only_pod(member).await?;

    let site = bed.site(SITE).address();
    let client: Ipv4Addr = TAIWAN.parse().context("a client's address")?;
    let mut answer = Poll::start(Dns::new(SocketAddr::from((site, 53)), SERVICE, client).await?);
    let mut route = Poll::start(Route::new(SocketAddr::from((site, 80)), HOST));
    let near = |address: &str| {
        let address: Result<Ipv4Addr, _> = address.parse();
        address.is_ok_and(|address| member.cluster.net().load_balancers().contains(&address))
    };
    answer.until(product::PATIENCE, near).await.context("waiting for an answer of the nearest region")?;
    route.until(product::PATIENCE, |cluster| cluster == NEAREST).await.context("waiting for a route")?;
    let mut slices = Slices::start(member).await?;

    let (mut leaving, mut returning) = (Delays::default(), Delays::default());
    let started = (answer.counts(), route.counts());
    for event in 0..plan.events {
        for (ready, delays) in [(false, &mut leaving), (true, &mut returning)] {
            tokio::time::sleep(pause(event, ready)).await;
            member.kubelet.set_ready(NAMESPACE, &pod, ready).await?;
            let changed = slices.until_ready(ready).await?;
            let what = || format!("event {event}, ready={ready}");
            let seen = answer.until(FLIP_WITHIN, |address| near(address) == ready).await;
            let answer_ms = ms(changed, seen.with_context(|| format!("DNS, {}", what()))?.since);
            let seen = route.until(FLIP_WITHIN, |cluster| (cluster == NEAREST) == ready).await;
            let route_ms = ms(changed, seen.with_context(|| format!("route, {}", what()))?.since);
            if answer_ms.max(route_ms) > SLOW_MS {
                crate::progress(&format!(
                    "{}: answer after {answer_ms:.0} ms, route after {route_ms:.0} ms",
                    what()
                ));
            }
            delays.answer_ms.push(answer_ms);
            delays.route_ms.push(route_ms);
        }
    }
    for (what, before, after) in [("DNS", started.0, answer.counts()), ("HTTP", started.1, route.counts())] {
        crate::progress(&format!("{what}: {} questions, {} failed", after.0 - before.0, after.1 - before.1));
    }
    Ok(report(&leaving, &returning))
}

/// The pause before a flip: of changing length, so that no period of the product's is met in the same phase each
/// time. The pod is home for longer than the name server's probe interval (750 ms): while it is away its cluster's
/// load balancer refuses, and three probes that met nothing but absences would put the cluster on hold.
fn pause(event: usize, ready: bool) -> Duration {
    let least = if ready { 100 } else { 900 };
    Duration::from_millis(least + (event as u64 * 37) % 100)
}

fn report(leaving: &Delays, returning: &Delays) -> Report {
    let mut report = Report::default();
    for (prefix, delays) in [("", leaving), ("return-", returning)] {
        for (case, part) in [("p50", 0.5), ("p99", 0.99)] {
            let case = format!("{prefix}{case}");
            report.add(&case, "meridian", "event_to_answer_ms", "ms", quantile(&delays.answer_ms, part));
            report.add(&case, "meridian", "event_to_route_ms", "ms", quantile(&delays.route_ms, part));
        }
    }
    report
}

/// Zero when the answer had changed before our own watch saw the event.
fn ms(event: Instant, seen: Instant) -> f64 {
    seen.saturating_duration_since(event).as_secs_f64() * 1000.0
}

/// Waits for the one pod of a member to be ready and names it.
async fn only_pod(member: &Member) -> anyhow::Result<String> {
    wait_until("the pod to be ready", product::PATIENCE, async || {
        let pods = member.kubelet.pods().await?;
        let ours: Vec<_> = pods.into_iter().filter(|pod| pod.namespace == NAMESPACE).collect();
        ensure!(ours.len() <= 1, "there are {} pods", ours.len());
        Ok(ours.into_iter().find(|pod| pod.ready).map(|pod| pod.name))
    })
    .await
}

/// The EndpointSlices of the Service, as a watch of our own sees them.
#[derive(Debug)]
struct Slices {
    events: mpsc::UnboundedReceiver<(bool, Instant)>,
    _watch: AbortOnDropHandle<()>,
}

impl Slices {
    /// Starts the watch and waits until it shows a ready endpoint.
    async fn start(member: &Member) -> anyhow::Result<Self> {
        let client = member.cluster.client_as("bench-watch").await?;
        let api = Api::<EndpointSlice>::namespaced(client, NAMESPACE);
        // Unbounded: there are two events for each of ours.
        let (tell, events) = mpsc::unbounded_channel();
        let watch = tokio::spawn(async move {
            let config = Config::default().labels("kubernetes.io/service-name=web");
            let mut changes = std::pin::pin!(watcher(api, config));
            while let Some(change) = changes.next().await {
                let at = Instant::now();
                if let Ok(Event::Apply(slice) | Event::InitApply(slice)) = change
                    && tell.send((has_ready(&slice), at)).is_err()
                {
                    return;
                }
            }
        });
        let mut slices = Self { events, _watch: AbortOnDropHandle::new(watch) };
        slices.until_ready(true).await?;
        Ok(slices)
    }

    /// When the slice was first seen with, or without, a ready endpoint.
    async fn until_ready(&mut self, wanted: bool) -> anyhow::Result<Instant> {
        let next = async {
            while let Some((ready, at)) = self.events.recv().await {
                if ready == wanted {
                    return Ok(at);
                }
            }
            bail!("the watch of EndpointSlices has ended")
        };
        let found = tokio::time::timeout(FLIP_WITHIN, next).await;
        found.with_context(|| format!("no EndpointSlice became ready={wanted} within {FLIP_WITHIN:?}"))?
    }
}

fn has_ready(slice: &EndpointSlice) -> bool {
    let ready = |condition: Option<bool>| condition.unwrap_or(true);
    slice
        .endpoints
        .iter()
        .flatten()
        .any(|endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| ready(conditions.ready)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_directions_are_reported_apart() {
        let delays = |ms: f64| Delays { answer_ms: vec![ms; 3], route_ms: vec![ms + 1.0; 3] };
        let report = report(&delays(10.0), &delays(20.0));
        let value = |case: &str, metric: &str| {
            report.rows().iter().find(|row| row.case == case && row.metric == metric).map(|row| row.value)
        };
        assert_eq!(value("p50", "event_to_answer_ms"), Some(10.0));
        assert_eq!(value("return-p99", "event_to_route_ms"), Some(21.0));
    }
}
