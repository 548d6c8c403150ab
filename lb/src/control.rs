//! Brings together what changes - snapshots, probes, names, demand, time - and replaces the table.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use meridian_core::{
    id::{ClusterName, SiteName},
    name::DnsName,
    snapshot::Snapshot,
    steer::{Mask, Why},
};
use meridian_feed::{follower::LoadSink, load::ServiceLoad};
use meridian_runtime::{
    admin::Readiness,
    probe::{ProberHandle, States},
};
use tokio::{
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use crate::{
    addresses::{self, Hosts},
    clock,
    drain::Drain,
    load::Averages,
    metrics::LbMetrics,
    probe,
    registry::Registry,
    table::{self, Inputs, Table},
    tls::Certificates,
};

/// Between two tables at least. The first change after a pause is compiled at once; of a burst, the last.
const GAP: Duration = Duration::from_millis(20);
/// How often demand is averaged and reported.
const TICK: Duration = Duration::from_secs(1);

/// Where changes come from.
#[derive(Debug)]
pub struct Sources {
    /// What the controller publishes; none until there is any.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Clusters that the probes find lost.
    pub lost: watch::Receiver<States>,
    /// Resolved names.
    pub hosts: watch::Receiver<Arc<Hosts>>,
}

/// What is told.
#[derive(Debug)]
pub struct Sinks {
    /// Requests are answered from it.
    pub table: Arc<ArcSwap<Table>>,
    /// Handshakes are answered from it.
    pub certificates: Arc<Certificates>,
    /// What is probed.
    pub probes: ProberHandle,
    /// What is resolved.
    pub names: watch::Sender<BTreeSet<DnsName>>,
    /// Where load is reported; none without a feed.
    pub loads: Option<LoadSink>,
    /// Ready as soon as there is a snapshot, however old.
    pub readiness: Readiness,
}

/// Compiles tables. One task owns it.
#[derive(Debug)]
pub struct Control {
    site: SiteName,
    sources: Sources,
    sinks: Sinks,
    metrics: LbMetrics,
    drain: Drain,
    registry: Registry,
    averages: Averages,
    mask: Mask<ClusterName>,
    is_site_known: bool,
}

impl Control {
    /// A control for the proxy at `site`.
    #[must_use]
    pub fn new(site: SiteName, sources: Sources, sinks: Sinks, metrics: LbMetrics, drain: Drain) -> Self {
        Self {
            site,
            sources,
            sinks,
            registry: Registry::new(metrics.clone()),
            metrics,
            drain,
            averages: Averages::default(),
            mask: Mask::new(),
            is_site_known: true,
        }
    }

    /// Runs until `token` is cancelled.
    pub async fn run(mut self, token: CancellationToken) {
        let mut tick = time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_tick = Instant::now();
        // What was there before this task ran is news too.
        self.sources.snapshots.mark_changed();
        loop {
            // A closed channel is a source that says nothing new; only the token ends this.
            tokio::select! {
                () = token.cancelled() => return,
                Ok(()) = self.sources.snapshots.changed() => self.take_snapshot(),
                Ok(()) = self.sources.lost.changed() => self.take_lost(),
                Ok(()) = self.sources.hosts.changed() => self.retarget(),
                now = tick.tick() => {
                    let is_due = self.measure(now - last_tick);
                    last_tick = now;
                    if !is_due {
                        continue;
                    }
                }
            }
            self.compile();
            time::sleep(GAP).await;
        }
    }

    fn snapshot(&mut self) -> Option<Arc<Snapshot>> {
        // Not marked as seen: a snapshot that arrives while another branch compiles must still be taken in.
        self.sources.snapshots.borrow().clone()
    }

    fn take_snapshot(&mut self) {
        let Some(snapshot) = self.snapshot() else { return };
        let bad = self.sinks.certificates.update(&snapshot);
        self.metrics.bad_certificates.set(i64::try_from(bad.len()).unwrap_or(i64::MAX));
        for (secret, error) in bad {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%secret, error, "Certificate cannot be used, its hosts get the fallback");
        }
        self.sinks.names.send_if_modified(|held| {
            let names = addresses::hostnames(&snapshot);
            let changed = *held != names;
            *held = names;
            changed
        });
        let is_known = snapshot.sites.contains_key(&self.site);
        if !is_known && self.is_site_known {
            tracing::warn!(site = %self.site, "No Site of this name: its place is unknown");
        }
        self.is_site_known = is_known;
        self.retarget();
    }

    fn take_lost(&mut self) {
        let lost = self.sources.lost.borrow_and_update().clone();
        let mask: Mask<ClusterName> =
            lost.iter().map(|(name, &why)| (ClusterName::from(name.as_str()), why)).collect();
        for (cluster, why) in &mask {
            let is_new = *why == Why::ProbeFailed && self.mask.get(cluster) != Some(why);
            if let Some(path) = self.registry.held_path(cluster).filter(|_| is_new) {
                path.forget_connections();
            }
        }
        self.mask = mask;
    }

    /// Tells the prober what stands for each cluster now.
    fn retarget(&mut self) {
        let Some(snapshot) = self.snapshot() else { return };
        let hosts = self.sources.hosts.borrow_and_update().clone();
        self.sinks.probes.set_targets(probe::targets(&snapshot, &hosts));
    }

    /// Averages and reports demand. True when the table follows it, or a dial has expired.
    fn measure(&mut self, elapsed: Duration) -> bool {
        self.averages.observe(self.registry.meters(), elapsed);
        self.metrics.in_flight.set(i64::try_from(self.drain.in_flight()).unwrap_or(i64::MAX));
        if let Some(loads) = &self.sinks.loads {
            let mut services = BTreeMap::new();
            for (key, rate) in self.averages.rates() {
                let in_flight = self.registry.meters().get(&key).map_or(0, |meter| meter.in_flight());
                services.insert(key, ServiceLoad { rate, in_flight });
            }
            loads.report(services);
        }
        let table = self.sinks.table.load();
        table.follows_demand || table.next_expiry.is_some_and(|expiry| clock::wall() >= expiry)
    }

    fn compile(&mut self) {
        let Some(snapshot) = self.snapshot() else { return };
        let hosts = self.sources.hosts.borrow().clone();
        let demand = self.averages.rates();
        let inputs = Inputs {
            snapshot: &snapshot,
            site: &self.site,
            mask: &self.mask,
            hosts: &hosts,
            demand: &demand,
            now: clock::wall(),
        };
        let started = Instant::now();
        let table = table::compile(inputs, &mut self.registry);
        self.metrics.compile_seconds.observe(started.elapsed().as_secs_f64());
        self.metrics.tables.inc();
        self.metrics.generation.set(table.generation.seq);
        let conflicts = table.routes.conflicts().len();
        self.metrics.route_conflicts.set(i64::try_from(conflicts).unwrap_or(i64::MAX));
        tracing::debug!(generation = %table.generation, routes = table.routes.routes().len(), "Table compiled");
        self.sinks.table.store(Arc::new(table));
        self.sinks.readiness.set_ready(true);
    }
}
