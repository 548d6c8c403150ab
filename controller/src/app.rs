//! The controller as a whole: reads its settings, waits to lead, starts every part. The only file that spawns
//! top-level tasks.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use meridian_feed::server::{FeedServer, TlsFiles};
use meridian_runtime::admin::{Admin, AdminArgs, Readiness};
use meridian_runtime::metrics::Metrics;
use meridian_runtime::tasks::Tasks;
use meridian_runtime::telemetry::LogArgs;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::lease::{Lease, Timing};
use crate::{discover, fleet, hub, propagate};

/// Where the admin port listens unless told otherwise.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);
/// How long the parts may take to end at shutdown.
const FAREWELL: Duration = Duration::from_secs(10);

/// Joins many Kubernetes clusters into one: watches the fleet, propagates objects, discovers services.
#[derive(Clone, Debug, Parser)]
#[command(name = "meridian-controller", version)]
pub struct Args {
    /// Kubeconfig of the hub; without it the cluster that the process runs in, or the default kubeconfig
    #[arg(long, env = "MERIDIAN_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig
    #[arg(long, env = "MERIDIAN_CONTEXT", value_name = "NAME")]
    pub context: Option<String>,

    /// Namespace of Meridian's own objects on the hub: the leader's Lease
    #[arg(long, env = "MERIDIAN_NAMESPACE", default_value = "meridian-system", value_name = "NAME")]
    pub namespace: String,

    /// Namespace of KubeFedClusters, FederatedTypeConfigs and KubeFedConfig on the hub
    #[arg(
        long,
        env = "MERIDIAN_KUBEFED_NAMESPACE",
        default_value = meridian_api::kubefed::DEFAULT_NAMESPACE,
        value_name = "NAME"
    )]
    pub kubefed_namespace: String,

    /// Apply all CustomResourceDefinitions and default FederatedTypeConfigs before anything else
    #[arg(long, env = "MERIDIAN_INSTALL_CRDS")]
    pub install_crds: bool,

    /// Milliseconds between two health probes of a member
    #[arg(long, env = "MERIDIAN_PROBE_INTERVAL_MS", default_value_t = 3000, value_parser = clap::value_parser!(u64).range(100..=60_000), value_name = "MS")]
    pub probe_interval_ms: u64,

    /// Seconds without renewal after which another controller may lead
    #[arg(long, env = "MERIDIAN_LEASE_DURATION_S", default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=3600), value_name = "S")]
    pub lease_duration_s: u64,

    /// Address of the feed that edges follow; beyond loopback it needs the three TLS files; without it no
    /// snapshot is served
    #[arg(long, env = "MERIDIAN_FEED_LISTEN", value_name = "IP:PORT")]
    pub feed_listen: Option<SocketAddr>,

    /// PEM file: certificate chain of the feed
    #[arg(long, env = "MERIDIAN_FEED_TLS_CERT", value_name = "FILE", requires_all = ["feed_tls_key", "feed_tls_ca"])]
    pub feed_tls_cert: Option<PathBuf>,

    /// PEM file: private key of that certificate
    #[arg(long, env = "MERIDIAN_FEED_TLS_KEY", value_name = "FILE", requires = "feed_tls_cert")]
    pub feed_tls_key: Option<PathBuf>,

    /// PEM file: certificates that edges' certificates must come from
    #[arg(long, env = "MERIDIAN_FEED_TLS_CA", value_name = "FILE", requires = "feed_tls_cert")]
    pub feed_tls_ca: Option<PathBuf>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub admin: AdminArgs,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub log: LogArgs,
}

