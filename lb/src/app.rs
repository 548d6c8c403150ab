//! The process: arguments, runtimes, tasks. The only file that spawns.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use axum::{Json, Router, extract::Query, routing::get};
use clap::Parser;
use meridian_core::{
    id::SiteName,
    snapshot::{Role, Snapshot},
};
use meridian_feed::follower::{FeedArgs, FeedStatus, Follower, LoadSink};
use meridian_runtime::{
    admin::{Admin, AdminArgs, Readiness},
    crypto,
    metrics::Metrics,
    probe::{ProbeConfig, Prober},
    tasks::Tasks,
    telemetry::LogArgs,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Deserialize;
use tokio::{runtime, sync::watch, time};
use tokio_util::sync::CancellationToken;

use crate::{
    addresses::Hosts,
    clock::Clock,
    control::{Control, Sinks, Sources},
    drain::Drain,
    explain,
    forward::Pseudonym,
    listen::Listeners,
    metrics::LbMetrics,
    proxy::{Proxy, Timeouts},
    resolve,
    table::Table,
    tls::Certificates,
};

/// Where the admin port listens unless told.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9154);
/// How long tasks other than requests may take to end.
const TASKS_END: Duration = Duration::from_secs(3);

/// pingora's accept loop logs every broken handshake as an error, with the client's address: anybody could
/// fill the log, and addresses do not belong there. Whoever needs it names the module in `--log-level`.
const QUIET: &str = "pingora_core::services::listening";

/// Global L7 proxy: sends each request to the nearest cluster with room.
#[derive(Parser, Clone, Debug)]
#[command(name = "meridian-lb", version)]
pub struct Args {
    #[command(flatten)]
    feed: FeedArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    admin: AdminArgs,
    #[command(flatten)]
    serve: ServeArgs,
}

/// How requests are served.
#[derive(clap::Args, Clone, Debug)]
pub struct ServeArgs {
    /// Address for plain HTTP; repeatable; port 0 takes a free one
    #[arg(
        long,
        env = "MERIDIAN_HTTP_LISTEN",
        value_name = "IP:PORT",
        value_delimiter = ',',
        default_value = "0.0.0.0:80"
    )]
    pub http_listen: Vec<SocketAddr>,

    /// Address for HTTPS (HTTP/1.1 and HTTP/2); repeatable
    #[arg(long, env = "MERIDIAN_HTTPS_LISTEN", value_name = "IP:PORT", value_delimiter = ',')]
    pub https_listen: Vec<SocketAddr>,

    /// Threads that serve requests; 0 is one per core
    #[arg(long, env = "MERIDIAN_WORKERS", default_value_t = 0)]
    pub workers: usize,

    /// How long an endpoint may take to accept a connection before the next cluster is tried
    #[arg(long, env = "MERIDIAN_CONNECT_TIMEOUT", default_value = "500ms", value_parser = duration)]
    pub connect_timeout: Duration,

    /// How long an endpoint may be silent while it answers
    #[arg(long, env = "MERIDIAN_READ_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub read_timeout: Duration,

    /// How long sent bytes may stay unacknowledged before a connection to an endpoint counts as dead
    #[arg(long, env = "MERIDIAN_DEAD_AFTER", default_value = "2s", value_parser = duration)]
    pub dead_after: Duration,

    /// How long a connection to an endpoint is kept unused
    #[arg(long, env = "MERIDIAN_IDLE_TIMEOUT", default_value = "60s", value_parser = duration)]
    pub idle_timeout: Duration,

    /// How long a cluster that was lost must look well before it gets requests again
    #[arg(long, env = "MERIDIAN_FAILBACK_HOLD", default_value = "10s", value_parser = duration)]
    pub failback_hold: Duration,

    /// How long to go on accepting after SIGTERM, with the health page at 503, so that others notice
    #[arg(long, env = "MERIDIAN_DRAIN_DELAY", default_value = "0s", value_parser = duration)]
    pub drain_delay: Duration,

    /// How long requests in flight may take to finish after that
    #[arg(long, env = "MERIDIAN_DRAIN_DEADLINE", default_value = "25s", value_parser = duration)]
    pub drain_deadline: Duration,
}

