//! One wrapper: gather, validate, plan, and the jobs that follow; and its deletion.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use meridian_api::member_ledger::Tombstone;
use meridian_api::names::SYNC_FINALIZER;
use meridian_core::id::ClusterName;
use meridian_core::place::{Gate, Member, Plan, Problem, Prune, plan};
use serde_json::json;

use super::member::MemberState;
use super::{Engine, Ledger, Message};
use crate::call::{self, within};
use crate::fleet::Change;
use crate::propagate::apply::Job;
use crate::propagate::rollup::{Cell, Overall};
use crate::propagate::{Key, Kind, ledger, validate};

/// What a finalizer write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finalize {
    Add,
    Remove,
}

impl Engine {
    /// Brings one object to where it should be, as far as can be done now.
    pub(super) fn step(&mut self, key: &Key) {
        let Some(running) = self.kind(&key.kind) else { return };
        if !self.can_plan(running) {
            return;
        }
        let kind = Arc::clone(&running.kind);
        let Some(entry) = self.wrappers.get(key) else {
            // The wrapper is gone without us: what is in the members stays, because nobody said otherwise.
            for member in self.members.values_mut() {
                member.queue.withdraw(key);
            }
            return;
        };
        if entry.wrapper.is_deleting {
            self.step_deletion(&kind, key);
            return;
        }
        if !entry.wrapper.has_finalizer() {
            self.finalize(&kind, key, Finalize::Add);
            return;
        }
        let request = match validate::request(&kind, key, &entry.wrapper.spec) {
            Ok(request) => request,
            Err(fault) => {
                for member in self.members.values_mut() {
                    member.queue.withdraw(key);
                }
                if let Some(entry) = self.wrappers.get_mut(key) {
                    entry.cells.clear();
                    entry.overall = Some(Overall { reason: fault.reason, message: fault.message });
                }
                self.mark_status(key);
                return;
            }
        };
        let gate = if kind.target.is_namespaced { self.gate(&key.namespace) } else { Gate::Open };
        if gate == Gate::Held {
            if let Some(entry) = self.wrappers.get_mut(key) {
                // What is known of the members stays in the status: a deletion needs to know where to look.
                let message =
                    format!("FederatedNamespace {} is not valid: nothing is changed", key.namespace);
                entry.overall = Some(Overall { reason: "ComputePlacementFailed", message });
            }
            self.mark_status(key);
            return;
        }
        let members = self.fleet_for(key);
        let planned = plan(&request.into_input(&kind, key, gate, members));
        self.carry_out(key, &planned);
        self.mark_status(key);
    }

    /// What a plan needs to know of the members.
    fn fleet_for(&self, key: &Key) -> BTreeMap<ClusterName, Member> {
        self.members
            .iter()
            .map(|(name, state)| {
                let member = Member {
                    labels: state.member.facts.labels.clone(),
                    // Before its UID is read any member may be the hub, whose namespaces are never deleted.
                    is_hub: state.cluster_uid().is_none_or(|uid| uid == self.hub_uid),
                    holds: state.synced.contains(&key.kind).then(|| state.index.contains_key(key)),
                };
                (name.clone(), member)
            })
            .collect()
    }

    /// Where a namespace is federated to.
    fn gate(&mut self, namespace: &Arc<str>) -> Gate {
        if let Some(gate) = self.gates.get(namespace) {
            return gate.clone();
        }
        let gate = self.read_gate(namespace);
        self.gates.insert(Arc::clone(namespace), gate.clone());
        gate
    }

    fn read_gate(&self, namespace: &Arc<str>) -> Gate {
        let Some(running) = self.namespace_kind() else { return Gate::NotFederated };
        let key = Key {
            kind: Arc::clone(&running.kind.name),
            namespace: Arc::clone(namespace),
            name: Arc::clone(namespace),
        };
        let Some(entry) = self.wrappers.get(&key).filter(|e| !e.wrapper.is_deleting) else {
            return Gate::NotFederated;
        };
        match validate::request(&running.kind, &key, &entry.wrapper.spec) {
            Ok(request) => Gate::Within(request.placement().resolve(&self.fleet_for(&key)).0),
            // Where the namespace goes cannot be said: its objects stay where and as they are.
            Err(_) => Gate::Held,
        }
    }

