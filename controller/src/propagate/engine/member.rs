//! What the engine keeps of one member, and how it takes in what members say.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::watcher;
use kube::{Api, Client};
use meridian_api::names::{MANAGED_LABEL, MANAGED_TRUE};
use meridian_core::id::ClusterName;
use meridian_core::place::{Desired, Fingerprint};
use rand::Rng as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Engine, Message};
use crate::fleet::{Change, Health, Member, Members, watch_reporting};
use crate::propagate::apply::{Done, Fault, Job};
use crate::propagate::facts::{Fact, Shapes};
use crate::propagate::queue::Queue;
use crate::propagate::rollup::Cell;
use crate::propagate::{Key, Kind, Placed};

/// One member.
pub(super) struct MemberState {
    pub(super) member: Arc<Member>,
    /// Raised with each new connection: what an old one says is ignored.
    pub(super) epoch: u64,
    pub(super) is_ready: bool,
    pub(super) queue: Queue<Job>,
    /// Managed objects, by the key of their wrapper. Kept while the member is away.
    pub(super) index: HashMap<Key, Fact>,
    /// Kinds whose list has been read at least once.
    pub(super) synced: BTreeSet<Arc<str>>,
    /// Kinds that cannot be watched, and why.
    pub(super) faults: BTreeMap<Arc<str>, String>,
    /// Jobs that would only fail again, and how they failed.
    pub(super) refused: HashMap<Key, (Job, Fault)>,
    /// Objects whose owned fields did not cover what was applied right after it was: the server writes some fields
    /// differently. They are as they should be while those same fields stay owned.
    settled: HashMap<Key, (Fingerprint, Arc<Value>)>,
    watches: BTreeMap<Arc<str>, CancellationToken>,
}

impl MemberState {
    fn new(member: Arc<Member>, epoch: u64) -> Self {
        let is_ready = member.health().borrow().is_ready();
        Self {
            member,
            epoch,
            is_ready,
            queue: Queue::default(),
            index: HashMap::new(),
            synced: BTreeSet::new(),
            faults: BTreeMap::new(),
            refused: HashMap::new(),
            settled: HashMap::new(),
            watches: BTreeMap::new(),
        }
    }

    pub(super) fn client(&self) -> Option<Client> {
        self.member.client()
    }

    pub(super) fn token(&self) -> CancellationToken {
        self.member.token()
    }

    /// UID of the member's `kube-system` namespace, if it has been read.
    pub(super) fn cluster_uid(&self) -> Option<String> {
        self.member.observed().borrow().cluster_uid.clone()
    }

    /// True between a new connection and the result of its first probe.
    pub(super) fn is_unprobed(&self) -> bool {
        self.member.client().is_some() && matches!(&*self.member.health().borrow(), Health::Unknown)
    }

    /// Why the member is not ready, for people.
    pub(super) fn why_not_ready(&self) -> String {
        match &*self.member.health().borrow() {
            Health::Ready => "the member is ready".to_owned(),
            Health::Unknown if self.member.client().is_none() => {
                "the member's connection cannot be used".to_owned()
            }
            Health::Unknown => "the member has not been probed yet".to_owned(),
            Health::NotReady(cause) | Health::Offline(cause) => {
                format!("{}: {}", cause.reason, cause.message)
            }
        }
    }

    /// Whether a managed object is as it should be.
    pub(super) fn is_in_sync(&self, key: &Key, fact: &Fact, desired: &Desired) -> bool {
        fact.is_as(desired)
            || self.settled.get(key).is_some_and(|(print, fields)| {
                fact.print == Some(desired.print) && *print == desired.print && *fields == fact.fields
            })
    }

    /// Watches the managed objects of a kind in this member, metadata only.
    pub(super) fn watch(&mut self, kind: &Arc<Kind>, sink: &mpsc::Sender<Message>, shapes: &Arc<Shapes>) {
        let Some(client) = self.client() else { return };
        if self.watches.contains_key(&kind.name) {
            return;
        }
        let token = self.token().child_token();
        self.watches.insert(Arc::clone(&kind.name), token.clone());
        let (cluster, epoch) = (self.member.name.clone(), self.epoch);
        let (kind, sink, shapes) = (Arc::clone(kind), sink.clone(), Arc::clone(shapes));
        self.member.watch_until("managed", token, move || {
            let api: Api<PartialObjectMeta<DynamicObject>> = Api::all_with(client.clone(), &kind.resource);
            let config = watcher::Config::default().labels(&format!("{MANAGED_LABEL}={MANAGED_TRUE}"));
            let (of, shapes) = (Arc::clone(&kind), Arc::clone(&shapes));
            let convert = move |object: PartialObjectMeta<DynamicObject>| {
                let name = object.metadata.name.as_deref()?;
                let key = of.key_in_member(object.metadata.namespace.as_deref(), name);
                Some((key, Some(Fact::of(&object.metadata, &shapes))))
            };
            let (to, name) = (cluster.clone(), Arc::clone(&kind.name));
            let wrap =
                move |change| Message::Member { cluster: to.clone(), epoch, kind: Arc::clone(&name), change };
            let (to, name) = (cluster.clone(), Arc::clone(&kind.name));
            let fault = move |message| {
                Some(Message::MemberFault { cluster: to.clone(), epoch, kind: Arc::clone(&name), message })
            };
            watch_reporting(api, config, convert, sink.clone(), wrap, fault)
        });
    }

