//! The engine: one task that owns the index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff;
use kube::{Api, Client};
use meridian_core::id::{ClusterName, ObjectKey};
use meridian_core::index::{self, Fault, Index};
use meridian_core::snapshot::{Role, Snapshot};
use meridian_core::time::Timestamp;
use meridian_feed::server::SiteLoad;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Discovery;
use super::events;
use super::hub::{self, HubChange, Told};
use super::members::{Followed, MemberChange};
use super::metrics::Counts;
use super::status::{self, Seen, Statuses};
use super::vips::{self, Shown};
use super::writer::{self, Wanted};
use crate::call::{self, within};
use crate::convert::member;
use crate::fleet::{Change, Members, jittered};

/// Facts that may wait. A full queue holds the watches back, which the API servers bound.
const QUEUE: usize = 1024;
/// Facts taken in at once.
const BATCH: usize = 512;
/// Shortest time between two publications: a burst becomes few, and a single event none the slower.
const PUBLISH_PAUSE: Duration = Duration::from_millis(20);
/// How long the first publication waits for members that answer but whose lists are slow.
const GRACE: Duration = Duration::from_secs(15);
/// Pause between attempts to learn who the hub is.
const RETRY: Duration = Duration::from_secs(1);

/// What the engine is told.
#[derive(Debug)]
pub(super) enum Message {
    Hub(HubChange),
    /// A watch of the hub began to fail.
    HubFault {
        kind: &'static str,
        error: String,
    },
    /// The hub does not define a kind: there is no list to wait for.
    HubAbsent {
        kind: &'static str,
    },
    Member {
        cluster: ClusterName,
        epoch: u64,
        change: MemberChange,
    },
    /// Health or nodes of a member changed.
    Seen {
        cluster: ClusterName,
        epoch: u64,
    },
}

/// Runs discovery.
pub(super) async fn run(discovery: Discovery, tracker: TaskTracker, token: CancellationToken) {
    let Discovery { hub, fleet, term, snapshots, mut loads, mut held, metrics } = discovery;
    let Some(uid) = token.run_until_cancelled(hub_uid(&hub)).await else { return };
    let (sink, mut messages) = mpsc::channel(QUEUE);
    hub::watch(&hub, &tracker, &token, &sink);
    let (wanted, wanted_seen) = watch::channel(Arc::new(Wanted::new()));
    let (faults, faults_seen) = mpsc::channel(events::QUEUE);
    let recording = events::run(hub.clone(), faults_seen);
    let writing = writer::run(hub, fleet.clone(), wanted_seen);
    let end = token.clone();
    tracker.spawn(async move { end.run_until_cancelled(writing).await });
    let end = token.clone();
    tracker.spawn(async move { end.run_until_cancelled(recording).await });

    let mut engine = Engine::new(Index::new(uid, term), snapshots, wanted, faults, sink, metrics);
    let mut members = fleet.members();
    members.mark_changed();
    let (mut is_held_open, mut is_fleet_open) = (true, true);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let due = engine.due();
        let pause = async move {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = token.cancelled() => return,
            changed = members.changed(), if is_fleet_open => {
                is_fleet_open = changed.is_ok();
                let current = members.borrow_and_update().clone();
                if let Some(current) = current {
                    engine.follow(&current);
                }
            }
            changed = held.changed(), if is_held_open => {
                is_held_open = changed.is_ok();
                let generations = held.borrow_and_update().clone();
                engine.outrank(generations.values());
            }
            () = pause => engine.publish(),
            Some(load) = loads.recv() => engine.load(&load),
            received = messages.recv_many(&mut batch, BATCH) => {
                if received == 0 {
                    return;
                }
                for message in batch.drain(..) {
                    engine.take_in(message);
                }
            }
        }
    }
}

/// UID of the hub's `kube-system`: what makes generations of one hub comparable. Tries until it is known.
async fn hub_uid(hub: &Client) -> String {
    let api: Api<Namespace> = Api::all(hub.clone());
    loop {
        match within(call::WRITE, api.get("kube-system")).await {
            Ok(Namespace { metadata, .. }) => {
                if let Some(uid) = metadata.uid {
                    return uid;
                }
            }
            Err(error) => tracing::warn!(error = %error.message(), "Hub's identity cannot be read"),
        }
        tokio::time::sleep(jittered(RETRY)).await;
    }
}

struct Engine {
    index: Index,
    snapshots: watch::Sender<Arc<Snapshot>>,
    wanted: watch::Sender<Arc<Wanted>>,
    faults: mpsc::Sender<(ObjectKey, Fault)>,
    /// Faults of FederatedIngresses that were told.
    told: BTreeMap<ObjectKey, Fault>,
    sink: mpsc::Sender<Message>,
    metrics: Counts,
    members: BTreeMap<ClusterName, Followed>,
    next_epoch: u64,
    /// Kinds of the hub whose list was not read yet.
    unread_kinds: BTreeSet<&'static str>,
    has_fleet: bool,
    statuses: Statuses,
    shown: Shown,
    /// Since when there is something that was not looked at; none if all is published.
    pending: Option<Instant>,
    /// Whether statuses have to be compared again.
    review: bool,
    last_publish: Option<Instant>,
    /// When all that was left to wait for were members.
    complete_since: Option<Instant>,
}

