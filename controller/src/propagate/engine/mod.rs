//! The engine: the one task that owns all state of propagation, and the messages that reach it.
//!
//! Watches and writes run elsewhere and only send messages; nothing here waits for a member. So there is no lock, no
//! order to get wrong, and a member that hangs costs eight tasks of its own and nothing else.

mod member;
mod status;
mod step;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use kube::core::{DeserializeGuard, DynamicObject, ResourceExt as _};
use kube::runtime::watcher;
use kube::{Api, Client};
use meridian_api::kubefed::{CONFIG_NAME, FederatedStatus, FederatedTypeConfig, KubeFedConfig};
use meridian_api::member_ledger::{MemberLedger, Tombstone};
use meridian_core::id::ClusterName;
use meridian_core::place::Gate;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::member::MemberState;
use self::status::Statuses;
use super::apply::{Done, Fault, Job};
use super::facts::{Fact, Shapes};
use super::rollup::{Cell, Overall};
use super::{Key, Kind, Placed, Settings, Wrapper};
use crate::call::{self, within};
use crate::fleet::{Change, Fleet, jittered, supervise, watch_index};

/// Messages that may wait. Each is one object or one write's end; a full queue holds watches back and makes finished
/// writes wait, which is what overload should do.
const QUEUE: usize = 4096;
/// Messages taken in before decisions are made: one decision then serves many changes.
const BATCH: usize = 512;
/// How often what failed without a timer of its own is looked at again.
const TICK: Duration = Duration::from_secs(30);

/// What the engine is told.
pub(super) enum Message {
    Kinds(Change<Arc<str>, Arc<Kind>>),
    Adoption(Change<String, bool>),
    Wrappers(Arc<str>, Change<Key, Wrapper>),
    Ledgers(Change<ClusterName, Vec<Tombstone>>),
    Member { cluster: ClusterName, epoch: u64, kind: Arc<str>, change: Change<Key, Fact> },
    MemberFault { cluster: ClusterName, epoch: u64, kind: Arc<str>, message: String },
    Health { cluster: ClusterName, epoch: u64 },
    Applied { placed: Placed, epoch: u64, job: Job, result: Result<Done, Fault> },
    Finalized { key: Key, result: Result<(), String> },
    StatusWritten { key: Key, status: Box<FederatedStatus>, error: Option<String> },
    LedgerWritten { cluster: ClusterName, entries: Vec<Tombstone>, error: Option<String> },
    LedgerExecuted { cluster: ClusterName, epoch: u64, tried: Vec<Tombstone>, left: Vec<Tombstone> },
}

/// A federated kind that is being watched on the hub.
struct Running {
    kind: Arc<Kind>,
    token: CancellationToken,
    is_synced: bool,
}

/// A wrapper and what has become of it.
struct Entry {
    wrapper: Wrapper,
    cells: BTreeMap<ClusterName, Cell>,
    overall: Option<Overall>,
    /// Whether a finalizer write is under way.
    is_finalizing: bool,
}

/// Tombstones of one member.
#[derive(Default)]
struct Ledger {
    /// As on the hub.
    stored: Vec<Tombstone>,
    /// As it should be.
    wanted: Vec<Tombstone>,
    is_writing: bool,
    is_executing: bool,
}

/// All state of propagation.
pub(super) struct Engine {
    hub: Client,
    fleet: Fleet,
    settings: Settings,
    tracker: TaskTracker,
    token: CancellationToken,
    sink: mpsc::Sender<Message>,
    messages: Option<mpsc::Receiver<Message>>,
    shapes: Arc<Shapes>,
    /// UID of the hub's own `kube-system` namespace.
    hub_uid: String,
    kinds: Option<BTreeMap<Arc<str>, Running>>,
    adopts: Option<bool>,
    wrappers: HashMap<Key, Entry>,
    gates: HashMap<Arc<str>, Gate>,
    members: BTreeMap<ClusterName, MemberState>,
    is_fleet_known: bool,
    epochs: u64,
    ledgers: Option<BTreeMap<ClusterName, Ledger>>,
    dirty: BTreeSet<Key>,
    statuses: Statuses,
}

impl Engine {
    pub(super) fn new(
        hub: Client,
        fleet: Fleet,
        settings: Settings,
        tracker: TaskTracker,
        token: CancellationToken,
    ) -> Self {
        let (sink, messages) = mpsc::channel(QUEUE);
        Self {
            hub,
            fleet,
            settings,
            tracker,
            token,
            sink,
            messages: Some(messages),
            shapes: Arc::default(),
            hub_uid: String::new(),
            kinds: None,
            adopts: None,
            wrappers: HashMap::new(),
            gates: HashMap::new(),
            members: BTreeMap::new(),
            is_fleet_known: false,
            epochs: 0,
            ledgers: None,
            dirty: BTreeSet::new(),
            statuses: Statuses::default(),
        }
    }