    /// Forgets all about a kind.
    pub(super) fn forget(&mut self, kind: &Arc<str>) {
        if let Some(token) = self.watches.remove(kind) {
            token.cancel();
        }
        self.synced.remove(kind);
        self.faults.remove(kind);
        self.index.retain(|key, _| key.kind != *kind);
        self.settled.retain(|key, _| key.kind != *kind);
        let refused: Vec<Key> = self.refused.keys().filter(|k| k.kind == *kind).cloned().collect();
        for key in refused {
            self.refused.remove(&key);
        }
    }

    /// Puts a fact unless a newer one is there; whether anything changed.
    fn put(&mut self, key: &Key, fact: Fact) -> bool {
        if let Some(old) = self.index.get(key)
            && old.uid == fact.uid
            && !is_newer(&fact.resource_version, &old.resource_version)
        {
            return false;
        }
        self.index.insert(key.clone(), fact);
        true
    }
}

/// Whether a resource version is newer than another of the same object. Versions are opaque; where they are numbers,
/// as everywhere today, they are compared, else any difference counts as newer.
fn is_newer(new: &str, old: &str) -> bool {
    match (new.parse::<u64>(), old.parse::<u64>()) {
        (Ok(new), Ok(old)) => new > old,
        _ => new != old,
    }
}

impl Engine {
    /// Takes in the fleet: starts and drops members.
    pub(super) fn take_in_fleet(&mut self, members: &Members) {
        self.is_fleet_known = true;
        self.members.retain(|name, _| members.contains_key(name));
        for (name, member) in members {
            let is_same = self.members.get(name).is_some_and(|m| m.member.identity() == member.identity());
            if is_same {
                if let Some(state) = self.members.get_mut(name) {
                    state.member = Arc::clone(member);
                }
                continue;
            }
            self.epochs += 1;
            let mut state = MemberState::new(Arc::clone(member), self.epochs);
            // Another connection to the same object of the hub: what is known stays until it is read anew.
            if let Some(old) = self.members.remove(name).filter(|o| o.member.facts.uid == member.facts.uid) {
                state.index = old.index;
                state.synced = old.synced;
                state.settled = old.settled;
            }
            for running in self.kinds.iter().flat_map(BTreeMap::values).filter(|r| r.kind.is_enabled) {
                state.watch(&running.kind, &self.sink, &self.shapes);
            }
            self.listen(&state);
            self.members.insert(name.clone(), state);
        }
        // Labels may have changed, and with them every placement.
        self.gates.clear();
        self.everything_is_dirty();
    }

    /// Forwards changes of a member's health.
    fn listen(&self, state: &MemberState) {
        let (mut health, sink) = (state.member.health(), self.sink.clone());
        let (cluster, epoch, end) = (state.member.name.clone(), state.epoch, state.token());
        self.tracker.spawn(async move {
            end.run_until_cancelled(async move {
                while health.changed().await.is_ok() {
                    let cluster = cluster.clone();
                    if sink.send(Message::Health { cluster, epoch }).await.is_err() {
                        return;
                    }
                }
            })
            .await
        });
    }

    fn member_of(&mut self, cluster: &ClusterName, epoch: u64) -> Option<&mut MemberState> {
        self.members.get_mut(cluster).filter(|m| m.epoch == epoch)
    }

    pub(super) fn take_in_health(&mut self, cluster: &ClusterName, epoch: u64) {
        let Some(member) = self.member_of(cluster, epoch) else { return };
        let was_ready = std::mem::replace(&mut member.is_ready, member.member.health().borrow().is_ready());
        let is_back = member.is_ready && !was_ready;
        if is_back {
            member.queue.hurry(|_| true);
            member.refused.clear();
        }
        self.everything_is_dirty();
        if is_back {
            self.tend_ledgers();
        }
    }