/// Runs the controller until it is told to stop, loses its lease, or a part fails.
///
/// # Errors
/// If the hub cannot be reached at the start, a part fails, or parts do not end in time.
pub async fn run(args: Args, tasks: Tasks) -> anyhow::Result<()> {
    let client = hub::connect(args.kubeconfig.as_deref(), args.context.as_deref()).await?;
    if args.install_crds {
        hub::install(&client, &[&args.namespace], &args.kubefed_namespace)
            .await
            .context("installing definitions")?;
        tracing::info!("Definitions installed");
    }

    let readiness = Readiness::new();
    let metrics = Metrics::new();
    let listener = args.admin.bind(ADMIN).await?;
    let admin = Admin::new(metrics.clone(), readiness.clone());
    tasks.spawn("admin", admin.serve(listener, tasks.token()));

    let timing = Timing { duration: Duration::from_secs(args.lease_duration_s) };
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "meridian-controller".to_owned());
    let lease = Lease::new(client.clone(), &args.namespace, &host, timing);
    let stop = tasks.token();
    let until_lead = async {
        tokio::select! {
            held = lease.acquire(&stop) => Ok(held),
            // Signals must end a follower too.
            ended = tasks.until_shutdown() => ended.map(|()| None),
        }
    };
    let Some(held) = until_lead.await? else {
        return Ok(tasks.finish(FAREWELL).await?);
    };
    let term = held.term();
    tracing::info!(term, "Leading");

    let settings = fleet::Settings {
        kubefed_namespace: args.kubefed_namespace.clone(),
        probe_interval: Duration::from_millis(args.probe_interval_ms),
    };
    let (fleet, registry) = fleet::new(client.clone(), settings);
    tasks.spawn("fleet", tracked(tasks.token(), |tracker, token| registry.run(tracker, token)));
    let propagating = propagate::Settings { kubefed_namespace: args.kubefed_namespace.clone() };
    let (hub, view) = (client.clone(), fleet.clone());
    tasks.spawn(
        "propagate",
        tracked(tasks.token(), |tracker, token| propagate::run(hub, view, propagating, tracker, token)),
    );
    let (discovery, outlets) = discover::new(client.clone(), fleet.clone(), term);
    let feed = FeedServer::new(outlets.snapshots, outlets.loads);
    let discovery = discovery.outranking(feed.highest_held()).with_metrics(&metrics);
    if let Some(address) = args.feed_listen {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("binding the feed to {address}"))?;
        tasks.spawn("feed", feed.serve(listener, feed_files(&args), tasks.token()));
    }
    tasks.spawn("discover", tracked(tasks.token(), |tracker, token| discovery.run(tracker, token)));
    let ready = {
        let (fleet, readiness) = (fleet.clone(), readiness.clone());
        async move { readiness.set_ready(fleet.synced().await) }
    };
    tasks.spawn("readiness", ready);

    // Renewed to the end: the lease is given back only after every part has stopped.
    let renewing = tokio_util::sync::CancellationToken::new();
    let holding = lease.hold(held, &renewing);
    tokio::pin!(holding);
    let lost = tokio::select! {
        ended = tasks.until_shutdown() => { ended?; None }
        outcome = &mut holding => outcome.err(),
    };
    if let Some(lost) = lost {
        // Another process may lead already: stop now, restart as a follower.
        let _ = tasks.finish(Duration::from_secs(1)).await;
        return Err(lost.into());
    }
    let ended = tasks.finish(FAREWELL).await;
    renewing.cancel();
    if let Ok(held) = holding.await {
        lease.release(held).await;
    }
    Ok(ended?)
}

/// The feed's TLS files; clap takes all three or none.
fn feed_files(args: &Args) -> Option<TlsFiles> {
    let (cert, key, ca) = (&args.feed_tls_cert, &args.feed_tls_key, &args.feed_tls_ca);
    Some(TlsFiles { cert: cert.clone()?, key: key.clone()?, ca: ca.clone()? })
}

/// Runs a part that spawns tasks of its own on a tracker, and waits for those too.
async fn tracked<F, Fut>(token: tokio_util::sync::CancellationToken, part: F)
where
    F: FnOnce(TaskTracker, tokio_util::sync::CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let tracker = TaskTracker::new();
    part(tracker.clone(), token).await;
    tracker.close();
    tracker.wait().await;
}