/// Where snapshots come from and load goes.
#[derive(Debug)]
pub struct Source {
    /// Snapshots; none until there is any.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Where to report load.
    pub loads: Option<LoadSink>,
    /// How the feed stands.
    pub status: Option<watch::Receiver<FeedStatus>>,
}

/// A proxy that serves.
#[derive(Debug)]
pub struct Lb {
    /// Addresses for plain HTTP, in the order given.
    pub http: Vec<SocketAddr>,
    /// Addresses for HTTPS, in the order given.
    pub https: Vec<SocketAddr>,
    /// Address of the admin port.
    pub admin: SocketAddr,
    drain: Drain,
    stop: watch::Sender<bool>,
    serve: ServeArgs,
}

impl Lb {
    /// Starts serving at `site`. Requests run on `data`, everything else on the current runtime.
    ///
    /// # Errors
    /// If an address cannot be bound or TLS cannot be prepared.
    pub async fn start(
        site: SiteName,
        serve: ServeArgs,
        admin: &AdminArgs,
        source: Source,
        tasks: &Tasks,
        data: &runtime::Handle,
    ) -> anyhow::Result<Self> {
        crypto::install();
        let listeners = Listeners::bind(&serve.http_listen, &serve.https_listen)?;
        let admin_listener = admin.bind(ADMIN).await?;
        let (http, https) = (listeners.http().collect(), listeners.https().collect());
        let admin_address = admin_listener.local_addr()?;

        let metrics = Metrics::new();
        let lb_metrics = LbMetrics::new(&metrics);
        let (readiness, drain, clock) = (Readiness::new(), Drain::default(), Clock::start());
        let table: Arc<ArcSwap<Table>> = Arc::default();
        let certificates = Arc::new(Certificates::new()?);
        let config = ProbeConfig { hold: serve.failback_hold, ..ProbeConfig::default() };
        let prober = Prober::new(config).with_metrics(&metrics);
        let (names, names_seen) = watch::channel(BTreeSet::new());
        let (hosts, hosts_seen) = watch::channel(Arc::new(Hosts::new()));

        let sources =
            Sources { snapshots: source.snapshots, lost: prober.handle().states(), hosts: hosts_seen };
        let sinks = Sinks {
            table: Arc::clone(&table),
            certificates: Arc::clone(&certificates),
            probes: prober.handle(),
            names,
            loads: source.loads,
            readiness: readiness.clone(),
        };
        let control = Control::new(site.clone(), sources, sinks, lb_metrics.clone(), drain.clone());
        let proxy = Proxy {
            table: Arc::clone(&table),
            timeouts: timeouts(&serve),
            pseudonym: Pseudonym::of_site(site.as_str()),
            drain: drain.clone(),
            clock,
            metrics: lb_metrics.clone(),
        };
        let edge = listeners.service(proxy, &certificates)?;

        let (stop, stopped) = watch::channel(false);
        let serving = data.spawn(edge.serve(stopped));
        tasks.spawn("serve", serving);
        tasks.spawn("control", control.run(tasks.token()));
        tasks.spawn("probe", prober.run(tasks.token()));
        tasks.spawn("resolve", resolve::run(names_seen, hosts, tasks.token()));
        if let Some(status) = source.status {
            tasks.spawn("age", watch_age(status, lb_metrics, tasks.token()));
        }
        let pages = Admin::new(metrics, readiness).routes(pages(table, site.clone(), clock));
        tasks.spawn("admin", pages.serve(admin_listener, tasks.token()));
        tracing::info!(%site, ?http, ?https, "Proxy is open");
        Ok(Self { http, https, admin: admin_address, drain, stop, serve })
    }