    /// Runs until the token is cancelled. Writes that are under way then are dropped: every one can be repeated.
    pub(super) async fn run(mut self) {
        let token = self.token.clone();
        let Some(mut messages) = self.messages.take() else { return };
        let Some(uid) = token.run_until_cancelled(hub_uid(&self.hub)).await else { return };
        self.hub_uid = uid;
        self.watch_hub();
        let mut fleet = self.fleet.members();
        fleet.mark_changed();
        let mut tick = tokio::time::interval(TICK);
        loop {
            let due = self.first_due().unwrap_or_else(|| Instant::now() + TICK);
            tokio::select! {
                () = token.cancelled() => return,
                Some(message) = messages.recv() => {
                    self.take_in(message);
                    for _ in 0..BATCH {
                        let Ok(message) = messages.try_recv() else { break };
                        self.take_in(message);
                    }
                }
                changed = fleet.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let members = fleet.borrow_and_update().clone();
                    if let Some(members) = members {
                        self.take_in_fleet(&members);
                    }
                }
                () = tokio::time::sleep_until(due.into()) => {}
                _ = tick.tick() => self.tend_ledgers(),
            }
            for key in std::mem::take(&mut self.dirty) {
                self.step(&key);
            }
            self.dispatch();
            self.flush_statuses();
        }
    }

    /// When something that waits for a moment is due.
    fn first_due(&self) -> Option<Instant> {
        let queues = self.members.values().filter(|m| m.is_ready).filter_map(|m| m.queue.first_due());
        queues.chain(self.statuses.first_due()).min()
    }

    fn watch_hub(&self) {
        let (hub, sink, namespace) =
            (self.hub.clone(), self.sink.clone(), self.settings.kubefed_namespace.clone());
        supervise(&self.tracker, self.token.clone(), "federatedtypeconfigs", None, move || {
            let api: Api<DeserializeGuard<FederatedTypeConfig>> = Api::namespaced(hub.clone(), &namespace);
            watch_index(api, watcher::Config::default(), kind_of, sink.clone(), Message::Kinds)
        });
        let (hub, sink, namespace) =
            (self.hub.clone(), self.sink.clone(), self.settings.kubefed_namespace.clone());
        supervise(&self.tracker, self.token.clone(), "kubefedconfigs", None, move || {
            let api: Api<DeserializeGuard<KubeFedConfig>> = Api::namespaced(hub.clone(), &namespace);
            let config = watcher::Config::default().fields(&format!("metadata.name={CONFIG_NAME}"));
            watch_index(api, config, adoption_of, sink.clone(), Message::Adoption)
        });
        let (hub, sink) = (self.hub.clone(), self.sink.clone());
        supervise(&self.tracker, self.token.clone(), "memberledgers", None, move || {
            let api: Api<DeserializeGuard<MemberLedger>> = Api::all(hub.clone());
            watch_index(api, watcher::Config::default(), ledger_of, sink.clone(), Message::Ledgers)
        });
    }

    fn take_in(&mut self, message: Message) {
        match message {
            Message::Kinds(change) => self.take_in_kinds(change),
            Message::Adoption(change) => {
                let adopts = match change {
                    Change::Apply(_, adopts) => adopts,
                    Change::Delete(_) => true,
                    Change::Reset(all) => all.first().is_none_or(|(_, adopts)| *adopts),
                };
                if self.adopts != Some(adopts) {
                    self.adopts = Some(adopts);
                    self.everything_is_dirty();
                }
            }
            Message::Wrappers(kind, change) => self.take_in_wrappers(&kind, change),
            Message::Ledgers(change) => self.take_in_ledgers(change),
            Message::Member { cluster, epoch, kind, change } => {
                self.take_in_facts(&cluster, epoch, &kind, change)
            }
            Message::MemberFault { cluster, epoch, kind, message } => {
                self.take_in_fault(&cluster, epoch, kind, message);
            }
            Message::Health { cluster, epoch } => self.take_in_health(&cluster, epoch),
            Message::Applied { placed, epoch, job, result } => {
                self.take_in_applied(placed, epoch, job, result)
            }
            Message::Finalized { key, result } => self.take_in_finalized(&key, result),
            Message::StatusWritten { key, status, error } => self.take_in_status(&key, *status, error),
            Message::LedgerWritten { cluster, entries, error } => {
                self.take_in_ledger_written(&cluster, entries, error);
            }
            Message::LedgerExecuted { cluster, epoch, tried, left } => {
                self.take_in_ledger_executed(&cluster, epoch, &tried, &left);
            }
        }
    }

    fn take_in_kinds(&mut self, change: Change<Arc<str>, Arc<Kind>>) {
        match change {
            Change::Apply(_, kind) => self.start_kind(kind),
            Change::Delete(name) => self.stop_kind(&name),
            Change::Reset(all) => {
                let known: Vec<Arc<str>> = self.kinds.get_or_insert_default().keys().cloned().collect();
                for name in known.iter().filter(|n| !all.iter().any(|(a, _)| a == *n)) {
                    self.stop_kind(name);
                }
                for (_, kind) in all {
                    self.start_kind(kind);
                }
            }
        }
    }

    fn start_kind(&mut self, kind: Arc<Kind>) {
        let kinds = self.kinds.get_or_insert_default();
        if kinds.get(&kind.name).is_some_and(|running| running.kind == kind) {
            return;
        }
        self.stop_kind(&Arc::clone(&kind.name));
        let token = self.token.child_token();
        let (hub, sink, of) = (self.hub.clone(), self.sink.clone(), Arc::clone(&kind));
        // Namespaces are watched even while they are not propagated: they decide where everything else may go.
        if kind.is_enabled || kind.target.is_namespace() {
            supervise(&self.tracker, token.clone(), "federated", None, move || {
                let api: Api<DynamicObject> = Api::all_with(hub.clone(), &of.federated);
                let (convert, wrap) = (Arc::clone(&of), Arc::clone(&of.name));
                let convert = move |object: DynamicObject| {
                    let key = Key {
                        kind: Arc::clone(&convert.name),
                        namespace: object.namespace().unwrap_or_default().into(),
                        name: object.metadata.name.as_deref()?.into(),
                    };
                    Some((key, Some(Wrapper::of(&object))))
                };
                let wrap = move |change| Message::Wrappers(Arc::clone(&wrap), change);
                watch_index(api, watcher::Config::default(), convert, sink.clone(), wrap)
            });
        }
        tracing::info!(kind = %kind.name, enabled = kind.is_enabled, "Federated kind");
        let running = Running { kind: Arc::clone(&kind), token, is_synced: false };
        self.kinds.get_or_insert_default().insert(Arc::clone(&kind.name), running);
        if kind.is_enabled {
            for member in self.members.values_mut() {
                member.watch(&kind, &self.sink, &self.shapes);
            }
        }
        if kind.target.is_namespace() {
            self.gates.clear();
            self.everything_is_dirty();
        }
    }

    /// Stops propagating a kind. What is in the members stays there.
    fn stop_kind(&mut self, name: &Arc<str>) {
        let Some(running) = self.kinds.as_mut().and_then(|k| k.remove(name)) else { return };
        running.token.cancel();
        self.wrappers.retain(|key, _| key.kind != *name);
        self.statuses.forget_kind(name);
        for member in self.members.values_mut() {
            member.forget(name);
        }
        if running.kind.target.is_namespace() {
            self.gates.clear();
        }
    }

    fn take_in_wrappers(&mut self, kind: &Arc<str>, change: Change<Key, Wrapper>) {
        let Some(running) = self.kinds.as_mut().and_then(|k| k.get_mut(kind)) else { return };
        let is_namespace = running.kind.target.is_namespace();
        if let Change::Reset(_) = change {
            let was_synced = std::mem::replace(&mut running.is_synced, true);
            if !was_synced {
                // What was read before could not be planned.
                if is_namespace {
                    self.everything_is_dirty();
                }
                let keys = self.wrappers.keys().filter(|k| k.kind == *kind).cloned();
                self.dirty.extend(keys);
            }
        }
        match change {
            Change::Apply(key, wrapper) => self.put_wrapper(key, wrapper, is_namespace),
            Change::Delete(key) => self.drop_wrapper(&key, is_namespace),
            Change::Reset(all) => {
                let new: BTreeSet<Key> = all.iter().map(|(key, _)| key.clone()).collect();
                let gone: Vec<Key> =
                    self.wrappers.keys().filter(|k| k.kind == *kind && !new.contains(*k)).cloned().collect();
                for key in gone {
                    self.drop_wrapper(&key, is_namespace);
                }
                for (key, wrapper) in all {
                    self.put_wrapper(key, wrapper, is_namespace);
                }
            }
        }
    }

    fn put_wrapper(&mut self, key: Key, wrapper: Wrapper, is_namespace: bool) {
        let is_news = match self.wrappers.get_mut(&key) {
            Some(entry) if entry.wrapper.uid == wrapper.uid => {
                let is_news = entry.wrapper.differs(&wrapper);
                entry.wrapper = wrapper;
                is_news
            }
            _ => {
                let entry = Entry { wrapper, cells: BTreeMap::new(), overall: None, is_finalizing: false };
                self.wrappers.insert(key.clone(), entry);
                true
            }
        };
        if !is_news {
            return;
        }
        if is_namespace {
            self.namespace_changed(&key.namespace);
        }
        self.dirty.insert(key);
    }

    fn drop_wrapper(&mut self, key: &Key, is_namespace: bool) {
        if self.wrappers.remove(key).is_none() {
            return;
        }
        self.statuses.forget(key);
        if is_namespace {
            self.namespace_changed(&key.namespace);
        }
        self.dirty.insert(key.clone());
    }

    /// Everything in a namespace may have to go elsewhere.
    fn namespace_changed(&mut self, namespace: &Arc<str>) {
        self.gates.remove(namespace);
        let keys = self.wrappers.keys().filter(|k| k.namespace == *namespace).cloned();
        self.dirty.extend(keys);
    }

    fn everything_is_dirty(&mut self) {
        self.dirty.extend(self.wrappers.keys().cloned());
    }

    fn kind(&self, name: &str) -> Option<&Running> {
        self.kinds.as_ref()?.get(name)
    }

    /// Whether all that a plan of this kind depends on has been read from the hub.
    fn can_plan(&self, running: &Running) -> bool {
        let namespaces = self.namespace_kind();
        running.is_synced
            && running.kind.is_enabled
            && self.is_fleet_known
            && self.adopts.is_some()
            && self.ledgers.is_some()
            && (!running.kind.target.is_namespaced || namespaces.is_some_and(|n| n.is_synced))
    }

    /// The kind whose wrappers say where namespaces are.
    fn namespace_kind(&self) -> Option<&Running> {
        self.kinds.as_ref()?.values().find(|running| running.kind.target.is_namespace())
    }

    /// Starts what may be started.
    fn dispatch(&mut self) {
        let now = Instant::now();
        for (cluster, member) in &mut self.members {
            let Some(client) = member.client().filter(|_| member.is_ready) else { continue };
            while let Some((key, job)) = member.queue.next(now) {
                let Some(running) = self.kinds.as_ref().and_then(|k| k.get(&key.kind)) else {
                    member.queue.succeeded(&key);
                    continue;
                };
                let (kind, shapes, sink) =
                    (Arc::clone(&running.kind), Arc::clone(&self.shapes), self.sink.clone());
                let (client, epoch, end) = (client.clone(), member.epoch, member.token());
                let placed = Placed { cluster: cluster.clone(), key };
                self.tracker.spawn(async move {
                    let work = super::apply::perform(client, &kind, &placed.key, &job, &shapes);
                    // A member that goes takes its queue along; nobody waits for this end.
                    if let Some(result) = end.run_until_cancelled(work).await {
                        // Fails only when the engine has ended.
                        let _ = sink.send(Message::Applied { placed, epoch, job, result }).await;
                    }
                });
            }
        }
    }
}