    /// Turns a plan into jobs and cells. The plan leaves no choice; what is decided here is only whether a write is
    /// needed and can be made now.
    fn carry_out(&mut self, key: &Key, planned: &Plan) {
        let adopts = self.adopts.unwrap_or(true);
        let Some(entry) = self.wrappers.get_mut(key) else { return };
        let old = std::mem::take(&mut entry.cells);
        for (name, member) in &mut self.members {
            let cell = if let Some(desired) = planned.objects.get(name) {
                let job = member.index.get(key).map_or(Some(false), |fact| {
                    if fact.is_deleting || member.is_in_sync(key, fact, desired) { None } else { Some(true) }
                });
                let is_leaving = member.index.get(key).is_some_and(|f| f.is_deleting);
                match job {
                    _ if !member.is_ready || !member.synced.contains(&key.kind) => {
                        member.queue.withdraw(key);
                        Some(waiting_for(member, key))
                    }
                    None => {
                        member.queue.withdraw(key);
                        Some(if is_leaving {
                            Cell::bad("WaitingForRemoval", "the object is being deleted in the member")
                        } else {
                            Cell::Fine
                        })
                    }
                    Some(exists) => {
                        let job = Job::Apply { desired: desired.clone(), exists, adopts };
                        Some(enqueue(member, key, job, old.get(name)))
                    }
                }
            } else if let Some(prune) = planned.prunes.get(name) {
                Some(remove(member, key, *prune, old.get(name)))
            } else {
                member.queue.withdraw(key);
                planned.faults.get(name).map(|fault| Cell::bad(fault.status, fault.message.clone()))
            };
            if let Some(cell) = cell {
                entry.cells.insert(name.clone(), cell);
            }
        }
        entry.overall = planned.problem.as_ref().map(|problem| match problem {
            Problem::NamespaceInvalid => Overall {
                reason: "ComputePlacementFailed",
                message: format!("FederatedNamespace {} is not valid: nothing is changed", key.namespace),
            },
            Problem::NamespaceNotFederated => Overall {
                reason: "NamespaceNotFederated",
                message: format!("namespace {} has no FederatedNamespace", key.namespace),
            },
            Problem::UnknownClusters(names) => Overall {
                reason: "CheckClusters",
                message: format!("spec.placement.clusters names unknown clusters: {}", names.join(", ")),
            },
        });
    }