    pub(super) fn take_in_facts(
        &mut self,
        cluster: &ClusterName,
        epoch: u64,
        kind: &Arc<str>,
        change: Change<Key, Fact>,
    ) {
        let Some(member) = self.member_of(cluster, epoch) else { return };
        let mut dirty = Vec::new();
        match change {
            Change::Apply(key, fact) => {
                if member.put(&key, fact) {
                    dirty.push(key);
                }
            }
            Change::Delete(key) => {
                // Also a label that somebody removed: the object may be there still, which first contact settles.
                if member.index.remove(&key).is_some() {
                    member.refused.remove(&key);
                    dirty.push(key);
                }
            }
            Change::Reset(all) => {
                dirty.extend(member.index.keys().filter(|k| k.kind == *kind).cloned());
                member.index.retain(|key, _| key.kind != *kind);
                member.refused.retain(|key, _| key.kind != *kind);
                member.synced.insert(Arc::clone(kind));
                member.faults.remove(kind);
                for (key, fact) in all {
                    member.index.insert(key, fact);
                }
                dirty.extend(self.wrappers.keys().filter(|k| k.kind == *kind).cloned());
            }
        }
        self.dirty.extend(dirty);
    }

    pub(super) fn take_in_fault(
        &mut self,
        cluster: &ClusterName,
        epoch: u64,
        kind: Arc<str>,
        message: String,
    ) {
        let Some(member) = self.member_of(cluster, epoch) else { return };
        // A watch that was interrupted starts again by itself; only one that never read its list is worth a word.
        if member.synced.contains(&kind) {
            return;
        }
        member.faults.insert(Arc::clone(&kind), message);
        let keys = self.wrappers.keys().filter(|k| k.kind == kind).cloned();
        self.dirty.extend(keys);
    }

    pub(super) fn take_in_applied(
        &mut self,
        placed: Placed,
        epoch: u64,
        job: Job,
        result: Result<Done, Fault>,
    ) {
        let Placed { cluster, key } = placed;
        let is_namespace = self.kind(&key.kind).is_some_and(|r| r.kind.target.is_namespace());
        let Some(member) = self.member_of(&cluster, epoch) else { return };
        let cell = match result {
            Ok(Done::Written(fact)) => {
                member.queue.succeeded(&key);
                member.refused.remove(&key);
                if let Job::Apply { desired, .. } = &job
                    && !fact.is_as(desired)
                {
                    member.settled.insert(key.clone(), (desired.print, Arc::clone(&fact.fields)));
                }
                member.put(&key, fact);
                if is_namespace {
                    // What waited for the namespace need not wait longer.
                    let namespace = Arc::clone(&key.name);
                    member.queue.hurry(|k| k.namespace == namespace);
                }
                Some(Cell::Fine)
            }
            Ok(Done::Deleting) => {
                member.queue.succeeded(&key);
                if let Some(fact) = member.index.get_mut(&key) {
                    fact.is_deleting = true;
                }
                None
            }
            Ok(Done::Gone) => {
                member.queue.succeeded(&key);
                member.index.remove(&key);
                None
            }
            Err(fault) => {
                tracing::debug!(%cluster, object = %key, status = fault.status, error = %fault.message, "Write failed");
                if fault.retry {
                    member.queue.failed(&key, Instant::now(), rand::rng().random_range(0.8..1.2));
                } else {
                    member.queue.succeeded(&key);
                    member.refused.insert(key.clone(), (job, fault.clone()));
                }
                Some(Cell::bad(fault.status, fault.message))
            }
        };
        let is_busy = member.queue.is_busy(&key) && cell == Some(Cell::Fine);
        let Some(entry) = self.wrappers.get_mut(&key) else { return };
        match cell {
            // A newer job waits: what this one did is no longer what is wanted.
            Some(_) if is_busy => {}
            Some(cell) if entry.cells.contains_key(&cluster) => {
                entry.cells.insert(cluster, cell);
            }
            _ => {
                self.dirty.insert(key.clone());
            }
        }
        if self.wrappers.get(&key).is_some_and(|e| e.wrapper.is_deleting) {
            self.dirty.insert(key.clone());
        }
        self.mark_status(&key);
    }
}

#[cfg(test)]
mod tests {
    use super::is_newer;

    #[test]
    fn versions_are_compared_as_numbers_where_they_are() {
        assert!(is_newer("10", "9"));
        assert!(!is_newer("9", "10"));
        assert!(!is_newer("9", "9"));
        assert!(is_newer("b", "a") && is_newer("a", "b") && !is_newer("a", "a"));
    }
}
