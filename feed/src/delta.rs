//! What differs between two snapshots, and how a difference becomes a snapshot again. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    str::FromStr,
    sync::Arc,
};

use bytes::Bytes;
use meridian_core::{
    id::ClusterName,
    snapshot::{Certificate, Cluster, Generation, GlobalIngress, GlobalService, Site, Snapshot, Zone},
};
use serde::{Serialize, de::DeserializeOwned};

/// A resource that came or changed.
#[derive(Clone, Debug)]
pub(crate) enum Resource {
    Cluster(Arc<Cluster>),
    Site(Arc<Site>),
    Service(Arc<GlobalService>),
    Ingress(Arc<GlobalIngress>),
    Zone(Arc<Zone>),
    Certificate(Arc<Certificate>),
}

/// One difference.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Upsert { name: String, resource: Resource },
    Remove { kind: &'static str, name: String },
}

const CLUSTER: &str = "cluster";
const SITE: &str = "site";
const SERVICE: &str = "service";
const INGRESS: &str = "ingress";
const ZONE: &str = "zone";
const CERTIFICATE: &str = "certificate";

impl Resource {
    /// Its word on the wire.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Cluster(_) => CLUSTER,
            Self::Site(_) => SITE,
            Self::Service(_) => SERVICE,
            Self::Ingress(_) => INGRESS,
            Self::Zone(_) => ZONE,
            Self::Certificate(_) => CERTIFICATE,
        }
    }

    /// Its body on the wire.
    pub(crate) fn encode(&self) -> Result<Bytes, serde_json::Error> {
        fn json(value: &impl Serialize) -> Result<Bytes, serde_json::Error> {
            serde_json::to_vec(value).map(Bytes::from)
        }
        match self {
            Self::Cluster(body) => json(body),
            Self::Site(body) => json(body),
            Self::Service(body) => json(body),
            Self::Ingress(body) => json(body),
            Self::Zone(body) => json(body),
            Self::Certificate(body) => json(body),
        }
    }
}

/// Everything that must happen to `old` to make it `new`, generations aside. Removals and changes of one
/// kind stand together; pointers are compared before values, so what is shared costs nothing.
pub(crate) fn changes(old: &Snapshot, new: &Snapshot) -> Vec<Change> {
    let mut out = Vec::new();
    compare(&old.clusters, &new.clusters, CLUSTER, Resource::Cluster, &mut out);
    compare(&old.sites, &new.sites, SITE, Resource::Site, &mut out);
    compare(&old.services, &new.services, SERVICE, Resource::Service, &mut out);
    compare(&old.ingresses, &new.ingresses, INGRESS, Resource::Ingress, &mut out);
    compare(&old.zones, &new.zones, ZONE, Resource::Zone, &mut out);
    compare(&old.certificates, &new.certificates, CERTIFICATE, Resource::Certificate, &mut out);
    out
}

fn compare<K: Ord + Display, V: PartialEq>(
    old: &BTreeMap<K, Arc<V>>,
    new: &BTreeMap<K, Arc<V>>,
    kind: &'static str,
    resource: impl Fn(Arc<V>) -> Resource,
    out: &mut Vec<Change>,
) {
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        out.push(Change::Remove { kind, name: name.to_string() });
    }
    for (name, value) in new {
        let same = old.get(name).is_some_and(|held| Arc::ptr_eq(held, value) || held == value);
        if !same {
            out.push(Change::Upsert { name: name.to_string(), resource: resource(value.clone()) });
        }
    }
}

/// A snapshot in the making, on the follower's side.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    snapshot: Snapshot,
}

/// Why one frame of a batch was skipped. The batch goes on: what cannot be read affects only itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Skipped {
    #[error("unknown kind of resource")]
    UnknownKind,
    #[error("name is malformed")]
    Name,
    #[error("body is malformed")]
    Body(#[source] serde_json::Error),
}

impl Draft {
    /// Starts from what is held; a full batch starts from nothing.
    pub(crate) fn on(base: &Snapshot) -> Self {
        Self { snapshot: base.clone() }
    }

    /// Adds or replaces one resource. When it is skipped, what was held of it stays.
    pub(crate) fn upsert(&mut self, kind: &str, name: &str, body: &[u8]) -> Result<(), Skipped> {
        let draft = &mut self.snapshot;
        match kind {
            CLUSTER => put(&mut draft.clusters, infallible(name), body),
            SITE => put(&mut draft.sites, infallible(name), body),
            SERVICE => put(&mut draft.services, parsed(name)?, body),
            INGRESS => put(&mut draft.ingresses, parsed(name)?, body),
            ZONE => put(&mut draft.zones, parsed(name)?, body),
            CERTIFICATE => put(&mut draft.certificates, parsed(name)?, body),
            _ => Err(Skipped::UnknownKind),
        }
    }