/// UID of the hub's `kube-system` namespace; tries until it can be read.
async fn hub_uid(hub: &Client) -> String {
    let api: Api<Namespace> = Api::all(hub.clone());
    loop {
        match within(call::WRITE, api.get_metadata("kube-system")).await {
            Ok(namespace) => return namespace.metadata.uid.unwrap_or_default(),
            Err(error) => tracing::warn!(error = %error.message(), "Cannot read the hub's identity"),
        }
        tokio::time::sleep(jittered(Duration::from_secs(2))).await;
    }
}

fn kind_of(guard: DeserializeGuard<FederatedTypeConfig>) -> Option<(Arc<str>, Option<Arc<Kind>>)> {
    match guard.0 {
        Ok(config) => {
            let kind = Kind::of(&config)?;
            let gone = config.metadata.deletion_timestamp.is_some();
            Some((Arc::clone(&kind.name), (!gone).then(|| Arc::new(kind))))
        }
        Err(bad) => {
            tracing::warn!(name = bad.metadata.name, error = bad.error, "FederatedTypeConfig cannot be read");
            None
        }
    }
}

fn adoption_of(guard: DeserializeGuard<KubeFedConfig>) -> Option<(String, Option<bool>)> {
    match guard.0 {
        Ok(config) => Some((config.name_any(), Some(config.spec.adopts()))),
        Err(bad) => {
            // It may say that foreign objects are not to be touched, so they are not.
            tracing::warn!(name = bad.metadata.name, error = bad.error, "KubeFedConfig cannot be read");
            Some((bad.metadata.name?, Some(false)))
        }
    }
}

fn ledger_of(guard: DeserializeGuard<MemberLedger>) -> Option<(ClusterName, Option<Vec<Tombstone>>)> {
    let ledger = guard.0.ok()?;
    Some((ClusterName::from(ledger.name_any()), Some(ledger.spec.entries)))
}