impl Engine {
    fn new(
        index: Index,
        snapshots: watch::Sender<Arc<Snapshot>>,
        wanted: watch::Sender<Arc<Wanted>>,
        faults: mpsc::Sender<(ObjectKey, Fault)>,
        sink: mpsc::Sender<Message>,
        metrics: Counts,
    ) -> Self {
        Self {
            index,
            snapshots,
            wanted,
            faults,
            told: BTreeMap::new(),
            sink,
            metrics,
            members: BTreeMap::new(),
            next_epoch: 0,
            unread_kinds: hub::KINDS.into(),
            has_fleet: false,
            statuses: Statuses::default(),
            shown: Shown::default(),
            pending: Some(Instant::now()),
            review: true,
            last_publish: None,
            complete_since: None,
        }
    }

    /// When to publish next; none while there is nothing to publish or too little was read.
    fn due(&mut self) -> Option<Instant> {
        let pending = self.pending?;
        if let Some(last) = self.last_publish {
            return Some(pending.max(last + PUBLISH_PAUSE));
        }
        if !self.has_fleet || !self.unread_kinds.is_empty() {
            return None;
        }
        let since = *self.complete_since.get_or_insert_with(Instant::now);
        let waits = self.members.values().any(|followed| !followed.is_read() && followed.may_answer());
        Some(if waits { since + GRACE } else { pending })
    }

    fn touch(&mut self) {
        self.pending.get_or_insert_with(Instant::now);
    }

    fn follow(&mut self, current: &Members) {
        self.has_fleet = true;
        let is_gone = |(name, followed): &(&ClusterName, &Followed)| {
            current.get(*name).is_none_or(|member| followed.is_another(member))
        };
        let gone: Vec<ClusterName> =
            self.members.iter().filter(is_gone).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.members.remove(&name);
            self.index.remove_member(&name);
            self.shown.forget(&name);
        }
        for (name, member) in current {
            self.next_epoch += 1;
            let epoch = self.next_epoch;
            match self.members.get_mut(name) {
                Some(followed) => followed.update(member, epoch, &self.sink),
                None => {
                    let followed = Followed::start(member, epoch, &self.sink);
                    self.members.insert(name.clone(), followed);
                }
            }
            self.index.apply_member(member::fact(member));
        }
        self.review = true;
        self.touch();
    }

    fn take_in(&mut self, message: Message) {
        match message {
            Message::Hub(change) => {
                if change.is_reset() {
                    self.unread_kinds.remove(change.kind());
                }
                self.review = true;
                self.take_in_hub(change);
            }
            Message::HubFault { kind, error } => {
                tracing::info!(kind, error, "Watch of the hub interrupted");
            }
            Message::HubAbsent { kind } => {
                self.unread_kinds.remove(kind);
            }
            Message::Member { cluster, epoch, change } => {
                // A message that was under way when the member's watches were replaced.
                let Some(followed) = self.members.get_mut(&cluster).filter(|f| f.epoch == epoch) else {
                    return;
                };
                if let Some(list) = change.list() {
                    followed.read(list);
                }
                self.review |= vips::concerns(&change) || matches!(change, MemberChange::Services(_));
                self.take_in_member(&cluster, change);
            }
            Message::Seen { cluster, epoch } => {
                if let Some(followed) = self.members.get(&cluster).filter(|f| f.epoch == epoch) {
                    self.index.apply_member(member::fact(&followed.member));
                }
            }
        }
        self.touch();
    }

    fn take_in_hub(&mut self, change: HubChange) {
        match change {
            HubChange::FederatedServices(change) => self.index.federated_services(plain(change)),
            HubChange::FederatedIngresses(change) => self.index.federated_ingresses(plain(change)),
            HubChange::Certificates(change) => self.index.certificates(plain(change)),
            HubChange::FederatedCertificates(change) => self.index.federated_certificates(plain(change)),
            HubChange::Policies(change) => {
                let (facts, statuses) = split(change);
                status::fold(&mut self.statuses.policies, statuses);
                self.index.policies(facts);
            }
            HubChange::Sites(change) => {
                let (facts, statuses) = split(change);
                status::fold(&mut self.statuses.sites, statuses);
                self.index.sites(facts);
            }
            HubChange::Zones(change) => {
                let (facts, statuses) = split(change);
                status::fold(&mut self.statuses.zones, statuses);
                self.index.zones(facts);
            }
        }
    }

    fn take_in_member(&mut self, cluster: &ClusterName, change: MemberChange) {
        match change {
            MemberChange::Slices(change) => self.index.member_slices(cluster, plain(change)),
            MemberChange::Services(change) => self.index.member_services(cluster, plain(change)),
            MemberChange::Ingresses(change) => {
                self.shown.ingresses(cluster, &change);
                self.index.member_ingresses(cluster, map(change, |ingress| ingress.fact));
            }
            MemberChange::Classes(change) => self.shown.classes(cluster, change),
        }
    }

    fn outrank<'a>(&mut self, held: impl IntoIterator<Item = &'a meridian_core::snapshot::Generation>) {
        for generation in held {
            if self.index.outrank(generation) {
                tracing::info!(held = %generation, "Term raised above what an edge holds");
                self.touch();
            }
        }
    }

    fn load(&mut self, load: &SiteLoad) {
        if load.role == Role::Lb {
            let rates = load.services.iter().map(|(service, load)| (service.clone(), load.rate));
            self.index.report(&load.site, rates, now());
            self.touch();
        }
    }

    fn publish(&mut self) {
        let Some(since) = self.pending.take() else { return };
        let before = self.index.published().clone();
        let unread = self.members.iter().filter(|(_, followed)| !followed.is_read());
        let unread: BTreeSet<ClusterName> = unread.map(|(name, _)| name.clone()).collect();
        self.metrics.unread(unread.len());
        self.index.unread(unread);
        if let Some(snapshot) = self.index.publish(now()) {
            if before.generation.seq == 0 {
                let (services, unread) = (snapshot.services.len(), snapshot.unread.len());
                tracing::info!(generation = %snapshot.generation, services, unread, "First publication");
            } else {
                log_changes(&before, &snapshot);
            }
            self.snapshots.send_replace(Arc::clone(&snapshot));
            self.metrics.published(&snapshot, since.elapsed());
        }
        self.last_publish = Some(Instant::now());
        if std::mem::take(&mut self.review) {
            let time = Time(jiff::Timestamp::now());
            let mut wanted = status::differences(&self.statuses, self.index.verdicts(), &time);
            wanted.extend(self.shown.differences(self.index.published()));
            self.wanted.send_if_modified(|held| {
                // Times of conditions aside, equal wishes are equal: the writer compares them again.
                let changed = **held != wanted;
                *held = Arc::new(wanted);
                changed
            });
            self.tell_faults();
        }
    }

    /// Has an Event recorded for each FederatedIngress whose fault is new.
    fn tell_faults(&mut self) {
        let current = &self.index.verdicts().ingresses;
        self.told.retain(|key, _| current.contains_key(key));
        for (key, fault) in current {
            let is_told = self.told.get(key) == Some(fault);
            if !is_told && self.faults.try_send((key.clone(), fault.clone())).is_ok() {
                self.told.insert(key.clone(), fault.clone());
            }
        }
    }
}

