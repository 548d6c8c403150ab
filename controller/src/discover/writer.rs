//! Writes statuses, off the engine's task and apart for each API server: a slow member holds nobody up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use meridian_api::dns_zone::DnsZone;
use meridian_api::names::STATUS_MANAGER;
use meridian_api::site::Site;
use meridian_api::traffic_policy::TrafficPolicy;
use meridian_core::id::{ClusterName, ObjectKey, SiteName};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::call::{self, CallError, within};
use crate::fleet::{Fleet, jittered};

/// Writes in flight to one API server.
const IN_FLIGHT: usize = 4;
/// How long a write that succeeded may take to come back by way of the watch before it is repeated.
const ECHO: Duration = Duration::from_secs(10);
/// First and longest pause after a failed write; doubling in between.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A status of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    TrafficPolicy(ObjectKey),
    Site(SiteName),
    DnsZone(Arc<str>),
    MemberIngress { cluster: ClusterName, key: ObjectKey },
}

/// Statuses that have to be written, because they differ from what their objects show.
pub(super) type Wanted = BTreeMap<Place, Value>;

impl Place {
    /// The API server: a member's, else the hub's.
    const fn cluster(&self) -> Option<&ClusterName> {
        match self {
            Self::MemberIngress { cluster, .. } => Some(cluster),
            Self::TrafficPolicy(_) | Self::Site(_) | Self::DnsZone(_) => None,
        }
    }
}

/// What was tried for a place.
struct Tried {
    status: Value,
    /// Not to be tried again before; the same status, that is.
    until: Instant,
    /// Pause after the next failure.
    pause: Duration,
}

struct Done {
    place: Place,
    status: Value,
    result: Result<(), CallError>,
}

/// Writes what is wanted until the engine is gone.
pub(super) async fn run(hub: Client, fleet: Fleet, mut wanted: watch::Receiver<Arc<Wanted>>) {
    let mut tried: BTreeMap<Place, Tried> = BTreeMap::new();
    let mut busy: BTreeMap<Option<ClusterName>, usize> = BTreeMap::new();
    let mut flying: BTreeMap<Place, ()> = BTreeMap::new();
    let mut writes: FuturesUnordered<BoxFuture<'static, Done>> = FuturesUnordered::new();
    loop {
        let now = Instant::now();
        let current = wanted.borrow_and_update().clone();
        tried.retain(|place, _| current.contains_key(place) || flying.contains_key(place));
        let mut wake: Option<Instant> = None;
        for (place, status) in current.iter() {
            let scope = place.cluster().cloned();
            if flying.contains_key(place) || busy.get(&scope).copied().unwrap_or(0) >= IN_FLIGHT {
                continue;
            }
            if let Some(last) = tried.get(place).filter(|last| last.status == *status && last.until > now) {
                wake = Some(wake.map_or(last.until, |wake| wake.min(last.until)));
                continue;
            }
            let Some(client) = client(&hub, &fleet, place) else {
                // Its return makes no event here; looked at again after a while.
                let soon = now + RETRY.0;
                wake = Some(wake.map_or(soon, |wake| wake.min(soon)));
                continue;
            };
            *busy.entry(scope).or_default() += 1;
            flying.insert(place.clone(), ());
            let (place, status) = (place.clone(), status.clone());
            writes.push(
                async move {
                    let result = write(client, &place, &status).await;
                    Done { place, status, result }
                }
                .boxed(),
            );
        }
        let pause = async {
            match wake {
                Some(wake) => tokio::time::sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            Some(done) = writes.next(), if !writes.is_empty() => {
                flying.remove(&done.place);
                if let Some(count) = busy.get_mut(&done.place.cluster().cloned()) {
                    *count -= 1;
                }
                note(&mut tried, done);
            }
            () = pause => {}
        }
    }
}

fn note(tried: &mut BTreeMap<Place, Tried>, done: Done) {
    let Done { place, status, result } = done;
    let pause = tried.get(&place).map_or(RETRY.0, |last| last.pause);
    let (wait, next) = match result {
        Ok(()) => (ECHO, RETRY.0),
        // Gone: the watch will say so, and then it is wanted no more.
        Err(error) if error.is_not_found() => (ECHO, RETRY.0),
        Err(error) => {
            tracing::warn!(object = ?place, error = %error.message(), "Status cannot be written");
            (jittered(pause), (pause * 2).min(RETRY.1))
        }
    };
    tried.insert(place, Tried { status, until: Instant::now() + wait, pause: next });
}

/// The client for a place; none while its member is not ready.
fn client(hub: &Client, fleet: &Fleet, place: &Place) -> Option<Client> {
    let Some(cluster) = place.cluster() else { return Some(hub.clone()) };
    let members = fleet.now();
    let member = members.get(cluster)?;
    member.health().borrow().is_ready().then(|| member.client()).flatten()
}

async fn write(client: Client, place: &Place, status: &Value) -> Result<(), CallError> {
    match place {
        Place::TrafficPolicy(key) => {
            let api: Api<TrafficPolicy> = Api::namespaced(client, &key.namespace);
            apply(&api, &key.name, status).await
        }
        Place::Site(name) => apply(&Api::<Site>::all(client), name.as_str(), status).await,
        Place::DnsZone(name) => apply(&Api::<DnsZone>::all(client), name, status).await,
        Place::MemberIngress { key, .. } => {
            // A merge, not an apply: the list is the owner's whole word, and nobody else's part in the
            // status is to be taken over.
            let api: Api<Ingress> = Api::namespaced(client, &key.namespace);
            let patch = Patch::Merge(json!({ "status": status }));
            let params =
                PatchParams { field_manager: Some(STATUS_MANAGER.to_owned()), ..PatchParams::default() };
            within(call::WRITE, api.patch_status(&key.name, &params, &patch)).await.map(drop)
        }
    }
}

/// Applies a status as the one owner of its fields.
async fn apply<K>(api: &Api<K>, name: &str, status: &Value) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let body = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    within(call::WRITE, api.patch_status(name, &params, &Patch::Apply(&body))).await.map(drop)
}
