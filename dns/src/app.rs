//! The program: its arguments, and the only place that starts its tasks.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use clap::Parser;
use meridian_core::{
    id::SiteName,
    snapshot::{Role, Snapshot},
    time::Timestamp,
};
use meridian_feed::follower::{FeedArgs, FeedStatus, Follower};
use meridian_runtime::{
    admin::{Admin, AdminArgs, Readiness},
    metrics::Metrics,
    probe::{ProbeConfig, Prober, ProberHandle, States},
    tasks::Tasks,
    telemetry::LogArgs,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    choice::Masks,
    explain,
    handler::{Handler, State},
    metrics::Counts,
    probe,
    reload::Reloader,
    server::Listeners,
    view::View,
};

/// Where the admin port listens unless told otherwise.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9153);

/// How often the age of the snapshot is measured.
const AGE_INTERVAL: Duration = Duration::from_secs(1);

/// Authoritative DNS that answers each client with the nearest healthy place
#[derive(Clone, Debug, Parser)]
#[command(name = "meridian-dns", version)]
pub struct Args {
    /// Address to answer on, UDP and TCP; repeat it for each address of a host that has several
    #[arg(
        long,
        env = "MERIDIAN_LISTEN",
        value_name = "IP:PORT",
        value_delimiter = ',',
        default_value = "0.0.0.0:53"
    )]
    pub listen: Vec<SocketAddr>,

    /// MaxMind database (.mmdb) with coordinates or countries; reloaded when the file changes.
    /// Without one every client is taken to be at this server's Site
    #[arg(long, env = "MERIDIAN_GEOIP", value_name = "FILE")]
    pub geoip: Option<PathBuf>,

    /// Seconds that a place must look well again before it is answered with
    #[arg(long, env = "MERIDIAN_FAILBACK_HOLD", value_name = "SECONDS", default_value_t = 10)]
    pub failback_hold: u64,

    /// The feed of snapshots
    #[command(flatten)]
    pub feed: FeedArgs,

    /// The admin port
    #[command(flatten)]
    pub admin: AdminArgs,

    /// Logging
    #[command(flatten)]
    pub log: LogArgs,
}

/// Where a started server is reached.
#[derive(Clone, Debug)]
pub struct Started {
    /// Bound DNS addresses, in the order of [`Args::listen`].
    pub dns: Vec<SocketAddr>,
    /// Bound admin address.
    pub admin: SocketAddr,
    /// What it answers from.
    pub state: Arc<State>,
}

/// Starts the server's tasks and returns once its sockets are bound; it answers SERVFAIL until it has
/// a snapshot, from the feed or from the last-good file.
///
/// # Errors
/// If an address cannot be bound or the feed's arguments are wrong. A GeoIP file that cannot be used
/// is logged and waited for: an answer from unknown place is better than none.
pub async fn start(args: &Args, tasks: &Tasks) -> anyhow::Result<Started> {
    let metrics = Metrics::new();
    let state = Arc::new(State { counts: Counts::register(&metrics), ..State::default() });
    let readiness = Readiness::new();
    let follower = Follower::new(&args.feed, Role::Dns).context("preparing the feed")?;
    let listeners = Listeners::bind(&args.listen).await?;
    let admin = args.admin.bind(ADMIN).await?;
    let started = Started {
        dns: listeners.addresses().to_vec(),
        admin: admin.local_addr().context("reading the admin port's address")?,
        state: Arc::clone(&state),
    };

    let config = ProbeConfig { hold: Duration::from_secs(args.failback_hold), ..ProbeConfig::default() };
    let prober = Prober::new(config).with_metrics(&metrics);
    let views = Views {
        state: Arc::clone(&state),
        readiness: readiness.clone(),
        home: SiteName::from(args.feed.site.as_str()),
        prober: prober.handle(),
        reported: Vec::new(),
    };
    let (snapshots, states, status) = (follower.snapshots(), prober.handle().states(), follower.status());
    if let Some(path) = args.geoip.clone() {
        let mut reloader = Reloader::new(path, Arc::clone(&state));
        // Before the first query, so that no early answer is cached with a guessed place.
        reloader.poll().await;
        tasks.spawn("geoip", reloader.run(tasks.token()));
    }
    tasks.spawn("feed", follower.run(tasks.token()));
    tasks.spawn("probes", prober.run(tasks.token()));
    tasks.spawn("views", views.run(snapshots, states, tasks.token()));
    tasks.spawn("feed age", measure_age(Arc::clone(&state), status, tasks.token()));
    let pages = Admin::new(metrics, readiness).routes(explain::routes(Arc::clone(&state)));
    tasks.spawn("admin", pages.serve(admin, tasks.token()));
    tasks.spawn("dns", listeners.serve(Handler::new(state), tasks.token()));
    Ok(started)
}