    /// Removes a wrapper's objects, then its finalizer.
    fn step_deletion(&mut self, kind: &Arc<Kind>, key: &Key) {
        let Some(entry) = self.wrappers.get_mut(key) else { return };
        if !entry.wrapper.has_finalizer() {
            return;
        }
        let is_orphaning = entry.wrapper.is_orphaning;
        let was_placed: BTreeSet<String> =
            entry.wrapper.status.clusters.iter().map(|c| c.name.clone()).collect();
        let old = std::mem::take(&mut entry.cells);
        entry.overall = None;
        let mut cells = BTreeMap::new();
        let mut tombstones: Vec<(ClusterName, Tombstone)> = Vec::new();
        let hub_uid = &self.hub_uid;
        for (name, member) in &mut self.members {
            let is_hub = member.cluster_uid().is_none_or(|uid| uid == *hub_uid);
            let Some(fact) = member.index.get(key).cloned() else {
                member.queue.withdraw(key);
                // A write under way may still make the object; its end brings this step again.
                if member.queue.is_running(key) && !is_orphaning {
                    cells.insert(name.clone(), Cell::Pending);
                    continue;
                }
                // Never read: whether something is there is not known, and must not be taken for nothing.
                let is_unread = !member.synced.contains(&key.kind) && was_placed.contains(name.as_str());
                if is_unread && !is_orphaning {
                    cells.insert(name.clone(), waiting_for(member, key));
                }
                continue;
            };
            if member.is_ready {
                let prune = if is_orphaning || (is_hub && kind.target.is_namespace()) {
                    Prune::Unlabel
                } else {
                    Prune::Delete
                };
                cells.insert(name.clone(), remove(member, key, prune, old.get(name)));
                continue;
            }
            member.queue.withdraw(key);
            if is_orphaning {
                continue;
            }
            match member.cluster_uid() {
                Some(uid) => tombstones.push((name.clone(), ledger::tombstone(kind, key, &fact, &uid))),
                None => {
                    cells.insert(name.clone(), waiting_for(member, key));
                }
            }
        }
        for (name, tombstone) in tombstones {
            match self.bury(&name, tombstone) {
                Buried::Stored => {}
                Buried::Pending => {
                    cells.insert(name, Cell::Pending);
                }
                Buried::Full => {
                    let message = "the member cannot be reached and its ledger is full";
                    cells.insert(name, Cell::bad("WaitingForRemoval", message));
                }
            }
        }
        let is_done = cells.is_empty();
        if let Some(entry) = self.wrappers.get_mut(key) {
            entry.cells = cells;
        }
        if is_done {
            self.finalize(kind, key, Finalize::Remove);
        } else {
            self.mark_status(key);
        }
    }

    /// Adds or removes our finalizer, with tests of what was read: a lost race is tried again on the next event.
    fn finalize(&mut self, kind: &Arc<Kind>, key: &Key, what: Finalize) {
        let Some(entry) = self.wrappers.get_mut(key).filter(|e| !e.is_finalizing) else { return };
        entry.is_finalizing = true;
        let list = &entry.wrapper.finalizers;
        let place = list.iter().position(|f| f == SYNC_FINALIZER);
        let mut patch = vec![json!({"op": "test", "path": "/metadata/uid", "value": entry.wrapper.uid})];
        match (what, place) {
            (Finalize::Add, None) if list.is_empty() => {
                patch.push(json!({"op": "add", "path": "/metadata/finalizers", "value": [SYNC_FINALIZER]}));
            }
            (Finalize::Add, None) => {
                patch.push(json!({"op": "test", "path": "/metadata/finalizers", "value": list}));
                patch.push(json!({"op": "add", "path": "/metadata/finalizers/-", "value": SYNC_FINALIZER}));
            }
            (Finalize::Remove, Some(index)) => {
                let path = format!("/metadata/finalizers/{index}");
                patch.push(json!({"op": "test", "path": path, "value": SYNC_FINALIZER}));
                patch.push(json!({"op": "remove", "path": path}));
            }
            _ => {
                entry.is_finalizing = false;
                return;
            }
        }
        let (hub, kind, key, sink) = (self.hub.clone(), Arc::clone(kind), key.clone(), self.sink.clone());
        let end = self.token.clone();
        self.tracker.spawn(async move {
            let work = write_finalizer(hub, &kind, &key, patch);
            if let Some(result) = end.run_until_cancelled(work).await {
                let _ = sink.send(Message::Finalized { key, result }).await;
            }
        });
    }

    pub(super) fn take_in_finalized(&mut self, key: &Key, result: Result<(), String>) {
        let Some(entry) = self.wrappers.get_mut(key) else { return };
        entry.is_finalizing = false;
        if let Err(error) = result {
            tracing::debug!(object = %key, error, "Finalizer not written");
            // The watch brings what has changed; without a change, the tick tries again.
            self.statuses.retry_step(key);
        } else if !entry.wrapper.is_deleting && !entry.wrapper.has_finalizer() {
            // Our own write: no need to wait for its echo.
            entry.wrapper.finalizers.push(SYNC_FINALIZER.to_owned());
            self.dirty.insert(key.clone());
        }
    }

