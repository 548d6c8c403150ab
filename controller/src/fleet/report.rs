//! Writing members' statuses to the hub: on transitions only.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, ResourceExt as _};
use meridian_api::kubefed::{KubeFedCluster, KubeFedClusterStatus};
use meridian_api::member_cluster::{MemberCluster, MemberClusterStatus};
use meridian_api::names::STATUS_MANAGER;
use meridian_core::geo::{GeoPoint, location_of};
use meridian_core::id::{ClusterName, RegionName};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::connect::Malformed;
use super::health::Health;
use super::member::{Facts, Observed, Source};
use super::status::{Known, of_kubefed, of_member, of_shadowed};
use super::watch::jittered;
use crate::call::{self, CallError, within};

/// Time before a status write that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Status that a member's object had when its tasks started.
#[derive(Clone, Debug)]
pub(super) enum Before {
    MemberCluster(MemberClusterStatus),
    KubeFedCluster(KubeFedClusterStatus),
}

impl Before {
    /// Where the member was when it was last seen: nodes do not move while nobody can read them, and a
    /// controller that starts while the member is away must still know how far it is.
    pub(super) fn place(&self) -> Observed {
        let (region, zones) = match self {
            Self::MemberCluster(status) => (&status.region, &status.zones),
            Self::KubeFedCluster(status) => (&status.region, &status.zones),
        };
        Observed { region: region.clone(), zones: zones.clone(), ..Observed::default() }
    }
}

/// What the reporter of one member reads.
pub(super) struct Inputs {
    pub(super) name: ClusterName,
    pub(super) malformed: Option<Malformed>,
    pub(super) facts: watch::Receiver<Arc<Facts>>,
    pub(super) health: watch::Receiver<Health>,
    pub(super) observed: watch::Receiver<Arc<Observed>>,
}

/// Writes the member's status whenever it differs from what was written last. Never ends by itself.
pub(super) async fn run(hub: Client, namespace: String, mut inputs: Inputs, before: Before) {
    let mut before = before;
    loop {
        let (facts, observed) =
            (inputs.facts.borrow_and_update().clone(), inputs.observed.borrow_and_update().clone());
        let health = inputs.health.borrow_and_update().clone();
        let known = Known {
            facts: &facts,
            observed: &observed,
            health: &health,
            malformed: inputs.malformed.as_ref(),
            is_located: is_located(&facts, &observed),
        };
        let now = Time(Timestamp::now());
        let written = match (&before, facts.source) {
            (Before::MemberCluster(old), Source::MemberCluster) => {
                let next = of_member(&known, old, &now);
                if next == *old {
                    Ok(None)
                } else {
                    let api: Api<MemberCluster> = Api::all(hub.clone());
                    apply(&api, inputs.name.as_str(), &next).await.map(|()| Some(Before::MemberCluster(next)))
                }
            }
            (Before::KubeFedCluster(old), Source::KubeFedCluster) => {
                let next = of_kubefed(&known, old, &now);
                if next == *old {
                    Ok(None)
                } else {
                    let api: Api<KubeFedCluster> = Api::namespaced(hub.clone(), &namespace);
                    apply(&api, inputs.name.as_str(), &next)
                        .await
                        .map(|()| Some(Before::KubeFedCluster(next)))
                }
            }
            // The registry starts a new reporter when the source changes.
            _ => return,
        };
        let failed = match written {
            Ok(Some(next)) => {
                before = next;
                false
            }
            Ok(None) => false,
            // The object is gone: the registry will know soon.
            Err(error) if error.is_not_found() => true,
            Err(error) => {
                tracing::warn!(cluster = %inputs.name, error = %error.message(), "Cannot write member status");
                true
            }
        };
        tokio::select! {
            _ = inputs.facts.changed() => {}
            _ = inputs.health.changed() => {}
            _ = inputs.observed.changed() => {}
            () = tokio::time::sleep(jittered(RETRY)), if failed => {}
        }
    }
}

/// Says on a KubeFedCluster that a MemberCluster has its name; tries until it is written or gone.
pub(super) async fn shadowed(hub: Client, namespace: String, object: Arc<KubeFedCluster>) {
    let before = object.status.clone().unwrap_or_default();
    let next = of_shadowed(&before, &Time(Timestamp::now()));
    if next == before {
        return;
    }
    let api: Api<KubeFedCluster> = Api::namespaced(hub, &namespace);
    let name = object.name_any();
    while let Err(error) = apply(&api, &name, &next).await {
        if !error.retry() || error.is_not_found() {
            tracing::warn!(cluster = name, error = %error.message(), "Cannot write member status");
            return;
        }
        tokio::time::sleep(jittered(RETRY)).await;
    }
}

/// Applies a status as the one owner of its fields.
async fn apply<K, S>(api: &Api<K>, name: &str, status: &S) -> Result<(), CallError>
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
    S: Serialize,
{
    let body: Value = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": {"name": name},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    within(call::WRITE, api.patch_status(name, &params, &Patch::Apply(&body))).await.map(|_| ())
}

fn is_located(facts: &Facts, observed: &Observed) -> bool {
    let own = facts.location.and_then(|l| GeoPoint::new(l.latitude, l.longitude).ok());
    let region = facts.region.as_deref().or(observed.region.as_deref()).map(RegionName::from);
    location_of(own, region.as_ref()).is_some()
}