/// Compiles views as snapshots, probe results and dials change, and swaps them in.
struct Views {
    state: Arc<State>,
    readiness: Readiness,
    home: SiteName,
    prober: ProberHandle,
    /// What could not be served at the last look, to log changes only.
    reported: Vec<String>,
}

impl Views {
    async fn run(
        mut self,
        mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
        mut states: watch::Receiver<States>,
        token: CancellationToken,
    ) -> anyhow::Result<()> {
        // What is held from the last-good file counts as a change.
        snapshots.mark_changed();
        loop {
            let expiry = self.until_expiry();
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        // The follower ended; what is held is still answered from.
                        token.cancelled().await;
                        return Ok(());
                    }
                    let snapshot = snapshots.borrow_and_update().clone();
                    if let Some(snapshot) = snapshot {
                        let masks = probe::masks(&states.borrow_and_update());
                        self.replace(snapshot, masks).await?;
                    }
                }
                changed = states.changed() => {
                    if changed.is_err() {
                        token.cancelled().await;
                        return Ok(());
                    }
                    let masks = probe::masks(&states.borrow_and_update());
                    self.refresh(masks).await?;
                }
                () = expiry => {
                    let masks = self.state.view.load().as_ref().map(|view| view.masks().clone());
                    self.refresh(masks.unwrap_or_default()).await?;
                }
            }
        }
    }

    /// Compiled off the runtime's threads: a fleet of thousands of names takes a while.
    async fn replace(&mut self, snapshot: Arc<Snapshot>, masks: Masks) -> anyhow::Result<()> {
        let home = Some(self.home.clone());
        let held = self.state.view.load_full();
        let compile = move || match held {
            Some(held) => held.succeeded_by(snapshot, masks, now()),
            None => View::compile(snapshot, masks, home, now()),
        };
        let view = tokio::task::spawn_blocking(compile).await.context("compiling a view")?;
        self.prober.set_targets(probe::targets(&view));
        self.report_unserved(&view);
        tracing::debug!(
            generation = %view.snapshot().generation,
            zones = view.snapshot().zones.len(),
            names = view.choices().count(),
            "Snapshot compiled"
        );
        self.swap(view);
        self.readiness.set_ready(true);
        Ok(())
    }

    async fn refresh(&mut self, masks: Masks) -> anyhow::Result<()> {
        let Some(held) = self.state.view.load_full() else { return Ok(()) };
        let refresh = move || held.refreshed(masks, now());
        let view = tokio::task::spawn_blocking(refresh).await.context("refreshing a view")?;
        self.swap(view);
        Ok(())
    }

    fn swap(&self, view: View) {
        let failed_open = view.choices().filter(|choice| choice.failed_open).count();
        self.state.counts.names_failed_open.set(i64::try_from(failed_open).unwrap_or(i64::MAX));
        self.state.view.store(Some(Arc::new(view)));
    }

    fn report_unserved(&mut self, view: &View) {
        let unserved: Vec<String> = view.unserved().iter().map(ToString::to_string).collect();
        self.state.counts.unserved.set(i64::try_from(unserved.len()).unwrap_or(i64::MAX));
        for reason in unserved.iter().filter(|reason| !self.reported.contains(reason)) {
            tracing::warn!(reason, "Part of a zone is not served");
        }
        self.reported = unserved;
    }

    /// Waits for the next dial of the held view to expire; for ever when none does.
    fn until_expiry(&self) -> impl Future<Output = ()> + use<> {
        let now = now();
        let expiry = self.state.view.load().as_ref().and_then(|view| view.next_expiry(now));
        async move {
            match expiry {
                Some(expiry) => tokio::time::sleep(expiry.since(now)).await,
                None => std::future::pending().await,
            }
        }
    }
}

async fn measure_age(state: Arc<State>, status: watch::Receiver<FeedStatus>, token: CancellationToken) {
    let mut ticks = tokio::time::interval(AGE_INTERVAL);
    while token.run_until_cancelled(ticks.tick()).await.is_some() {
        let status = status.borrow().clone();
        state.counts.feed_connected.set(i64::from(status.connected));
        // Without a snapshot there is no age; 0 would read as fresh.
        let age = status.age(SystemTime::now());
        state.counts.snapshot_age.set(age.map_or(f64::NAN, |age| age.as_secs_f64()));
    }
}

/// Wall-clock time: dials carry absolute moments.
fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
