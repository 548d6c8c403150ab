//! Watches for the fakes: a mirror of all objects of a kind, and what changed in it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, ResourceExt};
use serde::de::DeserializeOwned;

/// Namespace and name.
pub(crate) type Key = (String, String);

/// All events of a kind. After an error, such as an API server that is away, it tries again every 200 ms: tests
/// stop and start API servers, and must not wait for a long backoff.
pub(crate) fn events<K>(api: Api<K>) -> impl Stream<Item = Event<K>> + Send
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, Config::default()).filter_map(async |event| match event {
        Ok(event) => Some(event),
        Err(_) => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            None
        }
    })
}

pub(crate) fn key<K: ResourceExt>(object: &K) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// The objects of a kind as last seen.
#[derive(Debug)]
pub(crate) struct Mirror<K> {
    objects: BTreeMap<Key, K>,
    listed: Option<BTreeMap<Key, K>>,
}

/// What an event did to a mirror.
#[derive(Debug)]
pub(crate) enum Change<K> {
    /// The object is new or different.
    Set(Key),
    /// The object is gone; this is how it was.
    Gone(Key, K),
}

impl<K> Default for Mirror<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listed: None }
    }
}

impl<K: ResourceExt> Mirror<K> {
    pub(crate) fn get(&self, key: &Key) -> Option<&K> {
        self.objects.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &K)> {
        self.objects.iter()
    }

    /// Takes an event in. After a re-list, what is no longer there is reported as gone, and an object that was
    /// replaced by one of the same name as gone and set.
    pub(crate) fn apply(&mut self, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Init => {
                self.listed = Some(BTreeMap::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                self.listed.get_or_insert_default().insert(key(&object), object);
                Vec::new()
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let absent: Vec<Key> =
                    self.objects.keys().filter(|k| !listed.contains_key(*k)).cloned().collect();
                let mut changes: Vec<_> = absent
                    .into_iter()
                    .filter_map(|k| self.objects.remove(&k).map(|was| Change::Gone(k, was)))
                    .collect();
                for object in listed.into_values() {
                    changes.extend(self.set(object));
                }
                changes
            }
            Event::Apply(object) => self.set(object),
            Event::Delete(object) => {
                let key = key(&object);
                self.objects.remove(&key).map(|was| Change::Gone(key, was)).into_iter().collect()
            }
        }
    }

    fn set(&mut self, object: K) -> Vec<Change<K>> {
        let key = key(&object);
        let uid = object.uid();
        let was = self.objects.insert(key.clone(), object);
        let replaced = was.filter(|was| was.uid() != uid);
        replaced.map(|was| Change::Gone(key.clone(), was)).into_iter().chain([Change::Set(key)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, uid: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.uid = Some(uid.into());
        object
    }

    #[test]
    fn relist_reports_what_vanished_and_what_was_replaced() {
        let mut mirror = Mirror::default();
        mirror.apply(Event::Apply(object("vanishes", "1")));
        mirror.apply(Event::Apply(object("replaced", "2")));
        mirror.apply(Event::Init);
        mirror.apply(Event::InitApply(object("replaced", "3")));
        let changes = mirror.apply(Event::InitDone);
        let told: Vec<_> = changes
            .iter()
            .map(|change| match change {
                Change::Set(key) => format!("set {}", key.1),
                Change::Gone(key, was) => format!("gone {} {}", key.1, was.uid().unwrap_or_default()),
            })
            .collect();
        assert_eq!(told, ["gone vanishes 1", "gone replaced 2", "set replaced"]);
    }
}