    /// Notes a tombstone; says how far that has come.
    fn bury(&mut self, cluster: &ClusterName, tombstone: Tombstone) -> Buried {
        let ledgers = self.ledgers.get_or_insert_default();
        let book = ledgers.entry(cluster.clone()).or_default();
        if book.stored.iter().any(|e| e.object_uid == tombstone.object_uid) {
            return Buried::Stored;
        }
        if !ledger::add(&mut book.wanted, vec![tombstone]) {
            return Buried::Full;
        }
        self.write_ledger(cluster);
        Buried::Pending
    }

    fn write_ledger(&mut self, cluster: &ClusterName) {
        let Some(book) = self.ledgers.as_mut().and_then(|l| l.get_mut(cluster)) else { return };
        if book.is_writing || book.wanted == book.stored {
            return;
        }
        book.is_writing = true;
        let (hub, sink, cluster, entries) =
            (self.hub.clone(), self.sink.clone(), cluster.clone(), book.wanted.clone());
        let end = self.token.clone();
        self.tracker.spawn(async move {
            let Some(result) = end.run_until_cancelled(ledger::write(hub, &cluster, entries.clone())).await
            else {
                return;
            };
            let error = result.err().map(|e| e.message());
            let _ = sink.send(Message::LedgerWritten { cluster, entries, error }).await;
        });
    }

    pub(super) fn take_in_ledgers(&mut self, change: Change<ClusterName, Vec<Tombstone>>) {
        let ledgers = self.ledgers.get_or_insert_default();
        let is_first = matches!(change, Change::Reset(_));
        let changed = match change {
            Change::Apply(name, entries) => vec![(name, entries)],
            Change::Delete(name) => vec![(name, Vec::new())],
            Change::Reset(all) => all,
        };
        for (name, entries) in changed {
            let book = ledgers.entry(name).or_default();
            // Our own write's echo says nothing new; another's writing, at start, says what to do.
            if !book.is_writing && book.stored != entries {
                book.stored.clone_from(&entries);
                book.wanted = entries;
            }
        }
        if is_first {
            self.everything_is_dirty();
        }
        self.tend_ledgers();
    }

    pub(super) fn take_in_ledger_written(
        &mut self,
        cluster: &ClusterName,
        entries: Vec<Tombstone>,
        error: Option<String>,
    ) {
        let Some(book) = self.ledgers.as_mut().and_then(|l| l.get_mut(cluster)) else { return };
        book.is_writing = false;
        match error {
            None => {
                book.stored = entries;
                let deleting =
                    self.wrappers.iter().filter(|(_, e)| e.wrapper.is_deleting).map(|(k, _)| k.clone());
                self.dirty.extend(deleting);
                self.write_ledger(cluster);
            }
            // The tick writes again.
            Some(error) => tracing::warn!(%cluster, error, "Cannot write the ledger"),
        }
    }

    /// Executes what ledgers hold against members that are ready, and writes ledgers whose writing failed.
    pub(super) fn tend_ledgers(&mut self) {
        let names: Vec<ClusterName> = self.ledgers.iter().flat_map(|l| l.keys().cloned()).collect();
        for name in names {
            self.write_ledger(&name);
            let Some(member) = self.members.get(&name).filter(|m| m.is_ready) else { continue };
            let (Some(client), Some(uid)) = (member.client(), member.cluster_uid()) else { continue };
            let Some(book) = self.ledgers.as_mut().and_then(|l| l.get_mut(&name)) else { continue };
            if book.is_executing || book.stored.is_empty() {
                continue;
            }
            book.is_executing = true;
            let (tried, sink, epoch, end) =
                (book.stored.clone(), self.sink.clone(), member.epoch, self.token.clone());
            self.tracker.spawn(async move {
                let work = ledger::execute(client, &uid, tried.clone());
                if let Some(left) = end.run_until_cancelled(work).await {
                    let _ = sink.send(Message::LedgerExecuted { cluster: name, epoch, tried, left }).await;
                }
            });
        }
        let stuck = self.statuses.take_retries();
        self.dirty.extend(stuck);
    }