    /// Stops accepting and waits for requests in flight, as long as the arguments say. Returns how many
    /// were cut off.
    pub async fn drain(self) -> u64 {
        self.drain.begin();
        time::sleep(self.serve.drain_delay).await;
        self.stop.send_replace(true);
        // A deadline that passes is no error of this process: what is left is counted and cut.
        let _ = time::timeout(self.serve.drain_deadline, self.drain.finished()).await;
        let left = self.drain.in_flight();
        if left > 0 {
            tracing::warn!(requests = left, "Drain deadline has passed, requests are cut off");
        }
        left
    }
}

/// Runs the process until it is told to stop.
///
/// # Errors
/// Wrong arguments, an address that cannot be bound, or a task that failed.
pub fn run(mut args: Args) -> anyhow::Result<()> {
    if !args.log.log_level.contains(QUIET) {
        args.log.log_level = format!("{QUIET}=off,{}", args.log.log_level);
    }
    meridian_runtime::telemetry::init(&args.log);
    raise_file_limit();
    crypto::install();
    let workers = match args.serve.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        workers => workers,
    };
    // Two runtimes: a burst of snapshots or probes must not delay requests.
    let data = runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("proxy")
        .enable_all()
        .build()
        .context("starting the runtime of the proxy")?;
    let control = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    let outcome = control.block_on(serve(args, data.handle()));
    data.shutdown_background();
    outcome
}

async fn serve(args: Args, data: &runtime::Handle) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let site = SiteName::from(args.feed.site.as_str());
    let follower = Follower::new(&args.feed, Role::Lb)?;
    let source = Source {
        snapshots: follower.snapshots(),
        loads: Some(follower.loads()),
        status: Some(follower.status()),
    };
    tasks.spawn("feed", follower.run(tasks.token()));
    let lb = Lb::start(site, args.serve, &args.admin, source, &tasks, data).await?;
    tasks.until_shutdown().await?;
    lb.drain().await;
    tasks.finish(TASKS_END).await?;
    Ok(())
}

fn timeouts(args: &ServeArgs) -> Timeouts {
    Timeouts {
        connect: args.connect_timeout,
        read: args.read_timeout,
        write: args.read_timeout,
        idle: args.idle_timeout,
        dead_after: args.dead_after,
    }
}

/// Keeps the age of the snapshot as a metric.
async fn watch_age(status: watch::Receiver<FeedStatus>, metrics: LbMetrics, token: CancellationToken) {
    let mut tick = time::interval(Duration::from_secs(1));
    while token.run_until_cancelled(tick.tick()).await.is_some() {
        let age = status.borrow().age(SystemTime::now());
        metrics.snapshot_age_seconds.set(age.map_or(0.0, |age| age.as_secs_f64()));
    }
}

#[derive(Debug, Deserialize)]
struct Question {
    host: Option<String>,
    #[serde(default = "root")]
    path: String,
}

fn root() -> String {
    "/".to_owned()
}

fn pages(table: Arc<ArcSwap<Table>>, site: SiteName, clock: Clock) -> Router {
    let for_routes = Arc::clone(&table);
    let explain = async move |Query(question): Query<Question>| {
        let Question { host, path } = question;
        Json(explain::explain(&table.load(), &site, host.as_deref(), &path, clock.now()))
    };
    Router::new()
        .route("/explain", get(explain))
        .route("/routes", get(async move || Json(explain::routes(&for_routes.load()))))
}

/// Takes all file descriptors the system allows: the usual soft limit of 1,024 is 500 requests at a time.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => tracing::debug!(files = limit.maximum, "Limit of open files raised"),
        Err(error) => tracing::warn!(%error, files = limit.current, "Limit of open files stays low"),
    }
}

/// `500ms`, `2s`, `1m`; a number alone is seconds, as other binaries have it.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" => 60_000,
        _ => return Err(format!("{text:?} is no duration such as 500ms, 2s or 1m")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} has no number"))?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn durations_are_read_with_and_without_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2s"), Ok(Duration::from_secs(2)));
        assert_eq!(duration("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        for text in ["", "s", "1h", "-1s", "99999999999999999999s", "18446744073709551615m"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