    /// Removes one resource; what is not there is removed already.
    pub(crate) fn remove(&mut self, kind: &str, name: &str) -> Result<(), Skipped> {
        let draft = &mut self.snapshot;
        match kind {
            CLUSTER => drop(draft.clusters.remove(name)),
            SITE => drop(draft.sites.remove(name)),
            SERVICE => drop(draft.services.remove(&parsed(name)?)),
            INGRESS => drop(draft.ingresses.remove(&parsed(name)?)),
            ZONE => drop(draft.zones.remove(&parsed(name)?)),
            CERTIFICATE => drop(draft.certificates.remove(&parsed(name)?)),
            _ => return Err(Skipped::UnknownKind),
        }
        Ok(())
    }

    /// The finished snapshot.
    pub(crate) fn commit(self, generation: Generation, unread: BTreeSet<ClusterName>) -> Snapshot {
        Snapshot { generation, unread, ..self.snapshot }
    }
}

fn put<K: Ord, V: DeserializeOwned>(
    map: &mut BTreeMap<K, Arc<V>>,
    key: K,
    body: &[u8],
) -> Result<(), Skipped> {
    let value = serde_json::from_slice(body).map_err(Skipped::Body)?;
    map.insert(key, Arc::new(value));
    Ok(())
}

fn parsed<K: FromStr>(name: &str) -> Result<K, Skipped> {
    name.parse().map_err(|_| Skipped::Name)
}

fn infallible<'a, K: From<&'a str>>(name: &'a str) -> K {
    K::from(name)
}

#[cfg(test)]
mod tests {
    use meridian_core::{id::ObjectKey, snapshot::Load};

    use super::*;

    fn service(name: &str, demand: f64) -> (ObjectKey, Arc<GlobalService>) {
        let key = ObjectKey::new("shop", name);
        let load = Load { demand: [("site".into(), demand)].into(), ..Load::default() };
        let body = GlobalService {
            key: key.clone(),
            ports: vec![],
            shards: vec![],
            policy: Default::default(),
            load,
        };
        (key, Arc::new(body))
    }

    fn snapshot(services: &[(ObjectKey, Arc<GlobalService>)]) -> Snapshot {
        Snapshot { services: services.iter().cloned().collect(), ..Snapshot::default() }
    }

    fn apply(base: &Snapshot, changes: Vec<Change>) -> Snapshot {
        let mut draft = Draft::on(base);
        for change in changes {
            match change {
                Change::Upsert { name, resource } => {
                    draft.upsert(resource.kind(), &name, &resource.encode().unwrap()).unwrap();
                }
                Change::Remove { kind, name } => draft.remove(kind, &name).unwrap(),
            }
        }
        draft.commit(base.generation.clone(), BTreeSet::new())
    }

    #[test]
    fn changes_turn_the_old_into_the_new() {
        let old = snapshot(&[service("a", 1.0), service("b", 1.0)]);
        let new = snapshot(&[service("b", 2.0), service("c", 1.0)]);
        assert_eq!(apply(&old, changes(&old, &new)), new);
    }

    #[test]
    fn equal_values_behind_different_pointers_are_no_change() {
        let (old, new) = (snapshot(&[service("a", 1.0)]), snapshot(&[service("a", 1.0)]));
        assert!(changes(&old, &new).is_empty());
    }

    #[test]
    fn unknown_kind_and_bad_body_leave_the_rest_alone() {
        let base = snapshot(&[service("a", 1.0)]);
        let mut draft = Draft::on(&base);
        assert!(matches!(draft.upsert("tunnel", "x", b"{}"), Err(Skipped::UnknownKind)));
        assert!(matches!(draft.upsert(SERVICE, "shop/a", b"not json"), Err(Skipped::Body(_))));
        assert!(matches!(draft.upsert(SERVICE, "no-slash", b"{}"), Err(Skipped::Name)));
        assert_eq!(draft.commit(Generation::default(), BTreeSet::new()), base);
    }

    #[test]
    fn unknown_field_of_a_newer_release_is_skipped() {
        let mut draft = Draft::default();
        draft.upsert(SERVICE, "shop/a", br#"{"key":"shop/a","colour":"blue"}"#).unwrap();
        assert_eq!(draft.commit(Generation::default(), BTreeSet::new()).services.len(), 1);
    }
}