    pub(super) fn take_in_ledger_executed(
        &mut self,
        cluster: &ClusterName,
        _epoch: u64,
        tried: &[Tombstone],
        left: &[Tombstone],
    ) {
        let Some(book) = self.ledgers.as_mut().and_then(|l| l.get_mut(cluster)) else { return };
        book.is_executing = false;
        let is_done = |e: &Tombstone| {
            tried.iter().any(|t| t.object_uid == e.object_uid)
                && !left.iter().any(|l| l.object_uid == e.object_uid)
        };
        book.wanted.retain(|e| !is_done(e));
        self.write_ledger(cluster);
    }
}

/// How far a tombstone has come.
enum Buried {
    /// It is on the hub.
    Stored,
    /// It is being written.
    Pending,
    /// There is no room for it.
    Full,
}

/// Why nothing can be written to a member now.
fn waiting_for(member: &MemberState, key: &Key) -> Cell {
    if member.is_unprobed() {
        // A connection that was just made: nothing is known against it, so nothing is reported.
        return Cell::Pending;
    }
    if !member.is_ready {
        return Cell::bad("ClusterNotReady", member.why_not_ready());
    }
    match member.faults.get(&key.kind) {
        Some(fault) => Cell::bad("CachedRetrievalFailed", fault.clone()),
        None => Cell::Pending,
    }
}

/// Enqueues a job unless it was refused before; the cell that follows.
fn enqueue(member: &mut MemberState, key: &Key, job: Job, old: Option<&Cell>) -> Cell {
    if let Some((refused, fault)) = member.refused.get(key)
        && *refused == job
    {
        return Cell::bad(fault.status, fault.message.clone());
    }
    member.refused.remove(key);
    let was_waiting = member.queue.is_busy(key);
    member.queue.push(key, job);
    // A job that failed and waits for its next try keeps its fault; a new one has none yet.
    match old {
        Some(bad @ Cell::Bad { .. }) if was_waiting && member.queue.is_delayed(key) => bad.clone(),
        _ => Cell::Pending,
    }
}

/// Enqueues a removal; the cell that follows.
fn remove(member: &mut MemberState, key: &Key, prune: Prune, old: Option<&Cell>) -> Cell {
    let Some(fact) = member.index.get(key) else { return Cell::Pending };
    if !member.is_ready {
        member.queue.withdraw(key);
        return Cell::bad("WaitingForRemoval", member.why_not_ready());
    }
    if fact.is_deleting {
        member.queue.withdraw(key);
        return Cell::bad("WaitingForRemoval", "deletion has begun in the member");
    }
    let uid = Arc::clone(&fact.uid);
    let job = match prune {
        Prune::Delete => Job::Delete { uid },
        Prune::Unlabel => Job::Unlabel { uid },
    };
    enqueue(member, key, job, old)
}

async fn write_finalizer(
    hub: Client,
    kind: &Kind,
    key: &Key,
    patch: Vec<serde_json::Value>,
) -> Result<(), String> {
    let api: Api<DynamicObject> = if key.namespace.is_empty() {
        Api::all_with(hub, &kind.federated)
    } else {
        Api::namespaced_with(hub, &key.namespace, &kind.federated)
    };
    let patch: json_patch::Patch =
        serde_json::from_value(serde_json::Value::Array(patch)).map_err(|e| e.to_string())?;
    let body: Patch<()> = Patch::Json(patch);
    within(call::WRITE, api.patch_metadata(&key.name, &PatchParams::default(), &body))
        .await
        .map(|_| ())
        .map_err(|e| e.message())
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("stored", &self.stored.len()).finish_non_exhaustive()
    }
}