/// Wall-clock time.
fn now() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}

fn plain<K, F>(change: Change<K, F>) -> index::Change<K, F> {
    map(change, |fact| fact)
}

fn map<K, F, G>(change: Change<K, F>, with: impl Fn(F) -> G) -> index::Change<K, G> {
    match change {
        Change::Apply(key, fact) => index::Change::Apply(key, with(fact)),
        Change::Delete(key) => index::Change::Delete(key),
        Change::Reset(all) => {
            index::Change::Reset(all.into_iter().map(|(key, fact)| (key, with(fact))).collect())
        }
    }
}

/// Facts to the index, statuses to be compared with.
fn split<K: Clone, F, S>(change: Change<K, Told<F, S>>) -> (index::Change<K, F>, Change<K, Seen<S>>) {
    let seen = |status, generation| Seen { status, generation };
    match change {
        Change::Apply(key, Told { fact, status, generation }) => {
            (index::Change::Apply(key.clone(), fact), Change::Apply(key, seen(status, generation)))
        }
        Change::Delete(key) => (index::Change::Delete(key.clone()), Change::Delete(key)),
        Change::Reset(all) => {
            let (mut facts, mut statuses) = (Vec::new(), Vec::new());
            for (key, Told { fact, status, generation }) in all {
                facts.push((key.clone(), fact));
                statuses.push((key, seen(status, generation)));
            }
            (index::Change::Reset(facts), Change::Reset(statuses))
        }
    }
}

/// Shards that went or came are for people; how many endpoints each has is for debugging.
fn log_changes(before: &Snapshot, after: &Snapshot) {
    let generation = &after.generation;
    for (key, service) in &after.services {
        let old = before.services.get(key);
        if old.is_some_and(|old| Arc::ptr_eq(old, service)) {
            continue;
        }
        for shard in &service.shards {
            let from = old.and_then(|old| old.shard(&shard.cluster)).map_or(0, |shard| shard.ready);
            let (to, cluster) = (shard.ready, &shard.cluster);
            if from == to {
                continue;
            } else if from == 0 || to == 0 {
                tracing::info!(service = %key, %cluster, from, to, %generation, "Shard changed");
            } else {
                tracing::debug!(service = %key, %cluster, from, to, %generation, "Endpoints changed");
            }
        }
    }
}
