//! When a wrapper's status is written: once it is settled, or after a while if it does not settle.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use meridian_api::kubefed::FederatedStatus;
use meridian_api::names::STATUS_MANAGER;
use serde_json::json;

use super::{Engine, Message};
use crate::call::{self, CallError, within};
use crate::propagate::rollup::{Cell, rollup};
use crate::propagate::{Key, Kind};

/// Status writes in flight. The hub is one server; more only queue there.
const IN_FLIGHT: usize = 8;
/// How long a status waits for writes that are under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which statuses wait for what.
#[derive(Default)]
pub(super) struct Statuses {
    ready: BTreeSet<Key>,
    waiting: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, Instant>,
    writing: HashSet<Key>,
    retries: BTreeSet<Key>,
}

impl Statuses {
    fn settle(&mut self, key: &Key) {
        if let Some(due) = self.due.remove(key) {
            self.waiting.remove(&(due, key.clone()));
        }
        self.ready.insert(key.clone());
    }

    fn wait(&mut self, key: &Key, until: Instant) {
        if !self.due.contains_key(key) && !self.ready.contains(key) {
            self.due.insert(key.clone(), until);
            self.waiting.insert((until, key.clone()));
        }
    }

    pub(super) fn forget(&mut self, key: &Key) {
        if let Some(due) = self.due.remove(key) {
            self.waiting.remove(&(due, key.clone()));
        }
        self.ready.remove(key);
        self.retries.remove(key);
    }

    pub(super) fn forget_kind(&mut self, kind: &Arc<str>) {
        self.ready.retain(|k| k.kind != *kind);
        self.waiting.retain(|(_, k)| k.kind != *kind);
        self.due.retain(|k, _| k.kind != *kind);
        self.retries.retain(|k| k.kind != *kind);
    }

    pub(super) fn first_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Looks at an object again with the next tick.
    pub(super) fn retry_step(&mut self, key: &Key) {
        self.retries.insert(key.clone());
    }

    pub(super) fn take_retries(&mut self) -> BTreeSet<Key> {
        std::mem::take(&mut self.retries)
    }
}

impl Engine {
    /// A wrapper's status may have changed.
    pub(super) fn mark_status(&mut self, key: &Key) {
        let Some(entry) = self.wrappers.get(key) else { return };
        if entry.cells.values().any(|cell| *cell == Cell::Pending) {
            self.statuses.wait(key, Instant::now() + PATIENCE);
        } else {
            self.statuses.settle(key);
        }
    }

    /// Writes statuses that are due and differ.
    pub(super) fn flush_statuses(&mut self) {
        let now = Instant::now();
        while let Some((due, _)) = self.statuses.waiting.first()
            && *due <= now
        {
            if let Some((_, key)) = self.statuses.waiting.pop_first() {
                self.statuses.due.remove(&key);
                self.statuses.ready.insert(key);
            }
        }
        let mut skipped = Vec::new();
        while self.statuses.writing.len() < IN_FLIGHT
            && let Some(key) = self.statuses.ready.pop_first()
        {
            if self.statuses.writing.contains(&key) {
                skipped.push(key);
                continue;
            }
            self.write_status(key);
        }
        self.statuses.ready.extend(skipped);
    }

    fn write_status(&mut self, key: Key) {
        let Some(running) = self.kinds.as_ref().and_then(|k| k.get(&key.kind)) else { return };
        let Some(entry) = self.wrappers.get(&key) else { return };
        let before = &entry.wrapper.status;
        let now = Time(Timestamp::now());
        let status = rollup(entry.wrapper.generation, entry.overall.as_ref(), &entry.cells, before, &now);
        if status == *before {
            return;
        }
        self.statuses.writing.insert(key.clone());
        let (hub, kind, sink, end) =
            (self.hub.clone(), Arc::clone(&running.kind), self.sink.clone(), self.token.clone());
        self.tracker.spawn(async move {
            let Some(result) = end.run_until_cancelled(write(hub, &kind, &key, &status)).await else {
                return;
            };
            let error = result.err().filter(|e| !e.is_not_found()).map(|e| e.message());
            let _ = sink.send(Message::StatusWritten { key, status: Box::new(status), error }).await;
        });
    }

    pub(super) fn take_in_status(&mut self, key: &Key, status: FederatedStatus, error: Option<String>) {
        self.statuses.writing.remove(key);
        let Some(entry) = self.wrappers.get_mut(key) else { return };
        match error {
            None => {
                // Our own write: what comes next is compared with it, not with an older echo.
                entry.wrapper.status = status;
                self.mark_status(key);
            }
            Some(error) => {
                tracing::warn!(object = %key, error, "Cannot write status");
                self.statuses.wait(key, Instant::now() + PATIENCE);
            }
        }
    }
}

async fn write(hub: Client, kind: &Kind, key: &Key, status: &FederatedStatus) -> Result<(), CallError> {
    let api: Api<DynamicObject> = if key.namespace.is_empty() {
        Api::all_with(hub, &kind.federated)
    } else {
        Api::namespaced_with(hub, &key.namespace, &kind.federated)
    };
    let body = json!({
        "apiVersion": kind.federated.api_version,
        "kind": kind.federated.kind,
        "metadata": {"name": &*key.name},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    within(call::WRITE, api.patch_status(&key.name, &params, &Patch::Apply(&body))).await.map(|_| ())
}
